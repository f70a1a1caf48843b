"""The agent's own log: one line per fact on stderr, as JSON for collectors or as text for eyes.

`event` is a stable name (`execution.ended`), to be searched for and tested; everything that varies is a field of its
own. `execution` and `step` are on every line that is logged on their behalf (`structlog.contextvars`). The log of
libraries and Python's warnings come out in the same form.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import Processor

from schemas.events import Status
from schemas.execution import ExecutionState

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]
EventDict = MutableMapping[str, Any]  # structlog's own type

_log = structlog.get_logger("consumer.executions")

#: Longer texts are cut.
MAX_TEXT = 16_000
#: They log every request, some with headers or bodies: never below warnings, whatever the level.
_DISCREET = ("httpx", "httpcore", "kubernetes_asyncio", "aiohttp", "urllib3")
#: They tell of each connection and rebalance: one step less than the agent itself.
_TALKATIVE = ("aiokafka", "asyncio")
#: In an outage each of its clients says the same several times a second: once in that time is enough (seconds).
_REPEATED_SECONDS = 30.0
_REPEATED = "aiokafka"
#: Kinds of messages that are remembered; far more than there are.
_KINDS = 1000
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
#: The fields that have several lines.
_TRACES = ("exception", "stack")
_CONTROL_IN_TRACES = {code: shown for code, shown in _CONTROL.items() if chr(code) not in "\n\t"}


def configure(
    level: Level,
    form: Format,
    *,
    redact: Callable[[str], str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Sets the log up for the process; may be called again. `redact` masks secrets in every text of every line."""
    stream = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    enrich: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[*enrich, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*enrich, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                _clean(redact, form),
                _render_json if form == "json" else _console(stream),
            ],
        )
    )
    root = logging.getLogger()
    for former in root.handlers[:]:
        if isinstance(former.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name in _DISCREET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold + 10, logging.INFO))
    logging.captureWarnings(True)


def log_execution_end(state: ExecutionState) -> None:
    """One line that has all facts of an execution that ended, so that no other need be searched for."""
    steps = [*state.steps.values(), *state.rollback_steps.values()]
    facts: dict[str, object] = {
        "execution": state.execution_id,
        "workflow": state.workflow_id,
        "status": state.status.value if state.status else None,
        "dry_run": state.dry_run or None,
        "validate_only": state.validate_only or None,
        "requested_by": state.requested_by,
        "approved_by": state.approved_by,
        "labels": state.labels or None,
        "waited": _between(state.accepted_at, state.started_at),
        "duration": _between(state.started_at, state.completed_at),
        "steps": dict(Counter(step.status.value for step in steps)) or None,
        "retries": sum(max(0, step.attempt - 1) for step in steps) or None,
        "error_type": state.error.type if state.error else None,
        "error_step": state.error.step if state.error else None,
        "error": state.error.message if state.error else None,
        "cancel": state.cancel.cause if state.cancel else None,
        "rollback": state.rollback.trigger if state.rollback else None,
        "wpk_digest": state.wpk_digest,
        "seq": state.seq,
        "epoch": state.epoch,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    if state.status is Status.COMPLETED:
        _log.info("execution.ended", **known)
    else:
        _log.warning("execution.ended", **known)


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds(), 3)


class _Seldom(logging.Filter):
    """Lets the Kafka client say the same at most once in a while; the next line then tells how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not (record.name + ".").startswith(_REPEATED + "."):
            return True
        kind, now = (record.name, record.levelno, str(record.msg)), time.monotonic()  # without its values
        since, left_out = self._said.get(kind, (float("-inf"), 0))
        if now - since < _REPEATED_SECONDS:
            self._said[kind] = (since, left_out + 1)
            return False
        if len(self._said) >= _KINDS:
            self._said.clear()
        self._said[kind] = (now, 0)
        if left_out:
            record.left_out = left_out
        return True


# --- processors ---


def _clean(redact: Callable[[str], str] | None, form: Format) -> Processor:
    """Masks, cuts, and (on a terminal, where they would act) shows control characters in all texts, nested ones too."""

    def text(value: str, control: dict[int, str] = _CONTROL) -> str:
        masked = value if redact is None else redact(value)
        if len(masked) > MAX_TEXT:
            masked = f"{masked[:MAX_TEXT]}… ({len(masked) - MAX_TEXT} more characters)"
        return masked.translate(control) if form == "console" else masked

    def clean(value: object) -> object:
        match value:
            case str():
                return text(value)
            case None | bool() | int() | float():
                return value
            case dict():
                return {text(str(name)): clean(item) for name, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [clean(item) for item in value]
            case _:
                return text(str(value))

    def process(_logger: object, _method: str, event: EventDict) -> EventDict:
        traces = {name: text(str(event.pop(name)), _CONTROL_IN_TRACES) for name in _TRACES if name in event}
        first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
        return {name: clean(value) for name, value in {**first, **event}.items()} | traces

    return process


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event).decode()
    except TypeError:  # an integer of more than 64 bits, a lone surrogate
        return json.dumps(event, default=str)


def _console(stream: TextIO) -> Processor:
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time", pad_event_to=24)
