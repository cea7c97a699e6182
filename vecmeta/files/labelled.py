"""Labelled files and folders of pictures: contents with a label each, what cannot be used counted and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vecmeta.errors import InvalidInput, UndecodableContent
from vecmeta.files.items import CONTENT_COLUMNS, Kind, picture_of, pictures_below, text_of
from vecmeta.files.rows import read_rows
from vecmeta.types import Content

LABEL_COLUMNS = ("label", "class", "concept", "category", "topic", "intent")  # looked for in this order


@dataclass(frozen=True, slots=True)
class Labelled:
    """Contents and labels (None: unlabelled) of the same number; ``left_out`` counts what could not be used, by reason."""

    contents: list[Content] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_labelled(
    sources: Sequence[str | Path], kind: Kind, *, label: str | None = None, content: str | None = None,
    usable: Callable[[bytes | Path], object] | None = None, unlabelled: bool = False,
) -> Labelled:  # fmt: skip
    """Contents and labels of files (JSON lines, CSV, TSV, Parquet) and of folders, FOLDER/LABEL/picture.jpg.

    Empty texts, and pictures for which `usable` raises UndecodableContent, are left out and counted.

    Args:
        kind: "text" or "image".
        label: the column of the labels; None: the first of LABEL_COLUMNS.
        content: the column of the contents; None: as `vecmeta.files` has it.
        unlabelled: a file need not have labels.

    Raises:
        InvalidInput: no such file, a format that is not known, no such column; InvalidItem: a row that cannot be read.
    """
    found = Labelled()
    for source in sources:
        if str(source) != "-" and Path(source).is_dir():
            if kind != "image":
                raise InvalidInput(f"{source} is a folder; only pictures are read from folders, and this encoder takes {kind}s")
            for item in pictures_below(Path(source)):
                above = str(item.metadata["folder"]).partition("/")[0]
                _take(found, item.content, above or None, usable)
        else:
            _read_file(found, source, kind, label, content, usable, unlabelled)
    return found


def _read_file(
    found: Labelled, source: str | Path, kind: Kind, label: str | None, content: str | None, usable: Any, unlabelled: bool
) -> None:
    base = Path() if str(source) == "-" else Path(source).parent
    columns = (content,) if content is not None else CONTENT_COLUMNS[kind]
    labels = (label,) if label is not None else LABEL_COLUMNS
    seen: set[str] = set()
    labelled = False
    rows = 0
    for row in read_rows(source):
        rows += 1
        seen.update(row.cells)
        column = next((name for name in columns if row.cells.get(name) is not None), None)
        value = None if column is None else row.cells[column]
        name = next((name for name in labels if row.cells.get(name) is not None), None)
        labelled = labelled or name is not None
        made: Content | None = None
        if column is not None and value not in ("", b""):
            made = picture_of(value, column, base, row) if kind == "image" else text_of(value, column, row)
        _take(found, made, None if name is None else row.cells[name], usable if kind == "image" else None)
    there = ", ".join(sorted(seen)) or "none"
    if rows and not seen & set(columns):
        raise InvalidInput(f"{source}: no {kind} in {' or '.join(map(repr, columns))}; its columns: {there}")
    if rows and not labelled and not unlabelled:
        raise InvalidInput(f"{source}: no label in {' or '.join(map(repr, labels))}; its columns: {there}")


def _take(found: Labelled, content: Content | None, label: Any, usable: Callable[[bytes | Path], object] | None) -> None:
    if content is None or (isinstance(content, str) and not content.strip()):
        found.left_out["empty"] += 1
        return
    if usable is not None and not isinstance(content, str):
        try:
            usable(content)
        except UndecodableContent:
            found.left_out["undecodable"] += 1
            return
    found.contents.append(content)
    found.labels.append(label)
