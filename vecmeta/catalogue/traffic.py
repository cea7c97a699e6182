"""Which version answers which searches of one collection, and what came of the answers: split, counters, clicks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, exists, func, or_, select

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import activations, clicks, collections, outcomes, splits, versions
from vecmeta.errors import CollectionNotFound, InvalidConfig, VersionNotFound
from vecmeta.types import Split


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one version, see `vecmeta.Outcome`."""

    searches: int = 0
    clicked: int = 0
    clicks: int = 0
    mean_reciprocal_rank: float | None = None


class TrafficStore:
    """Split, counters and clicks of one collection."""

    def __init__(self, engine: Engine, collection: int, name: str) -> None:
        self._engine, self._id, self._name = engine, collection, name
        s, v, a = splits.c, versions.c, activations.c
        stored = exists().where(v.collection == s.collection, v.number == s.version)
        # A split ends when its candidate goes live: after a rollback it must not come back by itself.
        went_live = exists().where(a.collection == s.collection, a.version == s.version, a.time >= s.started)
        self._split = select(s.version, s.percent, s.started).where(
            s.collection == collection, or_(s.version == 0, stored), ~went_live
        )

    # -- split ---------------------------------------------------------------------------------------------------------------

    def split(self) -> Split | None:
        """The split that is on; None without one, and once its candidate went live or was removed."""
        with self._engine.reading() as connection:
            return self._read_split(connection)

    def share(self, version: int, percent: float) -> Split:
        """Give a version this share of the searches, instead of any other. Raises VersionNotFound; InvalidConfig: it is live.

        The same version with another share goes on as the same split.
        """
        with self._engine.writing("versions", self._id) as connection:
            if version == self._live(connection):
                raise InvalidConfig(f"version {version} of {self._name!r} is live already: it answers every search")
            v = versions.c
            if version and connection.scalar(select(v.number).where(v.collection == self._id, v.number == version)) is None:
                raise VersionNotFound(f"{self._name!r} has no version {version}")
            before = self._read_split(connection)
            started = before.started if before is not None and before.version == version else self._engine.now()
            values = {"version": version, "percent": percent, "started": started}
            statement = self._engine.upsert(splits).values(collection=self._id, **values)
            connection.execute(statement.on_conflict_do_update(index_elements=["collection"], set_=values))
        return Split(version, percent, started)

    def stop(self) -> None:
        """The live version answers all searches again."""
        with self._engine.writing("versions", self._id) as connection:
            connection.execute(delete(splits).where(splits.c.collection == self._id))

    def _read_split(self, connection: Connection) -> Split | None:
        row = connection.execute(self._split).one_or_none()
        return None if row is None else Split(row.version, row.percent, aware(row.started))

    def previous(self) -> int | None:
        """The version that a rollback would make live now; None when there is nothing to roll back."""
        here, parent = activations.alias(), activations.alias()
        query = select(parent.c.version).select_from(here.outerjoin(parent, here.c.parent == parent.c.seq))
        with self._engine.reading() as connection:
            row = connection.execute(
                query.join(collections, collections.c.activation == here.c.seq).where(collections.c.id == self._id)
            ).one_or_none()
        return None if row is None else row.version or 0

    # -- outcomes ------------------------------------------------------------------------------------------------------------

    def searched(self, counts: Mapping[int, int]) -> None:
        """Add to the counters of answers, by version."""
        statement = self._engine.upsert(outcomes)
        statement = statement.on_conflict_do_update(
            index_elements=["collection", "version"], set_={"searches": outcomes.c.searches + statement.excluded.searches}
        )
        rows = [
            {"collection": self._id, "version": version, "searches": count} for version, count in sorted(counts.items()) if count
        ]
        if rows:
            with self._engine.writing("traffic", self._id) as connection:
                self._live(connection)
                connection.execute(statement, rows)

    def clicked(self, search: str, version: int, item: str, rank: int | None) -> bool:
        """Store a click; False when that item of that answer was clicked before."""
        values = {"search": search, "version": version, "item": item, "rank": rank, "time": datetime.now(UTC)}
        statement = self._engine.upsert(clicks).values(collection=self._id, **values)
        with self._engine.writing("traffic", self._id) as connection:
            self._live(connection)
            done = connection.execute(statement.on_conflict_do_nothing().returning(clicks.c.item))
            return done.first() is not None

    def tallies(self) -> dict[int, Tally]:
        """What was counted, by version ascending."""
        o, c = outcomes.c, clicks.c
        answers = (
            select(c.version, func.count().label("clicks"), func.min(c.rank).label("rank"))
            .where(c.collection == self._id)
            .group_by(c.version, c.search)
            .subquery()
        )
        a = answers.c
        counters = select(o.version, o.searches).where(o.collection == self._id)
        figures = select(a.version, func.count(), func.sum(a.clicks), func.avg(1.0 / a.rank)).group_by(a.version)
        with self._engine.reading() as connection:
            counted = {row.version: row.searches for row in connection.execute(counters)}
            clicked = {
                version: (answers, int(clicks), None if rank is None else float(rank))  # PostgreSQL's sums are decimals
                for version, answers, clicks, rank in connection.execute(figures)
            }
        return {
            version: Tally(counted.get(version, 0), *clicked.get(version, ()))
            for version in sorted(counted.keys() | clicked.keys())
        }

    def _live(self, connection: Connection) -> int:
        live: int | None = connection.scalar(select(collections.c.live).where(collections.c.id == self._id))
        if live is None:
            raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
        return live
