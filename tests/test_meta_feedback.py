"""Bending a query: the formula against scikit-learn and by hand, what it must not depend on, and degenerate input."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vecmeta as vm
from vecmeta.meta.feedback import (
    CENTRED,
    DISLIKED,
    HALF_DISLIKED,
    HALF_LIKED,
    LEAST,
    LIKED,
    RIDGE,
    TRUST,
    Landscape,
    bend,
    survey,
)
from vecmeta.types import Vector, Vectors


def unit(x: NDArray[Any]) -> Vectors:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def cloud(n: int = 300, dim: int = 24, seed: int = 0) -> Vectors:
    """Unit rows around a common mean, with a few directions in which they vary most: as encoders give them."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(n, dim)) * np.linspace(2, 0.3, dim) + 0.5)


def scored(*scores: float) -> Vector:
    return np.array(scores, dtype=np.float32)


X = cloud()
LAND = survey(X)


# -- closed forms ------------------------------------------------------------------------------------------------------------


def test_the_lens_is_the_precision_of_scikit_learns_shrunk_covariance() -> None:
    from sklearn.covariance import ShrunkCovariance

    shrunk = ShrunkCovariance(shrinkage=RIDGE / (1 + RIDGE)).fit(X.astype(np.float64))
    variance = np.trace(np.cov(X.T.astype(np.float64), bias=True)) / X.shape[1]
    by_hand = RIDGE / (1 + RIDGE) * variance * shrunk.precision_
    np.testing.assert_allclose(LAND.lens, by_hand, atol=1e-5)
    np.testing.assert_allclose(LAND.mean, X.mean(0), atol=1e-6)
    assert LAND.lens.dtype == LAND.mean.dtype == np.float32
    np.testing.assert_allclose(LAND.lens, LAND.lens.T, atol=1e-6)


def test_liked_items_without_a_query_give_the_shrunk_discriminant() -> None:
    """t l (S + l I)^-1 (liked - c mu) + (1 - t) (liked - c mu), found by solving the system instead of inverting the matrix."""
    x = X.astype(np.float64)
    spread = np.cov(x.T, bias=True)
    ridge = RIDGE * np.trace(spread) / x.shape[1]
    for rows in ([3], [3, 4, 5]):
        wish = x[rows].mean(0) - CENTRED * x.mean(0)
        trust = len(rows) / (len(rows) + TRUST)
        by_hand = trust * ridge * np.linalg.solve(spread + ridge * np.eye(x.shape[1]), wish) + (1 - trust) * wish
        bent = bend(None, X[rows], np.ones(len(rows), np.float32), LAND)
        np.testing.assert_allclose(bent, by_hand / np.linalg.norm(by_hand), atol=1e-5)


def test_query_liked_and_disliked_by_hand() -> None:
    x, mu = X.astype(np.float64), X.astype(np.float64).mean(0)
    b, g = LIKED * 1.5 / (1.5 + HALF_LIKED), DISLIKED * 1 / (1 + HALF_DISLIKED)
    liked = (1.0 * x[1] + 0.5 * x[2]) / 1.5
    wish = x[0] - CENTRED * mu + b * (liked - CENTRED * mu) - g * (1 + b) * (x[3] - CENTRED * mu)
    trust = 1.5 / (1.5 + TRUST)
    by_hand = trust * LAND.lens.astype(np.float64) @ wish + (1 - trust) * wish
    bent = bend(X[0], X[[1, 2, 3]], scored(1, 0.5, -1), LAND)
    np.testing.assert_allclose(bent, by_hand / np.linalg.norm(by_hand), atol=1e-5)


def test_with_nothing_liked_the_query_leads() -> None:
    mu = X.mean(0)
    by_hand = X[0] - CENTRED * mu - DISLIKED * 2 / (2 + HALF_DISLIKED) * (X[1:3].mean(0) - CENTRED * mu)
    bent = bend(X[0], X[1:3], scored(-1, -1), LAND)
    np.testing.assert_allclose(bent, by_hand / np.linalg.norm(by_hand), atol=1e-5)
    assert bent @ X[0] > max(X[1] @ bent, X[2] @ bent)


def test_without_a_landscape_it_is_rocchio() -> None:
    by_hand = X[0] + 0.75 * (X[1] + 0.5 * X[2]) / 1.5 - 0.15 * X[3]
    bent = bend(X[0], X[[1, 2, 3]], scored(1, 0.5, -1))
    np.testing.assert_allclose(bent, by_hand / np.linalg.norm(by_hand), atol=1e-6)


# -- what it does not depend on ----------------------------------------------------------------------------------------------

judgements = st.lists(st.tuples(st.integers(0, len(X) - 1), st.floats(-1, 1, width=32)), min_size=1, max_size=12)


@pytest.mark.parametrize("landscape", [None, LAND], ids=["rocchio", "landscape"])
@settings(max_examples=50, deadline=None)
@given(judged=judgements, asked=st.booleans(), seed=st.integers(0, 9))
def test_unit_float32_and_whatever_order(
    landscape: Landscape | None, judged: list[tuple[int, float]], asked: bool, seed: int
) -> None:
    rows, scores = np.array([row for row, _ in judged]), scored(*(score for _, score in judged))
    query = X[0] if asked else None
    bent = bend(query, X[rows], scores, landscape)
    assert bent.dtype == np.float32
    assert bent.shape == X[0].shape
    assert np.linalg.norm(bent) == pytest.approx(1, abs=1e-3)
    order = np.random.default_rng(seed).permutation(len(rows))
    if np.abs(scores).max() > 1e-3:  # where next to nothing is left of the sum, what is returned is one of the items
        np.testing.assert_allclose(bend(query, X[rows[order]], scores[order], landscape), bent, atol=1e-4)


@pytest.mark.parametrize("landscape", [None, LAND], ids=["rocchio", "landscape"])
def test_a_score_of_zero_is_ignored(landscape: Landscape | None) -> None:
    with_zeros = bend(X[0], X[[1, 2, 3, 4]], scored(1, 0, -1, 0), landscape)
    np.testing.assert_array_equal(with_zeros, bend(X[0], X[[1, 3]], scored(1, -1), landscape))
    np.testing.assert_array_equal(bend(X[0], X[[1, 2]], scored(0, 0), landscape), X[0])
    np.testing.assert_array_equal(bend(X[0], X[:0], scored(), landscape), X[0])


def test_what_is_given_is_not_changed() -> None:
    query, items, scores = X[0].copy(), X[1:4].copy(), scored(1, -1, 0.5)
    mean, lens = LAND.mean.copy(), LAND.lens.copy()
    bend(query, items, scores, LAND)
    for before, after in ((X[0], query), (X[1:4], items), (scored(1, -1, 0.5), scores), (mean, LAND.mean), (lens, LAND.lens)):
        np.testing.assert_array_equal(before, after)


def test_rotating_everything_rotates_the_answer() -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))[0].astype(np.float32)
    turned = unit(X @ turn)
    plain = bend(X[0], X[1:4], scored(1, 1, -1), LAND)
    np.testing.assert_allclose(bend(turned[0], turned[1:4], scored(1, 1, -1), survey(turned)), plain @ turn, atol=1e-4)


# -- which way it goes -------------------------------------------------------------------------------------------------------


def standing(vector: Vector, row: int) -> float:
    """How far a row's score stands above the collection's, in standard deviations."""
    scores = X @ vector
    return float((scores[row] - scores.mean()) / scores.std())


@pytest.mark.parametrize("landscape", [None, LAND], ids=["rocchio", "landscape"])
@pytest.mark.parametrize("row", range(5, 25))
def test_a_liked_item_rises_and_a_disliked_one_does_not(landscape: Landscape | None, row: int) -> None:
    plain = standing(bend(X[0], X[1:3], scored(1, 1), landscape), row)
    with_it = standing(bend(X[0], X[[1, 2, row]], scored(1, 1, 1), landscape), row)
    without_it = standing(bend(X[0], X[[1, 2, row]], scored(1, 1, -1), landscape), row)
    assert with_it > plain > without_it
    half = standing(bend(X[0], X[[1, 2, row]], scored(1, 1, 0.5), landscape), row)
    assert plain < half < with_it  # graded
    assert standing(bend(X[0], X[[row]], scored(1), landscape), row) > standing(X[0], row)


def test_what_all_items_share_counts_less() -> None:
    """Liked items agree in a rare direction and in one that the whole collection varies in; the rare one is followed."""
    rng = np.random.default_rng(0)
    common, noise = rng.normal(size=(500, 1)) * 3, rng.normal(size=(500, 9)) * 0.5
    x = unit(np.hstack([common, noise]))
    liked = unit(np.array([[1, 1, *[0] * 8], [1, 1, 0.1, *[0] * 7]], dtype=np.float32))
    bent, flat = bend(None, liked, scored(1, 1), survey(x)), bend(None, liked, scored(1, 1))
    assert bent[1] / bent[0] > 1.1 * flat[1] / flat[0]


# -- degenerate input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("members", [1, 2, 60])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("scores", [(1.0,), (-1.0,), (1.0, -1.0), (1.0, 1.0), (-1.0, -0.5), (0.0, 0.0)])
@pytest.mark.parametrize("asked", [True, False])
def test_nothing_degenerate_gives_nan(dim: int, members: int, alike: bool, scores: tuple[float, ...], asked: bool) -> None:
    x = unit(np.random.default_rng(0).normal(size=(members, dim)).astype(np.float32))
    if alike:
        x = np.repeat(x[:1], members, axis=0)
    landscape = survey(x)
    assert np.isfinite(landscape.lens).all()
    rows = np.arange(len(scores)) % members
    for land in (None, landscape):
        bent = bend(x[0] if asked else None, x[rows], scored(*scores), land)
        assert bent.dtype == np.float32
        assert np.linalg.norm(bent) == pytest.approx(1, abs=1e-4)


def test_fewer_items_than_dimensions() -> None:
    x = cloud(60, 200)
    bent = bend(x[0], x[1:3], scored(1, -1), survey(x))
    assert np.isfinite(bent).all()
    assert bent @ x[1] > bent @ x[2]


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.zeros(4), np.full((3, 4), np.nan), np.full((3, 4), np.inf)])
def test_a_landscape_needs_finite_rows(bad: Vectors) -> None:
    with pytest.raises(vm.InvalidVector, match="landscape"):
        survey(bad)


# -- in a collection ---------------------------------------------------------------------------------------------------------


def filled(db: vm.Database, count: int) -> vm.Collection:
    c = db.create("own", encoder="vectors", dim=24)
    c.add_vectors([f"i{n}" for n in range(count)], X[:count])
    return c


def test_a_search_is_bent_by_the_landscape_of_its_collection(db: vm.Database) -> None:
    c = filled(db, 200)
    land = survey(X[:200])
    bent = bend(X[250], X[[3, 5]], scored(1, -1), land)
    hits = c.search(X[250], 10, feedback=[("i3", 1.0), ("i5", -1.0)])
    assert {h.id for h in hits} == {f"i{n}" for n in np.argsort(-(X[:200] @ bent))[:10]}
    assert hits[0].score == pytest.approx(float((X[:200] @ bent).max()), abs=1e-4)
    bent = bend(None, X[[3, 5]], scored(1, -1), land)
    best = [n for n in np.argsort(-(X[:200] @ bent)) if n not in (3, 5)][:10]
    assert {h.id for h in c.recommend(["i3"], ["i5"], 10)} == {f"i{n}" for n in best}
    assert c.search_many([], feedback=[("i3", 1.0)]) == []


def test_a_handful_of_items_has_no_landscape(db: vm.Database) -> None:
    c = filled(db, LEAST - 1)
    bent = bend(X[250], X[[3, 5]], scored(1, -1))
    hits = c.search(X[250], 3, feedback=[("i3", 1.0), ("i5", -1.0)])
    assert hits[0].score == pytest.approx(float((X[: LEAST - 1] @ bent).max()), abs=1e-4)


def test_the_landscape_follows_the_collection(db: vm.Database) -> None:
    """It is made again once there are twice as many items, or half; not for each that is added."""
    c = filled(db, 100)
    judged = [("i3", 1.0), ("i5", -1.0)]

    def answers_as(held: Vectors, landscape: Landscape | None) -> bool:
        bent = bend(X[250], X[[3, 5]], scored(1, -1), landscape)
        top = c.search(X[250], 1, feedback=judged)[0].score
        return top == pytest.approx(float((held @ bent).max()), abs=1e-6)

    assert answers_as(X[:100], survey(X[:100]))
    c.add_vectors(["i100"], X[100:101])
    assert answers_as(X[:101], survey(X[:100]))
    c.add_vectors([f"i{n}" for n in range(101, 240)], X[101:240])
    assert answers_as(X[:240], survey(X[:240]))
    c.delete([f"i{n}" for n in range(60, 240)])
    assert answers_as(X[:60], survey(X[:60]))
    c.delete([f"i{n}" for n in range(20, 60)])
    assert answers_as(X[:20], None)


def test_every_version_has_its_own_landscape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(20), 20)
    x = unit((1 + rng.normal(size=(20, 48))[label] + 0.8 * rng.normal(size=(400, 48))).astype(np.float32))
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.create("own", encoder="vectors", dim=48)
        c.add_vectors([f"i{n}" for n in range(400)], x)
        c.feedback([vm.Judgement(item=f"i{n}", concept=f"c{label[n]}") for n in range(400) if label[n] < 6 and n % 20 < 5])
        report = c.adapt()
        assert report.version is not None
        for version in (0, report.version, 0):
            z = c.embed(x, version=version)
            bent = bend(z[7], z[[8, 30]], scored(1, -1), survey(z))
            hits = c.search(x[7], 5, version=version, feedback=[("i8", 1.0), ("i30", -1.0)])
            assert hits[0].score == pytest.approx(float((z @ bent).max()), abs=1e-4)


def test_threads_that_ask_at_once_get_the_same(db: vm.Database) -> None:
    c = filled(db, 300)
    c.search(X[0])
    found: list[list[tuple[str, float]]] = []

    def ask() -> None:
        found.append([(h.id, h.score) for h in c.search(X[9], 10, feedback=[("i3", 1.0), ("i5", -1.0)])])

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(one == found[0] for one in found)
