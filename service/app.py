"""The application. `uvicorn service.app:create_app --factory`, or `vecmeta serve`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

import vecmeta as vm
from service import errors, logs, static, telemetry
from service.direct import Direct
from service.hot import HotSearch
from service.observe import DatabaseCollector, Ledger, Observe
from service.routes import collections, console, items, keys, operations, search, teach, versions
from service.runtime import Runtime
from service.security import Gatekeeper
from service.settings import Settings

ABOUT = """
A vector database whose notion of similarity can be taught.

1. `POST /v1/collections` makes a collection, `PUT …/items` fills it, `POST …/search` searches it.
2. `POST …/feedback` takes judgements: this item belongs to that concept; this one is (not) relevant to that query.
3. `POST …/adapt` learns from them. The result goes live only if it measures better on judgements it did not learn from.
4. `GET …/versions` shows what was measured, `POST …/rollback` goes back.

Every request carries an API key: `Authorization: Bearer vm_…` (`vecmeta keys create`). Every error is `{"error": "…", "detail": "…"}`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, with its database opened.

    Args:
        settings: None: from the environment, see `service.settings`.

    Raises:
        vecmeta.StorageError and its kin: the database cannot be opened.
    """
    settings = settings or Settings()
    logs.configure()
    runtime = Runtime(settings)
    registry = CollectorRegistry()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with runtime.running():
            yield

    # The pages of /docs come from here, not from other sites: they work without a network, and see no key of which others could learn.
    app = FastAPIOffline(
        title="vecmeta", version=vm.__version__, description=ABOUT, lifespan=lifespan, redoc_url=None,
        redirect_slashes=False, generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.runtime, app.state.registry = runtime, registry
    app.state.gatekeeper = Gatekeeper(runtime)
    in_v1 = (
        collections.router,
        items.router,
        search.router,
        teach.collections,
        versions.router,
        console.views,
        teach.jobs,
        keys.router,
    )
    for router in (*in_v1, console.samples):
        app.include_router(router, prefix="/v1")
    app.include_router(operations.router)
    app.include_router(operations.guarded)
    static.install(app)
    errors.install(app)
    registry.register(DatabaseCollector(runtime))
    hot = next(route for route in search.router.routes if isinstance(route, APIRoute) and route.name == "search")
    app.add_middleware(HotSearch, runtime=runtime, gatekeeper=app.state.gatekeeper, answers=search.answers, route=hot)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    telemetry.install(app, settings)
    ledger = Ledger(registry)
    app.add_middleware(Observe, settings=settings, ledger=ledger)
    app.state.direct = None if settings.otel_endpoint else Direct(runtime, app.state.gatekeeper, ledger, hot)
    return app
