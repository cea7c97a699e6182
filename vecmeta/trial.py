"""A candidate on trial: how it ranks judgements it never saw, what it does to concepts it was not taught, the verdict.

Nothing is measured on what it was learned from. The judgements are split in two ways (cross-fitting, Stone 1974), and every split is
ranked by a head that was fitted without it:

fed     Some items of every concept are held out; the concept's other items, or the query, ask for them among unlabelled ones. When
        there are several queries, whole queries are held out, because what counts is how the next query fares.
unfed   Whole concepts are held out, as if nobody had labelled them; their items ask for each other. This is the harm that adapting
        does to everything a user has not spoken of.

What a fold's head was shown is out of the ranking: the trained items attract every query, so they would flatter any candidate. The head
that may go live then learns from all judgements, as a refit does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.evaluate import Floats, Gate, Mask, bootstrap, log_rank, nearest, overlap
from vecmeta.meta.episodes import Episode
from vecmeta.meta.head import Head, unit
from vecmeta.types import Change, Keys, Vectors

STRENGTHS = (1.0, 0.7, 0.5, 0.3)
WORKERS = min(4, os.cpu_count() or 1)  # folds fitted side by side
FOLDS = 5  # of items and of queries
GROUPS = 3  # of concepts
ABOUT = 0.02  # halvings of the rank by which strengths may differ and count as equally good
LEAST_HELD_OUT = 4  # tests below which "better" would mean nothing
WHOLE_QUERIES = 4  # from so many queries on, whole queries are held out
DISTRACTORS = 1000  # unlabelled items that the held-out ones are ranked among
NEIGHBOURHOOD = 2000  # unlabelled items among which neighbours are looked for
PROBES = 300  # unlabelled items whose neighbourhoods are compared
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


@dataclass(frozen=True, eq=False)
class Measured:
    """`log_rank` of every held-out ranking at one strength, base and candidate, by part, and the groups: (tests,) each."""

    strength: float
    base: dict[str, Floats]
    candidate: dict[str, Floats]
    groups: dict[str, Keys]

    def gain(self, part: str) -> Floats:
        """How many times the rank was halved, (tests,)."""
        return self.base[part] - self.candidate[part]

    @property
    def value(self) -> float:
        """What the strength is chosen by: the mean gain of both parts, a loss of the unfed counted double."""
        fed, unfed = (float(self.gain(part).mean()) if len(self.gain(part)) else 0.0 for part in ("fed", "unfed"))
        return fed + unfed + min(unfed, 0.0)


def why_insufficient(taught: Taught) -> str | None:
    """What is missing before anything can be learned and checked, in words; None when nothing is."""
    if not len(taught.columns):
        return "there are no judgements; mark about five items for each of two or more concepts, or say which items suit a query"
    held_out = sum(int(fold.relevant.any(0).sum()) for fold in folds(taught, seed=0) if fold.part == "fed")
    if held_out < LEAST_HELD_OUT:
        return (
            f"of {int((taught.y != 0).sum())} judgements {held_out} can be held out to check the rest; at least {LEAST_HELD_OUT} are "
            "needed: mark about five items for a concept, or several relevant items for a query"
        )
    return None


def folds(taught: Taught, seed: int) -> list[Fold]:
    """Splits in which every positive judgement is held out once with its item or query, and once with its concept."""
    rng = np.random.default_rng(seed)
    return [*_item_folds(taught, rng), *_concept_folds(taught, rng)]


def _item_folds(taught: Taught, rng: np.random.Generator) -> Iterator[Fold]:
    y = taught.y
    held = np.full(y.shape, -1)  # the fold in which a judgement is held out
    queries = np.flatnonzero(taught.asked >= 0)
    whole = len(queries) >= WHOLE_QUERIES
    for place, column in enumerate(rng.permutation(queries) if whole else []):
        held[:, column] = place % FOLDS
    for column in range(y.shape[1]):
        asked = taught.asked[column]
        if whole and asked >= 0:
            continue
        members = rng.permutation([row for row in np.flatnonzero(y[:, column] > 0) if row != asked])
        if len(members) + (asked >= 0) >= 2:  # with one alone nothing would be left to learn it from
            held[members, column] = (np.arange(len(members)) + column) % FOLDS
    for number in range(FOLDS):
        kept = np.where(held == number, 0, y).astype(np.float32)
        hidden = ~(kept != 0).any(1) & taught.is_item  # the head has never seen these rows
        asks: list[tuple[int, int, Mask]] = []
        for column in range(y.shape[1]):
            wanted = hidden & (held[:, column] == number) & (y[:, column] > 0)
            own = taught.asked[column]
            rows = [own] if own >= 0 else np.flatnonzero((kept[:, column] > 0) & taught.is_item)
            asks += [(column, int(row), wanted) for row in rows]
        yield from _fold("fed", number, kept, asks)


def _concept_folds(taught: Taught, rng: np.random.Generator) -> Iterator[Fold]:
    y = taught.y
    concepts = rng.permutation(np.flatnonzero(taught.asked < 0))
    for number in range(GROUPS):
        group = concepts[number::GROUPS]
        kept = y.copy()
        kept[:, group] = 0
        hidden = ~(kept != 0).any(1) & taught.is_item
        asks: list[tuple[int, int, Mask]] = []
        for column in group:
            members = hidden & (y[:, column] > 0)
            for row in np.flatnonzero(members):
                mates = members.copy()
                mates[row] = False
                asks.append((int(column), int(row), mates))
        yield from _fold("unfed", number, kept, asks)


def _fold(part: str, number: int, kept: NDArray[np.float32], asks: Sequence[tuple[int, int, Mask]]) -> Iterator[Fold]:
    """A fold of the rankings (column, asking row, wanted rows) that have something to find, if there are any."""
    useful = [(column, row, wanted) for column, row, wanted in asks if wanted.any()]
    if useful and (kept > 0).any():
        few = kept.shape[1] < FOLDS  # with few concepts, their folds have to serve as witnesses
        groups = np.array([column + (number * kept.shape[1] if few else 0) for column, _, _ in useful], np.int64)
        yield Fold(part, kept, np.array([row for _, row, _ in useful], np.int64), np.stack([w for _, _, w in useful]), groups)


def measure(
    taught: Taught, background: Background, fit: Fit, seed: int, strengths: Sequence[float] = STRENGTHS
) -> list[Measured]:
    """Held-out quality at every strength, by cross-fitting."""
    few = np.sort(np.random.default_rng(seed).permutation(len(background.x))[:DISTRACTORS])
    everything = np.concatenate((taught.x, background.x[few]))
    split = folds(taught, seed)

    def ranked_by(fold: Fold) -> list[Floats]:
        """The fold's rankings under the base and at every strength."""
        used, columns = (fold.y != 0).any(1), (fold.y > 0).any(0)
        z = fit(Episode(taught.x[used], fold.y[used][:, columns])).with_strength(1.0).project(everything)
        blends = (np.asarray(unit(np, everything + np.float32(s) * (z - everything)), np.float32) for s in strengths)
        return [_quality(vectors, fold, ~used & taught.is_item) for vectors in (everything, *blends)]

    with ThreadPoolExecutor(WORKERS) as pool:  # a fold's work is mostly inside torch and numpy, which let others run meanwhile
        results = list(pool.map(ranked_by, split))

    def joined(values: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        parts = {part: [v for v, fold in zip(values, split, strict=True) if fold.part == part] for part in ("fed", "unfed")}
        return {part: np.concatenate(found) if found else np.empty(0) for part, found in parts.items()}

    base, groups = joined([r[0] for r in results]), joined([fold.groups for fold in split])
    return [Measured(s, base, joined([r[place] for r in results]), groups) for place, s in enumerate(strengths, start=1)]


def _quality(vectors: Vectors, fold: Fold, ranked: Mask) -> Floats:
    """`log_rank` of a fold's rankings of the judged rows in `ranked` and all unlabelled ones; the asking row is left out."""
    judged = len(ranked)
    corpus = np.concatenate((np.flatnonzero(ranked), np.arange(judged, len(vectors))))
    scores = vectors[fold.asked] @ vectors[corpus].T
    scores[fold.asked[:, None] == corpus[None, :]] = -np.inf
    relevant = np.zeros(scores.shape, bool)
    relevant[:, : int(ranked.sum())] = fold.relevant[:, ranked]
    return log_rank(scores, relevant)


def best_strength(measured: Sequence[Measured], gate: Gate) -> Measured:
    """The strength of most value among those that spare the unfed, or else among all.

    Of those that are about as good the greatest: the folds' heads have seen fewer judgements than the one that goes live.
    """
    sparing = [m for m in measured if not len(m.gain("unfed")) or m.gain("unfed").mean() >= -gate.max_unfed_loss] or measured
    best = max(m.value for m in sparing)
    return max((m for m in sparing if m.value >= best - ABOUT), key=lambda m: m.strength)


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
    some = np.sort(rng.permutation(len(background.x))[:NEIGHBOURHOOD])
    x, ids = background.x[some], [background.ids[row] for row in some]
    if len(x) < 2:
        return Drift(0.0, 1.0, ())
    probes = np.sort(rng.permutation(len(x))[:PROBES])
    before = nearest(x, probes, NEIGHBOURS)
    after = nearest(head.project(x), probes, NEIGHBOURS)
    same = overlap(before, after)
    # What belongs to a taught concept is meant to leave its old neighbours, and they it.
    untaught = head.belonging(x[probes]) < 0.5
    kept = same[untaught]
    changes = []
    for row in np.argsort(same, kind="stable")[:SHOWN]:
        entered = [ids[i] for i in after[row] if i not in before[row]]
        left = [ids[i] for i in before[row] if i not in after[row]]
        if entered:
            changes.append(Change(ids[probes[row]], tuple(entered), tuple(left)))
    return Drift(
        harmed=float((kept < 0.5).mean()) if len(kept) else 0.0,
        kept=float(kept.mean()) if len(kept) else 1.0,
        changed=tuple(changes),
    )


def judge(gate: Gate, best: Measured, drifted: Drift, seed: int) -> tuple[bool, str, dict[str, float]]:
    """Promote or not, the reason, and the figures."""
    fed, unfed = (bootstrap(best.gain(part), best.groups[part], level=gate.level, seed=seed) for part in ("fed", "unfed"))
    promote, reason = gate(fed, unfed, drifted.harmed)
    figures = {"neighbours_kept": drifted.kept}
    for part, gain in (("fed", fed), ("unfed", unfed)):
        if gain.count:
            figures |= {
                f"{part}_rank_base": float(2 ** best.base[part].mean()),  # geometric means
                f"{part}_rank": float(2 ** best.candidate[part].mean()),
                f"{part}_gain": gain.mean,
                f"{part}_gain_low": gain.low,
                f"{part}_gain_high": gain.high,
                f"{part}_worse": float((best.gain(part) < 0).mean()),
            }
        figures[f"{part}_tests"] = float(gain.count)
    return promote, reason, figures
