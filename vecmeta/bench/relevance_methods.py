"""The ways to use judged documents that `vecmeta.bench.relevance` compares: each makes a query, or scores, of what was judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.types import Keys, Vector, Vectors

IMPLICIT = 100  # random documents that logistic regression takes for not relevant


@dataclass(frozen=True, eq=False)
class Judged:
    """A query (dim,), its judged documents (j, dim), their scores (j,) +1 or -1, and the positions (r,) of all that is left to rank."""

    query: Vector
    items: Vectors
    scores: Vector
    left: Keys

    @property
    def liked(self) -> Vectors:
        """(p, dim), perhaps none."""
        return self.items[self.scores > 0]

    @property
    def disliked(self) -> Vectors:
        """(j - p, dim), perhaps none."""
        return self.items[self.scores < 0]


def methods(x: Vectors) -> dict[str, Callable[[Judged], NDArray[Any]]]:
    """The methods compared, by name; x (n, dim) are all documents."""
    return {
        "base": lambda task: task.query,
        "Rocchio": rocchio(0.75, 0.15),
        "positives only": lambda task: task.liked.mean(0) if len(task.liked) else task.query,
        "Qdrant average_vector": lambda task: _average_vector(task, task.liked),
        "Qdrant average_vector + query": lambda task: _average_vector(task, np.vstack([task.query, task.liked])),
        "Qdrant best_score": lambda task: _best_score(x, task, task.liked),
        "Qdrant best_score + query": lambda task: _best_score(x, task, np.vstack([task.query, task.liked])),
        "logistic regression": lambda task: _logistic(x, task, task.liked),
        "logistic regression + query": lambda task: _logistic(x, task, np.vstack([task.query, task.liked])),
    }


def rocchio(beta: float, gamma: float) -> Callable[[Judged], NDArray[Any]]:
    """q + beta mean(liked) - gamma mean(disliked)."""

    def bent(task: Judged) -> NDArray[Any]:
        total = task.query
        for weight, items in ((beta, task.liked), (-gamma, task.disliked)):
            if len(items):
                total = total + weight * items.mean(0)
        return total

    return bent


def _average_vector(task: Judged, liked: Vectors) -> NDArray[Any]:
    """Qdrant's strategy of that name: avg(liked) + (avg(liked) - avg(disliked)); the query where nothing is liked."""
    if not len(liked):
        return task.query
    average = liked.mean(0)
    return np.asarray(2 * average - task.disliked.mean(0) if len(task.disliked) else average)


def _best_score(x: Vectors, task: Judged, liked: Vectors) -> NDArray[Any]:
    """Qdrant's strategy of that name, the scores (n,): near the nearest liked one, unless a disliked one is nearer."""
    near = (x @ (liked if len(liked) else task.query[None]).T).max(1)
    if not len(task.disliked):
        return np.asarray(near)
    far = (x @ task.disliked.T).max(1)
    return np.asarray(np.where(near > far, near / (1 + np.abs(near)), -far / (1 + np.abs(far))))


def _logistic(x: Vectors, task: Judged, liked: Vectors) -> NDArray[Any]:
    """The direction of a logistic regression of the liked against the disliked and IMPLICIT random documents that nobody judged."""
    from sklearn.linear_model import LogisticRegression

    liked = liked if len(liked) else task.query[None]
    drawn = x[np.random.default_rng(len(task.left)).choice(task.left, min(IMPLICIT, len(task.left)), replace=False)]
    rows = np.vstack([liked, task.disliked, drawn])
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000).fit(rows, np.arange(len(rows)) < len(liked))
    return np.asarray(model.coef_[0])
