"""Versions that go live while others search: nobody waits, nobody sees two versions, nothing runs on after the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.index import store
from vecmeta.serving import Serving


def waited(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def openers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vecmeta-open")]


class Gate:
    """`store.load`, which waits until it is let through, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let, self.failures, self.calls = threading.Event(), 0, 0
        self._load = store.load
        monkeypatch.setattr(store, "load", self)

    def __call__(self, folder: Path) -> object:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise vm.StorageError("the disk is on fire")
        assert self.let.wait(20)
        return self._load(folder)


@pytest.fixture
def pair(taught: vm.Collection, db: vm.Database, clusters: Clusters) -> Iterator[tuple[vm.Collection, vm.Collection]]:
    """The same collection twice, as two processes have it; version 1 is stored, 0 is live and was searched in both."""
    assert taught.adapt(activate=False).version == 1
    with vm.open(db.url, device="cpu") as again:
        other = again.collection("clusters")
        assert taught.search(clusters.x[0], 3).version == other.search(clusters.x[0], 3).version == 0
        yield taught, other


def test_a_swap_by_somebody_else_makes_no_search_wait(
    pair: tuple[vm.Collection, vm.Collection], clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, other = pair
    c.activate(1)
    gate = Gate(monkeypatch)
    before = other.search(clusters.x[0], 5)
    assert before.version == 0
    assert (other.live, other.ready) == (1, True)  # no search waits: that is what ready means
    # While it is opened, what answers follows the writes of either side, and a write waits no more than a search.
    other.add_vectors(["mine"], clusters.x[7:8])
    c.add_vectors(["theirs"], clusters.x[9:10])
    assert "mine" in {h.id for h in other.search(clusters.x[7], 2)}
    assert "theirs" in {h.id for h in other.search(clusters.x[9], 2)}
    assert other.search(clusters.x[9], 2).version == 0
    np.testing.assert_array_equal(other.embed(clusters.x[:3]), other.embed(clusters.x[:3], version=0))
    assert len(openers()) == 1
    assert waited(lambda: gate.calls > 0)  # its thread may be slow to start
    assert gate.calls == 1
    gate.let.set()
    assert waited(lambda: other.search(clusters.x[9], 2).version == 1)
    assert gate.calls == 1
    found = other.search(clusters.x[9], 2)
    assert "theirs" in {h.id for h in found}
    assert found == c.search(clusters.x[9], 2)
    assert len(other.search(clusters.x[0], 1000)) == c.count() == 402


def test_a_search_that_names_the_new_version_waits_for_it(
    pair: tuple[vm.Collection, vm.Collection], clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, other = pair
    c.activate(1)
    gate = Gate(monkeypatch)
    found: list[vm.Hits] = []
    waiting = threading.Thread(target=lambda: found.append(other.search(clusters.x[0], 3, version=1)))
    waiting.start()
    assert other.search(clusters.x[0], 3).version == 0
    waiting.join(0.1)
    assert waiting.is_alive()
    gate.let.set()
    waiting.join(20)
    assert [hits.version for hits in found] == [1]
    assert gate.calls == 1  # the thread and the search opened it once


def test_what_fails_beside_the_searches_is_met_by_the_next_one(
    pair: tuple[vm.Collection, vm.Collection], clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, other = pair
    c.activate(1)
    gate = Gate(monkeypatch)
    gate.failures = 2
    gate.let.set()
    assert other.search(clusters.x[0], 3).version == 0
    assert waited(lambda: not openers())
    with pytest.raises(vm.StorageError, match="on fire"):
        other.search(clusters.x[0], 3)
    assert gate.failures == 0
    assert other.search(clusters.x[0], 3).version == 1  # tried again, in front
    c.activate(0)
    assert waited(lambda: other.search(clusters.x[0], 3).version == 0)


def test_swaps_of_this_process_are_seen_by_its_next_search(taught: vm.Collection, clusters: Clusters) -> None:
    assert taught.search(clusters.x[0], 3).version == 0
    assert taught.adapt().version == 1
    assert taught.search(clusters.x[0], 3).version == 1
    for strength in (0.3, 0.4, 0.5):  # more versions than are held
        number = taught.adapt(strength=strength, activate=False).version
        assert number is not None
        taught.activate(number)
        assert taught.search(clusters.x[0], 3).version == number
    for number in (3, 2, 1, 0):
        assert taught.rollback() == number
        assert taught.search(clusters.x[0], 3).version == number
    assert not openers()


def test_a_rollback_opens_before_it_swaps(taught: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    taught.adapt()
    taught.close()
    assert taught.search(clusters.x[0], 3).version == 1
    gate = Gate(monkeypatch)
    gate.failures = 1
    with pytest.raises(vm.StorageError, match="on fire"):
        taught.rollback()
    assert taught.live == 1
    back: list[int] = []
    rolling = threading.Thread(target=lambda: back.append(taught.rollback()))
    rolling.start()
    assert waited(lambda: gate.calls == 2)
    assert taught.live == 1
    assert taught.search(clusters.x[0], 3).version == 1
    gate.let.set()
    rolling.join(20)
    assert back == [0]
    assert taught.search(clusters.x[0], 3).version == 0


def test_what_answers_is_held_however_many_versions_are_asked_for(taught: vm.Collection, clusters: Clusters) -> None:
    for strength in (0.2, 0.3, 0.4, 0.5):
        taught.adapt(strength=strength, activate=False)
    assert taught.search(clusters.x[0], 3).version == 0
    for version in (1, 2, 3, 4):
        assert taught.search(clusters.x[0], 3, version=version).version == version
        assert taught.ready
    assert len(taught._servings._held) == 3


def test_ready_and_warm(taught: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    taught.close()
    assert not taught.ready
    gate = Gate(monkeypatch)
    warming = threading.Thread(target=taught.warm)
    warming.start()
    assert waited(lambda: gate.calls == 1)
    assert not taught.ready
    gate.let.set()
    warming.join(20)
    assert waited(lambda: taught.ready)
    taught.warm()
    assert taught.search(clusters.x[0], 3).version == 0
    assert gate.calls == 1


def test_not_ready_while_all_of_it_is_indexed(db: vm.Database, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty index that has to take in what another process wrote at once."""
    c = db.create("c", encoder="vectors", dim=clusters.dim)
    c.warm()
    assert c.ready
    with vm.open(db.url, device="cpu") as again:
        again.collection("c").add_vectors(clusters.ids, clusters.x)
    index = type(c._servings.shelf.scratch())
    add, seen = index.add, list[bool]()

    def watched(self: object, *args: object) -> None:
        seen.append(c.ready)
        add(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "add", watched)
    assert len(c.search(clusters.x[0], 1000)) == 400
    assert seen
    assert not any(seen)
    assert c.ready


def test_closing_ends_the_thread(
    pair: tuple[vm.Collection, vm.Collection], clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a build: it is broken off at its next page, and nothing of it is held."""
    c, other = pair
    c.activate(1)
    paged, leave, finished = threading.Event(), threading.Event(), list[bool]()
    catch_up = other._servings._catch_up

    def slowly(serving: Serving) -> None:
        paged.set()
        assert leave.wait(20)
        catch_up(serving)
        finished.append(True)

    monkeypatch.setattr(store, "load", lambda folder: None)  # no files: it has to be built
    monkeypatch.setattr(other._servings, "_catch_up", slowly)
    assert other.search(clusters.x[0], 3).version == 0
    assert paged.wait(20)
    closing = threading.Thread(target=other.close)
    closing.start()
    time.sleep(0.05)
    leave.set()
    closing.join(20)
    assert not closing.is_alive()
    assert not finished
    assert not openers()
    assert not other.ready
    monkeypatch.undo()
    assert other.search(clusters.x[0], 3).version == 1  # and it opens again


def test_a_program_that_ends_in_the_middle_is_not_held_up(taught: vm.Collection, db: vm.Database) -> None:
    taught.adapt(activate=False)
    code = """
import sys, time, numpy as np, vecmeta as vm
from vecmeta.index import store
load = store.load
db, other = vm.open(sys.argv[1], device="cpu"), vm.open(sys.argv[1], device="cpu")
mine, theirs = db.collection("clusters"), other.collection("clusters")
assert mine.search(np.eye(48)[0], 3).version == 0
theirs.activate(1)
store.load = lambda folder: time.sleep(0.5)
assert mine.search(np.eye(48)[0], 3).version == 0
print("end", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, db.url], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


SECOND = """
import sys, vecmeta as vm
with vm.open(sys.argv[1], device="cpu") as db:
    c = db.collection("clusters")
    print("ready", flush=True)
    for line in sys.stdin:
        number = c.adapt().version if line == "adapt\\n" else c.activate(int(line)) or int(line)
        print(number, flush=True)
"""


def test_another_process_adapts_and_activates_while_this_one_searches(
    taught: vm.Collection, clusters: Clusters, db: vm.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread goes on to be answered while a version is opened, sees old and then new, and every answer is of one version."""
    assert taught.adapt(strength=0.3, activate=False).version == 1
    gate = Gate(monkeypatch)
    command = [sys.executable, "-c", SECOND, db.url]
    taught.search(clusters.x[0], 5)
    done = threading.Event()
    answers: list[list[tuple[int, vm.Hits]]] = [[] for _ in range(3)]
    errors: list[BaseException] = []

    def searching(place: int) -> None:
        rng = np.random.default_rng(place)
        try:
            while not done.is_set():
                row = int(rng.integers(len(clusters.x)))
                answers[place].append((row, taught.search(clusters.x[row], 5)))
                time.sleep(0.01)
        except BaseException as error:
            errors.append(error)

    def go_on(version: int) -> bool:
        """Whether each thread is answered ten times more, by this version at the last."""
        before = [len(part) for part in answers]
        return waited(
            lambda: all(
                len(part) >= had + 10 and part[-1][1].version == version for part, had in zip(answers, before, strict=True)
            )
        )

    threads = [threading.Thread(target=searching, args=(place,)) for place in range(3)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        for thread in threads:
            thread.start()
        try:
            other.stdin.write("adapt\n")
            other.stdin.flush()
            assert other.stdout.readline() == "2\n"
            assert waited(lambda: gate.calls > 0)
            assert go_on(0)  # the gate is closed: nobody waits for what is being opened
            gate.let.set()
            assert go_on(2)
            other.stdin.write("1\n")
            other.stdin.flush()
            assert other.stdout.readline() == "1\n"
            assert go_on(1)
        finally:
            done.set()
            gate.let.set()
            for thread in threads:
                thread.join()
            other.stdin.close()
        assert other.wait(30) == 0
    assert errors == []
    vectors = {version: taught.embed(clusters.x, version=version) for version in (0, 1, 2)}
    for part in answers:
        order = [hits.version for _, hits in part]
        assert [v for n, v in enumerate(order) if n == 0 or order[n - 1] != v] == [0, 2, 1]
        for row, hits in part:
            scores = vectors[hits.version] @ vectors[hits.version][row]
            for hit in hits:
                assert abs(hit.score - scores[clusters.ids.index(hit.id)]) < 1e-5
            assert abs(hits[4].score - np.sort(scores)[-5]) < 1e-5


def test_a_candidate_that_waits_to_go_live(taught: vm.Collection, clusters: Clusters, db: vm.Database) -> None:
    report = taught.adapt(activate=False)
    assert (report.decision, report.version, taught.live) == ("promoted", 1, 0)
    assert report.reason.endswith("It is not live yet, as was asked: activate(1) makes it so.")
    assert taught.report(1).reason == taught.versions()[1].reason == report.reason
    assert "building" in report.seconds
    assert "swapping" not in report.seconds
    assert taught.search(clusters.x[0], 3).version == 0
    assert store.load(db.folder / "index" / "1" / "v1") is not None  # its files are there
    taught.add_vectors(["late"], clusters.x[5:6])
    taught.activate(1)
    hits = taught.search(clusters.x[5], 2)
    assert hits.version == 1
    assert {h.id for h in hits} == {"late", clusters.ids[5]}
    taught.delete(["late"])
    again = taught.adapt(activate=False)  # the same again, which is live already
    assert (again.version, taught.live) == (1, 1)
    assert "not live" not in again.reason
