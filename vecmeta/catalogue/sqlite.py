"""The catalogue in a SQLite file: in WAL mode, with foreign keys; one writer at a time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, Connection, Select, Table, event
from sqlalchemy.dialects.sqlite import Insert, insert

from vecmeta.catalogue import where_sqlite
from vecmeta.catalogue.engine import BUSY_SECONDS, Engine
from vecmeta.catalogue.tables import items
from vecmeta.catalogue.tick import TRUST, Tick
from vecmeta.errors import StorageBusy, StorageDamaged, StorageError, StorageFull, StorageReadOnly
from vecmeta.where import Node

_MEANINGS = (  # what SQLite says -> what it means here
    ("readonly", StorageReadOnly, "cannot be written: the file or its folder is read-only"),
    ("unable to open", StorageReadOnly, "cannot be opened or made: is the folder there, and may this user write to it?"),
    ("full", StorageFull, "cannot be written: no space left on the device"),
    ("disk i/o", StorageError, "cannot be read or written: the device reports an error"),
    ("locked", StorageBusy, f"is locked by another process for more than {BUSY_SECONDS:.0f} s"),
    ("not a database", StorageDamaged, "is not a SQLite database"),
    ("malformed", StorageDamaged, "is damaged; restore it from a backup"),
)
_WRITTEN = ["collection", "revision", "id", "vector", "metadata", "digest", "text", "blob"]  # in the order of the table


class SqliteEngine(Engine):
    """A file."""

    driver_error = sqlite3.Error

    def __init__(self, file: Path) -> None:
        self.where = self.address = str(file)
        self._compiled: dict[Select[Any], str] = {}
        self._engine = sqlalchemy.create_engine(
            f"sqlite:///{file}",
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            pool_size=8,
            max_overflow=-1,  # a search in every thread of a large pool must not wait for a connection
        )
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        self._tick = Tick(Path(f"{file}-tick"))
        self._glances: dict[
            str, tuple[bytes, float, Sequence[Any] | None]
        ] = {}  # by statement: at which mark, until when, the row
        self._written = str(_replacing().compile(dialect=self._engine.dialect, column_keys=_WRITTEN))

    def glance(self, statement: Select[Any]) -> Sequence[Any] | None:
        """See `Engine.glance`. What has been read is read again when somebody has written, or after a moment."""
        sql, mark, moment = self._text(statement), self._tick.mark(), time.monotonic()
        known = self._glances.get(sql)
        if known is not None and known[0] == mark and moment < known[1]:
            return known[2]
        row = super().glance(statement)
        if mark is not None:
            self._glances[sql] = mark, moment + TRUST, row
        return row

    def written(self) -> None:
        """See `Engine.written`."""
        self._tick.renew()

    def close(self) -> None:
        """See `Engine.close`."""
        self._tick.close()
        super().close()

    def told(self, sql: str) -> list[Sequence[Any]]:
        """See `Engine.told`. Past SQLAlchemy, and with two moments instead of six at which another thread may take the interpreter."""
        with self._translated():
            connection = self._engine.raw_connection()
            try:
                rows: list[Sequence[Any]] = connection.cursor().execute(sql).fetchall()
            finally:
                connection.close()  # back into the pool
        return rows

    @contextmanager
    def trying(self) -> Iterator[Connection]:
        """See `Engine.trying`."""
        with self.reading() as connection:  # begins without the write lock, and takes it if it is free
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            try:
                yield connection
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")

    def meaning(self, cause: BaseException | None) -> tuple[type[StorageError], str] | None:
        """By the words of its message: SQLite's codes do not reach every caller."""
        text = str(cause).lower()
        return next(((kind, meaning) for sign, kind, meaning in _MEANINGS if sign in text), None)

    def is_orphan(self, cause: BaseException | None) -> bool:
        """See `Engine.is_orphan`."""
        return "foreign key" in str(cause).lower()

    def is_gone(self, connection: Connection) -> bool:  # noqa: ARG002
        """See `Engine.is_gone`. A file does not go."""
        return False

    def is_foreign(self, names: set[str], ours: set[str]) -> bool:  # noqa: ARG002
        """See `Engine.is_foreign`. A file with anything else in it is another program's."""
        return bool(names)

    def upsert(self, table: Table) -> Insert:
        """See `Engine.upsert`."""
        return insert(table)

    def condition(self, node: Node) -> ColumnElement[bool]:
        """See `Engine.condition`."""
        return where_sqlite.compiled(node)

    def write_items(self, connection: Connection, collection: int, revision: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """See `Engine.write_items`. Handed to the driver: going through the statement for each row would cost as much as SQLite itself."""
        connection.exec_driver_sql(self._written, [(collection, revision, *row) for row in rows])


def _replacing() -> Insert:
    statement = insert(items)
    replaced = {c: statement.excluded[c] for c in _WRITTEN if c not in ("collection", "id")}
    return statement.on_conflict_do_update(index_elements=["collection", "id"], set_=replaced)


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins too late for a consistent snapshot; `_on_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Mapped, a page costs no call and no copy: the rows of 1,000 hits take half the time.
    mapped = "mmap_size = 2147418112"
    for pragma in ("page_size = 8192", "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", mapped):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()["vecmeta"]
    connection.exec_driver_sql("BEGIN IMMEDIATE" if "room" in options else "BEGIN")
