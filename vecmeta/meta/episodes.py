"""What an adaptation learns from: judged things, and the statistics of the unlabelled collection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, InvalidJudgement, InvalidVector
from vecmeta.meta.head import centre, unit
from vecmeta.types import Vector, Vectors

BACKGROUND_DIVISOR = 20  # one cluster for so many items: at 10 and 40 the mixed lose .005 mAP@R, at 5 .012
BACKGROUND_MOST = 512  # never more clusters than this: the cost of projecting grows with them
# k-means sees as many rows per cluster as a collection has of them: with 8 instead of 20 the untaught lose .02 mAP@R, on every
# held-out notion that was tried. The first steps look at a third of the rows, to be quick.
ROWS_PER_CLUSTER = 20
ROUGH_STEPS, FINE_STEPS = 4, 2


@dataclass(frozen=True, eq=False)
class Episode:
    """Judged things.

    ``x``  (N, dim) float32 unit rows: items, and the query itself for a query judgement (with y = 1 in its own column).
    ``y``  (N, C) float32 in [-1, 1], a column per concept or query: above 0 belongs or is relevant (graded), below 0 does not,
           0 is unknown. A row may belong to several columns. A column without a positive teaches nothing and is ignored.

    Raises InvalidVector or InvalidJudgement when the arrays do not fit that description, or hold no positive at all.
    """

    x: Vectors
    y: NDArray[np.float32]

    def __post_init__(self) -> None:
        x, y = np.asarray(self.x, np.float32), np.asarray(self.y, np.float32)
        if x.ndim != 2 or not x.size:
            raise InvalidVector(f"an episode's rows have the shape (N, dim), not {x.shape}")
        if y.ndim != 2 or len(y) != len(x):
            raise InvalidJudgement(f"{len(x)} judged rows need judgements of the shape ({len(x)}, C), not {y.shape}")
        norms = np.einsum("nd,nd->n", x, x)
        if not np.all(np.abs(norms - 1) < 1e-2):  # a NaN fails this too
            raise InvalidVector(f"row {int(np.argmax(~(np.abs(norms - 1) < 1e-2)))} of an episode is not a unit vector")
        if not np.all(np.abs(y) <= 1):
            raise InvalidJudgement("judgements lie in [-1, 1]")
        if not (y > 0).any():
            raise InvalidJudgement("nothing to learn: no judgement says that something belongs or is relevant")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    @property
    def concepts(self) -> int:
        """Columns with at least one positive: what will be taught."""
        return int((self.y > 0).any(0).sum())


@dataclass(frozen=True, eq=False)
class Statistics:
    """What an adaptation knows of the unlabelled collection, float32: its mean (dim,), the means of its clusters (B, dim), and how
    many items each of them stands for (B,)."""

    mean: Vector
    background: Vectors
    counts: Vector


def statistics(
    sample: Vectors, n: int, seed: int = 0, *, divisor: int = BACKGROUND_DIVISOR, most: int = BACKGROUND_MOST
) -> Statistics:
    """The mean and the cluster means of a collection of ``n`` items, from a random sample of its base vectors.

    ``sample`` is (m, dim) float32 unit rows, m >= 1 (20 rows per cluster are looked at). There are about n / divisor clusters, at
    least 8 and at most ``most``, fewer where rows are few or alike. The same arguments give the same statistics. Spherical k-means
    of the centred rows, a few steps from random ones (Dhillon and Modha 2001).

    Raises:
        InvalidVector: the sample is not (m >= 1, dim), or holds NaN or infinity.
        InvalidConfig: n < 1.
    """
    sample = np.asarray(sample, np.float32)
    if sample.ndim != 2 or not sample.size or not np.isfinite(sample).all():
        raise InvalidVector(f"statistics need a sample of finite rows, (m, dim) with m >= 1, not {sample.shape}")
    if n < 1:
        raise InvalidConfig(f"a collection of {n} items has no statistics")
    rng = np.random.default_rng(seed)
    mean = sample.mean(0)  # (dim,)
    wanted = int(np.clip(n // divisor, 8, most))
    rows = sample[rng.permutation(len(sample))[: wanted * ROWS_PER_CLUSTER]]
    centred = centre(np, rows, mean, 1.0)  # (m, dim)
    nearest = (centred @ kmeans(centred, wanted).T).argmax(1)  # (m,)
    order = np.argsort(nearest, kind="stable")
    first, counts = np.unique(nearest[order], return_index=True, return_counts=True)[1:]
    background = np.add.reduceat(rows[order], first, axis=0) / counts[:, None]  # (B, dim)
    return Statistics(mean, background.astype(np.float32), (counts * (n / len(rows))).astype(np.float32))


def kmeans(x: Vectors, k: int) -> Vectors:
    """Spherical k-means of unit rows in random order, from the first k of them: (n, dim) -> (at most k, dim) unit rows."""
    centroids = x[:k]  # (k, dim)
    for rows in (*[x[: max(k, len(x) // 3)]] * ROUGH_STEPS, *[x] * FINE_STEPS):
        nearest = (rows @ centroids.T).argmax(1)  # (n,)
        order = np.argsort(nearest, kind="stable")
        first = np.unique(nearest[order], return_index=True)[1]  # a centroid that nothing is nearest to is dropped
        centroids = unit(np, np.add.reduceat(rows[order], first, axis=0)).astype(np.float32)  # (at most k, dim)
    return centroids
