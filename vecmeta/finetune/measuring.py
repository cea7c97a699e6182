"""How well held-out examples are found by an encoder on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.encoders.memory import halved
from vecmeta.evaluate import map_at_r, ndcg
from vecmeta.finetune.examples import Examples
from vecmeta.finetune.learner import Learner
from vecmeta.types import Keys, Vectors

MEASURED = {"text": (300, 1000), "image": (200, 400)}  # held-out queries, and what they are ranked among, at each measurement
AT_ONCE = 32  # contents


@dataclass(frozen=True, eq=False)
class Exam:
    """``rows`` (n,) of the pool, the first of which are queries; ``relevant`` (queries, n) of them belong together."""

    rows: Keys
    relevant: NDArray[np.bool_]

    def __call__(self, learner: Learner) -> dict[str, float]:
        """MAP@R and nDCG@10 of the queries among all rows."""
        z = vectors_of(learner, self.rows)
        count = len(self.relevant)
        itself = np.arange(count)
        found = map_at_r(z[:count], z, self.relevant, exclude=itself)
        gains = ndcg(z[:count], z, self.relevant.astype(np.float64), exclude=itself)
        return {"map": _mean(found), "ndcg": _mean(gains)}


def exam(examples: Examples, held_out: NDArray[np.bool_], seed: int, kind: str) -> Exam | None:
    """Held-out examples among them and those learned from, (n,) bool says which; None when nothing is held out."""
    most_queries, most = MEASURED.get(kind, MEASURED["text"])
    rng = np.random.default_rng((seed, 7))
    in_a_class = np.zeros(len(examples), bool)
    for rows in examples.members:
        in_a_class[rows] = True
    queries = np.flatnonzero(held_out & in_a_class)
    if not len(queries):
        return None
    queries = np.sort(rng.permutation(queries)[:most_queries])
    others = rng.permutation(np.setdiff1d(np.flatnonzero(in_a_class), queries))[: max(0, most - len(queries))]
    rows = np.concatenate((queries, np.sort(others)))
    y = examples.y(rows)
    return Exam(rows, (y[: len(queries)] @ y.T) > 0)


def vectors_of(learner: Learner, rows: Keys) -> Vectors:
    """(n, dim) unit rows of contents of the pool, without gradients. Raises EncoderUnavailable: not even one fits into memory."""
    complaint = f"not even one content can be measured on {learner.device}; use fewer tokens or another device"
    parts: list[Vectors] = []
    start, at_once = 0, AT_ONCE

    def part(count: int) -> Vectors:
        return np.asarray(learner.vectors(rows[start : start + count], None).float().cpu().numpy(), np.float32)

    while start < len(rows):
        vectors, at_once = halved(part, at_once, 1, complaint)
        parts.append(vectors)
        start += at_once
    return np.concatenate(parts)


def _mean(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
