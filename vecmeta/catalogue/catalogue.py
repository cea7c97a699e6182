"""Collections by name, and the stores of what one collection holds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, delete, insert, make_url, select
from sqlalchemy.exc import IntegrityError

from vecmeta.catalogue import transfer
from vecmeta.catalogue.encoders import EncoderStore
from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.indexes import IndexStore
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.jobs import JobStore
from vecmeta.catalogue.judgements import JudgementLog
from vecmeta.catalogue.keys import KeyStore
from vecmeta.catalogue.migrations import migrate
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.policies import PolicyStore
from vecmeta.catalogue.sqlite import SqliteEngine
from vecmeta.catalogue.tables import collections, identity
from vecmeta.catalogue.traffic import TrafficStore
from vecmeta.catalogue.versions import VersionStore
from vecmeta.errors import AlreadyExists, CollectionNotFound


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """What is fixed when a collection is made."""

    id: int
    name: str
    spec: str
    encoder: str
    dim: int
    created: datetime


class Catalogue:
    """One database: a SQLite file, or one of a PostgreSQL server (``postgresql+psycopg://…``).

    Raises (from every method): the StorageError family, see `vecmeta.catalogue.engine`.
    """

    def __init__(self, where: Path | URL) -> None:
        self._engine = _engine(where)
        try:
            migrate(self._engine)
        except BaseException:
            self._engine.close()
            raise

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._engine.close()

    @property
    def identity(self) -> str:
        """A name that no other database has, hexadecimal."""
        with self._engine.reading() as connection:
            return str(connection.execute(select(identity.c.id)).scalar_one())

    @property
    def where(self) -> str:
        """The database for people, without a password."""
        return self._engine.where

    def create(self, name: str, spec: str, encoder: str, dim: int) -> CollectionRow:
        """A new, empty collection. Raises AlreadyExists."""
        values = {"name": name, "spec": spec, "encoder": encoder, "dim": dim, "created": datetime.now(UTC)}
        with self._engine.writing("collections") as connection:
            try:
                connection.execute(insert(collections).values(**values))
            except IntegrityError:
                raise AlreadyExists(f"there is a collection {name!r} already") from None
        return self.collection(name)

    def collection(self, name: str) -> CollectionRow:
        """The collection of that name. Raises CollectionNotFound."""
        c = collections.c
        with self._engine.reading() as connection:
            row = connection.execute(
                select(c.id, c.name, c.spec, c.encoder, c.dim, c.created).where(c.name == name)
            ).one_or_none()
        if row is None:
            names = self.names()
            known = ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "none yet"
            raise CollectionNotFound(f"there is no collection {name!r}; known: {known}")
        return CollectionRow(*row[:-1], created=aware(row.created))

    def names(self) -> list[str]:
        """The names of all collections, sorted."""
        with self._engine.reading() as connection:
            return list(connection.scalars(select(collections.c.name).order_by(collections.c.name)))

    def drop(self, name: str) -> CollectionRow:
        """Delete a collection and all that belongs to it. Raises CollectionNotFound."""
        row = self.collection(name)
        with self._engine.writing("collections") as connection:
            connection.execute(delete(collections).where(collections.c.id == row.id))
        return row

    def items(self, row: CollectionRow) -> ItemStore:
        """The items of a collection."""
        return ItemStore(self._engine, row.id, row.name, row.dim)

    def judgements(self, row: CollectionRow) -> JudgementLog:
        """The judgements of a collection."""
        return JudgementLog(self._engine, row.id, row.dim)

    def versions(self, row: CollectionRow) -> VersionStore:
        """The head versions of a collection, and which of them is live."""
        return VersionStore(self._engine, row.id, row.name)

    def encoders(self, row: CollectionRow) -> EncoderStore:
        """The fine-tuned encoders of a collection, and what they made of its contents."""
        return EncoderStore(self._engine, row.id, row.name, row.dim)

    def traffic(self, row: CollectionRow) -> TrafficStore:
        """Which version of a collection answers which searches, and what came of it."""
        return TrafficStore(self._engine, row.id, row.name)

    def policies(self, row: CollectionRow) -> PolicyStore:
        """When a collection adapts by itself."""
        return PolicyStore(self._engine, row.id, row.name)

    def indexes(self, row: CollectionRow, place: str) -> IndexStore:
        """The indexes of a collection in a Milvus."""
        return IndexStore(self._engine, row.id, place)

    def source(self, row: CollectionRow) -> AbstractContextManager[transfer.Source]:
        """All of a collection from one snapshot, to move it elsewhere."""
        return transfer.source(self._engine, row.id)

    def target(self, about: Mapping[str, Any]) -> AbstractContextManager[transfer.Target]:
        """A new collection that comes from elsewhere; `about` has the names of `transfer.ABOUT`. Raises AlreadyExists."""
        return transfer.target(self._engine, about)

    def jobs(self) -> JobStore:
        """Long work on all collections."""
        return JobStore(self._engine)

    def keys(self) -> KeyStore:
        """The API keys."""
        return KeyStore(self._engine)


def _engine(where: Path | URL) -> Engine:
    if isinstance(where, Path):
        return SqliteEngine(where)
    from vecmeta.catalogue.postgres import PostgresEngine  # brings the driver, which is an extra

    return PostgresEngine(where)


def open_catalogue(address: str) -> Catalogue:
    """The one that `ItemStore.address` names."""
    return Catalogue(make_url(address) if "://" in address else Path(address))
