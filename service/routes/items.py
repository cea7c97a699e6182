"""Items: one, many, a stream of any size; by id, by page."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import IO, Annotated, Any

import orjson
from fastapi import APIRouter, File, Form, Path, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.convertors import Convertor, register_url_convertor

import vecmeta as vm
from service.convert import OwnVector, item_json, to_item
from service.deps import FastRoute, Named, Reader, Service, Writer, json_response
from service.errors import Refused, described, named, outcomes
from service.links import ITEMS_WRITTEN
from service.runtime import Runtime, added
from service.schemas.items import (
    CountBody,
    Counted,
    IdsBody,
    ItemAnswer,
    ItemBody,
    ItemModel,
    ItemsAnswer,
    ItemsBody,
    LineResult,
    Written,
)
from vecmeta import Collection, Item


class _AnyConvertor(Convertor[str]):
    """An id in a path: whatever it holds, also '/' and line ends."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """To what the route gets."""
        return value

    def to_string(self, value: str) -> str:
        """To what stands in an address."""
        return value


register_url_convertor("any", _AnyConvertor())
router = APIRouter(prefix="/collections/{name}", tags=["items"], route_class=FastRoute)
Id = Annotated[
    str, Path(min_length=1, max_length=512, description="the item's id; '/' in it may be written as it is", examples=["a"])
]
FEW = 16  # items of a request that waits for company
TOGETHER = 256  # lines of a stream that are written at once
UNKNOWN = "application/octet-stream"
_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


@router.put("/items", responses={**outcomes(404, 409), **ITEMS_WRITTEN})
async def put_items(body: ItemsBody, _: Writer, collection: Named, service: Service) -> Written:
    """Write items, all of them or none; an item whose id is there is replaced. Unchanged contents are not encoded again."""
    _not_too_many(len(body.items), service)
    return Written(count=await _write(service, collection, [to_item(collection, item.id, item) for item in body.items]))


@router.get("/items", responses=outcomes(404, 409), response_model=ItemsAnswer)
async def list_items(
    _: Reader,
    collection: Named,
    service: Service,
    after: Annotated[str | None, Query(max_length=512, description="cursor: the `next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    where: Annotated[str | None, Query(max_length=10_000, description="a filter as JSON", examples=['{"lang": "en"}'])] = None,
) -> Response:
    """A page of items by ascending id."""
    found = await service.run(collection.items, _filter(where), after, limit)
    return json_response({"items": [item_json(item) for item in found], "next": found[-1].id if len(found) == limit else None})


@router.post("/items/get", responses=outcomes(404, 409), response_model=ItemsAnswer)
async def get_items(body: IdsBody, _: Reader, collection: Named, service: Service) -> Response:
    """Several items by id, in the order asked."""
    found = await service.run(collection.get, body.ids)
    return json_response({"items": [item_json(item) for item in found], "next": None})


@router.post("/items/delete", responses=outcomes(404, 409))
async def delete_items(body: IdsBody, _: Writer, collection: Named, service: Service) -> Written:
    """Delete the items that are there."""
    return Written(count=await service.run(collection.delete, body.ids))


@router.post("/items/count", responses=outcomes(404, 409))
async def count_items(body: CountBody, _: Reader, collection: Named, service: Service) -> Counted:
    """How many items match."""
    return Counted(count=await service.run(collection.count, body.where))


@router.post("/items/upload", responses=outcomes(404, 409))
async def upload_item(
    _: Writer,
    collection: Named,
    service: Service,
    id: Annotated[str, Form(min_length=1, max_length=512)],
    file: Annotated[UploadFile, File(description="the picture")],
    metadata: Annotated[str, Form(max_length=1_000_000, description="a JSON object", examples=['{"lang": "en"}'])] = "{}",
) -> Written:
    """Write one picture, as a form."""
    body = ItemBody(image=await file.read(), metadata=to_object(metadata, "metadata"))
    return Written(count=await _write(service, collection, [to_item(collection, id, body)]))


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One line of JSON for each line that was sent, in order",
        "content": {"application/x-ndjson": {"schema": LineResult.model_json_schema()}},
    }
}
LINES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "examples": ['{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n']}
            }
        },
    }
}


@router.post(
    "/items/stream", responses={**outcomes(404, 409, 415), **STREAMED}, openapi_extra=LINES, response_class=StreamingResponse,
    max_body_size=sys.maxsize,
)  # fmt: skip
async def stream_items(request: Request, _: Writer, collection: Named, service: Service) -> StreamingResponse:
    """Write items from lines of JSON, as many as you like. Good lines are written even if others are refused; the answer says which."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/x-ndjson", "application/jsonl"):
        raise Refused(415, "unsupported_media_type", "a stream of items is sent as application/x-ndjson")
    # Most clients send all before they read anything: results go to a file until then, or both sides would wait for each other for ever.
    results = tempfile.SpooledTemporaryFile(max_size=8 * 2**20)  # noqa: SIM115  # closed when it has been sent
    try:
        async for result in _results(request, collection, service):
            results.write(result)
        results.seek(0)
    except BaseException:
        results.close()
        raise
    return StreamingResponse(_chunks(results), media_type="application/x-ndjson")


@router.put("/items/{id:any}", responses=outcomes(404, 409))
async def put_item(body: ItemBody, id: Id, _: Writer, collection: Named, service: Service) -> Written:
    """Write one item; it is replaced if the id is there."""
    return Written(count=await _write(service, collection, [to_item(collection, id, body)]))


@router.get("/items/{id:any}", responses=outcomes(404, 409), response_model=ItemAnswer)
async def get_item(id: Id, _: Reader, collection: Named, service: Service) -> Response:
    """One item."""
    [item] = await service.run(collection.get, [id])
    return json_response(item_json(item))


@router.get(
    "/content/{id:any}",
    responses={**outcomes(404, 409), 200: {"content": {kind: {} for kind in ("text/plain", *_MAGIC.values(), UNKNOWN)}}},
    response_class=Response,
)
async def get_content(id: Id, _: Reader, collection: Named, service: Service) -> Response:
    """An item's text or picture as it was sent."""
    [item] = await service.run(collection.get, [id])
    if isinstance(item.content, str):
        return Response(item.content.encode(), media_type="text/plain; charset=utf-8")
    if not isinstance(item.content, bytes):
        raise Refused(404, "item_not_found", f"item {id!r} is an own vector and has no content")
    content = item.content
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), UNKNOWN)
    return Response(content, media_type=kind)


@router.delete("/items/{id:any}", status_code=204, responses=outcomes(404, 409))
async def delete_item(id: Id, _: Writer, collection: Named, service: Service) -> None:
    """Delete one item."""
    if not await service.run(collection.delete, [id]):
        raise vm.ItemNotFound(f"collection {collection.name!r} has no item {id!r}")


async def _write(service: Runtime, collection: Collection, items: Sequence[Item | OwnVector]) -> int:
    """A few items go together with those of other requests, many by themselves."""
    if len(items) <= FEW:
        return await service.writes.ask(collection, items)
    return await service.run(added, collection, items)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(2**16):
            yield chunk


async def _results(request: Request, collection: Collection, service: Runtime) -> AsyncIterator[bytes]:
    batch: list[tuple[int, Any]] = []
    number = 0
    async for number, line in _lines(request, service.settings.max_line):
        if line is None:
            detail = f"a line of a stream has at most {service.settings.max_line:,} bytes; what follows was not read"
            async for result in _flushed(batch, collection, service):
                yield result
            yield _result(number, None, "too_large", detail)
            return
        try:
            model = ItemModel.model_validate_json(line)
            batch.append((number, to_item(collection, model.id, model)))
        except (ValidationError, vm.VecmetaError) as error:
            async for result in _flushed(batch, collection, service):
                yield result
            if isinstance(error, ValidationError):
                yield _result(number, None, "invalid_request", described(error.errors()))
            else:
                yield _result(number, None, *named(error)[1:])
        if len(batch) >= TOGETHER:
            async for result in _flushed(batch, collection, service):
                yield result
    async for result in _flushed(batch, collection, service):
        yield result


async def _flushed(batch: list[tuple[int, Any]], collection: Collection, service: Runtime) -> AsyncIterator[bytes]:
    """Write what was gathered: together if all is good, else one by one, so that each line has its own result."""
    lines, batch[:] = list(batch), []
    if not lines:
        return
    try:
        await _write(service, collection, [item for _, item in lines])
        for number, item in lines:
            yield _result(number, item.id)
    except vm.VecmetaError:
        for number, item in lines:
            try:
                await _write(service, collection, [item])
                yield _result(number, item.id)
            except vm.VecmetaError as error:
                yield _result(number, item.id, *named(error)[1:])


def _result(number: int, id: str | None, error: str | None = None, detail: str | None = None) -> bytes:
    status = "written" if error is None else "refused"
    return orjson.dumps({"line": number, "id": id, "status": status, "error": error, "detail": detail}) + b"\n"


async def _lines(request: Request, longest: int) -> AsyncIterator[tuple[int, bytes | None]]:
    """Numbered lines that are not blank; None for one that is too long, and then no more."""
    rest, number = b"", 0
    async for chunk in request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            if len(line) > longest:
                yield number, None
                return
            if line.strip():
                yield number, line
        if len(rest) > longest:
            yield number + 1, None
            return
    if rest.strip():
        yield number + 1, rest


def _filter(where: str | None) -> dict[str, Any] | None:
    return None if where is None else to_object(where, "where")


def to_object(text: str, what: str) -> dict[str, Any]:
    """A form or query field that holds a JSON object. Raises Refused (422)."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(422, "invalid_request", f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(422, "invalid_request", f'{what} is a JSON object such as {{"lang": "en"}}')
    return value


def _not_too_many(count: int, service: Runtime) -> None:
    most = service.settings.max_batch
    if count > most:
        raise Refused(413, "too_large", f"{count:,} in one request; at most {most:,}: send several, or a stream")
