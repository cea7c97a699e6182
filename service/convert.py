"""Between what is sent and what vecmeta takes and gives."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

import vecmeta as vm
from service.schemas.items import ItemBody
from service.schemas.search import QueryModel
from service.schemas.teach import ReportModel
from vecmeta import Collection, Hits, Id, Item, RawHits, Report

TAKES = {"text": "text", "image": "image", "vector": "vector"}  # modality: the field that an item of such a collection has


@dataclass(frozen=True, slots=True)
class OwnVector:
    """An item of a collection of own vectors."""

    id: str
    vector: list[float]
    metadata: dict[str, Any]


def to_item(collection: Collection, id: str, body: ItemBody) -> Item | OwnVector:
    """What was sent as an item. Raises InvalidItem, InvalidVector when it does not suit the collection."""
    given = next(name for name in ("text", "image", "vector") if getattr(body, name) is not None)
    wanted = TAKES.get(collection.modality or "", given)
    if given != wanted:
        raise vm.InvalidItem(f"item {id!r} has {given}; items of the collection {collection.name!r} have {wanted}")
    if body.vector is not None:
        if len(body.vector) != collection.dim:
            raise vm.InvalidVector(
                f"item {id!r}: {len(body.vector)} numbers; collection {collection.name!r} has dimension {collection.dim}"
            )
        return OwnVector(id, body.vector, body.metadata)
    return Item(id, body.text if body.text is not None else body.image, body.metadata)


def to_query(collection: Collection, query: QueryModel) -> str | bytes | Id | np.ndarray[Any, Any]:
    """What was sent as a query. Raises InvalidVector, InvalidConfig when it does not suit the collection."""
    if query.vector is not None:
        if len(query.vector) != collection.dim:
            raise vm.InvalidVector(
                f"the query has {len(query.vector)} numbers; the collection {collection.name!r} has dimension {collection.dim}"
            )
        return np.array(query.vector)
    if query.id is not None:
        return Id(query.id)
    given = "text" if query.text is not None else "image"
    wanted = TAKES.get(collection.modality or "", given)
    if given != wanted:
        raise vm.InvalidConfig(f"the query is {given}; the collection {collection.name!r} is asked by {wanted}, vector or id")
    content = query.text if query.text is not None else query.image
    assert content is not None
    return content


def number_of(version: int | str) -> int | None:
    """`live` and `base` as vecmeta says them: None and 0."""
    return {"live": None, "base": 0}.get(version) if isinstance(version, str) else version


def content_json(content: Any) -> dict[str, str]:
    """A content as the field of an answer."""
    if isinstance(content, str):
        return {"text": content}
    return {"image": base64.b64encode(content).decode()} if isinstance(content, bytes) else {}


def item_json(item: Item) -> dict[str, Any]:
    """See `schemas.ItemAnswer`."""
    return {"id": item.id, "metadata": item.metadata, **content_json(item.content)}


def hits_json(hits: Hits | RawHits, content: bool) -> list[dict[str, Any]]:
    """See `schemas.HitModel`; raw metadata passes as it is."""
    ready: Callable[[Any], Any] = orjson.Fragment if isinstance(hits, RawHits) else dict
    told: list[dict[str, Any]] = [{"id": id, "score": score, "metadata": ready(metadata)} for id, score, metadata, _ in hits]
    if content:
        for entry, hit in zip(told, hits, strict=True):
            if hit[3] is not None:
                entry.update(content_json(hit[3]))
    return told


def with_changes(hits: list[dict[str, Any]], base: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hits with the places that each won or lost against the base."""
    before = {hit["id"]: rank for rank, hit in enumerate(base)}
    return [{**hit, "rank_change": before[hit["id"]] - rank if hit["id"] in before else None} for rank, hit in enumerate(hits)]


def query_json(query: Any) -> dict[str, Any] | None:
    """A judgement's query as it was sent."""
    if query is None:
        return None
    if isinstance(query, Id):
        return {"id": query.value}
    if isinstance(query, (str, bytes)):
        return content_json(query)
    return {"vector": np.asarray(query).tolist()}


def report_model(report: Report) -> ReportModel:
    """A report as an answer."""
    return ReportModel.model_validate(report.to_dict())
