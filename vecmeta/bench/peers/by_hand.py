"""No engine at all: matrix products by numpy over rows that are known before the query. How quick exact search can be made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.bench.peers import FILTERS, Engine, Equal, Found, Knob, matching
from vecmeta.bench.vectors import nearest
from vecmeta.types import Keys, Metadata, Vectors


class ByHand(Engine):
    """Places of the nearest, in no order and without scores; which rows match a filter is made ready beforehand."""

    stores_metadata = False

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        self._parts: list[Vectors] = []
        self._vectors = np.empty((0, dim), np.float32)
        self._rows: dict[Equal, Keys] = {}

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Vectors alone: an item's number is its key."""
        self._parts.append(vectors)

    def finish(self) -> None:
        """One array, and the matching rows of every filter."""
        self._vectors, self._parts = np.concatenate(self._parts), []
        self._rows = {where: matching(where, len(self._vectors)) for where in FILTERS}

    def plans(self, where: str | None) -> list[list[Knob]]:
        """There is one way."""
        return [[{}]]

    def use(self, knob: Knob) -> None:
        """Nothing to choose."""

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """Numbers (1, k)."""
        return self.many(query[None], k, where)

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """Numbers (q, k)."""
        if where is None:
            return nearest(queries, self._vectors, k).tolist()
        rows = self._rows[where]
        return rows[nearest(queries, self._vectors[rows], k)].tolist()

    def read(self, answer: Any) -> Found:
        """As they are."""
        return [[(number, None) for number in numbers] for numbers in answer]
