"""Dependencies with names, for routes to ask for."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

import orjson
from fastapi import Depends, Path, Request, Response
from fastapi.routing import APIRoute

import vecmeta as vm
from service.errors import Refused
from service.runtime import Runtime
from service.security import needs
from vecmeta import Collection, Key


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


async def _runtime_dependency(request: Request) -> Runtime:
    return _runtime(request)


CollectionName = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="the collection", examples=["docs"])
]


async def _collection(request: Request, name: CollectionName) -> Collection:
    try:
        return await _runtime(request).collection(name)
    except vm.CollectionNotFound:
        key: Key | None = request.scope["key"]
        if key is None or key.collections is None:
            raise
        raise vm.CollectionNotFound(
            f"there is no collection {name!r}"
        ) from None  # the other names are none of this key's business


Service = Annotated[Runtime, Depends(_runtime_dependency)]
Reader = Annotated[Key | None, Depends(needs("read"))]
Teacher = Annotated[Key | None, Depends(needs("feedback"))]
Writer = Annotated[Key | None, Depends(needs("write"))]
Admin = Annotated[Key | None, Depends(needs("admin"))]
Named = Annotated[Collection, Depends(_collection)]


class FastRequest(Request):
    """A request whose JSON is read by orjson: several times as fast on vectors, strict UTF-8, no NaN; its body has a limit."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces; `body` and `form` read it here too. Raises Refused (413)."""
        most, size = self.scope["max_body"], 0
        async for piece in super().stream():
            size += len(piece)
            if size > most:
                raise _too_large(most)
            yield piece

    async def json(self) -> Any:
        """The body as JSON. Raises json.JSONDecodeError."""
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json


class FastRoute(APIRoute):
    """A route that gets a FastRequest, and knows who asks before it reads a byte of the body."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(await self.opened(request))

        return handle

    async def opened(self, request: Request) -> FastRequest:
        """The request with its key, and a limit on its body. Raises Refused (401, 403, 413, 429)."""
        if "key" not in request.scope:  # `HotSearch` may have looked
            request.scope["key"] = await request.app.state.gatekeeper.key(request)
        most = _runtime(request).settings.max_body if self.max_body_size is None else self.max_body_size
        if int(request.headers.get("content-length", 0)) > most:  # the parser has let only digits pass
            raise _too_large(most)
        request.scope["max_body"] = most
        return FastRequest(request.scope, request.receive)


def _too_large(most: int) -> Refused:
    return Refused(413, "too_large", f"a request's body has at most {most:,} bytes; send less at once, or a stream of items")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that is made already; what FastAPI would do to check and copy it costs more than a search."""
    return Response(json_bytes(value), status, headers, "application/json")


def json_bytes(value: Any) -> bytes:
    """As JSON."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # metadata may hold whole numbers of more than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
