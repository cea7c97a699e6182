"""What should I label next? Items on which a label would say most: undecided between concepts, and typical of many others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.insight.rows import Matrix

NEIGHBOURS = 10  # whose mean cosine is the density around an item
ALIKE = 0.95  # cosine from which two suggestions would say the same
BLOCK = 1024
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A row worth labelling: its number, why, and the concepts that it lies between, the nearest first."""

    row: int
    why: str
    concepts: tuple[str, ...]


def suggestions(x: Matrix, concepts: Mapping[str, Sequence[int]], judged: Sequence[int], k: int) -> list[Suggestion]:
    """The k rows whose label would tell most: uncertainty by information density (Settles & Craven 2008).

    Args:
        x: (n, dim) unit rows.
        concepts: rows that belong to each concept.
        judged: rows that were judged already, either way; none of them is suggested.
        k: how many, at most.

    An item is undecided when its similarities to the two nearest concepts' centres are close (margin sampling, Scheffer et al. 2001); with
    a single concept, when it lies between that centre and the middle of the collection; with none, all are equally so.
    """
    free = np.setdiff1d(np.arange(len(x)), np.asarray(judged, int))
    if not len(free):
        return []
    named = [name for name, members in concepts.items() if len(members)]
    centres = np.stack([_unit(x[list(concepts[name])].mean(0)) for name in named]) if named else np.empty((0, x.shape[1]))
    near = x[free] @ centres.T  # (f, c)
    value = _density(x[free]) * _undecided(x, free, near)
    chosen: list[int] = []
    for place in np.argsort(-value, kind="stable"):
        if all(float(x[free[place]] @ x[free[other]]) < ALIKE for other in chosen):
            chosen.append(int(place))
        if len(chosen) == k:
            break
    return [_told(int(free[place]), near[place], named) for place in chosen]


def _undecided(x: Matrix, free: NDArray[np.int64], near: Floats) -> Floats:
    """(f,) in (0, 1]: 1 on the boundary."""
    if not near.shape[1]:
        return np.ones(len(free))
    if near.shape[1] == 1:
        middle = _unit(x.mean(0))
        margin = np.abs(near[:, 0] - x[free] @ middle)
    else:
        two = -np.partition(-near, 1, axis=1)[:, :2]
        margin = two[:, 0] - two[:, 1]
    spread = float(np.median(margin)) or 1.0
    # Far from every concept all margins are small and mean nothing: nearness to the best one weighs as well.
    best = near.max(1)
    return np.asarray(np.exp(-margin / spread) * np.exp(best - best.max()))


def _density(x: Matrix) -> Floats:
    """(n,) mean cosine to the nearest others, shifted to lie in (0, 1]."""
    count = min(NEIGHBOURS, len(x) - 1)
    if count < 1:
        return np.ones(len(x))
    means = np.empty(len(x))
    for at in range(0, len(x), BLOCK):
        scores = x[at : at + BLOCK] @ x.T
        scores[np.arange(len(scores)), np.arange(at, at + len(scores))] = -np.inf
        means[at : at + BLOCK] = np.partition(scores, -count, axis=1)[:, -count:].mean(1)
    return np.asarray((1 + means) / 2)


def _told(row: int, near: Floats, named: Sequence[str]) -> Suggestion:
    order = np.argsort(-near, kind="stable")[:2]
    between = tuple(named[place] for place in order)
    if not between:
        return Suggestion(row, "typical of many items; no concept has been taught yet", ())
    if len(between) == 1:
        return Suggestion(row, f"at the edge of {between[0]}", between)
    return Suggestion(row, f"between {between[0]} and {between[1]}", between)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
