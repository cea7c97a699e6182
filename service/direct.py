"""The shortest way: a search by a vector is answered by its connection, without a task, a middleware or a framework.

What those cost is more than what the index needs. As on the short way of `service.hot`, whatever is not as usual in the least
goes the usual way, with all that was read and nothing counted twice.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.deps import json_bytes
from service.errors import answer_to
from service.hot import JSON, PATH
from service.observe import ID, SAFE, WENT_AWAY, Ledger, new_request_id, request_id_in
from service.routes.search import answer_of
from service.runtime import Runtime, filter_key
from service.schemas.common import unpacked
from service.security import Gatekeeper, secret_in
from vecmeta import Collection, RawHits

_FIELDS = {"vector", "k", "where", "content"}
_UNUSUAL = {b"origin", b"expect", b"transfer-encoding", b"content-encoding", b"upgrade"}
_OF_A_HEAD = {"type", "asgi", "http_version", "scheme", "root_path", "headers", "method", "path", "raw_path", "query_string"}
LONGEST, MOST = 2048, 4096  # bytes of a head that is remembered, and how many are: 10 MB or so


class Asked(NamedTuple):
    """What the head of a search says: of which collection, and whose it is."""

    collection: str
    secret: str | None  # of a key
    id: bytes | None  # the caller's own for this request


class Head(NamedTuple):
    """What was read out of a head."""

    asked: Asked
    length: int  # of the body
    scope: dict[str, Any]  # all of ASGI's but what the connection knows


class Direct:
    """What the connections of a process share."""

    def __init__(self, runtime: Runtime, gatekeeper: Gatekeeper, ledger: Ledger, route: Any) -> None:
        self.runtime, self.ledger, self.route = runtime, ledger, route
        self._gatekeeper = gatekeeper
        self._open: dict[_Reply, None] = {}  # who waits, longest first
        self._timer: asyncio.TimerHandle | None = None  # one for all of them
        self._answered: list[_Reply] = []  # who has an answer that is not sent yet
        self._usual: tuple[Any, bytes] = (), b""  # the headers that uvicorn adds now, and how a head with them begins
        self._heads: dict[bytes, Head] = {}  # of searches that were answered here

    def suits(self, scope: Any) -> Asked | None:
        """What a request asks, of which the head is there, if it may be answered here."""
        if scope["method"] != "POST" or not self._gatekeeper.on:
            return None
        found = PATH.fullmatch(scope["path"])
        if found is None:
            return None
        authorization, is_json = "", False
        for header in scope["headers"]:
            name = header[0]
            if name in _UNUSUAL:
                return None
            if name == b"authorization":
                authorization = authorization or header[1].decode("latin-1")
            elif header == JSON:
                is_json = True
        return Asked(found[1], secret_in(authorization), request_id_in(scope)) if is_json else None

    def takes(self, connection: Any, cycle: Any, asked: Asked) -> bool:
        """Answer a request that is whole, now or later; False: nothing was done or counted."""
        begin, runtime = time.perf_counter(), self.runtime
        collection = runtime.known(asked.collection)
        key = self._gatekeeper.known(asked.secret)
        if collection is None or key is None or not key.allows("read", collection.name):
            return False
        if len(cycle.body) > runtime.settings.max_body or (search := _search_in(cycle.body, collection.dim)) is None:
            return False
        vector, k, where, content = search
        reply = _Reply(self, connection, cycle, collection, content, asked.id or new_request_id(), begin)
        cycle.scope["key"] = key
        try:
            self._gatekeeper.count(key)
            version = runtime.choose(collection, None)
            runtime.searches.put((collection, version, k, filter_key(where)), vector, reply, connection.loop)
        except Exception as error:
            reply.set_exception(error)
        return True

    def remember(self, received: bytes, cycle: Any, asked: Asked) -> None:
        """What was read out of the head of a search, if nothing but it and its body was received."""
        cut, length = received.find(b"\r\n\r\n") + 4, len(cycle.body)
        if cut > LONGEST or len(received) != cut + length or not received.startswith(b"POST "):
            return
        if len(self._heads) >= MOST:
            self._heads.clear()
        told = {name: value for name, value in cycle.scope.items() if name in _OF_A_HEAD}
        self._heads[received[:cut]] = Head(asked, length, told)

    def recall(self, received: bytes) -> tuple[Head, bytes] | None:
        """What was read out of the very same head, and the body; None unless both are whole, and nothing else is there."""
        cut = received.find(b"\r\n\r\n") + 4
        head = self._heads.get(received[:cut])
        return None if head is None or len(received) != cut + head.length else (head, received[cut:])

    def beginning(self, headers: Any) -> bytes:
        """The lines of an answer with hits that are the same in all of them, with uvicorn's own headers, which change with the second."""
        if self._usual[0] is not headers:
            self._usual = headers, _lines(200, (*headers, JSON))
        return self._usual[1]

    def opened(self, reply: _Reply, loop: asyncio.AbstractEventLoop) -> None:
        """One begins to wait."""
        self._open[reply] = None
        if self._timer is None:
            self._timer = loop.call_later(self.runtime.settings.timeout, self._look, loop)

    def closed(self, reply: _Reply) -> None:
        """One waits no more."""
        self._open.pop(reply, None)

    def answered(self, reply: _Reply, loop: asyncio.AbstractEventLoop) -> None:
        """One has an answer. All of a batch are sent together: a client that is woken for each of them costs more than the answers."""
        self._answered.append(reply)
        if len(self._answered) == 1:
            loop.call_soon(self._send)

    def _send(self) -> None:
        replies, self._answered = self._answered, []
        for reply in replies:
            reply.send()
        for reply in replies:
            reply.sent()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those who have waited for too long. A timer of its own for each costs as much as to write the answer."""
        now, self._timer = time.perf_counter(), None
        for reply in list(self._open):
            left = reply.begin + self.runtime.settings.timeout - now
            if left > 0:
                self._timer = loop.call_later(left, self._look, loop)
                break
            reply.set_exception(TimeoutError())


def _search_in(body: bytearray, dim: int) -> tuple[NDArray[np.floating], int, dict[str, Any] | None, bool] | None:
    """Vector, k, filter and whether contents are wanted; None: not a search by a vector as it should be."""
    try:
        told = orjson.loads(body)
        if type(told) is not dict or not told.keys() <= _FIELDS:
            return None
        vector, k, where, content = told.get("vector"), told.get("k", 10), told.get("where"), told.get("content", True)
        right = type(k) is int and 1 <= k <= 10_000 and type(content) is bool and isinstance(where, (dict, NoneType))
        if right and type(vector) is str and len(numbers := unpacked(vector)) == dim:
            return numbers, k, where, content
        if not right or type(vector) is not list or len(vector) != dim:
            return None
        # What packs takes numbers alone, and truth values, which there are only where there is the u of true or the l of false.
        if (b"u" in body or b"l" in body) and not set(map(type, vector)) <= {float, int}:
            return None
        return np.frombuffer(_doubles(dim).pack(*vector)), k, where, content
    except (ValueError, TypeError, OverflowError, RecursionError, struct.error):
        return None


@lru_cache(maxsize=256)
def _doubles(dim: int) -> struct.Struct:
    """So many numbers; `array` and numpy take three times as long."""
    return struct.Struct(f"{dim}d")


def _lines(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The beginning of a head."""
    return STATUS_LINE[status] + b"".join(b"%s: %s\r\n" % header for header in (*headers, SAFE))


_ANSWER = b"%s" + ID + b": %s\r\n%scontent-length: %d\r\n\r\n%s"


class _Reply:
    """One who waits for hits: writes them to the connection."""

    __slots__ = ("_answer", "_collection", "_connection", "_content", "_cycle", "_done", "_id", "_of", "_status", "begin")

    def __init__(
        self, of: Direct, connection: Any, cycle: Any, collection: Collection, content: bool, id: bytes, begin: float
    ) -> None:
        self._of, self._connection, self._cycle = of, connection, cycle
        self._collection, self._content, self._id, self.begin = collection, content, id, begin
        self._done = False
        of.opened(self, connection.loop)

    def done(self) -> bool:
        """See `service.batching.Waiting`."""
        return self._done

    def set_result(self, hits: RawHits, /) -> None:
        """The answer."""
        try:
            content = json_bytes(answer_of(self._of.runtime, self._collection, hits, self._content))
        except Exception as error:
            self.set_exception(error)
        else:
            self._write(200, content, self._of.beginning(self._cycle.default_headers))

    def set_exception(self, exception: BaseException, /) -> None:
        """No answer, but why; or another try."""
        told = answer_to(exception) if isinstance(exception, Exception) else None
        if told is not None:
            kept = [header for header in told.raw_headers if header[0] != b"content-length"]
            self._write(told.status_code, bytes(told.body), _lines(told.status_code, (*self._cycle.default_headers, *kept)))
        elif not self._done:  # the usual way meets it again, and knows what to say
            self._finish()
            self._connection.start_usual(self._cycle)

    def cancel(self) -> None:
        """The service stops: the connection is closed, as for every request that is not answered by then."""
        self._finish()
        self._connection.transport.close()

    def _write(self, status: int, content: bytes, beginning: bytes) -> None:
        if self._done:
            return
        self._finish()
        last = b"" if self._cycle.keep_alive else b"connection: close\r\n"
        self._answer = _ANSWER % (beginning, self._id, last, len(content), content)
        self._status = status
        self._of.answered(self, self._connection.loop)

    def send(self) -> None:
        """Give the answer to the system."""
        cycle, transport = self._cycle, self._connection.transport
        if cycle.disconnected:
            self._status = WENT_AWAY
            return
        transport.write(self._answer)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            transport.close()

    def sent(self) -> None:
        """The answer is with the system: it is entered, and the connection may go on."""
        scope = self._cycle.scope
        scope["route"] = self._of.route
        self._of.ledger.enter(scope, self._id, self._status, time.perf_counter() - self.begin)
        if self._status != WENT_AWAY:
            self._connection.on_response_complete()

    def _finish(self) -> None:
        self._done = True
        self._of.closed(self)
