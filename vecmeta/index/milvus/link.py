"""One connection to Milvus: made when it is needed, tried again with back-off, and the one place where its errors become vecmeta's."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from vecmeta.errors import IndexUnavailable
from vecmeta.index.milvus.options import MilvusOptions
from vecmeta.index.protocol import IndexGone

if TYPE_CHECKING:
    from pymilvus import MilvusClient

T = TypeVar("T")
PATIENCE = 1.0  # seconds that a search goes on trying
WORKING_PATIENCE = 60.0  # and that a build does: a Milvus that is started anew takes a while
CONNECT_SECONDS = 3.0
DOWN_SECONDS = 1.0  # for so long after a failure nobody tries: each answer would take as long to fail
NOT_LOADED = 101
_NOT_FOUND = (100, 1600, 4)
_LATER = (  # codes of what passes by itself, and words of the same where the code says nothing
    8,  # rate limit
    103, 106,  # not loaded wholly
    2, 3, 5, 500, 502, 503, 504,  # not ready, no memory or disk at the moment; channels and nodes that are being moved
    901, 902,
)  # fmt: skip
_LATER_WORDS = (
    "not ready", "unavailable", "connection refused", "deadline exceeded", "no available", "channel not", "rate limit",
    "connect failed", "timed out", "fail connecting", "server stopped", "retry run out", "socket closed", "offline",
)  # fmt: skip
_REFUSALS = (  # words of what does not pass by itself, and what to say of it
    ("unauthenticated", "does not accept the token (environment variable VECMETA_MILVUS_TOKEN, or user:password@ in the address)"),
    ("permission_denied", "does not allow this to the owner of the token"),
    ("certificate", "and this client do not accept each other's certificates (ca=, server_name=, cert= and key= in the address)"),
)  # fmt: skip

_lite: Counter[str] = Counter()  # connections of this process to each milvus-lite
_counting = threading.Lock()


class Unloaded(IndexUnavailable):
    """A collection has to be loaded before it is asked; after a restart some servers do not do that by themselves."""

    code = IndexUnavailable.code


class Link:
    """A connection to one Milvus, shared by all threads. Nothing is connected before the first `call`."""

    def __init__(self, options: MilvusOptions) -> None:
        self.options = options
        self._client: MilvusClient | None = None
        self._connecting = threading.Lock()
        self._down_until = 0.0
        self._why = ""

    def call(self, doing: str, function: Callable[[MilvusClient], T], patience: float = PATIENCE) -> T:
        """What a function of the client returns, tried again with growing pauses while its error is one that passes.

        Args:
            doing: for the error: "search".
            patience: seconds to go on trying.

        Raises:
            IndexGone: what it is about is not there.
            IndexUnavailable: Milvus cannot be reached, is not ready, or refuses; says what it said.
        """
        begin, pause = time.monotonic(), 0.05
        if begin < self._down_until and patience <= PATIENCE:
            raise IndexUnavailable(self._why)
        patience = 0.0 if self._why and patience <= PATIENCE else patience  # it was away: one try says whether it is back
        while True:
            try:
                found = function(self._connected())
            except IndexUnavailable:
                raise
            except Exception as error:
                if not _foreign(error):
                    raise
                code, text = _said(error)
                if _not_there(code, text):
                    raise IndexGone(f"{doing}: not in the Milvus at {self.options.shown}: {text}") from error
                if code == NOT_LOADED:
                    raise Unloaded(f"{doing}: not loaded in the Milvus at {self.options.shown}: {text}") from error
                refused = _refused(text)
                why = f"{doing}: the Milvus at {self.options.shown} {refused or 'does not answer as it should'}: {text}"
                if not refused and not _passes(code, text):
                    raise IndexUnavailable(why) from error
                if refused or time.monotonic() - begin + pause > patience:
                    self._why, self._down_until = why, time.monotonic() + DOWN_SECONDS
                    raise IndexUnavailable(why) from error
                time.sleep(pause * random.uniform(0.5, 1))  # so that not all who wait come back together
                pause = min(2 * pause, 2.0)
            else:
                self._down_until, self._why = 0.0, ""
                return found

    def reach(self) -> None:
        """Nothing, if it answers. Raises IndexUnavailable, soon."""
        self.call("reach it", lambda client: client.get_server_version(timeout=CONNECT_SECONDS))

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        with self._connecting:
            client, self._client = self._client, None
            if client is not None:
                client.close()
                if self.options.lite:
                    _let_go(self.options.uri)

    def _connected(self) -> MilvusClient:
        client = self._client
        if client is None:
            with self._connecting:
                if self._client is None:
                    self._client = self._made()
                client = self._client
        return client

    def _made(self) -> MilvusClient:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of packages that it brings along
                from pymilvus import MilvusClient

                if self.options.lite:
                    import milvus_lite  # noqa: F401  # else pymilvus says something misleading
        except ImportError as error:
            raise IndexUnavailable(
                f"the package {error.name or 'pymilvus'} is missing, which the index {self.options.shown!r} needs: "
                f"pip install 'vecmeta[milvus]'"
            ) from error
        for name in (
            "pymilvus",
            "milvus_lite",
        ):  # they log each error with its traceback before they raise it: it is told once, by us
            logging.getLogger(name).setLevel(logging.CRITICAL)
        o = self.options
        tls: dict[str, Any] = {"secure": True} if o.uri.startswith("https:") else {}
        tls |= {"server_pem_path": o.ca} if o.ca and not o.cert else {}
        tls |= {"ca_pem_path": o.ca, "client_pem_path": o.cert, "client_key_path": o.key} if o.cert else {}
        tls |= {"server_name": o.server_name} if o.server_name else {}
        for name, file in (("ca", o.ca), ("cert", o.cert), ("key", o.key)):
            if file and not os.access(file, os.R_OK):
                raise IndexUnavailable(f"{name}={file} of the index {o.shown!r} is no file that can be read")
        if o.lite:
            with _counting:
                _lite[o.uri] += 1
        else:  # the client would take all its time to find out that nobody is there
            url = urlsplit(o.uri)
            socket.create_connection((url.hostname or "", url.port or 0), timeout=CONNECT_SECONDS).close()
        # A connection of its own: pymilvus would share one for each address, and closing it would close the others'.
        return MilvusClient(o.uri, token=o.token, db_name=o.database, timeout=CONNECT_SECONDS, dedicated=True, **tls)


def _let_go(path: str) -> None:
    """Free a milvus-lite's file for other processes once nobody in this one uses it; closing a client leaves it locked."""
    from milvus_lite.server_manager import server_manager_instance

    with _counting:
        _lite[path] -= 1
        if _lite[path] <= 0:
            del _lite[path]
            server_manager_instance.release_server(path)


def _foreign(error: Exception) -> bool:
    """Whether it is Milvus, its client or the network that failed, and not this program."""
    import grpc
    from pymilvus.exceptions import MilvusException

    return isinstance(error, (MilvusException, grpc.RpcError, OSError, ValueError)) and not isinstance(error, IndexUnavailable)


def _said(error: Exception) -> tuple[int | None, str]:
    """Its code, and what it says; of a failed connection what the call behind it said, for the client's own words are always the same."""
    import grpc

    code, message = getattr(error, "code", None), getattr(error, "message", None) or str(error)
    for call in (error, error.__cause__):
        if isinstance(call, grpc.RpcError) and isinstance(call, grpc.Call):
            message = f"{call.code().name}: {call.details()}"
    code = None if callable(code) else code
    return (code if isinstance(code, int) else None), " ".join(str(message).split())[:500]


def _not_there(code: int | None, text: str) -> bool:
    return code in _NOT_FOUND and ("not found" in text or "not exist" in text or "can't find" in text)


def _refused(text: str) -> str | None:
    """What to say of a server that knows who asks and does not want to answer."""
    lower = text.lower()
    return next((said for word, said in _REFUSALS if word in lower), None)


def _passes(code: int | None, text: str) -> bool:
    """Whether the same call may do better in a moment."""
    lower = text.lower()
    return code in _LATER or any(word in lower for word in _LATER_WORDS)
