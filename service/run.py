"""One process that serves: uvicorn with the limits that the application cannot set from inside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from types import FrameType
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import create_app
from service.direct import Asked
from service.security import is_loopback
from service.settings import Settings
from vecmeta import InvalidConfig

MAX_HEAD = 64 * 1024  # bytes of the request line and the headers
KEEP_ALIVE = 30  # seconds that an idle connection is kept
BODY = 0.05  # seconds that the body of a search may come after its head to be answered the shortest way
SWITCH = 0.0005  # seconds after which a thread that computes lets the one that talks to clients go on


class GuardedProtocol(HttpToolsProtocol):
    """The parser counts the bytes of bodies, not of headers: a flood of them is cut off here, and a head that never ends as well.

    A search whose body comes with its head, or right after it, is answered here, see `service.direct`.
    """

    _head = 0
    _reading = False  # what was received is being parsed
    _search: tuple[Any, Asked] | None = None  # a request that may be answered here, once its body is whole
    _patience: asyncio.TimerHandle | None = None  # until when that is waited for
    _awaited = False  # a head has begun, and is not complete
    _timer: asyncio.TimerHandle | None = None  # runs while one is awaited

    def connection_made(self, transport: Any) -> None:
        """A new connection has KEEP_ALIVE seconds to send its first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_timer()
        self._searched()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes that are not of a body are counted: of a head until it is complete, and of what may follow a body in pieces."""
        self._head += len(data)
        self._reading = True
        super().data_received(data)
        self._reading = False
        if self._search is not None:
            self._await_body(self._search[0])
        if self._awaited:  # most come in one piece, and need no timer
            self._await_head()
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.logger.warning("Request head too large.")
            self.send_400_response("Request head too large.")

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._head = 0
        super().on_message_complete()
        search = self._searched()
        if search is not None and not self.config.app.state.direct.takes(self, *search):  # type: ignore[union-attr]
            self.start_usual(search[0])

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        direct = self.config.app.state.direct  # type: ignore[union-attr]
        if direct is not None and self._reading and app is self.app and cycle.more_body:
            asked = direct.suits(cycle.scope)
            if asked is not None:
                self._search = cycle, asked
                return
        super()._start_asgi_task(cycle, app)

    def start_usual(self, cycle: Any) -> None:
        """Leave a request to the application after all."""
        super()._start_asgi_task(cycle, self.app)

    def _searched(self) -> tuple[Any, Asked] | None:
        """The request that may be answered here, which is not waited for any more."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        search, self._search = self._search, None
        return search

    def _await_body(self, cycle: Any) -> None:
        """Most clients send a body right after its head; one that takes longer, or is large, is for those who have the patience."""
        if len(cycle.body) > MAX_HEAD // 2:
            self._go_usual()
        elif self._patience is None:
            self._patience = self.loop.call_later(BODY, self._go_usual)

    def _go_usual(self) -> None:
        search = self._searched()
        if search is not None:
            self.start_usual(search[0])

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an answer of the usual shape, and the connection is closed."""
        body = orjson.dumps({"error": "bad_request", "detail": msg})
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """The next request of the connection."""
        super().on_message_begin()
        self._awaited = True

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head, self._awaited = 0, False
        self._stop_timer()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(KEEP_ALIVE, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        self.transport.close()


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
