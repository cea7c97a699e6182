"""The items of one collection: rows with base vector, metadata, content, and the number of the write that touched them last."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json  # as json.loads, whole numbers of any length included, in a third of the time
from sqlalchemy import Connection, Select, and_, bindparam, delete, func, insert, literal, null, or_, select, update

from vecmeta.catalogue.columns import Columns
from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.lists import among, chunks
from vecmeta.catalogue.recent import RecentRows, StoredRow
from vecmeta.catalogue.tables import collections, items, tombstones
from vecmeta.errors import CollectionNotFound
from vecmeta.types import Described, Item, Keys, Matching, Vectors
from vecmeta.where import Node

_PAGE = 1024  # rows of a streamed read: 1.5 MB of vectors at 384 dimensions


@dataclass(frozen=True, slots=True)
class Row:
    """An item as it is written."""

    id: str
    vector: bytes  # (dim,) float32
    metadata: str  # JSON object
    digest: bytes | None
    text: str | None
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class Known:
    """What an upsert wants to know of an item that is there."""

    digest: bytes | None
    vector: bytes
    metadata: str


class Page(NamedTuple):
    """Some rows, in the order of their writes. All up to the row `last` of `revision` have been given, but for those deleted since."""

    keys: Keys  # (n,)
    vectors: Vectors  # (n, dim)
    about: Described | None  # (n,), where it was asked for
    revision: int
    last: int


@dataclass(frozen=True, slots=True)
class Changes:
    """All that was written after a revision: remove first, then add page by page."""

    revision: int  # the index is current up to here once the changes are applied
    removed: Keys
    changed: Callable[[], int]  # how many rows there are after that revision, whatever the limit; to be asked in the block
    pages: Iterator[Page]


class ItemStore:
    """Items of one collection."""

    def __init__(self, engine: Engine, collection: int, name: str, dim: int) -> None:
        self._engine, self._id, self._name, self._dim = engine, collection, name, dim
        self._recent = RecentRows(engine, collection)
        self._columns = Columns(engine, collection)
        # Made once: to make such an expression takes as long as what the database does with it.
        mine = collections.c.id == collection
        self._revision = select(collections.c.revision).where(mine)
        self._next = update(collections).where(mine).values(revision=collections.c.revision + 1).returning(collections.c.revision)
        graves = tombstones.c.collection == collection, tombstones.c.revision > bindparam("since")
        self._graves = select(tombstones.c.key).where(*graves)
        self._newer: dict[tuple[bool, bool, bool], Select[Any]] = {}

    # -- writing -------------------------------------------------------------------------------------------------------------

    def write(self, rows: Iterable[Row]) -> int:
        """Insert or replace by id, in one transaction, rows drawn as they are needed; returns how many."""
        written = 0
        with self._engine.writing("items", self._id) as connection:
            revision = self._next_revision(connection)
            for chunk in chunks(rows, _PAGE):
                values = [(row.id, row.vector, row.metadata, row.digest, row.text, row.blob) for row in chunk]
                self._engine.write_items(connection, self._id, revision, values)
                written += len(chunk)
        return written

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the items that are there, leaving tombstones for the indexes; returns how many."""
        with self._engine.writing("items", self._id) as connection:
            keys = [key for key, _ in self._by_id(connection, ids, items.c.key)]
            if keys:
                revision = self._next_revision(connection)
                graves = [{"collection": self._id, "key": key, "revision": revision} for key in keys]
                connection.execute(insert(tombstones), graves)
                for chunk in chunks(keys):
                    connection.execute(delete(items).where(items.c.key.in_(chunk)))
        return len(keys)

    def _next_revision(self, connection: Connection) -> int:
        revision: int | None = connection.scalar(self._next)
        if revision is None:
            raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
        return revision

    # -- reading -------------------------------------------------------------------------------------------------------------

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Digest, vector and metadata of the items that are there."""
        with self._engine.reading() as connection:
            rows = self._by_id(connection, ids, items.c.id, items.c.digest, items.c.vector, items.c.metadata)
            return {id: Known(digest, vector, self._engine.json_out(about)) for id, digest, vector, about, _ in rows}

    def get(self, ids: Sequence[str]) -> dict[str, Item]:
        """The items that are there, by id."""
        with self._engine.reading() as connection:
            rows = self._by_id(connection, ids, items.c.id, items.c.metadata, items.c.text, items.c.blob)
            return {row[0]: self._item(*row[:-1]) for row in rows}

    def base_vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        """The (dim,) base vectors of the items that are there, by id."""
        with self._engine.reading() as connection:
            rows = self._by_id(connection, ids, items.c.id, items.c.vector)
            return {row[0]: np.frombuffer(row[1], dtype="<f4") for row in rows}

    def by_key(self, keys: Sequence[int], revision: int) -> list[StoredRow | None]:
        """Id, metadata as JSON, text and blob of each of these keys, as they are at a revision or later; None for one that is gone."""
        return self._recent.rows(keys, revision)

    def touched(self, keys: Keys, since: int, until: int) -> None:
        """Tell that these are all that was written or deleted between two revisions: `by_key` need not find that out again."""
        self._recent.touched(keys, since, until)

    def page(self, where: Node | None, after: str | None, limit: int) -> list[Item]:
        """Up to `limit` items by ascending id, after the id given."""
        query = select(items.c.id, items.c.metadata, items.c.text, items.c.blob).where(*self._which(where))
        if after is not None:
            query = query.where(items.c.id > after)
        with self._engine.reading() as connection:
            return [self._item(*row) for row in connection.execute(query.order_by(items.c.id).limit(limit))]

    def drawn(self, count: int, seed: int, contents: bool) -> list[Item]:
        """`count` items drawn at random, or all of them where there are no more; by ascending id, with or without contents."""
        keys = self.keys()
        if len(keys) > count:
            keys = np.sort(np.random.default_rng(seed).choice(keys, count, replace=False))
        held = (items.c.text, items.c.blob) if contents else (null(), null())
        found: list[Item] = []
        with self._engine.reading() as connection:
            query = select(items.c.id, items.c.metadata, *held)
            found += (self._item(*row) for row in among(connection, query, items.c.key, keys.tolist()))
        return sorted(found, key=lambda item: item.id)

    def count(self, where: Node | None = None) -> int:
        """How many items match."""
        with self._engine.reading() as connection:
            return connection.scalar(select(func.count()).select_from(items).where(*self._which(where))) or 0

    def revision(self) -> int:
        """The number of the last write. Raises CollectionNotFound."""
        row = self._engine.glance(self._revision)
        if row is None:
            raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
        return int(row[0])

    def keys(self, where: Node | None = None) -> Keys:
        """The keys of the items that match, ascending."""
        with self._engine.reading() as connection:
            found = connection.execute(select(items.c.key).where(*self._which(where)))
            # The driver's own rows, sorted here: half the time of SQLite's sorting and SQLAlchemy's rows.
            return np.sort(np.fromiter((key for (key,) in found.cursor.fetchall()), dtype=np.int64))

    def matching(self, where: Node, revision: int) -> Matching:
        """The items that match, each as it is at a revision or later: as `keys`, and quick from the second time on."""
        found = self._columns.matching(where, revision)
        return self._columns.placed(self.keys(where)) if found is None else found

    def vectors(self, keys: Keys) -> tuple[Keys, Vectors, list[str]]:
        """Of the given keys those still there, ascending: keys (n,), base vectors (n, dim), ids."""
        query = select(items.c.key, items.c.vector, items.c.id)
        with self._engine.reading() as connection:
            found = sorted(tuple(row) for row in among(connection, query, items.c.key, keys.tolist()))
        return (
            np.array([row[0] for row in found], dtype=np.int64),
            np.frombuffer(b"".join(row[1] for row in found), dtype="<f4").reshape(-1, self._dim),
            [row[2] for row in found],
        )

    @contextmanager
    def changes(self, since: int, key: int = 0, *, described: bool = False, limit: int | None = None) -> Iterator[Changes]:
        """What came after a revision, all from one snapshot that lasts as long as the block.

        `key`: of that revision too the rows above it, to go on where a `Page` ended. `described`: with ids and metadata. `limit`: rows.
        """
        told = {"since": since, "key": key, "most": sys.maxsize if limit is None else limit}
        rows, counted = (self._after(key > 0, described, count) for count in (False, True))
        with self._engine.reading() as connection:
            revision = connection.scalar(self._revision)
            if revision is None:
                raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
            removed: Keys = np.empty(0, dtype=np.int64)
            if since:  # a new index has nothing to remove
                removed = np.fromiter(connection.scalars(self._graves, told), dtype=np.int64)
            with closing(self._engine.pages(connection, rows, _PAGE, told)) as pages:
                yield Changes(revision, removed, lambda: connection.scalar(counted, told) or 0, self._pages(pages))

    def _after(self, key: bool, described: bool, count: bool) -> Select[Any]:
        """What `changes` reads, or how many rows that is without a limit."""
        c = items.c
        if (made := self._newer.get((key, described, count))) is None:
            beyond: Any = c.revision > bindparam("since")
            if key:
                beyond = or_(beyond, and_(c.revision == bindparam("since"), c.key > bindparam("key")))
            columns = (c.key, c.vector, c.revision, *((c.id, c.metadata) if described else ()))
            made = select(func.count()) if count else select(*columns).order_by(c.revision, c.key).limit(bindparam("most"))
            made = self._newer[key, described, count] = made.select_from(items).where(c.collection == self._id, beyond)
        return made

    def between(self, low: int, high: int) -> Iterator[Page]:
        """Items whose keys lie from `low` up to `high`, with ids and metadata."""
        c = items.c
        columns = c.key, c.vector, c.revision, c.id, c.metadata
        with self._engine.reading() as connection:
            query = select(*columns).where(c.collection == self._id, c.key >= low, c.key <= high).order_by(c.key)
            with closing(self._engine.pages(connection, query, _PAGE)) as rows:
                yield from self._pages(rows)

    @property
    def address(self) -> str:
        """What another process opens the same catalogue by, a password included."""
        return self._engine.address

    def _pages(self, partitions: Iterable[Sequence[Any]]) -> Iterator[Page]:
        for rows in partitions:
            keys = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
            vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4").reshape(-1, self._dim)
            about = [(row[3], self._engine.json_out(row[4])) for row in rows] if len(rows[0]) > 3 else None
            yield Page(keys, vectors, about, rows[-1][2], int(keys[-1]))

    def _which(self, where: Node | None) -> list[Any]:
        mine = items.c.collection == self._id
        return [mine] if where is None else [mine, self._engine.condition(where)]

    def _by_id(self, connection: Connection, ids: Sequence[str], *columns: Any) -> Iterator[Any]:
        """Rows of `columns` (and a last one that is always 1, so that one column is still a tuple) of the ids that are there."""
        query = select(*columns, literal(1)).where(items.c.collection == self._id)
        return among(connection, query, items.c.id, ids)

    def _item(self, id: str, metadata: str, text: str | None, blob: bytes | None) -> Item:
        content = self._engine.text_out(text) if blob is None else blob
        return Item(id, content, from_json(self._engine.json_out(metadata)))
