"""Which rows a step learns from: a function of the seed and the number of the step, so that a resumed training sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.finetune.examples import Examples
from vecmeta.types import Keys

ROUNDS = 8  # at most in a batch


@dataclass(frozen=True, eq=False)
class Round:
    """Pairs of which no anchor belongs to another pair's class: positions within the batch, (p,) each; ``others`` (m,) belong to none."""

    anchors: Keys
    positives: Keys
    others: Keys


@dataclass(frozen=True, eq=False)
class Batch:
    """``rows`` (b,) of the contents, and the rounds that compare them."""

    rows: Keys
    rounds: tuple[Round, ...]


class Batches:
    """Draws batches: classes alike often, their rows by `weights` (n,), which default to alike often."""

    def __init__(self, examples: Examples, weights: NDArray[np.float64] | None = None) -> None:
        self._examples, self._weights = examples, weights
        self._usable = [column for column, rows in enumerate(examples.members) if len(rows) >= 2]
        if not self._usable:
            raise InvalidConfig("no class has two items left to learn from")
        if len(self._usable) == 1 and not len(examples.against[self._usable[0]]):
            raise InvalidConfig(
                f"only the class {examples.classes[self._usable[0]]!r} has two items to learn from; two classes need them"
            )
        self._of: list[set[int]] = [set() for _ in range(len(examples))]  # the classes of each row
        for column, rows in enumerate(examples.members):
            for row in rows.tolist():
                self._of[row].add(column)
        self._odds = None if weights is None else _share([float(weights[examples.members[c]].sum()) for c in self._usable])

    def batch(self, seed: Sequence[int], pairs: int) -> Batch:
        """About so many pairs, in as many rounds as it takes."""
        rng = np.random.default_rng(seed)
        place: dict[int, int] = {}
        rounds: list[Round] = []
        found = 0
        while found < pairs and len(rounds) < ROUNDS:
            made = self._round(rng, pairs - found)
            found += len(made[0])
            spots = [np.array([place.setdefault(row, len(place)) for row in rows], np.int64) for rows in made]
            rounds.append(Round(*spots))
        return Batch(np.array(list(place), np.int64), tuple(rounds))

    def _round(self, rng: np.random.Generator, most: int) -> tuple[list[int], list[int], list[int]]:
        count = min(len(self._usable), max(2, most))
        odds = self._odds
        if odds is not None:
            count = min(count, int((odds > 0).sum()))
        columns = rng.choice(self._usable, count, replace=False, p=odds)
        taken: set[int] = set()  # classes of the round
        anchors: list[int] = []
        positives: list[int] = []
        others: list[int] = []
        used: set[int] = set()  # classes that rows of the round belong to
        for column in columns.tolist():
            pair = self._pair(column, rng)
            belongs = self._of[pair[0]] | self._of[pair[1]]
            if belongs & used:
                continue  # they would be told apart from what they belong with
            taken.add(column)
            used |= belongs
            anchors.append(pair[0])
            positives.append(pair[1])
        for column in sorted(taken):
            apart = self._examples.against[column]
            if len(apart):
                row = int(rng.choice(apart))
                if not self._of[row] & taken:
                    others.append(row)
        return anchors, positives, others

    def _pair(self, column: int, rng: np.random.Generator) -> tuple[int, int]:
        members, asks = self._examples.members[column], int(self._examples.asks[column])
        if asks >= 0:
            answers = members[members != asks]
            return asks, int(rng.choice(answers, p=self._chances(answers)))
        chances = self._chances(members)
        if chances is not None and (chances > 0).sum() < 2:
            chances = None
        first, second = rng.choice(members, 2, replace=False, p=chances).tolist()
        return first, second

    def _chances(self, rows: Keys) -> NDArray[np.float64] | None:
        return None if self._weights is None else _share(self._weights[rows].tolist())


def _share(weights: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(weights, np.float64)
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), 1 / len(values))
