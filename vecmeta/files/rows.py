"""The rows of a file, whatever its format: JSON lines, CSV, TSV, Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from vecmeta.errors import InvalidInput, InvalidItem

_LONGEST_CELL = 1 << 26  # the csv module's own limit of 128 kB is shorter than many a document
_ALWAYS_TEXT = ("id", "item", "content", "text", "body", "title", "query", "like", "concept", "user")


class Row(NamedTuple):
    """A row as it was read. ``place`` is "FILE line 7"; ``number`` counts rows from 1."""

    place: str
    number: int
    cells: dict[str, Any]


def short(value: Any) -> str:
    """A value as an error message quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def read_rows(source: str | Path) -> Iterator[Row]:
    """The rows of a file; what kind of file follows from its name."""
    if str(source) == "-":
        yield from _json_rows(sys.stdin.buffer, "standard input")
        return
    path = Path(source)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if gzipped else suffixes)[-1:] or [""]
    if suffix[0] in (".jsonl", ".ndjson"):
        with _opened(path, gzipped) as stream:
            yield from _json_rows(stream, path.name)
    elif suffix[0] in (".csv", ".tsv"):
        with _opened(path, gzipped) as stream:
            yield from _csv_rows(stream, path.name, "\t" if suffix[0] == ".tsv" else ",")
    elif suffix[0] in (".parquet", ".pq") and not gzipped:
        yield from _parquet_rows(path)
    elif not path.exists():
        raise InvalidInput(f"{path}: no such file or folder")
    else:
        known = ".jsonl, .csv, .tsv (each also with .gz), .parquet, or a folder of pictures"
        raise InvalidInput(f"{path}: not a format that is known: {known}")


@contextmanager
def _opened(path: Path, gzipped: bool) -> Iterator[IO[bytes]]:
    """The bytes of a file; failures of the file system, while opening or reading, become InvalidInput."""
    try:
        with path.open("rb") as plain:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if gzipped else plain
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except (OSError, EOFError) as error:  # gzip's errors are both
        raise InvalidInput(f"{path}: cannot be read: {error}") from None


def _lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, its end included."""
    for number, line in enumerate(stream, start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidItem(f"{name} line {number}: not UTF-8 at byte {error.start}") from None


def _json_rows(stream: IO[bytes], name: str) -> Iterator[Row]:
    count = 0
    for number, line in _lines(stream, name):
        if not line.strip():
            continue
        count += 1
        place = f"{name} line {number}"
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidItem(f"{place}: not JSON: {error}") from None
        if not isinstance(cells, dict):
            raise InvalidItem(f"{place}: a JSON object is needed, not {short(cells)}")
        yield Row(place, count, cells)


def _csv_rows(stream: IO[bytes], name: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))  # process-wide: raised, never lowered
    reader = csv.reader((line for _, line in _lines(stream, name)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    count = 0
    while True:
        start = reader.line_num + 1  # a quoted cell may run over many lines: name the first
        place = f"{name} line {start}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidItem(f"{place}: not CSV: {error}") from None
        if not values:
            continue
        if header is None:
            header = values
            if len(set(header)) < len(header):
                raise InvalidItem(f"{place}: two columns have the same name: {', '.join(header)}")
            continue
        if len(values) != len(header):
            raise InvalidItem(f"{place}: {len(values)} cells, but the header names {len(header)} columns")
        count += 1
        yield Row(place, count, {column: _cell(column, value) for column, value in zip(header, values, strict=True) if value})


def _cell(column: str, value: str) -> Any:
    """Numbers, true and false as JSON writes them; everything else, ids and large numbers too, stays a text."""
    if column in _ALWAYS_TEXT:
        return value
    if value in ("true", "false"):
        return value == "true"
    try:
        number = json.loads(value) if value[0] in "-0123456789" else value
    except ValueError:
        return value
    # A long run of digits is a number of an account or the like, and would not survive as one.
    return number if isinstance(number, (int, float)) and math.isfinite(number) and abs(number) < 2**53 else value


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow  # late: half a second that only Parquet needs
    import pyarrow.parquet

    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                columns = {name: _parquet_column(batch.column(name)) for name in batch.schema.names}
                for i in range(batch.num_rows):
                    number += 1
                    cells = {name: values[i] for name, values in columns.items()}
                    missing = {
                        n for n, value in cells.items() if value is None or (isinstance(value, float) and math.isnan(value))
                    }
                    yield Row(f"{path.name} row {number}", number, {n: v for n, v in cells.items() if n not in missing})
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidInput(f"{path}: cannot be read as Parquet: {error}") from None


def _parquet_column(column: Any) -> list[Any]:
    from pyarrow import types

    kind = column.type
    listed = types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind)
    if listed and types.is_floating(kind.value_type):
        # A million vectors as Python floats would take minutes.
        return [row.values.to_numpy(zero_copy_only=False) if row.is_valid else None for row in column]
    return list(column.to_pylist())
