"""Fine-tuning as a job of the service, a process with a worker of its own: progress, cancel, killed and gone on, and what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vecmeta as vm
from tests.service_kit import Running, answer_of, fill, good, started, until
from tests.tinymodels import tiny_text, topic_texts
from vecmeta.catalogue.jobs import FINISHED

pytestmark = pytest.mark.usefixtures("one_thread")

EACH = 25
STEPS = 150
CONFIG: dict[str, Any] = {"rate": 3e-3, "steps": STEPS, "pairs": 12, "measurements": 15, "patience": 1000}
WISH: dict[str, Any] = {"mode": "full", "field": "topic", "config": CONFIG}
DOCS = "/v1/collections/docs"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with texts, to be copied."""
    place = tmp_path_factory.mktemp("service-finetune")
    model = tiny_text(place / "model")
    with vm.open(place / "db", device="cpu") as db:
        docs = db.create("docs", encoder=f"hf:{model}")
        texts, labels = topic_texts(EACH)
        docs.add([vm.Item(f"i{n}", x, {"topic": y}) for n, (x, y) in enumerate(zip(texts, labels, strict=True))])
        fill(db, "points")
    return place / "db"


@contextmanager
def served(filled: Path, folder: Path) -> Iterator[Running]:
    shutil.copytree(filled, folder)
    with started(folder, workers=1, lease=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def running(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(filled, tmp_path_factory.mktemp("running") / "db") as running:
        yield running


@pytest.fixture
def untouched(filled: Path, tmp_path: Path) -> Iterator[Running]:
    """One in which nothing was done yet."""
    with served(filled, tmp_path / "untouched") as running:
        yield running


def asked(running: Running, wish: dict[str, Any], collection: str = "docs") -> str:
    """Ask for a fine-tuning; the job's id."""
    job: str = good(running.ask("POST", f"/v1/collections/{collection}/finetune", wish), 202)["id"]
    return job


def job_of(running: Running, job: str) -> dict[str, Any]:
    found: dict[str, Any] = good(running.ask("GET", f"/v1/jobs/{job}"))
    return found


def steps_taken(job: dict[str, Any]) -> int:
    return job["done"] if job["state"] == "adapting" and job["total"] == STEPS else 0


def test_progress_until_it_is_live(untouched: Running) -> None:
    running = untouched
    job = asked(running, WISH)
    head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {running.secret}\r\n\r\n"
    text = answer_of(running.raw(head.encode(), 240)).text
    events = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
    taken = [steps_taken(event) for event in events if steps_taken(event)]
    assert len(taken) >= 3
    assert taken == sorted(taken)
    left = [event["eta"] for event in events if steps_taken(event)]
    assert None not in left  # nothing like it was done before: it goes by the steps that were taken
    assert left[-1] < left[0]
    states = list(dict.fromkeys(event["state"] for event in events))
    assert states[-1] == "live", events[-1]
    assert states.index("adapting") < states.index("live")
    report = events[-1]["report"]
    assert report["decision"] == "promoted"
    versions = good(running.ask("GET", f"{DOCS}/versions"))["versions"]
    assert [v["encoder"].partition("@")[0] for v in versions] == ["tiny", "tiny-ft"]
    found = good(running.ask("POST", f"{DOCS}/search", {"text": "bread soup", "k": 3, "version": 1}))
    assert found["version"] == 1
    assert len(found["hits"]) == 3


def test_a_cancelled_one_leaves_nothing(running: Running) -> None:
    before = good(running.ask("GET", f"{DOCS}/versions"))
    job = asked(running, {**WISH, "seed": 1})
    until(lambda: steps_taken(job_of(running, job)) > 0, 120)
    good(running.ask("POST", f"/v1/jobs/{job}/cancel"))
    until(lambda: job_of(running, job)["state"] in FINISHED, 60)
    ended = job_of(running, job)
    assert (ended["state"], ended["report"], ended["error"]) == ("cancelled", None, None)
    assert good(running.ask("GET", f"{DOCS}/versions")) == before


def test_a_killed_one_goes_on_to_the_same_result(running: Running, filled: Path, tmp_path: Path) -> None:
    wish = {**WISH, "seed": 2, "activate": False}
    shutil.copytree(filled, tmp_path / "db")
    with vm.open(tmp_path / "db", device="cpu") as db:
        db.collection("docs").finetune(**wish)
        expected = db.collection("docs").versions()[-1].encoder
    job = asked(running, wish)
    until(lambda: steps_taken(job_of(running, job)) > 50, 240)
    (worker,) = running.workers()
    os.kill(worker, signal.SIGKILL)
    seen: list[int] = []

    def ended() -> bool:
        now = job_of(running, job)
        if now["attempts"] == 2 and steps_taken(now):
            seen.append(steps_taken(now))
        return now["state"] in FINISHED

    until(ended, 240)
    done = job_of(running, job)
    assert done["error"] is None
    assert done["attempts"] == 2
    assert min(seen) > 30  # from a checkpoint, not from the beginning
    number = done["report"]["version"]
    versions = {v["number"]: v for v in good(running.ask("GET", f"{DOCS}/versions"))["versions"]}
    assert versions[number]["encoder"] == expected
    assert versions[number]["live"] is False


def test_own_vectors_have_no_contents(running: Running) -> None:
    job = asked(running, {"mode": "features"}, "points")
    until(lambda: job_of(running, job)["state"] in FINISHED, 60)
    ended = job_of(running, job)
    assert ended["state"] == "failed"
    assert ended["error"]["error"] == "invalid_config"
    assert "holds own vectors, and no contents" in ended["error"]["detail"]


def test_nothing_to_learn_from_says_so(running: Running) -> None:
    job = asked(running, {"mode": "features", "field": "colour"})
    until(lambda: job_of(running, job)["state"] in FINISHED, 60)
    ended = job_of(running, job)
    assert ended["state"] == "failed"
    assert "no item has a metadata field 'colour'; fields: topic" in ended["error"]["detail"]
