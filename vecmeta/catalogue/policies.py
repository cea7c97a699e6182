"""When a collection adapts by itself: one row of it."""

from __future__ import annotations

from sqlalchemy import select

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.tables import collections, policies
from vecmeta.errors import CollectionNotFound
from vecmeta.types import Policy


class PolicyStore:
    """The policy of one collection."""

    def __init__(self, engine: Engine, collection: int, name: str) -> None:
        self._engine, self._id, self._name = engine, collection, name

    def get(self) -> Policy:
        """The policy that was set last; the default one when none was. Raises CollectionNotFound."""
        p = policies.c
        query = select(p.auto_adapt, p.debounce).select_from(collections.outerjoin(policies)).where(collections.c.id == self._id)
        with self._engine.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
        return Policy() if row.debounce is None else Policy(row.auto_adapt, row.debounce)

    def set(self, policy: Policy) -> None:
        """Replace the policy. Raises CollectionNotFound."""
        values = {"auto_adapt": policy.auto_adapt, "debounce": policy.debounce}
        statement = self._engine.upsert(policies).values(collection=self._id, **values)
        with self._engine.writing("policy", self._id) as connection:
            if connection.scalar(select(collections.c.id).where(collections.c.id == self._id)) is None:
                raise CollectionNotFound(f"the collection {self._name!r} has been dropped")
            connection.execute(statement.on_conflict_do_update(index_elements=["collection"], set_=values))
