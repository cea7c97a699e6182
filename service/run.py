"""One process that serves: uvicorn with the limits that the application cannot set from inside."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import create_app
from service.security import is_loopback
from service.settings import Settings
from vecmeta import InvalidConfig

MAX_HEAD = 64 * 1024  # bytes of the request line and the headers
KEEP_ALIVE = 30  # seconds that an idle connection is kept
SWITCH = 0.0005  # seconds after which a thread that computes lets the one that talks to clients go on


class GuardedProtocol(HttpToolsProtocol):
    """The parser counts the bytes of bodies, not of headers: a flood of them is cut off here, and a head that never ends as well."""

    _head = 0

    def connection_made(self, transport: Any) -> None:
        """A connection has `body_timeout` seconds to send its first head."""
        super().connection_made(transport)
        self._hurry()

    def data_received(self, data: bytes) -> None:
        """Bytes of a head are counted until it is complete."""
        if self.headers is None or self._waits_for_head():
            self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and self._waits_for_head() and not self.transport.is_closing():
            self.logger.warning("Request head too large.")
            self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        """The next request of the connection."""
        super().on_message_begin()
        self._complete = False
        self._hurry()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head, self._complete = 0, True
        super().on_headers_complete()

    _complete = False

    def _waits_for_head(self) -> bool:
        return not self._complete

    def _hurry(self) -> None:
        self.loop.call_later(KEEP_ALIVE, self._late, self.scope)

    def _late(self, scope: object) -> None:
        if self._waits_for_head() and self.scope is scope and self.transport is not None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Tells streams to end before it waits for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT or SIGTERM."""
        app: FastAPI = self.config.app  # type: ignore[assignment]
        app.state.runtime.stopping = True
        super().handle_exit(sig, frame)


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
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=GuardedProtocol,
            ws="none",
            loop="auto",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(settings.grace)),
            backlog=2048,
        )
    )
    server.run()
