"""Rows become items and judgements; which column is what stands in the docstring of `vecmeta.files`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vecmeta.errors import InvalidInput, InvalidItem, InvalidJudgement, InvalidVector
from vecmeta.files.rows import Row, read_rows, short
from vecmeta.types import Content, Id, Item, Judgement, Vector, dissimilar, similar

Kind = Literal["text", "image", "vector"]

CONTENT_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "text": ("content", "text", "body", "title"),
    "image": ("image", "jpeg", "jpg", "png", "picture", "bytes", "content"),
    "vector": ("vector", "embedding"),
}
_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    ((date, time), lambda value: value.isoformat()),  # a datetime is a date
    (timedelta, timedelta.total_seconds),
    (Decimal, float),
    (np.generic, lambda value: value.item()),
)
_JUDGEMENT_COLUMNS = ("item", "concept", "query", "score", "user", "like")


class OwnVector(NamedTuple):
    """An item that brings its own vector, for `Collection.add_vectors`. ``vector`` is (dim,) float32."""

    id: str
    vector: Vector
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; None means the defaults in the docstring of `vecmeta.files`."""

    id: str = "id"
    content: str | None = None  # of the text, picture or vector
    metadata: tuple[str, ...] | None = None  # None: all that are left
    auto_id: bool = False


def read(source: str | Path, kind: Kind = "text", columns: Columns | None = None) -> Iterator[Item | OwnVector]:
    """Items (for "text" and "image") or `OwnVector` (for "vector"), in the order of the file.

    Raises:
        InvalidInput: no such file, or a format that is not known.
        InvalidItem: a row without id or content, or one that does not parse; InvalidVector: a vector that is no list of numbers.
    """
    columns = columns or Columns()
    if str(source) != "-" and Path(source).is_dir():
        if kind != "image":
            raise InvalidInput(f"{source} is a folder; only pictures are read from folders, and this collection takes {kind}s")
        yield from pictures_below(Path(source))
        return
    name = "stdin" if str(source) == "-" else Path(source).name
    base = Path() if str(source) == "-" else Path(source).parent
    for row in read_rows(source):
        cells = dict(row.cells)
        item_id = _take_id(cells, columns, row, name)
        column, value = _take_content(cells, kind, columns, row)
        metadata = _metadata(cells, columns, row)
        if kind == "vector":
            yield OwnVector(item_id, _vector(value, column, row), metadata)
        else:
            content: Content = picture_of(value, column, base, row) if kind == "image" else text_of(value, column, row)
            yield Item(item_id, content, metadata)


def read_judgements(source: str | Path) -> Iterator[Judgement]:
    """Judgements from columns item, one of concept, query and like, and optionally score (1.0) and user.

    A query ``{"id": "a"}`` is that item; ``like`` names another item that the first is similar to, or dissimilar with a score below 0.

    Raises:
        InvalidInput: no such file, or a format that is not known.
        InvalidJudgement: a row that is none, or a column that is not one of the six.
    """
    for row in read_rows(source):
        cells = {column: value for column, value in row.cells.items() if value is not None}
        unknown = sorted(set(cells) - set(_JUDGEMENT_COLUMNS))
        if unknown:
            raise InvalidJudgement(f"{row.place}: unknown column {unknown[0]!r}; known are {', '.join(_JUDGEMENT_COLUMNS)}")
        try:
            yield _judgement(cells)
        except InvalidJudgement as error:
            raise InvalidJudgement(f"{row.place}: {error}") from None


def _judgement(cells: Mapping[str, Any]) -> Judgement:
    item, query, like, user = (cells.get(name) for name in ("item", "query", "like", "user"))
    who = None if user is None else str(user)
    for column, id in (("item", item), ("like", like)):
        if isinstance(id, (dict, list, bool)) or (column == "item" and id is None):
            raise InvalidJudgement(f"a judgement needs the id of an item in the column {column!r}, not {id!r}")
    score: Any = cells.get("score", 1.0)
    if like is not None:
        if query is not None or cells.get("concept") is not None:
            raise InvalidJudgement(f"a judgement on item {item!r} needs exactly one of concept, query and like")
        below = isinstance(score, (int, float)) and score < 0
        return (dissimilar if below else similar)(str(like), str(item), score, who)
    if isinstance(query, dict):
        if set(query) != {"id"}:
            raise InvalidJudgement(f'a query is a text or {{"id": …}}, not {short(query)}')
        query = Id(str(query["id"]))
    elif query is not None:
        query = str(query)
    concept = None if cells.get("concept") is None else str(cells["concept"])
    return Judgement(str(item), concept=concept, query=query, score=score, user=who)


def _take_id(cells: dict[str, Any], columns: Columns, row: Row, name: str) -> str:
    value = cells.pop(columns.id, None)
    if value is None and columns.auto_id:
        return f"{name}:{row.number}"
    if value is None or value == "" or isinstance(value, (dict, list, bool, bytes)):
        found = ", ".join(map(repr, row.cells)) or "none"
        raise InvalidItem(
            f"{row.place}: no id in column {columns.id!r} ({'columns: ' + found if value is None else short(value)}); "
            "name another with --id-column, or number the rows with --auto-id"
        )
    return str(value)


def _take_content(cells: dict[str, Any], kind: Kind, columns: Columns, row: Row) -> tuple[str, Any]:
    candidates = (columns.content,) if columns.content is not None else CONTENT_COLUMNS[kind]
    for column in candidates:
        if cells.get(column) is not None:
            return column, cells.pop(column)
    raise InvalidItem(
        f"{row.place}: no {kind} in {' or '.join(map(repr, candidates))}; its columns are "
        f"{', '.join(map(repr, row.cells)) or 'none'} (choose one with --content-column)"
    )


def _metadata(cells: dict[str, Any], columns: Columns, row: Row) -> dict[str, Any]:
    if columns.metadata is not None:
        missing = [column for column in columns.metadata if column not in row.cells]
        if missing:
            raise InvalidItem(
                f"{row.place}: no column {missing[0]!r} for the metadata; there are {', '.join(map(repr, row.cells))}"
            )
        cells = {column: row.cells[column] for column in columns.metadata}
    merged = cells.pop("metadata", None)
    if isinstance(merged, str):
        try:
            merged = json.loads(merged)
        except ValueError:
            merged = {"metadata": merged}  # a column that happens to have that name
    if merged is not None and not isinstance(merged, dict):
        merged = {"metadata": merged}
    try:
        return {column: _plain(value) for column, value in {**cells, **(merged or {})}.items()}
    except TypeError as error:
        raise InvalidItem(f"{row.place}: {error}; choose the columns to keep with --metadata") from None


def _plain(value: Any) -> Any:
    """What JSON can hold.

    Raises:
        TypeError: bytes and whatever else has no place in metadata.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(inner) for inner in value]
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    raise TypeError(f"metadata cannot hold {type(value).__name__}")


def text_of(value: Any, column: str, row: Row) -> str:
    """The text in a cell. Raises InvalidItem."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a CSV cell "42"
    if not isinstance(value, str):
        raise InvalidItem(f"{row.place}: column {column!r} holds {short(value)}, not a text")
    return value


def picture_of(value: Any, column: str, base: Path, row: Row) -> bytes | Path:
    """The picture in a cell, as bytes or as the path of a file in `base`. Raises InvalidItem."""
    if isinstance(value, Mapping):  # Hugging Face: {"bytes": …, "path": …}, either may be None
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, str) and value:
        if "\0" in value or not (base / value).is_file():
            raise InvalidItem(f"{row.place}: column {column!r} names {value!r}, and there is no such file in {base}")
        return base / value
    raise InvalidItem(f"{row.place}: column {column!r} holds {short(value)}, not the bytes or the path of a picture")


def _vector(value: Any, column: str, row: Row) -> Vector:
    try:
        if isinstance(value, str):
            value = json.loads(value)
        numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
        if not numbers and not isinstance(value, np.ndarray):
            raise TypeError
        vector = np.asarray(value, dtype=np.float32)
        if vector.ndim != 1 or not len(vector):
            raise TypeError
    except (TypeError, ValueError):
        raise InvalidVector(f"{row.place}: column {column!r} holds {short(value)}, not a list of numbers") from None
    return vector


def pictures_below(folder: Path) -> Iterator[Item]:
    """Every file below that Pillow opens by its suffix, ordered by path; hidden files and folders are skipped.

    ``id`` is the path relative to ``folder``, with "/" on every system; ``metadata`` {"folder": its parent, "file": its name}.
    """
    from PIL import Image

    openable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or Path(name).suffix.lower() not in openable:
                continue
            path = Path(parent, name)
            relative = path.relative_to(folder)
            above = "" if relative.parent == Path() else relative.parent.as_posix()
            yield Item(relative.as_posix(), path, {"folder": above, "file": name})
