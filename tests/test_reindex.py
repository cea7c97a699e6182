"""Re-indexing under a new head: the graph is kept, what is written meanwhile too, and a graph that is not good enough is made anew."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vecmeta as vm
from tests.conftest import Clusters, index_files
from tests.service_kit import until
from vecmeta import reindex, serving, threads, upkeep
from vecmeta.catalogue.items import Page
from vecmeta.index import store
from vecmeta.index.faiss_index import FaissIndex
from vecmeta.meta.head import CHUNK, IdentityHead, Memory, MemoryHead, Projector
from vecmeta.meta.projecting import projector
from vecmeta.shelves import files
from vecmeta.types import Vectors
from vecmeta.worker import Worker


@pytest.fixture
def linked(taught: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> vm.Collection:
    """400 items, all of them in a graph."""
    assert FaissIndex.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(FaissIndex.__init__.__kwdefaults__, "hnsw_from", 100)
    taught.close()
    for path in index_files(taught).folder.rglob("*.*"):
        path.unlink()
    with pytest.warns(UserWarning, match="deleted the damaged index"):
        taught.settle()
    assert graph_of(taught) == (400, 0)
    return taught


def index_of(c: vm.Collection) -> FaissIndex:
    index = c._servings.warm().index
    assert isinstance(index, FaissIndex)
    return index


def graph_of(c: vm.Collection) -> tuple[int, int]:
    """Rows linked and pending."""
    return index_of(c)._state.store.linked, index_of(c).pending


def agrees(c: vm.Collection, clusters: Clusters) -> None:
    """The live index holds just the catalogue's items, each under the live head, and finds what exact search does."""
    index, keys = index_of(c), c._items.keys()
    assert index.keys().tolist() == keys.tolist()
    _, base, ids = c._items.vectors(keys)
    z = c._servings.warm().head.project(base)
    np.testing.assert_allclose(index.vectors(keys), z, atol=1e-5)
    queries = clusters.x[:20]
    truth = np.sort(c.embed(queries) @ z.T, axis=1)[:, ::-1][:, :5]
    for hits, best in zip(c.search_many(list(queries), 5), truth, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(best.tolist(), abs=1e-4)
        assert {hit.id for hit in hits} <= set(ids)


def test_the_graph_is_kept_and_the_report_says_so(linked: vm.Collection, clusters: Clusters) -> None:
    links = index_of(linked)._state.store._index.hnsw.neighbors  # type: ignore[attr-defined]
    report = linked.adapt()
    assert (report.decision, report.indexing) == ("promoted", "kept")
    assert report.metrics["recall"] >= reindex.FLOOR
    assert graph_of(linked) == (400, 0)
    assert index_of(linked)._state.store._index.hnsw.neighbors.size() == links.size()  # type: ignore[attr-defined]
    agrees(linked, clusters)
    assert vm.Report.from_dict(report.to_dict()) == report
    assert linked.report(1).indexing == "kept"
    linked.rollback()
    agrees(linked, clusters)


def test_without_a_graph_one_is_built_if_it_takes_one(taught: vm.Collection, clusters: Clusters) -> None:
    report = taught.adapt()
    assert (report.decision, report.indexing) == ("promoted", "built")
    assert "recall" not in report.metrics
    agrees(taught, clusters)
    assert taught.adapt(dry_run=True).indexing == ""


def test_a_graph_that_finds_too_little_is_made_anew_beside_the_searches(
    linked: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindex, "FLOOR", 1.1)
    report = linked.adapt()
    assert (report.decision, report.indexing) == ("promoted", "rebuilding")
    assert report.metrics["recall"] <= 1
    before = index_of(linked)._state.store
    assert index_of(linked).pending == 400
    assert linked.search(clusters.x[0], 3).version == 1  # answered by what there is, and begins it
    for thread in threading.enumerate():
        if thread.name == "vecmeta-keep-1":
            thread.join(20)
    assert graph_of(linked) == (400, 0)
    assert index_of(linked)._state.store is not before
    agrees(linked, clusters)


def test_another_process_makes_it_anew_too(
    linked: vm.Collection, clusters: Clusters, db: vm.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files say that it is due."""
    monkeypatch.setattr(reindex, "FLOOR", 1.1)
    assert linked.adapt().indexing == "rebuilding"
    linked.close()
    with vm.open(db.url, device="cpu") as other:
        c = other.collection("clusters")
        assert index_of(c).pending == 400
        c.settle()
        assert graph_of(c) == (400, 0)
        agrees(c, clusters)


@pytest.mark.parametrize("writes", [1, 3, 100])
def test_an_index_that_is_opened_while_others_write_keeps_its_graph(
    linked: vm.Collection, clusters: Clusters, db: vm.Database, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """What is in the index and what is in the catalogue are compared at one revision, not one after the other."""
    linked.close()
    catch_up, numbers, written = files.FileShelf.catch_up, iter(range(writes)), list[int]()
    with vm.open(db.url, device="cpu") as other:
        c = other.collection("clusters")

        def and_then_somebody_writes(shelf: files.FileShelf, *given: object) -> bool:
            done = catch_up(shelf, *given)  # type: ignore[arg-type]
            number = next(numbers, None) if shelf is c._servings.shelf else None
            if number is not None:
                written.append(number)
                linked.add_vectors([f"late {number}"], clusters.x[number][None])
            return done

        monkeypatch.setattr(files.FileShelf, "catch_up", and_then_somebody_writes)
        assert graph_of(c)[0] == 400
        numbers = iter(())
        c.search(clusters.x[0], 1)
        assert len(index_of(c)) == 400 + len(written)
        agrees(c, clusters)


def test_files_that_were_written_a_moment_ago_are_not_too_new(
    linked: vm.Collection, clusters: Clusters, db: vm.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process adds items and writes its files between the look at the catalogue and the look at the files."""
    load = store.load

    def after_somebody_wrote(folder: Path) -> object:
        monkeypatch.setattr(store, "load", load)
        linked.add_vectors(["late"], clusters.x[:1])
        linked.settle()
        linked.close()
        return load(folder)

    linked.search(clusters.x[0], 1)
    monkeypatch.setattr(store, "load", after_somebody_wrote)
    with vm.open(db.url, device="cpu") as other:
        c = other.collection("clusters")
        assert graph_of(c) == (401, 0)
        agrees(c, clusters)


def test_a_worker_links_what_waits_once_a_job_is_done(linked: vm.Collection, clusters: Clusters, db: vm.Database) -> None:
    linked.close()
    stop = threading.Event()
    with vm.open(db.url, device="cpu") as other:
        c = other.collection("clusters")
        worker = threading.Thread(target=lambda: Worker(other).run(stop))
        worker.start()
        try:
            for round in range(3):
                linked.add_vectors([f"late {round} {n}" for n in range(10)], clusters.x[10 * round : 10 * round + 10])
                job = other.jobs.submit("clusters", params={"seed": round, "strength": 0.5})
                assert other.jobs.wait(job.id, 30).state == "live"
                until(lambda: graph_of(c) == (410 + 10 * round, 0))  # noqa: B023
        finally:
            stop.set()
            worker.join(30)
        assert c._servings.answering == 3
        agrees(c, clusters)


def test_writes_and_deletes_while_it_is_made_are_kept(linked: vm.Collection, clusters: Clusters) -> None:
    stages = []

    def progress(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if stage == "building" and done == total and stages.count("building") == 2:
            linked.add_vectors(["late", clusters.ids[3]], clusters.x[[0, 1]])
            linked.delete(clusters.ids[20:30])

    assert linked.adapt(progress=progress).indexing == "kept"
    assert linked.count() == 391
    agrees(linked, clusters)
    assert linked.search(clusters.x[0], 2)[0].id in ("late", clusters.ids[0])


def test_rows_that_are_dead_or_wait_in_the_live_graph(linked: vm.Collection, clusters: Clusters) -> None:
    linked.delete(clusters.ids[40:60])
    linked.add_vectors(clusters.ids[60:70], clusters.x[70:80])
    linked.add_vectors([f"new{n}" for n in range(30)], clusters.x[:30])
    assert linked.adapt().indexing == "kept"
    agrees(linked, clusters)
    linked.settle()
    assert graph_of(linked)[1] == 0
    agrees(linked, clusters)


def test_cancelled_on_the_way_it_leaves_nothing(linked: vm.Collection, clusters: Clusters) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "building" and done:
            raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled):
        linked.adapt(progress=progress)
    assert (linked.live, len(linked.versions())) == (0, 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vecmeta-project")]
    agrees(linked, clusters)


def test_files_are_there_before_the_swap_where_nobody_searches_and_after_it_where_somebody_does(
    linked: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SAVE_AFTER", 0)
    written: list[int] = []
    activate = linked._versions.activate

    def noted(*given: object) -> object:
        written.append(len(list(Path(index_files(linked).files(int(str(given[0])))).glob("r*"))))
        return activate(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(linked._versions, "activate", noted)
    linked.adapt()
    linked.search(clusters.x[0], 1)
    linked.feedback(clusters.judgements(range(6, 9), 5))
    assert linked.adapt().version == 2
    assert written == [1, 0]
    linked.settle()
    assert list(index_files(linked).files(2).glob("r*"))


def test_what_is_written_while_the_graph_is_copied_is_not_taken_for_what_was_read(
    linked: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The items are read as of one moment, and the graph is copied a little later: what came between is brought up to date afterwards."""
    fork = FaissIndex.fork

    def late(index: FaissIndex) -> FaissIndex | None:
        linked.add_vectors(["new", clusters.ids[0]], np.stack([clusters.x[5], clusters.x[300]]))
        linked.delete([clusters.ids[1]])
        return fork(index)

    linked.search(clusters.x[0], 1)
    monkeypatch.setattr(FaissIndex, "fork", late)
    report = linked.adapt()
    assert (report.decision, report.indexing) == ("promoted", "kept")
    assert linked.count() == 400
    agrees(linked, clusters)
    assert {"new", clusters.ids[5]} <= {hit.id for hit in linked.search(clusters.x[5], 10)}


def test_an_empty_collection_has_an_empty_index_under_a_new_head(db: vm.Database) -> None:
    c = db.create("none", encoder="vectors", dim=24)
    made = reindex.reindexed(c._items, projector(head_of(1.0, linear=False)), index_of(c), lambda: FaissIndex(24), None)
    assert (len(made.index), made.how) == (0, "built")


def test_files_of_versions_that_nobody_needs_are_gone_at_once_and_deleted_beside(
    linked: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, delete, go_on = index_files(linked), files._delete, threading.Event()
    linked.adapt()
    linked.close()
    there = {path.name for path in shelf.folder.iterdir()}
    assert there == {"v0", "v1"}
    (shelf.folder / ".gone-whoever put it aside").mkdir()
    (shelf.files(7) / "r1").mkdir(parents=True)

    def late(folders: list[Path]) -> None:
        assert go_on.wait(20)
        delete(folders)

    monkeypatch.setattr(files, "_delete", late)
    shelf.prune({0, 1})
    assert {path.name for path in shelf.folder.iterdir() if not path.name.startswith(".gone-")} == there
    assert len(list(shelf.folder.iterdir())) == 4  # put aside, not deleted yet
    (shelf.files(7) / "r2").mkdir(parents=True)  # it is made anew: that is not what was put aside
    go_on.set()
    linked.close()  # waits for it
    assert {path.name for path in shelf.folder.iterdir()} == there | {"v7"}
    assert [path.name for path in shelf.files(7).iterdir()] == ["r2"]


# -- what it is made of


def head_of(strength: float, linear: bool, dim: int = 24, slots: int = 30) -> MemoryHead:
    rng = np.random.default_rng(3)

    def some(*shape: int, scale: float = 1.0) -> Vectors:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    matrix = some(dim, dim, scale=0.1) if linear else None
    memory = Memory(some(slots, dim, scale=2), some(slots), some(slots, dim, scale=0.4), some(slots) > 0, 0.6, matrix)
    return MemoryHead(memory, some(dim, scale=0.05), strength)


@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("linear", [False, True])
def test_the_projector_does_what_the_head_does(strength: float, linear: bool) -> None:
    head = head_of(strength, linear)
    rows = np.random.default_rng(4).standard_normal((CHUNK + 5, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows.flags.writeable = False  # as they come from the database
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        made = projector(head)
        for some in (rows, rows[:1], rows[:0]):
            found = made.project(some)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, head.project(some), atol=2e-6)
    torch.set_num_threads(before)
    identity = projector(IdentityHead(24))
    np.testing.assert_array_equal(identity.project(rows), rows)


@pytest.mark.parametrize("how", ["missing", "wrong"])
def test_projecting_without_the_quickest_products(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def other(*given: Any) -> torch.Tensor:
        asked.append(len(given[0]))
        if how == "missing":
            raise AttributeError(how)
        return torch.zeros(len(given[0]), 24)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", other)
    head = head_of(1.0, linear=True)
    rows = np.random.default_rng(4).standard_normal((300, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(projector(head).project(rows), head.project(rows), atol=2e-6)
    assert asked == [3, 3, 3]  # once for each matrix, and not again


def test_pages_come_in_their_order_and_errors_come_out() -> None:
    pages = [Page(np.arange(n, n + 3), np.full((3, 2), n, np.float32), None, n, n + 2) for n in range(40)]
    for count in (1, 3):
        found = list(reindex.projected(Projector(lambda x: -x, count), iter(pages)))
        assert [(page.keys[0], page.revision) for page in found] == [(n, n) for n in range(40)]
        assert all((page.vectors == -n).all() for n, page in enumerate(found))

    def fails(x: Vectors) -> Vectors:
        raise MemoryError(str(x[0, 0]))

    with pytest.raises(MemoryError, match="0"):
        list(reindex.projected(Projector(fails), iter(pages)))


def test_recall_is_of_others_than_the_one_that_asks() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = FaissIndex(8)
    assert reindex.recall_of(index) == 1.0
    index.add(np.arange(300), x)
    assert reindex.recall_of(index) == 1.0

    class Half(FaissIndex):
        def search(self, queries: Vectors, k: int, **given: object):  # type: ignore[no-untyped-def]
            scores, keys = self.exact(queries, 2 * k)
            return scores[:, ::2], keys[:, ::2]  # itself, and every second of the others

    half = Half(8)
    half.add(np.arange(300), x)
    assert reindex.recall_of(half) == pytest.approx(0.5, abs=0.01)


def test_samples_are_kept_until_something_is_written(taught: vm.Collection, clusters: Clusters) -> None:
    sampler = taught._spaces.own.sampler
    first = sampler.sample(0)
    assert (first.count, len(first.ids)) == (400, 400)
    taught.feedback(clusters.judgements(range(6, 8), 2))
    assert sampler.sample(0) is first
    assert sampler.sample(1) is not first
    taught.delete(clusters.ids[:1])
    second = sampler.sample(0)
    assert second.count == 399
    taught.delete(clusters.ids)
    assert sampler.sample(0).stats is None


def test_blas_has_one_thread_in_every_thread_that_wants_it_so_and_afterwards_what_it_had() -> None:
    def blas() -> list[int]:
        return [library.num_threads for library in threads._blas()]

    before, seen = blas(), dict[str, list[int]]()
    inside, leave = threading.Event(), threading.Event()
    one = [1] * len(before)
    assert before

    def other() -> None:
        with threads.single_blas():
            seen["in"] = blas()
            inside.set()
            leave.wait(20)
        seen["after"] = blas()

    def alone() -> None:
        with threads.single_blas():
            seen["alone"] = blas()

    thread = threading.Thread(target=other)
    with threads.single_blas(), threads.single_blas():
        thread.start()
        assert inside.wait(20)
        assert blas() == one
    # where the number is the process's, it stays until the last one leaves
    assert all(now in (1, was) for now, was in zip(blas(), before, strict=True))
    leave.set()
    thread.join()
    assert blas() == before
    thread = threading.Thread(target=alone)  # not the thread that was the first one
    thread.start()
    thread.join()
    assert blas() == before
    assert seen == {"in": one, "after": before, "alone": one}


def test_helpers_compute_alone_and_the_others_as_before() -> None:
    before, here = torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    try:
        with threads.helpers(2, "test") as pool:
            assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}
        other = threading.Thread(target=lambda: here.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert [*here, torch.get_num_threads()] == [3, 3]
    finally:
        torch.set_num_threads(before)


def test_a_process_that_serves_shares_the_cores() -> None:
    code = (
        "import os, numpy; from vecmeta import threads; threads.share_the_cores(); import faiss, threading\n"
        "def told(): print([library.num_threads for library in threads._blas() if 'numpy' in library.filepath])\n"
        "told(); thread = threading.Thread(target=lambda: [told() for _ in [threads.single_blas().__enter__()]]); thread.start()\n"
        "thread.join(); print(os.environ['OMP_WAIT_POLICY'])"
    )
    bare = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[1]", "[1]", "passive"]
    own = {**bare, "OMP_WAIT_POLICY": "active"}  # what somebody has set stays
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "active"


def test_a_graph_that_grew_topic_by_topic_is_looked_at_and_made_anew(
    taught: vm.Collection, monkeypatch: pytest.MonkeyPatch, clusters: Clusters
) -> None:
    assert FaissIndex.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(FaissIndex.__init__.__kwdefaults__, "hnsw_from", 100)
    looked: list[float] = []

    def recall_of(index: FaissIndex) -> float:
        looked.append(reindex.recall_of(index))
        return 0.5 if len(looked) <= 2 else looked[-1]

    monkeypatch.setattr(upkeep, "recall_of", recall_of)
    with vm.open(index_files(taught).folder.parent.parent, device="cpu") as other:
        c = other.collection("clusters")
        assert graph_of(c) == (0, 400)
        c.settle()
        first = index_of(c)._state.store
        assert graph_of(c) == (400, 0)
        assert len(looked) == 3  # found wanting, also when searched more widely, made anew, found good
        assert c._servings.warm().sound == 400
        c.add_vectors([f"new{n}" for n in range(50)], clusters.x[:50])
        c.settle()
        assert len(looked) == 3
        c.add_vectors([f"more{n}" for n in range(100)], clusters.x[50:150])
        c.settle()
        assert len(looked) == 4
        assert index_of(c)._state.store is first
        agrees(c, clusters)


def test_what_a_new_graph_does_not_mend_is_let_be(taught: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FaissIndex.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(FaissIndex.__init__.__kwdefaults__, "hnsw_from", 100)
    looked: list[object] = []

    def recall_of(index: object) -> float:
        looked.append(index)
        return 0.5

    monkeypatch.setattr(upkeep, "recall_of", recall_of)
    with vm.open(index_files(taught).folder.parent.parent, device="cpu") as other:
        c = other.collection("clusters")
        c.settle()
        assert len(looked) == 6  # as it was, a step wider, made anew, three steps wider
        assert index_of(c)._settings()["ef_search"] == 96
        assert c._servings.warm().sound == 800
