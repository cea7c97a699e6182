"""An HNSW graph over inner products (faiss), before which new rows wait in a queue that is searched exactly.

A row is there as soon as it is appended; linking it takes a hundred times as long and can be done later, a few rows at a time. The
graph can be kept while its vectors are replaced (`fork`, `overwrite`): a head near the identity leaves a good graph good.

Files are mapped into memory, which takes no time and is shared among processes; what is mapped is copied before it is changed, for faiss
ends the process otherwise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.index.blocks import Blocks
from vecmeta.index.layout import order_of
from vecmeta.index.pages import enlarge, pieces
from vecmeta.index.scan import merged, top_k
from vecmeta.types import Keys, Mask, Vectors

with warnings.catch_warnings():
    # Types that older SWIG makes have no __module__; it is not ours to mend, and warnings are errors in our tests.
    warnings.filterwarnings("ignore", message="builtin type .* has no __module__ attribute", category=DeprecationWarning)
    import faiss as _faiss

faiss: Any = _faiss  # its stubs know few of the names it has

# Scoring so many rows costs as much as one step of ef: for one query, for each of MANY at once.
EXACT_PER_EF, EXACT_MANY, MANY = 8, 64, 16
RAISE = 4  # the factor by which ef grows for queries that came back short
# The links of a row are chosen so that they lead different ways, but faiss keeps all that are exactly as near as each other: copies
# of one vector fill their lists with copies, and what lies behind them is cut off. 20,000 rows of which 5,000 were one vector had
# recall 0.94, and 20 x 500 copies 0.58; told apart by one part in a million, 0.998 and 0.98. So linked rows are rounded to this grid
# and shaken by a quarter of its step: less than 2e-6 for a number, within 1e-5 for a score, and not adding up when rows are moved.
GRID = np.float32(2**19)
NOISE = 1 << 20  # random numbers that the shaking draws from, each row beginning at another one
SHAKEN = 256  # rows at a time: they stay in the processor's cache
FEW = 500  # rows below which OpenMP's threads wait for each other longer than they work, and for long when the machine is busy
# Rows that wait from which they are linked in random order. 300,000 rows of which each 10,000 had neighbours among themselves alone were
# found with a recall@10 of .76 when linked as they came, of .93 in random order.
BULK = 8192
FOUND = 1_000_000  # results held at once in a batch: 12 MB
ROOM = 1 / 8  # of its rows that a copy has room for besides
LAID_FROM = 10_000  # rows from which on their order in memory matters: fewer fit into a processor's cache


class Graph:
    """A `Store`. Rows below `linked` are in faiss's own memory, the others wait. Unlocked."""

    def __init__(self, index: Any, waiting: Blocks, hnsw_from: int, ef_search: int) -> None:
        self._index = index
        self._vectors = faiss.downcast_index(index.storage)  # lives as long as `_index`
        self._waiting = waiting
        self._hnsw_from, self._ef_search = hnsw_from, ef_search
        self._mine: Any = None  # a copy of `_index` for it to change, where that is mapped from a file or has no room
        self._room = 0  # rows that are known to fit into its memory
        self._left: Any = None  # what a copy has taken the place of: to free it takes a while
        self._random = np.random.default_rng(0)
        self._place = (0, 0)  # of vectors and links in memory
        self._small: list[tuple[int, int]] = []  # pieces there that are not on large pages yet
        self._laid = self.linked  # how many rows there were when they were last laid out; files hold what was

    @classmethod
    def empty(cls, dim: int, m: int, ef_construction: int, ef_search: int, hnsw_from: int) -> Graph:
        """A graph without rows."""
        index = faiss.IndexHNSWFlat(dim, m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = ef_construction
        return cls(index, Blocks(dim), hnsw_from, ef_search)

    def __len__(self) -> int:
        return self.linked + len(self._waiting)

    @property
    def linked(self) -> int:
        """How many rows the graph holds."""
        return int(self._index.ntotal)

    @property
    def pending(self) -> int:
        """Rows that wait to be linked; in a small collection none has to be."""
        return len(self._waiting) if self.linked or len(self._waiting) >= self._hnsw_from else 0

    def append(self, vectors: Vectors) -> None:
        """Add (n, dim) rows, not linked."""
        self._waiting.append(vectors)

    def overwrite(self, rows: Keys, vectors: Vectors) -> None:
        """Replace rows, all different; the links stay as they are. (n,), (n, dim)."""
        old = rows < self.linked
        if old.all():
            self._linked_rows()[rows] = self._shaken(vectors)
        else:
            self._linked_rows()[rows[old]] = self._shaken(vectors[old])
            self._waiting.overwrite(rows[~old] - self.linked, vectors[~old])

    def gather(self, rows: Keys) -> Vectors:
        """Rows by number: (n,) -> (n, dim), a copy."""
        old = rows < self.linked
        if old.all():
            return self._linked_rows()[rows]
        out = np.empty((len(rows), self._index.d), np.float32)
        out[old], out[~old] = self._linked_rows()[rows[old]], self._waiting.gather(rows[~old] - self.linked)
        return out

    def prepare(self, rows: int) -> None:
        """See `Store.prepare`: a copy with room for more, which takes the place in `link` of what is mapped from a file or has none.

        A vector that grows by itself is copied while nobody may search: 20 ms for 20,000 rows.
        """
        self._left, n = None, self.linked
        if self._mine is None and (not self._owned or (rows and n and n + rows > self._room)):
            mine, room = faiss.IndexHNSWFlat(self._index.d, 2, faiss.METRIC_INNER_PRODUCT), max(rows, int(ROOM * n))
            _copy(self._index, mine, room=room)
            self._mine, self._room = mine, n + room

    def mixed(self, rows: int) -> tuple[Keys, Keys]:
        """See `Store.mixed`. Of few that wait none: what trickles in keeps its order, in which filters are quicker."""
        n, start = len(self._waiting), self.linked
        if n < BULK:
            return self._waiting.mixed(0)
        rows = min(rows, n)
        drawn = self._random.choice(n, rows, replace=False, shuffle=False)
        out, into = np.setdiff1d(np.arange(rows), drawn), drawn[drawn >= rows]
        self._waiting.exchange(out, into)
        return out + start, into + start

    def link(self, rows: int) -> None:
        """Link up to so many of the rows that wait; see GRID."""
        part = next(iter(self._waiting.parts()), np.empty((0, 0), np.float32))[:rows]
        if not len(part):
            return
        self.own()
        before = self.linked
        threads = faiss.omp_get_max_threads()  # of this thread: the setting is each thread's own
        if len(part) < FEW:
            faiss.omp_set_num_threads(1)
        try:
            self._index.add(self._shaken(part))
        finally:
            faiss.omp_set_num_threads(threads)
        self._waiting.drop(len(part))
        if self.linked > self._room:  # it has grown by itself, and a std::vector doubles at least
            self._room = max(2 * before, self.linked)

    def widen(self, ef_search: int) -> None:
        """How widely it is searched from now on."""
        self._ef_search = ef_search

    def rest(self) -> bool:
        """See `Store.rest`. Large pages for vectors and links, once for each place they have been at: searches are a tenth faster."""
        self._left = None
        if not self._vectors.codes.is_owned or not self.linked:
            return False
        neighbors = self._index.hnsw.neighbors
        rows, links = self._linked_rows(), faiss.rev_swig_ptr(neighbors.data(), neighbors.size())
        place = rows.ctypes.data, links.ctypes.data
        if place != self._place:
            self._place, self._small = place, [*pieces(links), *pieces(rows)]
        if self._small:
            enlarge(*self._small.pop())
        return bool(self._small)

    def fork(self) -> Graph:
        """What is linked, with vectors and links copied; what waits is left out."""
        copy, room = Graph.empty(self._index.d, 2, 1, self._ef_search, self._hnsw_from), int(ROOM * self.linked)
        _copy(self._index, copy._index, room=room)
        copy._laid, copy._room = self._laid, self.linked + room
        return copy

    @property
    def scattered(self) -> bool:
        """Whether at least half of the linked rows lie where chance has put them, and there are enough for that to matter."""
        return self.linked >= max(LAID_FROM, 2 * self._laid)

    def laid_out(self, go_on: Callable[[], None]) -> tuple[Graph, Keys]:
        """`fork`, with the rows in another order (see `layout`), and which row each of them is here: (linked,)."""
        copy = Graph.empty(self._index.d, 2, 1, self._ef_search, self._hnsw_from)
        rows = order_of(self._linked_rows(), go_on)
        _copy(self._index, copy._index, rows)
        copy._laid = self.linked
        return copy, rows

    def best(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """See `Store.best`. Approximate in which rows it returns, never in how many or in their scores."""
        return self._both(self._through, queries, k, mask)

    def exact(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """`best` without the graph."""
        return self._both(self._scanned, queries, k, mask)

    def dump(self, folder: Path) -> None:
        """Write graph.faiss and vectors.npy, through Python files and in small pieces: errno survives, and there is no second copy."""
        self._waiting.dump(folder)
        with (folder / "graph.faiss").open("wb") as file:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))

    @classmethod
    def read(cls, folder: Path, dim: int, ef_construction: int, ef_search: int, hnsw_from: int) -> Graph:
        """Map what `dump` wrote. Raises ValueError for another kind of index, OSError and RuntimeError as they came."""
        index = faiss.read_index(str(folder / "graph.faiss"), faiss.IO_FLAG_MMAP_IFC)
        if not isinstance(index, faiss.IndexHNSWFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT or index.d != dim:
            raise ValueError(f"graph.faiss holds a {type(index).__name__} of dim {index.d}, not an HNSW graph of inner products")
        index.hnsw.efConstruction = ef_construction
        return cls(index, Blocks.read(folder, dim), hnsw_from, ef_search)

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _linked_rows(self) -> Vectors:
        """(linked, dim), a view into faiss's memory, mapped or its own."""
        n, dim = self.linked, self._index.d
        if not n:
            return np.empty((0, dim), np.float32)
        view: Vectors = faiss.rev_swig_ptr(self._vectors.get_xb(), n * dim).reshape(n, dim)
        return view

    def _shaken(self, vectors: Vectors) -> Vectors:
        moved, noise = np.empty(vectors.shape, np.float32), _noise(self._index.d)
        for start in range(0, len(moved), SHAKEN):
            part = moved[start : start + SHAKEN]
            np.multiply(vectors[start : start + SHAKEN], GRID, out=part)
            np.rint(part, out=part)
            part += noise[self._random.integers(len(noise), size=len(part))]
            part *= 1 / GRID  # a power of two: exact
        return moved

    @property
    def _owned(self) -> bool:
        return bool(self._vectors.codes.is_owned and self._index.hnsw.neighbors.is_owned)

    def own(self) -> None:
        """See `Store.own`."""
        self.prepare(0)
        if self._mine is not None:
            self._left, self._index, self._mine = self._index, self._mine, None
            self._vectors = faiss.downcast_index(self._index.storage)

    def _both(self, search: Any, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """The best of what is linked, found by `search`, and of what waits."""
        n = self.linked
        if not n:
            return self._waiting.best(queries, k, mask)
        if not len(self._waiting):
            found: tuple[Vectors, Keys] = search(queries, k, mask)
            return found
        parts = []
        for part, start, end in ((search, 0, n), (self._waiting.best, n, len(self))):
            within = None if mask is None else mask[start:end]
            there = end - start if within is None else int(np.count_nonzero(within))
            if there:
                scores, rows = part(queries, min(k, there), within)
                parts.append((scores, rows + start))
        return merged(parts, k)

    def _scanned(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        return top_k(queries, self._linked_rows(), k, mask)

    def _through(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        n = self.linked
        matching = n if mask is None else int(np.count_nonzero(mask))
        scores, best = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        short = np.arange(len(queries))
        # Half of what a walk finds has to hold k matches (see `_walk`), and two standard deviations more, so that few walks come back
        # short: filters of 30 to 70 %, random ones and half spaces, then have the recall of no filter, within .007 (100,000 vectors).
        share = matching / n
        wide = max(self._ef_search, 3 * k, math.ceil(2 * (k + 2 * math.sqrt(k * (1 - share))) / share))
        for ef in (min(wide, n), min(RAISE * wide, n)):
            if not len(short) or (EXACT_PER_EF if len(short) < MANY else EXACT_MANY) * ef >= matching:
                break
            step = max(1, FOUND // ef)
            still = []
            for start in range(0, len(short), step):
                part = short[start : start + step]
                done, scores_done, best_done = self._walk(queries if len(part) == len(queries) else queries[part], k, mask, ef)
                if len(best_done) == len(queries):  # all of them at the first try, as a rule
                    return scores_done, best_done
                scores[part[done]], best[part[done]] = scores_done, best_done
                still.append(part[~done])
            short = np.concatenate(still)
        if len(short):
            scores[short], best[short] = self._scanned(queries[short], k, mask)
        return scores, best

    def _walk(self, queries: Vectors, k: int, mask: Mask | None, ef: int) -> tuple[Mask, Vectors, Keys]:
        """Which of the (q, dim) queries have k matches in the nearer half of ef rows found, and for those their best (done, k).

        The nearer half, because a walk misses more at its edge: with the query's own neighbourhood filtered out, recall was 0.84
        with all of it and 0.99 with half. (faiss's own selector fills up with matches far off, and had 0.20.)
        """
        params = _parameters(ef)
        if mask is None:
            found_scores, found = self._index.search(queries, k, params=params)
            done = found[:, -1] >= 0  # -1: the walk ended before it had seen so many rows
            return (done, found_scores, found) if done.all() else (done, found_scores[done], found[done])
        found_scores, found = self._index.search(queries, max(ef // 2, k), params=params)
        fits = (found >= 0) & mask[found]
        done = fits.sum(axis=1) >= k
        if fits[:, :k].all():
            return done, found_scores[done, :k], found[done, :k]
        first = np.argsort(~fits[done], axis=1, kind="stable")[:, :k]
        return done, np.take_along_axis(found_scores[done], first, 1), np.take_along_axis(found[done], first, 1)


@lru_cache(maxsize=256)
def _parameters(ef: int) -> faiss.SearchParametersHNSW:
    return faiss.SearchParametersHNSW(efSearch=ef)


@lru_cache(maxsize=4)
def _noise(dim: int) -> Vectors:
    """(many, dim) windows on random numbers from -.25 to .25; two of them are hardly ever the same."""
    noise = np.random.default_rng(0).random(NOISE + dim, np.float32) / 2 - np.float32(0.25)
    windows: Vectors = np.lib.stride_tricks.sliding_window_view(noise, dim)
    return windows


def _copy(old: Any, new: Any, rows: Keys | None = None, room: int = 0) -> None:
    """Make an empty IndexHNSWFlat a copy of another one, that of a file included, in memory of its own.

    `rows` are its rows in order; `room` is how many can be added before its memory has to move.
    """
    vectors, source = faiss.downcast_index(new.storage), faiss.downcast_index(old.storage)
    new.hnsw = old.hnsw
    new.hnsw.neighbors = faiss.MaybeOwnedVectorInt32()  # what came with it may be a view of a file's
    _fill(new.hnsw.neighbors, old.hnsw.neighbors, 1.05 * room / max(old.ntotal, 1))  # not all rows have as many
    vectors.ntotal = new.ntotal = old.ntotal
    if rows is None:
        _fill(vectors.codes, source.codes, room / max(old.ntotal, 1))
        return
    vectors.codes.resize(source.codes.size())
    new.hnsw.permute_entries(faiss.swig_ptr(rows))
    here, there = (faiss.rev_swig_ptr(part.get_xb(), old.ntotal * old.d).reshape(old.ntotal, old.d) for part in (source, vectors))
    np.take(here, rows, axis=0, out=there)


def _fill(new: Any, old: Any, share: float) -> None:
    """Copy a vector into an empty one, with room for such a share more: a std::vector keeps the memory it once had.

    To assign it would be quicker, and holds the interpreter's lock: 80 ms for 100,000 rows.
    """
    new.resize(old.size() + math.ceil(share * old.size()))
    faiss.memcpy(new.data(), old.data(), old.byte_size())
    new.resize(old.size())
