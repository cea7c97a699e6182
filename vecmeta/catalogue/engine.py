"""What the stores ask of a database, whichever it is: transactions, and the one place where SQL errors become vecmeta's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import sqlalchemy
from sqlalchemy import ColumnElement, Connection, RootTransaction, Select, Table, literal_column
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from vecmeta.errors import CollectionNotFound, StorageBusy, StorageError
from vecmeta.where import Node

_KEYS = "({keys})"
KEYS: Any = literal_column(_KEYS)  # what `among` fills in: column.op("IN")(KEYS)
BUSY_SECONDS = 60.0  # how long a writer waits for another one's write to end

# What is written one after the other: in SQLite everything, in PostgreSQL what has the same name and belongs to the same collection.
Room: TypeAlias = Literal[
    "schema", "collections", "items", "log", "versions", "jobs", "keys", "policy", "traffic", "import", "indexes", "encodings"
]


class Engine(ABC):
    """A database. Readers never wait for a writer. `where` names it for people, without a password."""

    where: str
    address: str  # the file, or the URL with its password
    _compiled: dict[Select[Any], str]  # what `glance` was asked
    _engine: sqlalchemy.Engine

    # -- transactions --------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot for the whole block."""
        with self._translated(), self._begun() as connection:
            yield connection

    @contextmanager
    def writing(self, room: Room, collection: int = 0) -> Iterator[Connection]:
        """One transaction, all or nothing; begins once no other is writing in that room, so it never fails half-way for a lock."""
        with self._translated(), self._begun(room=room, collection=collection) as connection:
            yield connection

    @abstractmethod
    def trying(self) -> AbstractContextManager[Connection]:
        """A transaction for a small write that waits for nobody. Raises StorageBusy where it would have to."""

    def glance(self, statement: Select[Any]) -> Sequence[Any] | None:
        """The one row of a statement with nothing to fill in, read by itself; None without one. For what every search reads."""
        rows = self.told(self._text(statement))
        return rows[0] if rows else None

    def among(self, statement: Select[Any], keys: Sequence[int]) -> list[Sequence[Any]]:
        """All rows of a statement with nothing to fill in but KEYS, a list of whole numbers; otherwise as `glance`."""
        return self.told(self._text(statement).replace(_KEYS, f"({','.join(map(str, map(int, keys)))})"))

    def _text(self, statement: Select[Any]) -> str:
        sql = self._compiled.get(statement)
        if sql is None:
            compiled = statement.compile(dialect=self._engine.dialect, compile_kwargs={"literal_binds": True})
            sql = self._compiled[statement] = str(compiled)
        return sql

    @contextmanager
    def _begun(self, **options: Any) -> Iterator[Connection]:
        """A transaction with these execution options, which the engine's own `begin` reads."""
        connection, transaction = self._opened(options)
        try:
            with transaction:
                yield connection
        finally:
            connection.close()
        if "room" in options:
            self.written()

    def _opened(self, options: dict[str, Any]) -> tuple[Connection, RootTransaction]:
        """A connection in a transaction. Pooled ones do not outlive a server that was started again: then a new one is opened."""
        for last in (False, True):
            connection = self._engine.connect().execution_options(vecmeta=options)
            try:
                return connection, connection.begin()
            except BaseException:
                gone = self.is_gone(connection)
                if gone:
                    connection.invalidate()
                connection.close()
                if last or not gone:
                    raise
                self._engine.dispose()
        raise AssertionError

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError as error:
            raise StorageBusy(
                f"the database {self.where}: all connections of this process have been in use for too long"
            ) from error
        except (DBAPIError, self.driver_error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if self.is_orphan(cause):
                raise CollectionNotFound("the collection has been dropped") from error
            kind, meaning = self.meaning(cause) or (StorageError, f"reports: {cause}")
            raise kind(f"the database {self.where} {meaning}") from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    # -- what differs from database to database ------------------------------------------------------------------------------

    driver_error: type[Exception]

    def written(self) -> None:  # noqa: B027
        """Called when something was written, before anybody hears of it."""

    @abstractmethod
    def told(self, sql: str) -> list[Sequence[Any]]:
        """The driver's own rows of one reading statement without parameters, in a snapshot of its own."""

    @abstractmethod
    def meaning(self, cause: BaseException | None) -> tuple[type[StorageError], str] | None:
        """What an error of the driver means here; None: nothing in particular."""

    @abstractmethod
    def is_orphan(self, cause: BaseException | None) -> bool:
        """Whether the driver's error says that a row's collection is not there."""

    @abstractmethod
    def is_gone(self, connection: Connection) -> bool:
        """Whether the other end of a connection is not there any more."""

    @abstractmethod
    def upsert(self, table: Table) -> Any:
        """An INSERT that can say ON CONFLICT."""

    @abstractmethod
    def condition(self, node: Node) -> ColumnElement[bool]:
        """The condition of a filter on a row of `items`."""

    @abstractmethod
    def write_items(self, connection: Connection, collection: int, revision: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert or replace items by id: (id, vector, metadata, digest, text, blob)."""

    def pages(
        self, connection: Connection, query: Select[Any], size: int, values: Mapping[str, Any] | None = None
    ) -> Generator[Sequence[Any]]:
        """Pages of the driver's own rows, never all of them in memory. Making SQLAlchemy's rows costs as much as reading them."""
        cursor = connection.execute(query, values).cursor
        assert cursor is not None
        try:
            while rows := cursor.fetchmany(size):
                yield rows
        finally:
            cursor.close()  # or the pooled connection would go on reading the old snapshot, and could not write

    @abstractmethod
    def is_foreign(self, names: set[str], ours: set[str]) -> bool:
        """Whether tables of these names, without a record of migrations, are another program's database."""

    def prepared(self) -> list[str]:
        """Statements that follow the making of the tables."""
        return []

    def now(self) -> datetime:
        """This moment by the clock that all who share the database go by."""
        return datetime.now(UTC)

    # Texts as rows hold them and as they were given.

    def text_in(self, text: str | None) -> str | None:
        """A text as it is written."""
        return text

    def text_out(self, text: str | None) -> str | None:
        """A text as it was given."""
        return text

    def json_in(self, text: str) -> str:
        """A JSON document as it is written."""
        return text

    def json_out(self, text: str) -> str:
        """A JSON document as it was given."""
        return text
