"""What the console asks for besides: an overview, a collection's fields, its map, what to label next, and sample data."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Response

import vecmeta as vm
from service.convert import item_json
from service.deps import FastRoute, Named, Reader, Service, json_response
from service.errors import Refused, outcomes
from service.insight.fields import fields
from service.insight.lessons import lesson
from service.insight.plane import aligned, plane
from service.insight.rows import rows, vectors
from service.insight.suggest import suggestions
from service.routes.collections import described, visible
from service.routes.teach import job_model, judgement_answer
from service.routes.versions import version_model
from service.schemas.console import (
    FieldModel,
    FieldsAnswer,
    MapAnswer,
    OverviewAnswer,
    SampleAnswer,
    SuggestionsAnswer,
    ValueModel,
)
from service.schemas.teach import JudgementAnswer
from vecmeta import Collection, Database, Key

views = APIRouter(prefix="/collections/{name}", tags=["console"], route_class=FastRoute)
samples = APIRouter(prefix="/samples", tags=["console"], route_class=FastRoute)

FIELDS_OF = 2000  # items whose metadata tell the fields
POINTS = 20_000  # of a map at most
POOL = 4000  # items among which the next to label are looked for
JUDGEMENTS = 1000  # of an overview at most
CONTRADICTIONS = 20  # likewise
PICTURES = 800  # of a sample at most: they are drawn anew each time, in 7 ms each
QUERIES = 4  # that show what a sample of texts is about
LESSONS = {"python-docs": {"module": 5}, "openmoji": {"mood": 6, "colour": 12, "subject": 8}}  # fields, and marks for each value


@views.get("/overview", responses=outcomes(404, 409))
async def get_overview(key: Reader, collection: Named, service: Service) -> OverviewAnswer:
    """All that a view of a collection begins with: what it is, versions, fields, judgements, the newest job, and which others there are."""
    return await service.run(_overview, collection, service.db, key)


@views.get("/fields", responses=outcomes(404, 409))
async def get_fields(_: Reader, collection: Named, service: Service) -> FieldsAnswer:
    """The metadata fields, with their kinds, usual values and ranges: what a filter can be made of."""
    return await service.run(_fields, collection)


@views.get("/map", responses=outcomes(404, 409), response_model=MapAnswer)
async def get_map(
    _: Reader,
    collection: Named,
    service: Service,
    version: Annotated[int | None, Query(ge=0, lt=2**31, description="the version; left out: the live one")] = None,
    field: Annotated[str | None, Query(max_length=255, description="a metadata field to colour by")] = None,
    limit: Annotated[int, Query(ge=1, le=POINTS)] = POINTS,
) -> Response:
    """Items as points of a plane: all, or as many as `limit` drawn at random, for every version the same ones.

    The planes of all versions are turned towards version 0's, so that points move as little as they can.
    """
    return json_response(await service.run(_mapped, collection, version, field, limit))


@views.get("/suggestions", responses=outcomes(404, 409), response_model=SuggestionsAnswer)
async def get_suggestions(
    _: Reader, collection: Named, service: Service, k: Annotated[int, Query(ge=1, le=100)] = 12
) -> Response:
    """What to label next: items that lie between the concepts taught so far and are typical of many others."""
    return json_response(await service.run(_suggested, collection, k))


@samples.get("/{sample}", responses=outcomes(), response_model=SampleAnswer)
async def get_sample(
    sample: Annotated[Literal["python-docs", "openmoji"], Path(description="which one", examples=["python-docs"])],
    _: Reader,
    service: Service,
    limit: Annotated[int, Query(ge=1, le=3000, description="items at most")] = 600,
) -> Response:
    """Items to try vecmeta with: Python's documentation on this machine, or OpenMoji's pictures (`pip install 'vecmeta[demo]'`)."""
    return json_response(await service.run(_sample, sample, limit))


def _overview(collection: Collection, db: Database, key: Key | None) -> OverviewAnswer:
    total = collection.judgement_count()
    return OverviewAnswer(
        collections=visible(db.collections(), key),
        collection=described(collection),
        versions=[version_model(version) for version in collection.versions()],
        fields=_fields(collection).fields,
        judgements=[_brief(judgement_answer(one)) for one in collection.judgements(max(0, total - JUDGEMENTS), JUDGEMENTS)],
        total=total,
        contradictions=collection.contradictions(CONTRADICTIONS) if total else [],
        job=next((job_model(job) for job in db.jobs.list(collection.name, limit=1)), None),
    )


def _brief(judgement: JudgementAnswer) -> JudgementAnswer:
    """Pictures and vectors that were asked by are told from each other by a digest: an overview has no room for them."""
    query = judgement.query
    if query is None or "text" in query or "id" in query:
        return judgement
    digest = hashlib.sha256(orjson.dumps(query)).hexdigest()[:16]
    return judgement.model_copy(update={"query": {"digest": digest}})


def _fields(collection: Collection) -> FieldsAnswer:
    read = rows(collection, FIELDS_OF)
    models = [
        FieldModel(**{**asdict(field), "values": [ValueModel(value=value, count=count) for value, count in field.values]})
        for field in fields(item.metadata for item in read)
    ]
    return FieldsAnswer(fields=models, read=len(read))


def _mapped(collection: Collection, version: int | None, field: str | None, limit: int) -> dict[str, Any]:
    number = collection.live if version is None else version
    read = rows(collection, limit)
    ids = [item.id for item in read]
    points = plane(vectors(collection, ids, number))
    if number != 0:
        points = aligned(points, plane(vectors(collection, ids, 0)))
    return {
        "version": number,
        "total": collection.count(),
        "ids": ids,
        "x": points[:, 0].round(5).tolist(),
        "y": points[:, 1].round(5).tolist(),
        "values": [] if field is None else [item.metadata.get(field) for item in read],
    }


def _suggested(collection: Collection, k: int) -> dict[str, Any]:
    read = rows(collection, POOL)
    place = {item.id: number for number, item in enumerate(read)}
    log = {(j.item, j.concept): j for j in collection.judgements() if j.concept is not None}  # what was said last counts
    concepts: dict[str, list[int]] = defaultdict(list)
    judged: set[int] = set()
    beyond = sorted({id for (id, _), j in log.items() if j.score > 0} - set(place))  # taught items that the pool has not
    with_vectors = [item.id for item in read] + [item for item in beyond if _there(collection, item)]
    place |= {id: number for number, id in enumerate(with_vectors)}
    for (id, concept), judgement in log.items():
        if id in place and judgement.score != 0:
            judged.add(place[id])
            if judgement.score > 0:
                concepts[str(concept)].append(place[id])
    found = suggestions(vectors(collection, with_vectors, None), concepts, sorted(judged), k)
    items = collection.get([with_vectors[one.row] for one in found])
    told = [{"item": item_json(item), "why": one.why, "concepts": one.concepts} for item, one in zip(items, found, strict=True)]
    return {"suggestions": told, "read": len(read)}


def _there(collection: Collection, id: str) -> bool:
    try:
        collection.get([id])
    except vm.ItemNotFound:
        return False
    return True


def _sample(sample: str, limit: int) -> dict[str, Any]:
    if sample == "python-docs":
        from vecmeta import pydocs

        found, encoder = pydocs.gather(limit), "text"
    else:
        from vecmeta import openmoji

        try:
            found, encoder = openmoji.gather(min(limit, PICTURES)), "image"
        except vm.InvalidConfig as error:
            raise Refused(503, "sample_unavailable", str(error)) from error
    lessons = [asdict(one) for field, marks in LESSONS[sample].items() if (one := lesson(found, field, marks)) is not None]
    items = [item_json(item) for item in found]
    return {"name": sample, "encoder": encoder, "items": items, "queries": _queries(found), "lessons": lessons}


def _queries(items: Sequence[vm.Item]) -> list[str]:
    """What somebody might ask for: the first sentences of a few texts, from one end to the other."""
    said = [item.content.partition("\n")[2].partition(". ")[0].rstrip(".") for item in items if isinstance(item.content, str)]
    short = [sentence for sentence in said if 20 <= len(sentence) <= 60]
    return [short[(2 * part + 1) * len(short) // (2 * QUERIES)] for part in range(min(QUERIES, len(short)))]
