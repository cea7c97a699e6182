"""A version that answers before its index is built: recall, exact scores, writes meanwhile, and what happens when the build fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import vecmeta as vm
from service.workers import Workers
from tests.conftest import Clusters
from tests.service_kit import good, refused, served
from vecmeta.bridge import BridgeIndex, Bridges, mapping
from vecmeta.cli import program
from vecmeta.errors import IndexUnavailable
from vecmeta.meta.head import IdentityHead
from vecmeta.types import Vectors
from vecmeta.worker import Worker


@pytest.fixture(scope="module")
def many() -> Clusters:
    return Clusters(concepts=40, members=40)


@pytest.fixture(params=["faiss", "milvus-lite"])
def c(request: pytest.FixtureRequest, tmp_path: Path, many: Clusters) -> Iterator[vm.Collection]:
    if request.param == "milvus-lite":
        pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    with vm.open(tmp_path, index=request.param, device="cpu", bridge=True) as db:
        collection = db.create("c", encoder="vectors", dim=many.dim)
        collection.add_vectors(many.ids, many.x, [{"label": int(label)} for label in many.label])
        collection.feedback(many.judgements(range(12), 5))
        yield collection


class Held:
    """A build that waits until it is let go, or fails."""

    def __init__(
        self, collection: vm.Collection, monkeypatch: pytest.MonkeyPatch, adapt: Callable[[], Any] | None = None
    ) -> None:
        """``adapt``: how it is asked for."""
        self.started, self.go_on = threading.Event(), threading.Event()
        self.fails, self.reports, self.errors = False, list[Any](), list[vm.VecmetaError]()
        shelf = collection._servings.shelf
        built = shelf.built

        def slowly(*given: Any) -> Any:
            self.started.set()
            assert self.go_on.wait(60)
            if self.fails:
                raise vm.StorageFull("no room")
            return built(*given)

        monkeypatch.setattr(shelf, "built", slowly)
        self._thread = threading.Thread(target=self._adapt, args=(adapt or (lambda: collection.adapt("ridge", strength=0.8)),))
        self._thread.start()
        assert self.started.wait(60)

    def _adapt(self, adapt: Callable[[], Any]) -> None:
        try:
            self.reports.append(adapt())
        except vm.VecmetaError as error:
            self.errors.append(error)

    def end(self) -> None:
        self.go_on.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def recall(c: vm.Collection, queries: Vectors, true: list[set[str]], k: int = 10) -> float:
    found = c.search_many(list(queries), k)
    return float(np.mean([len({hit.id for hit in hits} & ids) / k for hits, ids in zip(found, true, strict=True)]))


def test_it_is_live_before_its_index_and_finds_nearly_the_same(
    c: vm.Collection, many: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(c, monkeypatch)
    assert c.live == 1
    queries = many.x[::20]
    hits = c.search_many(list(queries), 10)
    assert {h.version for h in hits} == {1}
    z, asked = c.embed(many.x, version=1), c.embed(queries, version=1)
    row = {id: n for n, id in enumerate(many.ids)}
    for q, answer in enumerate(hits):
        np.testing.assert_allclose([hit.score for hit in answer], [z[row[hit.id]] @ asked[q] for hit in answer], atol=1e-5)
        assert [hit.score for hit in answer] == sorted((hit.score for hit in answer), reverse=True)
    best = [{many.ids[n] for n in order[:10]} for order in np.argsort(-(asked @ z.T), axis=1)]
    over = recall(c, queries, best)
    only = c.search(many.x[0], 5, where={"label": 7})
    assert {hit.metadata["label"] for hit in only} == {7}
    assert c.search(many.x[0], 5000, where={"label": 7})[-1].metadata["label"] == 7

    c.add_vectors(["new"], many.x[:1])  # what is written meanwhile is there at once
    assert c.search(many.x[0], 2)[0].id in ("new", many.ids[0])
    assert "new" in {hit.id for hit in c.search(many.x[0], 2)}
    c.delete(["new"])
    assert "new" not in {hit.id for hit in c.search(many.x[0], 2)}
    assert c.recommend(many.ids[:2], k=3).version == 1

    held.end()
    assert held.reports[0].decision == "promoted"
    assert not isinstance(c._servings.warm().index, BridgeIndex)
    done = recall(c, queries, best)
    assert over >= 0.95 * done
    assert c.search(many.x[0], 1).version == 1


def test_when_the_build_fails_the_version_before_is_live_again(
    c: vm.Collection, many: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(c, monkeypatch)
    assert c.search(many.x[0], 1).version == 1
    held.fails = True
    held.end()
    assert isinstance(held.errors[0], vm.StorageFull)
    assert c.live == 0
    assert c.search(many.x[0], 1).version == 0
    assert [version.number for version in c.versions()] == [0]


def test_it_is_off_unless_asked_for(taught: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    taught.search(clusters.x[0])
    held = Held(taught, monkeypatch)
    assert taught.live == 0
    assert taught.search(clusters.x[0], 1).version == 0
    held.end()
    assert taught.search(clusters.x[0], 1).version == 1


def of_version_one(c: vm.Collection, many: Clusters) -> None:
    """What a search finds has the scores of version 1."""
    hits = c.search(many.x[3], 10)
    assert hits.version == 1
    z = c.embed([vm.Id(many.ids[3]), *(vm.Id(hit.id) for hit in hits)], version=1)
    np.testing.assert_allclose([hit.score for hit in hits], z[1:] @ z[0], atol=1e-5)


def opened_late(collection: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Versions that others made are opened once it is set."""
    go_on, opened = threading.Event(), collection._servings.shelf.opened

    def late(*given: Any) -> Any:
        assert go_on.wait(60)
        return opened(*given)

    monkeypatch.setattr(collection._servings.shelf, "opened", late)
    return go_on


def test_one_adaptation_may_ask_for_it(tmp_path: Path, many: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither database was opened with it, and the one that searches is another process's."""
    with vm.open(tmp_path, device="cpu") as db, vm.open(tmp_path, device="cpu") as other:
        c = db.create("c", encoder="vectors", dim=many.dim)
        c.add_vectors(many.ids, many.x)
        c.feedback(many.judgements(range(12), 5))
        there = other.collection("c")
        assert there.search(many.x[3], 1).version == 0
        opening = opened_late(there, monkeypatch)
        held = Held(c, monkeypatch, lambda: c.adapt("ridge", strength=0.8, bridge=True))
        of_version_one(there, many)
        assert there.search(many.x[3], 10, version=1) == there.search(many.x[3], 10)
        held.end()
        opening.set()
        assert not isinstance(there._servings.warm().index, BridgeIndex)
        of_version_one(there, many)
        assert c.rollback() == 0
        assert there.search(many.x[3], 1).version == 0


def test_one_adaptation_may_do_without_it(c: vm.Collection, many: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(c, monkeypatch, lambda: c.adapt("ridge", strength=0.8, bridge=False))
    assert c.live == 0
    held.end()
    assert c.live == 1
    with pytest.raises(vm.InvalidConfig, match="bridge is True, False or None"):
        c.adapt(bridge="yes")  # type: ignore[arg-type]


def test_who_goes_back_meanwhile_is_not_overruled(c: vm.Collection, many: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(c, monkeypatch)
    assert c.search(many.x[0], 1).version == 1
    assert c.rollback() == 0
    held.end()
    assert held.reports[0].decision == "kept"
    assert c.live == 0
    assert c.search(many.x[0], 1).version == 0


def test_a_service_bridges_where_a_request_says_so(tmp_path: Path, many: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as service, vm.open(tmp_path, device="cpu") as workers:
        c = service.db.create("c", encoder="vectors", dim=many.dim)
        c.add_vectors(many.ids, many.x)
        c.feedback(many.judgements(range(12), 5))
        refused(service.client.post("/v1/collections/c/adapt", json={"bridge": 1.5}), 422)
        told = {"method": "ridge", "strength": 0.8, "bridge": True}
        job = good(service.client.post("/v1/collections/c/adapt", json=told), 202)["id"]
        assert service.db.jobs.get(job).params["bridge"] is True
        search = {"id": many.ids[3], "k": 3}
        assert good(service.client.post("/v1/collections/c/search", json=search))["version"] == 0
        opening = opened_late(c, monkeypatch)
        held = Held(workers.collection("c"), monkeypatch, lambda: Worker(workers).run(threading.Event(), once=True))
        assert good(service.client.post("/v1/collections/c/search", json=search))["version"] == 1
        held.end()
        opening.set()
        assert service.db.jobs.get(job).state == "live"


def test_the_service_and_its_workers_are_told_alike(tmp_path: Path) -> None:
    for bridge in (True, False):
        with served(tmp_path, bridge=bridge) as service:
            assert service.db._bridge == bridge
            assert Workers(service.app.state.runtime.settings)._environment()["VECMETA_BRIDGE"] == str(bridge)


def test_the_command_goes_ahead(tmp_path: Path, many: Clusters) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=many.dim)
        c.add_vectors(many.ids, many.x)
        c.feedback(many.judgements(range(12), 5))
    done = CliRunner().invoke(
        program, ["adapt", "c", "--method", "ridge", "--bridge", "--data", str(tmp_path), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    with vm.open(tmp_path, device="cpu") as db:
        versions = db.collection("c")._versions
        assert (versions.state().live, versions.ahead(versions.state().activation)) == (1, True)


def test_the_map_is_the_head_where_that_is_linear(many: Clusters) -> None:
    """Against a turned copy of the old vectors, M is the turn."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(many.dim, many.dim)))[0].astype(np.float32)

    class Turned(IdentityHead):
        def project(self, x: Vectors) -> Vectors:
            turned: Vectors = x @ turn
            return turned

    m = mapping(IdentityHead(many.dim), Turned(many.dim), many.x)
    np.testing.assert_allclose(many.x @ m, many.x @ turn, atol=0.05)


def test_it_takes_no_writes_and_names_unknown_keys(taught: vm.Collection, clusters: Clusters) -> None:
    before = taught._servings.warm()
    bridges = Bridges(lambda _: taught._items, taught._versions)
    bridge = bridges.to(9, lambda: (IdentityHead(clusters.dim), 0), before, before.revision).index
    with pytest.raises(IndexUnavailable, match="takes no"):
        bridge.add(np.array([1]), clusters.x[:1])
    with pytest.raises(IndexUnavailable, match="removes no"):
        bridge.remove(np.array([1]))
    keys = bridge.keys()[:3]
    np.testing.assert_allclose(bridge.vectors(keys[::-1].copy()), before.index.vectors(keys[::-1].copy()), atol=1e-5)
    with pytest.raises(KeyError, match="99999"):
        bridge.vectors(np.array([keys[0], 99999]))
    scores, found = bridge.exact(clusters.x[:2], 3)
    true = before.index.exact(clusters.x[:2], 3)
    np.testing.assert_allclose(scores, true[0], atol=1e-5)
    assert found[:, 0].tolist() == true[1][:, 0].tolist()
    assert bridge.search(clusters.x[:0], 3)[0].shape[0] == 0
