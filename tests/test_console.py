"""The console's files and the routes that only it asks: policy, fields, map, suggestions, samples, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from service.insight.lessons import Lesson, lesson
from service.routes.console import LESSONS
from service.static import POLICY
from tests.service_kit import SMALL, Service, bearer, good, refused, served
from vecmeta import openmoji

CONSOLE = Path(__file__).parent.parent / "service" / "console"
FILES = sorted(path for path in CONSOLE.rglob("*") if path.is_file())
FIRST_VIEW = 200_000  # bytes


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("console") / "db") as service:
        yield service


# -- files -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/console", "/console/", "/console/index.html"])
def test_the_page_needs_no_key_and_has_a_strict_policy(service: Service, path: str) -> None:
    answer = service.client.get(path, headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert "require-trusted-types-for 'script'" in POLICY


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(CONSOLE)))
def test_every_file_is_served_and_known_again(service: Service, file: Path) -> None:
    path = f"/console/{file.relative_to(CONSOLE).as_posix()}"
    answer = service.client.get(path)
    assert answer.content == file.read_bytes()
    again = service.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", ["nope.js", "../settings.py", "%2e%2e/settings.py", "js", "js/", "//etc/passwd"])
def test_nothing_else_is_served(service: Service, path: str) -> None:
    answer = service.client.get(f"/console/{path}")
    assert answer.status_code == 404
    assert set(answer.json()) == {"error", "detail"}


def test_nothing_comes_from_elsewhere_and_nothing_becomes_markup() -> None:
    for file in FILES:
        text = file.read_text("utf-8")
        addresses = set(re.findall(r"https?://[^\s\"'`<>)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, f"{file.name}: {addresses}"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\bon\w+=\"", text), (
            file.name
        )
    assert sum(file.stat().st_size for file in FILES) < FIRST_VIEW


# -- overview ----------------------------------------------------------------------------------------------------------------------


def test_an_overview_is_what_its_parts_are(service: Service) -> None:
    name = service.judged()
    at = f"/v1/collections/{name}"
    service.db.collection(name).feedback(
        [vm.Judgement(SMALL.ids[0], query=SMALL.x[1]), vm.Judgement(SMALL.ids[0], query=vm.Id(SMALL.ids[1]))]
    )
    job = service.db.jobs.submit(name)
    told = good(service.client.get(f"{at}/overview"))
    assert told["collections"] == good(service.client.get("/v1/collections"))["collections"]
    assert told["collection"] == good(service.client.get(at))
    for part in ("versions", "fields", "contradictions"):
        assert told[part] == good(service.client.get(f"{at}/{part}"))[part]
    assert told["job"] == good(service.client.get(f"/v1/jobs/{job.id}"))
    log = good(service.client.get(f"{at}/judgements", params={"limit": 1000}))
    assert told["total"] == log["total"] == len(told["judgements"])
    vector = log["judgements"][-2]["query"]
    assert set(vector) == {"vector"}
    assert set(told["judgements"][-2]["query"]) == {"digest"}  # instead of a long list of numbers
    assert [one for n, one in enumerate(told["judgements"]) if n != log["total"] - 2] == [
        one for n, one in enumerate(log["judgements"]) if n != log["total"] - 2
    ]


def test_an_overview_names_the_collections_that_a_key_may_see(service: Service) -> None:
    name = service.points()
    answer = service.client.get(f"/v1/collections/{name}/overview", headers=service.key("read", collections=[name]))
    assert good(answer)["collections"] == [name]


# -- fields ------------------------------------------------------------------------------------------------------------------------


def test_fields_tell_kinds_values_and_ranges(service: Service) -> None:
    name = service.points()
    told = good(service.client.get(f"/v1/collections/{name}/fields"))
    fields = {field["name"]: field for field in told["fields"]}
    assert told["read"] == 12
    assert fields["half"]["kinds"] == ["text"]
    assert {(value["value"], value["count"]) for value in fields["half"]["values"]} == {("first", 6), ("second", 6)}
    assert (fields["n"]["low"], fields["n"]["high"], fields["n"]["distinct"]) == (0.0, 11.0, 12)


# -- the map -----------------------------------------------------------------------------------------------------------------------


def test_the_map_has_a_point_for_each_item_of_each_version(service: Service) -> None:
    name = service.judged()
    collection = service.db.collection(name)
    assert collection.adapt(activate=False).version == 1
    base = good(service.client.get(f"/v1/collections/{name}/map", params={"version": 0, "field": "label"}))
    after = good(service.client.get(f"/v1/collections/{name}/map", params={"version": 1}))
    assert base["ids"] == after["ids"] == SMALL.ids
    assert base["values"] == [int(label) for label in SMALL.label]
    assert (base["version"], after["version"], base["total"]) == (0, 1, len(SMALL.ids))
    x0, x1 = (np.array([told["x"], told["y"]]).T for told in (base, after))
    turned = x1 * [1, -1]
    assert np.linalg.norm(x1 - x0) < np.linalg.norm(turned - x0)
    assert np.linalg.norm(x1 - x0) > 0
    few, moved = (
        good(service.client.get(f"/v1/collections/{name}/map", params={"limit": 40, "version": version})) for version in (0, 1)
    )
    assert few["ids"] == moved["ids"] == sorted(few["ids"])  # the same ones, so that they can move
    assert (len(few["ids"]), few["total"]) == (40, len(SMALL.ids))
    assert len({SMALL.label[SMALL.ids.index(id)] for id in few["ids"]}) > 6  # from all over, not the first by id


def test_the_map_of_an_unknown_version_is_404(service: Service) -> None:
    refused(service.client.get(f"/v1/collections/{service.points()}/map", params={"version": 7}), 404, "version_not_found")


def test_the_map_of_nothing_is_empty(service: Service) -> None:
    service.db.create("nothing", encoder="vectors", dim=4)
    assert good(service.client.get("/v1/collections/nothing/map"))["ids"] == []
    assert good(service.client.get("/v1/collections/nothing/fields"))["fields"] == []
    assert good(service.client.get("/v1/collections/nothing/suggestions"))["suggestions"] == []


# -- what to label next ------------------------------------------------------------------------------------------------------------


def test_suggestions_lie_between_concepts_and_are_not_judged(service: Service) -> None:
    rows = np.zeros((21, 3))
    for n, angle in enumerate(
        np.linspace(0, np.pi / 2, 21)
    ):  # an arc from the first axis to the second: item 10 is in the middle
        rows[n, :2] = np.cos(angle), np.sin(angle)
    collection = service.db.create("arc", encoder="vectors", dim=3)
    ids = [f"a{n:02d}" for n in range(21)]
    collection.add_vectors(ids, rows)
    collection.feedback([vm.Judgement("a00", "first"), vm.Judgement("a20", "second"), vm.Judgement("a19", "first", score=-1.0)])
    told = good(service.client.get("/v1/collections/arc/suggestions", params={"k": 3}))["suggestions"]
    assert told[0]["item"]["id"] == "a10"
    assert told[0]["why"] == "between first and second" or told[0]["why"] == "between second and first"
    assert set(told[0]["concepts"]) == {"first", "second"}
    assert not {"a00", "a19", "a20"} & {one["item"]["id"] for one in told}


def test_suggestions_without_concepts_are_typical_items(service: Service) -> None:
    name = service.points()
    told = good(service.client.get(f"/v1/collections/{name}/suggestions"))["suggestions"]
    assert told
    assert {one["why"] for one in told} == {"typical of many items; no concept has been taught yet"}
    assert len({one["item"]["metadata"]["half"] for one in told}) == 2  # one that would say the same again is left out


# -- samples -----------------------------------------------------------------------------------------------------------------------


def taught(items: list[dict[str, Any]], lesson: dict[str, Any]) -> None:
    """Each concept's marks are of that value, and items of it are left to be found."""
    value = {item["id"]: item["metadata"].get(lesson["name"]) for item in items}
    assert len(lesson["concepts"]) >= 2
    for concept, ids in lesson["concepts"].items():
        assert {value[id] for id in ids} == {concept}
        assert len(set(ids)) == len(ids) <= list(value.values()).count(concept) - 3


def test_the_sample_of_texts_can_be_written_as_it_is(service: Service) -> None:
    told = good(service.client.get("/v1/samples/python-docs", params={"limit": 40}))
    assert len(told["items"]) == 40
    assert all(item["text"] and item["metadata"]["module"] for item in told["items"])
    assert told["encoder"] == "text"
    assert len(told["queries"]) == 4
    assert [one["name"] for one in told["lessons"]] == ["module"]
    taught(told["items"], told["lessons"][0])


def test_the_sample_of_pictures_has_moods_and_colours(service: Service) -> None:
    told = good(service.client.get("/v1/samples/openmoji", params={"limit": 40}))
    assert [item["image"][:8] for item in told["items"]] == ["iVBORw0K"] * 40
    assert {item["metadata"]["colour"] for item in told["items"]} == {"yellow", "orange", "red"} or {
        item["metadata"]["mood"] for item in told["items"]
    } >= {"happy", "sad"}
    refused(service.client.get("/v1/samples/another"), 422)


@pytest.mark.quality
def test_pictures_are_taught_by_mood_and_by_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As somebody does who presses one lesson's button after the other's: both go live, and what nobody marked is found better."""
    items = openmoji.gather(400)
    with vm.open(tmp_path / "db", device="cpu") as db:
        pictures = db.create("pictures", encoder="image")
        pictures.add(items)
        before: Lesson | None = None
        for field in ("mood", "colour"):
            taught = lesson(items, field, LESSONS["openmoji"][field])
            assert taught is not None
            if before is not None:
                pictures.feedback(
                    [vm.Judgement(id, concept=name, score=0.0) for name, ids in before.concepts.items() for id in ids]
                )
            pictures.feedback([vm.Judgement(id, concept=name) for name, ids in taught.concepts.items() for id in ids])
            report = pictures.adapt()
            assert report.decision == "promoted", (field, report.reason)
            shares = [alike(pictures, items, taught, version) for version in (0, report.version)]
            with capsys.disabled():
                print(f"\nby {field}: {shares[0]:.3f} -> {shares[1]:.3f} of the thirty nearest, {report.reason}")
            assert shares[1] > shares[0]
            before = taught


def alike(pictures: vm.Collection, items: list[vm.Item], taught: Lesson, version: int | None) -> float:
    """How many of the thirty nearest of a concept's unmarked items are of that concept."""
    value = {item.id: item.metadata.get(taught.name) for item in items}
    marked = {id for ids in taught.concepts.values() for id in ids}
    asked = [id for id, known in value.items() if known in taught.concepts and id not in marked]
    found = pictures.search_many([vm.Id(id) for id in asked], 30, version=version)
    return float(np.mean([value[hit.id] == value[id] for id, hits in zip(asked, found, strict=True) for hit in hits]))


# -- keys --------------------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_used_listed_and_revoked(service: Service) -> None:
    made = good(
        service.client.post("/v1/keys", json={"name": "page", "scopes": ["read"], "expires": "2999-01-01T00:00:00Z"}), 201
    )
    good(service.client.get("/v1/collections", headers=bearer(made["secret"])))
    [listed] = [key for key in good(service.client.get("/v1/keys"))["keys"] if key["id"] == made["id"]]
    assert "secret" not in listed
    assert listed["scopes"] == ["read"]
    assert listed["expires"].startswith("2999")
    assert good(service.client.delete(f"/v1/keys/{made['id']}"))["revoked"] is not None
    assert service.db.keys.find(made["secret"]) is None


def test_an_admin_of_some_collections_makes_no_keys(service: Service) -> None:
    bound = service.key("admin", collections=["docs"])
    for answer in (
        service.client.get("/v1/keys", headers=bound),
        service.client.post("/v1/keys", json={"name": "wider", "scopes": ["admin"]}, headers=bound),
        service.client.delete(f"/v1/keys/{'0' * 16}", headers=bound),
    ):
        refused(answer, 403)


def test_a_key_that_cannot_be_made_is_refused(service: Service) -> None:
    for body in (
        {"name": "x", "scopes": []},
        {"name": "", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "expires": "2000-01-01T00:00:00Z"},
    ):
        refused(service.client.post("/v1/keys", json=body), 422)
