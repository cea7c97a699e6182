"""The catalogue in PostgreSQL: snapshots for readers, and an advisory lock for each collection's writers instead of one for all."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import sqlalchemy
from sqlalchemy import URL, ColumnElement, Connection, Select, Table, event
from sqlalchemy.dialects.postgresql import Insert, insert

from vecmeta.catalogue import escapes, where_postgres
from vecmeta.catalogue.engine import BUSY_SECONDS, Engine, Room
from vecmeta.errors import (
    InvalidConfig,
    StorageBusy,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)  # fmt: skip
from vecmeta.where import Node

try:
    import psycopg
    from psycopg import Cursor, ServerCursor
except ImportError as error:
    raise InvalidConfig(f"PostgreSQL needs its driver: pip install 'vecmeta[postgres]' ({error})") from error

CONNECTIONS = 16  # of one process at most; a server takes 100 unless it is told otherwise
CLOCK_SECONDS = 60.0  # how long the difference between this machine's clock and the server's is taken to be the same
_LOCKS = 0x5645434D  # the first of this program's advisory locks: "VECM"
_GONE = (None, "57P01", "57P02", "57P03")  # as which a lost connection is told; None: it just ended
_numbers = itertools.count()
_SHORTLY = 50  # milliseconds that count as not waiting

_MEANINGS = (  # how SQLSTATE begins -> what it means here; the first that fits
    ("53100", StorageFull, "cannot be written: no space left on the server"),
    ("53", StorageBusy, "has no room for another connection or query"),
    ("55P03", StorageBusy, f"is locked by another process for more than {BUSY_SECONDS:.0f} s"),
    ("57014", StorageBusy, "took longer than its time limit"),
    ("40", StorageBusy, "could not tell this from what others did at the same time"),
    ("25006", StorageReadOnly, "cannot be written: it is read-only, a standby perhaps"),
    ("42501", StorageReadOnly, "cannot be used: this user lacks the rights"),
    ("57P", StorageUnavailable, "is being stopped or started"),
    ("08", StorageUnavailable, "cannot be reached"),
    ("XX001", StorageDamaged, "is damaged; restore it from a backup"),
    ("XX002", StorageDamaged, "is damaged; restore it from a backup"),
    ("42P01", StorageDamaged, "lacks a table that it had"),
    ("42703", StorageDamaged, "has tables of the same names that are not vecmeta's"),
)
# One statement for a whole batch: as quick as COPY, and without a table to copy into.
_WRITE = """
INSERT INTO items (collection, revision, id, vector, metadata, digest, text, blob)
SELECT %s::integer, %s::bigint, r.id, r.vector, r.metadata, r.digest, r.text, r.blob
FROM unnest(%b::text[], %b::bytea[], %b::text[], %b::bytea[], %b::text[], %b::bytea[])
     WITH ORDINALITY AS r(id, vector, metadata, digest, text, blob, place) ORDER BY r.place
ON CONFLICT (collection, id) DO UPDATE SET revision = excluded.revision, vector = excluded.vector, metadata = excluded.metadata,
    digest = excluded.digest, text = excluded.text, blob = excluded.blob
"""


class _BinaryCursor(Cursor[Any]):
    """Rows in PostgreSQL's binary format: a vector as text takes twice the bytes and several times the time."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.format = psycopg.pq.Format.BINARY


class _BinaryServerCursor(ServerCursor[Any]):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.format = psycopg.pq.Format.BINARY


class PostgresEngine(Engine):
    """A database of a PostgreSQL server. Safe to use from several threads, and the database from several machines."""

    driver_error = psycopg.Error

    def __init__(self, url: URL) -> None:
        self.where, self.address = (url.render_as_string(hide_password=hidden) for hidden in (True, False))
        self._compiled: dict[Select[Any], str] = {}
        self._clock = (0.0, timedelta())  # until when the difference of the clocks is taken to be this
        self._asking = threading.Lock()
        arguments = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        self._engine = sqlalchemy.create_engine(
            url,
            connect_args={name: value for name, value in arguments.items() if name not in url.query},
            json_serializer=lambda value: escapes.json_in(json.dumps(value)),
            json_deserializer=lambda text: json.loads(escapes.json_out(text if isinstance(text, str) else bytes(text).decode())),
            isolation_level="AUTOCOMMIT",  # of the driver: transactions begin and end as `_on_begin` says
            pool_size=CONNECTIONS // 2,
            max_overflow=CONNECTIONS - CONNECTIONS // 2,
            pool_timeout=BUSY_SECONDS,
            pool_recycle=3600,
        )
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        try:
            with self.reading() as connection:
                encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        except BaseException:
            self.close()
            raise
        if encoding != "UTF8":
            self.close()
            raise InvalidConfig(f"the database {self.where} keeps texts as {encoding}; make one with ENCODING 'UTF8'")

    def told(self, sql: str) -> list[Sequence[Any]]:
        """See `Engine.told`. One question and one answer, without BEGIN and COMMIT around them."""
        with self._translated():
            try:
                return self._asked(sql)
            except psycopg.OperationalError as error:
                if error.sqlstate not in _GONE:
                    raise
                self._engine.dispose()  # a server that was started again knows none of the pooled connections
                return self._asked(sql)

    def _asked(self, sql: str) -> list[Sequence[Any]]:
        connection = self._engine.raw_connection()
        try:
            rows: list[Sequence[Any]] = connection.cursor().execute(sql).fetchall()
        except psycopg.OperationalError:
            connection.invalidate()
            raise
        finally:
            connection.close()  # back into the pool
        return rows

    @contextmanager
    def trying(self) -> Iterator[Connection]:
        """See `Engine.trying`."""
        with self._translated(), self._begun(shortly=True) as connection:
            yield connection

    def meaning(self, cause: BaseException | None) -> tuple[type[StorageError], str] | None:
        """By SQLSTATE; without one the connection itself failed."""
        state = getattr(cause, "sqlstate", None)
        if state is None:
            told = " ".join(str(cause).split())
            return (StorageUnavailable, f"cannot be reached: {told}") if isinstance(cause, psycopg.OperationalError) else None
        return next(((kind, meaning) for sign, kind, meaning in _MEANINGS if state.startswith(sign)), None)

    def is_orphan(self, cause: BaseException | None) -> bool:
        """See `Engine.is_orphan`."""
        return getattr(cause, "sqlstate", None) == "23503"

    def is_gone(self, connection: Connection) -> bool:
        """See `Engine.is_gone`."""
        return _told(connection).connection.closed

    def upsert(self, table: Table) -> Insert:
        """See `Engine.upsert`."""
        return insert(table)

    def condition(self, node: Node) -> ColumnElement[bool]:
        """See `Engine.condition`."""
        return where_postgres.compiled(node)

    def write_items(self, connection: Connection, collection: int, revision: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """See `Engine.write_items`."""
        ids, vectors, documents, digests, texts, blobs = (list(column) for column in zip(*rows, strict=True))
        values = (ids, vectors, [escapes.json_in(d) for d in documents], digests, [self.text_in(t) for t in texts], blobs)
        connection.exec_driver_sql(_WRITE, (collection, revision, *values))

    def pages(
        self, connection: Connection, query: Select[Any], size: int, values: Mapping[str, Any] | None = None
    ) -> Generator[Sequence[Any]]:
        """See `Engine.pages`: by a cursor of the server's; the driver's own would fetch everything at once."""
        compiled = query.compile(dialect=self._engine.dialect)
        with _told(connection).connection.cursor(name=f"pages_{next(_numbers)}") as cursor:
            cursor.execute(str(compiled), compiled.construct_params(values))
            while rows := cursor.fetchmany(size):
                yield rows

    def is_foreign(self, names: set[str], ours: set[str]) -> bool:
        """See `Engine.is_foreign`. Other programs' tables may lie beside ours as long as no name is taken."""
        return bool(names & ours)

    def prepared(self) -> list[str]:
        """Vectors do not get smaller by the server's compression, which would be tried on each of them that is longer than 2 kB."""
        return ["ALTER TABLE items ALTER COLUMN vector SET STORAGE EXTERNAL"]

    def now(self) -> datetime:
        """See `Engine.now`: the server's clock, told from this machine's and the difference."""
        with self._asking:
            until, difference = self._clock
            if time.monotonic() >= until:
                with self.reading() as connection:
                    asked = datetime.now(UTC)
                    told: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
                    difference = told - (asked + (datetime.now(UTC) - asked) / 2)
                self._clock = time.monotonic() + CLOCK_SECONDS, difference
        return datetime.now(UTC) + difference

    def text_in(self, text: str | None) -> str | None:
        """See `Engine.text_in`."""
        return None if text is None else escapes.text_in(text)

    def text_out(self, text: str | None) -> str | None:
        """See `Engine.text_out`."""
        return None if text is None else escapes.text_out(text)

    def json_in(self, text: str) -> str:
        """See `Engine.json_in`."""
        return escapes.json_in(text)

    def json_out(self, text: str) -> str:
        """See `Engine.json_out`."""
        return escapes.json_out(text)


def _on_connect(connection: psycopg.Connection[Any], _record: Any) -> None:
    connection.autocommit = True
    connection.server_cursor_factory = _BinaryServerCursor
    connection.execute(f"SET lock_timeout = {BUSY_SECONDS * 1000:.0f}; SET TIME ZONE 'UTC'; SET client_min_messages = warning")
    connection.cursor_factory = _BinaryCursor


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()["vecmeta"]
    if "room" in options:
        # Not one snapshot for all: once the lock is there, each statement sees what those before it have written.
        lock = _LOCKS + get_args(Room).index(options["room"])
        sql = f"BEGIN; SELECT pg_advisory_xact_lock({lock}, {options['collection']})"
    elif options.get("shortly"):
        sql = f"BEGIN; SET LOCAL lock_timeout = {_SHORTLY}"
    else:
        sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    _told(connection).execute(sql)


def _told(connection: Connection) -> Cursor[Any]:
    """A cursor of the driver's own, which takes several statements at once."""
    return Cursor(cast(psycopg.Connection[Any], connection.connection.driver_connection))
