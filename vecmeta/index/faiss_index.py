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

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.errors import InvalidConfig
from vecmeta.index.base import KeyedIndex, Store
from vecmeta.index.exact import Rows, top_k
from vecmeta.index.keys import Mask
from vecmeta.types import Keys, Vectors

with warnings.catch_warnings():
    # Types that older SWIG makes have no __module__; it is not ours to mend, and warnings are errors in our tests.
    warnings.filterwarnings("ignore", message="builtin type .* has no __module__ attribute", category=DeprecationWarning)
    import faiss as _faiss

faiss: Any = _faiss  # its stubs know few of the names it has

EXACT_PER_EF = 8  # scoring this many rows one after the other costs as much as one step of ef in the graph
RAISE = 4  # the factor by which ef grows for queries that came back short
# The links of a row are chosen so that they lead different ways, but faiss keeps all that are exactly as near as each other: copies
# of one vector fill their lists with copies, and what lies behind them is cut off. 20,000 rows of which 5,000 were one vector had
# recall 0.94, and 20 x 500 copies 0.58; told apart by one part in a million, 0.998 and 0.98. So rows are rounded to this grid and
# shaken by a quarter of its step: less than 2e-6 for a number, within 1e-5 for a score, and not adding up when rows are moved.
GRID = np.float32(2**19)
FEW = 500  # rows below which OpenMP's threads wait for each other longer than they work, and for long when the machine is busy
FOUND = 1_000_000  # results held at once in a batch: 12 MB


class Graph:
    """HNSW over inner products, on faiss's own copy of the vectors."""

    def __init__(self, index: Any, ef_search: int) -> None:
        self._index = index
        self._vectors = faiss.downcast_index(index.storage)  # lives as long as `_index`
        self._ef_search = ef_search
        self._random = np.random.default_rng(0)

    @classmethod
    def empty(cls, dim: int, m: int, ef_construction: int, ef_search: int) -> Graph:
        """A graph without rows."""
        index = faiss.IndexHNSWFlat(dim, m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = ef_construction
        return cls(index, ef_search)

    def rows(self) -> Vectors:
        """(rows, dim), a view into faiss's memory."""
        n, dim = self._vectors.ntotal, self._vectors.d
        if not n:
            return np.empty((0, dim), np.float32)
        view: Vectors = faiss.rev_swig_ptr(self._vectors.get_xb(), n * dim).reshape(n, dim)
        return view

    def append(self, vectors: Vectors) -> None:
        """Add (n, dim) rows and link them; see GRID."""
        moved = vectors * GRID  # the one copy
        np.rint(moved, out=moved)
        for start in range(0, len(moved), 128):
            part = moved[start : start + 128]
            part += self._random.random(part.shape, np.float32) / 2 - np.float32(0.25)
        moved /= GRID
        threads = faiss.omp_get_max_threads()  # of this thread: the setting is each thread's own
        if len(moved) < FEW:
            faiss.omp_set_num_threads(1)
        try:
            self._index.add(moved)
        finally:
            faiss.omp_set_num_threads(threads)

    def reserve(self, rows: int) -> None:
        """Make room. std::vector keeps the room of its largest size, and faiss offers no other handle on it."""
        codes, used = self._vectors.codes, self._vectors.codes.size()
        if rows * self._vectors.code_size > used:
            codes.resize(rows * self._vectors.code_size)
            codes.resize(used)

    def best(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """See `Store.best`. Approximate in which rows it returns, never in how many or in their scores."""
        n = self._vectors.ntotal
        matching = n if mask is None else int(np.count_nonzero(mask))
        scores, best = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        short = np.arange(len(queries))
        wide = max(self._ef_search, 3 * k) * n // matching
        for ef in (min(wide, n), min(RAISE * wide, n)):
            if not len(short) or EXACT_PER_EF * ef >= matching:
                break
            step = max(1, FOUND // ef)
            still = []
            for start in range(0, len(short), step):
                part = short[start : start + step]
                done, scores_done, best_done = self._walk(queries[part], k, mask, ef)
                scores[part[done]], best[part[done]] = scores_done, best_done
                still.append(part[~done])
            short = np.concatenate(still)
        if len(short):
            scores[short], best[short] = top_k(queries[short], self.rows(), k, mask)
        return scores, best

    def _walk(self, queries: Vectors, k: int, mask: Mask | None, ef: int) -> tuple[Mask, Vectors, Keys]:
        """Which of the (q, dim) queries have k matches in the nearer half of ef rows found, and for those their best (done, k).

        The nearer half, because a walk misses more at its edge: with the query's own neighbourhood filtered out, recall was 0.84
        with all of it and 0.99 with half. (faiss's own selector fills up with matches far off, and had 0.20.)
        """
        found_scores, found = self._index.search(queries, ef, params=faiss.SearchParametersHNSW(efSearch=ef))  # (q, ef)
        fits = found >= 0  # -1: the walk ended before it had seen ef rows
        if mask is not None:
            fits &= mask[found]
        done = fits[:, : ef // 2].sum(axis=1) >= k
        if fits[:, :k].all():
            return done, found_scores[done, :k], found[done, :k]
        first = np.argsort(~fits[done], axis=1, kind="stable")[:, :k]
        return done, np.take_along_axis(found_scores[done], first, 1), np.take_along_axis(found[done], first, 1)

    def dump(self, folder: Path) -> None:
        """Write graph.faiss, through a Python file and in small pieces: errno survives, and there is no second copy."""
        with (folder / "graph.faiss").open("wb") as file:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))


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

    def _make(self, count: int) -> Store:
        if count < self._hnsw_from:
            return Rows(self.dim)
        return Graph.empty(self.dim, self._m, self._ef_construction, self._ef_search)

    def _outgrown(self, store: Store, count: int) -> bool:
        return count >= self._hnsw_from and isinstance(store, Rows)  # back again only when dead rows are dropped anyway

    def _settings(self) -> dict[str, Any]:
        return {
            "hnsw_from": self._hnsw_from,
            "m": self._m,
            "ef_construction": self._ef_construction,
            "ef_search": self._ef_search,
        }

    @classmethod
    def _read(cls, folder: Path, dim: int, settings: Mapping[str, Any]) -> Store:
        path = folder / "graph.faiss"
        if not path.exists():
            return Rows.read(folder, dim)
        index = faiss.read_index(str(path))
        if not isinstance(index, faiss.IndexHNSWFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"graph.faiss holds a {type(index).__name__}, not an HNSW graph of inner products")
        index.hnsw.efConstruction = settings["ef_construction"]
        return Graph(index, settings["ef_search"])
