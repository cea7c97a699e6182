"""A candidate on trial: what it is taught, how it ranks judgements that it never saw, what it does to unlabelled items, the verdict.

A candidate is measured by cross-fitting: the judgements are split into folds, and each fold is ranked by a head that never saw it
(Stone 1974). The head that may go live then learns from all of them, as a refit does. Concepts are held out item by item; queries are
held out whole when there are several, because what counts is how the *next* query fares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecmeta.evaluate import Floats, Gate, Interval, average_precision, nearest, overlap, paired_bootstrap
from vecmeta.meta.episodes import Episode
from vecmeta.meta.head import Head, unit
from vecmeta.types import Change, Keys, Vectors

STRENGTHS = (1.0, 0.7, 0.5, 0.3)
FOLDS = 5
LEAST_HELD_OUT = 4  # tests below which "better" would mean nothing
WHOLE_QUERIES = 4  # from so many queries on, whole queries are held out
DISTRACTORS = 2000  # unlabelled items that the held-out ones are ranked among
PROBES = 500  # unlabelled items whose neighbourhoods are compared
NEIGHBOURS = 10
SHOWN = 10  # changed top lists in a report

Fit = Callable[[Episode], Head]


@dataclass(frozen=True, eq=False)
class Taught:
    """The judgements that count, resolved against the items that are there.

    ``x``        (N, dim) base vectors of judged items and of queries.
    ``y``        (N, C) float32 in [-1, 1]; 0 is unknown.
    ``rows``     N names: the item's id, or the query's text.
    ``is_item``  (N,) bool.
    ``columns``  C names of concepts and queries.
    ``asked``    (C,) the row of the column's own query; -1 for a concept.
    """

    x: Vectors
    y: NDArray[np.float32]
    rows: tuple[str, ...]
    is_item: NDArray[np.bool_]
    columns: tuple[str, ...]
    asked: Keys

    def digest(self) -> str:
        """SHA-256 of everything that the head learns from."""
        names = json.dumps([self.rows, self.columns, self.asked.tolist()], ensure_ascii=False)
        return hashlib.sha256(names.encode() + self.x.tobytes() + self.y.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Background:
    """Unlabelled items that the candidate is measured among: (m, dim) base vectors and their ids."""

    x: Vectors
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """One held-out ranking: a query vector's row, the relevant rows, and rows that the head was shown (out of the ranking)."""

    row: int
    relevant: Keys
    shown: Keys


@dataclass(frozen=True, slots=True)
class Fold:
    """What is learned from, and what is then asked."""

    y: NDArray[np.float32]
    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out quality at one strength: (tests,) average precision of base and candidate, among all and among the taught alone."""

    strength: float
    mixed_base: Floats
    mixed: Floats
    fed_base: Floats
    fed: Floats


def why_insufficient(taught: Taught) -> str | None:
    """What is missing before anything can be learned and checked, in words; None when nothing is."""
    if not len(taught.columns):
        return "there are no judgements; mark about five items for each of two or more concepts, or say which items suit a query"
    tests = sum(len(fold.tests) for fold in folds(taught, seed=0))
    if tests < LEAST_HELD_OUT:
        return (
            f"{int((taught.y != 0).sum())} judgements give {tests} that can be checked on held-out ones; at least {LEAST_HELD_OUT} are "
            "needed: mark about five items for a concept, or several relevant items for a query"
        )
    return None


def folds(taught: Taught, seed: int) -> list[Fold]:
    """Splits in which each positive judgement (each query, when there are several) is held out once."""
    rng = np.random.default_rng(seed)
    y = taught.y
    held = np.full(y.shape, -1)  # the fold in which a judgement is held out
    queries = np.flatnonzero(taught.asked >= 0)
    whole = len(queries) >= WHOLE_QUERIES
    for place, column in enumerate(rng.permutation(queries) if whole else []):
        held[:, column] = place % FOLDS
    for column in range(y.shape[1]):
        if whole and taught.asked[column] >= 0:
            continue
        members = rng.permutation([r for r in np.flatnonzero(y[:, column] > 0) if r != taught.asked[column]])
        if len(members) + (taught.asked[column] >= 0) >= 2:  # with one alone nothing would be left to learn it from
            held[members, column] = (np.arange(len(members)) + column) % FOLDS
    made = []
    for number in range(FOLDS):
        kept = np.where(held == number, 0, y)
        tests = [test for column in range(y.shape[1]) for test in _tests(taught, kept, held[:, column] == number, column)]
        if tests and (kept > 0).any():
            made.append(Fold(kept.astype(np.float32), tuple(tests)))
    return made


def _tests(taught: Taught, kept: NDArray[np.float32], out: NDArray[np.bool_], column: int) -> list[Test]:
    """A query asks for what was held out; a held-out item of a concept asks for the rest of the concept."""
    positive = taught.y[:, column] > 0
    asked = int(taught.asked[column])
    hidden = np.flatnonzero(positive & out)
    if asked >= 0:
        wanted = hidden[(hidden != asked) & taught.is_item[hidden]]
        shown = np.flatnonzero((kept[:, column] != 0) & taught.is_item)
        return [Test(asked, wanted, shown[shown != asked])] if len(wanted) else []
    mates = np.flatnonzero(positive & taught.is_item)
    return [Test(int(row), mates[mates != row], np.empty(0, np.int64)) for row in hidden if len(mates) > 1]


def measure(
    taught: Taught, background: Background, fit: Fit, seed: int, strengths: Sequence[float] = STRENGTHS
) -> list[Measured]:
    """Held-out quality at every strength, by cross-fitting."""
    items = np.flatnonzero(taught.is_item)
    few = np.sort(np.random.default_rng(seed).permutation(len(background.x))[:DISTRACTORS])
    pool = np.concatenate((taught.x[items], background.x[few]))
    place = np.full(len(taught.x), -1)
    place[items] = np.arange(len(items))
    results: dict[float, list[tuple[Floats, Floats, Floats, Floats]]] = {strength: [] for strength in strengths}
    for fold in folds(taught, seed):
        used = (fold.y != 0).any(1)
        columns = (fold.y > 0).any(0)
        head = fit(Episode(taught.x[used], fold.y[used][:, columns])).with_strength(1.0)
        asked = taught.x[[test.row for test in fold.tests]]
        z_pool, z_asked = head.project(pool), head.project(asked)
        base = _scores(fold.tests, asked, pool, place, len(items))
        for strength in strengths:
            blended = _scores(fold.tests, _blend(asked, z_asked, strength), _blend(pool, z_pool, strength), place, len(items))
            results[strength].append((base[0], blended[0], base[1], blended[1]))
    return [
        Measured(strength, *(np.concatenate(part) for part in zip(*parts, strict=True))) for strength, parts in results.items()
    ]


def _blend(x: Vectors, z: Vectors, strength: float) -> Vectors:
    return np.asarray(unit(np, x + strength * (z - x)), dtype=np.float32)


def _scores(tests: Sequence[Test], asked: Vectors, pool: Vectors, place: Keys, taught: int) -> tuple[Floats, Floats]:
    """Average precision of each test among the whole pool, and among its first `taught` rows alone."""
    mixed, fed = np.empty(len(tests)), np.empty(len(tests))
    for number, test in enumerate(tests):
        relevant = np.zeros(len(pool), bool)
        relevant[place[test.relevant]] = True
        hidden = place[np.append(test.shown, test.row)]
        ranked = np.ones(len(pool), bool)
        ranked[hidden[hidden >= 0]] = False
        query = asked[number : number + 1]
        for out, size in ((mixed, len(pool)), (fed, taught)):
            rows = ranked[:size]
            out[number] = average_precision(query, pool[:size][rows], relevant[None, :size][:, rows])[0]
    return mixed, fed


def best_strength(measured: Sequence[Measured]) -> Measured:
    """The strength whose held-out average precision is best; the greater one of equals."""
    return max(measured, key=lambda m: (round(float(np.nanmean(m.mixed)), 4), m.strength))


@dataclass(frozen=True, eq=False)
class Drift:
    """What the candidate does to items that nobody labelled."""

    harmed: float  # share of probed untaught items that lose at least half of their neighbours
    kept: float  # mean share of neighbours kept
    changed: tuple[Change, ...]


def drift(head: Head, background: Background, seed: int) -> Drift:
    """Compare the neighbourhoods of unlabelled items before and after.

    Items that the head counts to a taught concept are meant to move; harm is measured on the others.
    """
    rng = np.random.default_rng(seed)
    count = len(background.x)
    if count < 2:
        return Drift(0.0, 1.0, ())
    probes = np.sort(rng.choice(count, min(PROBES, count), replace=False))
    before = nearest(background.x, probes, NEIGHBOURS)
    after = nearest(head.project(background.x), probes, NEIGHBOURS)
    same = overlap(before, after)
    # What belongs to a taught concept is meant to leave its old neighbours, and they it.
    untaught = head.belonging(background.x[probes]) < 0.5
    kept = same[untaught]
    changes = []
    for row in np.argsort(same, kind="stable")[:SHOWN]:
        entered = [background.ids[i] for i in after[row] if i not in before[row]]
        left = [background.ids[i] for i in before[row] if i not in after[row]]
        if entered:
            changes.append(Change(background.ids[probes[row]], tuple(entered), tuple(left)))
    return Drift(
        harmed=float((kept < 0.5).mean()) if len(kept) else 0.0,
        kept=float(kept.mean()) if len(kept) else 1.0,
        changed=tuple(changes),
    )


def judge(gate: Gate, best: Measured, drifted: Drift, seed: int) -> tuple[bool, str, dict[str, float]]:
    """Promote or not, the reason, and the figures."""
    gain: Interval = paired_bootstrap(best.mixed - best.mixed_base, level=gate.level, seed=seed)
    promote, reason = gate(gain, drifted.harmed)
    figures = {
        "mixed_base": float(np.nanmean(best.mixed_base)),
        "mixed": float(np.nanmean(best.mixed)),
        "fed_base": float(np.nanmean(best.fed_base)),
        "fed": float(np.nanmean(best.fed)),
        "gain_low": gain.low,
        "gain_high": gain.high,
        "worse": float((best.mixed < best.mixed_base - 1e-9).mean()),
        "neighbours_kept": drifted.kept,
        "tests": float(len(best.mixed)),
    }
    return promote, reason, figures
