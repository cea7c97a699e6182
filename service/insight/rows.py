"""A collection read for a view of it: ids, metadata, a line of text for each item, and vectors under a version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta import Collection, Id, Item

Matrix = NDArray[np.float32]
PAGE = 1000  # items read at a time: pictures are let go again page by page
BATCH = 2000  # vectors asked for at a time
LINE = 80  # characters of the text that stands for an item


@dataclass(frozen=True, slots=True)
class Row:
    """An item without its content."""

    id: str
    line: str
    metadata: dict[str, Any]


def rows(collection: Collection, most: int) -> list[Row]:
    """The first `most` items by id."""
    found: list[Row] = []
    for item in _items(collection, most):
        text = " ".join(item.content.split())[:LINE] if isinstance(item.content, str) else ""
        found.append(Row(item.id, text, dict(item.metadata)))
    return found


def vectors(collection: Collection, ids: Sequence[str], version: int | None) -> Matrix:
    """(n, dim) float32 unit rows of items under a version; None: the live one. Raises ItemNotFound, VersionNotFound."""
    parts = [
        np.asarray(collection.embed([Id(id) for id in ids[at : at + BATCH]], version), np.float32)
        for at in range(0, len(ids), BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, collection.dim), np.float32)


def _items(collection: Collection, most: int) -> Iterator[Item]:
    after: str | None = None
    while most > 0 and (page := collection.items(after=after, limit=min(PAGE, most))):
        yield from page
        after = page[-1].id
        most -= len(page)
