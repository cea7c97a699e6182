"""FAISS alone: a graph with vecmeta's own settings, no metadata, no catalogue; filters by what its user could keep beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from vecmeta.bench.peers import EFS, FIELDS, Engine, Equal, Found, Knob, described
from vecmeta.bench.vectors import nearest
from vecmeta.types import Keys, Metadata, Vectors

faiss: Any = _faiss  # its stubs know few of the names it has
M, EF_CONSTRUCTION = 16, 48


class RawFaiss(Engine):
    """IndexHNSWFlat; with a filter either the graph with a bitmap, or exact search over the matching rows, both made ready beforehand."""

    stores_metadata = False

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        self._index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self._storage = faiss.downcast_index(self._index.storage)
        self._rows: dict[Equal, Keys] = {}
        self._selectors: dict[Equal, tuple[Any, Any]] = {}  # with the bitmap that it points into
        self._ef: int | None = None  # None: exact

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Vectors alone: an item's number is its key."""
        self._index.add(vectors)

    def finish(self) -> None:
        """The matching rows of every filter, and their bitmaps."""
        numbers = np.arange(self._index.ntotal)
        for field, values in FIELDS.items():
            for value in range(values):
                where = Equal(field, described(value)[field])
                mask = numbers % values == value
                self._rows[where] = np.flatnonzero(mask)
                bitmap = np.packbits(mask, bitorder="little")
                self._selectors[where] = faiss.IDSelectorBitmap(bitmap), bitmap

    def plans(self, where: str | None) -> list[list[Knob]]:
        """The graph, and with a filter exact search."""
        graph = [[{"efSearch": ef} for ef in EFS]]
        return graph if where is None else [*graph, [{"exact": True}]]

    def use(self, knob: Knob) -> None:
        """Which way, how widely."""
        self._ef = knob.get("efSearch")

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """Numbers (1, k)."""
        return self.many(query[None], k, where)

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """Numbers (q, k)."""
        if self._ef is not None:
            selector = None if where is None else self._selectors[where][0]
            asked = faiss.SearchParametersHNSW(efSearch=self._ef, sel=selector)
            return self._index.search(queries, k, params=asked)[1].tolist()
        rows = self._rows[where] if where is not None else np.arange(self._index.ntotal)
        vectors = faiss.rev_swig_ptr(self._storage.get_xb(), self._index.ntotal * self._index.d).reshape(-1, self._index.d)
        return rows[nearest(queries, vectors[rows], k)].tolist()

    def read(self, answer: Any) -> Found:
        """Without -1, which stands for nothing found."""
        return [[(number, None) for number in numbers if number >= 0] for numbers in answer]
