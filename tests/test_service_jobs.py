"""Teaching over HTTP: judgements, adaptations as jobs, their events, policies, splits of traffic, and keys that see only their own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service_kit import SMALL, Service, good, refused, served, until
from tests.test_jobs import held, working
from vecmeta.traffic import wilson

ENDED = {"live", "kept", "failed", "cancelled"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("jobs") / "db", max_batch=200) as service:
        yield service


@pytest.fixture(scope="module")
def split(service: Service) -> str:
    """A collection with a version 1 that is not live."""
    name = service.judged()
    assert service.db.collection(name).adapt(activate=False).version == 1
    return name


def url(name: str, rest: str = "") -> str:
    return f"/v1/collections/{name}{rest}"


# -- judgements --------------------------------------------------------------------------------------------------------------------


def test_feedback_new_duplicate_contradicting(service: Service) -> None:
    name = service.points()
    first: list[dict[str, Any]] = [
        {"item": "i00", "concept": "left"},
        {"item": "i01", "query": {"vector": [1.0, 0.0, 0.0, 0.0]}, "score": 0.5, "user": "ada"},
        {"item": "i02", "query": {"id": "i03"}, "score": -1.0},
    ]
    told = good(service.client.post(url(name, "/feedback"), json={"judgements": first}))
    assert told == {"new": 3, "duplicate": 0, "contradicting": 0, "job": None}
    second = [first[0], {**first[1], "score": -1.0}, {"item": "i09", "concept": "left", "score": -1}]
    told = good(service.client.post(url(name, "/feedback"), json={"judgements": second}))
    assert told == {"new": 1, "duplicate": 1, "contradicting": 1, "job": None}
    log = good(service.client.get(url(name, "/judgements")))
    assert log["total"] == len(log["judgements"]) == len(service.db.collection(name).judgements())
    assert [j["item"] for j in log["judgements"]][:3] == ["i00", "i01", "i02"]
    assert log["judgements"][1]["query"] == {"vector": [1.0, 0.0, 0.0, 0.0]}
    assert log["judgements"][1]["user"] == "ada"
    assert log["judgements"][2]["query"] == {"id": "i03"}
    page = good(service.client.get(url(name, "/judgements"), params={"offset": 1, "limit": 1}))
    assert page["judgements"] == log["judgements"][1:2]


def test_feedback_is_stored_whole_or_not(service: Service) -> None:
    name = service.points()
    fine = {"item": "i00", "concept": "left"}
    for bad, status in (
        ({"item": "gone", "concept": "left"}, 404),
        ({"item": "i01"}, 422),
        ({"item": "i01", "concept": "left", "query": {"id": "i02"}}, 422),
        ({"item": "i01", "concept": "left", "score": 1.5}, 422),
        ({"item": "i01", "concept": "  "}, 422),
        ({"item": "i01", "query": {"text": "a text"}}, 422),
        ({"item": "i01", "query": {"vector": [1.0]}}, 422),
        ({"item": "i01", "query": {"id": "gone"}}, 404),
    ):
        refused(service.client.post(url(name, "/feedback"), json={"judgements": [fine, bad]}), status)
    many = {"judgements": [fine] * 201}
    refused(service.client.post(url(name, "/feedback"), json=many), 413, "too_large", "at most 200")
    assert good(service.client.get(url(name, "/judgements")))["total"] == 0


def test_contradictions_are_told(service: Service) -> None:
    name = service.points()
    said = [{"item": "i00", "concept": "left", "user": user, "score": score} for user, score in (("ada", 1), ("bob", -1))]
    good(service.client.post(url(name, "/feedback"), json={"judgements": said}))
    (told,) = good(service.client.get(url(name, "/contradictions")))["contradictions"]
    assert "i00" in told


# -- jobs --------------------------------------------------------------------------------------------------------------------------


def test_adapt_202_and_the_job_goes_live(service: Service) -> None:
    name = service.judged()
    answer = service.client.post(url(name, "/adapt"), json={})
    job = good(answer, 202)
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["collection"], job["kind"], job["report"], job["error"]) == ("queued", name, "adapt", None, None)
    assert good(service.client.get(answer.headers["location"])) == job
    with working(service.db):
        until(lambda: good(service.client.get(f"/v1/jobs/{job['id']}"))["state"] in ENDED)
    ended = good(service.client.get(f"/v1/jobs/{job['id']}"))
    assert ended["state"] == "live"
    assert ended["report"]["decision"] == "promoted"
    assert ended["report"]["metrics"]["fed_rank"] < ended["report"]["metrics"]["fed_rank_base"]
    assert good(service.client.get(url(name)))["live"] == ended["report"]["version"] == 1
    found = good(service.client.post(url(name, "/search"), json={"id": SMALL.ids[0]}))
    assert found["version"] == 1


def test_adapt_prefer_wait_200_with_the_report(service: Service) -> None:
    name = service.judged()
    with working(service.db):
        answer = service.client.post(url(name, "/adapt"), json={"dry_run": True}, headers={"Prefer": "respond-async, wait=30"})
    job = good(answer)
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "kept"
    assert job["report"]["dry_run"] is True
    assert job["report"]["version"] is None
    assert job["report"]["cost"]["rows"] == len(SMALL.ids)
    assert {"seconds", "bytes"} <= set(job["report"]["cost"])
    assert [v["number"] for v in good(service.client.get(url(name, "/versions")))["versions"]] == [0]


def test_finetune_of_own_vectors_fails_and_says_why(service: Service) -> None:
    name = service.judged()
    with working(service.db):
        answer = service.client.post(url(name, "/finetune"), json={"config": {"steps": 5}}, headers={"Prefer": "wait=30"})
    job = good(answer)
    assert (job["kind"], job["state"]) == ("finetune", "failed")
    assert job["error"]["error"] == "invalid_config"
    assert "holds own vectors" in job["error"]["detail"]


def test_finetune_refuses_settings_that_are_none(service: Service) -> None:
    name = service.judged()
    for body, complaint in (
        ({"config": {"speed": 1}}, "speed"),
        ({"config": {"steps": 0}}, "steps"),
        ({"mode": "all"}, "features"),
    ):
        answer = service.client.post(url(name, "/finetune"), json=body)
        assert answer.status_code == 422
        assert complaint in answer.text


def test_finetune_reads_source_examples_of_collections_that_the_key_reaches(service: Service) -> None:
    mine, other = service.judged(), service.judged()
    body = {"transfer": ["instances"], "source": f"{other}:label"}
    key = service.key("write", "read", collections=[mine])
    refused(service.client.post(url(mine, "/finetune"), json=body, headers=key), 403, "forbidden", other)
    both = service.key("write", "read", collections=[mine, other])
    job = good(service.client.post(url(mine, "/finetune"), json=body, headers=both), 202)
    assert service.db.jobs.get(job["id"]).params["source"] == f"{other}:label"
    service.db.jobs.cancel(job["id"])
    refused(service.client.post(url(mine, "/finetune"), json={**body, "source": "nowhere"}), 404, said="nowhere")
    refused(service.client.post(url(mine, "/finetune"), json={"transfer": ["instances"]}), 422, said="needs source examples")


def test_adapt_prefer_wait_202_when_it_takes_longer(service: Service) -> None:
    name = service.judged()
    begin = time.monotonic()
    answer = service.client.post(url(name, "/adapt"), json={}, headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - begin < 5
    assert good(answer, 202)["state"] == "queued"
    service.db.jobs.cancel(answer.json()["id"])


def test_adapt_joins_a_queued_one_that_wants_the_same(service: Service) -> None:
    name = service.judged()
    first = good(service.client.post(url(name, "/adapt"), json={"seed": 3}), 202)
    joined = good(service.client.post(url(name, "/adapt"), json={"seed": 3, "method": "maml"}), 202)
    other = good(service.client.post(url(name, "/adapt"), json={"seed": 4}), 202)
    assert (joined["id"], joined["joined"]) == (first["id"], 1)
    assert other["id"] != first["id"]
    for job in (first, other):
        assert good(service.client.post(f"/v1/jobs/{job['id']}/cancel"))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"method": "mamml"}, "'mamml'; known"),
        ({"strength": 2}, "strength"),
        ({"seed": -1}, "seed"),
        ({"start": "/etc/passwd"}, "start"),
    ],
)
def test_adapt_422(service: Service, body: dict[str, Any], said: str) -> None:
    refused(service.client.post(url(service.points(), "/adapt"), json=body), 422, said=said)


def test_cancel_a_running_job(service: Service) -> None:
    name = service.judged()
    with working(service.db), held(service.db.collection(name)):
        job = good(service.client.post(url(name, "/adapt"), json={}), 202)["id"]
        until(lambda: good(service.client.get(f"/v1/jobs/{job}"))["state"] not in ("queued", *ENDED))
        assert good(service.client.post(f"/v1/jobs/{job}/cancel"))["state"] not in ("live", "kept")
    ended = good(service.client.get(f"/v1/jobs/{job}"))
    assert (ended["state"], ended["report"]) == ("cancelled", None)
    assert good(service.client.get(url(name)))["live"] == 0
    assert good(service.client.post(f"/v1/jobs/{job}/cancel")) == ended  # what has ended stays as it is


def events(service: Service, job: str) -> list[tuple[str, dict[str, Any]]]:
    """The whole stream."""
    found, name = [], ""
    with service.client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                found.append((name, json.loads(line[5:])))
    return found


def test_events_until_the_end(service: Service) -> None:
    name = service.judged()
    job = good(service.client.post(url(name, "/adapt"), json={}), 202)["id"]
    told: list[tuple[str, dict[str, Any]]] = []
    watcher = threading.Thread(target=lambda: told.extend(events(service, job)))
    watcher.start()
    with working(service.db):
        watcher.join(30)
    assert not watcher.is_alive()
    assert [event for event, _ in told[:-1]] == ["progress"] * (len(told) - 1)
    assert told[-1][0] == "end"
    assert told[0][1]["state"] not in ENDED
    assert told[-1][1]["state"] in ENDED
    assert told[-1][1] == good(service.client.get(f"/v1/jobs/{job}"))
    assert [event for event, _ in events(service, job)] == ["end"]


def test_events_end_when_the_collection_is_dropped(service: Service) -> None:
    name = service.judged()
    job = good(service.client.post(url(name, "/adapt"), json={}), 202)["id"]
    told: list[tuple[str, dict[str, Any]]] = []
    watcher = threading.Thread(target=lambda: told.extend(events(service, job)))
    watcher.start()
    time.sleep(0.2)
    good(service.client.delete(url(name)), 204)
    watcher.join(10)
    assert not watcher.is_alive()
    assert [event for event, _ in told] == ["progress"]


def test_jobs_in_pages_newest_first(service: Service) -> None:
    name = service.judged()
    made = [good(service.client.post(url(name, "/adapt"), json={"seed": seed}), 202)["id"] for seed in range(5)]
    seen: list[str] = []
    before = None
    for _ in range(5):
        params: dict[str, Any] = {"collection": name, "limit": 2, **({"before": before} if before else {})}
        page = good(service.client.get("/v1/jobs", params=params))
        seen += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            break
    assert seen == made[::-1]
    for job in made:
        service.db.jobs.cancel(job)


def test_feedback_with_adapt_starts_a_job(service: Service) -> None:
    name = service.judged()
    body = {"judgements": [{"item": SMALL.ids[60], "concept": "new"}], "adapt": True}
    refused(service.client.post(url(name, "/feedback"), json=body, headers=service.key("feedback")), 403, "forbidden", "'write'")
    assert good(service.client.get(url(name, "/judgements")))["total"] == 16  # nothing was stored by the one who may not
    job = good(service.client.post(url(name, "/feedback"), json=body, headers=service.key("feedback", "write")))["job"]
    assert good(service.client.post(f"/v1/jobs/{job}/cancel"))["state"] == "cancelled"


def test_a_policy_adapts_by_itself(service: Service) -> None:
    name = service.judged()
    good(service.client.put(url(name, "/policy"), json={"auto_adapt": 3, "debounce": 0.1}))
    given = service.key("feedback", collections=[name])
    told = [
        good(
            service.client.post(
                url(name, "/feedback"), json={"judgements": [{"item": SMALL.ids[n], "concept": "new"}]}, headers=given
            )
        )
        for n in (60, 61, 62, 63)
    ]
    # The sixteen judgements that the collection was made with count as well: nobody has heard of them.
    jobs = {answer["job"] for answer in told} - {None}
    assert len(jobs) == 1
    with working(service.db):
        (job,) = jobs
        until(lambda: good(service.client.get(f"/v1/jobs/{job}"))["state"] in ENDED)
    assert good(service.client.get(url(name)))["live"] == 1
    good(service.client.put(url(name, "/policy"), json={"auto_adapt": None}))


# -- traffic -----------------------------------------------------------------------------------------------------------------------


def answered_by(service: Service, name: str, session: str | None = None) -> tuple[int, str]:
    body = {"id": SMALL.ids[0], "k": 1, **({} if session is None else {"session": session})}
    answer = good(service.client.post(url(name, "/search"), json=body))
    assert answer["search"].startswith(f"{answer['version']}-")
    return answer["version"], answer["search"]


@pytest.mark.parametrize("percent", [0.0, 30.0, 100.0])
def test_a_split_shares_in_percent_and_a_session_sees_one_version(service: Service, split: str, percent: float) -> None:
    if percent:
        told = good(service.client.put(url(split, "/traffic"), json={"version": 1, "percent": percent}))
        assert (told["version"], told["percent"]) == (1, percent)
    else:
        good(service.client.delete(url(split, "/traffic")), 204)
        assert good(service.client.get(url(split, "/traffic")))["split"] is None
    n = 300
    first = [answered_by(service, split, f"user {user}")[0] for user in range(n)]
    low, high = wilson(sum(first), n)
    assert low - 0.05 <= percent / 100 <= high + 0.05  # 95 % and some more on each side: chance fails once in 10,000
    again = [answered_by(service, split, f"user {user}")[0] for user in range(0, n, 10)]
    assert again == first[::10]
    named = good(service.client.post(url(split, "/search"), json={"id": SMALL.ids[0], "version": "base", "session": "user 1"}))
    assert named["version"] == 0


def test_a_split_422(service: Service, split: str) -> None:
    for body in ({"version": 1, "percent": 0}, {"version": 1, "percent": 101}, {"version": 0, "percent": 10}, {"percent": 10}):
        refused(service.client.put(url(split, "/traffic"), json=body), 422)
    refused(service.client.put(url(split, "/traffic"), json={"version": 9, "percent": 10}), 404, "version_not_found")


def test_clicks_count_once_and_outcomes_are_told_by_version(service: Service) -> None:
    name = service.judged()
    assert service.db.collection(name).adapt(activate=False).version == 1
    good(service.client.put(url(name, "/traffic"), json={"version": 1, "percent": 50}))
    answers = [answered_by(service, name, f"user {user}") for user in range(40)]
    candidate = [search for version, search in answers if version == 1]
    live = [search for version, search in answers if version == 0]
    assert candidate
    assert live
    click = {"search": candidate[0], "item": "i00001", "rank": 2}
    assert good(service.client.post(url(name, "/clicks"), json=click)) == {"counted": True}
    assert good(service.client.post(url(name, "/clicks"), json=click)) == {"counted": False}
    assert good(service.client.post(url(name, "/clicks"), json={**click, "item": "i00002", "rank": 4})) == {"counted": True}
    outcomes = {one["version"]: one for one in good(service.client.get(url(name, "/traffic")))["outcomes"]}
    assert outcomes[0]["searches"] == len(live)
    assert outcomes[1]["searches"] == len(candidate)
    assert (outcomes[0]["clicked"], outcomes[0]["clicks"]) == (0, 0)
    assert (outcomes[1]["clicked"], outcomes[1]["clicks"], outcomes[1]["mean_reciprocal_rank"]) == (1, 2, 0.5)
    assert outcomes[1]["rate"] == pytest.approx(1 / len(candidate))
    assert outcomes[1]["low"] < outcomes[1]["rate"] < outcomes[1]["high"]
    good(service.client.post(url(name, "/versions/1/activate")))
    assert good(service.client.get(url(name, "/traffic")))["split"] is None  # it ends when the candidate goes live


@pytest.mark.parametrize(
    "search", ["", "0-xyz", "-0123456789abcdef", "0" * 11 + "-0123456789abcdef", "9999999999-0123456789abcdef"]
)
def test_clicks_422(service: Service, split: str, search: str) -> None:
    refused(service.client.post(url(split, "/clicks"), json={"search": search, "item": "a"}), 422)


# -- keys ---------------------------------------------------------------------------------------------------------------------------


def test_a_key_of_some_collections_sees_only_those(service: Service) -> None:
    mine, other = service.judged(), service.judged()
    key = service.key("admin", collections=[mine])
    jobs = {name: good(service.client.post(url(name, "/adapt"), json={}), 202)["id"] for name in (mine, other)}
    ask = service.client
    assert good(ask.get("/v1/collections", headers=key)) == {"collections": [mine]}
    assert {job["collection"] for job in good(ask.get("/v1/jobs", headers=key))["jobs"]} == {mine}
    refused(ask.get("/v1/jobs", params={"collection": other}, headers=key), 403)
    refused(ask.get("/v1/jobs", params={"collection": "nope"}, headers=key), 403)  # does not tell whether it is there
    good(ask.get(f"/v1/jobs/{jobs[mine]}", headers=key))
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        refused(ask.request(method, f"/v1/jobs/{jobs[other]}{path}", headers=key), 403)
    refused(ask.get(url(other), headers=key), 403)
    refused(ask.get(url("nope"), headers=key), 403)  # does not tell whether it is there
    assert service.db.jobs.get(jobs[other]).state == "queued"
    for job in jobs.values():
        service.db.jobs.cancel(job)


def test_a_page_of_jobs_is_full_for_a_key_of_some_collections(service: Service) -> None:
    mine, other = service.judged(), service.judged()
    key = service.key("read", collections=[mine])
    made = []
    for seed in range(3):
        made.append(service.db.jobs.submit(mine, params={"seed": seed}).id)
        service.db.jobs.submit(other, params={"seed": seed})
    seen: list[str] = []
    before: str | None = None
    for _ in range(20):
        page = good(service.client.get("/v1/jobs", params={"limit": 2, **({"before": before} if before else {})}, headers=key))
        seen += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            break
        # The cursor names only what the key may see.
        assert service.db.jobs.get(before).collection == mine
    assert seen == made[::-1]
