"""What can follow a request, as links of the OpenAPI document: for those who explore it, and for the test that follows them."""

from __future__ import annotations

from typing import Any

HERE = {"name": "$request.path.name"}  # the same collection


def leads_to(status: int, **links: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """An answer of a route with its links; a link is named by the operation that it leads to."""
    return {status: {"links": {f"{operation} {status}": {"operationId": operation, **link} for operation, link in links.items()}}}


def link(body: Any = None, **parameters: str) -> dict[str, Any]:
    """A request that takes its parameters, and its body, from an answer or from what was asked."""
    return {"parameters": parameters, **({} if body is None else {"requestBody": body})}


COLLECTION = {"name": "$response.body#/name"}
CREATED = leads_to(
    201,
    get_collection=link(**COLLECTION),
    put_items=link(**COLLECTION),
    list_items=link(**COLLECTION),
    stream_items=link(**COLLECTION),
    search=link(**COLLECTION),
    give_feedback=link(**COLLECTION),
    adapt=link(**COLLECTION),
    list_versions=link(**COLLECTION),
    get_traffic=link(**COLLECTION),
    set_policy=link(**COLLECTION),
    drop_collection=link(**COLLECTION),
)
ITEM = "$request.body#/items/0/id"
ITEMS_WRITTEN = leads_to(
    200,
    get_item=link(**HERE, id=ITEM),
    get_content=link(**HERE, id=ITEM),
    search=link({"id": ITEM, "compare": True}, **HERE),
    recommend=link({"like": [ITEM]}, **HERE),
    embed=link({"contents": [{"id": ITEM}]}, **HERE),
    give_feedback=link({"judgements": [{"item": ITEM, "concept": "the same"}]}, **HERE),
    delete_item=link(**HERE, id=ITEM),
)
SEARCHED = leads_to(200, click=link({"search": "$response.body#/search", "item": "$response.body#/hits/0/id", "rank": 1}, **HERE))
JUDGED = leads_to(200, adapt=link({"dry_run": True}, **HERE), list_judgements=link(**HERE), list_contradictions=link(**HERE))
JOB = {"id": "$response.body#/id"}
SUBMITTED = leads_to(202, get_job=link(**JOB), cancel_job=link(**JOB))
VERSION = {**HERE, "n": "$response.body#/versions/0/number"}
VERSIONS = leads_to(200, get_version=link(**VERSION), activate_version=link(**VERSION))
