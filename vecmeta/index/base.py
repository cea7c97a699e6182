"""What every index kept in memory shares: checks, keys, locks, the bringing up to date of what speeds it up, and its files."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from vecmeta.errors import IndexUnavailable, InvalidConfig, InvalidInput
from vecmeta.index.checks import check_keys, check_rows, pairs
from vecmeta.index.files import write_array
from vecmeta.index.filters import SlotRows, marked
from vecmeta.index.keys import KeyTable
from vecmeta.index.linking import BRIEF, CALM, HURRY, LEAST, LEISURE, LONG, pace
from vecmeta.index.locks import ReadWriteLock, Turns
from vecmeta.index.protocol import Allowed
from vecmeta.index.stores import State, Store
from vecmeta.types import Keys, Matching, Vectors
from vecmeta.where import Node

SLICE = 2048  # rows written per turn of the lock
DEAD_SHARE, DEAD_ROWS = 0.3, 1000  # start afresh when more than this share AND more than this number of rows are dead


class KeyedIndex(ABC):
    """A VectorIndex (see `vecmeta.index.protocol`) over a store that can only append.

    Writers take turns. A writer shuts readers out for one slice of rows at a time; each key is replaced within one slice, so a
    search sees its old or its new vector, never none. What is written is found at once; what makes that quick is done by `settle`.
    """

    kind: str

    def __init__(self, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise InvalidConfig(f"dim must be a whole number from 1 up, not {dim!r}")
        self.dim = dim
        self._lock = ReadWriteLock()  # readers against the one writer
        self._writer = Turns()  # writers against each other, and against linking
        self._settling = threading.Lock()
        self._worn = False  # the structure is to be made anew
        self._slots = SlotRows()
        self._gone = ""  # why it cannot be used any more
        self._state = State(KeyTable(), self._make())

    @abstractmethod
    def _make(self) -> Store:
        """An empty store."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The keyword arguments of the constructor."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, dim: int, settings: Mapping[str, Any]) -> Store:
        """The store that was dumped there."""

    def __len__(self) -> int:
        return self._now().table.count

    @property
    def linked(self) -> int:
        """Rows that are in the structure that speeds searches up, dead ones included."""
        return self._state.store.linked

    @property
    def pending(self) -> int:
        """Rows that `settle` has to do something about; 0 when searches are as quick as they get."""
        store = self._state.store
        return len(store) if self._worn else store.pending

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Add or replace. keys (n,) int64 >= 0; vectors (n, dim) float32 unit rows. The last of equal keys wins.

        Raises InvalidVector (shape, dtype, a row whose length is not 1) or InvalidInput (keys), and has then changed nothing.
        """
        keys, vectors = pairs(keys, vectors, self.dim)
        with self._writer:
            self._now()
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

    def expression(self, node: Node) -> None:  # noqa: ARG002
        """None: filters come as keys."""
        return

    def search(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """The k nearest of each of the (q, dim) float32 unit queries: scores (q, m) float32 and keys (q, m) int64.

        m is min(k, matching items). Raises InvalidVector (queries), InvalidConfig (k < 1) or InvalidInput (allowed).
        """
        return self._searched(queries, k, allowed, exact=False)

    def exact(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """`search` by scoring every vector: the k nearest without missing any."""
        return self._searched(queries, k, allowed, exact=True)

    def _searched(self, queries: Vectors, k: int, allowed: Allowed, exact: bool) -> tuple[Vectors, Keys]:
        queries = check_rows(queries, self.dim)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidConfig(f"k must be a whole number from 1 up, not {k!r}")
        if isinstance(allowed, str):
            raise InvalidInput(f"the {self.kind} index has no language of filters: give keys, not {allowed!r}")
        wanted = allowed if allowed is None or isinstance(allowed, Matching) else check_keys(allowed)
        with self._lock.reading():
            table, store = self._now()
            mask, matching = (table.live if table.count < table.rows else None), table.count
            if wanted is not None:
                mask = self._slots.mask(table, wanted) if isinstance(wanted, Matching) else marked(table, wanted)
                matching = int(np.count_nonzero(mask))
            m = min(int(k), matching)
            if not m or not len(queries):
                return np.empty((len(queries), m), np.float32), np.empty((len(queries), m), np.int64)
            scores, best = (store.exact if exact else store.best)(queries, m, mask)
            return np.clip(scores, -1, 1, out=scores), table.by_row[best]  # rounding must not leave the cosine's range

    def vectors(self, keys: Keys) -> Vectors:
        """The (n, dim) stored vectors of known keys, a copy, to within 2e-6; KeyError names the first unknown one."""
        keys = check_keys(keys)
        with self._lock.reading():
            table, store = self._now()
            rows = table.find(keys)
            if (rows < 0).any():
                raise KeyError(int(keys[np.argmax(rows < 0)]))
            return store.gather(rows)

    def keys(self) -> Keys:
        """All keys, ascending, (n,) int64."""
        with self._lock.reading():
            return self._now().table.live_keys()

    # -- bringing up to date ---------------------------------------------------------------------------------------------------

    def settle(self, go_on: Callable[[], None] = lambda: None) -> int:
        """Link what is pending, beside searches and writes, which wait for a few thousandths of a second; returns how many rows were.

        `go_on` is called now and then, and what it raises ends the work where it is. One thread does it, others wait for it.
        """
        done = 0
        with self._settling:
            if self._worn:
                done += self._renew(go_on)
            rows, others, seen, calm = LEAST, -1, 0.0, False
            while True:
                go_on()
                store = self._state.store
                if store.pending:
                    store.prepare(0 if calm else rows)  # what is linked does not change meanwhile: writes go on as well
                with self._writer.patiently():
                    begin = time.perf_counter()
                    linked = self._link(rows)
                    spent = time.perf_counter() - begin
                    goes_on = linked > 0 or self._state.store.rest()
                    turn = time.perf_counter() - begin
                if not goes_on:
                    return done
                done += linked
                if self._others() != others:
                    others, seen = self._others(), begin
                calm = begin - seen >= CALM
                rows = pace(linked, spent, LONG if calm else BRIEF) if linked else rows
                if not calm and self._state.store.pending < HURRY:
                    time.sleep(min(LEISURE * turn, CALM))

    def _others(self) -> int:
        """Grows with every reader and writer."""
        return self._lock.entered + self._writer.taken

    def wear(self) -> None:
        """Have `settle` make the structure anew, with the vectors as they are now."""
        self._worn = bool(self._state.store.linked)

    def _link(self, rows: int) -> int:
        table, store, before = *self._state, self._state.store.linked
        if not store.pending:
            return 0
        with self._lock.writing(), self._whole():
            table.exchange(*store.mixed(rows))
            store.link(rows)
        return store.linked - before

    def _renew(self, go_on: Callable[[], None]) -> int:
        """Make a new store of the live rows and put it in place of the old one.

        In random order: where whole topics had come one after the other, a few rows at a time, recall@10 was .91, and in random order 1.
        """
        with self._writer:
            old = self._now()
            rows, upto = np.random.default_rng(0).permutation(old.table.live_rows()), old.table.rows
        store, few = self._make(), LEAST
        for start in range(0, len(rows), SLICE):
            part = rows[start : start + SLICE]
            with self._lock.reading():
                store.append(old.store.gather(part))
        while store.pending:
            go_on()
            begin, before = time.perf_counter(), store.linked
            store.link(few)
            few = pace(store.linked - before, time.perf_counter() - begin, LONG)
        if self._replaced(old, store, rows, upto):
            with self._writer:
                self._worn = False
                self._tidy()  # what died meanwhile
        return store.linked

    def _replaced(self, old: State, store: Store, rows: Keys, upto: int) -> bool:
        """Put a store of these rows in place of the old one, with what came after the first `upto`; False: all was removed meanwhile."""
        with self._writer:
            if self._state is not old:
                return False
            late = upto + np.flatnonzero(old.table.live[upto:])
            store.append(old.store.gather(late))
            rows = np.concatenate((rows, late))
            table = KeyTable.restored(old.table.by_row[rows], old.table.live[rows])
            with self._lock.writing():
                self._state = State(table, store)
            return True

    def fork(self) -> Self | None:
        """An index of the same keys and structure, copied, for other vectors: see `fill`. None where there is no structure to keep.

        What is pending is left out.
        """
        with self._writer:
            table, store = self._now()
            if not store.linked:
                return None
            copy = type(self)(self.dim, **self._settings())
            copy._state = State(table.head(store.linked), store.fork())
            return copy

    def fill(self, keys: Keys, vectors: Vectors) -> None:
        """`add`, but vectors of keys that are there are put in the place of the old ones, and what links them stays as it is.

        For what `fork` made, before anybody reads it; several threads may do it at once, for different keys.
        """
        keys, vectors = pairs(keys, vectors, self.dim)
        table, store = self._now()
        rows = table.find(keys)
        there = rows >= 0
        if there.all():
            store.overwrite(rows, vectors)
        else:
            with self._writer:
                store.overwrite(rows[there], vectors[there])
            self.add(keys[~there], vectors[~there])

    # -- files ---------------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path) -> None:
        """Write all of it into an existing empty folder. Readers go on, writers wait. Raises OSError as the system gave it."""
        with self._writer:
            table, store = self._now()
            write_array(folder / "keys.npy", [table.by_row], (table.rows,), "<i8")
            if table.count < table.rows:
                write_array(folder / "live.npy", [table.live], (table.rows,), "|b1")
            store.dump(folder)
            about = {"dim": self.dim, "settings": self._settings(), "worn": self._worn}
            (folder / "index.json").write_text(json.dumps(about), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `dump` wrote. Raises ValueError for files that do not fit together, OSError as the system gave it."""
        about = json.loads((folder / "index.json").read_text("utf-8"))
        index = cls(about["dim"], **about["settings"])
        keys = np.load(folder / "keys.npy", allow_pickle=False)
        live = np.load(folder / "live.npy", allow_pickle=False) if (folder / "live.npy").exists() else None
        store = cls._read(folder, index.dim, about["settings"])
        if len(store) != len(keys):
            raise ValueError(f"{len(keys)} keys, but {len(store)} vectors")
        index._state = State(KeyTable.restored(keys, live), store)
        index._worn = about["worn"] is True
        return index

    def close(self) -> None:
        """Free what it holds; idempotent. Anything else asked of it raises IndexUnavailable from then on."""
        with self._writer, self._lock.writing():
            self._give_up("it is closed")

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _now(self) -> State:
        if self._gone:
            raise IndexUnavailable(f"the {self.kind} index cannot be used: {self._gone}")
        return self._state

    def _give_up(self, why: str) -> None:
        self._gone = self._gone or why
        self._state = State(KeyTable(), self._make())

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Around a change of the store: when it is broken off, out of memory or interrupted, rows and keys may be out of step."""
        try:
            yield
        except BaseException:
            self._give_up("a write was interrupted; load or build it again")
            raise

    def _append(self, keys: Keys, vectors: Vectors) -> None:
        table, store = self._state
        with self._lock.writing(), self._whole():
            store.append(vectors)
            table.append(keys)

    def _tidy(self) -> None:
        table, store = self._state
        dead = table.rows - table.count
        if dead and (not table.count or (dead > DEAD_ROWS and dead > DEAD_SHARE * table.rows)):
            if store.linked and table.count:
                self._worn = True
            else:
                self._compact()

    def _compact(self) -> None:
        """Leave the dead rows behind, where nothing is linked."""
        old_table, old_store = self._state
        table, store = KeyTable(), self._make()
        rows = old_table.live_rows()
        for start in range(0, len(rows), SLICE):
            store.append(old_store.gather(rows[start : start + SLICE]))
        table.append(old_table.by_row[rows])
        with self._lock.writing():
            self._state = State(table, store)
        self._worn = False
