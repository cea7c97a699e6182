"""One process that serves: uvicorn with the limits that the application cannot set from inside."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service.app import create_app
from service.connection import KEEP_ALIVE, GuardedProtocol
from service.security import is_loopback
from service.settings import Settings
from vecmeta import InvalidConfig

SWITCH = 0.0005  # seconds after which a thread that computes lets the one that talks to clients go on


class _Server(uvicorn.Server):
    """Tells streams to end before it waits for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT or SIGTERM."""
        app: FastAPI = self.config.app  # type: ignore[assignment]
        app.state.runtime.stopping = True
        super().handle_exit(sig, frame)


def configured(app: FastAPI, host: str, port: int) -> _Server:
    """The server of an application, not started."""
    grace = app.state.runtime.settings.grace
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=GuardedProtocol,
            ws="none",
            loop="asyncio",  # lets searching threads go on while the system sends; with uvloop they wait for that as well
            lifespan="on",
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(grace)),
            backlog=2048,
        )
    )


def serve(host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM; returns after a graceful stop.

    Args:
        host: the address to listen on.
        port: 0 takes a free one.
        options: fields of `service.settings.Settings`; what is not given comes from the environment.

    Raises:
        InvalidConfig: an option out of its range, or no API keys and an address that others can reach.
        vecmeta.StorageError and its kin: the database cannot be opened.
    """
    try:
        settings = Settings(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidConfig(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not settings.auth and not is_loopback(host) and host != "localhost":
        raise InvalidConfig(f"without API keys the service listens on this machine alone: --host 127.0.0.1, not {host}")
    sys.setswitchinterval(SWITCH)
    app = create_app(settings)
    # What is imported stays: walking through half a million of its objects every now and then stopped everything for a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    server = configured(app, host, port)

    def ended(*_: object) -> None:
        if not server.should_exit:  # it has not begun
            raise SystemExit(0)

    # uvicorn raises the signal that ended it once more, for the handlers of before: an end in good order is no failure.
    before = signal.signal(signal.SIGTERM, ended)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    finally:
        signal.signal(signal.SIGTERM, before)
