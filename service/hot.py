"""The short way for the request that nearly all others are: a search, as it should be, of a collection in use.

To find out what to call with what, the frameworks take as long as the index takes to search. Here the path is matched and the body read
at once; whatever is not as usual in the least goes the usual way with all that was read, which also finds the words for what is wrong.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.deps import json_bytes
from service.errors import answer_to
from service.runtime import Runtime
from service.schemas.search import SearchBody
from service.security import Gatekeeper, check

PATH = re.compile(r"/v1/collections/([A-Za-z0-9._-]{1,63})/search")
JSON = (b"content-type", b"application/json")


class HotSearch:
    """An ASGI middleware around the application; `answers` is what the route's own function calls."""

    def __init__(self, app: ASGIApp, *, runtime: Runtime, gatekeeper: Gatekeeper, answers: Any, route: Any) -> None:
        self._app, self._runtime, self._gatekeeper = app, runtime, gatekeeper
        self._answers, self._route = answers, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        collection = None if found is None else self._runtime.known(found[1])
        if collection is None or JSON not in scope["headers"]:
            await self._app(scope, receive, send)
            return
        heard: list[Message] = []
        try:
            request = Request(scope)
            if "key" not in scope:  # `Direct` may have looked
                scope["key"] = await self._gatekeeper.key(request)
            key = scope["key"]
            check(key, "read", collection.name)
            if int(request.headers.get("content-length", 0)) > self._runtime.settings.max_body:
                raise ValueError  # told at once, without waiting for it
            body = await self._body(receive, heard)
            [answer] = await self._answers(self._runtime, collection, SearchBody.model_validate(orjson.loads(body)))
            content = json_bytes(answer)
        except Exception as error:
            told = answer_to(error)
            if told is None:  # the usual way meets it again, and knows what to say
                await self._app(scope, _again(heard, receive), send)
            else:  # nothing is done, counted or waited for twice
                scope["route"] = self._route
                await told(scope, receive, send)
            return
        scope["route"] = self._route
        headers = [JSON, (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _body(self, receive: Receive, heard: list[Message]) -> bytes:
        size = 0
        while True:
            message = await receive()
            heard.append(message)
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or size > self._runtime.settings.max_body:
                raise ValueError
            if not message.get("more_body", False):
                return heard[0]["body"] if len(heard) == 1 else b"".join(part["body"] for part in heard)


def _again(heard: list[Message], receive: Receive) -> Receive:
    """What was heard already, and then the rest."""
    messages = iter(heard)

    async def replay() -> Message:
        for message in messages:
            return message
        return await receive()

    return replay
