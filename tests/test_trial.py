"""The trial of a candidate: what is held out is never seen, and each judgement is held out once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Clusters
from vecmeta.evaluate import Gate
from vecmeta.folds import folds
from vecmeta.judged import Taught
from vecmeta.meta.episodes import Episode
from vecmeta.meta.head import IdentityHead
from vecmeta.trial import Background, best_strength, drift, measure, why_insufficient

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


def pairs(of: list[tuple[int, int]], apart: list[tuple[int, int]] = [], beside: Taught | None = None) -> Taught:  # noqa: B006
    """Pairs (item, item) of rows of DATA, each with a column of its own, after the columns of what was taught beside them."""
    names = list(beside.rows) if beside else []
    names += sorted({DATA.ids[item] for pair in [*of, *apart] for item in pair} - set(names))
    y = np.zeros((len(names), (len(beside.columns) if beside else 0) + len(of) + len(apart)), np.float32)
    asked = list(beside.asked) if beside else []
    if beside:
        y[: len(beside.y), : len(beside.columns)] = beside.y
    for number, (a, b) in enumerate([*of, *apart]):
        asked.append(names.index(DATA.ids[a]))
        y[asked[-1], len(asked) - 1] = 1
        y[names.index(DATA.ids[b]), len(asked) - 1] = 1 if number < len(of) else -1
    x = DATA.x[[DATA.ids.index(name) for name in names]]
    columns = tuple(map(str, range(len(asked))))
    return Taught(x, y, tuple(names), np.ones(len(names), bool), columns, np.array(asked))


def together(concept: int, count: int) -> list[tuple[int, int]]:
    """Disjoint pairs of items of one concept, by row."""
    rows = np.flatnonzero(DATA.label == concept)
    return [(int(rows[2 * n]), int(rows[2 * n + 1])) for n in range(count)]


ALONE = pairs([pair for concept in range(4) for pair in together(concept, 3)], apart=[(0, 12), (24, 36), (60, 72)])
AMONG = pairs([pair for concept in range(4) for pair in together(concept, 2)], apart=[(0, 12)], beside=concepts(4, 4))
CHAIN = pairs([(n, n + 1) for n in range(11)])
SPLITS = [concepts(4, 5), concepts(1, 6), concepts(8, 2), queries(6, 4), queries(2, 5), ALONE, AMONG, CHAIN]


@pytest.mark.parametrize("taught", SPLITS)
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


@pytest.mark.parametrize("taught", SPLITS)
def test_each_judgement_is_held_out_once(taught: Taught) -> None:
    """Every positive of a column is looked for by its column in one fold, pairs of items that were marked for a concept too."""
    tested = np.zeros(taught.y.shape, int)
    for fold in folds(taught, seed=0):
        if fold.part == "fed":
            for group in np.unique(fold.groups):
                tested[:, group % len(taught.columns)] += fold.relevant[fold.groups == group].any(0)
    lonely = (taught.asked < 0) & (taught.found().sum(0) < 2)
    assert (tested[:, ~lonely] == taught.found()[:, ~lonely]).all()


def test_an_item_of_two_concepts_is_held_out_of_both() -> None:
    taught = concepts(4, 5)
    both = Taught(taught.x, np.concatenate((taught.y, taught.y.sum(1, keepdims=True)), 1), taught.rows, taught.is_item, ("a",) * 5,
                  np.full(5, -1))  # fmt: skip
    fed = [fold for fold in folds(both, seed=0) if fold.part == "fed"]
    assert np.sum([fold.relevant.any(0) for fold in fed], axis=0).tolist() == [1] * 20
    for fold in fed:
        assert (fold.y > 0).any(0).all()  # and something is left of every concept


def test_a_query_that_is_out_takes_its_column_along() -> None:
    for fold in folds(CHAIN, seed=0):
        for column, own in enumerate(CHAIN.asked):
            assert fold.y[own, column] == 1 or not fold.y[:, column].any()
            assert (fold.y[:, column] != 0).sum() != 1  # nobody is left alone with themselves


def test_what_only_tells_apart_is_never_asked_for() -> None:
    for fold in folds(ALONE, seed=0):
        assert not set(fold.groups % len(ALONE.columns)) & {12, 13, 14}
    assert "0 can be held out" in (why_insufficient(pairs([], apart=[(0, 12), (24, 36)])) or "")


def test_pairs_that_hang_together_are_held_out_as_a_concept() -> None:
    unfed = [fold for fold in folds(ALONE, seed=0) if fold.part == "unfed"]
    assert sum(len(fold.asked) for fold in unfed) == 12
    assert not [fold for fold in folds(CHAIN, seed=0) if fold.part == "unfed"]  # one clump: nothing would be left
    for fold in [fold for fold in folds(AMONG, seed=0) if fold.part == "unfed"]:
        assert set(fold.groups) <= {0, 1, 2, 3}  # pairs of what was marked for a concept go with it


def test_of_many_items_a_few_ask() -> None:
    many = concepts(1, 12)
    wide = Taught(np.repeat(many.x, 5, 0), np.repeat(many.y, 5, 0), many.rows * 5, np.ones(60, bool), many.columns, many.asked)
    assert {len(fold.asked) for fold in folds(wide, seed=0)} == {12}
    assert np.sum([fold.relevant.any(0) for fold in folds(wide, seed=0)], axis=0).tolist() == [1] * 60


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
