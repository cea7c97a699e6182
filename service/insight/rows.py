"""A collection read for a view of it: ids and metadata of some items, and vectors under a version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vecmeta import Collection, Id, Item

Matrix = NDArray[np.float32]
BATCH = 2000  # vectors asked for at a time


def rows(collection: Collection, most: int) -> list[Item]:
    """All items, or `most` of them drawn at random, the same ones each time; by ascending id and without contents."""
    return collection.sample(most, contents=False)


def vectors(collection: Collection, ids: Sequence[str], version: int | None) -> Matrix:
    """(n, dim) float32 unit rows of items under a version; None: the live one. Raises ItemNotFound, VersionNotFound."""
    parts = [
        np.asarray(collection.embed([Id(id) for id in ids[at : at + BATCH]], version), np.float32)
        for at in range(0, len(ids), BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, collection.dim), np.float32)
