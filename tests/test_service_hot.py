"""The short way of a search answers as the usual way does, whatever is sent."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service_kit import Service, packed, served

USUAL = "application/json; charset=utf-8"  # the short way takes nothing but the plain type
BODIES: dict[str, bytes] = {
    "vector": b'{"vector": [1, 0.1, 0, 0]}',
    "packed": b'{"vector": "%s", "k": 5}' % packed(1, 0.1, 0, 0),
    "packed, another dimension": b'{"vector": "%s"}' % packed(1, 0),
    "packed, no numbers": b'{"vector": "%s"}' % packed(1, float("nan"), 0, 0),
    "packed, infinite": b'{"vector": "%s"}' % packed(1, float("inf"), 0, 0),
    "packed, zero": b'{"vector": "%s"}' % packed(0, 0, 0, 0),
    "packed, half a number": b'{"vector": "%s"}' % base64.b64encode(bytes(18)),
    "not packed": b'{"vector": "one, two, three, four"}',
    "packed for an address": b'{"vector": "AACAPw_-AAAAAAAAAAAAAA=="}',
    "packed with a line end": b'{"vector": "%s\\n%s"}' % (packed(1, 0.1, 0, 0)[:8], packed(1, 0.1, 0, 0)[8:]),
    "an empty text": b'{"vector": ""}',
    "id": b'{"id": "i03", "k": 3}',
    "where": b'{"vector": [1, 0, 0, 0], "where": {"n": {"$gte": 4}}, "k": 4}',
    "base": b'{"vector": [0, 1, 0, 0], "version": "base"}',
    "compare": b'{"vector": [0, 1, 0, 0], "compare": true, "content": false}',
    "feedback": b'{"vector": [1, 1, 0, 0], "feedback": [{"id": "i02", "score": 1.0}]}',
    "more than there are": b'{"vector": [1, 1, 0, 0], "k": 10000}',
    "another dimension": b'{"vector": [1, 0]}',
    "no query": b'{"k": 3}',
    "two queries": b'{"vector": [1, 0, 0, 0], "id": "i01"}',
    "unknown field": b'{"vector": [1, 0, 0, 0], "top": 3}',
    "unknown item": b'{"id": "nobody"}',
    "unknown version": b'{"vector": [1, 0, 0, 0], "version": 7}',
    "bad filter": b'{"vector": [1, 0, 0, 0], "where": {"n": {"$near": 4}}}',
    "text for vectors": b'{"text": "refund"}',
    "no json": b'{"vector": [1, 0',
    "not a number": b'{"vector": [NaN, 0, 0, 0]}',
    "the zero vector": b'{"vector": [0, 0, 0, 0]}',
    "no utf-8": b'{"id": "\xff\xfe"}',
    "a list": b"[]",
    "nothing": b"",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("hot"), max_body=2000) as service:
        yield service


@pytest.fixture(scope="module")
def path(service: Service) -> str:
    path = f"/v1/collections/{service.points()}/search"
    assert service.client.post(path, json={"vector": [1, 0, 0, 0]}).status_code == 200  # the collection is in use now
    return path


def asked(service: Service, path: str, body: bytes, kind: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    answer = service.client.post(path, content=body, headers={"Content-Type": kind, **(headers or {})})
    told = answer.json()
    told.pop("search", None)
    return answer.status_code, told


@pytest.mark.parametrize("what", BODIES)
def test_both_ways_say_the_same(service: Service, path: str, what: str) -> None:
    assert service.client.post(path, json={"vector": [1, 0, 0, 0]}).status_code == 200
    short, usual = (asked(service, path, BODIES[what], kind) for kind in ("application/json", USUAL))
    assert short == usual
    assert short[0] == 200 or set(short[1]) == {"error", "detail"}


def test_the_short_way_is_taken(service: Service, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def routed(*_: object) -> None:
        raise AssertionError("the usual way")

    monkeypatch.setattr("service.routes.search.json_response", routed)
    assert asked(service, path, BODIES["vector"], "application/json")[0] == 200
    assert asked(service, path, BODIES["vector"], USUAL)[0] == 500


def test_a_body_that_is_too_large(service: Service, path: str) -> None:
    body = b'{"vector": [' + b"0.0, " * 1000 + b"0]}"
    for kind in ("application/json", USUAL):
        assert asked(service, path, body, kind)[0] == 413


def test_keys_are_asked_for(service: Service, path: str) -> None:
    for kind in ("application/json", USUAL):
        assert asked(service, path, BODIES["vector"], kind, {"Authorization": "Bearer vm_wrong"})[0] == 401
        elsewhere = service.key("read", collections=["elsewhere"])
        assert asked(service, path, BODIES["vector"], kind, elsewhere)[0] == 403
        assert asked(service, path, BODIES["vector"], kind, service.key("read"))[0] == 200


def test_a_request_that_changes_ways_counts_once(tmp_path: Any) -> None:
    with served(tmp_path, rate=6) as service:
        path = f"/v1/collections/{service.points()}/search"
        headers = service.key("read")
        statuses = [
            asked(service, path, BODIES[what], "application/json", headers)[0]
            for what in ("vector", "no query", "unknown item", "no json", "vector", "id", "vector")
        ]
        assert statuses == [200, 422, 404, 422, 200, 200, 429]


def test_metrics_and_logs_know_the_route(service: Service, path: str) -> None:
    asked(service, path, BODIES["vector"], "application/json")
    line = 'vecmeta_request_seconds_count{method="POST",route="/collections/{name}/search",status="200"}'
    usual = service.client.get("/metrics").text
    assert line in usual
