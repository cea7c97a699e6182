"""A connection: uvicorn's, guarded against floods, with a short way for searches by a vector."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.direct import Asked, Head

MAX_HEAD = 64 * 1024  # bytes of the request line and the headers
KEEP_ALIVE = 30  # seconds that an idle connection is kept
BODY = 0.05  # seconds that the body of a search may come after its head to be answered the shortest way


class GuardedProtocol(HttpToolsProtocol):
    """The parser counts the bytes of bodies, not of headers: a flood of them is cut off here, and a head that never ends as well.

    A search whose body comes with its head, or right after it, is answered here, see `service.direct`. A head that is to the letter one
    that was parsed before is not parsed again: that takes as long as all else that the connection does for a search.
    """

    _direct: Any = None  # what answers here, if anything does
    _head = 0
    _received = b""  # what is being parsed
    _reading = False  # what was received is being parsed
    _search: tuple[Any, Asked] | None = None  # a request that may be answered here, once its body is whole
    _spare = False  # `cycle` was made here, and nobody needs it once its request is answered
    _patience: asyncio.TimerHandle | None = None  # until when that is waited for
    _awaited = False  # a head has begun, and is not complete
    _timer: asyncio.TimerHandle | None = None  # runs while one is awaited
    _idle: asyncio.TimerHandle | None = None  # looks whether the connection is idle for too long
    _idle_since = 0.0

    def connection_made(self, transport: Any) -> None:
        """A new connection has KEEP_ALIVE seconds to send its first head."""
        super().connection_made(transport)
        self._direct = self.config.app.state.direct  # type: ignore[union-attr]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_timer()
        self._searched()
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes that are not of a body are counted: of a head until it is complete, and of what may follow a body in pieces."""
        if self._recalled(data):
            return
        self._head += len(data)
        self._reading, self._received = True, data
        super().data_received(data)
        self._reading, self._received = False, b""
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
        if search is None:
            return
        cycle, asked = search
        if not self._direct.takes(self, cycle, asked):
            self.start_usual(cycle)
        elif cycle.keep_alive:
            self._direct.remember(self._received, cycle, asked)

    def _recalled(self, data: bytes) -> bool:
        """Answer a search the head of which was parsed before; False: nothing was done."""
        before, direct = self.cycle, self._direct
        # The parser has to be at the end of a request, and that has to be answered.
        if direct is None or before is None or self._awaited or before.more_body or not before.response_complete:
            return False
        found = direct.recall(data)
        if found is None or self.transport.is_closing():
            return False
        self._unset_keepalive_if_required()
        head, body = found
        self._begin(head)
        cycle = self.cycle
        cycle.body = body
        if not direct.takes(self, cycle, head.asked):
            self.start_usual(cycle)
        return True

    def _begin(self, head: Head) -> None:
        """Let `cycle` be that of a request with this head, as the parser's callbacks would have made it."""
        if not self._spare:
            self.cycle, self._spare = self._cycle(), True
        cycle, self.headers = self.cycle, [*head.scope["headers"]]
        about = {"server": self.server, "client": self.client, "headers": self.headers, "state": self.app_state.copy()}
        scope: Any = {**head.scope, **about}
        cycle.scope = self.scope = scope
        cycle.default_headers = self.server_state.default_headers
        cycle.response_started = cycle.response_complete = False

    def _cycle(self) -> RequestResponseCycle:
        """One whose request is complete."""
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        return cycle

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        direct = self._direct
        if direct is not None and self._reading and app is self.app and cycle.more_body:
            asked = direct.suits(cycle.scope)
            if asked is not None:
                self._search = cycle, asked
                return
        super()._start_asgi_task(cycle, app)

    def start_usual(self, cycle: Any) -> None:
        """Leave a request to the application after all."""
        self._spare = False
        cycle.message_event.set()
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
        self._awaited, self._spare = True, False

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head, self._awaited = 0, False
        self._stop_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The answer is sent. One timer looks now and then how long the connection has been idle: one for each answer costs more."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.flow.read_paused or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self._idle is None:
            self._idle = self.loop.call_later(KEEP_ALIVE, self._close_idle)

    def _close_idle(self) -> None:
        self._idle = None
        # What is awaited has a timer of its own, and its answer begins a new one here.
        if self._awaited or not self.cycle.response_complete:
            return
        left = self._idle_since + KEEP_ALIVE - self.loop.time()
        if left > 0:
            self._idle = self.loop.call_later(left, self._close_idle)
        else:
            self.transport.close()

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
