"""What is held out of the judgements, so that a candidate is measured on what it was not learned from.

The judgements are split in two ways (cross-fitting, Stone 1974), and every split is ranked by a head that was fitted without it:

fed     Some items of every concept are held out; the concept's other items, or the query, ask for them among unlabelled ones. When
        there are several queries, whole queries are held out, because what counts is how the next query fares. Of a pair of similar
        items one is the query of the other.
unfed   Whole concepts are held out, as if nobody had labelled them; their items ask for each other. This is the harm that adapting
        does to everything a user has not spoken of. Pairs that hang together count as one concept.

What a fold's head was shown is out of the ranking: the trained items attract every query, so they would flatter any candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecmeta.judged import Taught, clumps
from vecmeta.types import Keys, Mask

FOLDS = 5  # of items and of queries
GROUPS = 3  # of concepts
ASKING = 12  # rows of a concept that ask in one fold: more would tell nothing new and take time
WHOLE_QUERIES = 4  # from so many queries on, whole queries are held out


@dataclass(frozen=True, eq=False)
class Fold:
    """What is learned from, and the rankings that are then asked for.

    ``y``         (N, C) judgements that are left.
    ``asked``     (q,) rows that ask.
    ``relevant``  (q, N) bool, held-out rows that should be found.
    ``groups``    (q,) rankings of equal number are no independent witnesses.
    ``part``      "fed" or "unfed".
    """

    part: str
    y: NDArray[np.float32]
    asked: Keys
    relevant: Mask
    groups: Keys


def folds(taught: Taught, seed: int) -> list[Fold]:
    """Splits in which every positive judgement is held out once with its item, and once with its concept."""
    rng = np.random.default_rng(seed)
    return [*_item_folds(taught, rng), *_concept_folds(taught, rng)]


def _item_folds(taught: Taught, rng: np.random.Generator) -> Iterator[Fold]:
    found = taught.found()
    of_row, of_column = _placed(taught, found, rng)
    for number in range(FOLDS):
        out = of_row == number
        kept = _without(taught, out, np.equal(of_column, number))
        asks: list[tuple[int, int, Mask]] = []
        for column, own in enumerate(taught.asked.tolist()):
            rows = np.array([own]) if own >= 0 else np.flatnonzero(kept[:, column] > 0)
            asks += [(column, int(row), found[:, column] & out) for row in _some(rows, rng)]
        yield from _fold("fed", number, kept, asks)


def _placed(taught: Taught, found: Mask, rng: np.random.Generator) -> tuple[Keys, Keys]:
    """The fold in which each row (N,) and each whole query (C,) is held out; -1: in none.

    A row has one fold, whatever judgements there are on it: were it held out of one concept and taught to another, or in a pair, the
    head would have seen it.
    """
    of_row, of_column = np.full(found.shape[0], -1), np.full(found.shape[1], -1)
    queries = np.flatnonzero((taught.asked >= 0) & found.any(0))  # what only tells apart is learned from in every fold
    whole = rng.permutation(queries) if len(queries) >= WHOLE_QUERIES else queries[:0]
    for column in np.setdiff1d(np.arange(found.shape[1]), whole):
        members = rng.permutation(np.flatnonzero(found[:, column]))
        if len(members) + (taught.asked[column] >= 0) >= 2:  # with one alone nothing would be left to learn it from
            filled = np.bincount(of_row[members] + 1, minlength=FOLDS + 1)[1:]
            for row in members[of_row[members] < 0]:
                fold = min(range(FOLDS), key=lambda f: (filled[f], (f - column) % FOLDS))
                of_row[row] = fold
                filled[fold] += 1
    queries_in = np.zeros(FOLDS, int)
    for column in whole:
        members = np.flatnonzero(found[:, column])
        votes = np.bincount(of_row[members] + 1, minlength=FOLDS + 1)[1:]
        free = [fold for fold in range(FOLDS) if queries_in[fold] * FOLDS < len(whole)]
        fold = min(free, key=lambda f: (-votes[f], queries_in[f]))  # where most of its items are held out anyway
        of_column[column] = fold
        queries_in[fold] += 1
        of_row[members[of_row[members] < 0]] = fold
    return of_row, of_column


def _without(taught: Taught, rows: Mask, columns: Mask) -> NDArray[np.float32]:
    """The judgements (N, C) that are left without these rows (N,) and columns (C,)."""
    kept = np.where(rows[:, None] | columns, 0, taught.y).astype(np.float32)
    queries = np.flatnonzero(taught.asked >= 0)
    itself = kept[taught.asked[queries], queries] != 0
    others = (kept[:, queries] != 0).sum(0) - itself
    kept[:, queries[~itself | (others == 0)]] = 0  # a query that is out itself, or of which nothing is left to say
    return kept


def _concept_folds(taught: Taught, rng: np.random.Generator) -> Iterator[Fold]:
    concepts = _concepts(taught)
    order = rng.permutation(len(concepts))
    for number in range(min(GROUPS, len(concepts))):
        group, out = _group(concepts, order, order[number::GROUPS])
        kept = _without(taught, out, np.isin(np.arange(taught.y.shape[1]), group))
        yield from _fold("unfed", number, kept, _asked_whole(taught, group, out, rng))


def _concepts(taught: Taught) -> list[tuple[Keys, Mask]]:
    """Concepts, and pairs that hang together and belong to none: their columns, and (N,) their rows."""
    found = taught.found()
    concepts = [(np.array([column]), found[:, column]) for column in np.flatnonzero(taught.asked < 0)]
    named = found[:, taught.asked < 0].any(1)
    return concepts + [(columns, items) for columns, items in clumps(taught, taught.y) if not (items & named).any()]


def _group(concepts: Sequence[tuple[Keys, Mask]], order: Keys, places: Keys) -> tuple[Keys, Mask]:
    """The columns of some of the concepts, and (N,) the rows that belong to none of the others."""
    out = np.any([concepts[place][1] for place in places], axis=0)
    for place in np.setdiff1d(order, places):
        out &= ~concepts[place][1]
    return np.concatenate([concepts[place][0] for place in places]), out


def _asked_whole(taught: Taught, group: Keys, out: Mask, rng: np.random.Generator) -> list[tuple[int, int, Mask]]:
    """The rankings of concepts that are held out whole."""
    found = taught.found()
    asks: list[tuple[int, int, Mask]] = []
    for column in group:
        wanted = out & found[:, column]
        own = int(taught.asked[column])
        rows = np.array([own]) if own >= 0 else _some(np.flatnonzero(wanted), rng)
        asks += [(int(column), int(row), wanted & (np.arange(len(wanted)) != row)) for row in rows]
    return asks


def exam(taught: Taught, seed: int) -> list[Fold]:
    """One split for what is too dear to be learned five times: both parts at once, so that all its folds leave the same judgements.

    A FOLDS-th of the items of every concept is held out, and from as many concepts on a FOLDS-th of the concepts whole.
    """
    rng = np.random.default_rng(seed)
    found, concepts = taught.found(), _concepts(taught)
    order = rng.permutation(len(concepts))
    places = order[: len(concepts) // FOLDS]
    group, whole = _group(concepts, order, places) if len(places) else (np.empty(0, np.int64), np.zeros(len(found), bool))
    of_row, of_column = _placed(taught, found, rng)
    out = np.equal(of_row, 0) & ~whole
    columns = np.equal(of_column, 0) | np.isin(np.arange(found.shape[1]), group)
    kept = _without(taught, out | whole, columns)
    asks: list[tuple[int, int, Mask]] = []
    for column in np.setdiff1d(np.arange(found.shape[1]), group):
        own = int(taught.asked[column])
        rows = np.array([own]) if own >= 0 else np.flatnonzero(kept[:, column] > 0)
        asks += [(int(column), int(row), found[:, column] & out) for row in _some(rows, rng)]
    return [*_fold("fed", 0, kept, asks), *_fold("unfed", 0, kept, _asked_whole(taught, group, whole, rng))]


def _some(rows: Keys, rng: np.random.Generator) -> Keys:
    """At most `ASKING` of the rows that could ask."""
    return rows if len(rows) <= ASKING else np.sort(rng.permutation(rows)[:ASKING])


def _fold(part: str, number: int, kept: NDArray[np.float32], asks: Sequence[tuple[int, int, Mask]]) -> Iterator[Fold]:
    """A fold of the rankings (column, asking row, wanted rows) that have something to find, if there are any."""
    useful = [(column, row, wanted) for column, row, wanted in asks if wanted.any()]
    if useful and (kept > 0).any():
        few = kept.shape[1] < FOLDS  # with few concepts, their folds have to serve as witnesses
        groups = np.array([column + (number * kept.shape[1] if few else 0) for column, _, _ in useful], np.int64)
        yield Fold(part, kept, np.array([row for _, row, _ in useful], np.int64), np.stack([w for _, _, w in useful]), groups)
