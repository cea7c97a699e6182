"""Every index, in every mode, against the same plain numpy computation."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vecmeta.errors import IndexUnavailable, InvalidConfig, InvalidInput, InvalidVector
from vecmeta.index import KINDS, VectorIndex, base, graph, open_index
from vecmeta.index.blocks import BLOCK, Blocks
from vecmeta.index.faiss_index import FaissIndex
from vecmeta.index.filters import SlotRows
from vecmeta.index.graph import Graph
from vecmeta.index.keys import KeyTable
from vecmeta.index.linking import HURRY
from vecmeta.index.locks import ReadWriteLock
from vecmeta.index.milvus.index import MilvusIndex
from vecmeta.index.milvus.table import Table
from vecmeta.index.protocol import FiledIndex
from vecmeta.types import Keys, Matching, Vectors

DIM = 16


class Settled(FaissIndex):
    """One whose rows are all linked as soon as they are there."""

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Add, then link."""
        super().add(keys, vectors)
        self.settle()
        assert self.pending == 0


class HalfSettled(FaissIndex):
    """One in which some rows are linked and others wait, again and again."""

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Add, then link a part."""
        super().add(keys, vectors)
        with self._writer:
            self._link(len(keys) // 2)


WIDE = 200  # so that nothing is missed where links were made for other vectors
MODES: dict[str, Callable[[], VectorIndex]] = {
    "exact": lambda: open_index("exact", DIM),
    "faiss-flat": lambda: open_index("faiss", DIM, hnsw_from=10**9),
    "faiss-hnsw": lambda: Settled(DIM, hnsw_from=0, ef_search=WIDE),
    "faiss-half": lambda: HalfSettled(DIM, hnsw_from=0, ef_search=WIDE),
    "faiss-waiting": lambda: open_index("faiss", DIM, hnsw_from=0),
}
Make = Callable[[], VectorIndex]


@pytest.fixture(params=[*MODES, "milvus-lite"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    if request.param == "milvus-lite":
        link, made = request.getfixturevalue("lite_link"), list[MilvusIndex]()

        def empty() -> VectorIndex:
            index = MilvusIndex(link, f"t_{secrets.token_hex(8)}", DIM)
            index.table.create()
            index.open()
            made.append(index)
            return index

        yield empty
        for index in made:
            Table(link, index.name, DIM).drop()
        return
    if request.param in ("faiss-hnsw", "faiss-half"):
        monkeypatch.setattr(graph, "EXACT_PER_EF", 0)  # walk the graph even where scoring all rows would be quicker
    yield MODES[request.param]


@pytest.fixture
def make_filed(make: Make) -> Make:
    """Of those that live in the memory of this process."""
    if isinstance(index := make(), MilvusIndex):
        pytest.skip(f"{index.kind} keeps its own files")
    return make


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On a busy machine faiss's threads wait for each other longer than such small work takes."""
    threads = graph.faiss.omp_get_max_threads()
    graph.faiss.omp_set_num_threads(1)
    yield
    graph.faiss.omp_set_num_threads(threads)


def unit(rng: np.random.Generator, n: int, dim: int = DIM) -> Vectors:
    x = rng.standard_normal((n, dim)).astype(np.float32)
    rows: Vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return rows


def clustered(rng: np.random.Generator, n: int, dim: int = DIM, clusters: int = 40) -> tuple[Vectors, NDArray[np.int64]]:
    label = rng.integers(0, clusters, n)
    x = (unit(rng, clusters, dim)[label] + 0.6 * unit(rng, n, dim)).astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), label


def ints(*values: int) -> Keys:
    return np.array(values, np.int64)


def check(index: VectorIndex, held: dict[int, Vectors], queries: Vectors, k: int, allowed: Keys | None = None) -> None:
    """Shape, order, distinct known keys, scores that are their keys' true cosines; and, at this size, the true best."""
    match = [key for key in held if allowed is None or key in set(allowed.tolist())]
    scores, keys = index.search(queries, k, allowed=allowed)
    m = min(k, len(match))
    assert scores.shape == keys.shape == (len(queries), m)
    assert scores.dtype == np.float32
    assert keys.dtype == np.int64
    for query, row_scores, row_keys in zip(queries, scores, keys, strict=True):
        truth = {key: float(np.dot(held[key].astype(np.float64), query)) for key in match}
        assert len(set(row_keys.tolist())) == m
        assert set(row_keys.tolist()) <= set(match)
        np.testing.assert_allclose(row_scores, [truth[key] for key in row_keys.tolist()], atol=1e-5)
        np.testing.assert_allclose(row_scores, sorted(truth.values(), reverse=True)[:m], atol=1e-5)
    assert len(index) == len(held)
    assert index.keys().tolist() == sorted(held)


def test_an_empty_index_finds_nothing(make: Make) -> None:
    index = make()
    check(index, {}, unit(np.random.default_rng(0), 3), 5)
    assert index.remove(ints(1, 2)) == 0
    assert index.vectors(ints()).shape == (0, DIM)
    index.add(ints(), np.empty((0, DIM), np.float32))
    assert len(index) == 0


@pytest.mark.parametrize("n", [1, 2, 300])
@pytest.mark.parametrize("k", [1, 10, 299, 1000])
def test_the_best_come_first_and_never_padded(make: Make, n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    index, x = make(), unit(rng, n)
    keys = np.arange(n, dtype=np.int64) * 7 + 3
    index.add(keys, x)
    check(index, dict(zip(keys.tolist(), x, strict=True)), unit(rng, 4), k)
    check(index, dict(zip(keys.tolist(), x, strict=True)), unit(rng, 1), k)
    assert index.search(np.empty((0, DIM), np.float32), k)[0].shape == (0, min(k, n))


def test_a_batch_answers_as_its_queries_one_by_one(make: Make) -> None:
    rng = np.random.default_rng(1)
    index, queries = make(), unit(rng, 30)
    index.add(np.arange(2000), unit(rng, 2000))
    for allowed in (None, np.arange(0, 2000, 3)):
        scores, keys = index.search(queries, 7, allowed=allowed)
        for i in range(len(queries)):
            one_scores, one_keys = index.search(queries[i : i + 1], 7, allowed=allowed)
            np.testing.assert_allclose(one_scores[0], scores[i], atol=1e-5)
            assert set(one_keys[0].tolist()) == set(keys[i].tolist())


def test_replace_remove_and_add_again(make: Make) -> None:
    rng = np.random.default_rng(2)
    index, x, queries = make(), unit(rng, 200), unit(rng, 3)
    held = dict(enumerate(x))
    index.add(np.arange(200), x)

    y = unit(rng, 50)
    index.add(np.arange(150, 200)[::-1].copy(), y)  # replace, in another order
    held.update(zip(range(199, 149, -1), y, strict=True))
    check(index, held, queries, 20)

    y = unit(rng, 4)
    index.add(ints(5, 900, 5, 900), y)  # the last of equal keys wins
    held.update({5: y[2], 900: y[3]})
    check(index, held, queries, 20)
    np.testing.assert_allclose(index.vectors(ints(900, 5)), y[[3, 2]], atol=2e-6)

    assert index.remove(ints(5, 5, 12345, 900)) == 2
    del held[5], held[900]
    check(index, held, queries, 300)
    with pytest.raises(KeyError, match="900"):
        index.vectors(ints(1, 900, 5))

    assert index.remove(np.arange(1000)) == len(held)
    check(index, {}, queries, 3)
    index.add(np.arange(100), x[:100])
    check(index, dict(enumerate(x[:100])), queries, 3)


def test_filters_return_the_best_that_match_however_few(make: Make) -> None:
    rng = np.random.default_rng(3)
    index, x, queries = make(), unit(rng, 3000), unit(rng, 3)
    index.add(np.arange(3000), x)
    index.remove(np.arange(2900, 3000))
    held = dict(enumerate(x[:2900]))
    for share in (1.0, 0.7, 0.3, 0.1, 0.03, 0.01):
        check(index, held, queries, 10, rng.permutation(3000)[: int(3000 * share)])
    check(index, held, queries, 10, ints())
    check(index, held, queries, 10, ints(17))
    check(index, held, queries, 10, ints(17, 17, 4))
    check(index, held, queries, 10, ints(2950, 10**12, 4))  # removed, never known, known
    check(index, held, queries, 10, ints(10**12))


def test_a_filter_that_excludes_the_whole_neighbourhood_loses_nothing(make: Make) -> None:
    rng = np.random.default_rng(4)
    x, label = clustered(rng, 4000, clusters=10)
    index = make()
    index.add(np.arange(4000), x)
    for i in range(5):
        allowed = np.flatnonzero(label != label[i])
        scores, keys = index.search(x[i : i + 1], 10, allowed=allowed)
        best = np.sort(x[allowed] @ x[i])[::-1][:10]
        assert (label[keys] != label[i]).all()
        np.testing.assert_allclose(scores[0], best, atol=1e-5)


def test_many_equal_vectors_hide_nobody(make: Make) -> None:
    rng = np.random.default_rng(5)
    x = unit(rng, 2000)
    x[:1000] = x[0]
    index = make()
    index.add(np.arange(2000), x)
    scores, keys = index.search(x[[0, 1500]], 20)
    np.testing.assert_allclose(scores[0], 1, atol=1e-5)
    assert keys[1, 0] == 1500
    check(index, dict(enumerate(x)), x[:1], 1500)


def test_what_is_given_is_neither_changed_nor_kept(make: Make) -> None:
    rng = np.random.default_rng(6)
    index, x, queries = make(), unit(rng, 50), unit(rng, 2)
    keys, allowed = np.arange(50)[::-1].copy(), np.arange(40)
    first_keys, first_x, first_queries, first_allowed = keys.copy(), x.copy(), queries.copy(), allowed.copy()
    held = dict(zip(first_keys.tolist(), first_x, strict=True))
    index.add(keys, x)
    scores, found = index.search(queries, 5, allowed=allowed)
    np.testing.assert_array_equal(keys, first_keys)
    np.testing.assert_array_equal(x, first_x)
    np.testing.assert_array_equal(queries, first_queries)
    np.testing.assert_array_equal(allowed, first_allowed)

    vectors = index.vectors(ints(3))
    for array in (keys, x, scores, found, vectors, index.keys()):
        array[...] = 0
    check(index, held, first_queries, 5)
    first_x.flags.writeable = False
    index.add(first_keys, first_x)
    index.add(first_keys, np.asfortranarray(first_x))
    check(index, held, first_queries, 5)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, DIM + 1), np.float32), r"shape \(n, 16\), not shape \(2, 17\)"),
        (np.ones(DIM, np.float32), r"not shape \(16,\)"),
        ([[1.0] * DIM] * 2, "not a list"),
        (np.eye(2, DIM), "float32, not float64"),
        (np.zeros((2, DIM), np.float32), "row 0 has length 0"),
        (np.eye(2, DIM, dtype=np.float32) * [[1], [np.nan]], "float32"),
        ((np.eye(2, DIM) * [[1], [np.nan]]).astype(np.float32), "row 1 has length nan"),
        ((np.eye(2, DIM) * [[1], [2]]).astype(np.float32), "row 1 has length 2"),
    ],
)
def test_vectors_that_cannot_be_used(make: Make, vectors: Vectors, message: str) -> None:
    index = make()
    index.add(ints(1), np.eye(1, DIM, dtype=np.float32))
    with pytest.raises(InvalidVector, match=message):
        index.add(ints(1, 2), vectors)
    with pytest.raises(InvalidVector, match=message):
        index.search(vectors, 1)
    assert index.keys().tolist() == [1]


def test_keys_and_k_that_cannot_be_used(make: Make) -> None:
    index, x = make(), np.eye(2, DIM, dtype=np.float32)
    for keys in (np.array([1.0, 2.0]), np.array([1, 2], np.int32), np.array([[1, 2]]), ints(1, -2), [1, 2]):
        with pytest.raises(InvalidInput, match="keys must be"):
            index.add(keys, x)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="keys must be"):
            index.remove(keys)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="keys must be"):
            index.search(x, 1, allowed=keys)  # type: ignore[arg-type]
    with pytest.raises(InvalidVector, match="3 keys but 2 vectors"):
        index.add(ints(1, 2, 3), x)
    for k in (0, -1, 1.5, True, None):
        with pytest.raises(InvalidConfig, match="k must be a whole number from 1 up"):
            index.search(x, k)  # type: ignore[arg-type]
    assert len(index) == 0


def test_dump_and_load(make_filed: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for step, n in enumerate((0, 1, 500)):
        index, x, queries = cast(FiledIndex, make_filed()), unit(rng, n), unit(rng, 3)
        keys = rng.permutation(10**6)[:n]
        index.add(keys, x)
        held = dict(zip(keys.tolist(), x, strict=True))
        for key in keys[: n // 5].tolist():
            del held[key]
        index.remove(keys[: n // 5])
        folder = tmp_path / str(step)
        folder.mkdir()
        index.dump(folder)
        again = type(index).load(folder)
        assert (again.kind, again.dim) == (index.kind, DIM)
        check(again, held, queries, 10)
        again.add(ints(10**7), unit(rng, 1))
        assert len(again) == len(held) + 1
        assert again.remove(again.keys()) == len(held) + 1


def test_a_closed_index_says_so(make: Make) -> None:
    index = make()
    index.add(ints(1), np.eye(1, DIM, dtype=np.float32))
    index.close()
    index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        index.search(np.eye(1, DIM, dtype=np.float32), 1)
    with pytest.raises(IndexUnavailable, match="closed"):
        index.add(ints(1), np.eye(1, DIM, dtype=np.float32))


def test_a_write_that_breaks_off_leaves_an_index_that_refuses(make_filed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_filed()

    def append(self: KeyTable, keys: Keys) -> None:
        raise MemoryError

    monkeypatch.setattr(KeyTable, "append", append)
    with pytest.raises(MemoryError):
        index.add(ints(1), np.eye(1, DIM, dtype=np.float32))
    monkeypatch.undo()
    with pytest.raises(IndexUnavailable, match="interrupted"):
        len(index)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, 40), max_size=30)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 40), max_size=30)),
        st.tuples(st.just("settle"), st.just([])),
        st.tuples(st.just("wear"), st.just([])),
        st.tuples(st.just("search"), st.lists(st.integers(0, 40), min_size=1, max_size=30)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS, seed=st.integers(0, 1000))
def test_any_sequence_of_writes_and_searches(mode: str, actions: list[tuple[str, list[int]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    held: dict[int, Vectors] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "DEAD_ROWS", 5)
        patch.setattr(base, "SLICE", 7)
        patch.setattr(graph, "EXACT_PER_EF", 0)
        index = MODES[mode]()
        for action, numbers in actions:
            keys = np.array(numbers, np.int64)
            if action == "add":
                x = unit(rng, len(keys))
                index.add(keys, x)
                held.update(zip(numbers, x, strict=True))
            elif action == "remove":
                assert index.remove(keys) == len(set(numbers) & set(held))
                held = {key: row for key, row in held.items() if key not in numbers}
            elif action == "settle":
                index.settle()
                assert index.pending == 0
            elif action == "wear":
                index.wear()
            else:
                check(index, held, unit(rng, 2), numbers[0] + 1)
                check(index, held, unit(rng, 2), numbers[0] + 1, keys)
        check(index, held, unit(rng, 2), 10)


def test_readers_beside_a_writer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys below 300 stay; above, they are replaced, removed and compacted away all the time."""
    monkeypatch.setattr(base, "DEAD_ROWS", 100)
    monkeypatch.setattr(base, "SLICE", 64)
    rng = np.random.default_rng(8)
    x = unit(rng, 600)
    index = make()
    index.add(np.arange(600), x)
    stay, stop, failures, searches = np.arange(300), threading.Event(), list[BaseException](), [0] * 4

    def read(number: int) -> None:
        try:
            mine = np.random.default_rng(number)
            while not stop.is_set():
                i = int(mine.integers(300))
                scores, keys = index.search(x[i : i + 1], 3)
                assert keys[0, 0] == i
                assert scores[0, 0] == pytest.approx(1, abs=1e-5)
                scores, keys = index.search(x[i : i + 1], 5, allowed=stay)
                truth = np.sort(x[:300] @ x[i])[::-1][:5]
                np.testing.assert_allclose(scores[0], truth, atol=1e-5)
                np.testing.assert_allclose(index.vectors(ints(i)), x[i : i + 1], atol=2e-6)
                searches[number] += 1
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(12):
        index.add(np.arange(300, 600), unit(rng, 300))
        index.remove(np.arange(400, 600) if turn % 2 else np.arange(300, 600))
        index.add(np.arange(100), x[:100])
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert min(searches) > 0


# -- what only one of them does


def linked(index: VectorIndex) -> int:
    assert isinstance(index, FaissIndex)
    return index._state.store.linked


def test_the_graph_starts_at_its_threshold_and_ends_when_all_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "EXACT_PER_EF", 0)
    monkeypatch.setattr(base, "DEAD_ROWS", 100)
    rng = np.random.default_rng(9)
    index, x, queries = FaissIndex(DIM, hnsw_from=1000), unit(rng, 2000), unit(rng, 3)
    index.add(np.arange(999), x[:999])
    assert index.pending == index.settle() == linked(index) == 0
    index.add(np.arange(999, 1000), x[999:1000])
    assert index.pending == 1000
    check(index, dict(enumerate(x[:1000])), queries, 10)
    assert index.settle() == linked(index) == 1000
    check(index, dict(enumerate(x[:1000])), queries, 10)
    index.add(np.arange(1000, 2000), x[1000:])
    check(index, dict(enumerate(x)), queries, 10)
    assert (index.pending, linked(index)) == (1000, 1000)
    index.settle()

    for part in np.array_split(np.arange(1900), 19):
        index.remove(part)
        index.settle()
        table = index._state.table
        assert table.rows - table.count <= max(100, 0.3 * table.rows)
    assert linked(index) == 0
    check(index, dict(zip(range(1900, 2000), x[1900:], strict=True)), queries, 10)


def test_a_fork_keeps_the_links_and_takes_other_vectors(make: Make) -> None:
    """Some keys are deleted, replaced, added, half of the rows not yet linked: the fork holds what it was filled with."""
    rng = np.random.default_rng(15)
    index, x, queries = make(), unit(rng, 400), unit(rng, 3)
    index.add(np.arange(300), x[:300])
    index.remove(np.arange(20, 40))
    index.add(np.arange(100, 110), x[390:])
    copy = index.fork()
    if copy is None:
        assert make().fork() is None
        return
    assert isinstance(index, FaissIndex)
    before = index.search(queries, 10)
    moved = unit(rng, 400)
    copy.remove(np.setdiff1d(copy.keys(), np.arange(40, 400)))
    for part in np.array_split(rng.permutation(np.arange(40, 400)), 7):
        copy.fill(part, moved[part])
    held = {key: moved[key] for key in range(40, 400)}
    check(copy, held, queries, 10)
    copy.settle()
    check(copy, held, queries, 10)
    copy.add(np.arange(500, 510), x[:10])  # it grows by itself
    check(copy, held | dict(zip(range(500, 510), x[:10], strict=True)), queries, 10)
    for found, was in zip(index.search(queries, 10), before, strict=True):
        np.testing.assert_array_equal(found, was)


def test_the_graph_under_other_vectors_finds_nearly_what_a_new_one_does() -> None:
    rng = np.random.default_rng(16)
    x, _ = clustered(rng, 6200, dim=64, clusters=60)
    turn = np.eye(64, dtype=np.float32) + 0.08 * rng.standard_normal((64, 64)).astype(np.float32)
    moved = x @ turn
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    index = FaissIndex(64, hnsw_from=0, ef_search=64)
    index.add(np.arange(6000), x[:6000])
    index.settle()
    copy = index.fork()
    assert copy is not None
    copy.fill(np.arange(6000), moved[:6000])
    queries = moved[6000:]
    truth = copy.exact(queries, 10)[1]
    np.testing.assert_array_equal(truth, np.argsort(-(queries @ copy.vectors(np.arange(6000)).T), axis=1)[:, :10])

    def recall() -> float:
        found = copy.search(queries, 10)[1]
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))

    kept = recall()
    copy.wear()
    assert copy.pending == 6000
    copy.settle()
    assert copy.pending == 0
    assert kept >= 0.97 * recall()
    assert recall() >= 0.98


def test_what_is_written_while_the_graph_is_made_anew_is_in_it() -> None:
    rng = np.random.default_rng(17)
    index, x, queries = FaissIndex(DIM, hnsw_from=0), unit(rng, 3000), unit(rng, 3)
    index.add(np.arange(2000), x[:2000])
    index.settle()
    index.wear()
    calls = 0

    def write() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            index.add(np.arange(1990, 2500), x[1990:2500])  # ten of them replaced
            index.remove(np.arange(10))

    assert index.settle(write) >= 2000
    assert calls > 2
    check(index, {key: x[key] for key in range(10, 2500)}, queries, 10)
    index.settle()
    assert linked(index) == index._state.table.rows
    check(index, {key: x[key] for key in range(10, 2500)}, queries, 10)


def test_settling_can_be_ended_and_goes_on_later() -> None:
    rng = np.random.default_rng(18)
    index, x = FaissIndex(DIM, hnsw_from=0), unit(rng, 3000)
    index.add(np.arange(3000), x)
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.settle(stop)
    assert 0 < index.pending < 3000
    check(index, dict(enumerate(x)), x[:2], 10)
    assert index.settle() + 3000 - index.pending > 0
    assert index.pending == 0


def test_a_mapped_file_is_copied_before_it_is_changed(tmp_path: Path) -> None:
    rng = np.random.default_rng(19)
    index, x, queries = FaissIndex(DIM, hnsw_from=0), unit(rng, 600), unit(rng, 3)
    index.add(np.arange(500), x[:500])
    index.settle()
    index.dump(tmp_path)
    before = (tmp_path / "graph.faiss").read_bytes()
    for change in ("settle", "fork", "wear"):
        again = FaissIndex.load(tmp_path)
        again.add(np.arange(500, 600), x[500:])
        if change == "fork":
            copy = again.fork()
            assert copy is not None
            copy.fill(np.arange(600), x[::-1].copy())
            check(copy, dict(enumerate(x[::-1])), queries, 10)
        if change == "wear":
            again.wear()
        again.settle()
        check(again, dict(enumerate(x)), queries, 10)
        assert (tmp_path / "graph.faiss").read_bytes() == before


@pytest.mark.parametrize("rows", [0, 40, 600])
def test_a_mapped_file_is_left_for_memory_of_its_own(tmp_path: Path, rows: int) -> None:
    rng = np.random.default_rng(20)
    index, x, queries = FaissIndex(DIM, hnsw_from=100), unit(rng, 600), unit(rng, 5)
    index.add(np.arange(rows), x[:rows])
    index.settle()
    index.dump(tmp_path)
    again = FaissIndex.load(tmp_path)
    store, found = again._now().store, again.search(queries, 7)
    assert isinstance(store, Graph)
    owned = [store._owned]
    for _ in range(2):
        again.own()
        owned.append(store._owned)
        for one, other in zip(again.search(queries, 7), found, strict=True):
            np.testing.assert_array_equal(one, other)
    assert owned == [False, True, True]
    (tmp_path / "graph.faiss").write_bytes(b"")  # would end the process of whoever still read it
    again.add(np.arange(550, 600), x[550:])
    again.settle()
    check(again, {**dict(enumerate(x[:rows])), **dict(zip(range(550, 600), x[550:], strict=True))}, queries, 10)


@pytest.mark.parametrize("mapped", [True, False], ids=["a mapped file", "one that has no room"])
def test_searches_and_writes_go_on_while_a_graph_is_copied(mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(np.random.default_rng(0), 400)
    first = FaissIndex(DIM, hnsw_from=0)
    first.add(np.arange(300), x[:300])
    first.settle()
    first.dump(tmp_path)
    index = FaissIndex.load(tmp_path) if mapped else first
    store = index._now().store
    assert isinstance(store, Graph)
    store._room = 0  # none that is known of
    index.add(np.arange(300, 400), x[300:])
    copy, copied, go_on = graph._copy, threading.Event(), threading.Event()

    def slow(old: object, new: object, rows: None = None, room: int = 0) -> None:
        copy(old, new, rows, room)
        copied.set()
        assert go_on.wait(20)

    monkeypatch.setattr(graph, "_copy", slow)
    linking = threading.Thread(target=index.settle)
    linking.start()
    assert copied.wait(20)
    asked = ints(7, 350)
    np.testing.assert_array_equal(index.search(x[asked], 1)[1][:, 0], asked)  # would wait for the copy
    for write, what in ((index.add, (ints(400), -x[:1])), (index.remove, (ints(7),))):
        writing = threading.Thread(target=write, args=what)
        writing.start()
        writing.join(20)
        assert not writing.is_alive()  # as would this
    assert linked(index) == 300
    go_on.set()
    linking.join()
    assert linked(index) == 401
    held = np.delete(np.concatenate((x, -x[:1])), 7, axis=0)
    np.testing.assert_array_equal(index.search(held, 1)[1][:, 0], np.delete(np.arange(401), 7))
    again = FaissIndex.load(tmp_path)  # the file is as it was
    assert len(again) == 300


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "in memory"])
def test_a_graph_that_is_searched_grows_where_it_is(mapped: bool, tmp_path: Path) -> None:
    """Memory that moves while rows are linked would keep searches out for as long as all of it takes to copy."""
    x = unit(np.random.default_rng(0), 1600)
    index = FaissIndex(DIM, hnsw_from=0)
    index.add(np.arange(1000), x[:1000])
    index.settle()
    if mapped:
        index.dump(tmp_path)
        index = FaissIndex.load(tmp_path)
    store = index._now().store
    assert isinstance(store, Graph)
    store._room = 0  # it may have grown by itself, and then has room for as much again
    moved = set()
    for at in range(1000, 1600, 4):
        index.add(np.arange(at, at + 4), x[at : at + 4])
        store.prepare(4)
        mine = store._mine
        index._link(4)
        assert (mine is None) == (store._left is None)  # what took its place was made before
        moved.add((store._linked_rows().ctypes.data, graph.faiss.rev_swig_ptr(store._index.hnsw.neighbors.data(), 1).ctypes.data))
    assert 2 <= len(moved) <= 7  # by an eighth each time
    np.testing.assert_array_equal(index.search(x, 1)[1][:, 0], np.arange(1600))
    assert linked(index) == 1600


def test_a_graph_knows_the_room_that_it_made_by_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CALM", 0.0)  # nobody is there whom it would keep waiting
    x = unit(np.random.default_rng(0), 4000)
    index = FaissIndex(DIM, hnsw_from=0)
    index.add(np.arange(1000), x[:1000])
    index.settle()
    store = index._now().store
    assert isinstance(store, Graph)
    room, places = store._room, {store._linked_rows().ctypes.data}
    assert 1000 <= room <= 2000
    for at in range(1000, room):
        index.add(np.array([at]), x[at : at + 1])
        store.prepare(1)
        assert store._mine is None
        index._link(1)
        places.add(store._linked_rows().ctypes.data)
    assert len(places) == 1
    assert linked(index) == store._room == room


@pytest.mark.parametrize(("calm", "waiting", "leisurely"), [(100.0, 300, True), (0.0, 300, False), (100.0, 3000, False)])
def test_few_rows_are_linked_at_leisure_beside_others(
    calm: float, waiting: int, leisurely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = unit(np.random.default_rng(0), 1000 + waiting)
    index = FaissIndex(DIM, hnsw_from=0)
    index.add(np.arange(1000), x[:1000])
    index.settle()
    index.add(np.arange(1000, 1000 + waiting), x[1000:])
    pauses: list[tuple[int, float]] = []
    linked_since, before = list[int](), index.pending

    def go_on() -> None:
        nonlocal before
        linked_since.append(before - index.pending)
        before = index.pending

    monkeypatch.setattr(base, "CALM", calm)  # seconds after which nobody counts as there who was there before
    monkeypatch.setattr("vecmeta.index.base.time.sleep", lambda seconds: pauses.append((index.pending, seconds)))
    index.settle(go_on)
    assert index.pending == 0
    steps = sum(rows > 0 for rows in linked_since)
    assert sum(linked_since) == waiting
    assert all(pending < HURRY and seconds > 0 for pending, seconds in pauses)
    assert (len(pauses) >= steps) == leisurely
    assert bool(pauses) == (calm > 0)


def test_blocks_are_a_queue() -> None:
    blocks, x = Blocks(2), np.arange(2 * (2 * BLOCK + 5), dtype=np.float32).reshape(-1, 2)
    for part in np.array_split(x, 7):
        blocks.append(part)
    assert [len(part) for part in blocks.parts()] == [BLOCK, BLOCK, 5]
    np.testing.assert_array_equal(blocks.gather(ints(0, BLOCK, 2 * BLOCK + 4)), x[[0, BLOCK, -1]])
    blocks.drop(BLOCK - 1)
    np.testing.assert_array_equal(blocks.gather(ints(0, 1, BLOCK)), x[[BLOCK - 1, BLOCK, 2 * BLOCK - 1]])
    blocks.overwrite(ints(0, 1), -x[:2])
    np.testing.assert_array_equal(blocks.gather(ints(1, 0)), -x[[1, 0]])
    for rows in (1, BLOCK, 5):
        blocks.drop(rows)
    assert len(blocks) == 0
    assert blocks.parts() == []
    blocks.append(x[:3])
    np.testing.assert_array_equal(np.concatenate(blocks.parts()), x[:3])


def test_the_graph_finds_nearly_all_and_gives_way_where_it_is_slower() -> None:
    rng = np.random.default_rng(10)
    x, _ = clustered(rng, 6000, dim=96, clusters=100)
    index = FaissIndex(96, hnsw_from=0, ef_search=64)
    index.add(np.arange(5800), x[:5800])
    index.settle()
    truth = np.argsort(-(x[5800:] @ x[:5800].T), axis=1)[:, :10]
    found = index.search(x[5800:], 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    assert recall >= 0.98
    walks = []
    store = index._state.store
    assert isinstance(store, Graph)
    walk = store._walk
    store._walk = lambda *given: walks.append(given[-1]) or walk(*given)  # type: ignore[method-assign, func-returns-value]
    index.search(x[:1], 10)
    index.search(x[:1], 10, allowed=np.arange(4000))
    index.search(x[:1], 10, allowed=np.arange(2000))  # half of what is found has to match ten times
    index.search(x[:1], 10, allowed=np.arange(400))  # few: scored one by one
    index.search(x[:1], 1000)  # many wanted: likewise
    assert walks == [64, 64, 88]


def test_copies_of_a_few_vectors_do_not_cut_off_the_rest() -> None:
    rng = np.random.default_rng(13)
    x, _ = clustered(rng, 6100, dim=96, clusters=100)
    x, queries = x[:6000], x[6000:]
    x[rng.permutation(6000)[:3000]] = np.repeat(x[:10], 300, axis=0)
    index = FaissIndex(96, hnsw_from=0)
    index.add(np.arange(6000), x)
    index.settle()
    queries = np.concatenate([queries, x[::30]])
    truth = np.sort(queries @ x.T, axis=1)[:, ::-1][:, :10]
    assert np.mean(index.search(queries, 10)[0] >= truth[:, 9:] - 1e-5) >= 0.98


def test_vectors_do_not_drift_when_rows_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "DEAD_ROWS", 10)
    rng = np.random.default_rng(14)
    index, x = FaissIndex(DIM, hnsw_from=0), unit(rng, 100)
    index.add(np.arange(100), x)
    for _ in range(30):
        index.add(np.arange(50, 100), unit(rng, 50))  # half die: the rest moves
        index.settle()
    np.testing.assert_allclose(index.vectors(np.arange(50)), x[:50], atol=2e-6)


def test_rows_that_no_walk_reaches_are_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    index, x = FaissIndex(DIM, hnsw_from=0, ef_search=64), unit(rng, 4000)
    index.add(np.arange(4000), x)
    index.settle()
    store, efs = index._state.store, []
    assert isinstance(store, Graph)
    faiss_graph, search = store._index, store._index.search

    class Unreached:
        ntotal, d = 4000, DIM

        def search(self, queries: Vectors, k: int, params: Any) -> tuple[Vectors, Keys]:
            efs.append(params.efSearch)
            scores, found = search(queries, k, params=params)
            found[0, 5:] = -1  # the first query of every batch gets stuck
            return scores, found

    store._index = Unreached()
    check(index, dict(enumerate(x)), x[:3], 10)
    assert efs == [64, 256]
    assert faiss_graph.ntotal == 4000


def test_open_index_names_what_it_knows() -> None:
    assert set(KINDS) >= {"exact", "faiss"}
    with pytest.raises(InvalidConfig, match=r"unknown index 'annoy'; known are exact, faiss"):
        open_index("annoy", 3)
    with pytest.raises(InvalidConfig, match=r"unknown option 'ef' of index 'faiss'; known are hnsw_from, m, ef_c"):
        open_index("faiss", 3, ef=3)
    with pytest.raises(InvalidConfig, match="known are none"):
        open_index("exact", 3, m=3)
    for dim in (0, -1, 2.0, True):
        with pytest.raises(InvalidConfig, match="dim"):
            open_index("exact", dim)  # type: ignore[arg-type]
    for name, value in [("m", 1), ("m", 1000), ("hnsw_from", -1), ("ef_search", 0), ("ef_construction", 0), ("m", "16")]:
        with pytest.raises(InvalidConfig, match=name):
            open_index("faiss", 3, **{name: value})


def test_the_package_loads_faiss_only_when_asked() -> None:
    code = "import sys, vecmeta.index; assert not {'faiss', 'torch'} & set(sys.modules); import vecmeta.index.faiss_index"
    subprocess.run([sys.executable, "-W", "error", "-c", code + "; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_key_tables_find_keys_in_any_order_of_arrival(order: str) -> None:
    rng = np.random.default_rng(12)
    keys = np.arange(0, 60_000, 3)
    keys = {"ascending": keys, "descending": keys[::-1].copy(), "shuffled": rng.permutation(keys)}[order]
    table = KeyTable()
    for part in np.array_split(keys, 40):
        table.append(part)
    np.testing.assert_array_equal(table.find(keys), np.arange(len(keys)))
    table.append(ints(30, 7, 10**9))  # one replaced, two new
    assert table.find(ints(30, 7, 10**9, 8)).tolist() == [20_000, 20_001, 20_002, -1]
    table.kill(table.find(ints(30)))
    assert table.find(ints(30, 33)).tolist() == [-1, int(np.flatnonzero(keys == 33)[0])]
    assert table.count == 20_001
    np.testing.assert_array_equal(table.live_keys(), np.sort(np.append(keys[keys != 30], [7, 10**9])))
    assert (table._sorted is None) == (order == "ascending")  # the common case costs nothing extra
    with pytest.raises(ValueError, match="two rows"):
        KeyTable.restored(ints(1, 1), None)
    with pytest.raises(ValueError, match="do not fit"):
        KeyTable.restored(ints(1, 1), np.ones(3, np.bool_))


@pytest.mark.parametrize("order", ["ascending", "shuffled"])
@pytest.mark.parametrize("seed", range(4))
def test_key_tables_find_keys_whose_rows_change_places(order: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, rows = KeyTable(), list[int]()  # the model: each row's key, negative once it is dead
    unused = list(range(1, 60_000, 3)) if order == "ascending" else rng.permutation(np.arange(1, 60_000, 3)).tolist()
    for _ in range(60):
        action = rng.random()
        if action < 0.4:
            again = rng.permutation([key for key in rows if key > 0])[:3].tolist() if rng.random() < 0.5 else []
            new = again + [unused.pop(0) for _ in range(int(rng.integers(1, 900)))]
            rows = [-key if key in again else key for key in rows] + new
            table.append(np.array(new))
        elif action < 0.6 and rows:
            gone = [row for row in np.unique(rng.integers(len(rows), size=5)).tolist() if rows[row] > 0]
            table.kill(np.array(gone, np.int64))
            rows = [-abs(key) if row in gone else key for row, key in enumerate(rows)]
        else:
            pairs = rng.permutation(len(rows))[: 2 * (len(rows) // 4)].reshape(2, -1)
            before = table.exchanges
            table.exchange(*pairs)
            assert table.exchanges == before + bool(pairs.size)
            for one, other in pairs.T.tolist():
                rows[one], rows[other] = rows[other], rows[one]
        live = {key: row for row, key in enumerate(rows) if key > 0}
        np.testing.assert_array_equal(table.by_row, np.abs(np.array(rows, np.int64)))
        np.testing.assert_array_equal(table.live, np.array(rows, np.int64) > 0)
        asked = np.arange(0, 60_001)
        np.testing.assert_array_equal(table.find(asked), [live.get(key, -1) for key in asked.tolist()])
        np.testing.assert_array_equal(table.live_keys(), sorted(live))
        np.testing.assert_array_equal(table.live_rows(), [live[key] for key in sorted(live)])
    copy = table.head(len(rows) // 2)
    half = {key: row for row, key in enumerate(rows[: len(rows) // 2]) if key > 0}
    np.testing.assert_array_equal(copy.find(asked), [half.get(key, -1) for key in asked.tolist()])


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_filters_follow_rows_that_change_places(share: float) -> None:
    rng = np.random.default_rng(5)
    table, slots = KeyTable(), SlotRows()
    keys = np.arange(0, 3000, 2)
    table.append(keys)
    for stamp in range(8):
        marks = rng.random(len(keys)) < share
        mask = slots.mask(table, Matching(keys, marks, 1, stamp))
        np.testing.assert_array_equal(np.sort(table.by_row[mask]), keys[marks & (table.find(keys) >= 0)])
        pairs = rng.permutation(table.rows)[:600].reshape(2, -1)
        if stamp % 2:
            table.exchange(*pairs)
        table.kill(table.find(keys[[10 * stamp, 11 * stamp + 5]]))
        more = np.arange(keys[-1] + 2, keys[-1] + 40, 2)
        table.append(more)
        keys = np.concatenate((keys, more))


def test_the_lock_lets_readers_share_and_neither_side_starve() -> None:
    lock, together = ReadWriteLock(), threading.Barrier(3)
    inside: list[str] = []

    def share() -> None:
        with lock.reading():
            together.wait(5)  # passes only when three are in at once

    def write() -> None:
        for _ in range(200):
            with lock.writing():
                inside.append("w")
                assert len(inside) == 1
                inside.pop()

    def read() -> None:
        for _ in range(200):
            with lock.reading():
                assert not inside

    for jobs in ([share] * 3, [write, write, read, read, read]):
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def test_marks_on_slots_filter_as_keys_do(make: Make) -> None:
    """Slots in another order than the rows, some without a row, keys replaced, removed and added between searches."""
    rng = np.random.default_rng(20)
    index, x, queries = make(), unit(rng, 700), unit(rng, 3)
    held: dict[int, Vectors] = {}

    def put(keys: Keys) -> None:
        index.add(keys, x[keys])
        held.update({key: x[key] for key in keys.tolist()})

    def ask(count: int, stamp: int, base: int) -> None:
        slots = np.arange(count, dtype=np.int64)
        for share in (1.0, 0.5, 0.1, 0.0):
            mask = rng.random(count) < share
            marks = Matching(slots, mask.copy(), stamp, base)
            for k in (1, 10):
                found, expected = (index.search(queries, k, allowed=allowed) for allowed in (marks, slots[mask]))
                np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
                assert set(found[1].ravel().tolist()) <= set(slots[mask].tolist()) & set(held)

    put(np.arange(400))
    ask(400, 1, 1)
    put(rng.permutation(np.arange(300, 500)))  # replaced and new ones; the slots lag behind
    ask(400, 1, 1)
    ask(500, 2, 1)
    index.remove(np.arange(50, 100))
    for key in range(50, 100):
        del held[key]
    ask(500, 2, 1)
    put(np.arange(500, 600))
    ask(700, 3, 1)  # slots of items that the index does not have yet
    put(np.arange(600, 700))
    ask(700, 3, 1)
    ask(600, 4, 4)  # others altogether
    own = Matching(ints(7, 8, 60), np.ones(3, np.bool_), 5, 5)  # what SQL found
    assert set(index.search(queries, 10, allowed=own)[1].ravel().tolist()) == {7, 8}
    index.settle()
    ask(600, 4, 4)
