"""Searches, writes and adaptations at the same time: no error, no answer that mixes versions, nothing lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.types import Vectors

ADAPTATIONS = 20


def test_four_threads_search_while_twenty_adaptations_run(tmp_path: Path) -> None:
    data = Clusters(concepts=12, members=12, dim=24, seed=5)
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=data.dim)
        c.add_vectors(data.ids, data.x)
        c.feedback(data.judgements(range(4), 4))
        c.adapt(dry_run=True)  # what it imports is imported before anybody searches
        done = threading.Event()
        answers: list[list[tuple[int, vm.Hits]]] = [[] for _ in range(4)]
        errors: list[BaseException] = []

        def searching(place: int) -> None:
            rng = np.random.default_rng(place)
            try:
                while not done.is_set():
                    row = int(rng.integers(len(data.x)))
                    answers[place].append((row, c.search(data.x[row], 5)))
                    time.sleep(0.01)  # four threads that never pause leave the interpreter to nobody else
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=searching, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        rng = np.random.default_rng(9)
        for _ in range(ADAPTATIONS):
            row = int(rng.integers(len(data.x)))
            c.feedback([vm.Judgement(data.ids[row], concept=f"concept {data.label[row]}")])
            report = c.adapt(seed=int(rng.integers(1000)))
            if report.decision == "kept" and report.version is not None:
                c.activate(report.version)  # every adaptation is to be a swap
        time.sleep(0.2)
        done.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert c.live >= ADAPTATIONS
        seen = {hits.version for part in answers for _, hits in part}
        assert len(seen) > 5, seen
        vectors: dict[int, Vectors] = {version: c.embed(data.x, version=version) for version in seen}
        for part in answers:
            assert part
            for row, hits in part:
                z = vectors[hits.version]
                assert len(hits) == 5
                scores = z @ z[row]
                for hit in hits:
                    # 1e-5: one query at a time and all at once are rounded differently.
                    assert abs(hit.score - scores[data.ids.index(hit.id)]) < 1e-5
                assert abs(hits[4].score - np.sort(scores)[-5]) < 1e-5  # the best five of that version


def test_writes_during_an_adaptation_are_in_the_new_version(tmp_path: Path) -> None:
    """At each stage something is added, replaced and deleted; the candidate goes live with all of it."""
    data = Clusters()
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=data.dim)
        c.add_vectors(data.ids, data.x)
        c.feedback(data.judgements(range(6), 5))
        rng = np.random.default_rng(2)
        late: dict[str, Vectors] = {}
        gone: list[str] = []
        spare = [id for id in data.ids if id not in {j.item for j in c.judgements()}]
        live = []

        def write(stage: str, done: int, total: int) -> None:
            name = f"{stage} {len(late)}"
            late[name] = late[spare[-1]] = np.asarray(rng.normal(size=data.dim), np.float32)
            c.add_vectors([name, spare.pop()], np.stack([late[name]] * 2))
            gone.append(spare.pop())
            c.delete(gone[-1:])
            live.append(c.search(late[name], 2))  # and it is found at once under the version that is live now

        report = c.adapt(progress=write)
        assert report.decision == "promoted", report.reason
        assert all(hits.version == 0 and hits[0].score > 1 - 1e-5 for hits in live)
        assert len(live) >= 5
        for name, vector in late.items():
            hits = c.search(vector, 2)
            assert hits.version == 1
            assert name in {h.id for h in hits}
            assert hits[0].score > 1 - 1e-5
        everything = {h.id for h in c.search(data.x[0], 1000)}
        assert not everything & set(gone)
        assert len(everything) == c.count() == len(data.ids) + len(live) - len(gone)


def test_threads_that_add_and_delete_lose_nothing(tmp_path: Path) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=8)
        errors: list[BaseException] = []

        def work(place: int) -> None:
            rng = np.random.default_rng(place)
            try:
                for step in range(30):
                    ids = [f"{place}-{step}-{n}" for n in range(5)]
                    c.add_vectors(ids, rng.normal(size=(5, 8)))
                    assert c.delete(ids[:2]) == 2
                    assert c.search(vm.Id(ids[4]), 3)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert c.count() == len(c.search(np.ones(8), 1000)) == 4 * 30 * 3


def test_two_adaptations_at_once_take_turns(tmp_path: Path) -> None:
    data = Clusters()
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=data.dim)
        c.add_vectors(data.ids, data.x)
        c.feedback(data.judgements(range(6), 5))
        reports: list[vm.Report] = []
        threads = [threading.Thread(target=lambda: reports.append(c.adapt())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [r.version for r in reports] == [1, 1, 1]
        assert len(c.versions()) == 2
