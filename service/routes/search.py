"""Search, recommend, embed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Response, UploadFile

import vecmeta as vm
from service.convert import hits_json, number_of, to_query, with_changes
from service.deps import FastRoute, Named, Reader, Service, json_response
from service.errors import outcomes
from service.links import SEARCHED
from service.routes.items import to_object
from service.runtime import Runtime
from service.schemas.search import (
    EmbedAnswer,
    EmbedBody,
    QueryModel,
    Ranking,
    RecommendBody,
    SearchAnswer,
    SearchBody,
    SearchManyAnswer,
    SearchManyBody,
    SearchOptions,
)
from vecmeta import Collection, Hits, RawHits

router = APIRouter(prefix="/collections/{name}", tags=["search"], route_class=FastRoute)


@router.post(
    "/search", responses={**outcomes(404, 409), **SEARCHED}, response_model=SearchAnswer, response_model_exclude_none=True
)
async def search(body: SearchBody, _: Reader, collection: Named, service: Service) -> Response:
    """The nearest items to a text, a picture, a vector or an item, best first, all from one version."""
    return json_response((await answers(service, collection, body))[0])


@router.post("/search/many", responses=outcomes(404, 409), response_model=SearchManyAnswer, response_model_exclude_none=True)
async def search_many(body: SearchManyBody, _: Reader, collection: Named, service: Service) -> Response:
    """Several searches at once, all answered by one version."""
    return json_response({"results": await _answers(service, collection, body.queries, body)})


@router.post("/search/upload", responses=outcomes(404, 409), response_model=SearchAnswer, response_model_exclude_none=True)
async def search_by_upload(
    _: Reader,
    collection: Named,
    service: Service,
    file: Annotated[UploadFile, File(description="the picture to search by")],
    k: Annotated[int, Form(ge=1, le=10_000)] = 10,
    where: Annotated[str, Form(max_length=10_000, description="a filter as JSON")] = "",
    version: Annotated[str, Form(pattern=r"^(live|base|[0-9]{1,9})$")] = "live",
    compare: Annotated[bool, Form()] = False,
    content: Annotated[bool, Form(description="hits carry their contents")] = True,
) -> Response:
    """Search by a picture, as a form."""
    options = SearchOptions(
        k=k,
        where=to_object(where, "where") if where else None,
        version=int(version) if version.isdigit() else version,  # type: ignore[arg-type]
        compare=compare,
        content=content,
    )
    return json_response((await _answers(service, collection, [QueryModel(image=await file.read())], options))[0])


@router.post("/recommend", responses=outcomes(404, 409), response_model=Ranking, response_model_exclude_none=True)
async def recommend(body: RecommendBody, _: Reader, collection: Named, service: Service) -> Response:
    """Items near the liked ones and away from the disliked ones, neither of which is among the hits."""
    hits = await service.run(collection.recommend, body.like, body.unlike, body.k, body.where, number_of(body.version))
    return json_response({"version": hits.version, "hits": hits_json(hits, body.content)})


@router.post("/embed", responses=outcomes(404, 409), response_model=EmbedAnswer)
async def embed(body: EmbedBody, _: Reader, collection: Named, service: Service) -> Response:
    """Unit vectors of contents under a version; of stored items too, by id."""
    queries = [to_query(collection, query) for query in body.contents]
    vectors = await service.run(collection.embed, queries, number_of(body.version))
    return json_response({"vectors": vectors.tolist()})


async def answers(service: Runtime, collection: Collection, body: SearchBody) -> list[dict[str, Any]]:
    """The answer to one search, in a list."""
    return await _answers(service, collection, [body], body)


def answer_of(service: Runtime, collection: Collection, hits: Hits | RawHits, content: bool) -> dict[str, Any]:
    """Hits as an answer, which is counted."""
    return {"version": hits.version, "search": service.answered(collection, hits.version), "hits": hits_json(hits, content)}


async def _answers(
    service: Runtime, collection: Collection, queries: Sequence[QueryModel], options: SearchOptions
) -> list[dict[str, Any]]:
    asked = await _with_vectors(service, collection, [to_query(collection, query) for query in queries])
    version = number_of(options.version)
    if options.version == "live":
        version = service.choose(collection, options.session)
    if len(asked) > 1 and version is None:
        version = await service.run(lambda: collection.live)  # one for all of them
    feedback = None if options.feedback is None else [(liked.id, liked.score) for liked in options.feedback]

    async def ranked(version: int | None) -> Sequence[Hits | RawHits]:
        searches = (service.search(collection, query, options.k, options.where, version, feedback) for query in asked)
        return [await search for search in searches] if len(asked) == 1 else await asyncio.gather(*searches)

    try:
        found = await ranked(version)
    except vm.VersionNotFound:
        if options.version != "live":
            raise
        found = await ranked(None)  # the candidate of a split was removed in this very moment
    base = await ranked(0) if options.compare else None
    answers = []
    for place, hits in enumerate(found):
        answer = answer_of(service, collection, hits, options.content)
        if base is not None:
            answer["base"] = {"version": base[place].version, "hits": hits_json(base[place], options.content)}
            answer["hits"] = with_changes(answer["hits"], answer["base"]["hits"])
        answers.append(answer)
    return answers


async def _with_vectors(service: Runtime, collection: Collection, asked: list[Any]) -> list[Any]:
    """Queries with texts and pictures encoded; vectors and ids stay."""
    places = [place for place, query in enumerate(asked) if isinstance(query, (str, bytes))]
    if places:
        for place, vector in zip(places, await service.base_vectors(collection, [asked[p] for p in places]), strict=True):
            asked[place] = vector
    return asked
