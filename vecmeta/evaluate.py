"""Quality of rankings, harm to what nobody labelled, and the gate that decides on a candidate.

All vectors are unit rows, so the dot product is the cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.types import Keys, Mask, Vectors

Floats = NDArray[np.float64]

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

    def over_all_ranks(scores: Vectors, part: Mask) -> Floats:
        ranked = _ranked(scores, part)
        ranks = np.arange(1, ranked.shape[1] + 1)
        with np.errstate(invalid="ignore"):
            return np.asarray((ranked.cumsum(1) / ranks * ranked).sum(1) / ranked.sum(1))

    return _in_blocks(queries, corpus, relevant, exclude, over_all_ranks)


def map_at_r(queries: Vectors, corpus: Vectors, relevant: Mask, exclude: Keys | None = None) -> Floats:
    """Average precision over the first R ranks, R the number of relevant items (Musgrave et al. 2020, MAP@R).

    Arguments and result as in `average_precision`.
    """

    def first_ranks(scores: Vectors, part: Mask) -> Floats:
        ranked = _ranked(scores, part)
        count = ranked.sum(1)
        ranks = np.arange(1, ranked.shape[1] + 1)
        with np.errstate(invalid="ignore"):
            return np.asarray((ranked.cumsum(1) / ranks * ranked * (ranks <= count[:, None])).sum(1) / count)

    return _in_blocks(queries, corpus, relevant, exclude, first_ranks)


def map_at_r_by_labels(z: Vectors, y: NDArray[np.float32]) -> Floats:
    """`map_at_r` of every row among the others, those relevant that share a column with it: z (n, dim) unit rows, y (n, C) >= 0 -> (n,)."""
    return map_at_r(z, z, (y @ y.T) > 0, exclude=np.arange(len(z)))


def ndcg(queries: Vectors, corpus: Vectors, gains: Floats, k: int = 10, exclude: Keys | None = None) -> Floats:
    """nDCG@k with gains as given and discount 1/log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Args:
        gains: (q, n) >= 0. The others as in `average_precision`.

    Returns:
        (q,) in [0, 1]; NaN for a query without gain.
    """

    def discounted(scores: Vectors, part: Floats) -> Floats:
        ranked = _ranked(scores, part)
        discount = 1 / np.log2(np.arange(2, min(k, ranked.shape[1]) + 2))
        ideal = -np.sort(-ranked, axis=1)[:, : len(discount)] @ discount
        with np.errstate(invalid="ignore"):
            return np.asarray(ranked[:, : len(discount)] @ discount / ideal)

    return _in_blocks(queries, corpus, gains, exclude, discounted)


def log_rank(scores: Vectors, relevant: Mask) -> Floats:
    """Mean log2 of the ranks of the relevant items, each counted among the irrelevant ones alone.

    One less is "twice as near to the top". For a handful of known relevant items among thousands of which some are relevant too but
    nobody said so, this tells candidates apart where average precision and nDCG see little but the unknown ones at the top.

    Args:
        scores: (q, n); items with the score -inf are out of the ranking.
        relevant: (q, n) bool.

    Returns:
        (q,) >= 0; NaN for a query with nothing relevant.
    """
    asking, wanted = np.nonzero(relevant)
    ranks = np.empty(len(asking))
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(asking), step):
        row = asking[start : start + step]
        own = scores[row, wanted[start : start + step]]
        # To count those in front takes less than to sort all.
        ranks[start : start + step] = 1 + np.count_nonzero((scores[row] > own[:, None]) & ~relevant[row], axis=1)
    with np.errstate(invalid="ignore"):
        return np.bincount(asking, np.log2(ranks), minlength=len(scores)) / np.bincount(asking, minlength=len(scores))


def _ranked(scores: Vectors, values: NDArray[Any]) -> Floats:
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1).astype(np.float64)


def _in_blocks(
    queries: Vectors,
    corpus: Vectors,
    values: NDArray[Any],
    exclude: Keys | None,
    measure: Callable[[Vectors, NDArray[Any]], Floats],
) -> Floats:
    """Rank the corpus for a block of queries at a time, so that memory stays bounded."""
    out = np.full(len(queries), np.nan)
    step = max(1, _BLOCK // max(1, len(corpus)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        scores, part = queries[rows] @ corpus.T, values[rows]
        if exclude is not None:
            itself = np.arange(len(scores)), exclude[rows]
            part = part.copy()
            scores[itself], part[itself] = -np.inf, 0
        out[rows] = measure(scores, part)
    return out


def recall(found: Keys, true: Keys) -> float:
    """Mean share of the true neighbours that were found: found (q, m) and true (q, k) keys; the denominator is k."""
    if true.size == 0:
        return 1.0
    return float(overlap(true, found).mean())


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
    return np.asarray((a[:, :, None] == b[:, None, :]).any(2).mean(1), np.float64)


# -- the gate ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `count` values and the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(values: Floats, groups: Keys, *, level: float = 0.9, draws: int = 2000, seed: int = 0) -> Interval:
    """The mean and its percentile interval, whole groups drawn (Efron 1979; Davison and Hinkley 1997, section 3.8).

    Args:
        values: (q,) one paired difference per held-out ranking.
        groups: (q,) what the rankings share, such as their concept; those of one group are no independent witnesses.
        level: of the two-sided interval.
    """
    if len(values) == 0:
        return Interval(0.0, 0.0, 0.0, 0)
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, weights=values), np.bincount(group)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)  # of each group in each draw
    low, high = np.quantile((counts @ sums) / (counts @ sizes), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate has to show to go live. Gains are in halvings of the rank, see `log_rank`.

    The evidence is the gain of held-out judgements in standard errors. How much of it is asked for depends on the record of the start that
    the candidate comes from, in [0, 1], see `vecmeta.meta.start.Start.record`. Nothing but evidence counts for a start without a record,
    or where the judgements look unlike all that the record speaks of; a start that has always helped is kept back only where the evidence
    speaks against it. docs/RESEARCH.md, section 4, says how often it is right.
    """

    level: float = 0.9  # of the intervals
    caution: float = 2.0  # standard errors asked for without a record
    trust: float = 2.5  # how many fewer a record of 1 or more asks for
    least_error: float = 0.05  # of a gain: the bootstrap of a few groups that agree by chance claims less
    max_unfed_loss: float = 0.1  # what concepts that were not taught may lose on average: 0.1 is a rank of 107 instead of 100
    max_harmed: float = 0.6  # share of unlabelled items that may lose most neighbours, where no concept could be held out

    def __call__(self, fed: Interval, unfed: Interval, harmed: float, record: float = 0.0) -> tuple[bool, str]:
        """Whether to promote, and the reason in words."""
        factor, low, high = (2**value for value in (fed.mean, fed.low, fed.high))
        taught = f"held-out items come up {factor:.2f} times as near to the top (90 % interval {low:.2f} to {high:.2f})"
        error = (fed.high - fed.low) / (2 * 1.645) + self.least_error
        enough = fed.mean / error >= self.caution - self.trust * record
        if not enough and fed.mean <= 0:
            return False, f"what was taught would not be found better: {taught}"
        if not enough:
            return False, f"the gain on what was taught may be chance: {taught}; more judgements would tell"
        if unfed.count and unfed.mean < -self.max_unfed_loss:
            return (
                False,
                f"what was not taught would be found worse: concepts held out come up {2**unfed.mean:.2f} times as near to the top",
            )
        if not unfed.count and harmed > self.max_harmed:
            return (
                False,
                f"{harmed:.0%} of the unlabelled items would lose most of their neighbours (at most {self.max_harmed:.0%})",
            )
        if fed.low > 0:
            return True, f"what was taught is found better: {taught}"
        return (
            True,
            f"{taught}: too few judgements to be sure, but the start that was learned from has helped wherever it was measured",
        )
