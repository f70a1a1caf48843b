"""`wpk audit export`: the trail as a table in a file, for DuckDB, a spreadsheet or a warehouse."""

from __future__ import annotations

import csv
import importlib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
from pydantic import JsonValue

from consumer.audit.chain import Chain
from consumer.audit.columns import TABLES, Kind, event_row, execution_row
from consumer.audit.entry import Entry
from consumer.cli import audit, execute
from consumer.cli.execute import CliError
from consumer.cli.options import ExportOptions
from consumer.cli.output import Output

JsonObject = dict[str, JsonValue]
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_FORMATS = ("jsonl", "csv", "parquet")
#: Rows of a Parquet row group: what is held in memory before it is written.
_ROW_GROUP = 50_000


class Writer(Protocol):
    """Takes rows with the columns of one table."""

    def write(self, row: JsonObject) -> None:
        """The next row."""
        ...

    def close(self) -> None:
        """No row is to come."""
        ...


async def export(options: ExportOptions) -> int:
    """Write the events, or a row for each execution. 1 where something of it does not verify: it is said on stderr."""
    output, columns, form = Output(), TABLES.get(options.table), _format(options)  # type: ignore[call-overload]
    if columns is None:
        raise CliError(f"--table {options.table}: there are {', '.join(TABLES)}")
    criteria, count = audit.criteria_of(options), 0
    if options.table == "executions":
        known, report = await audit.facts_of(options, output)
        with _writing(options.output, form, columns) as writer:
            for facts in known.values():
                if criteria.admits(facts):
                    count += 1
                    writer.write(execution_row(facts))
    else:
        wanted = await audit.admitted(options, criteria, output)
        with _writing(options.output, form, columns) as writer:

            def take(chain: Chain, entry: Entry) -> None:
                nonlocal count
                if wanted is None or entry.execution_id in wanted:
                    count += 1
                    writer.write(event_row(entry))

            with audit.progress(output) as show:
                auditor = audit.auditor_of(options, emit=take, progress=show)
                report = await auditor.verify(audit.window_of(options))
    output.note(f"{count:,} {options.table}" + ("" if options.output == "-" else f" in {options.output}"))
    if not report.holds:
        output.note(f"{len(report.broken)} executions or records of it do not verify; see: wpk audit verify")
    return execute.OK if report.holds else execute.ENDED_OTHERWISE


def _format(options: ExportOptions) -> str:
    form = options.format or _SUFFIXES.get(Path(options.output).suffix.lower(), "jsonl")
    if form not in _FORMATS:
        raise CliError(f"--format {form}: there are {', '.join(_FORMATS)}")
    if form == "parquet" and options.output == "-":
        raise CliError("--format parquet needs a file; name one with --output")
    return form


@contextmanager
def _writing(target: str, form: str, columns: Mapping[str, Kind]) -> Iterator[Writer]:
    """A writer of that file, which appears under its name only when it is whole. Raises CliError."""
    if target == "-":
        writer = _writer(sys.stdout.buffer, form, columns)
        yield writer
        writer.close()
        return
    path = Path(target)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            writer = _writer(file, form, columns)
            try:
                yield writer
            finally:
                writer.close()  # while the file is open: Parquet's writes its end also when it is only thrown away
        part.replace(path)
    except OSError as error:
        raise CliError(f"{target} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _writer(file: BinaryIO, form: str, columns: Mapping[str, Kind]) -> Writer:
    if form == "csv":
        return _Csv(file, columns)
    return _Parquet(file, columns) if form == "parquet" else _JsonLines(file)


class _JsonLines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, row: JsonObject) -> None:
        self._file.write(orjson.dumps(row) + b"\n")

    def close(self) -> None:
        self._file.flush()


class _Csv:
    """RFC 4180 with a heading; an absent value is an empty field, true and false are words."""

    def __init__(self, file: BinaryIO, columns: Iterable[str]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        self._columns = list(columns)
        self._rows = csv.writer(self._text, lineterminator="\r\n")
        self._rows.writerow(self._columns)

    def write(self, row: JsonObject) -> None:
        self._rows.writerow([_cell(row.get(name)) for name in self._columns])

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


def _cell(value: JsonValue) -> JsonValue:
    if value is True or value is False:
        return "true" if value else "false"
    return value


class _Parquet:
    """By pyarrow, which the extra `parquet` brings."""

    def __init__(self, file: BinaryIO, columns: Mapping[str, Kind]) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise CliError("Parquet needs pyarrow: pip install 'wpk-agent[parquet]', or use --format csv") from error
        kinds = {
            "text": self._arrow.string(),
            "integer": self._arrow.int64(),
            "number": self._arrow.float64(),
            "boolean": self._arrow.bool_(),
        }
        self._schema = self._arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[JsonObject] = []

    def write(self, row: JsonObject) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
