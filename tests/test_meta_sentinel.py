"""The shift sentinel: what it measures, and when it speaks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.metatoys import SCORES, toy_notion, unit_rows
from vecmeta.meta.episodes import Episode, Statistics, statistics
from vecmeta.meta.sentinel import FEATURES, SLACK, familiar, features, shift
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.tasks import sample_task

CONFIG = MetaConfig(ways_most=5)


def example(seed: int, **more: int) -> tuple[Episode, Statistics]:
    task = sample_task(toy_notion(), CONFIG, np.random.default_rng(seed), **more)  # type: ignore[arg-type]
    return task.support, statistics(task.collection, len(task.collection))


@pytest.fixture(scope="module")
def examples() -> list[tuple[Episode, Statistics]]:
    return [example(seed) for seed in range(120)]


def by_hand(episode: Episode, stats: Statistics) -> NDArray[np.float64]:
    def moved(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        out = rows.astype(np.float64) - stats.mean
        return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True))

    x, m = moved(episode.x), moved(stats.background)
    y = np.array([column for column in episode.y.T.tolist() if max(column) > 0]).T
    n, c = y.shape
    positive = np.maximum(y, 0)
    sums = [sum(positive[i, k] * x[i] for i in range(n)) for k in range(c)]
    own, margin = [], []
    for i in range(n):
        strangers = [x[i] @ sums[k] / np.linalg.norm(sums[k]) for k in range(c) if y[i, k] <= 0]
        elsewhere = max([*strangers, np.median([x[i] @ row for row in m])])
        for k in range(c):
            others = [positive[j, k] * x[j] for j in range(n) if j != i and positive[j, k] > 0]
            if positive[i, k] > 0 and others:
                cosine = x[i] @ sum(others) / np.linalg.norm(sum(others))
                own.append(cosine)
                margin.append(cosine - elsewhere)
    values = np.linalg.eigvalsh((m - m.mean(0)).T @ (m - m.mean(0)))
    return np.array(
        [
            np.log(c),
            np.log(np.mean([positive[:, k].sum() for k in range(c)])),
            (y < 0).sum() / ((y < 0).sum() + (y > 0).sum()),
            np.mean(own) if own else np.nan,
            np.mean(margin) if margin else np.nan,
            np.mean([max(row @ s / np.linalg.norm(s) for row in m) for s in sums]),
            np.linalg.norm(stats.mean),
            np.log(values.sum() ** 2 / (values**2).sum()),
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_features_in_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, collection = unit_rows(rng.normal(size=(10, 7))), unit_rows(rng.normal(size=(90, 7)) + 0.3)
    y = np.concatenate((np.array(SCORES), -np.eye(10)[:, :1]), 1).astype(np.float32)  # the last column teaches nothing
    episode, stats = Episode(x, y), statistics(collection, 90)
    got = features(episode, stats)
    assert got.shape == (len(FEATURES),)
    np.testing.assert_allclose(got, by_hand(episode, stats), atol=2e-5)


def test_features_of_tasks_in_plain_loops(examples: list[tuple[Episode, Statistics]]) -> None:
    for episode, stats in examples[:12]:
        np.testing.assert_allclose(features(episode, stats), by_hand(episode, stats), atol=2e-5)


def test_what_single_judgements_do_not_tell() -> None:
    x = unit_rows(np.random.default_rng(0).normal(size=(40, 5)))
    found = features(Episode(x[:2], np.eye(2, dtype=np.float32)), statistics(x, 40))
    names = list(FEATURES)
    assert [names[i] for i in np.flatnonzero(np.isnan(found))] == ["tightness", "margin"]


def test_a_collection_of_one_or_of_equal_clusters_has_no_spread() -> None:
    x = unit_rows(np.random.default_rng(0).normal(size=(3, 5)))
    episode = Episode(x, np.ones((3, 1), np.float32))
    for background in (x[:1], np.repeat(x[:1], 4, 0)):
        stats = Statistics(np.zeros(5, np.float32), background, np.ones(len(background), np.float32))
        found = features(episode, stats)
        assert np.isfinite(found).all()
        assert found[-1] == 0


def test_what_is_kept_is_mean_covariance_and_limit(examples: list[tuple[Episode, Statistics]]) -> None:
    known = familiar(examples)
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    seen = np.stack([features(*one) for one in examples])
    np.testing.assert_allclose(known["mean"], np.nanmean(seen, 0), atol=1e-5)
    filled = np.where(np.isnan(seen), np.nanmean(seen, 0), seen)
    away = filled - filled.mean(0)
    covariance = away.T @ away / len(seen) + np.diag(0.05 * filled.var(0) + 1e-4)
    np.testing.assert_allclose(known["covariance"], covariance, atol=1e-6)
    distances = [np.sqrt(row @ np.linalg.inv(covariance) @ row) for row in away]
    assert known["limit"] == pytest.approx(np.quantile(distances, 0.995), rel=1e-3)
    assert known["tasks"] == len(examples)
    few = away.copy()
    few[:, :2] = np.minimum(few[:, :2], 0)  # more concepts and more shots than usual are no reason for distrust
    distances = [np.sqrt(row @ np.linalg.inv(covariance) @ row) for row in few]
    for (episode, stats), distance in list(zip(examples, distances, strict=True))[:5]:
        assert shift(known, episode, stats)[0] == pytest.approx(distance / (SLACK * known["limit"]), rel=1e-2)


def test_episodes_as_in_training_are_within_the_limit(examples: list[tuple[Episode, Statistics]]) -> None:
    known = familiar(examples)
    found = [shift(known, *example(seed)) for seed in range(1000, 1040)]
    assert np.mean([ratio <= 1 for ratio, _ in found]) >= 0.95
    assert all((sentence is None) == (ratio <= 1) for ratio, sentence in found)


def test_absurd_episodes_are_beyond_it_and_the_sentence_says_in_what(examples: list[tuple[Episode, Statistics]]) -> None:
    known, rng = familiar(examples), np.random.default_rng(0)
    _, stats = examples[0]
    x = unit_rows(rng.normal(size=(1000, 16)))
    noise = unit_rows(np.repeat(rng.normal(size=(1, 16)), 200, 0))
    one = np.ones((200, 1), np.float32)
    cases = {
        "tightness": (Episode(np.repeat(x[:4], 3, 0), np.eye(4, dtype=np.float32).repeat(3, 0)), stats),
        "negatives": (Episode(x[:200], np.where(np.arange(200)[:, None] < 5, one, -one)), stats),
        "mean": (Episode(noise, one), statistics(noise, 200)),  # a collection of one and the same row
    }
    for name, (episode, about) in cases.items():
        ratio, sentence = shift(known, episode, about)
        assert ratio > 1, name
        assert sentence is not None
        assert FEATURES[name] in sentence


def test_one_task_and_single_judgements_are_enough_to_know_something() -> None:
    one = example(0, ways=2, shots=1)
    known = familiar([one])
    assert all(np.isfinite(value).all() for value in (known["mean"], known["covariance"], known["limit"]))
    ratio, sentence = shift(known, *one)
    assert ratio < 1e-2
    assert sentence is None
    assert shift(known, *example(5, ways=5, shots=10))[0] > 1
