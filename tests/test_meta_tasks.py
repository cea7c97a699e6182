"""The tasks of meta-training: what is said, what is asked, and that neither knows of the other."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from tests.metatoys import nuisance, unit_rows
from vecmeta.errors import InvalidConfig
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.tasks import LEAST_MEMBERS, Kind, Notion, Task, _drawn_kind, _drawn_shots, sample_task

KINDS: tuple[Kind, ...] = get_args(Kind)
CONFIG = MetaConfig(ways_most=4)
SEEDS = range(30)


def notion(overlap: bool = False, classes: int = 8, unlabelled: int = 60) -> Notion:
    """Classes of forty, some rows of no class at all; or of sixty that share twenty-five with the next."""
    x, _ = nuisance(classes, 40, 16)
    x = np.concatenate((x, unit_rows(np.random.default_rng(9).normal(size=(unlabelled, 16)))))
    size, step = (60, 35) if overlap else (40, 40)
    return Notion("toy", x, [np.arange(size) + step * c for c in range(classes)])


def places(source: Notion, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[int]:
    where = {row.tobytes(): i for i, row in enumerate(source.x)}
    return [where[row.tobytes()] for row in rows]


def classes_of(source: Notion, task: Task) -> list[set[int]]:
    """The classes that the test's columns stand for, found by the rows that they mark."""
    test = places(source, task.x)
    found = []
    for column in task.y.T:
        marked = {row for row, inside in zip(test, column, strict=True) if inside and test.count(row) == 1}
        fitting = [set(rows.tolist()) for rows in source.classes if marked <= set(rows.tolist())]
        assert len(fitting) == 1  # a column holds rows of one class, and enough of them to tell which
        found.append(fitting[0])
    return found


@pytest.mark.parametrize("overlap", [False, True], ids=["apart", "overlapping"])
@pytest.mark.parametrize("kind", KINDS)
def test_support_and_test_are_kept_apart(kind: Kind, overlap: bool) -> None:
    source = notion(overlap)
    for seed in SEEDS:
        task = sample_task(source, CONFIG, np.random.default_rng(seed), kind=kind)
        columns = task.y.shape[1]
        assert 1 <= task.fed <= 4
        assert task.fed < columns <= 8
        support, test = places(source, task.support.x), places(source, task.x)
        asked = test[:columns] if kind == "queries" else []
        again = set(support) & set(test)
        assert again <= set(asked[: task.fed])  # only the taught queries are asked again
        if kind == "queries" and not overlap:
            assert again == set(asked[: task.fed])
        assert len(set(support)) == len(support)
        assert len(set(test[len(asked) :])) == len(test) - len(asked)
        collection = places(source, task.collection)
        assert len(set(collection)) == len(collection)
        assert set(test) <= set(collection)


@pytest.mark.parametrize("overlap", [False, True], ids=["apart", "overlapping"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_the_classes(kind: Kind, overlap: bool) -> None:
    source = notion(overlap)
    for seed in SEEDS:
        task = sample_task(source, CONFIG, np.random.default_rng(seed), kind=kind, rows_per_class=12)
        test, columns = places(source, task.x), task.y.shape[1]
        asked = columns if kind == "queries" else 0
        classes = classes_of(source, task)
        assert set(np.unique(task.y)) <= {0, 1}
        np.testing.assert_array_equal(task.y[:asked], np.eye(columns)[:asked])
        np.testing.assert_array_equal(task.anchors, np.arange(len(test)) < (asked or len(test)))
        for row, marks in zip(test[asked:], task.y[asked:], strict=True):
            np.testing.assert_array_equal(marks, [row in members for members in classes])
        np.testing.assert_array_equal(task.taught, [any(marks[: task.fed]) for marks in task.y])
        assert len(task.x) > len(task.x[task.taught]) > 0
        if kind == "pairs":
            continue
        support, taught_queries = places(source, task.support.x), test[: task.fed] if asked else []
        assert task.support.y.shape[1] == task.fed
        for row, marks in zip(support, task.support.y, strict=True):
            if row in taught_queries:
                if not overlap:
                    np.testing.assert_array_equal(marks, np.eye(task.fed)[taught_queries.index(row)])
                continue
            for members, mark in zip(classes, marks, strict=False):
                assert mark == 1 if row in members else mark in (0, -1)


@pytest.mark.parametrize("kind", ["concepts", "queries"])
def test_every_taught_class_has_a_positive(kind: Kind) -> None:
    for seed in SEEDS:
        task = sample_task(notion(), CONFIG, np.random.default_rng(seed), kind=kind)
        assert (task.support.y > 0).any(0).all()


@pytest.mark.parametrize("overlap", [False, True], ids=["apart", "overlapping"])
def test_pairs_say_of_two_rows_alone_that_they_are_alike_or_not(overlap: bool) -> None:
    source = notion(overlap)
    kinds = set()
    for seed in SEEDS:
        task = sample_task(source, CONFIG, np.random.default_rng(seed), kind="pairs", shots=4, ways=3)
        assert task.fed == 3  # classes, whatever the number of pairs
        assert task.y.shape[1] == 6
        support = places(source, task.support.x)
        classes = classes_of(source, task)[:3]
        for column in task.support.y.T:
            said = np.flatnonzero(column)
            assert len(said) == 2
            rows, scores = [support[i] for i in said], sorted(column[said].tolist())
            together = [members for members in classes if set(rows) <= members]
            if scores == [1, 1]:
                assert together
            else:
                assert scores == [-1, 1]
                assert any(len(set(rows) & members) == 1 for members in classes)
            kinds.add(scores[0])
        assert (task.support.y.sum(0) == 2).sum() == 3 * 3  # the first of four with each of the others
    assert kinds == {1, -1}


def test_single_members_without_a_pair_are_concepts() -> None:
    found = 0
    for seed in range(60):
        task = sample_task(notion(), CONFIG, np.random.default_rng(seed), kind="pairs", shots=1, ways=2)
        if (task.support.y >= 0).all():
            assert task.support.y.shape == (2, 2)
            found += 1
    assert found


def test_real_negatives_are_present_and_no_members() -> None:
    seen = {}
    for kind in KINDS:
        tasks = [sample_task(notion(), CONFIG, np.random.default_rng(seed), kind=kind, ways=3) for seed in SEEDS]
        seen[kind] = np.mean([(task.support.y < 0).any() for task in tasks])
    assert seen["queries"] > 0.8
    assert seen["pairs"] > 0.8
    assert 0.2 < seen["concepts"] < 0.8  # a fifth of the concepts, three of them


def assert_shots(task: Task, shots: int) -> None:
    """As many positives per column as asked for; a real negative of one class that lies in another taught one comes on top."""
    positive, told_apart = task.support.y > 0, (task.support.y < 0).any(1)
    assert (positive.sum(0) >= shots).all()
    assert (positive[~told_apart].sum(0) <= shots).all()
    if not told_apart.any():
        assert (positive.sum(0) == shots).all()


@pytest.mark.parametrize("shots", [1, 3, 10])
def test_shots_and_ways_are_exact_when_given(shots: int) -> None:
    for seed in SEEDS:
        task = sample_task(notion(), CONFIG, np.random.default_rng(seed), ways=3, shots=shots, kind="concepts", rows_per_class=5)
        assert task.support.y.shape[1] == task.fed == 3
        assert_shots(task, shots)
        assert task.y.shape[1] == 6
        assert (task.y.sum(0) <= 5).all()
        assert (task.y[:, 3:].sum(0) > 0).all()


@pytest.mark.parametrize("negatives", [0, 1, 4])
def test_negatives_are_exact_when_given(negatives: int) -> None:
    for seed in SEEDS:
        task = sample_task(notion(), CONFIG, np.random.default_rng(seed), ways=3, kind="concepts", negatives=negatives)
        assert ((task.support.y < 0).sum(0) == negatives).all()


@pytest.mark.parametrize("shots", [1, 3])
def test_queries_hold_shots_and_the_query(shots: int) -> None:
    for seed in SEEDS:
        task = sample_task(notion(), CONFIG, np.random.default_rng(seed), ways=3, shots=shots, kind="queries")
        assert_shots(task, shots + 1)


def test_no_more_than_half_a_class_is_taken() -> None:
    task = sample_task(notion(), CONFIG, np.random.default_rng(0), ways=2, shots=1000, kind="concepts")
    assert ((task.support.y > 0).sum(0) == 20).all()


def test_what_is_not_given_is_drawn_within_bounds() -> None:
    tasks = [sample_task(notion(), CONFIG, np.random.default_rng(seed), kind="concepts") for seed in range(100)]
    counts = np.concatenate([(task.support.y > 0).sum(0) for task in tasks if (task.support.y >= 0).all()])
    assert (counts.min(), counts.max()) == (1, CONFIG.shots_most)
    assert {task.fed for task in tasks} == {1, 2, 3, 4}
    assert {len(set((task.support.y > 0).sum(0).tolist())) > 1 for task in tasks} == {True, False}  # even and uneven


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_follow_the_seed(kind: Kind) -> None:
    one, again, other = (sample_task(notion(), CONFIG, np.random.default_rng(seed), kind=kind) for seed in (3, 3, 4))
    for name in ("x", "y", "anchors", "collection"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    np.testing.assert_array_equal(one.support.x, again.support.x)
    np.testing.assert_array_equal(one.support.y, again.support.y)
    assert one.collection.tobytes() != other.collection.tobytes()


def test_the_collection_is_as_large_as_asked_for() -> None:
    for size in (50, 200, 10**6):
        task = sample_task(notion(), CONFIG, np.random.default_rng(0), collection=size)
        assert min(size, 380) <= len(task.collection) <= min(size + len(task.x), 380)


def test_two_classes_are_enough_and_all_can_be_taught() -> None:
    source = notion(classes=2)
    for seed in SEEDS:
        assert sample_task(source, CONFIG, np.random.default_rng(seed)).fed == 1
    whole = sample_task(source, CONFIG, np.random.default_rng(0), ways=2, kind="concepts")
    assert whole.y.shape[1] == 2
    assert whole.taught.all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_classes_make_tasks(kind: Kind) -> None:
    source = notion(classes=4)
    small = Notion("small", source.x, [rows[:LEAST_MEMBERS] for rows in source.classes])
    for seed in SEEDS:
        task = sample_task(small, CONFIG, np.random.default_rng(seed), kind=kind)
        assert (task.y.sum(0) >= 1).all()
        assert np.isfinite(task.support.x).all()


def test_the_mixture_of_kinds() -> None:
    rng = np.random.default_rng(0)
    drawn = [_drawn_kind(MetaConfig(query_share=0.3, pair_share=0.2), rng) for _ in range(3000)]
    shares: tuple[tuple[Kind, float], ...] = (("queries", 0.3), ("pairs", 0.2), ("concepts", 0.5))
    for kind, share in shares:
        assert drawn.count(kind) / 3000 == pytest.approx(share, abs=0.04)
    for name, kind in (("query_share", "queries"), ("pair_share", "pairs")):
        config = MetaConfig(**{"query_share": 0, "pair_share": 0, name: 1})
        assert {_drawn_kind(config, rng) for _ in range(50)} == {kind}
    drawn_shots = [_drawn_shots(MetaConfig(shots_most=4), rng) for _ in range(3000)]
    for shots in (1, 2, 3, 4):  # uniform in the logarithm
        assert drawn_shots.count(shots) / 3000 == pytest.approx(np.log((shots + 1) / shots) / np.log(5), abs=0.04)


def test_a_notion_needs_two_classes() -> None:
    x = notion().x
    with pytest.raises(InvalidConfig, match="'one'"):
        Notion("one", x, [np.arange(50), np.arange(LEAST_MEMBERS - 1)])
    assert len(Notion("two", x, [np.arange(12), np.arange(12, 24), np.arange(3)]).classes) == 2
