"""Every route of the service: its success, every error that it documents, and what it means."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import vecmeta as vm
from service.security import Right
from tests.conftest import WordCounter
from tests.service_kit import DIM, SMALL, Service, good, png, refused, served, until

V = [1.0, 0.0, 0.0, 0.0]
ITEM = {"id": "new", "vector": V, "metadata": {"n": 99}}
LINES = {"content-type": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A good request of a route; `{name}` is a collection of twelve own vectors, or an adapted one if `adapted`."""

    needs: Right | None
    status: int = 200
    send: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] | None = None  # what to send for 422; None: nothing can be sent wrongly but the path
    missing: dict[str, Any] | None = None  # what to send for 404 where the path names nothing
    adapted: bool = False
    before: Callable[[vm.Collection], object] = lambda collection: None


def _json(value: Any, status: int = 200, needs: Right = "read", **more: Any) -> Sample:
    return Sample(needs, status, {"json": value}, {"json": {"nonsense": 1}}, **more)


C = "/v1/collections/{name}"
SAMPLES = {
    "GET /v1/collections": Sample("read"),
    "POST /v1/collections": _json({"name": "fresh", "encoder": "vectors", "dim": 4}, 201, "admin"),
    f"GET {C}": Sample("read"),
    f"DELETE {C}": Sample("admin", 204),
    f"GET {C}/policy": Sample("read"),
    f"PUT {C}/policy": _json({"auto_adapt": 20, "debounce": 1.5}, 200, "admin"),
    f"PUT {C}/items": _json({"items": [ITEM]}, 200, "write"),
    f"GET {C}/items": Sample("read", wrong={"params": {"limit": 0}}),
    f"POST {C}/items/get": _json({"ids": ["i00"]}),
    f"POST {C}/items/delete": _json({"ids": ["i00", "gone"]}, 200, "write"),
    f"POST {C}/items/count": _json({"where": {"half": "first"}}),
    f"POST {C}/items/stream": Sample("write", 200, {"content": json.dumps(ITEM), "headers": LINES}),
    f"PUT {C}/items/{{id}}": _json({"vector": V}, 200, "write"),
    f"GET {C}/items/{{id}}": Sample("read"),
    f"DELETE {C}/items/{{id}}": Sample("write", 204),
    f"POST {C}/search": _json({"vector": V}),
    f"POST {C}/search/many": _json({"queries": [{"vector": V}, {"id": "i00"}]}),
    f"POST {C}/recommend": _json({"like": ["i00"]}),
    f"POST {C}/embed": _json({"contents": [{"vector": V}]}),
    f"POST {C}/feedback": _json({"judgements": [{"item": "i00", "concept": "left"}]}, 200, "feedback"),
    f"GET {C}/judgements": Sample("read", wrong={"params": {"offset": -1}}),
    f"GET {C}/contradictions": Sample("read", wrong={"params": {"limit": "many"}}),
    f"POST {C}/adapt": _json({}, 202, "write"),
    f"POST {C}/finetune": _json({"mode": "features", "dry_run": True}, 202, "write"),
    f"GET {C}/versions": Sample("read"),
    f"GET {C}/versions/{{n}}": Sample("read"),
    f"POST {C}/versions/{{n}}/activate": Sample("admin"),
    f"POST {C}/rollback": Sample("admin", adapted=True, before=lambda collection: collection.activate(1)),
    f"GET {C}/traffic": Sample("read"),
    f"PUT {C}/traffic": _json(
        {"version": 1, "percent": 10}, 200, "admin", adapted=True, before=lambda collection: collection.activate(0)
    ),
    f"DELETE {C}/traffic": Sample("admin", 204),
    f"POST {C}/clicks": _json({"search": "0-0123456789abcdef", "item": "i00", "rank": 1}, 200, "feedback"),
    "GET /v1/jobs": Sample("read", wrong={"params": {"before": "x"}}, missing={"params": {"collection": "nope"}}),
    "GET /v1/jobs/{job}": Sample("read"),
    "POST /v1/jobs/{job}/cancel": Sample("write"),
    "GET /v1/jobs/{job}/events": Sample("read"),
    f"GET {C}/overview": Sample("read"),
    f"GET {C}/fields": Sample("read"),
    f"GET {C}/map": Sample("read", wrong={"params": {"limit": 0}}),
    f"GET {C}/suggestions": Sample("read", wrong={"params": {"k": 0}}),
    "GET /v1/samples/{sample}": Sample("read", send={"params": {"limit": 3}}, wrong={"params": {"limit": 0}}),
    "GET /v1/keys": Sample("admin"),
    "POST /v1/keys": _json({"name": "another", "scopes": ["read"]}, 201, "admin"),
    "DELETE /v1/keys/{key}": Sample("admin"),
    "GET /healthz": Sample(None),
    "GET /readyz": Sample(None),
    "GET /metrics": Sample("read"),
    # With pictures and texts, which this collection has not: their success is tested by hand below.
    f"POST {C}/items/upload": Sample(
        "write", 422, {"data": {"id": "p"}, "files": {"file": ("p.png", png())}}, {"data": {"id": "p"}}
    ),
    f"POST {C}/search/upload": Sample("read", 422, {"files": {"file": ("p.png", png())}}, {"data": {"k": "0"}}),
    f"GET {C}/content/{{id}}": Sample("read", 404),
}
BY_HAND = {f"POST {C}/items/upload", f"POST {C}/search/upload", f"GET {C}/content/{{id}}"}
GUARDED = [route for route, sample in SAMPLES.items() if sample.needs is not None]
NAMED = [route for route in GUARDED if "{name}" in route]
FOUND = [*NAMED, *(route for route in GUARDED if "/v1/jobs" in route or "{key}" in route)]
CHECKED = [route for route in GUARDED if "{" in route or SAMPLES[route].wrong is not None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("routes") / "db", max_body=300_000, max_line=100_000, max_batch=50) as service:
        yield service


@pytest.fixture(scope="module")
def adapted(service: Service) -> str:
    """A collection with a version 1."""
    name = service.judged()
    assert service.db.collection(name).adapt(activate=False).version == 1
    return name


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One request a minute and key."""
    with served(tmp_path_factory.mktemp("strict") / "db", rate=1) as service:
        yield service


def ask(service: Service, route: str, name: str, job: str = "0" * 32, **more: Any) -> Any:
    method, path = route.split(" ")
    sample = SAMPLES[route]
    send = {**sample.send, **more}
    send["headers"] = {**sample.send.get("headers", {}), **more.get("headers", {})}
    return service.client.request(
        method, path.format(name=name, id="i00", n=0, job=job, key=job[:16], sample="python-docs"), **send
    )


def set_up(service: Service, route: str, adapted: str) -> tuple[str, str]:
    """A collection and a job for a good request."""
    sample = SAMPLES[route]
    name = adapted if sample.adapted else service.points()
    sample.before(service.db.collection(name))
    job = service.db.jobs.submit(name).id if "{job}" in route else ""
    if "events" in route:
        service.db.jobs.cancel(job)
    if "{key}" in route:
        job = service.db.keys.create("to be revoked")[1].id
    return name, job


# -- every route -------------------------------------------------------------------------------------------------------------------


def test_every_route_has_a_sample_and_every_documented_error_is_provoked(service: Service) -> None:
    told: dict[str, set[int]] = {}
    for path, methods in service.app.openapi()["paths"].items():
        for method, about in methods.items():
            route = f"{method.upper()} {path.replace('/jobs/{id}', '/jobs/{job}').replace('/keys/{id}', '/keys/{key}')}"
            told[route] = {int(status) for status in about["responses"]}
    provoked: dict[str, set[int]] = {route: {SAMPLES[route].status} for route in SAMPLES}
    for status, routes in {401: GUARDED, 403: GUARDED, 413: GUARDED, 429: GUARDED, 404: FOUND, 409: NAMED, 422: CHECKED}.items():
        for route in routes:
            provoked[route].add(status)
    provoked["POST /v1/collections"].add(409)
    provoked[f"POST {C}/adapt"].add(200)
    provoked[f"POST {C}/finetune"].add(200)
    provoked[f"POST {C}/items/stream"].add(415)
    provoked[f"DELETE {C}"].remove(409)  # what cannot be used can be dropped
    for route in GUARDED:
        provoked[route] |= {408, 503}  # test_service_bad_input, test_service_operations, test_service_batching
    for route in BY_HAND:
        provoked[route].add(200)
    provoked["GET /readyz"].add(503)
    assert told == provoked


@pytest.mark.parametrize("route", SAMPLES)
def test_success(service: Service, adapted: str, route: str) -> None:
    name, job = set_up(service, route, adapted)
    if route == "GET /readyz":
        until(lambda: ask(service, route, name).status_code == 200)  # what the tests made past the service is opened first
    answer = ask(service, route, name, job)
    assert answer.status_code == SAMPLES[route].status, answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (answer.content == b"") == (answer.status_code == 204)


@pytest.mark.parametrize("route", GUARDED)
@pytest.mark.parametrize("secret", ["", "Bearer", "Bearer vm_0123456789abcdef_" + "x" * 43, "Basic dm06eA=="])
def test_401_without_a_good_key(service: Service, route: str, secret: str) -> None:
    service.app.state.gatekeeper._limiter.storage.reset()  # so many wrong keys from one address would have to wait
    answer = ask(service, route, "any", headers={"Authorization": secret})
    refused(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", [route for route in GUARDED if SAMPLES[route].needs != "read"])
def test_403_without_the_scope(service: Service, adapted: str, route: str) -> None:
    name, job = set_up(service, route, adapted)
    needed = SAMPLES[route].needs
    for other in ("read", "feedback", "write"):
        if other != needed:
            refused(ask(service, route, name, job, headers=service.key(other)), 403, "forbidden", f"the scope {needed!r}")


@pytest.mark.parametrize("route", [route for route in GUARDED if "{name}" in route or "{job}" in route])
def test_403_for_another_collection(service: Service, adapted: str, route: str) -> None:
    name, job = set_up(service, route, adapted)
    refused(ask(service, route, name, job, headers=service.key("admin", collections=["mine"])), 403, "forbidden", name)


@pytest.mark.parametrize("route", GUARDED)
def test_403_without_keys_from_elsewhere(open_house: Service, route: str) -> None:
    refused(ask(open_house, route, "any", headers={"Host": "evil.example"}), 403, "forbidden")


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("open") / "db", auth=False, base_url="http://localhost") as service:
        yield service


@pytest.mark.parametrize("route", FOUND)
def test_404(service: Service, route: str) -> None:
    refused(ask(service, route, "nope", **(SAMPLES[route].missing or {})), 404)


@pytest.mark.parametrize("route", [route for route in NAMED if route != f"DELETE {C}"])
def test_409_other_weights(changed: Service, route: str) -> None:
    refused(ask(changed, route, "changed"), 409, "encoder_mismatch", "other@1")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a collection that was filled by another encoder than the one that is there now."""
    folder = tmp_path_factory.mktemp("changed") / "db"
    with vm.open(folder, device="cpu") as db:
        db.create("changed", encoder="vectors", dim=DIM)
    with sqlite3.connect(folder / "vecmeta.db") as connection:
        connection.execute("UPDATE collections SET encoder = 'other@1'")
    connection.close()
    with served(folder) as service:
        yield service


def test_what_cannot_be_used_keeps_nothing_from_being_ready_and_measured(changed: Service) -> None:
    until(lambda: changed.client.get("/readyz").status_code == 200)
    assert 'collection="changed"' not in changed.client.get("/metrics").text


def test_drop_other_weights(changed: Service) -> None:
    changed.db.create("broken", encoder="vectors", dim=DIM)
    changed.db._open.clear()
    with sqlite3.connect(changed.db.folder / "vecmeta.db") as connection:
        connection.execute("UPDATE collections SET encoder = 'other@1' WHERE name = 'broken'")
    connection.close()
    refused(changed.client.get("/v1/collections/broken"), 409)
    good(changed.client.delete("/v1/collections/broken"), 204)
    refused(changed.client.delete("/v1/collections/broken"), 404)


@pytest.mark.parametrize("route", GUARDED)
def test_413(service: Service, route: str) -> None:
    method, path = route.split(" ")
    url = path.format(name=service.points(), id="i00", n=0, job="0" * 32, key="0" * 16, sample="openmoji")
    if route == f"POST {C}/items/stream":  # has no limit but for each line
        answer = good_lines(service.client.post(url, content=b'{"id": "%s"}' % (b"x" * 100_001), headers=LINES))
        assert [line["error"] for line in answer] == ["too_large"]
        return
    kind = {"content-type": "application/json"}
    refused(service.client.request(method, url, content=b" " * 300_001, headers=kind), 413, "too_large", "300,000")


@pytest.mark.parametrize("route", CHECKED)
def test_422(service: Service, route: str) -> None:
    sample = SAMPLES[route]
    if "{name}" in route:
        refused(ask(service, route, "-no-name"), 422, "invalid_request", "name")
    if "{job}" in route:
        refused(ask(service, route, "", "no-job"), 422, "invalid_request", "id")
    if sample.wrong is not None:
        method, path = route.split(" ")
        refused(
            service.client.request(method, path.format(name=service.points(), id="i00", n=0, sample="openmoji"), **sample.wrong),
            422,
        )


@pytest.mark.parametrize("route", GUARDED)
def test_429(strict: Service, route: str) -> None:
    headers = strict.key("admin")
    assert ask(strict, route, "nope", headers=headers).status_code in (200, 201, 202, 404)
    answer = ask(strict, route, "nope", headers=headers)
    refused(answer, 429, "too_many_requests", "1 requests a minute")
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def good_lines(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_405_tells_all_methods_of_a_path(service: Service) -> None:
    for path, methods in {
        "/v1/collections": "GET, POST",
        "/v1/collections/x/items/y": "DELETE, GET, PUT",
        "/v1/jobs": "GET",
    }.items():
        answer = service.client.patch(path)
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == methods
    refused(service.client.get("/v1/nothing"), 404, "not_found")


# -- collections -------------------------------------------------------------------------------------------------------------------


def test_create_and_look(service: Service) -> None:
    made = good(service.client.post("/v1/collections", json={"name": "own", "encoder": "vectors", "dim": 7}), 201)
    assert made == {
        "name": "own", "encoder": made["encoder"], "dim": 7, "modality": "vector", "items": 0, "live": 0, "ready": made["ready"],
    }  # fmt: skip
    assert good(service.client.get("/v1/collections/own"))["dim"] == 7
    assert "own" in good(service.client.get("/v1/collections"))["collections"]
    good(service.client.delete("/v1/collections/own"), 204)
    assert "own" not in good(service.client.get("/v1/collections"))["collections"]


def test_create_409_taken(service: Service) -> None:
    name = service.points()
    body = {"name": name, "encoder": "vectors", "dim": DIM}
    refused(service.client.post("/v1/collections", json=body), 409, "already_exists", name)
    assert service.db.collection(name).count() == 12


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "x", "encoder": "vectors"}, "dim"),
        ({"name": "x", "encoder": "text", "dim": 3}, "dim"),
        ({"name": "../x", "encoder": "vectors", "dim": 3}, "name"),
        ({"name": "x", "encoder": "vectors", "dim": "3"}, "dim"),
        ({"name": "x", "encoder": "vectors", "dim": 0}, "dim"),
        ({"name": "x", "encoder": "vectors", "dim": 10**30}, "dim"),
    ],
)
def test_create_422(service: Service, body: dict[str, Any], said: str) -> None:
    refused(service.client.post("/v1/collections", json=body), 422, said=said)
    refused(service.client.get("/v1/collections/x"), 404, "collection_not_found")


def test_policy(service: Service) -> None:
    url = f"/v1/collections/{service.points()}/policy"
    assert good(service.client.get(url)) == {"auto_adapt": None, "debounce": 10.0}
    assert good(service.client.put(url, json={"auto_adapt": 7, "debounce": 0.5})) == {"auto_adapt": 7, "debounce": 0.5}
    assert good(service.client.get(url)) == {"auto_adapt": 7, "debounce": 0.5}


# -- items -------------------------------------------------------------------------------------------------------------------------


def test_items_written_replaced_counted_deleted(service: Service) -> None:
    url = f"/v1/collections/{service.points()}/items"
    items = [{"id": "i00", "vector": V, "metadata": {"half": "first", "new": True}}, {"id": "Ünï/ço dé", "vector": V}]
    assert good(service.client.put(url, json={"items": items})) == {"count": 2}
    assert good(service.client.post(f"{url}/count", json={})) == {"count": 13}
    assert good(service.client.post(f"{url}/count", json={"where": {"half": "first"}})) == {"count": 6}
    assert good(service.client.get(f"{url}/i00")) == {"id": "i00", "metadata": {"half": "first", "new": True}}
    assert good(service.client.get(f"{url}/Ünï/ço dé")) == {"id": "Ünï/ço dé", "metadata": {}}
    assert good(service.client.get(f"{url}/%C3%9Cn%C3%AF%2F%C3%A7o%20d%C3%A9"))["id"] == "Ünï/ço dé"
    got = good(service.client.post(f"{url}/get", json={"ids": ["i03", "i01"]}))
    assert [item["id"] for item in got["items"]] == ["i03", "i01"]
    good(service.client.delete(f"{url}/Ünï/ço dé"), 204)
    refused(service.client.delete(f"{url}/Ünï/ço dé"), 404, "item_not_found")
    refused(service.client.get(f"{url}/Ünï/ço dé"), 404, "item_not_found")
    assert good(service.client.post(f"{url}/delete", json={"ids": ["i00", "i01", "gone"]})) == {"count": 2}
    assert good(service.client.post(f"{url}/count", json={})) == {"count": 10}


def test_a_batch_is_written_whole_or_not(service: Service) -> None:
    url = f"/v1/collections/{service.points()}/items"
    bad = {"id": "short", "vector": [1.0]}
    refused(service.client.put(url, json={"items": [ITEM, bad]}), 422, "invalid_vector", "'short'")
    refused(service.client.put(url, json={"items": [ITEM, ITEM]}), 422, "invalid_item", "'new' stands twice")
    refused(service.client.put(url, json={"items": [{"id": "t", "text": "a text"}]}), 422, "invalid_item", "have vector")
    refused(service.client.put(url, json={"items": [{"id": "z", "vector": [0.0] * DIM}]}), 422, "invalid_vector")
    refused(service.client.put(url, json={"items": [{"id": f"x{n}", "vector": V} for n in range(51)]}), 413, said="at most 50")
    assert good(service.client.post(f"{url}/count", json={})) == {"count": 12}


def test_pages_hold_everything_once(service: Service) -> None:
    url = f"/v1/collections/{service.points(25)}/items"
    for where in (None, '{"half": "second"}'):
        seen: list[str] = []
        after = None
        for _ in range(20):
            params: dict[str, Any] = {"limit": 4, **({"after": after} if after else {}), **({"where": where} if where else {})}
            page = good(service.client.get(url, params=params))
            seen += [item["id"] for item in page["items"]]
            after = page["next"]
            if after is None:
                break
        wanted = [f"i{n:02d}" for n in range(0 if where is None else 12, 25)]
        assert seen == wanted


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"where": "{"}, "where is not JSON"),
        ({"where": "[1]"}, "where is a JSON object"),
        ({"where": '{"a": {"$near": 1}}'}, "$near"),
        ({"limit": 1001}, "limit"),
        ({"after": "x" * 513}, "after"),
    ],
)
def test_list_items_422(service: Service, params: dict[str, Any], said: str) -> None:
    refused(service.client.get(f"/v1/collections/{service.points()}/items", params=params), 422, said=said)


def test_stream_tells_what_became_of_each_line(service: Service) -> None:
    name = service.points()
    lines = [
        b'{"id": "s1", "vector": [1, 0, 0, 0]}',
        b"not json",
        b"",
        b'{"id": "s2", "vector": [1, 0]}',
        b'{"id": "s3", "vector": [0, 0, 0, 0]}',
        b'{"id": "s4", "vector": [0, 1, 0, 0], "metadata": {"n": 1}}',
        b'{"id": "s5", "text": "a text"}',
        b'{"id": "s6", "vector": [1, 0, 0, 0], "colour": "red"}',
        b"\xff\xfe",
        b'{"id": "i00", "vector": [0, 0, 0, 1]}',
    ]
    told = good_lines(service.client.post(f"/v1/collections/{name}/items/stream", content=b"\n".join(lines), headers=LINES))
    assert {line["line"]: line["error"] for line in told} == {
        1: None, 2: "invalid_request", 4: "invalid_vector", 5: "invalid_vector", 6: None, 7: "invalid_item",
        8: "invalid_request", 9: "invalid_request", 10: None,
    }  # fmt: skip
    assert [line["line"] for line in told] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert {line["status"] for line in told if line["error"]} == {"refused"}
    assert [line["id"] for line in told if line["status"] == "written"] == ["s1", "s4", "i00"]
    assert service.db.collection(name).count() == 14


def test_stream_stops_at_a_line_that_is_too_long(service: Service) -> None:
    name = service.points()
    lines = [json.dumps({"id": "s1", "vector": V}), "x" * 100_001, json.dumps({"id": "s2", "vector": V})]
    told = good_lines(service.client.post(f"/v1/collections/{name}/items/stream", content="\n".join(lines), headers=LINES))
    assert [(line["line"], line["error"]) for line in told] == [(1, None), (2, "too_large")]
    assert "what follows was not read" in told[-1]["detail"]
    assert service.db.collection(name).count() == 13


def test_stream_of_20_000_lines_that_come_in_pieces(service: Service) -> None:
    name = service.points()
    lines = b"".join(b'{"id":"s%05d","vector":[1,%d,0,1],"metadata":{"n":%d}}\n' % (n, n, n) for n in range(20_000))
    assert len(lines) > 300_000  # more than the body of any other request may have
    pieces = (lines[at : at + 9973] for at in range(0, len(lines), 9973))
    told = good_lines(service.client.post(f"/v1/collections/{name}/items/stream", content=pieces, headers=LINES))
    assert [(line["line"], line["id"]) for line in told] == [(n + 1, f"s{n:05d}") for n in range(20_000)]
    assert Counter(line["status"] for line in told) == {"written": 20_000}
    assert service.db.collection(name).count() == 20_012
    assert service.db.collection(name).count({"n": 19_999}) == 1


@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_stream_415(service: Service, kind: str) -> None:
    url = f"/v1/collections/{service.points()}/items/stream"
    refused(service.client.post(url, content=b"{}", headers={"content-type": kind}), 415, "unsupported_media_type")


# -- search ------------------------------------------------------------------------------------------------------------------------


def search(service: Service, name: str, status: int = 200, **body: Any) -> Any:
    return good(service.client.post(f"/v1/collections/{name}/search", json=body), status)


def ids(ranking: Any) -> list[str]:
    return [hit["id"] for hit in ranking["hits"]]


def test_search_by_vector_and_id(service: Service) -> None:
    name = service.points()
    found = search(service, name, vector=V, k=3)
    expected = service.db.collection(name).search(V, 3)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(hit.id, pytest.approx(hit.score)) for hit in expected]
    assert found["version"] == 0
    assert found["search"].startswith("0-")
    assert found["hits"][0]["metadata"] == {"n": 0, "half": "first"}
    alike = search(service, name, id="i07", k=5)
    assert "i07" not in ids(alike)
    assert set(ids(alike)) == {"i06", "i08", "i09", "i10", "i11"}
    refused(service.client.post(f"/v1/collections/{name}/search", json={"id": "gone"}), 404, "item_not_found", "'gone'")


def test_search_with_a_filter(service: Service) -> None:
    name = service.points()
    assert ids(search(service, name, vector=V, where={"n": {"$gte": 4, "$lt": 8}})) == ["i04", "i05", "i06", "i07"]
    assert ids(search(service, name, vector=V, where={"$or": [{"n": 11}, {"n": {"$in": [2]}}]})) == ["i02", "i11"]
    assert ids(search(service, name, vector=V, where={"n": -1})) == []


def test_search_versions(service: Service, adapted: str) -> None:
    collection = service.db.collection(adapted)
    collection.traffic.stop()
    collection.activate(1)
    query = SMALL.x[0].tolist()
    live, base, one = (search(service, adapted, vector=query, version=v) for v in ("live", "base", 1))
    assert (live["version"], base["version"], one["version"]) == (1, 0, 1)
    assert live["hits"] == one["hits"]
    assert live["hits"] != base["hits"]
    assert ids(base) == [hit.id for hit in collection.search(SMALL.x[0], version=0)]
    refused(
        service.client.post(f"/v1/collections/{adapted}/search", json={"vector": query, "version": 9}), 404, "version_not_found"
    )


def test_search_compares_with_the_base(service: Service, adapted: str) -> None:
    query = SMALL.x[20].tolist()
    found = search(service, adapted, vector=query, version=1, compare=True, k=20)
    assert found["base"]["version"] == 0
    assert ids(found["base"]) == [hit.id for hit in service.db.collection(adapted).search(SMALL.x[20], 20, version=0)]
    before = {id: rank for rank, id in enumerate(ids(found["base"]))}
    for rank, hit in enumerate(found["hits"]):
        moved = None if hit["id"] not in before else before[hit["id"]] - rank
        assert hit.get("rank_change") == moved
    assert any(hit.get("rank_change") for hit in found["hits"])


def test_search_bent_by_feedback(service: Service) -> None:
    name = service.judged()
    query, wanted, unwanted = SMALL.x[0].tolist(), SMALL.ids[100], SMALL.ids[1]
    plain = search(service, name, vector=query, k=144)
    bent = search(service, name, vector=query, k=144, feedback=[{"id": wanted, "score": 1.0}, {"id": unwanted, "score": -1.0}])
    assert ids(bent).index(wanted) < ids(plain).index(wanted)
    assert ids(bent).index(unwanted) > ids(plain).index(unwanted)
    assert ids(search(service, name, vector=query, k=144)) == ids(plain)  # nothing was stored
    body = {"vector": query, "feedback": [{"id": "gone", "score": 1.0}]}
    refused(service.client.post(f"/v1/collections/{name}/search", json=body), 404, "item_not_found")


def test_search_many(service: Service, adapted: str) -> None:
    queries = [{"vector": SMALL.x[0].tolist()}, {"id": SMALL.ids[3]}]
    url = f"/v1/collections/{adapted}/search/many"
    found = good(service.client.post(url, json={"queries": queries, "k": 4, "version": "base"}))["results"]
    assert len(found) == 2
    for query, answer in zip(queries, found, strict=True):
        alone = search(service, adapted, k=4, version="base", **query)
        assert [hit["id"] for hit in answer["hits"]] == ids(alone)
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit["score"] for hit in alone["hits"]], abs=1e-5)
    assert len({answer["search"] for answer in found}) == 2


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({}, "invalid_request", "exactly one of text, image, vector, id is needed, not none"),
        ({"vector": V, "id": "i00"}, "invalid_request", "not vector and id"),
        ({"vector": [1.0]}, "invalid_vector", "dimension 4"),
        ({"vector": [0.0] * 4}, "invalid_vector", ""),
        ({"text": "a"}, "invalid_config", "asked by vector"),
        ({"vector": V, "k": 0}, "invalid_request", "k"),
        ({"vector": V, "k": "3"}, "invalid_request", "k"),
        ({"vector": V, "version": -1}, "invalid_request", "version"),
        ({"vector": V, "version": "newest"}, "invalid_request", "version"),
        ({"vector": V, "where": {"n": {"$like": 1}}}, "invalid_filter", "$like"),
        ({"vector": V, "feedback": [{"id": "i00", "score": 2}]}, "invalid_request", "feedback.0.score"),
        ({"vector": V, "filter": {}}, "invalid_request", "filter"),
    ],
)
def test_search_422(service: Service, body: dict[str, Any], error: str, said: str) -> None:
    refused(service.client.post(f"/v1/collections/{service.points()}/search", json=body), 422, error, said)


def test_recommend(service: Service) -> None:
    name = service.points()
    url = f"/v1/collections/{name}/recommend"
    found = good(service.client.post(url, json={"like": ["i00"], "unlike": ["i06"], "k": 5}))
    assert set(ids(found)) == {"i01", "i02", "i03", "i04", "i05"}
    assert found["version"] == 0
    refused(service.client.post(url, json={"like": ["gone"]}), 404, "item_not_found")


def test_embed(service: Service) -> None:
    name = service.points()
    body = {"contents": [{"vector": [3.0, 0.0, 0.0, 0.0]}, {"id": "i00"}], "version": "base"}
    vectors = good(service.client.post(f"/v1/collections/{name}/embed", json=body))["vectors"]
    assert vectors[0] == V
    assert vectors[1] == pytest.approx(service.db.collection(name).embed([vm.Id("i00")], 0)[0].tolist())


# -- texts and pictures ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a collection of texts and one of pictures, with the real encoders."""
    with served(tmp_path_factory.mktemp("contents") / "db") as service:
        texts = {"refund": "How do I get my money back?", "ship": "Where is my parcel now?", "login": "I forgot my password."}
        good(service.client.post("/v1/collections", json={"name": "docs"}), 201)
        items = [{"id": id, "text": text, "metadata": {"n": n}} for n, (id, text) in enumerate(texts.items())]
        assert good(service.client.put("/v1/collections/docs/items", json={"items": items})) == {"count": 3}
        good(service.client.post("/v1/collections", json={"name": "pictures", "encoder": "image"}), 201)
        yield service


def test_search_by_text(contents: Service) -> None:
    found = search(contents, "docs", text="I want a refund", k=2)
    assert found["hits"][0]["id"] == "refund"
    assert found["hits"][0]["text"] == "How do I get my money back?"
    bare = search(contents, "docs", text="I want a refund", k=2, content=False)
    assert [set(hit) for hit in bare["hits"]] == [{"id", "score", "metadata"}] * 2
    assert ids(bare) == ids(found)


def test_content_route_gives_text_back(contents: Service) -> None:
    answer = contents.client.get("/v1/collections/docs/content/ship")
    assert answer.text == "Where is my parcel now?"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    refused(contents.client.get("/v1/collections/docs/content/gone"), 404, "item_not_found")


def test_pictures_by_form_and_by_base64(contents: Service) -> None:
    red, blue = png((220, 20, 20)), png((20, 20, 220))
    url = "/v1/collections/pictures"
    form = {"id": "red", "metadata": '{"colour": "red"}'}
    assert good(contents.client.post(f"{url}/items/upload", data=form, files={"file": ("a.png", red)})) == {"count": 1}
    sent = {"items": [{"id": "blue", "image": base64.b64encode(blue).decode()}]}
    assert good(contents.client.put(f"{url}/items", json=sent)) == {"count": 1}
    answer = contents.client.get(f"{url}/content/red")
    assert (answer.content, answer.headers["content-type"]) == (red, "image/png")
    assert good(contents.client.get(f"{url}/items/red"))["metadata"] == {"colour": "red"}
    by_form = good(contents.client.post(f"{url}/search/upload", data={"k": 1}, files={"file": ("q.png", png((210, 25, 25)))}))
    by_text = search(contents, "pictures", image=base64.b64encode(png((210, 25, 25))).decode(), k=1)
    assert ids(by_form) == ids(by_text) == ["red"]
    assert base64.b64decode(by_text["hits"][0]["image"]) == red
    bad = {"file": ("q.png", b"no picture")}
    refused(contents.client.post(f"{url}/search/upload", files=bad), 422, "undecodable_content")
    refused(contents.client.post(f"{url}/items/upload", data={"id": "bad"}, files=bad), 422, "undecodable_content", "'bad'")
    refused(contents.client.post(f"{url}/items/upload", data={**form, "metadata": "["}, files={"file": ("a.png", red)}), 422)


def test_search_upload_options(contents: Service) -> None:
    url = "/v1/collections/pictures"
    files = {"file": ("a.png", png((20, 220, 20)))}
    good(contents.client.post(f"{url}/items/upload", data={"id": "green", "metadata": '{"colour": "green"}'}, files=files))
    data = {"where": '{"colour": "green"}', "version": "base", "compare": "true", "content": "false"}
    found = good(contents.client.post(f"{url}/search/upload", data=data, files=files))
    assert ids(found) == ids(found["base"]) == ["green"]
    assert set(found["hits"][0]) == {"id", "score", "metadata", "rank_change"}
    refused(contents.client.post(f"{url}/search/upload", data={"version": "newest"}, files=files), 422, said="version")
    refused(contents.client.post(f"{url}/search/upload", data={"version": "7"}, files=files), 404, "version_not_found")


def test_an_encoder_object_of_another_process_is_unavailable(tmp_path: Path) -> None:
    with vm.open(tmp_path / "db", device="cpu") as db:
        db.create("toys", encoder=WordCounter()).add([vm.Item("a", "red cat")])
    with served(tmp_path / "db") as service:
        answer = service.client.post("/v1/collections/toys/search", json={"text": "red"})
        refused(answer, 503, "encoder_unavailable")
        assert answer.headers["retry-after"]
        assert ids(search(service, "toys", vector=[1.0] * 7)) == ["a"]


# -- versions ----------------------------------------------------------------------------------------------------------------------


def test_versions_activate_and_roll_back(service: Service, adapted: str) -> None:
    url = f"/v1/collections/{adapted}"
    service.db.collection(adapted).activate(0)
    versions = good(service.client.get(f"{url}/versions"))["versions"]
    assert [(v["number"], v["live"]) for v in versions] == [(0, True), (1, False)]
    one = good(service.client.get(f"{url}/versions/1"))
    assert one["report"]["version"] == 1
    assert one["report"]["decision"] == one["decision"]
    assert one["report"]["metrics"] == one["metrics"]
    assert good(service.client.get(f"{url}/versions/0"))["report"] is None
    assert good(service.client.post(f"{url}/versions/1/activate")) == {"live": 1}
    assert good(service.client.get(url))["live"] == 1
    assert good(service.client.post(f"{url}/rollback")) == {"live": 0}
    refused(service.client.post(f"{url}/versions/7/activate"), 404, "version_not_found")
    refused(service.client.get(f"{url}/versions/7"), 404, "version_not_found")
    refused(service.client.get(f"{url}/versions/{2**31}"), 422)
    refused(service.client.post(f"/v1/collections/{service.points()}/rollback"), 404, "version_not_found")
