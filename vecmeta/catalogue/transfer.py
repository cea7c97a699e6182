"""All that belongs to one collection, read from one snapshot and written in one transaction: for moving it to another database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import activations, clicks, collections, items, judgements, outcomes, policies, queries, versions
from vecmeta.errors import AlreadyExists, CollectionNotFound

# Besides the items, in the order in which they refer to each other. Jobs and API keys belong to the database, splits to the moment.
PARTS: tuple[Table, ...] = (queries, judgements, versions, activations, policies, outcomes, clicks)
ITEM = ("id", "vector", "metadata", "digest", "text", "blob")
ABOUT = ("name", "spec", "encoder", "dim", "live", "activation", "created")  # of the collection itself


class Source:
    """A collection as it is in one snapshot."""

    def __init__(self, engine: Engine, connection: Connection, collection: int) -> None:
        self._engine, self._connection, self._id = engine, connection, collection

    def about(self) -> dict[str, Any]:
        """The collection's own row, see ABOUT. Raises CollectionNotFound: it has just been dropped."""
        columns = [collections.c[name] for name in ABOUT]
        row = self._connection.execute(select(*columns).where(collections.c.id == self._id)).mappings().one_or_none()
        if row is None:
            raise CollectionNotFound("the collection has been dropped")
        return {**row, "created": aware(row["created"])}

    def count(self) -> int:
        """How many items there are."""
        return self._connection.scalar(select(func.count()).select_from(items).where(items.c.collection == self._id)) or 0

    def items(self, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Pages of items as ITEM says, in the order in which they came; never all of them in memory."""
        query = select(*(items.c[name] for name in ITEM)).where(items.c.collection == self._id).order_by(items.c.key)
        for page in self._engine.pages(self._connection, query, size):
            yield [
                (id, vector, self._engine.json_out(about), digest, self._engine.text_out(text), blob)
                for id, vector, about, digest, text, blob in page
            ]

    def rows(self, table: Table, size: int) -> Iterator[list[Mapping[str, Any]]]:
        """Pages of the collection's rows in one of PARTS, in the order of their keys, without the collection's number."""
        columns = [column for column in table.c if column.name != "collection"]
        query = select(*columns).where(table.c.collection == self._id).order_by(*table.primary_key.columns)
        found = self._connection.execute(query, execution_options={"yield_per": size})
        for page in found.mappings().partitions():
            yield [dict(row) for row in page]


class Target:
    """A collection that is being made; nobody sees it before all of it is there."""

    def __init__(self, engine: Engine, connection: Connection, collection: int) -> None:
        self._engine, self._connection, self._id = engine, connection, collection
        self._new: dict[str, dict[int, int]] = {"queries": {}, "activations": {}}  # rows' numbers, by those they had

    def items(self, page: Sequence[tuple[Any, ...]]) -> None:
        """Items as ITEM says."""
        self._engine.write_items(self._connection, self._id, 1, page)
        self._connection.execute(update(collections).where(collections.c.id == self._id).values(revision=1))

    def rows(self, table: Table, page: Sequence[Mapping[str, Any]]) -> None:
        """Rows of one of PARTS, after those that they refer to. Raises KeyError for one that refers to nothing."""
        mine = [{**row, "collection": self._id} for row in page]
        if table is queries:
            new = self._connection.execute(
                insert(queries).returning(queries.c.id, sort_by_parameter_order=True),
                [{name: value for name, value in row.items() if name != "id"} for row in mine],
            ).scalars()
            self._new["queries"] |= zip((row["id"] for row in mine), new, strict=True)
            return
        if table is activations:
            known = self._new["activations"]
            for row in mine:
                seq = row.pop("seq")
                row["parent"] = None if row["parent"] is None else known[row["parent"]]
                known[seq] = self._connection.execute(insert(activations).values(**row).returning(activations.c.seq)).scalar_one()
            return
        if table is judgements:
            known = self._new["queries"]
            for row in mine:
                del row["seq"]
                row["query"] = None if row["query"] is None else known[row["query"]]
        self._connection.execute(insert(table), mine)

    def live(self, version: int, activation: int | None) -> None:
        """Which version is live, by the activation that its rows had. Raises KeyError for one that there is not."""
        values = {"live": version, "activation": None if activation is None else self._new["activations"][activation]}
        self._connection.execute(update(collections).where(collections.c.id == self._id).values(**values))


@contextmanager
def source(engine: Engine, collection: int) -> Iterator[Source]:
    """The collection for as long as the block lasts; writes that come meanwhile are not seen."""
    with engine.reading() as connection:
        yield Source(engine, connection, collection)


@contextmanager
def target(engine: Engine, about: Mapping[str, Any]) -> Iterator[Target]:
    """A new collection, which is there once the block has ended well, and never was otherwise. Raises AlreadyExists."""
    values = {name: about[name] for name in ("name", "spec", "encoder", "dim", "created")}
    with engine.writing("import") as connection:
        try:
            id = connection.execute(insert(collections).values(**values).returning(collections.c.id)).scalar_one()
        except IntegrityError:
            raise AlreadyExists(f"there is a collection {about['name']!r} already") from None
        yield Target(engine, connection, id)
