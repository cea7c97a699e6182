"""Re-embedding as a Ray Data job: several worker processes write chunks into one Milvus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from tests.test_milvus import Server
from vecmeta.index.milvus.options import parse
from vecmeta.shelves import spread as module


@pytest.fixture
def filled(tmp_path: Path, clusters: Clusters) -> Path:
    """A database that was filled without Milvus."""
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x, [{"label": int(label)} for label in clusters.label])
        c.feedback(clusters.judgements(range(6), 5))
        c.adapt("ridge", strength=1.0)
    return tmp_path / "db"


def test_chunks_cover_all_items_once(filled: Path, tmp_path: Path, clusters: Clusters) -> None:
    with vm.open(filled, device="cpu") as db:
        items = db.collection("c")._items
        keys = items.keys()
        found = [list(items.between(int(keys[n]), int(keys[n + 99]))) for n in range(0, 400, 100)]
        assert np.concatenate([page.keys for pages in found for page in pages]).tolist() == keys.tolist()
        first = found[0][0]
        assert first.about is not None
        assert first.about[0] == ("i00000", '{"label":0}')
        np.testing.assert_array_equal(first.vectors[0], clusters.x[0])


def test_without_ray_it_says_what_to_install(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with vm.open(filled, device="cpu") as db:
        c = db.collection("c")
        task = module.Task(c._items.address, c.row, None, parse("http://host", filled), "x")
        with pytest.raises(vm.IndexUnavailable, match=r"pip install 'vecmeta\[ray\]'"):
            next(module.spread(task, c._items, "local"))


@pytest.mark.quality
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_workers_build_what_one_process_would(
    filled: Path, tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the package ray is not installed (pip install 'vecmeta[ray]')")
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    monkeypatch.setattr(module, "CHUNK", 60)
    server = Server(tmp_path / "server")
    server.start()
    try:
        with vm.open(filled, device="cpu") as db:
            true = db.collection("c").search_many(list(clusters.x[:20]), 10)
        with vm.open(filled, index=f"{server.uri}?ray=local", device="cpu") as db:
            c = db.collection("c")
            assert c.live == 1
            found = c.search_many(list(clusters.x[:20]), 10)
            for hits, best in zip(found, true, strict=True):
                np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in best], atol=1e-5)
            assert len(c.search(clusters.x[0], 1000, where={"label": {"$gte": 0}})) == 400
    finally:
        server.kill()
