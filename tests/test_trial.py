"""The trial of a candidate: what is held out is never seen, and each judgement is held out once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Clusters
from vecmeta.evaluate import Gate
from vecmeta.meta.episodes import Episode
from vecmeta.meta.head import IdentityHead
from vecmeta.trial import Background, Taught, best_strength, drift, folds, measure, why_insufficient

DATA = Clusters(concepts=8, members=12, dim=16)


def concepts(count: int, shots: int) -> Taught:
    rows = np.concatenate([np.flatnonzero(DATA.label == c)[:shots] for c in range(count)])
    y = (DATA.label[rows][:, None] == np.arange(count)).astype(np.float32)
    names = tuple(DATA.ids[row] for row in rows)
    return Taught(DATA.x[rows], y, names, np.ones(len(rows), bool), tuple("abcdefgh"[:count]), np.full(count, -1))


def queries(count: int, shots: int) -> Taught:
    """Each query is a vector of its own, relevant to the first items of its concept, with one real negative."""
    items = concepts(count, shots)
    asked = np.stack([DATA.x[np.flatnonzero(DATA.label == c)[-1]] for c in range(count)])
    y = np.concatenate((items.y, np.eye(count, dtype=np.float32)))
    for column in range(count):
        y[(column + 1) % count * shots, column] = -1
    is_item = np.arange(len(y)) < len(items.y)
    return Taught(
        np.concatenate((items.x, asked)), y, items.rows + ("q",) * count, is_item, items.columns, len(items.y) + np.arange(count)
    )


@pytest.mark.parametrize("taught", [concepts(4, 5), concepts(1, 6), concepts(8, 2), queries(6, 4), queries(2, 5)])
def test_what_is_asked_for_was_never_seen(taught: Taught) -> None:
    for fold in folds(taught, seed=0):
        seen = (fold.y != 0).any(1)
        assert not (fold.relevant & seen).any()
        assert not fold.relevant[:, ~taught.is_item].any()
        assert fold.relevant.any(1).all()
        assert len(fold.asked) == len(fold.relevant) == len(fold.groups)
        assert not fold.relevant[np.arange(len(fold.asked)), fold.asked].any()


@pytest.mark.parametrize("taught", [concepts(4, 5), concepts(1, 6), concepts(8, 2)])
def test_each_positive_item_is_held_out_once(taught: Taught) -> None:
    count = np.sum([fold.relevant.any(0) for fold in folds(taught, seed=0) if fold.part == "fed"], axis=0)
    assert count.tolist() == [1] * len(taught.y)


def test_each_concept_is_held_out_whole_once() -> None:
    taught = concepts(5, 4)
    asked = np.concatenate([fold.asked for fold in folds(taught, seed=0) if fold.part == "unfed"])
    assert sorted(asked) == list(range(20))
    for fold in folds(taught, seed=0):
        if fold.part == "unfed":
            gone = (fold.y > 0).sum(0) == 0
            assert taught.y[fold.asked][:, gone].any(1).all()


def test_several_queries_are_held_out_whole() -> None:
    taught = queries(6, 4)
    fed = [fold for fold in folds(taught, seed=0) if fold.part == "fed"]
    asked = np.concatenate([fold.asked for fold in fed])
    assert sorted(asked) == sorted(taught.asked)
    for fold in fed:
        assert not fold.y[fold.asked].any()  # the query itself is new to the head as well


def test_folds_depend_on_the_seed_alone() -> None:
    taught = concepts(4, 5)
    for first, again, other in zip(folds(taught, 0), folds(taught, 0), folds(taught, 1), strict=True):
        np.testing.assert_array_equal(first.y, again.y)
        assert first.y.shape == other.y.shape
    assert any((a.y != b.y).any() for a, b in zip(folds(taught, 0), folds(taught, 1), strict=True))


def test_the_identity_gains_nothing() -> None:
    taught = concepts(4, 5)
    background = Background(DATA.x[60:], tuple(DATA.ids[60:]))

    def fit(episode: Episode) -> IdentityHead:
        assert episode.concepts >= 1
        return IdentityHead(DATA.dim)

    for measured in measure(taught, background, fit, seed=0):
        for part in ("fed", "unfed"):
            np.testing.assert_allclose(measured.gain(part), 0, atol=1e-9)
    drifted = drift(IdentityHead(DATA.dim), background, seed=0)
    assert (drifted.harmed, drifted.kept, drifted.changed) == (0.0, 1.0, ())


def test_a_head_that_knows_the_answer_gains_and_one_that_scrambles_loses() -> None:
    class Oracle(IdentityHead):
        """Every point becomes its concept's own axis."""

        def with_strength(self, strength: float) -> Oracle:
            return self

        def project(
            self, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            nearest = (x @ DATA.x.T).argmax(1)
            return np.asarray(np.eye(DATA.dim, dtype=np.float32)[DATA.label[nearest]])

    class Scrambler(Oracle):
        def project(
            self, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            return np.asarray(np.eye(DATA.dim, dtype=np.float32)[(x @ DATA.x.T).argmax(1) % DATA.dim])

    taught = concepts(4, 5)
    background = Background(DATA.x[60:], tuple(DATA.ids[60:]))
    good = best_strength(measure(taught, background, lambda _: Oracle(DATA.dim), seed=0), Gate())
    bad = measure(taught, background, lambda _: Scrambler(DATA.dim), seed=0)[0]
    for part in ("fed", "unfed"):
        assert good.gain(part).mean() > 0
        assert bad.gain(part).mean() < 0


def test_what_is_insufficient_says_why() -> None:
    nothing = Taught(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), (), np.empty(0, bool), (), np.empty(0, np.int64))
    assert "no judgements" in (why_insufficient(nothing) or "")
    assert "3 can be held out" in (why_insufficient(concepts(1, 3)) or "")
    assert "0 can be held out" in (why_insufficient(concepts(5, 1)) or "")
    assert why_insufficient(concepts(1, 4)) is None
    assert why_insufficient(concepts(2, 2)) is None
    assert why_insufficient(queries(1, 5)) is None
