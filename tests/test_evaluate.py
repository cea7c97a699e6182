"""Metrics against independent computations: scikit-learn, plain loops, and cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from vecmeta.evaluate import Gate, Interval, average_precision, bootstrap, log_rank, map_at_r, ndcg, nearest, overlap, recall


def unit(shape: tuple[int, int], seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


QUERIES, CORPUS = unit((7, 8), 0), unit((50, 8), 1)
RELEVANT = np.random.default_rng(2).random((7, 50)) < 0.2


def test_average_precision_is_scikit_learns() -> None:
    expected = [average_precision_score(r, q @ CORPUS.T) for q, r in zip(QUERIES, RELEVANT, strict=True)]
    np.testing.assert_allclose(average_precision(QUERIES, CORPUS, RELEVANT), expected, atol=1e-6)


def test_average_precision_without_the_query_itself() -> None:
    rows = np.arange(5)
    relevant = RELEVANT[:5].copy()
    relevant[rows, rows] = True  # the query itself, at rank 1: it must not count
    others = np.array([np.delete(np.arange(50), row) for row in rows])
    expected = [average_precision_score(relevant[i][o], CORPUS[o] @ CORPUS[i]) for i, o in zip(rows, others, strict=True)]
    np.testing.assert_allclose(average_precision(CORPUS[rows], CORPUS, relevant, exclude=rows), expected, atol=1e-6)


def test_map_at_r_by_a_plain_loop() -> None:
    for query, relevant, found in zip(QUERIES, RELEVANT, map_at_r(QUERIES, CORPUS, RELEVANT), strict=True):
        ranked = relevant[np.argsort(-(CORPUS @ query))]
        total = int(relevant.sum())
        expected = sum(ranked[: i + 1].mean() for i in range(total) if ranked[i]) / total
        assert found == pytest.approx(expected)


def test_ndcg_is_scikit_learns() -> None:
    gains = np.random.default_rng(3).integers(0, 4, size=(7, 50)).astype(float)
    expected = [ndcg_score(g[None], (q @ CORPUS.T)[None], k=10) for q, g in zip(QUERIES, gains, strict=True)]
    np.testing.assert_allclose(ndcg(QUERIES, CORPUS, gains, 10), expected, atol=1e-6)


def test_queries_with_nothing_relevant_are_nan() -> None:
    nothing = np.zeros((7, 50), bool)
    for found in (
        average_precision(QUERIES, CORPUS, nothing),
        map_at_r(QUERIES, CORPUS, nothing),
        ndcg(QUERIES, CORPUS, nothing * 1.0),
    ):
        assert np.isnan(found).all()


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = average_precision(QUERIES, CORPUS, RELEVANT)
    monkeypatch.setattr("vecmeta.evaluate._BLOCK", 100)
    np.testing.assert_array_equal(average_precision(QUERIES, CORPUS, RELEVANT), whole)


def test_log_rank_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6, -np.inf]], np.float32)
    # Relevant at places 1 and 4; the irrelevant ones before them are 0 and 2.
    relevant = np.array([[True, False, False, True, False]])
    assert log_rank(scores, relevant)[0] == pytest.approx((math.log2(1) + math.log2(3)) / 2)
    assert np.isnan(log_rank(scores, relevant & False)[0])


@pytest.mark.parametrize("block", [1, 1000, 1 << 24])
def test_log_rank_by_counting(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 20, size=(15, 40)).astype(np.float32)  # many are equal
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    relevant = rng.random(scores.shape) < 0.15
    relevant[4] = False
    monkeypatch.setattr("vecmeta.evaluate._BLOCK", block)
    for found, row, wanted in zip(log_rank(scores, relevant), scores, relevant, strict=True):
        ranks = [1 + sum(row[i] > row[item] for i in range(40) if not wanted[i]) for item in np.flatnonzero(wanted)]
        np.testing.assert_allclose(found, np.mean(np.log2(ranks)) if ranks else np.nan)


def test_nearest_and_overlap_by_sorting() -> None:
    found = nearest(CORPUS, np.array([3, 7]), 5)
    for row, neighbours in zip((3, 7), found, strict=True):
        order = np.argsort(-(CORPUS @ CORPUS[row]))
        assert neighbours.tolist() == [i for i in order if i != row][:5]
    assert nearest(CORPUS[:3], np.array([0]), 10).shape == (1, 2)
    assert overlap(np.array([[1, 2, 3, 4]]), np.array([[4, 3, 9, 8]])).tolist() == [0.5]


def test_recall_divides_by_the_true_ones() -> None:
    assert recall(np.array([[1, 2]]), np.array([[1, 2, 3, 4]])) == 0.5


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        groups = np.repeat(np.arange(15), 4)
        values = 0.3 + np.repeat(rng.normal(size=15), 4) + 0.2 * rng.normal(size=60)
        interval = bootstrap(values, groups, draws=500, seed=seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.8 < hits / 200 < 0.96  # 90 % wanted; the percentile interval is a little narrow for 15 groups


def test_bootstrap_of_independent_values_is_narrower_than_of_groups() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 10)
    alone, together = bootstrap(values, np.arange(100)), bootstrap(values, np.repeat(np.arange(10), 10))
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert alone.mean == together.mean == pytest.approx(values.mean())
    assert bootstrap(np.empty(0), np.empty(0, np.int64)) == Interval(0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("fed", "unfed", "harmed", "promoted", "says"),
    [
        (Interval(0.5, 0.2, 0.8, 60), Interval(0.0, -0.1, 0.1, 30), 0.0, True, "found better"),
        (Interval(-0.1, -0.2, 0.0, 60), Interval(0.0, -0.1, 0.1, 30), 0.0, False, "not be found better"),
        (Interval(0.1, -0.2, 0.4, 60), Interval(0.0, -0.1, 0.1, 30), 0.0, False, "chance"),
        (Interval(0.5, 0.2, 0.8, 60), Interval(-0.4, -0.6, -0.2, 30), 0.0, False, "not taught"),
        (Interval(0.5, 0.2, 0.8, 60), Interval(0.0, 0.0, 0.0, 0), 0.7, False, "neighbours"),
        (Interval(0.5, 0.2, 0.8, 60), Interval(0.0, 0.0, 0.0, 0), 0.2, True, "found better"),
    ],
)
def test_the_gate(fed: Interval, unfed: Interval, harmed: float, promoted: bool, says: str) -> None:
    decision, reason = Gate()(fed, unfed, harmed)
    assert decision is promoted
    assert says in reason
