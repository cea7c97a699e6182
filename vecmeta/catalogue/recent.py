"""Rows of items that searches found lately, kept in memory and never older than what the search knows of.

Every search ends by reading its hits. From SQLite that takes as long as the walk through the graph, and gives the interpreter lock away
once a row, which other threads then hold for a while. Most of what is found is found again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from itertools import islice

from sqlalchemy import select

from vecmeta.catalogue.engine import KEYS, Engine
from vecmeta.catalogue.lists import chunks
from vecmeta.catalogue.tables import collections, items, tombstones
from vecmeta.types import Keys

KEPT = 100_000  # rows
LONGEST = 4_000  # characters of metadata and text of a row that is kept
MOST = 40_000_000  # of all rows: 80 MB, where they are not ASCII alone; a few as a rule

StoredRow = tuple[str, str, str | None, bytes | None]  # id, metadata as JSON, text, blob


class RecentRows:
    """The rows of one collection. Safe to use from several threads; writes of other processes are seen by the revision."""

    def __init__(self, engine: Engine, collection: int) -> None:
        self._engine, self._id = engine, collection
        now = select(collections.c.revision).where(collections.c.id == collection).scalar_subquery()
        # One statement is one snapshot, and a third of what SQLAlchemy takes for the same in a transaction.
        self._by_key = select(items.c.key, now, items.c.id, items.c.metadata, items.c.text, items.c.blob).where(
            items.c.key.op("IN")(KEYS)
        )
        self._rows: dict[int, StoredRow] = {}  # oldest first
        self._length = 0  # characters of metadata and text
        self._revision = 0  # no row here is older than its state at this revision
        self._lock = threading.Lock()

    def rows(self, keys: Sequence[int], revision: int) -> list[StoredRow | None]:
        """The row of each key, as it is at `revision` or later; None for one that is not there any more."""
        with self._lock:
            if self._revision < revision:
                self._renew()
            found = list(map(self._rows.get, keys))
        if all(found):
            return found
        read, at = self._read(list({key for key, row in zip(keys, found, strict=True) if row is None}))
        with self._lock:
            if self._revision <= at:  # else a write that came between may have changed what was read
                self._keep(read)
        return [row or read.get(key) for key, row in zip(keys, found, strict=True)]

    def touched(self, keys: Keys, since: int, until: int) -> None:
        """These are all that was written or deleted after `since`, up to `until`."""
        with self._lock:
            if since <= self._revision < until:
                self._forget(keys.tolist() if self._rows else ())
                self._revision = until

    def _keep(self, read: dict[int, StoredRow]) -> None:
        self._forget(read)  # another thread may have read them as well
        for key, row in read.items():
            if row[3] is None and (length := _length(row)) <= LONGEST:
                self._rows[key] = row
                self._length += length
        while len(self._rows) > KEPT or self._length > MOST:
            self._forget(list(islice(self._rows, len(self._rows) // 8 + 1)))

    def _forget(self, keys: Iterable[int]) -> None:
        for key in keys:
            row = self._rows.pop(key, None)
            self._length -= 0 if row is None else _length(row)

    def _renew(self) -> None:
        """Forget what was written or deleted since."""
        with self._engine.reading() as connection:
            now: int = connection.scalar(select(collections.c.revision).where(collections.c.id == self._id)) or 0
            for table in (items, tombstones) if self._rows else ():
                changed = select(table.c.key).where(table.c.collection == self._id, table.c.revision > self._revision)
                keys = connection.scalars(changed.limit(KEPT)).all()
                if len(keys) == KEPT:  # a bulk load: not worth telling apart
                    self._rows, self._length = {}, 0
                self._forget(keys)
        self._revision = now

    def _read(self, keys: Sequence[int]) -> tuple[dict[int, StoredRow], int]:
        """The rows, and a revision that none of them is older than."""
        found: dict[int, StoredRow] = {}
        oldest: int | None = None
        text_out, json_out = self._engine.text_out, self._engine.json_out
        for part in chunks(keys):
            rows = self._engine.among(self._by_key, part)
            for key, _, id, metadata, text, blob in rows:
                found[key] = id, json_out(metadata), text_out(text), blob
            if rows:
                oldest = rows[0][1] if oldest is None else min(oldest, rows[0][1])
        return found, oldest or 0


def _length(row: StoredRow) -> int:
    return len(row[1]) + len(row[2] or "")
