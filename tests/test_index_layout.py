"""The order in which the rows of a graph lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vecmeta.errors import IndexUnavailable
from vecmeta.evaluate import recall
from vecmeta.index import graph
from vecmeta.index.faiss_index import FaissIndex
from vecmeta.index.graph import Graph
from vecmeta.index.layout import chain, order_of
from vecmeta.types import Keys, Vectors


def clustered(count: int, dim: int = 24, topics: int = 60, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(topics, dim))[rng.integers(topics, size=count)] + 0.6 * rng.normal(size=(count, dim))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def laid_out(index: FaissIndex) -> bool:
    store = index._now().store
    assert isinstance(store, Graph)
    return store._laid == store.linked


def changes(store: Graph) -> float:
    """How often a row is followed by one that is no near neighbour of it."""
    rows = store._linked_rows()
    return float(((rows[1:] * rows[:-1]).sum(1) < 0.3).mean())


@pytest.fixture
def scattered(monkeypatch: pytest.MonkeyPatch) -> FaissIndex:
    """3,000 rows that came at once, linked and not laid out."""
    monkeypatch.setattr(graph, "BULK", 500)
    monkeypatch.setattr(graph, "LAID_FROM", 10**9)
    index = FaissIndex(24, hnsw_from=100, ef_search=200)
    index.add(np.arange(3000), clustered(3000))
    index.settle()
    monkeypatch.setattr(graph, "LAID_FROM", 1000)
    return index


def test_rows_that_are_linked_come_to_lie_near_each_other(scattered: FaissIndex, tmp_path: Path) -> None:
    queries, some = clustered(40, seed=1), np.arange(0, 3000, 7)
    before = scattered.search(queries, 10)
    filtered = scattered.search(queries, 10, allowed=some)
    store = scattered._now().store
    assert isinstance(store, Graph)
    assert store.scattered
    far = changes(store)
    scattered.settle()
    assert laid_out(scattered)
    now = scattered._now().store
    assert isinstance(now, Graph)
    assert changes(now) < 0.7 * far
    for (scores, keys), again in [
        (before, scattered.search(queries, 10)),
        (filtered, scattered.search(queries, 10, allowed=some)),
    ]:
        np.testing.assert_allclose(again[0], scores, atol=1e-6)
        assert recall(again[1], keys) > 0.999  # the same graph; equal scores may change places
    np.testing.assert_allclose(scattered.vectors(some), clustered(3000)[some], atol=2e-6)
    scattered.settle()
    assert scattered._now().store is now  # once is enough
    (tmp_path / "files").mkdir()
    scattered.dump(tmp_path / "files")
    loaded = FaissIndex.load(tmp_path / "files")
    np.testing.assert_array_equal(loaded.search(queries, 10)[1], scattered.search(queries, 10)[1])
    assert laid_out(loaded)
    copy = scattered.fork()
    assert copy is not None
    assert laid_out(copy)
    assert not scattered.in_topics()


def test_what_is_written_while_rows_are_laid_out_stays(scattered: FaissIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    order, new = order_of, clustered(5, seed=3)

    def meanwhile(rows: Vectors, go_on: Callable[[], None]) -> Keys:
        monkeypatch.setattr(graph, "order_of", order)
        scattered.remove(np.array([7, 8]))
        scattered.add(np.array([9, 5000, 5001]), new[:3])
        scattered.add(np.array([5001]), new[3:4])
        return order(rows, go_on)

    monkeypatch.setattr(graph, "order_of", meanwhile)
    scattered.settle()
    scattered.settle()
    assert len(scattered) == 3000 - 2 + 2
    assert not {7, 8} & set(scattered.keys().tolist())
    np.testing.assert_allclose(scattered.vectors(np.array([9, 5000, 5001])), new[[0, 1, 3]], atol=2e-6)
    assert scattered.search(new[[0, 1, 3]], 1)[1].ravel().tolist() == [9, 5000, 5001]
    scores, _ = scattered.exact(clustered(3000)[:1], 1)
    assert scores[0, 0] > 0.999


def test_rows_stay_in_the_order_of_the_items_where_that_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "LAID_FROM", 1000)
    index = FaissIndex(24, hnsw_from=100)
    for start in range(0, 3000, 100):
        index.add(np.arange(start, start + 100), clustered(100, seed=start))
        index.settle()
    assert (np.diff(index._now().table.by_row) > 0).all()
    assert not laid_out(index)


def test_all_that_is_removed_while_rows_are_laid_out_is_gone(scattered: FaissIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_of

    def meanwhile(rows: Vectors, go_on: Callable[[], None]) -> Keys:
        scattered.close()
        return order(rows, go_on)

    monkeypatch.setattr(graph, "order_of", meanwhile)
    scattered.settle()
    with pytest.raises(IndexUnavailable):
        scattered.search(clustered(1), 1)


def test_rows_of_a_cluster_come_one_after_the_other() -> None:
    topics = np.random.default_rng(0).integers(12, size=4000)
    centres = np.eye(12, 24, dtype=np.float32)
    x = centres[topics] + 0.02 * np.random.default_rng(1).normal(size=(4000, 24)).astype(np.float32)
    asked: list[int] = []
    order = order_of(x, lambda: asked.append(1))
    assert sorted(order.tolist()) == list(range(4000))
    assert (np.diff(topics[order]) != 0).sum() < 0.15 * (np.diff(topics) != 0).sum()  # a cluster can hold two topics
    assert asked
    np.testing.assert_array_equal(order, order_of(x))
    np.testing.assert_array_equal(order_of(x[:300]), np.arange(300))


def test_clusters_follow_their_nearest() -> None:
    line = np.array([[4.0, 0], [0, 0], [1, 0], [3, 0], [9, 0]], np.float32)
    np.testing.assert_array_equal(chain(line), [0, 3, 2, 1, 4])


def test_laying_out_can_be_broken_off(scattered: FaissIndex) -> None:
    def enough() -> None:
        raise KeyboardInterrupt

    before = scattered.search(clustered(5, seed=1), 10)[1]
    with pytest.raises(KeyboardInterrupt):
        scattered._laid_out(enough)
    assert not laid_out(scattered)
    np.testing.assert_array_equal(scattered.search(clustered(5, seed=1), 10)[1], before)
    scattered.settle()
    assert laid_out(scattered)
