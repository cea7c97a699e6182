"""One database connection pool: transactions, and the one place where SQL errors become vecmeta's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Select, event, literal_column
from sqlalchemy.exc import DBAPIError

from vecmeta.errors import StorageBusy, StorageDamaged, StorageError, StorageFull, StorageReadOnly

_KEYS = "({keys})"
KEYS: Any = literal_column(_KEYS)  # what `among` fills in: column.op("IN")(KEYS)
BUSY_SECONDS = 60.0  # how long a writer waits for another process's write to end

_MEANINGS = (  # what SQLite says -> what it means here
    ("readonly", StorageReadOnly, "cannot be written: the file or its folder is read-only"),
    ("unable to open", StorageReadOnly, "cannot be opened or made: is the folder there, and may this user write to it?"),
    ("full", StorageFull, "cannot be written: no space left on the device"),
    ("disk i/o", StorageError, "cannot be read or written: the device reports an error"),
    ("locked", StorageBusy, f"is locked by another process for more than {BUSY_SECONDS:.0f} s"),
    ("not a database", StorageDamaged, "is not a SQLite database"),
    ("malformed", StorageDamaged, "is damaged; restore it from a backup"),
)


class Engine:
    """A SQLite file in WAL mode with foreign keys. Readers never wait for the writer; one writer at a time."""

    def __init__(self, file: Path) -> None:
        self.where = str(file)
        self._compiled: dict[Select[Any], str] = {}
        self._engine = sqlalchemy.create_engine(
            f"sqlite:///{file}",
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            pool_size=8,
            max_overflow=-1,  # a search in every thread of a large pool must not wait for a connection
        )
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot for the whole block."""
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    def glance(self, statement: Select[Any]) -> tuple[Any, ...] | None:
        """The one row of a statement with nothing to fill in, read by itself; None without one.

        For what every search reads: past SQLAlchemy, and with two moments instead of six at which another thread may take the interpreter.
        """
        rows = self._raw(self._text(statement))
        return rows[0] if rows else None

    def among(self, statement: Select[Any], keys: Sequence[int]) -> list[tuple[Any, ...]]:
        """All rows of a statement with nothing to fill in but KEYS, a list of whole numbers; otherwise as `glance`."""
        return self._raw(self._text(statement).replace(_KEYS, f"({','.join(map(str, map(int, keys)))})"))

    def _text(self, statement: Select[Any]) -> str:
        sql = self._compiled.get(statement)
        if sql is None:
            compiled = statement.compile(dialect=self._engine.dialect, compile_kwargs={"literal_binds": True})
            sql = self._compiled[statement] = str(compiled)
        return sql

    def _raw(self, sql: str) -> list[tuple[Any, ...]]:
        with self._translated():
            connection = self._engine.raw_connection()
            try:
                rows: list[tuple[Any, ...]] = connection.cursor().execute(sql).fetchall()
            finally:
                connection.close()  # back into the pool
        return rows

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, all or nothing; takes the write lock at its start, so it never fails half-way for a lock."""
        with self._translated(), self._engine.connect() as raw:
            connection = raw.execution_options(vecmeta_writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            text = str(cause).lower()
            for sign, kind, meaning in _MEANINGS:
                if sign in text:
                    raise kind(f"the database {self.where} {meaning}") from error
            raise StorageError(f"the database {self.where} reports: {cause}") from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins too late for a consistent snapshot; `_on_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Mapped, a page costs no call and no copy: the rows of 1,000 hits take half the time.
    for pragma in (
        "page_size = 8192",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "mmap_size = 2147418112",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("vecmeta_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
