"""Brute force in numpy: the oracle that other indexes are held to, and quick enough for small collections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.index.base import KeyedIndex, Store, write_array
from vecmeta.index.keys import Mask
from vecmeta.types import Keys, Vectors

SCORES = 4_000_000  # scores held at once: 16 MB, and twice that for their order
# OpenBLAS hands a matrix-vector product of more than about 460,000 numbers to all its threads. Reading memory gains little from
# them, and on a busy machine they wait for each other: 20,000 x 384 took 11 ms (p95 16) at once, 3.4 ms (p95 3.8) in blocks.
ONE_THREAD = 400_000
GATHERED = 4096  # rows copied together at a time when only some of them count


def top_k(queries: Vectors, rows: Vectors, k: int, mask: Mask | None = None) -> tuple[Vectors, Keys]:
    """The exact k best rows for each query by inner product: scores (q, k) float32 and row numbers (q, k) int64, best first.

    queries (q, dim) and rows (n, dim) float32; mask (n,) bool has at least k True, and only those rows count.
    """
    at = None if mask is None else np.flatnonzero(mask)
    n = len(rows) if at is None else len(at)
    scores, best = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    step = max(1, SCORES // max(len(rows), 1))
    for start in range(0, len(queries), step):
        part = _scores(queries[start : start + step], rows, at)  # (b, n)
        if k < n:
            top = np.argpartition(part, n - k, axis=1)[:, n - k :]  # (b, k)
            part = np.take_along_axis(part, top, axis=1)
        order = np.argsort(-part, axis=1)
        scores[start : start + step] = np.take_along_axis(part, order, axis=1)
        found = np.take_along_axis(top, order, axis=1) if k < n else order
        best[start : start + step] = found if at is None else at[found]
    return scores, best


def _scores(queries: Vectors, rows: Vectors, at: Keys | None) -> Vectors:
    if at is not None and 2 * len(at) >= len(rows):  # reading all in a row is quicker than picking out half
        return _scores(queries, rows, None)[:, at]
    n = len(rows) if at is None else len(at)
    out = np.empty((len(queries), n), np.float32)
    block = max(1, ONE_THREAD // rows.shape[1]) if len(queries) == 1 else n if at is None else GATHERED
    for start in range(0, n, max(block, 1)):
        part = rows[start : start + block] if at is None else rows[at[start : start + block]]
        if len(queries) == 1:
            np.dot(part, queries[0], out=out[0, start : start + block])
        else:
            out[:, start : start + block] = queries @ part.T
    return out


class Rows:
    """A growing (rows, dim) array, searched exactly."""

    def __init__(self, dim: int, vectors: Vectors | None = None) -> None:
        self._array: Vectors = np.empty((0, dim), np.float32) if vectors is None else vectors
        self._count = len(self._array)

    def rows(self) -> Vectors:
        """(rows, dim), a view."""
        return self._array[: self._count]

    def append(self, vectors: Vectors) -> None:
        """Add (n, dim) rows."""
        needed = self._count + len(vectors)
        if needed > len(self._array):
            self.reserve(max(needed, len(self._array) * 3 // 2))
        self._array[self._count : needed] = vectors
        self._count = needed

    def reserve(self, rows: int) -> None:
        """Make room; pages that nothing was written to cost no memory."""
        if rows > len(self._array):
            array = np.empty((rows, self._array.shape[1]), np.float32)
            array[: self._count] = self.rows()
            self._array = array

    def best(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """See `Store.best`."""
        return top_k(queries, self.rows(), k, mask)

    def dump(self, folder: Path) -> None:
        """Write vectors.npy."""
        write_array(folder / "vectors.npy", self.rows())

    @classmethod
    def read(cls, folder: Path, dim: int) -> Rows:
        """Read vectors.npy; ValueError when it does not hold (n, dim) float32."""
        vectors = np.load(folder / "vectors.npy", allow_pickle=False)
        if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype != np.float32:
            raise ValueError(f"vectors.npy holds {vectors.dtype} {vectors.shape}, not float32 (n, {dim})")
        return cls(dim, vectors)


class ExactIndex(KeyedIndex):
    """Exact cosine search; `vecmeta.open(…, index="exact")`. InvalidConfig for a dim below 1."""

    kind = "exact"

    def _make(self, count: int) -> Store:  # noqa: ARG002
        return Rows(self.dim)

    def _outgrown(self, store: Store, count: int) -> bool:  # noqa: ARG002
        return False

    def _settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _read(cls, folder: Path, dim: int, settings: Mapping[str, Any]) -> Store:  # noqa: ARG003
        return Rows.read(folder, dim)
