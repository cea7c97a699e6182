"""API keys: who may do what to which collections. A secret is shown once, when it is made; the database holds only its hash."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast, get_args

from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.catalogue.keys import USED_EVERY
from vecmeta.errors import InvalidConfig, KeyNotFound
from vecmeta.intake import collection_name
from vecmeta.types import Key, Scope

SCOPES: tuple[Scope, ...] = get_args(Scope)
_SECRET = re.compile(r"vm_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


class Keys:
    """The API keys of a database; `Database.keys`. Raises the StorageError family when the database fails."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._store = catalogue.keys()

    def create(
        self,
        name: str,
        scopes: Iterable[Scope] = ("read",),
        collections: Iterable[str] | None = None,
        expires: datetime | None = None,
    ) -> tuple[str, Key]:
        """A new key and its secret, which cannot be had again.

        Args:
            name: for people: who it is for.
            scopes: of read, feedback, write, admin; see `Key.allows`.
            collections: names, which need not exist yet; None: all.
            expires: with a time zone, in the future; None: never.

        Raises:
            InvalidConfig.
        """
        if not isinstance(name, str) or not name.strip() or len(name) > 255 or not name.isprintable():
            raise InvalidConfig(f"the name of a key is a text of 1 to 255 characters on one line, not {name!r}")
        wanted = _several(scopes, "scopes")
        for scope in wanted:
            if scope not in SCOPES:
                raise InvalidConfig(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
        names = None if collections is None else [collection_name(one) for one in _several(collections, "collections")]
        if expires is not None:
            if not isinstance(expires, datetime) or expires.tzinfo is None:
                raise InvalidConfig(f"expires is a datetime with a time zone, not {expires!r}")
            if expires <= datetime.now(UTC):
                raise InvalidConfig(f"expires is a time in the future, not {expires.isoformat()}")
            expires = expires.astimezone(UTC)
        id = secrets.token_hex(8)
        secret = f"vm_{id}_{secrets.token_urlsafe(32)}"
        return secret, self._store.create(id, name, _digest(secret), cast(list[Scope], wanted), names, expires)

    def list(self) -> list[Key]:
        """All keys, oldest first; those that expired or were revoked too."""
        return self._store.list()

    def revoke(self, id: str) -> Key:
        """Revoke a key for good; again changes nothing. Raises KeyNotFound."""
        return self._store.revoke(id if isinstance(id, str) else repr(id))

    def find(self, secret: str) -> Key | None:
        """The key of a secret that is good now; None if it is unknown, wrong, expired or revoked."""
        parts = _SECRET.fullmatch(secret) if isinstance(secret, str) else None
        if parts is None:
            return None
        try:
            key, digest = self._store.get(parts[1])
        except KeyNotFound:
            return None
        now = datetime.now(UTC)
        if not hmac.compare_digest(digest, _digest(secret)) or key.revoked is not None:
            return None
        if key.expires is not None and key.expires <= now:
            return None
        if key.used is None or key.used < now - USED_EVERY:
            self._store.used(key.id)
        return key


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _several(given: Any, what: str) -> list[str]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidConfig(f"{what} are a list of texts, not {given!r}")
    found = list(dict.fromkeys(map(str, given)))
    if not found:
        raise InvalidConfig(f"a key needs at least one of {what}" + ("; None stands for all" if what == "collections" else ""))
    return found
