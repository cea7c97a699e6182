"""Several services over one PostgreSQL, with indexes in files or in a real Milvus: each follows the others, none mixes versions, and
nothing that was acknowledged is lost when one of the three is killed.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from tests import realmilvus
from tests.conftest import Clusters
from tests.postgres import Postgres, running
from tests.realmilvus import RealMilvus
from tests.service_kit import Running, good, started, until
from tests.test_milvus import known, shelf, there
from vecmeta.worker import Worker

SMALL = Clusters(concepts=12, members=12, dim=24, seed=5)
NAME = "c"
PATIENCE = 240.0  # seconds for what other processes do, on a machine that others share
HERE = f"/v1/collections/{NAME}"


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMilvus]:
    """One that is back sooner when it was killed: until its sessions have run out it waits for its former self."""
    with realmilvus.running(tmp_path_factory.mktemp("milvus"), **{"common.session.ttl": 10}) as server:
        yield server


@pytest.fixture
def index(request: pytest.FixtureRequest) -> str:
    """What a database is opened with."""
    return "faiss" if request.param == "faiss" else of_its_own(request.getfixturevalue("milvus_server"))


def of_its_own(server: RealMilvus) -> str:
    """The address of a Milvus, with names for one test's collections; what is not needed goes after a minute."""
    return f"{server.uri}?prefix=t{secrets.token_hex(4)}&grace=60"


def filled(url: str, files: Path, index: str = "faiss") -> None:
    """A collection with enough judgements for an adaptation."""
    with vm.open(url, index=index, device="cpu", files=files) as db:
        c = db.create(NAME, encoder="vectors", dim=SMALL.dim)
        c.add_vectors(SMALL.ids, SMALL.x)
        c.feedback(SMALL.judgements(range(4), 4))


@dataclass
class Searcher:
    """A thread that searches one replica without a pause to speak of."""

    replica: Running
    seed: int
    answers: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)  # when, for which row, what
    errors: list[object] = field(default_factory=list)

    def run(self, done: threading.Event) -> None:
        rng = np.random.default_rng(self.seed)
        while not done.is_set():
            row = int(rng.integers(len(SMALL.x)))
            try:
                answer = self.replica.ask("POST", f"{HERE}/search", {"vector": SMALL.x[row].tolist(), "k": 5})
                if answer.status_code == 200:
                    self.answers.append((time.monotonic(), row, answer.json()))
                else:
                    self.errors.append(answer.text)
            except (OSError, AssertionError) as error:
                self.errors.append(error)
            time.sleep(0.01)


@contextmanager
def searching(*replicas: Running) -> Iterator[list[Searcher]]:
    """A thread for each."""
    done = threading.Event()
    searchers = [Searcher(replica, seed) for seed, replica in enumerate(replicas)]
    threads = [threading.Thread(target=searcher.run, args=(done,)) for searcher in searchers]
    for thread in threads:
        thread.start()
    try:
        yield searchers
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


def of_one_version(c: vm.Collection, row: int, answer: dict[str, Any]) -> None:
    """An answer has the scores that its version gives."""
    z = c.embed(SMALL.x, version=answer["version"])
    for hit in answer["hits"]:
        if hit["id"] in SMALL.ids:
            assert abs(hit["score"] - float(z[row] @ z[SMALL.ids.index(hit["id"])])) < 1e-5


def live(replica: Running) -> int:
    """The version that answers a search."""
    number: int = good(replica.ask("POST", f"{HERE}/search", {"vector": SMALL.x[0].tolist(), "k": 1}))["version"]
    return number


@pytest.mark.parametrize("index", ["faiss", pytest.param("milvus", marks=pytest.mark.timeout(1200))], indirect=True)
def test_two_replicas_follow_each_other(postgres_url: str, tmp_path: Path, index: str) -> None:
    filled(postgres_url, tmp_path / "a", index)
    given: dict[str, Any] = {"data": postgres_url, "workers": 1, "index": index}
    with (
        started(tmp_path / "one", files=str(tmp_path / "a"), **given) as one,
        started(tmp_path / "two", files=str(tmp_path / "b"), **given) as two,  # as on another machine: no files in common
        vm.open(postgres_url, index=index, device="cpu", files=tmp_path / "c") as db,
    ):
        assert [live(replica) for replica in (one, two)] == [0, 0]
        with searching(one, two) as searchers:
            asked = [replica.ask("POST", f"{HERE}/adapt", {"seed": 7}) for replica in (one, two)]
            ids = [answer.json()["id"] for answer in asked]
            assert len(set(ids)) == 1 or [db.jobs.get(id).attempts for id in ids] == [
                1,
                1,
            ]  # the same wish: one job does for both
            version = 0
            for step, replica in enumerate((one, two)):
                ended = db.jobs.wait(
                    good(replica.ask("POST", f"{HERE}/adapt", {"seed": step, "strength": 0.5}), 202)["id"], PATIENCE
                )
                assert ended.error is None
                assert ended.report is not None
                version = ended.report.version or 0
                good(replica.ask("POST", f"{HERE}/versions/{version}/activate"))
                assert live(replica) == version
                other = two if replica is one else one
                until(lambda: live(other) == version, PATIENCE)  # noqa: B023
                good(other.ask("PUT", f"{HERE}/items", {"items": [{"id": f"late{step}", "vector": (-SMALL.x[step]).tolist()}]}))
                found = good(replica.ask("POST", f"{HERE}/search", {"vector": (-SMALL.x[step]).tolist(), "k": 1}))
                assert found["hits"][0]["id"] == f"late{step}"  # written by the one, found by the other at once
            good(one.ask("POST", f"{HERE}/rollback"))
            back = db.collection(NAME).live
            assert back != version
            until(lambda: live(two) == back, PATIENCE)
        c = db.collection(NAME)
        for searcher in searchers:
            assert searcher.errors == []
            assert len({answer["version"] for _, _, answer in searcher.answers}) > 2
            for _, row, answer in searcher.answers[:: max(1, len(searcher.answers) // 60)]:
                of_one_version(c, row, answer)
        jobs = sorted((job.started, job.finished) for job in db.jobs.list() if job.started)
        assert all(before[1] <= after[0] for before, after in pairwise(jobs))  # type: ignore[operator]


@pytest.mark.quality
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("index", ["faiss", "milvus"], indirect=True)
def test_how_soon_a_replica_follows(postgres_url: str, tmp_path: Path, index: str) -> None:
    """20,000 vectors of dimension 384: from the answer that a version is live to the other replica's first answer by it."""
    data = Clusters(concepts=200, members=100, dim=384, seed=1)
    files = str(tmp_path / "files")
    with vm.open(postgres_url, index=index, device="cpu", files=files) as db:
        c = db.create(NAME, encoder="vectors", dim=data.dim)
        c.add_vectors(data.ids, data.x)
        c.feedback(data.judgements(range(6), 5))
        given: dict[str, Any] = {"data": postgres_url, "workers": 0, "files": files, "index": index}
        with started(tmp_path / "one", **given) as one, started(tmp_path / "two", **given) as two:
            for replica in (one, two):
                until(lambda: replica.ask("GET", "/readyz").status_code == 200, PATIENCE)  # noqa: B023
            took, body = [], {"vector": data.x[0].tolist(), "k": 1}
            for seed in range(8):
                version = c.adapt(seed=seed, strength=0.5, activate=False).version
                begin = time.monotonic()
                good(one.ask("POST", f"{HERE}/versions/{version}/activate"))
                lives = time.monotonic()
                until(lambda: good(two.ask("POST", f"{HERE}/search", body))["version"] == version, PATIENCE)  # noqa: B023
                took.append((lives - begin, time.monotonic() - lives))
                good(one.ask("PUT", f"{HERE}/items", {"items": [{"id": "late", "vector": (-data.x[seed]).tolist()}]}))
                found = good(two.ask("POST", f"{HERE}/search", {"vector": (-data.x[seed]).tolist(), "k": 1}))["hits"][0]
                assert (found["id"], round(found["score"], 4)) == ("late", 1.0)
    follow = sorted(after for _, after in took)
    live_after = max(before for before, _ in took)
    kind = index.partition(":")[0]
    print(f"\n{kind}: activate {live_after:.2f} s at most; followed after {follow[4]:.2f} s (median), {follow[-1]:.2f} s at most")
    assert follow[-1] < 1


# -- killed ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """Somebody who keeps on adding, judging and adapting, and remembers what was acknowledged."""

    replica: Running
    rng: np.random.Generator
    number: int = 0
    items: list[str] = field(default_factory=list)
    judged: int = 0
    jobs: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any) -> Any:
        """An answer, or None when it did not come."""
        try:
            answer = self.replica.ask(method, path, body, timeout=20)
        except (OSError, AssertionError):  # cut off
            return None
        return answer.json() if answer.status_code < 300 else None

    def step(self) -> None:
        self.number += 1
        name = f"late{self.number}"
        if (
            self.ask("PUT", f"{HERE}/items", {"items": [{"id": name, "vector": self.rng.normal(size=SMALL.dim).tolist()}]})
            is not None
        ):
            self.items.append(name)
        row = int(self.rng.integers(len(SMALL.x)))
        judgement = {"item": SMALL.ids[row], "concept": f"concept {SMALL.label[row]}", "user": name}
        if self.ask("POST", f"{HERE}/feedback", {"judgements": [judgement]}) is not None:
            self.judged += 1

    def adapt(self) -> None:
        job = self.ask("POST", f"{HERE}/adapt", {"seed": self.number, "strength": 0.5})
        if job is not None:
            self.jobs.append(job["id"])


def agrees(url: str, files: Path, client: Client, index: str) -> None:
    """Nothing acknowledged is lost, and what is live can be searched and is what the catalogue says."""
    with vm.open(url, index=index, device="cpu", files=files) as db:
        c = db.collection(NAME)
        assert {item.id for item in c.get(client.items)} == set(client.items)
        assert sum(j.user is not None for j in c.judgements()) >= client.judged
        assert {job.id for job in db.jobs.list(limit=1000)} >= set(client.jobs)
        versions = c.versions()
        assert [v.number for v in versions if v.live] == [c.live]
        hits = c.search(SMALL.x[0], 10_000)
        assert (hits.version, len(hits)) == (c.live, c.count())
        of_one_version(c, 0, {"version": hits.version, "hits": [hit._asdict() for hit in hits[:20]]})
        if index != "faiss":
            assert in_milvus(c) <= known(c)  # nothing lies there that nobody would find


def in_milvus(c: vm.Collection) -> set[str]:
    """The names of what lies there of a collection, or was left there."""
    return {name for name in there(c) if name.startswith(shelf(c).alias)}


def nothing_left_over(c: vm.Collection) -> None:
    """What lies in Milvus are whole indexes of versions that are there."""
    shelf(c).sweep()
    rows = [shelf(c)._rows.find(version.number) for version in c.versions()]
    assert in_milvus(c) == known(c) == {row.name for row in rows if row is not None and row.ready}


def killed(
    server: Postgres, folder: Path, kill: Callable[[Running], None], times: int, *,
    index: str = "faiss", within: float = 0.8, to_the_end: bool = False,
) -> None:  # fmt: skip
    """Kill something at random moments of an adaptation, so many times, each `within` so many seconds from its beginning.

    After more than a few, or with what survives `to_the_end`, all jobs are seen to come to one.
    """
    url, files = server.new(), folder / "files"
    filled(url, files, index)
    rng = np.random.default_rng(0)
    client: Client | None = None
    attempt = 0
    while attempt < times:
        with started(folder / f"s{attempt}", data=url, files=str(files), workers=1, lease=2.0, index=index) as service:
            client = Client(service, rng) if client is None else client
            client.replica = service
            while attempt < times:
                client.adapt()
                client.step()
                with suppress(vm.StorageError), vm.open(url, device="cpu", files=files) as db:
                    until(lambda: any(job.state not in ("queued",) for job in db.jobs.list(limit=1)), PATIENCE)
                time.sleep(float(rng.random()) * within)
                client.step()
                kill(service)
                attempt += 1
                if service.process.poll() is not None:
                    break
                agrees(url, files, client, index)
            if to_the_end and service.process.poll() is None:
                all_end(url, files, client, index)
        agrees(url, files, client, index)
    if times < 3 or to_the_end:
        return
    with started(folder / "last", data=url, files=str(files), workers=1, lease=2.0, index=index) as service:
        assert client is not None
        client.replica = service
        client.step()
        all_end(url, files, client, index)
    agrees(url, files, client, index)


def all_end(url: str, files: Path, client: Client, index: str) -> None:
    """All jobs come to an end, and leave nothing but versions."""
    with vm.open(url, index=index, device="cpu", files=files) as db:
        for job in client.jobs:
            ended = db.jobs.wait(job, PATIENCE)
            # A job that took three workers down with it is given up, and says so.
            given_up = (ended.error or ("",))[0] in ("interrupted", "conflict")
            assert ended.state in ("live", "kept") or given_up, ended
        if index != "faiss":
            nothing_left_over(db.collection(NAME))


def kill_service(service: Running) -> None:
    """The service and the worker that it started, as when a container is killed."""
    children = service.children()
    service.process.kill()
    service.process.wait()
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


OFTEN = pytest.param(20, id="20 times", marks=[pytest.mark.kills, pytest.mark.timeout(3000)])
TIMES = [pytest.param(2, id="twice"), OFTEN]


@pytest.mark.parametrize("times", TIMES)
def test_a_killed_service_loses_nothing(postgres: Postgres, tmp_path: Path, times: int) -> None:
    killed(postgres, tmp_path, kill_service, times)


@pytest.mark.parametrize("times", TIMES)
def test_a_killed_postgres_loses_nothing(tmp_path: Path, times: int) -> None:
    with running() as server:  # with all that keeps what it acknowledged

        def kill_server(service: Running) -> None:
            server.stop(signal.SIGKILL)
            assert (
                service.ask("POST", f"{HERE}/feedback", {"judgements": [{"item": SMALL.ids[0], "concept": "x"}]}).status_code
                == 503
            )
            server.start()
            until(lambda: service.ask("GET", "/readyz").status_code == 200, PATIENCE)

        killed(server, tmp_path, kill_server, times)


# One takes half a minute: the server waits until its former session has run out.
@pytest.mark.parametrize("times", [pytest.param(1, id="once", marks=pytest.mark.quality), OFTEN])
def test_a_killed_milvus_loses_nothing(postgres: Postgres, milvus_server: RealMilvus, tmp_path: Path, times: int) -> None:
    """While it is away searches are refused and everything else goes on; the adaptation that it was taken from ends once it is back."""
    index = of_its_own(milvus_server)

    def kill_milvus(service: Running) -> None:
        milvus_server.kill()
        body = {"vector": SMALL.x[0].tolist(), "k": 1}
        assert service.ask("POST", f"{HERE}/search", body, timeout=60).status_code == 503
        good(service.ask("POST", f"{HERE}/feedback", {"judgements": [{"item": SMALL.ids[0], "concept": "concept 0"}]}))
        milvus_server.start()
        assert index.startswith(milvus_server.uri)
        until(lambda: service.ask("POST", f"{HERE}/search", body, timeout=60).status_code == 200, PATIENCE)

    killed(postgres, tmp_path, kill_milvus, times, index=index, within=4.0, to_the_end=True)


@pytest.mark.kills
@pytest.mark.timeout(1200)
def test_postgres_killed_under_a_worker_20_times(tmp_path: Path) -> None:
    """Without HTTP in between, so that many kills take little time: one process adapts, another one adds and judges."""
    rng = np.random.default_rng(1)
    items: list[str] = []
    judged = 0
    with running() as server:
        url = server.url()
        filled(url, tmp_path)
        with vm.open(url, device="cpu", files=tmp_path) as one, vm.open(url, device="cpu", files=tmp_path) as two:
            one.collection(NAME).adapt(dry_run=True)  # what it imports is imported
            stop = threading.Event()
            worker = threading.Thread(target=Worker(one, lease=2.0).run, args=(stop,))
            worker.start()
            c = two.collection(NAME)
            try:
                for n in range(20):
                    job = two.jobs.submit(NAME, params={"seed": n, "strength": 0.5})
                    until(lambda: two.jobs.get(job.id).state != "queued", PATIENCE)  # noqa: B023
                    end = time.monotonic() + float(rng.random()) * 0.8
                    while time.monotonic() < end:
                        name, row = f"late{len(items)}", int(rng.integers(len(SMALL.x)))
                        c.add_vectors([name], rng.normal(size=(1, SMALL.dim)))
                        items.append(name)
                        c.feedback([vm.Judgement(SMALL.ids[row], concept=f"concept {SMALL.label[row]}", user=name)])
                        judged += 1
                    server.stop(signal.SIGKILL)
                    with pytest.raises(vm.StorageUnavailable):
                        c.add_vectors(["never"], SMALL.x[:1])
                    server.start()
                    ended = two.jobs.wait(job.id, PATIENCE)
                    assert ended.state in ("live", "kept"), ended
                    assert {item.id for item in c.get(items)} == set(items)
                    assert sum(j.user is not None for j in c.judgements()) == judged
                    assert [v.number for v in c.versions() if v.live] == [c.live]
                    hits = c.search_many([SMALL.x[0]], 10_000, version=c.live)[0]
                    assert (hits.version, len(hits)) == (c.live, c.count())
                    of_one_version(c, 0, {"version": hits.version, "hits": [hit._asdict() for hit in hits[:20]]})
            finally:
                stop.set()
                worker.join(60)
    print(f"\n20 kills, {len(items)} items and {judged} judgements acknowledged, none lost")
