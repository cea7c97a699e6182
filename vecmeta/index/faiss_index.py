"""Exact search while a collection is small, FAISS's HNSW graph from `hnsw_from` items on.

Why 10,000: measured on two cores with up to 45,000 MiniLM vectors of real texts (dim 384), 300 single queries and one batch of 500, k = 10,
queries that are not in the index, the defaults below (m 16, ef_construction 48, ef_search 96):

              exact                               graph
    items     build s   p50 ms   batch ms/query   build s   p50 ms   batch ms/query   recall@10
     1,000       .002      .20        .03             .13      .18        .04            .999
     2,000       .001      .24        .09             .14      .19        .05            .999
     5,000       .004      .30        .19             .33      .23        .06            .996
    10,000       .003      .73        .28             .67      .30        .09            .996
    20,000       .006     2.39        .32            1.96      .47        .14            .990
    45,000       .021     7.20        .91            4.95      .46        .17            .984

Up to some thousands of items nobody would notice the graph, and exact search loses nothing and is rebuilt at once by an adaptation; from
10,000 on one query takes several times as long without it. For queries that are in the index recall@10 at 45,000 is .994. A wider
ef_construction (64, 100) gave .003 and .006 more recall for 1.3 and 2 times the time to build.

Threads. faiss's searches release the GIL and may run side by side, which no write may: hence the lock in `base`. A query alone walks the
graph on the thread that asks; batches and building use OpenMP with the settings found. Its threads spin while they wait for each
other: 100,000 rows took 21 s on one thread and 14 s on two quiet cores, but 10,000 took twice as long on two busy ones as on one
thread (OMP_NUM_THREADS=1 helps there).

Memory per row of dim 384: 1,536 bytes, about 150 for links, 9 to 25 for its key. 100,000 rows added in chunks of 10,000 held 1.29
times the bytes of the vectors, with a peak of 1.9 while std::vector doubled; after `reserve(100_000)` 1.2, with a peak of 1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.errors import InvalidConfig
from vecmeta.index.base import KeyedIndex
from vecmeta.index.graph import Graph
from vecmeta.index.linking import ASKED, NEAREST, together
from vecmeta.index.stores import State, Store

WIDEST = 500  # of what `reach` raises ef_search to


class FaissIndex(KeyedIndex):
    """Exact below `hnsw_from` items, an HNSW graph from there on; `vecmeta.open(…, index="faiss")`.

    m                links per row and level, 2 to 128
    ef_construction  how widely the graph is searched for the neighbours of a new row, 1 or more
    ef_search        how widely it is searched for a query, 1 or more; raised as far as k, filters and dead rows need it

    Raises InvalidConfig for values out of range.
    """

    kind = "faiss"

    def __init__(self, dim: int, *, hnsw_from: int = 10_000, m: int = 16, ef_construction: int = 48, ef_search: int = 96) -> None:
        for name, value, low, high in [
            ("hnsw_from", hnsw_from, 0, 2**62),
            ("m", m, 2, 128),
            ("ef_construction", ef_construction, 1, 100_000),
            ("ef_search", ef_search, 1, 100_000),
        ]:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InvalidConfig(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        self._hnsw_from, self._m, self._ef_construction, self._ef_search = hnsw_from, m, ef_construction, ef_search
        super().__init__(dim)

    def _make(self) -> Store:
        return Graph.empty(self.dim, self._m, self._ef_construction, self._ef_search, self._hnsw_from)

    def _settings(self) -> dict[str, Any]:
        return {
            "hnsw_from": self._hnsw_from,
            "m": self._m,
            "ef_construction": self._ef_construction,
            "ef_search": self._ef_search,
        }

    @classmethod
    def _read(cls, folder: Path, dim: int, settings: Mapping[str, Any]) -> Store:
        return Graph.read(folder, dim, settings["ef_construction"], settings["ef_search"], settings["hnsw_from"])

    def settle(self, go_on: Callable[[], None] = lambda: None) -> int:
        """See `KeyedIndex.settle`; where much was linked in random order, rows are also laid out anew, and searches are a sixth faster."""
        done = super().settle(go_on)
        return done + super().settle(go_on) if self._laid_out(go_on) else done

    def _laid_out(self, go_on: Callable[[], None]) -> bool:
        """Whether the rows have been laid out; what comes in meanwhile waits to be linked."""
        with self._settling:
            old = self._now()
            if not isinstance(old.store, Graph) or not old.store.scattered:
                return False
            if _as_they_came(old):  # in which filters are quicker, and that is worth more
                return False
            store, rows = old.store.laid_out(go_on)
            if not self._replaced(old, store, rows, len(rows)):
                return False
            self._widen(self._ef_search)  # which may have been raised meanwhile
            return True

    def reach(self, good: Callable[[], bool], steps: int) -> bool:
        """See `VectorIndex.reach`. A step is half as wide again; no wider than WIDEST."""
        before = self._ef_search
        for _ in range(steps):
            wider = self._ef_search * 3 // 2
            if wider > WIDEST or not self._state.store.linked:
                break
            self._widen(wider)
            if good():
                return True
        self._widen(before)
        return False

    def in_topics(self) -> bool:
        """See `VectorIndex.in_topics`."""
        with self._lock.reading():
            now = table, store = self._now()
            if not _as_they_came(now):  # as they were linked at random, or were laid out since
                return False
            there = table.live & (np.arange(table.rows) < store.linked)
            rows = np.flatnonzero(there)
            if len(rows) <= NEAREST:
                return False
            asked = np.sort(np.random.default_rng(0).choice(rows, min(ASKED, len(rows)), replace=False))
            return together(asked, store.exact(store.gather(asked), NEAREST + 1, there)[1], store.linked)

    def own(self) -> None:
        """See `VectorIndex.own`. Searches wait for the moment in which the copy takes the place of the file, writes for the copy."""
        with self._settling, self._writer:
            store = self._now().store
            store.prepare(0)
            with self._lock.writing():
                store.own()
        self.settle()  # which sees to the large pages

    def _widen(self, ef_search: int) -> None:
        with self._writer:
            store = self._now().store
            self._ef_search = ef_search
            if isinstance(store, Graph):
                store.widen(ef_search)


def _as_they_came(state: State) -> bool:
    """Whether the linked rows lie as they came, but for some that replaced others: at random half come after a later one."""
    keys = state.table.by_row[: state.store.linked]
    return len(keys) < 2 or float(np.mean(np.diff(keys) > 0)) > 0.75
