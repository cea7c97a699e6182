"""Errors as answers, all of one shape: {"error": "collection_not_found", "detail": "…"}. The one place that knows both sides."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

import vecmeta as vm
from service.batching import Overloaded
from service.schemas.common import ErrorAnswer

log = structlog.get_logger("vecmeta.service")

STATUS: tuple[tuple[type[Exception], int], ...] = (  # the first that fits
    (vm.NotFound, 404),
    (vm.AlreadyExists, 409),
    (vm.Conflict, 409),
    (vm.EncoderMismatch, 409),
    (vm.Cancelled, 409),
    (vm.InvalidInput, 422),
    (vm.UndecodableContent, 422),
    (vm.StorageFull, 507),
    (vm.StorageBusy, 503),
    (vm.StorageReadOnly, 503),
    (vm.StorageUnavailable, 503),
    (vm.IndexUnavailable, 503),
    (vm.EncoderUnavailable, 503),
    (Overloaded, 503),
    (TimeoutError, 503),
    (vm.VecmetaError, 500),
)
OUTCOMES = {
    401: "No API key, or one that is unknown, expired or revoked",
    403: "The key's scopes or collections do not reach this far",
    404: "No such collection, item, version or job",
    408: "The body did not arrive in time",
    409: "The name is taken, somebody else changed the same thing first, or the collection was filled by another encoder",
    413: "The body is larger than this service takes",
    415: "The body is of another kind than this route takes",
    422: "The request cannot be understood, or what it holds cannot be used; the detail says what and why",
    429: "More requests than this key may make; `Retry-After` says when to come back",
    503: "Not now: too many requests wait, or the storage is busy; `Retry-After` says when to come back",
}
_NAMES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
}


class Refused(HTTPException):
    """An answer that is an error, with its name in the error field."""

    def __init__(self, status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.error = error


def outcomes(*statuses: int, taken: bool = True, streamed: bool = False) -> dict[int | str, dict[str, Any]]:
    """Documented errors of a route: these, and those that every route has; 422 if anything is taken that could be wrong.

    Where the answer itself is `streamed`, FastAPI would take the errors for the same kind of content.
    """
    every = {401, 403, 408, 413, 429, 503, *((422,) if taken else ())}
    json = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorAnswer.__name__}"}}}
    shape: dict[str, Any] = {"content": json} if streamed else {"model": ErrorAnswer}
    return {status: {**shape, "description": OUTCOMES[status]} for status in sorted({*every, *statuses})}


def answer(status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one shape."""
    more = {"Retry-After": "1"} if status == 503 else {}
    return JSONResponse({"error": error, "detail": detail}, status, {**more, **(headers or {})})


def named(error: Exception) -> tuple[int, str, str]:
    """Status, name and detail of an error that was raised on purpose."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    if isinstance(error, Overloaded):
        return status, "overloaded", "too many requests wait already; try again in a moment"
    if isinstance(error, TimeoutError):
        return status, "timeout", "this took longer than the service's time limit; try again, or ask for less"
    code = error.code if isinstance(error, vm.VecmetaError) else "internal"
    return status, code, _presentable(str(error))


def answer_to(error: Exception) -> JSONResponse | None:
    """The answer to an error that was raised on purpose and is the caller's, or will pass; None for any other."""
    if isinstance(error, Refused):
        return answer(error.status_code, error.error, error.detail, dict(error.headers or {}))
    known = named(error) if isinstance(error, (vm.VecmetaError, Overloaded, TimeoutError)) else None
    return None if known is None or known[0] == 500 else answer(*known)


def install(app: FastAPI) -> None:
    """Handlers for everything that a route may raise."""

    async def domain(request: Request, error: Exception) -> JSONResponse:
        status, name, detail = named(error)
        if status == 500:
            log.error("storage", error=name, detail=detail, request_id=request.scope.get("request_id"))
        return answer(status, name, detail)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:  # Starlette tells the methods of the first route that fits; a path may have several
            error.headers = {"Allow": ", ".join(_allowed(request))}
        if error.status_code == 400:  # what FastAPI and Starlette say of a form that cannot be read
            return answer(422, "invalid_request", _presentable(str(error.detail)))
        name = error.error if isinstance(error, Refused) else _NAMES.get(error.status_code, "http_error")
        return answer(error.status_code, name, str(error.detail), dict(error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(422, "invalid_request", described(error.errors()))

    async def too_deep(_request: Request, _error: Exception) -> JSONResponse:
        return answer(422, "invalid_request", "this is nested too deeply")

    app.add_exception_handler(RecursionError, too_deep)
    for kind in (vm.VecmetaError, Overloaded, TimeoutError):
        app.add_exception_handler(kind, domain)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)


def _allowed(request: Request) -> list[str]:
    asked = [{**request.scope, "method": method} for method in ("DELETE", "GET", "POST", "PUT")]
    return [scope["method"] for scope in asked if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)]


def described(errors: Any) -> str:
    """What pydantic found, in one sentence each; at most five of them, and nothing that was sent but the place."""
    told = []
    for error in list(errors)[:5]:
        place = ".".join(_presentable(str(part))[:100] for part in error["loc"] if part != "body")
        told.append(f"{place}: {error['msg']}" if place else str(error["msg"]))
    more = len(errors) - len(told)
    return _presentable("; ".join(told) + (f"; and {more} more" if more > 0 else ""))


def _presentable(text: str) -> str:
    """Without lone surrogates, which no answer can hold, and not endlessly long."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 2000 else text[:1999] + "…"
