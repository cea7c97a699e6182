"""FAISS alone: a graph with vecmeta's own settings, no metadata, no catalogue; filters by what its user could keep beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from vecmeta.bench.peers import EFS, FILTERS, Engine, Equal, Found, Knob, matching
from vecmeta.types import Metadata, Vectors

faiss: Any = _faiss  # its stubs know few of the names it has
M, EF_CONSTRUCTION = 16, 48


class RawFaiss(Engine):
    """IndexHNSWFlat; with a filter either the graph with a bitmap, or FAISS's exact search of a list of rows, both made ready beforehand.

    Of its selectors a list is the quickest for exact search: at 1 % of 100,000 rows 20,700 queries a second, with a bitmap 10,400.
    """

    stores_metadata = False

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        self._index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self._storage = faiss.downcast_index(self._index.storage)
        self._selectors: dict[Equal, tuple[Any, Any]] = {}  # a bitmap for the graph, a list for exact search
        self._kept: list[Any] = []  # what they point into
        self._ef: int | None = None  # None: exact

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Vectors alone: an item's number is its key."""
        self._index.add(vectors)

    def finish(self) -> None:
        """The selectors of every filter."""
        for where in FILTERS:
            rows = matching(where, self._index.ntotal)
            mask = np.zeros(self._index.ntotal, np.bool_)
            mask[rows] = True
            bitmap = np.packbits(mask, bitorder="little")
            self._selectors[where] = faiss.IDSelectorBitmap(bitmap), faiss.IDSelectorArray(rows)
            self._kept += [bitmap, rows]

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
        graph, exact = (None, None) if where is None else self._selectors[where]
        if self._ef is None:
            return self._storage.search(queries, k, params=faiss.SearchParameters(sel=exact))[1].tolist()
        return self._index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=self._ef, sel=graph))[1].tolist()

    def read(self, answer: Any) -> Found:
        """Without -1, which stands for nothing found."""
        return [[(number, None) for number in numbers if number >= 0] for numbers in answer]
