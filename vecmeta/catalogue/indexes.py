"""What is known of indexes that live in a Milvus: which there are, how far each has followed the catalogue, and who may write to it.

A row is written before the collection is made there and deleted after it was dropped there, so whatever a killed process leaves behind
has a row by which it is found. `revision` and `key` are a place in the order in which `ItemStore.changes` gives rows: a build that was
broken off goes on from there. One process at a time writes to an index: who holds its lease, which runs out by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CursorResult, delete, or_, select, update

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.tables import collections, indexes
from vecmeta.errors import Conflict

LEASE = 30.0  # seconds; renewed with every step


@dataclass(frozen=True, slots=True)
class IndexRow:
    """An index in a Milvus; see the table."""

    name: str
    version: int
    head: str
    ready: bool
    revision: int
    key: int
    whole: bool
    ef: int | None


_COLUMNS = tuple(indexes.c[name] for name in IndexRow.__dataclass_fields__)


class IndexStore:
    """The indexes of one collection at one place."""

    def __init__(self, engine: Engine, collection: int, place: str) -> None:
        self._engine, self._collection, self._place = engine, collection, place
        self._here = indexes.c.place == place
        self._mine = self._here, indexes.c.collection == collection

    def find(self, version: int) -> IndexRow | None:
        """The index of a version."""
        query = select(*_COLUMNS).where(*self._mine, indexes.c.version == version)
        with self._engine.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else IndexRow(*row)

    def names(self) -> set[str]:
        """The names of all indexes of the collection."""
        with self._engine.reading() as connection:
            return set(connection.scalars(select(indexes.c.name).where(*self._mine)))

    def pace(self) -> float:
        """Seconds a row that building the newest index took which was timed; 0 without one."""
        query = select(indexes.c.pace).where(*self._mine, indexes.c.pace.is_not(None)).order_by(indexes.c.version.desc()).limit(1)
        with self._engine.reading() as connection:
            return connection.scalar(query) or 0.0

    def begin(self, version: int, name: str, head: str) -> IndexRow:
        """A row for an index that is about to be made; where another process has just begun one, that one's."""
        values = {
            "name": name, "place": self._place, "collection": self._collection, "version": version, "head": head,
            "ready": False, "revision": 0, "key": 0, "whole": True,
        }  # fmt: skip
        with self._engine.writing("indexes", self._collection) as connection:
            connection.execute(self._engine.upsert(indexes).values(**values).on_conflict_do_nothing())
        found = self.find(version)
        if found is None:
            raise Conflict(f"the index of version {version} was removed while it was begun; try again")
        return found

    def lease(self, name: str, holder: str) -> IndexRow | None:
        """Become the one who writes to an index; None while somebody else is. The row as it is then."""
        now = self._engine.now()
        free = or_(indexes.c.holder.is_(None), indexes.c.until < now)
        with self._engine.writing("indexes", self._collection) as connection:
            taken = _count(
                connection.execute(self._named(name).where(free).values(holder=holder, until=now + timedelta(seconds=LEASE)))
            )
            row = connection.execute(select(*_COLUMNS).where(indexes.c.name == name)).one_or_none() if taken else None
        return None if row is None or row.version is None else IndexRow(*row)

    def advance(self, name: str, holder: str, **values: Any) -> None:
        """Note how far an index has come, and hold it for longer. Raises Conflict when the lease has been lost."""
        mine = self._named(name).where(indexes.c.holder == holder, indexes.c.version.is_not(None))
        until = self._engine.now() + timedelta(seconds=LEASE)
        with self._engine.writing("indexes", self._collection) as connection:
            kept = _count(connection.execute(mine.values(until=until, **values)))
        if not kept:
            raise Conflict(
                f"the index {name} was taken over by another process or removed; what it lacks will be brought up by that one"
            )

    def release(self, name: str, holder: str) -> None:
        """Let others write."""
        with self._engine.writing("indexes", self._collection) as connection:
            connection.execute(self._named(name).where(indexes.c.holder == holder).values(holder=None, until=None))

    def needed(self, versions: set[int]) -> None:
        """Say which versions are needed; the others begin to be unused, but for those that somebody writes to."""
        now = self._engine.now()
        busy = indexes.c.until.is_not(None) & (indexes.c.until >= now)
        with self._engine.writing("indexes", self._collection) as connection:
            mine = update(indexes).where(*self._mine, indexes.c.version.is_not(None))
            connection.execute(mine.where(indexes.c.version.in_(versions)).values(unused=None))
            idle = mine.where(indexes.c.version.not_in(versions), indexes.c.unused.is_(None), ~busy)
            connection.execute(idle.values(unused=now))

    def retire(self, version: int) -> None:
        """The index of a version is to be dropped; another one may be begun at once."""
        with self._engine.writing("indexes", self._collection) as connection:
            gone = update(indexes).where(*self._mine, indexes.c.version == version)
            connection.execute(gone.values(version=None, holder=None, until=None))

    def retire_unused(self, grace: float) -> None:
        """The same for all that nothing has needed for so many seconds, and for those of collections that are no more."""
        there, since = indexes.c.version.is_not(None), self._engine.now() - timedelta(seconds=grace)
        with self._engine.writing("indexes", self._collection) as connection:
            connection.execute(update(indexes).where(*self._mine, there, indexes.c.unused <= since).values(version=None))
        alone = indexes.c.collection.not_in(select(collections.c.id))
        with self._engine.writing("indexes") as connection:  # of several collections: one after the other
            connection.execute(update(indexes).where(self._here, there, alone).values(version=None))

    def retired(self) -> list[str]:
        """The names of all indexes at this place, of any collection, that are to be dropped."""
        with self._engine.reading() as connection:
            return list(connection.scalars(select(indexes.c.name).where(self._here, indexes.c.version.is_(None))))

    def forget(self, name: str) -> None:
        """It has been dropped."""
        with self._engine.writing("indexes", self._collection) as connection:
            connection.execute(delete(indexes).where(indexes.c.name == name))

    @staticmethod
    def _named(name: str) -> Any:
        return update(indexes).where(indexes.c.name == name)


def _count(result: CursorResult[Any]) -> int:
    return result.rowcount
