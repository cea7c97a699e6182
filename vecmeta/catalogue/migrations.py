"""Schema changes: small numbered functions, each in a transaction of its own together with its record."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Column, Connection, DateTime, Integer, MetaData, String, Table, func, insert, inspect, select
from sqlalchemy.schema import CreateIndex

from vecmeta.catalogue import tables
from vecmeta.catalogue.engine import Engine
from vecmeta.errors import StorageDamaged

applied = Table(
    "migrations",
    MetaData(),
    Column("number", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("time", DateTime(timezone=True), nullable=False),
)


def first_tables(connection: Connection) -> None:
    """Items, judgements and versions."""
    tables.metadata.create_all(connection, tables.FIRST)


def service_tables(connection: Connection) -> None:
    """Jobs, policies, API keys, traffic."""
    tables.metadata.create_all(connection, tables.SECOND)


def encoder_tables(connection: Connection) -> None:
    """Fine-tuned encoders, which versions they belong to, and the vectors they make."""
    tables.metadata.create_all(connection, tables.THIRD)


def identity_of_database(connection: Connection) -> None:
    """A name that no other database has."""
    tables.metadata.create_all(connection, tables.FOURTH)
    connection.execute(insert(tables.identity).values(id=secrets.token_hex(16), created=datetime.now(UTC)))


def index_tables(connection: Connection) -> None:
    """Indexes in a Milvus."""
    tables.metadata.create_all(connection, tables.FIFTH)


def judgements_by_item(connection: Connection) -> None:
    """What was said of an item is found without reading the whole log."""
    connection.execute(CreateIndex(tables.judgements_by_item, if_not_exists=True))  # a new database has it with its table


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    first_tables,
    service_tables,
    encoder_tables,
    identity_of_database,
    index_tables,
    judgements_by_item,
)


def migrate(engine: Engine, migrations: tuple[Callable[[Connection], None], ...] = MIGRATIONS) -> int:
    """Bring the database up to date; returns the number of its last migration. Safe when several processes open at once.

    Raises:
        StorageDamaged: the database was made by a newer vecmeta, or by another program.
    """
    number = _last(engine)
    if number > len(migrations):
        raise StorageDamaged(
            f"{engine.where} has schema {number}, this vecmeta knows {len(migrations)}: it was made by a newer version; upgrade vecmeta"
        )
    while number < len(migrations):
        with engine.writing("schema") as connection:
            applied.create(connection, checkfirst=True)
            # Another process may have been faster: what counts is what stands there under the write lock.
            number = connection.scalar(select(func.coalesce(func.max(applied.c.number), 0))) or 0
            if number < len(migrations):
                step = migrations[number]
                step(connection)
                if number == 0:
                    for statement in engine.prepared():
                        connection.exec_driver_sql(statement)
                connection.execute(insert(applied).values(number=number + 1, name=step.__name__, time=datetime.now(UTC)))
                number += 1
    return number


def _last(engine: Engine) -> int:
    with engine.reading() as connection:
        names = set(inspect(connection).get_table_names())
        if applied.name not in names:
            if engine.is_foreign(names, {table.name for table in tables.metadata.tables.values()}):
                raise StorageDamaged(f"{engine.where} is another program's database (its tables: {', '.join(sorted(names)[:5])})")
            return 0
        return connection.scalar(select(func.coalesce(func.max(applied.c.number), 0))) or 0
