"""API keys as rows; of a secret only its hash is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, insert, or_, select, update

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import keys
from vecmeta.errors import KeyNotFound, StorageError
from vecmeta.types import Key, Scope

USED_EVERY = timedelta(minutes=1)  # a write per request would make every search wait for the one writer
_k = keys.c


class KeyStore:
    """The API keys of a database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, id: str, name: str, digest: bytes, scopes: Sequence[Scope], names: Sequence[str] | None, expires: datetime | None
    ) -> Key:
        """Store a key; `digest` is the SHA-256 of its secret."""
        values = {
            "id": id,
            "name": name,
            "hash": digest,
            "scopes": list(scopes),
            "expires": expires,
            "created": datetime.now(UTC),
        }
        with self._engine.writing("keys") as connection:
            connection.execute(insert(keys).values(**values, collections=None if names is None else list(names)))
        return self.get(id)[0]

    def get(self, id: str) -> tuple[Key, bytes]:
        """A key, and the SHA-256 of its secret. Raises KeyNotFound."""
        with self._engine.reading() as connection:
            row = connection.execute(select(keys).where(_k.id == id)).one_or_none()
        if row is None:
            raise KeyNotFound(f"there is no API key {id!r}")
        return _key(row), row.hash

    def list(self) -> list[Key]:
        """All keys, oldest first; the revoked ones too."""
        with self._engine.reading() as connection:
            return [_key(row) for row in connection.execute(select(keys).order_by(_k.created, _k.id))]

    def revoke(self, id: str) -> Key:
        """Revoke a key; the first time counts. Raises KeyNotFound."""
        with self._engine.writing("keys") as connection:
            connection.execute(update(keys).where(_k.id == id, _k.revoked.is_(None)).values(revoked=datetime.now(UTC)))
        return self.get(id)[0]

    def used(self, id: str) -> None:
        """Note that a key is used now, to a minute. Somebody else's write is not waited for: the next use notes it."""
        moment = datetime.now(UTC)
        stale = or_(_k.used.is_(None), _k.used < moment - USED_EVERY)
        with suppress(StorageError), self._engine.trying() as connection:
            connection.execute(update(keys).where(_k.id == id, stale).values(used=moment))


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes),
        collections=None if row.collections is None else tuple(row.collections),
        created=aware(row.created),
        expires=aware(row.expires),
        revoked=aware(row.revoked),
        used=aware(row.used),
    )
