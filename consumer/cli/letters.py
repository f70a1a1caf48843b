"""`wpk dead-letter list`, `show` and `redrive`."""

from __future__ import annotations

import base64
from contextlib import aclosing

import orjson
from pydantic import JsonValue
from rich.text import Text

from consumer.cli import execute
from consumer.cli.context import connection_of, settings_of
from consumer.cli.execute import CliError
from consumer.cli.look import moment_of
from consumer.cli.options import LetterOptions, LettersOptions, Options, RedriveOptions
from consumer.cli.output import Output
from consumer.cli.render.audit import table
from consumer.cli.render.text import DIM, ago, clean, exact, utcnow
from consumer.client.dead_letters import DeadLetter, DeadLetters
from consumer.journal.topics import TopicNames
from schemas.scalars import format_moment

JsonObject = dict[str, JsonValue]
_HEAD = ("PLACE", "WHEN", "FROM", "BYTES", "REASON", "DETAIL")
_SHOWN = 4_000
_DUMPED = 512


async def listed(options: LettersOptions) -> int:
    """List the dead letters, the newest last."""
    output, letters, now = Output(json=options.json), _letters(options), utcnow()
    async with aclosing(letters.all(moment_of(options.since))) as every:
        found = [letter async for letter in every]
    found.sort(key=lambda letter: letter.at)
    if output.json:
        for letter in found:
            output.document(_document(letter))
    elif not found:
        output.lines([Text("no dead letters", style=DIM)])
    else:
        output.lines(table(_HEAD, [_row(letter, ago(letter.at, now)) for letter in found]))
    return execute.OK


async def show(options: LetterOptions) -> int:
    """Show one: why it is here, from where it came, and its bytes so that no terminal is harmed."""
    output, letters = Output(json=options.json), _letters(options)
    letter = await letters.one(options.place)
    if options.output is not None:
        try:
            options.output.write_bytes(letter.value or b"")
        except OSError as error:
            raise CliError(f"{options.output} can't be written: {error.strerror}") from error
        output.note(f"wrote {len(letter.value or b''):,} bytes to {options.output}")
        return execute.OK
    sent = await letters.sent_again(letter)
    if output.json:
        value = base64.b64encode(letter.value or b"").decode()
        output.document({**_document(letter), "value_base64": value, "sent_again": sent})
    else:
        output.lines(_page(letter, sent))
    return execute.OK


async def redrive(options: RedriveOptions) -> int:
    """Send one again to the topic that it came from, with a header that names the dead letter."""
    output, letters, value = Output(json=options.json), _letters(options), None
    if options.file is not None:
        try:
            value = options.file.read_bytes()
        except OSError as error:
            raise CliError(f"{options.file} can't be read: {error.strerror}") from error
    letter = await letters.one(options.place)
    sent = await letters.redrive(letter, value, again=options.again)
    if output.json:
        output.document({"from": letter.place, "topic": sent.topic, "partition": sent.partition, "offset": sent.offset})
    else:
        output.lines([f"sent again: {sent.topic}-{sent.partition}@{sent.offset}   (from {letter.place})"])
        output.lines([f"            wpk status {clean(sent.execution_id, 128)}"])
    return execute.OK


def _letters(options: Options) -> DeadLetters:
    settings = settings_of(options)
    return DeadLetters(connection_of(settings), TopicNames(settings.topic_prefix))


def _row(letter: DeadLetter, when: str) -> tuple[str, ...]:
    size = f"{len(letter.value):,}" if letter.value is not None else "none"
    place = f"{letter.partition}@{letter.offset}"
    return place, when, clean(letter.source, 80), size, clean(letter.reason, 20), clean(letter.detail, 100)


def _document(letter: DeadLetter) -> JsonObject:
    return {
        "place": letter.place,
        "partition": letter.partition,
        "offset": letter.offset,
        "at": format_moment(letter.at),
        "reason": letter.reason,
        "detail": letter.detail,
        "source_topic": letter.source_topic,
        "source_partition": letter.source_partition,
        "source_offset": letter.source_offset,
        "key": letter.key.decode(errors="replace") if letter.key is not None else None,
        "bytes": len(letter.value) if letter.value is not None else None,
        "headers": [[name, value.decode(errors="replace")] for name, value in letter.headers],
        "truncated": letter.truncated,
        "redriven_from": letter.redriven_from,
    }


def _page(letter: DeadLetter, sent: str | None) -> list[Text]:
    told = [
        ("reason", f"{letter.reason}: {letter.detail}"),
        ("came", f"{exact(letter.at)}, from {letter.source}"),
        ("key", _bytes(letter.key) if letter.key is not None else "none"),
        *((f"header {clean(name, 60)}", _bytes(value)) for name, value in letter.headers),
        ("not whole", letter.truncated),
        ("sent again", sent or "not yet"),
    ]
    lines = [Text(letter.place, style="bold")]
    lines += [
        Text(f"  {name:<12} ", style=DIM).append(clean(text, 500), style="not dim") for name, text in told if text
    ]
    lines += [Text(""), *_value(letter.value)]
    if sent is None:
        place = f"{letter.partition}@{letter.offset}"
        lines += [
            Text(""),
            Text("next: ", style=DIM).append(f"wpk dead-letter show {place} -o FILE   (correct it)", style="not dim"),
            Text(f"      wpk dead-letter redrive {place} --file FILE"),
        ]
    return lines


def _bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"{value[:64].hex(' ')} (no text)"


def _value(value: bytes | None) -> list[Text]:
    """JSON with its structure, other text line by line without what a terminal would obey, else a dump."""
    if not value:
        return [Text("  (no value)", style=DIM)]
    try:
        text = orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return _dump(value)
    lines = [Text(f"  {_indented(line)}") for line in text[:_SHOWN].splitlines()]
    return [*lines, *([Text(f"  … {len(text) - _SHOWN:,} characters more", style=DIM)] if len(text) > _SHOWN else [])]


def _indented(line: str) -> str:
    """The line without control characters; its indent is kept."""
    return " " * (len(line) - len(line.lstrip(" "))) + clean(line, 1_000)


def _dump(value: bytes) -> list[Text]:
    lines = []
    for at in range(0, min(len(value), _DUMPED), 16):
        row = value[at : at + 16]
        printable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(Text(f"  {at:06x}  {row.hex(' '):<47}  {printable}"))
    return [*lines, *([Text(f"  … {len(value) - _DUMPED:,} bytes more", style=DIM)] if len(value) > _DUMPED else [])]
