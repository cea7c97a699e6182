"""All that belongs to one collection, read from one snapshot and written in one transaction: for moving it to another database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import (
    activations,
    clicks,
    collections,
    encoders,
    encodings,
    items,
    judgements,
    outcomes,
    policies,
    queries,
    query_encodings,
    version_encoders,
    versions,
)
from vecmeta.errors import AlreadyExists, CollectionNotFound

# Besides the items, in the order in which they refer to each other. Jobs and API keys belong to the database, splits to the moment.
PARTS: tuple[Table, ...] = (queries, judgements, versions, activations, policies, outcomes, clicks)
TUNED: tuple[Table, ...] = (
    encoders,
    version_encoders,
    query_encodings,
)  # of collections whose encoder was fine-tuned, after those
ITEM = ("id", "vector", "metadata", "digest", "text", "blob")
ENCODING = ("encoder", "id", "vector")  # of an item, by a fine-tuned encoder
ABOUT = ("name", "spec", "encoder", "dim", "live", "activation", "created")  # of the collection itself
_IN = 500  # values in one IN (…)


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
        """Pages of the collection's rows in one of PARTS or TUNED, in the order of their keys, without the collection's number."""
        query = select(*(column for column in table.c if column.name != "collection")).order_by(*table.primary_key.columns)
        if table is query_encodings:
            query = query.join(queries, queries.c.id == query_encodings.c.query).where(queries.c.collection == self._id)
        else:
            query = query.where(table.c.collection == self._id)
        found = self._connection.execute(query, execution_options={"yield_per": size})
        for page in found.mappings().partitions():
            yield [dict(row) for row in page]

    def encodings(self, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Pages of what fine-tuned encoders made of the items as they are now, as ENCODING says."""
        e = encodings.c
        same = and_(items.c.key == e.key, items.c.digest == e.digest)
        query = select(e.encoder, items.c.id, e.vector).join_from(encodings, items, same).order_by(e.encoder, e.key)
        found = self._connection.execute(query.where(items.c.collection == self._id), execution_options={"yield_per": size})
        for page in found.partitions():
            yield [tuple(row) for row in page]


class Target:
    """A collection that is being made; nobody sees it before all of it is there."""

    def __init__(self, engine: Engine, connection: Connection, collection: int) -> None:
        self._engine, self._connection = engine, connection
        self.number = collection  # of its row
        # rows' numbers, by those they had
        self._new: dict[str, dict[int, int]] = {"queries": {}, "activations": {}, "encoders": {}}

    def items(self, page: Sequence[tuple[Any, ...]]) -> None:
        """Items as ITEM says."""
        self._engine.write_items(self._connection, self.number, 1, page)
        self._connection.execute(update(collections).where(collections.c.id == self.number).values(revision=1))

    def rows(self, table: Table, page: Sequence[Mapping[str, Any]]) -> None:
        """Rows of one of PARTS or TUNED, after those that they refer to. Raises KeyError for one that refers to nothing."""
        owned = {"collection": self.number} if "collection" in table.c else {}
        mine = [{**row, **owned} for row in page]
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
        if table is encoders:
            for row in mine:
                number = row.pop("number")
                made = insert(encoders).values(**row).returning(encoders.c.number)
                self._new["encoders"][number] = self._connection.execute(made).scalar_one()
            return
        for row in mine:
            if table is judgements:
                del row["seq"]
            if table in (judgements, query_encodings):
                row["query"] = None if row["query"] is None else self._new["queries"][row["query"]]
            if table in (version_encoders, query_encodings):
                row["encoder"] = self._new["encoders"][row["encoder"]]
        self._connection.execute(insert(table), mine)

    def encodings(self, page: Sequence[tuple[Any, ...]]) -> None:
        """Rows as ENCODING says, after the items and the encoders. Raises KeyError for one that refers to nothing."""
        c, there = items.c, dict[str, tuple[int, bytes]]()
        ids = list({id for _, id, _ in page})
        for start in range(0, len(ids), _IN):
            query = select(c.id, c.key, c.digest).where(c.collection == self.number, c.id.in_(ids[start : start + _IN]))
            there.update((id, (key, digest)) for id, key, digest in self._connection.execute(query))
        rows = [
            {"key": there[id][0], "encoder": self._new["encoders"][encoder], "digest": there[id][1], "vector": vector}
            for encoder, id, vector in page
        ]
        self._connection.execute(insert(encodings), rows)

    def live(self, version: int, activation: int | None) -> None:
        """Which version is live, by the activation that its rows had. Raises KeyError for one that there is not."""
        values = {"live": version, "activation": None if activation is None else self._new["activations"][activation]}
        self._connection.execute(update(collections).where(collections.c.id == self.number).values(**values))


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
