"""Episodes, statistics of a collection, and the tasks of meta-training."""

from __future__ import annotations

import time

import numpy as np
import pytest

from vecmeta.errors import InvalidConfig, InvalidJudgement, InvalidVector
from vecmeta.meta.episodes import Episode, Notion, sample_task, statistics
from vecmeta.meta.start import MetaConfig, initial_start
from vecmeta.types import Vectors

START = initial_start()


def clusters(classes: int, per_class: int, dim: int = 16, spread: float = 0.5, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.normal(size=(classes, dim)), per_class, 0) + spread * rng.normal(size=(classes * per_class, dim))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def test_an_episode_is_checked_once() -> None:
    x = clusters(2, 3)
    y = np.zeros((6, 2), np.float32)
    y[0, 0] = y[1, 1] = 1
    assert Episode(x, y).concepts == 2
    y[1, 1] = -1
    assert Episode(x, y).concepts == 1
    for bad in (x * 2, x * np.nan, np.zeros_like(x), x[0], x[:0]):
        with pytest.raises(InvalidVector):
            Episode(bad, y)
    for wrong in (y[:3], y[:, 0], y * 2, y * 0, -np.abs(y), y * np.nan):
        with pytest.raises(InvalidJudgement):
            Episode(x, wrong)


def test_statistics_find_the_clusters_and_repeat_themselves() -> None:
    x = clusters(10, 40, spread=0.05)
    sample = x[np.random.default_rng(3).permutation(len(x))]
    stats = statistics(sample, START, 1000, seed=1)
    assert stats.background.shape[0] <= 50
    np.testing.assert_allclose(stats.mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(stats.background, axis=1), 1, atol=1e-5)
    centred = x - stats.mean / 2  # sigmoid(0) of the mean
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert (centred @ stats.background.T).max(1).mean() > 0.95
    again = statistics(sample, START, 1000, seed=1)
    assert stats.background.tobytes() == again.background.tobytes()
    assert stats.background.tobytes() != statistics(sample, START, 1000, seed=2).background.tobytes()


def test_the_number_of_centroids_follows_the_collection() -> None:
    x = clusters(500, 20, spread=1.0)
    for n, most in ((10, 8), (1000, 50), (4000, 200), (10**7, START.config.background_most)):
        got = len(statistics(x, START, n).background)
        assert 0.9 * most <= got <= most


@pytest.mark.parametrize("m", [1, 2, 3, 8])
def test_tiny_collections(m: int) -> None:
    stats = statistics(clusters(m, 1), START, m)
    assert 1 <= len(stats.background) <= m
    assert np.isfinite(stats.background).all()


def test_duplicates_and_opposites() -> None:
    one = clusters(1, 1)
    alike = statistics(np.repeat(one, 500, 0), START, 500)
    assert len(alike.background) == 1
    np.testing.assert_allclose(alike.background[0], one[0], atol=1e-5)
    half = statistics(np.concatenate((np.repeat(one, 200, 0), clusters(20, 10, seed=4))), START, 400)
    assert len(half.background) >= 4
    assert np.isfinite(statistics(np.concatenate((one, -one)), START, 2).background).all()


def test_bad_samples() -> None:
    for bad in (np.zeros((0, 4), np.float32), np.zeros(4, np.float32), np.full((2, 4), np.nan, np.float32)):
        with pytest.raises(InvalidVector):
            statistics(bad, START, 5)
    with pytest.raises(InvalidConfig):
        statistics(clusters(1, 1), START, 0)


def test_statistics_are_quick() -> None:
    x = clusters(150, 30, dim=384, spread=1.0)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        statistics(x, START, len(x))
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.0  # 0.07 s on an idle core; the bound leaves room for a busy machine


def notion(overlap: bool = False) -> Notion:
    x = clusters(8, 40)
    classes = [np.arange(40) + 40 * c for c in range(8)]
    if overlap:
        classes = [np.arange(60) + 35 * c for c in range(8)]
    return Notion("toy", x, [rows[rows < len(x)] for rows in classes])


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
def test_tasks_keep_support_and_test_apart(queries: bool, overlap: bool) -> None:
    source, config = notion(overlap), MetaConfig(ways_most=4)
    place = {row.tobytes(): i for i, row in enumerate(source.x)}
    for seed in range(30):
        task = sample_task(source, config, np.random.default_rng(seed), queries=queries)
        columns = task.y.shape[1]
        assert 1 <= task.fed <= 4
        assert task.fed < columns <= 8
        assert set(np.unique(task.y)) <= {0, 1}
        support, test = ([place[row.tobytes()] for row in part] for part in (task.support.x, task.x))
        asked = columns if queries else 0
        assert set(support) & set(test) <= set(test[:asked])  # only the taught queries are asked again
        assert (task.support.y > 0).any(0).all()
        assert task.anchors.sum() == (asked or len(test))
        if queries:
            np.testing.assert_array_equal(task.y[:asked], np.eye(columns))
        collection = {place[row.tobytes()] for row in task.collection}
        assert set(test) <= collection


def test_tasks_hold_real_negatives_and_follow_the_seed() -> None:
    source, config = notion(), MetaConfig(ways_most=4)
    tasks = [sample_task(source, config, np.random.default_rng(seed), queries=True) for seed in range(10)]
    assert any((task.support.y < 0).any() for task in tasks)
    again = sample_task(source, config, np.random.default_rng(3), queries=True)
    np.testing.assert_array_equal(again.x, tasks[3].x)
    np.testing.assert_array_equal(again.support.y, tasks[3].support.y)
    task = sample_task(source, config, np.random.default_rng(0), ways=3, shots=5, queries=False)
    assert task.support.y.shape[1] == 3
    assert ((task.support.y > 0).sum(0) == 5).all()


def test_a_notion_needs_two_classes() -> None:
    with pytest.raises(InvalidConfig, match="'one'"):
        Notion("one", clusters(1, 50), [np.arange(50), np.arange(3)])
