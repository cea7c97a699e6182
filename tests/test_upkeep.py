"""What an index that answers gets beside its searches: a wider search or a new graph where the one there is finds too little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from vecmeta import upkeep
from vecmeta.index import base
from vecmeta.index import graph as graph_module
from vecmeta.index.faiss_index import WIDEST, FaissIndex
from vecmeta.reindex import recall_of
from vecmeta.types import Vectors


def rows(n: int, dim: int = 32, seed: int = 0) -> Vectors:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def graph(n: int = 4000, ef_search: int = 8) -> FaissIndex:
    index = FaissIndex(32, hnsw_from=100, m=8, ef_construction=16, ef_search=ef_search)
    index.add(np.arange(n), rows(n))
    index.settle()
    return index


def test_a_search_is_as_wide_as_it_has_to_be(tmp_path: Path) -> None:
    index = graph()
    before = recall_of(index)
    assert before < 0.9
    assert index.reach(lambda: recall_of(index) >= 0.9, 10)
    assert recall_of(index) >= 0.9
    width = index._settings()["ef_search"]
    assert 8 < width <= WIDEST
    index.dump(tmp_path)
    again = FaissIndex.load(tmp_path)
    assert again._settings()["ef_search"] == width
    assert recall_of(again) >= 0.9
    copy = index.fork()
    assert copy is not None
    copy.fill(np.arange(4000), rows(4000))
    assert copy._settings()["ef_search"] == width


@pytest.mark.parametrize("steps", [1, 20])
def test_where_that_is_not_enough_it_stays_as_it_was(steps: int) -> None:
    index, asked = graph(), []

    def never() -> bool:
        asked.append(index._settings()["ef_search"])
        return False

    assert not index.reach(never, steps)
    assert index._settings()["ef_search"] == 8
    assert asked == [12, 18, 27, 40, 60, 90, 135, 202, 303, 454][:steps]


def test_exact_search_has_no_width() -> None:
    index = FaissIndex(32, hnsw_from=10_000)
    index.add(np.arange(50), rows(50))
    assert not index.reach(lambda: True, 3)


@pytest.mark.parametrize(
    ("topics", "found", "wider", "renewed"),
    [
        (0, [0.99], 0, 0),
        (0, [0.9, 0.99], 1, 0),
        (0, [0.9, 0.9, 0.9, 0.99], 3, 0),
        (0, [0.9, 0.9, 0.9, 0.9], 0, 0),  # a new graph would be no better
        (10, [0.9, 0.99], 1, 0),
        (10, [0.9, 0.9, 0.99], 0, 1),  # what came topic by topic makes for a bad graph
        (10, [0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 0, 1),  # and once is enough
    ],
)
def test_first_wider_then_a_new_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topics: int, found: list[float], wider: int, renewed: int
) -> None:
    monkeypatch.setattr(graph_module, "BULK", 10**9)  # in the order in which they came
    x = rows(10_500)
    if topics:
        x = x + np.repeat(rows(topics, seed=1), len(x) // topics, axis=0)
    answers = iter(found)
    monkeypatch.setattr(upkeep, "recall_of", lambda _: next(answers))
    renewals: list[int] = []
    renew = FaissIndex._renew

    def counted(self: FaissIndex, go_on: Callable[[], None]) -> int:
        renewals.append(1)
        return renew(self, go_on)

    monkeypatch.setattr(FaissIndex, "_renew", counted)
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=32)
        c.add_vectors([f"i{n}" for n in range(len(x))], x)
        c.settle()
        index = c._servings.current().index
        assert isinstance(index, FaissIndex)
        assert index.in_topics() == (topics > 0 and not renewed)
        assert index._settings()["ef_search"] == 96 * 3**wider // 2**wider
    assert len(renewals) == renewed
    assert list(answers) == []


def topical(topics: int, each: int, dim: int = 32) -> Vectors:
    """Rows of one topic after the other; within a topic in no order."""
    x = rows(topics, dim, 1)[np.repeat(np.arange(topics), each)] + 0.5 * rows(topics * each, dim, 2)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("bulk", [1, 10**9])
def test_what_waits_together_is_linked_in_random_order(bulk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "BULK", bulk)
    x = topical(40, 100)
    index = FaissIndex(32, hnsw_from=100, m=8, ef_construction=16, ef_search=48)
    keys = 10 + 3 * np.arange(len(x))
    index.add(keys, x)
    index.remove(keys[::7])
    index.settle()
    assert index.in_topics() == (bulk > 1)
    left = np.setdiff1d(keys, keys[::7])
    np.testing.assert_array_equal(index.keys(), left)
    np.testing.assert_allclose(index.vectors(left), x[(left - 10) // 3], atol=2e-6)
    found = index.exact(x[(left - 10) // 3], 1)[1][:, 0]
    assert (found == left).mean() > 0.999
    index.wear()
    index.settle()
    assert not index.in_topics()


def test_a_graph_that_topics_made_bad_is_better_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LONG", 0.0)  # a few rows at a time, as where there are many of them
    x, found = topical(100, 60), list[float]()
    for bulk in (10**9, 1):
        monkeypatch.setattr(graph_module, "BULK", bulk)
        index = FaissIndex(32, hnsw_from=100, m=8, ef_construction=16, ef_search=24)
        index.add(np.arange(len(x)), x)
        index.settle()
        found.append(recall_of(index))
    assert found[1] > found[0] + 0.1, found


def test_too_few_to_say_whether_they_came_in_topics() -> None:
    index = FaissIndex(32, hnsw_from=5)
    assert not index.in_topics()
    index.add(np.arange(9), rows(9))
    index.settle()
    assert not index.in_topics()
    same = FaissIndex(32, hnsw_from=5)
    same.add(np.arange(40), np.repeat(rows(1), 40, axis=0))
    same.settle()
    assert same.in_topics() in (True, False)
