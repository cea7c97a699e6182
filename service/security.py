"""Who asks, and what they may: API keys as bearer tokens, scopes, collections, and how many requests a minute."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from service.errors import Refused
from service.runtime import Runtime
from vecmeta import Key

REMEMBERED = 2.0  # seconds after which a revoked key is certainly refused
MOST_REMEMBERED = 10_000

Right = Literal["read", "feedback", "write", "admin"]
bearer = HTTPBearer(
    auto_error=False, scheme_name="API key", description="`Authorization: Bearer vm_…`; made by `vecmeta keys create`"
)


class Gatekeeper:
    """Finds the key of a request and holds it to its rate. State of one process: several processes count by themselves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, settings = runtime, runtime.settings
        self._known: dict[str, tuple[float, Key]] = {}
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(settings.rate) if settings.rate else None
        self._wrong = RateLimitItemPerMinute(settings.wrong_keys)

    @property
    def on(self) -> bool:
        """Whether keys are asked for."""
        return bool(self._runtime.settings.auth)

    async def key(self, request: Request) -> Key | None:
        """The key of a request; None when keys are switched off. Raises Refused (401, 403, 429)."""
        address = request.client.host if request.client else ""
        if not self.on:
            _only_from_here(request, address)
            return None
        key = await self._found(secret_in(request.headers.get("authorization", "")), address)
        self.count(key)
        return key

    def known(self, secret: str | None) -> Key | None:
        """A key that was looked up lately, not counted yet; one in use is looked up again before it is forgotten."""
        known = self._known.get(secret) if secret is not None else None
        left = 0.0 if known is None else known[0] - time.monotonic()
        if secret is None or known is None or left <= 0:
            return None
        if left < REMEMBERED / 2:
            self._runtime.beside(f"key {known[1].id}", lambda: self._look_up(secret))
        return known[1]

    async def _look_up(self, secret: str) -> Key | None:
        now = time.monotonic()
        key = await self._runtime.run(self._runtime.db.keys.find, secret)
        if key is None:
            self._known.pop(secret, None)
        else:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[secret] = now + REMEMBERED, key
        return key

    def count(self, key: Key) -> None:
        """Hold a key to its rate. Raises Refused (429)."""
        if self._rate is not None and not self._limiter.hit(self._rate, key.id):
            raise self._too_many(self._rate, f"this key may make {self._rate.amount} requests a minute", key.id)

    async def _found(self, secret: str | None, address: str) -> Key:
        now = time.monotonic()
        if secret is not None:
            known = self._known.get(secret)
            if known is not None and known[0] > now:
                return known[1]
            # Whose key was right a moment ago is not kept out by those who guess at the same address.
            if known is None and not self._limiter.test(self._wrong, "wrong", address):
                raise self._too_many(self._wrong, "too many wrong API keys from this address", "wrong", address)
            key = await self._look_up(secret)
            if key is not None:
                return key
            self._limiter.hit(self._wrong, "wrong", address)
        detail = "this API key is unknown, expired or revoked" if secret else "an API key is needed: Authorization: Bearer vm_…"
        raise Refused(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})

    def _too_many(self, rate: RateLimitItemPerMinute, detail: str, *who: str) -> Refused:
        reset = self._limiter.get_window_stats(rate, *who).reset_time
        return Refused(429, "too_many_requests", detail, {"Retry-After": str(max(1, round(reset - time.time())))})


def secret_in(authorization: str) -> str | None:
    """The secret in a header; None where it is of another kind."""
    kind, _, secret = authorization.partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


def _only_from_here(request: Request, address: str) -> None:
    """Without keys only this machine is answered, and only under its own name: a page of another site that a browser here shows could
    otherwise point its own name at this address (DNS rebinding)."""
    host = (request.url.hostname or "").lower()
    if not is_loopback(address) or not (host == "localhost" or is_loopback(host)):
        raise Refused(403, "forbidden", "this service runs without API keys and answers only requests from its own machine")


@lru_cache(1024)
def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own; an empty one, of a Unix socket, is."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address in ("", "testclient")  # a Unix socket; an in-process client


def needs(scope: Right) -> Callable[..., Awaitable[Key | None]]:
    """A dependency: the key of the request, found by `service.deps.FastRoute`, which has that scope for the collection in the path."""

    async def caller(request: Request, _documented: Annotated[object, Depends(bearer)]) -> Key | None:
        key: Key | None = request.scope["key"]
        check(key, scope, request.path_params.get("name"))
        return key

    return caller


def check(key: Key | None, scope: Right, collection: str | None) -> None:
    """Raises Refused (403) when a key does not reach that far."""
    if key is not None and not key.allows(scope, collection):
        what = f"the scope {scope!r}" + (f" for the collection {collection!r}" if collection else "")
        raise Refused(403, "forbidden", f"this key lacks {what}")
