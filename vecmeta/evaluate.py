"""Quality of rankings, harm to what nobody labelled, and the gate that decides on a candidate.

All vectors are unit rows, so the dot product is the cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.types import Keys, Vectors

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_BLOCK = 1 << 24  # similarities held at a time: 64 MB of float32


# -- rankings ----------------------------------------------------------------------------------------------------------------


def average_precision(queries: Vectors, corpus: Vectors, relevant: Mask, exclude: Keys | None = None) -> Floats:
    """Average precision over the whole ranking of each query.

    AP = (1/R) sum over relevant ranks r of (number relevant in the first r) / r.

    Args:
        queries: (q, dim) unit rows.
        corpus: (n, dim) unit rows.
        relevant: (q, n) bool.
        exclude: (q,) the position of the query itself in the corpus, which is taken out; None: nothing is.

    Returns:
        (q,) in [0, 1]; NaN for a query with nothing relevant.
    """
    return _each_ranking(queries, corpus, relevant, exclude, _average_precision)


def map_at_r(queries: Vectors, corpus: Vectors, relevant: Mask, exclude: Keys | None = None) -> Floats:
    """Average precision over the first R ranks, R the number of relevant items (Musgrave et al. 2020, MAP@R).

    Arguments and result as in `average_precision`.
    """
    return _each_ranking(queries, corpus, relevant, exclude, _precision_at_r)


def ndcg(queries: Vectors, corpus: Vectors, gains: Floats, k: int = 10, exclude: Keys | None = None) -> Floats:
    """nDCG@k with gains as given and discount 1/log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Args:
        gains: (q, n) >= 0. The others as in `average_precision`.

    Returns:
        (q,) in [0, 1]; NaN for a query without gain.
    """

    def of_ranking(ranked: Floats) -> Floats:
        discount = 1 / np.log2(np.arange(2, min(k, ranked.shape[1]) + 2))
        best = -np.sort(-ranked, axis=1)
        ideal = best[:, : len(discount)] @ discount
        with np.errstate(invalid="ignore"):
            return np.asarray(ranked[:, : len(discount)] @ discount / ideal)

    return _each_ranking(queries, corpus, gains, exclude, of_ranking)


def recall(found: Keys, true: Keys) -> float:
    """Mean share of the true neighbours that were found: found (q, m) and true (q, k) keys; the denominator is k."""
    if true.size == 0:
        return 1.0
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, true, strict=True)]))


def _each_ranking(
    queries: Vectors, corpus: Vectors, values: NDArray[Any], exclude: Keys | None, measure: Callable[[Floats], Floats]
) -> Floats:
    out = np.full(len(queries), np.nan)
    step = max(1, _BLOCK // max(1, len(corpus)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        scores = queries[rows] @ corpus.T
        block = values[rows]
        if exclude is not None:
            scores[np.arange(len(scores)), exclude[rows]] = -np.inf
            block = block.copy()
            block[np.arange(len(scores)), exclude[rows]] = 0
        order = np.argsort(-scores, axis=1, kind="stable")
        out[rows] = measure(np.take_along_axis(block, order, axis=1).astype(np.float64))
    return out


def _average_precision(ranked: Floats) -> Floats:
    ranks = np.arange(1, ranked.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((ranked.cumsum(1) / ranks * ranked).sum(1) / ranked.sum(1))


def _precision_at_r(ranked: Floats) -> Floats:
    count = ranked.sum(1)
    ranks = np.arange(1, ranked.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((ranked.cumsum(1) / ranks * ranked * (ranks <= count[:, None])).sum(1) / count)


# -- neighbourhoods ----------------------------------------------------------------------------------------------------------


def nearest(vectors: Vectors, rows: Keys, k: int) -> Keys:
    """(len(rows), k) positions of the k nearest other rows of `vectors`, nearest first; fewer columns if there are fewer."""
    k = min(k, len(vectors) - 1)
    out = np.empty((len(rows), max(k, 0)), dtype=np.int64)
    step = max(1, _BLOCK // max(1, len(vectors)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        scores = vectors[part] @ vectors.T
        scores[np.arange(len(part)), part] = -np.inf
        top = np.argpartition(-scores, min(k, scores.shape[1] - 1), axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        out[start : start + step] = np.take_along_axis(top, order, axis=1)
    return out


def overlap(a: Keys, b: Keys) -> Floats:
    """(q,) share of each row of a (q, k) that row of b holds too, in [0, 1]."""
    if a.shape[1] == 0:
        return np.ones(len(a))
    return np.array([len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b, strict=True)])


# -- the gate ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(differences: Floats, *, level: float = 0.9, draws: int = 2000, seed: int = 0) -> Interval:
    """The mean of paired differences and its percentile interval (Efron 1979; Sakai 2006 for retrieval).

    Args:
        differences: (q,) candidate minus base, one per held-out query; NaN are left out.
        level: of the two-sided interval.
    """
    values = differences[~np.isnan(differences)]
    if len(values) == 0:
        return Interval(0.0, 0.0, 0.0)
    # One matrix of counts: each draw's weights over the queries.
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws)
    means = counts @ values / len(values)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate has to show to go live."""

    level: float = 0.9  # of the interval on the held-out gain
    tolerance: float = 0.02  # the interval's lower end may lie this far below zero: a few labels give wide intervals
    max_harmed: float = 0.5  # largest share of unlabelled items whose neighbourhood may be torn

    def __call__(self, gain: Interval, harmed: float) -> tuple[bool, str]:
        """Whether to promote, and the reason in words."""
        figures = f"{gain.mean:+.3f} (90 % interval {gain.low:+.3f} to {gain.high:+.3f})"
        if gain.mean <= 0:
            return False, f"held-out judgements did not rank better: mean average precision {figures}"
        if gain.low < -self.tolerance:
            return False, f"the held-out gain may be chance: mean average precision {figures}; more judgements would tell"
        if harmed > self.max_harmed:
            return (
                False,
                f"{harmed:.0%} of the unlabelled items would lose most of their neighbours (at most {self.max_harmed:.0%})",
            )
        return True, f"held-out judgements rank better: mean average precision {figures}"
