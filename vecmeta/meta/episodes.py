"""What an adaptation learns from: judged things, the statistics of the unlabelled collection, and tasks to practise on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, InvalidJudgement, InvalidVector
from vecmeta.meta.head import centre, unit
from vecmeta.types import Vector, Vectors

if TYPE_CHECKING:
    from vecmeta.meta.start import MetaConfig, Start

# k-means sees as many rows per centroid as a collection has of them (background_divisor): with 8 instead of 20 the untaught lose
# .02 mAP@R, on every held-out notion that was tried. The first steps look at a third of the rows, to be quick.
ROWS_PER_CENTROID = 20
ROUGH_STEPS, FINE_STEPS = 4, 2
LEAST_MEMBERS = 12  # a class with fewer rows makes no task


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
    """What an adaptation knows of the unlabelled collection: its mean (dim,) and centroids (B, dim), centred unit rows; float32."""

    mean: Vector
    background: Vectors


def statistics(sample: Vectors, start: Start, n: int, seed: int = 0) -> Statistics:
    """The mean and the k-means centroids of a collection of ``n`` items, from a random sample of its base vectors.

    ``sample`` is (m, dim) float32 unit rows, m >= 1 (20 rows per centroid are looked at). There are about
    n / background_divisor centroids, at least 8 and at most the start's background_most, fewer where rows are few or alike. The
    same sample, start and seed give the same statistics. Spherical k-means, a few steps from random rows.

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
    wanted = int(np.clip(n // start.config.background_divisor, 8, start.config.background_most))
    rows = sample[rng.permutation(len(sample))[: wanted * ROWS_PER_CENTROID]]
    return Statistics(mean, kmeans(centre(np, start.scalars, rows, mean), wanted))


def kmeans(x: Vectors, k: int) -> Vectors:
    """Spherical k-means of unit rows in random order, from the first k of them: (n, dim) -> (at most k, dim) unit rows."""
    centroids = x[:k]  # (k, dim)
    for rows in (*[x[: max(k, len(x) // 3)]] * ROUGH_STEPS, *[x] * FINE_STEPS):
        nearest = (rows @ centroids.T).argmax(1)  # (n,)
        order = np.argsort(nearest, kind="stable")
        first = np.unique(nearest[order], return_index=True)[1]  # a centroid that nothing is nearest to is dropped
        centroids = unit(np, np.add.reduceat(rows[order], first, axis=0)).astype(np.float32)  # (at most k, dim)
    return centroids


@dataclass(frozen=True, eq=False)
class Notion:
    """One labelled set of vectors, a notion of similarity: a source of tasks.

    ``x`` (n, dim) float32 unit rows, labelled or not; ``classes`` the rows (int64) of each class; a row may lie in several.
    Raises InvalidConfig with fewer than two classes of LEAST_MEMBERS rows.
    """

    name: str
    x: Vectors
    classes: Sequence[NDArray[np.int64]]

    def __post_init__(self) -> None:
        classes = tuple(rows for rows in self.classes if len(rows) >= LEAST_MEMBERS)
        if len(classes) < 2:
            raise InvalidConfig(
                f"the notion {self.name!r} has {len(classes)} classes of at least {LEAST_MEMBERS} rows; at least two are needed"
            )
        object.__setattr__(self, "classes", classes)


@dataclass(frozen=True, eq=False)
class Task:
    """An episode to learn from and the test that follows it.

    ``support`` has the fed columns alone; ``x`` (Q, dim) and ``y`` (Q, fed + unfed) in {0, 1} are the test, none of whose rows is
    in the support (a taught query is in both: it is asked again); ``anchors`` (Q,) bool are the rows that ask; ``collection``
    (m, dim) is a random, unlabelled part of the notion that holds the test.
    """

    support: Episode
    x: Vectors
    y: NDArray[np.float32]
    anchors: NDArray[np.bool_]
    collection: Vectors

    @property
    def fed(self) -> int:
        """How many columns of ``y`` were taught: the first so many."""
        return int(self.support.y.shape[1])


def sample_task(
    notion: Notion,
    config: MetaConfig,
    rng: np.random.Generator,
    *,
    ways: int | None = None,
    shots: int | None = None,
    queries: bool | None = None,
) -> Task:
    """A random task: concepts with shots, or queries with relevant and irrelevant items; what is not given is drawn."""
    count = len(notion.classes)
    ways = ways or int(rng.integers(1, max(1, min(config.ways_most, count - 1)) + 1))
    unfed = min(count - ways, max(ways, 2), config.ways_most)
    if queries is None:
        queries = bool(rng.random() < config.query_share)
    even = shots or (int(rng.integers(1, config.shots_most + 1)) if rng.random() < 0.5 else None)
    picked = [notion.classes[i] for i in rng.choice(count, ways + unfed, replace=False)]
    asked: list[int] = []  # the row that stands for a query, per column
    support: list[int] = []
    test: list[int] = []
    wrong: list[tuple[int, int]] = []  # (row, column) of real negatives
    for column, members in enumerate(picked):
        rows = rng.permutation(members)
        if queries:
            asked.append(int(rows[0]))
            near = np.argsort(-(notion.x[rows[1:]] @ notion.x[rows[0]]), kind="stable")
            rows = rows[1:][near[: max(len(near) // 2, LEAST_MEMBERS - 1)]]  # what is relevant to a query is near it, as a rule
            rows = rng.permutation(rows)
        taken = min(even or int(rng.integers(1, config.shots_most + 1)), len(rows) // 2) if column < ways else 0
        support += rows[:taken].tolist()
        test += rows[taken : taken + config.rows_per_class].tolist()
        if column < ways and (queries or rng.random() < 0.2):
            wrong += [(row, column) for row in _hard_negatives(notion, members, rng)]
    support_rows = np.unique(np.array(support + asked[:ways] + [row for row, _ in wrong], np.int64))
    test_rows = np.array(asked + np.setdiff1d(test, np.concatenate((support_rows, asked))).tolist(), np.int64)
    y = np.stack([np.isin(support_rows, members) for members in picked[:ways]], 1).astype(np.float32)
    for row, column in wrong:
        y[np.searchsorted(support_rows, row), column] = -1
    y_test = np.stack([np.isin(test_rows, members) for members in picked], 1).astype(np.float32)
    if queries:
        y_test[: len(asked)] = np.eye(len(asked), dtype=np.float32)  # a query is about its own column only
        for column in range(ways):
            y[np.searchsorted(support_rows, asked[column])] = np.eye(ways, dtype=np.float32)[column]
    anchors = np.arange(len(test_rows)) < len(asked) if queries else np.ones(len(test_rows), bool)
    size = min(len(notion.x), int(np.exp(rng.uniform(np.log(200), np.log(2000)))))
    collection = np.union1d(rng.choice(len(notion.x), size, replace=False), test_rows)
    return Task(Episode(notion.x[support_rows], y), notion.x[test_rows], y_test, anchors, notion.x[rng.permutation(collection)])


def _hard_negatives(notion: Notion, members: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """Up to five rows that a search for the class would have shown, and that are not in it."""
    seen = rng.choice(len(notion.x), min(len(notion.x), 500), replace=False)
    seen = seen[~np.isin(seen, members)]
    score = notion.x[seen] @ notion.x[members[int(rng.integers(len(members)))]]
    top = seen[np.argsort(-score, kind="stable")[:10]]
    return [int(row) for row in rng.permutation(top)[: int(rng.integers(0, 6))]]
