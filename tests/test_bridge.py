"""A version that answers before its index is built: recall, exact scores, writes meanwhile, and what happens when the build fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.bridge import BridgeIndex, Bridges, mapping
from vecmeta.errors import IndexUnavailable
from vecmeta.meta.head import IdentityHead
from vecmeta.types import Vectors


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

    def __init__(self, collection: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()
        self.fails, self.reports, self.errors = False, list[vm.Report](), list[vm.VecmetaError]()
        shelf = collection._servings._shelf
        built = shelf.built

        def slowly(*given: Any) -> Any:
            self.started.set()
            assert self.go_on.wait(60)
            if self.fails:
                raise vm.StorageFull("no room")
            return built(*given)

        monkeypatch.setattr(shelf, "built", slowly)
        self._thread = threading.Thread(target=self._adapt, args=(collection,))
        self._thread.start()
        assert self.started.wait(60)

    def _adapt(self, collection: vm.Collection) -> None:
        try:
            self.reports.append(collection.adapt("ridge", strength=0.8))
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
    bridge = Bridges(lambda _: taught._items).to(9, lambda: (IdentityHead(clusters.dim), 0), before, before.revision).index
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
