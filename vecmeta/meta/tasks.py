"""Tasks to practise on: from a labelled set of vectors, a notion of similarity, what a user might say about part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.meta.episodes import Episode, Statistics, statistics
from vecmeta.meta.start import MetaConfig
from vecmeta.types import Vectors

Kind: TypeAlias = Literal["concepts", "queries", "pairs"]
Rows: TypeAlias = NDArray[np.int64]

LEAST_MEMBERS = 12  # a class with fewer rows makes no task


@dataclass(frozen=True, eq=False)
class Notion:
    """One labelled set of vectors, a notion of similarity: a source of tasks.

    ``x`` (n, dim) float32 unit rows, labelled or not; ``classes`` the rows (int64) of each class; a row may lie in several.
    Raises InvalidConfig with fewer than two classes of LEAST_MEMBERS rows.
    """

    name: str
    x: Vectors
    classes: Sequence[Rows]

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

    ``support`` speaks of ``fed`` classes alone; ``x`` (Q, dim) and ``y`` (Q, fed + unfed) in {0, 1} are the test, the taught classes
    first, none of whose rows is in the support (a taught query is in both: it is asked again); ``anchors`` (Q,) bool are the rows
    that ask; ``collection`` (m, dim) is a random, unlabelled part of the notion that holds the test.
    """

    support: Episode
    fed: int
    x: Vectors
    y: NDArray[np.float32]
    anchors: NDArray[np.bool_]
    collection: Vectors

    @property
    def taught(self) -> NDArray[np.bool_]:
        """(Q,) whether a test row lies in a taught class."""
        return np.asarray((self.y[:, : self.fed] > 0).any(1))

    @cached_property
    def statistics(self) -> Statistics:
        """Of the collection, computed once."""
        return statistics(self.collection, len(self.collection))


def sample_task(
    notion: Notion,
    config: MetaConfig,
    rng: np.random.Generator,
    *,
    ways: int | None = None,
    shots: int | None = None,
    kind: Kind | None = None,
    rows_per_class: int | None = None,
    negatives: int | None = None,
    collection: int | None = None,
) -> Task:
    """A random task; what is not given is drawn.

    Concepts have ``shots`` members each, and ``negatives`` rows that a search would have shown and that do not belong (undecided: a
    fifth of the concepts have up to five, and all queries and pairs). A query is a row, with relevant and irrelevant ones. Pairs say of
    two rows that they are alike, or not, and nothing else. ``collection`` is how many rows are seen unlabelled.
    """
    count = len(notion.classes)
    ways = ways or int(rng.integers(1, max(1, min(config.ways_most, count - 1)) + 1))
    unfed = min(count - ways, max(ways, 2), config.ways_most)
    kind = kind or _drawn_kind(config, rng)
    even = shots or (_drawn_shots(config, rng) if rng.random() < 0.5 else None)
    per_class = rows_per_class or config.rows_per_class
    picked = [notion.classes[i] for i in rng.choice(count, ways + unfed, replace=False)]
    asked: list[int] = []  # the row that stands for a query, per column
    given: list[Rows] = []  # the members that the support holds, per taught class
    wrong: list[Rows] = []  # and its real negatives
    test: list[int] = []
    for column, members in enumerate(picked):
        rows = rng.permutation(members)
        if kind == "queries":
            asked.append(int(rows[0]))
            near = np.argsort(-(notion.x[rows[1:]] @ notion.x[rows[0]]), kind="stable")
            rows = rng.permutation(rows[1:][near[: max(len(near) // 2, LEAST_MEMBERS - 1)]])  # what suits a query is near it
        taken = min(even or _drawn_shots(config, rng), len(rows) // 2) if column < ways else 0
        test += rows[taken : taken + per_class].tolist()
        if column < ways:
            given.append(rows[:taken])
            some = negatives if negatives is not None else int(rng.integers(0, 6)) * (kind != "concepts" or rng.random() < 0.2)
            wrong.append(_hard_negatives(notion, members, some, rng))
    if kind == "queries":  # an untaught query is nowhere in the support, and a taught one in its own column alone
        given, wrong = ([rows[~np.isin(rows, asked)] for rows in part] for part in (given, wrong))
        support = _queries(picked[:ways], given, wrong, asked)
    else:
        support = (_pairs if kind == "pairs" else _concepts)(picked[:ways], given, wrong)
    rows_given = support[0]
    test_rows = np.array(asked + np.setdiff1d(test, np.concatenate((rows_given, np.array(asked, np.int64)))).tolist(), np.int64)
    y = np.stack([np.isin(test_rows, members) for members in picked], 1).astype(np.float32)
    if kind == "queries":
        y[: len(asked)] = np.eye(len(asked), dtype=np.float32)  # a query is about its own column only
    anchors = np.arange(len(test_rows)) < len(asked) if kind == "queries" else np.ones(len(test_rows), bool)
    size = min(len(notion.x), collection or int(np.exp(rng.uniform(np.log(400), np.log(4000)))))
    seen = np.union1d(rng.choice(len(notion.x), size, replace=False), test_rows)
    return Task(Episode(notion.x[rows_given], support[1]), ways, notion.x[test_rows], y, anchors, notion.x[rng.permutation(seen)])


def _drawn_kind(config: MetaConfig, rng: np.random.Generator) -> Kind:
    draw = rng.random()
    if draw < config.query_share:
        return "queries"
    return "pairs" if draw < config.query_share + config.pair_share else "concepts"


def _drawn_shots(config: MetaConfig, rng: np.random.Generator) -> int:
    """One to shots_most, the few as likely as the many: uniform in the logarithm."""
    return int(np.exp(rng.uniform(0, np.log(config.shots_most + 1))))


Support: TypeAlias = tuple[Rows, NDArray[np.float32]]


def _concepts(classes: Sequence[Rows], given: Sequence[Rows], wrong: Sequence[Rows]) -> Support:
    rows = np.unique(np.concatenate((*given, *wrong)))
    y = np.stack([np.isin(rows, members) for members in classes], 1).astype(np.float32)
    for column, negatives in enumerate(wrong):
        y[np.searchsorted(rows, negatives), column] = -1
    return rows, y


def _queries(classes: Sequence[Rows], given: Sequence[Rows], wrong: Sequence[Rows], asked: Sequence[int]) -> Support:
    """As concepts, and each query belongs to its own column alone."""
    rows, y = _concepts(classes, [np.append(rows, row) for rows, row in zip(given, asked, strict=False)], wrong)
    for column in range(len(classes)):
        y[np.searchsorted(rows, asked[column])] = np.eye(len(classes), dtype=np.float32)[column]
    return rows, y


def _pairs(classes: Sequence[Rows], given: Sequence[Rows], wrong: Sequence[Rows]) -> Support:
    """A column per pair: the first row of a class with another one of it, or with one that is told apart from it."""
    pairs = [(members[0], other, 1.0) for members in given for other in members[1:]]
    pairs += [(members[0], other, -1.0) for members, negatives in zip(given, wrong, strict=True) for other in negatives]
    if not pairs:  # one member each and nothing told apart: the members themselves
        return _concepts(classes, given, wrong)
    rows = np.unique(np.array([row for pair in pairs for row in pair[:2]], np.int64))
    y = np.zeros((len(rows), len(pairs)), np.float32)
    for column, (row, other, score) in enumerate(pairs):
        y[np.searchsorted(rows, [row, other]), column] = 1.0, score
    return rows, y


def _hard_negatives(notion: Notion, members: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Up to so many rows that a search for the class would have shown, and that are not in it."""
    if count == 0:
        return np.empty(0, np.int64)
    seen = rng.choice(len(notion.x), min(len(notion.x), 500), replace=False)
    seen = seen[~np.isin(seen, members)]
    score = notion.x[seen] @ notion.x[members[int(rng.integers(len(members)))]]
    top = seen[np.argsort(-score, kind="stable")[: 2 * count]]
    return np.asarray(rng.permutation(top)[:count], np.int64)
