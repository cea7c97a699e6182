"""What an index that answers gets beside its searches: a wider search or a new graph where the one there is finds too little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from vecmeta import upkeep
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
        (0, [0.9, 0.9, 0.9, 0.9, 0.99], 0, 1),  # a new graph where no width helps
        (10, [0.9, 0.99], 1, 0),
        (10, [0.9, 0.9, 0.99], 0, 1),  # what came topic by topic makes for a bad graph
    ],
)
def test_first_wider_then_a_new_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topics: int, found: list[float], wider: int, renewed: int
) -> None:
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
        assert upkeep.in_topics(index) == (topics > 0)
        assert index._settings()["ef_search"] == 96 * 3**wider // 2**wider
    assert len(renewals) == renewed
    assert list(answers) == []
