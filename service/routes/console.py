"""What the console asks for besides: a collection's fields, its map, what to label next, and sample data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

import vecmeta as vm
from service.convert import item_json
from service.deps import FastRoute, Named, Reader, Service, json_response
from service.errors import Refused, outcomes
from service.insight.fields import fields
from service.insight.plane import aligned, plane
from service.insight.rows import rows, vectors
from service.insight.suggest import suggestions
from service.schemas.console import FieldModel, FieldsAnswer, MapAnswer, SampleAnswer, SuggestionsAnswer, ValueModel
from vecmeta import Collection

views = APIRouter(prefix="/collections/{name}", tags=["console"], route_class=FastRoute)
samples = APIRouter(prefix="/samples", tags=["console"], route_class=FastRoute)

FIELDS_OF = 2000  # items whose metadata tell the fields
POINTS = 20_000  # of a map at most
POOL = 4000  # items among which the next to label are looked for
PICTURES = 1200  # of a sample at most: they are drawn anew each time
QUERIES = 4  # that show what a sample of texts is about


@views.get("/fields", responses=outcomes(404, 409))
async def get_fields(_: Reader, collection: Named, service: Service) -> FieldsAnswer:
    """The metadata fields, with their kinds, usual values and ranges: what a filter can be made of."""
    read = await service.run(rows, collection, FIELDS_OF)
    found = fields(row.metadata for row in read)
    models = [
        FieldModel(**{**asdict(field), "values": [ValueModel(value=value, count=count) for value, count in field.values]})
        for field in found
    ]
    return FieldsAnswer(fields=models, read=len(read))


@views.get("/map", responses=outcomes(404, 409), response_model=MapAnswer)
async def get_map(
    _: Reader,
    collection: Named,
    service: Service,
    version: Annotated[int | None, Query(ge=0, lt=2**31, description="the version; left out: the live one")] = None,
    field: Annotated[str | None, Query(max_length=255, description="a metadata field to colour by")] = None,
    limit: Annotated[int, Query(ge=1, le=POINTS)] = POINTS,
) -> Response:
    """Items as points of a plane. The planes of all versions are turned towards version 0's, so that points move as little as they can."""
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


def _mapped(collection: Collection, version: int | None, field: str | None, limit: int) -> dict[str, Any]:
    number = collection.live if version is None else version
    read = rows(collection, limit)
    ids = [row.id for row in read]
    points = plane(vectors(collection, ids, number))
    if number != 0:
        points = aligned(points, plane(vectors(collection, ids, 0)))
    return {
        "version": number,
        "total": collection.count(),
        "ids": ids,
        "lines": [row.line for row in read],
        "x": points[:, 0].round(5).tolist(),
        "y": points[:, 1].round(5).tolist(),
        "values": [] if field is None else [row.metadata.get(field) for row in read],
    }


def _suggested(collection: Collection, k: int) -> dict[str, Any]:
    read = rows(collection, POOL)
    place = {row.id: number for number, row in enumerate(read)}
    log = {(j.item, j.concept): j for j in collection.judgements() if j.concept is not None}  # what was said last counts
    concepts: dict[str, list[int]] = defaultdict(list)
    judged: set[int] = set()
    beyond = sorted({id for (id, _), j in log.items() if j.score > 0} - set(place))  # taught items that the pool has not
    with_vectors = [row.id for row in read] + [item for item in beyond if _there(collection, item)]
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

        found, encoder, field = pydocs.gather(limit), "text", "module"
    else:
        from vecmeta import openmoji

        try:
            found, encoder, field = openmoji.gather(min(limit, PICTURES)), "image", "subject"
        except vm.InvalidConfig as error:
            raise Refused(503, "sample_unavailable", str(error)) from error
    items = [item_json(item) for item in found]
    return {"name": sample, "encoder": encoder, "items": items, "field": field, "queries": _queries(found)}


def _queries(items: Sequence[vm.Item]) -> list[str]:
    """What somebody might ask for: the first sentences of a few texts, from one end to the other."""
    said = [item.content.partition("\n")[2].partition(". ")[0].rstrip(".") for item in items if isinstance(item.content, str)]
    short = [sentence for sentence in said if 20 <= len(sentence) <= 60]
    return [short[(2 * part + 1) * len(short) // (2 * QUERIES)] for part in range(min(QUERIES, len(short)))]
