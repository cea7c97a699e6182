"""What every index kept in memory shares: checks, keys, locks, the moment to start afresh, and its files."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from vecmeta.errors import IndexUnavailable, InvalidConfig, InvalidInput, InvalidVector
from vecmeta.index.keys import KeyTable, Mask
from vecmeta.index.locks import ReadWriteLock
from vecmeta.types import Keys, Vectors

SLICE = (
    2048  # rows written per turn of the lock; 512 make a graph a quarter slower to build, more let searches wait longer than .3 s
)
DEAD_SHARE, DEAD_ROWS = 0.3, 1000  # start afresh when more than this share AND more than this number of rows are dead
UNIT = 1e-3  # how far a row's length may be from 1


class Store(Protocol):
    """Vectors by row number, appended only. Unlocked."""

    def rows(self) -> Vectors:
        """(rows, dim), a view that is valid until the next append."""

    def append(self, vectors: Vectors) -> None:
        """Add (n, dim) rows, copied."""

    def reserve(self, rows: int) -> None:
        """Make room for this many rows in all."""

    def best(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """Scores and rows, both (q, k), best first; only rows in the mask, of which there are at least k."""

    def dump(self, folder: Path) -> None:
        """Write the vectors, and what speeds up their search."""


class _State(NamedTuple):
    table: KeyTable
    store: Store


class KeyedIndex(ABC):
    """A VectorIndex (see `vecmeta.index.protocol`) over a store that can only append.

    Writers take turns. A writer shuts readers out for one slice of rows at a time; each key is replaced within one slice, so a
    search sees its old or its new vector, never none. Starting afresh, to drop dead rows or to change the kind of store, happens
    beside the readers and costs a second copy for as long as it takes.
    """

    kind: str

    def __init__(self, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise InvalidConfig(f"dim must be a whole number from 1 up, not {dim!r}")
        self.dim = dim
        self._lock = ReadWriteLock()  # readers against the one writer
        self._writer = threading.Lock()  # writers against each other
        self._expected = 0
        self._gone = ""  # why it cannot be used any more
        self._state = _State(KeyTable(), self._make(0))

    @abstractmethod
    def _make(self, count: int) -> Store:
        """An empty store that is right for this many vectors."""

    @abstractmethod
    def _outgrown(self, store: Store, count: int) -> bool:
        """Whether a store of another kind would be right for this many vectors."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The keyword arguments of the constructor."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, dim: int, settings: Mapping[str, Any]) -> Store:
        """The store that was dumped there."""

    def __len__(self) -> int:
        return self._now().table.count

    def reserve(self, count: int) -> None:
        """Say how many vectors will be held in all, so that memory is taken once instead of by doubling."""
        with self._writer, self._lock.writing():
            self._expected = count
            self._now().store.reserve(count)

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Add or replace. keys (n,) int64 >= 0; vectors (n, dim) float32 unit rows. The last of equal keys wins.

        Raises InvalidVector (shape, dtype, a row whose length is not 1) or InvalidInput (keys), and has then changed nothing.
        """
        keys, vectors = check_keys(keys), check_rows(vectors, self.dim)
        if len(keys) != len(vectors):
            raise InvalidVector(f"{len(keys)} keys but {len(vectors)} vectors")
        last = _last_of_equal(keys)
        if last is not None:
            keys, vectors = keys[last], vectors[last]
        with self._writer:
            table, store = self._now()
            new = len(keys) if not table.rows else int((table.find(keys) < 0).sum())
            if self._outgrown(store, table.count + new):
                self._start_afresh(table.count + new)
            elif len(keys) > table.rows:  # a bulk load: take the memory at once
                with self._lock.writing():
                    store.reserve(table.rows + len(keys))
            for start in range(0, len(keys), SLICE):
                self._append(keys[start : start + SLICE], vectors[start : start + SLICE])
            self._tidy()

    def remove(self, keys: Keys) -> int:
        """Remove; returns how many of the keys were there. Raises InvalidInput for keys that are not (n,) int64 >= 0."""
        keys = np.unique(check_keys(keys))
        with self._writer:
            table = self._now().table
            rows = table.find(keys)
            rows = rows[rows >= 0]
            if len(rows):
                with self._lock.writing():
                    table.kill(rows)
                self._tidy()
            return len(rows)

    def search(self, queries: Vectors, k: int, *, allowed: Keys | None = None) -> tuple[Vectors, Keys]:
        """The k nearest of each of the (q, dim) float32 unit queries: scores (q, m) float32 and keys (q, m) int64.

        m is min(k, matching items). Raises InvalidVector (queries), InvalidConfig (k < 1) or InvalidInput (allowed).
        """
        queries = check_rows(queries, self.dim)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidConfig(f"k must be a whole number from 1 up, not {k!r}")
        wanted = None if allowed is None else check_keys(allowed)
        with self._lock.reading():
            table, store = self._now()
            mask, matching = (table.live if table.count < table.rows else None), table.count
            if wanted is not None:
                mask = np.zeros(table.rows, np.bool_)
                rows = table.find(np.sort(wanted))  # in order, the look-up is 3-4 times quicker
                mask[rows[rows >= 0]] = True
                matching = int(np.count_nonzero(mask))
            m = min(int(k), matching)
            if not m or not len(queries):
                return np.empty((len(queries), m), np.float32), np.empty((len(queries), m), np.int64)
            scores, best = store.best(queries, m, mask)
            return np.clip(scores, -1, 1, out=scores), table.by_row[best]  # rounding must not leave the cosine's range

    def vectors(self, keys: Keys) -> Vectors:
        """The (n, dim) stored vectors of known keys, a copy, to within 2e-6; KeyError names the first unknown one."""
        keys = check_keys(keys)
        with self._lock.reading():
            table, store = self._now()
            rows = table.find(keys)
            if (rows < 0).any():
                raise KeyError(int(keys[np.argmax(rows < 0)]))
            return store.rows()[rows]

    def keys(self) -> Keys:
        """All keys, ascending, (n,) int64."""
        with self._lock.reading():
            return self._now().table.live_keys()

    def dump(self, folder: Path) -> None:
        """Write all of it into an existing empty folder. Readers go on, writers wait. Raises OSError as the system gave it."""
        with self._writer:
            table, store = self._now()
            write_array(folder / "keys.npy", table.by_row)
            if table.count < table.rows:
                write_array(folder / "live.npy", table.live)
            store.dump(folder)
            (folder / "index.json").write_text(json.dumps({"dim": self.dim, "settings": self._settings()}), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `dump` wrote. Raises ValueError for files that do not fit together, OSError as the system gave it."""
        about = json.loads((folder / "index.json").read_text("utf-8"))
        index = cls(about["dim"], **about["settings"])
        keys = np.load(folder / "keys.npy", allow_pickle=False)
        live = np.load(folder / "live.npy", allow_pickle=False) if (folder / "live.npy").exists() else None
        store = cls._read(folder, index.dim, about["settings"])
        if store.rows().shape != (len(keys), index.dim):
            raise ValueError(f"{len(keys)} keys of dim {index.dim}, but vectors {store.rows().shape}")
        index._state = _State(KeyTable.restored(keys, live), store)
        return index

    def close(self) -> None:
        """Free what it holds; idempotent. Anything else asked of it raises IndexUnavailable from then on."""
        with self._writer, self._lock.writing():
            self._give_up("it is closed")

    def _now(self) -> _State:
        if self._gone:
            raise IndexUnavailable(f"the {self.kind} index cannot be used: {self._gone}")
        return self._state

    def _give_up(self, why: str) -> None:
        self._gone = self._gone or why
        self._state = _State(KeyTable(), self._make(0))

    def _append(self, keys: Keys, vectors: Vectors) -> None:
        table, store = self._state
        with self._lock.writing():
            try:
                store.append(vectors)
                table.append(keys)
            except BaseException:  # out of memory or interrupted half-way: rows and keys may be out of step
                self._give_up("a write was interrupted; load or build it again")
                raise

    def _tidy(self) -> None:
        table = self._state.table
        dead = table.rows - table.count
        if dead and (not table.count or (dead > DEAD_ROWS and dead > DEAD_SHARE * table.rows)):
            self._start_afresh(table.count)

    def _start_afresh(self, count: int) -> None:
        """Copy the live rows into a store that is right for `count` vectors, in the order of their keys."""
        old_table, old_store = self._state
        table, store = KeyTable(), self._make(count)
        store.reserve(max(count, self._expected))
        rows = old_table.live_rows()
        for start in range(0, len(rows), SLICE):
            part = rows[start : start + SLICE]
            store.append(old_store.rows()[part])
            table.append(old_table.by_row[part])
        with self._lock.writing():
            self._state = _State(table, store)


def check_rows(vectors: Vectors, dim: int) -> Vectors:
    """The given (n, dim) float32 unit rows, made contiguous; InvalidVector for anything else."""
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != dim:
        given = f"shape {vectors.shape}" if isinstance(vectors, np.ndarray) else f"a {type(vectors).__name__}"
        raise InvalidVector(f"vectors must be an array of shape (n, {dim}), not {given}")
    if vectors.dtype != np.float32:
        raise InvalidVector(f"vectors must be float32, not {vectors.dtype}")
    vectors = np.ascontiguousarray(vectors)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    fine = np.abs(lengths - 1) <= UNIT  # False for NaN and infinity too
    if not fine.all():
        first = int(np.argmin(fine))
        raise InvalidVector(f"vectors must be finite and of length 1; row {first} has length {lengths[first]:.4g}")
    return vectors


def check_keys(keys: Keys) -> Keys:
    """The given (n,) int64 keys >= 0; InvalidInput for anything else."""
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype != np.int64:
        given = f"{keys.dtype} of shape {keys.shape}" if isinstance(keys, np.ndarray) else f"a {type(keys).__name__}"
        raise InvalidInput(f"keys must be an int64 array of shape (n,), not {given}")
    if len(keys) and keys.min() < 0:
        raise InvalidInput(f"keys must be 0 or more, not {keys.min()}")
    return keys


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Like np.save, but through a Python file, so that a full disk keeps its errno."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data.cast("B") if array.size else b"")


def _last_of_equal(keys: Keys) -> Keys | None:
    """Where the last of each key stands, in the order of the keys; None when they ascend anyway."""
    if len(keys) < 2 or (np.diff(keys) > 0).all():
        return None
    return len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
