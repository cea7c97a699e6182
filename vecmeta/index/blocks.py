"""Rows in blocks of memory, searched exactly: all there is in an exact index, and what waits to be linked in one with a graph."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from vecmeta.index.files import write_array
from vecmeta.index.scan import merged, top_k
from vecmeta.types import Keys, Mask, Vectors

BLOCK = 16_384  # rows; pages that nothing was written to cost no memory, and growing copies nothing


class Blocks:
    """A growing (n, dim) array, a `Store`; also a queue, from whose front rows can be taken. Unlocked."""

    linked = 0

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._blocks: deque[Vectors] = deque()  # all full but the last, of which `_filled` rows count
        self._filled = BLOCK
        self._gone = 0  # rows of the first block that were taken

    def __len__(self) -> int:
        return len(self._blocks) * BLOCK - (BLOCK - self._filled) - self._gone

    @property
    def pending(self) -> int:
        """Nothing waits for anything."""
        return 0

    def parts(self) -> list[Vectors]:
        """All rows in order, as views that are valid until the next `append` or `drop`."""
        found = list(self._blocks)
        if found:
            found[-1] = found[-1][: self._filled]
            found[0] = found[0][self._gone :]
        return found

    def append(self, vectors: Vectors) -> None:
        """Add (n, dim) rows, copied."""
        start = 0
        while start < len(vectors):
            if self._filled == BLOCK:
                self._blocks.append(np.empty((BLOCK, self._dim), np.float32))
                self._filled = 0
            part = vectors[start : start + BLOCK - self._filled]
            self._blocks[-1][self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            start += len(part)

    def drop(self, rows: int) -> None:
        """Take rows from the front, at most those of the first of `parts`."""
        self._gone += rows
        if self._gone == (self._filled if len(self._blocks) == 1 else BLOCK):
            self._blocks.popleft()
            self._gone = 0
            self._filled = self._filled if self._blocks else BLOCK

    def gather(self, rows: Keys) -> Vectors:
        """Rows by number: (n,) -> (n, dim), a copy."""
        at = rows + self._gone
        out = np.empty((len(rows), self._dim), np.float32)
        for number, block in enumerate(self._blocks):
            here = at // BLOCK == number
            out[here] = block[at[here] % BLOCK]
        return out

    def overwrite(self, rows: Keys, vectors: Vectors) -> None:
        """Replace rows, all different: (n,), (n, dim)."""
        at = rows + self._gone
        for number, block in enumerate(self._blocks):
            here = at // BLOCK == number
            block[at[here] % BLOCK] = vectors[here]

    def prepare(self, rows: int) -> None:
        """There is nothing to prepare."""

    def own(self) -> None:
        """It is its own."""

    def mixed(self, rows: int) -> tuple[Keys, Keys]:  # noqa: ARG002
        """Nothing waits."""
        return np.empty(0, np.int64), np.empty(0, np.int64)

    def exchange(self, one: Keys, other: Keys) -> None:
        """Have rows change places, all different: (n,), (n,)."""
        first, second = self.gather(one), self.gather(other)
        self.overwrite(one, second)
        self.overwrite(other, first)

    def link(self, rows: int) -> None:
        """There is nothing to link."""

    def rest(self) -> bool:
        """Nothing else."""
        return False

    def fork(self) -> Blocks:
        """There is no structure to keep."""
        return Blocks(self._dim)

    def best(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """See `Store.best`; exact."""
        found, start = [], 0
        for part in self.parts():
            within = None if mask is None else mask[start : start + len(part)]
            there = len(part) if within is None else int(np.count_nonzero(within))
            if there:
                scores, rows = top_k(queries, part, min(k, there), within)
                found.append((scores, rows + start))
            start += len(part)
        return merged(found, k)

    exact = best

    def dump(self, folder: Path) -> None:
        """Write vectors.npy."""
        write_array(folder / "vectors.npy", self.parts(), (len(self), self._dim))

    @classmethod
    def read(cls, folder: Path, dim: int) -> Blocks:
        """Read vectors.npy; ValueError when it does not hold (n, dim) float32."""
        vectors = np.load(folder / "vectors.npy", allow_pickle=False)
        if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype != np.float32:
            raise ValueError(f"vectors.npy holds {vectors.dtype} {vectors.shape}, not float32 (n, {dim})")
        blocks = cls(dim)
        blocks.append(vectors)
        return blocks
