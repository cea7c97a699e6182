"""The head versions of one collection, and the swap: a compare-and-set of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from sqlalchemy import Connection, delete, func, insert, select, update

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import activations, collections, splits, version_encoders, versions
from vecmeta.errors import CollectionNotFound, Conflict, VersionNotFound


@dataclass(frozen=True, slots=True)
class State:
    """What a search reads first: which version is live, since which activation, and the number of the last write."""

    live: int
    activation: int | None
    revision: int


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A stored version, without its head."""

    number: int
    method: str
    strength: float
    judgements: int
    decision: str
    reason: str
    report: dict[str, Any]
    created: datetime


AHEAD = "ahead"  # why a version is live that was to be built then
_COLUMNS = tuple(versions.c[name] for name in VersionRow.__dataclass_fields__)


class VersionStore:
    """Head versions of one collection. Number 0, the untouched encoder, has no row."""

    def __init__(self, engine: Engine, collection: int, name: str) -> None:
        self._engine, self._id, self._name = engine, collection, name
        c = collections.c
        self._state = select(c.live, c.activation, c.revision).where(c.id == collection)

    def state(self) -> State:
        """One row, read together."""
        return self._checked(self._engine.glance(self._state))

    def _read_state(self, connection: Connection) -> State:
        return self._checked(connection.execute(self._state).one_or_none())

    def _checked(self, row: Sequence[Any] | None) -> State:
        if row is None:
            raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
        return State(*row)

    def all(self) -> list[VersionRow]:
        """Every stored version, oldest first."""
        query = select(*_COLUMNS).where(versions.c.collection == self._id).order_by(versions.c.number)
        with self._engine.reading() as connection:
            return [_version(row) for row in connection.execute(query)]

    def get(self, number: int) -> VersionRow:
        """One stored version. Raises VersionNotFound."""
        with self._engine.reading() as connection:
            row = connection.execute(select(*_COLUMNS).where(*self._is(number))).one_or_none()
        return _version(row) if row is not None else self._missing(number)

    def head(self, number: int) -> bytes:
        """The stored head. Raises VersionNotFound."""
        with self._engine.reading() as connection:
            head: bytes | None = connection.scalar(select(versions.c.head).where(*self._is(number)))
        return head if head is not None else self._missing(number)

    def made_of(self, inputs: str) -> VersionRow | None:
        """The version that is the same function of the same inputs, if there is one."""
        query = select(*_COLUMNS).where(versions.c.collection == self._id, versions.c.inputs == inputs)
        with self._engine.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _version(row)

    def encoder(self, number: int) -> int:
        """The number of the encoder that a version is of; 0 is the collection's own."""
        e = version_encoders.c
        with self._engine.reading() as connection:
            return connection.scalar(select(e.encoder).where(e.collection == self._id, e.version == number)) or 0

    def put(self, inputs: str, head: bytes, row: dict[str, Any], encoder: int = 0) -> int:
        """Store a version (its row's fields without number and created) of an encoder and return its number.

        The same inputs again renew the row that is there, under its number.
        """
        values = {**row, "head": head, "created": datetime.now(UTC)}
        mine = versions.c.collection == self._id
        with self._engine.writing("versions", self._id) as connection:
            number = connection.scalar(select(versions.c.number).where(mine, versions.c.inputs == inputs))
            if number is None:
                number = (connection.scalar(select(func.max(versions.c.number)).where(mine)) or 0) + 1
                connection.execute(insert(versions).values(collection=self._id, number=number, inputs=inputs, **values))
                if encoder:
                    row_of = {"collection": self._id, "version": number, "encoder": encoder}
                    connection.execute(insert(version_encoders).values(**row_of))
            else:
                connection.execute(update(versions).where(*self._is(number)).values(**values))
        return number

    def renew(self, number: int, row: dict[str, Any]) -> None:
        """Replace fields of a version's row, without writing its head again."""
        with self._engine.writing("versions", self._id) as connection:
            connection.execute(update(versions).where(*self._is(number)).values(**row))

    def remove(self, number: int) -> None:
        """Forget a version that never went live."""
        with self._engine.writing("versions", self._id) as connection:
            if self._read_state(connection).live != number:
                connection.execute(delete(versions).where(*self._is(number)))
                # Numbers are given again: a share left behind would send searches to another version.
                connection.execute(delete(splits).where(splits.c.collection == self._id, splits.c.version == number))

    def activate(self, number: int, why: str, expected: State | None = None) -> State:
        """Make a version live; returns the new state.

        Raises:
            VersionNotFound: no such version.
            Conflict: another version went live since ``expected`` was read.
        """
        with self._engine.writing("versions", self._id) as connection:
            state = self._read_state(connection)
            if number == state.live:
                return state
            if expected is not None and state.activation != expected.activation:
                raise Conflict(f"version {state.live} of {self._name!r} went live meanwhile")
            if number != 0 and connection.scalar(select(versions.c.number).where(*self._is(number))) is None:
                self._missing(number)
            return self._swap(connection, number, state.activation, why)

    def ahead(self, activation: int | None) -> bool:
        """Whether an activation made a version live whose index was still to be built."""
        with self._engine.reading() as connection:
            why = connection.scalar(select(activations.c.why).where(activations.c.seq == activation))
        return bool(why == AHEAD)

    def rollback(self) -> State:
        """Make live what was live before; repeated, it goes further back, down to version 0. Raises VersionNotFound at the bottom."""
        with self._engine.writing("versions", self._id) as connection:
            state = self._read_state(connection)
            if state.activation is None:
                raise VersionNotFound(f"{self._name!r} has no earlier version to roll back to: version 0 is live")
            a = activations.c
            parent = connection.scalar(select(a.parent).where(a.seq == state.activation))
            if parent is None:
                return self._swap(connection, 0, None, "rollback")
            row = connection.execute(select(a.version, a.parent).where(a.seq == parent)).one()
            return self._swap(connection, row.version, row.parent, "rollback")

    def _swap(self, connection: Connection, number: int, parent: int | None, why: str) -> State:
        entry = {"collection": self._id, "version": number, "parent": parent, "why": why, "time": self._engine.now()}
        key = connection.execute(insert(activations).values(**entry)).inserted_primary_key
        bottom = number == 0 and parent is None
        seq = None if bottom or key is None else key[0]
        connection.execute(update(collections).where(collections.c.id == self._id).values(live=number, activation=seq))
        return self._read_state(connection)

    def _is(self, number: int) -> tuple[Any, ...]:
        return versions.c.collection == self._id, versions.c.number == number

    def _missing(self, number: int) -> NoReturn:
        known = ", ".join(str(row.number) for row in self.all()[-10:])
        raise VersionNotFound(f"{self._name!r} has no version {number}; known: 0" + (f", {known}" if known else ""))


def _version(row: Any) -> VersionRow:
    found = VersionRow(*row)
    return replace(found, created=aware(found.created))
