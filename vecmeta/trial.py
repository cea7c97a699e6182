"""A candidate on trial: how it ranks judgements it never saw, what it does to concepts it was not taught, the verdict.

Nothing is measured on what it was learned from: see `vecmeta.folds`. The head that may go live then learns from all judgements, as a refit
does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.evaluate import Floats, Gate, bootstrap, log_rank, nearest, overlap
from vecmeta.folds import Fold, folds
from vecmeta.judged import Taught, lesson
from vecmeta.meta.episodes import Episode
from vecmeta.meta.head import Head, unit
from vecmeta.threads import CORES, single_blas
from vecmeta.types import Change, Keys, Mask, Vectors

STRENGTHS = (1.0, 0.7, 0.5, 0.3)
WORKERS = min(4, CORES)  # folds fitted side by side
ABOUT = 0.02  # halvings of the rank by which strengths may differ and count as equally good
LEAST_HELD_OUT = 4  # tests below which "better" would mean nothing
DISTRACTORS = 1000  # unlabelled items that the held-out ones are ranked among
NEIGHBOURHOOD = 2000  # unlabelled items among which neighbours are looked for
PROBES = 300  # unlabelled items whose neighbourhoods are compared
NEIGHBOURS = 10
SHOWN = 10  # changed top lists in a report

Fit = Callable[[Episode], Head]


@dataclass(frozen=True, eq=False)
class Background:
    """Unlabelled items that the candidate is measured among: (m, dim) base vectors and their ids."""

    x: Vectors
    ids: tuple[str, ...]


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
            f"of {taught.count} judgements {held_out} can be held out to check the rest; at least {LEAST_HELD_OUT} are "
            "needed: mark about five items for a concept, several relevant items for a query, or more pairs of similar items"
        )
    return None


def measure(
    taught: Taught, background: Background, fit: Fit, seed: int, strengths: Sequence[float] = STRENGTHS
) -> list[Measured]:
    """Held-out quality at every strength, by cross-fitting."""
    few = np.sort(np.random.default_rng(seed).permutation(len(background.x))[:DISTRACTORS])
    everything = np.concatenate((taught.x, background.x[few]))
    split = folds(taught, seed)

    def ranked_by(fold: Fold) -> list[Floats]:
        """The fold's rankings under the base and at every strength."""
        used = (fold.y != 0).any(1)
        with single_blas():
            z = fit(lesson(taught, fold.y)).with_strength(1.0).project(everything)
            blends = (np.asarray(unit(np, everything + np.float32(s) * (z - everything)), np.float32) for s in strengths)
            return [quality(vectors, fold, ~used & taught.is_item) for vectors in (everything, *blends)]

    with ThreadPoolExecutor(WORKERS) as pool:  # a fold's work is mostly inside torch and numpy, which let others run meanwhile
        results = list(pool.map(ranked_by, split))

    def joined(values: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        parts = {part: [v for v, fold in zip(values, split, strict=True) if fold.part == part] for part in ("fed", "unfed")}
        return {part: np.concatenate(found) if found else np.empty(0) for part, found in parts.items()}

    base, groups = joined([r[0] for r in results]), joined([fold.groups for fold in split])
    return [Measured(s, base, joined([r[place] for r in results]), groups) for place, s in enumerate(strengths, start=1)]


def quality(vectors: Vectors, fold: Fold, ranked: Mask) -> Floats:
    """`log_rank` of a fold's rankings of the judged rows in `ranked` and all unlabelled ones; the asking row is left out."""
    scores = vectors[fold.asked] @ vectors.T  # (q, n)
    scores[:, np.flatnonzero(~ranked)] = -np.inf
    scores[np.arange(len(scores)), fold.asked] = -np.inf
    relevant = np.zeros(scores.shape, bool)
    relevant[:, : len(ranked)] = fold.relevant & ranked
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


def drift(head: Head, background: Background, seed: int, under: Vectors | None = None) -> Drift:
    """Compare the neighbourhoods of unlabelled items before and after.

    `under` (m, dim) are the same items under another encoder, whose head it is.

    Items that the head counts to a taught concept are meant to move; harm is measured on the others.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(background.x))[:NEIGHBOURHOOD])
    x, ids = background.x[some], [background.ids[row] for row in some]
    if len(x) < 2:
        return Drift(0.0, 1.0, ())
    probes = np.sort(rng.permutation(len(x))[:PROBES])
    before = nearest(x, probes, NEIGHBOURS)
    base = x if under is None else under[some]
    after = nearest(head.project(base), probes, NEIGHBOURS)
    same = overlap(before, after)
    # What belongs to a taught concept is meant to leave its old neighbours, and they it.
    untaught = head.belonging(base[probes]) < 0.5
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


def judge(gate: Gate, best: Measured, drifted: Drift, seed: int, record: float = 0.0) -> tuple[bool, str, dict[str, float]]:
    """Promote or not, the reason, and the figures. ``record`` is the start's, see `Gate`."""
    fed, unfed = (bootstrap(best.gain(part), best.groups[part], level=gate.level, seed=seed) for part in ("fed", "unfed"))
    promote, reason = gate(fed, unfed, drifted.harmed, record)
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
