"""Around every request: an id, a metric, a line in the log (without content), and no endless waiting for a body."""

from __future__ import annotations

import asyncio
import random
import re
import time
import traceback
from collections.abc import Iterable

import structlog
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import Refused, answer
from service.runtime import Runtime
from service.settings import Settings
from vecmeta import VecmetaError

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
ID, SAFE = b"x-request-id", (b"x-content-type-options", b"nosniff")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
SLOWEST = 256  # bytes of a body that have to come in a second: one that drips would hold its connection for ever
WENT_AWAY = 499  # the status of a request whose client did not wait for an answer
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
log = structlog.get_logger("vecmeta.access")


class Ledger:
    """Where every request is entered when it has been answered: a metric, and a line in the log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._known: dict[tuple[str, str, int], Histogram] = {}
        self._seconds = Histogram(
            "vecmeta_request_seconds",
            "Time to the end of an answer",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=registry,
        )

    def enter(self, scope: Scope, request_id: bytes, status: int, seconds: float) -> None:
        """One request, by its route's template: a path holds ids, and ids may be content."""
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        known = self._known.get((method, route, status))
        if known is None:
            known = self._known[method, route, status] = self._seconds.labels(method, route, status)
        known.observe(seconds)
        key = getattr(scope.get("key"), "id", None)
        logs.access(id=request_id.decode(), method=method, route=route, status=status, ms=round(seconds * 1e3, 2), key=key)


class Observe:
    """An ASGI middleware, written by hand because the usual base class costs more than a search."""

    def __init__(self, app: ASGIApp, *, settings: Settings, ledger: Ledger) -> None:
        self._app, self._body_timeout, self._ledger = app, settings.body_timeout, ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        request_id = request_id_in(scope) or new_request_id()
        scope["request_id"] = request_id
        status, complete, patience = 500, False, self._body_timeout

        async def heard() -> Message:
            nonlocal complete, patience
            if complete:
                return await receive()
            waited = time.perf_counter()
            try:
                async with asyncio.timeout(patience):
                    message = await receive()
            except TimeoutError:
                detail = f"the body did not come: within {self._body_timeout:g} s, and then {SLOWEST} bytes a second at least"
                raise Refused(408, "timeout", detail, {"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            earned = len(message.get("body", b"")) / SLOWEST
            patience = min(patience - (time.perf_counter() - waited) + earned, self._body_timeout)
            return message

        started = False

        async def told(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), *headers_of(request_id)]
            await send(message)

        try:
            await self._app(scope, heard, told)
        except ClientDisconnect:
            status = WENT_AWAY
        except Exception as error:
            # A mistake of ours. Its message may hold what users store, so the log gets its kind and places alone.
            log.error("internal", id=request_id.decode(), error=type(error).__name__, where=_places(error))
            if started:
                raise ConnectionAbortedError("the answer is cut short") from None
            detail = "a mistake inside the service; its log says more under the request id"
            await answer(500, "internal", detail)(scope, receive, told)
        finally:
            self._ledger.enter(scope, request_id, status, time.perf_counter() - begin)


def _places(error: Exception) -> list[str]:
    return [f"{place.filename}:{place.lineno} {place.name}" for place in traceback.extract_tb(error.__traceback__)[-12:]]


def headers_of(request_id: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """What every answer has."""
    return (ID, request_id), SAFE


def request_id_in(scope: Scope) -> bytes | None:
    """The caller's own, if it is harmless."""
    return next((bytes(value) for name, value in scope["headers"] if name == ID and _ID.fullmatch(value)), None)


def new_request_id() -> bytes:
    """For a request without one."""
    return b"%016x" % random.getrandbits(64)


class DatabaseCollector(Collector):
    """What is read from the database when it is asked for: jobs of all processes, sizes of collections."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Gauges."""
        db, runtime = self._runtime.db, self._runtime
        jobs = GaugeMetricFamily(
            "vecmeta_jobs", "Jobs by state; an adaptation's outcome is its last state", labels=["kind", "state"]
        )
        for (kind, state), count in db.jobs.counts().items():
            jobs.add_metric([kind, state], count)
        yield jobs
        items = GaugeMetricFamily("vecmeta_items", "Items of a collection", labels=["collection"])
        size = GaugeMetricFamily("vecmeta_index_bytes", "Vectors of a collection's live index", labels=["collection"])
        live = GaugeMetricFamily("vecmeta_live_version", "The live version", labels=["collection"])
        for name in db.collections():
            try:
                collection = db.collection(name)
                count = collection.count()
            except VecmetaError:  # dropped in this very moment, or filled by another encoder: the rest is told all the same
                continue
            items.add_metric([name], count)
            size.add_metric([name], count * collection.dim * 4)
            live.add_metric([name], collection.live)
        yield from (items, size, live)
        batches = GaugeMetricFamily("vecmeta_batched", "Requests answered in batches, and batches", labels=["work", "what"])
        for work, batcher in (("search", runtime.searches), ("encode", runtime.encodings), ("write", runtime.writes)):
            batches.add_metric([work, "requests"], batcher.answers)
            batches.add_metric([work, "batches"], batcher.batches)
        yield batches
