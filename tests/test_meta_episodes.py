"""Episodes, statistics of a collection, and what becomes of them as tensors."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tests.metatoys import SCORES, judged, nuisance, support64, unit_rows
from vecmeta.errors import InvalidConfig, InvalidJudgement, InvalidVector
from vecmeta.meta.episodes import BACKGROUND_MOST, Episode, Statistics, kmeans, statistics
from vecmeta.meta.support import USUAL_TIGHTNESS, Support, draw_rows, facts_of, padded, stacked, support_of
from vecmeta.types import Vectors


def clusters(classes: int, per_class: int, dim: int = 16, spread: float = 0.5, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    return unit_rows(
        np.repeat(rng.normal(size=(classes, dim)), per_class, 0) + spread * rng.normal(size=(classes * per_class, dim))
    )


def test_an_episode_is_checked_once() -> None:
    x = clusters(2, 3)
    y = np.zeros((6, 2), np.float32)
    y[0, 0] = y[1, 1] = 1
    assert Episode(x, y).concepts == 2
    y[1, 1] = -1
    assert Episode(x, y).concepts == 1
    nan = x.copy()
    nan[3, 2] = np.nan
    for bad in (x * 2, x * np.nan, nan, np.zeros_like(x), x[0], x[:0], x[:, :0]):
        with pytest.raises(InvalidVector):
            Episode(bad, y)
    with pytest.raises(InvalidVector, match="row 3 "):
        Episode(nan, y)
    for wrong in (y[:3], y[:, 0], y * 2, y * 0, -np.abs(y), y * np.nan):
        with pytest.raises(InvalidJudgement):
            Episode(x, wrong)
    taken = Episode(x.astype(np.float64), y.astype(int))
    assert taken.x.dtype == taken.y.dtype == np.float32


# -- statistics


def test_statistics_find_the_clusters_and_repeat_themselves() -> None:
    x = clusters(10, 40, spread=0.05)
    sample = x[np.random.default_rng(3).permutation(len(x))]
    stats = statistics(sample, 1000, seed=1)
    assert stats.background.shape[0] <= 50
    np.testing.assert_allclose(stats.mean, x.mean(0), atol=1e-6)
    assert (unit_rows(x) @ unit_rows(stats.background).T).max(1).min() > 0.95
    again = statistics(sample, 1000, seed=1)
    for one, other in zip(vars(stats).values(), vars(again).values(), strict=True):
        assert one.dtype == np.float32
        assert one.tobytes() == other.tobytes()
    assert stats.background.tobytes() != statistics(sample, 1000, seed=2).background.tobytes()


@pytest.mark.parametrize("n", [30, 600, 5000])
def test_counts_sum_to_the_collection_and_the_background_holds_means(n: int) -> None:
    x = clusters(10, 60)
    stats = statistics(x, n)
    assert stats.counts.sum() == pytest.approx(n, rel=1e-5)
    assert (stats.counts > 0).all()
    # weighted by their counts, the clusters' means are the mean of the rows that were looked at
    looked_at = x[np.random.default_rng(0).permutation(len(x))[: int(np.clip(n // 20, 8, BACKGROUND_MOST)) * 20]]
    np.testing.assert_allclose(stats.counts @ stats.background / n, looked_at.mean(0), atol=1e-5)


def test_the_background_is_the_mean_of_each_cluster_recomputed() -> None:
    x = clusters(6, 50, spread=0.2)
    stats = statistics(x, len(x))
    rows = x[np.random.default_rng(0).permutation(len(x))]
    centred = rows - x.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    centroids = kmeans(centred, 15)
    nearest = [int(np.argmax([row @ centroid for centroid in centroids])) for row in centred]
    found = [(rows[np.array(nearest) == c].mean(0), nearest.count(c)) for c in range(len(centroids)) if c in nearest]
    np.testing.assert_allclose(stats.background, [mean for mean, _ in found], atol=1e-5)
    np.testing.assert_allclose(stats.counts, [count for _, count in found], atol=1e-4)


def test_kmeans_against_plain_loops() -> None:
    x = clusters(5, 12)[np.random.default_rng(0).permutation(60)]
    centroids = x[:7].astype(np.float64)
    for rows in [x[:20]] * 4 + [x] * 2:
        members: list[list[Vectors]] = [[] for _ in centroids]
        for row in rows:
            members[int(np.argmax(centroids @ row))].append(row)
        sums = np.array([np.sum(group, 0, dtype=np.float64) for group in members if group])
        centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(kmeans(x, 7), centroids, atol=1e-5)


def test_the_number_of_clusters_follows_the_collection() -> None:
    x = clusters(500, 24, spread=1.0)
    for n, most in ((10, 8), (1000, 50), (4000, 200), (10**7, BACKGROUND_MOST)):
        got = len(statistics(x, n).background)
        assert 0.9 * most <= got <= most
    assert len(statistics(x, 1000, divisor=100).background) <= 10
    assert len(statistics(x, 10**7, most=20).background) <= 20


@pytest.mark.parametrize("m", [1, 2, 3, 8])
def test_tiny_collections(m: int) -> None:
    stats = statistics(clusters(m, 1), m)
    assert 1 <= len(stats.background) <= m
    assert stats.counts.sum() == pytest.approx(m)
    assert np.isfinite(stats.background).all()


def test_duplicates_and_opposites() -> None:
    one = clusters(1, 1)
    alike = statistics(np.repeat(one, 500, 0), 500)
    np.testing.assert_allclose(alike.background, np.repeat(one, len(alike.background), 0), atol=1e-5)
    half = statistics(np.concatenate((np.repeat(one, 200, 0), clusters(20, 10, seed=4))), 400)
    assert len(half.background) >= 4
    opposite = statistics(np.concatenate((one, -one)), 2)
    np.testing.assert_allclose(opposite.mean, 0, atol=1e-7)
    assert {tuple(np.round(row, 4)) for row in opposite.background} == {tuple(np.round(row, 4)) for row in (one[0], -one[0])}


def test_bad_samples() -> None:
    for bad in (np.zeros((0, 4), np.float32), np.zeros(4, np.float32), np.full((2, 4), np.nan, np.float32)):
        with pytest.raises(InvalidVector):
            statistics(bad, 5)
    with pytest.raises(InvalidConfig):
        statistics(clusters(1, 1), 0)


def test_statistics_are_quick() -> None:
    x = clusters(150, 30, dim=384, spread=1.0)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        statistics(x, len(x))
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.0  # 0.07 s on an idle core; the bound leaves room for a busy machine


# -- as tensors


def test_a_support_leaves_out_columns_without_positives() -> None:
    x, labels = nuisance(6, 20, 16)
    rows, y = judged(labels, [0, 1, 2], 3)
    y[-3:, 2] = -1
    stats = statistics(x, len(x))
    support = support_of(Episode(x[rows], y), stats, 100, np.random.default_rng(0), dtype=torch.float64)
    np.testing.assert_array_equal(support.y, y[:, :2])
    np.testing.assert_array_equal(support.x, x[rows])
    np.testing.assert_array_equal(support.counts, stats.counts)
    for mask, length in ((support.rows, 9), (support.concepts, 2), (support.clusters, len(stats.background))):
        np.testing.assert_array_equal(mask, np.ones(length))
    assert {part.dtype for part in support} == {torch.float64}


def test_drawn_rows_are_balanced_and_come_in_pairs() -> None:
    y = np.zeros((3000, 3), np.float32)
    y[:2900, 0] = y[2900:2990, 1] = y[2990:, 2] = 1
    y[2990:2995, 0] = -1
    drawn = draw_rows(y, 300, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn.tolist())) <= 300
    assert (np.diff(drawn) > 0).all()
    counts = (y[drawn] > 0).sum(0)
    assert counts[0] <= 101
    assert counts[1] == 90
    assert counts[2] == 10
    many = draw_rows(np.eye(1000, dtype=np.float32).repeat(5, 0), 200, np.random.default_rng(0))
    assert len(many) <= 200
    sizes = np.bincount(many // 5)
    assert (sizes[sizes > 0] >= 2).mean() > 0.9


def test_drawing_among_thousands_of_negatives_keeps_a_positive() -> None:
    y = np.full((3001, 1), -1, np.float32)
    y[1234] = 1
    for seed in range(30):
        for most in (1, 2, 20):
            drawn = draw_rows(y, most, np.random.default_rng(seed))
            assert 1234 in drawn
            assert len(drawn) == most


def test_a_support_of_too_many_rows_is_drawn_and_keeps_no_empty_concept() -> None:
    x = unit_rows(np.random.default_rng(0).normal(size=(400, 8)))
    y = np.eye(100, dtype=np.float32).repeat(4, 0)
    stats = statistics(x, len(x))
    supports = [support_of(Episode(x, y), stats, 60, np.random.default_rng(3)) for _ in range(2)]
    assert len(supports[0].x) <= 60
    assert (supports[0].y > 0).any(0).all()
    assert 10 <= supports[0].y.shape[1] <= 60
    for one, other in zip(*supports, strict=True):
        assert torch.equal(one, other)
    whole = support_of(Episode(x, y), stats, 400, np.random.default_rng(3))
    np.testing.assert_array_equal(whole.x, x)


def test_stacking_pads_with_what_is_masked() -> None:
    small, large = support64(0, y=np.array(SCORES)[:4, :1], clusters=3), support64(1, clusters=9)
    batch = stacked([small, large])
    for name in Support._fields:
        for place, one in enumerate((small, large)):
            want = getattr(one, name)
            got = getattr(batch, name)[place]
            here = tuple(slice(0, length) for length in want.shape)
            torch.testing.assert_close(got[here], want)
            assert got.sum().item() == pytest.approx(want.sum().item())  # and zeros around it
    assert batch.x.shape == (2, 10, 6)
    assert batch.y.shape == (2, 10, 3)
    assert batch.background.shape == (2, 9, 6)
    torch.testing.assert_close(padded(torch.ones(2, 3), (4,)), torch.cat((torch.ones(2, 3), torch.zeros(2, 3))))


def test_facts_against_plain_loops() -> None:
    support = support64()
    share = 0.4
    facts = facts_of(support, torch.tensor(share).double())
    x, y = support.x.numpy() - share * support.mean.numpy(), support.y.numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(facts.x, x, atol=1e-11)
    known = {}
    for c in range(3):
        weights = np.maximum(y[:, c], 0)
        np.testing.assert_allclose(facts.sums[c], sum(w * row for w, row in zip(weights, x, strict=True)), atol=1e-10)
        assert facts.number[c].item() == pytest.approx(weights.sum())
        two = [(weights[i] * weights[j], x[i] @ x[j]) for i in range(10) for j in range(10) if i != j]
        if sum(w for w, _ in two) > 0:
            known[c] = sum(w * cosine for w, cosine in two) / sum(w for w, _ in two)
    usual = (sum(known.values()) + 1e-3 * USUAL_TIGHTNESS) / (len(known) + 1e-3)
    assert sorted(known) == [0, 1]
    np.testing.assert_allclose(facts.tightness, [known[0], known[1], usual], atol=1e-9)
    background = support.background.numpy() - share * support.mean.numpy()
    np.testing.assert_allclose(facts.background, background / np.linalg.norm(background, axis=1, keepdims=True), atol=1e-10)


def test_the_usual_tightness_where_no_concept_tells() -> None:
    facts = facts_of(support64(y=[[1, 0], [0, 1]]), torch.tensor(0.5).double())
    np.testing.assert_allclose(facts.tightness, [USUAL_TIGHTNESS] * 2)


def test_statistics_are_what_they_are_given_as() -> None:
    stats = Statistics(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    support = support_of(Episode(np.eye(2, dtype=np.float32), np.ones((2, 1), np.float32)), stats, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(support.background, stats.background)
    np.testing.assert_array_equal(support.mean, stats.mean)
