"""Answers under a new head before its index is built: from the old index, with mapped queries, re-scored exactly.

With old vectors o(x), new vectors z(x) and the linear map M that brings the former nearest to the latter on a sample X::

    M    = argmin |o(X) M - z(X)|^2 + RIDGE |M|^2
    z(q) . z(x)  ~  z(q) . (o(x) M)  =  (z(q) M') . o(x)

so the old index, asked for z(q) M', brings items that are near under the new head. The best OVERSAMPLE x k of them are scored by the new
head from their stored base vectors: scores are exact, and what can be missed is only what lay beyond the list.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import numpy as np

from vecmeta.catalogue.versions import State, VersionStore
from vecmeta.catalogue.views import ItemVectors
from vecmeta.encoders.vectors import unit_rows
from vecmeta.errors import IndexUnavailable
from vecmeta.index.protocol import Allowed, Expression, VectorIndex
from vecmeta.meta.head import Head
from vecmeta.serving import Serving
from vecmeta.shelves.protocol import Under
from vecmeta.types import Keys, Vectors
from vecmeta.where import Node

SAMPLED = 4096  # items that the map is fitted to
RIDGE = 1e-3  # of the mean square of a direction
OVERSAMPLE = 20  # times k rows come from the old index, and at least LEAST
LEAST = 200
AT_ONCE = 64  # queries whose candidates are read together


def mapping(old: Head, new: Head, sample: Vectors) -> Vectors:
    """M (dim, dim) for base vectors (n, dim)."""
    a, b = (head.project(sample).astype(np.float64) for head in (old, new))  # (n, dim)
    gram = a.T @ a
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    return np.linalg.solve(gram, a.T @ b).astype(np.float32)


def sample_of(items: ItemVectors, seed: int = 0) -> Vectors:
    """Base vectors (n, dim) of random items."""
    keys = items.keys()
    return items.vectors(np.random.default_rng(seed).choice(keys, min(SAMPLED, len(keys)), replace=False))[1]


class Bridges:
    """The bridge of one collection: the last one is kept.

    It is used where it is asked for: `always`, or by an adaptation of any process that made its version live ahead of the index.
    """

    def __init__(self, under: Under, versions: VersionStore, always: bool = False) -> None:
        self.always = always
        self._under, self._versions = under, versions
        self._asked: tuple[int | None, bool] = None, False  # the last activation that was looked at, and whether it was ahead
        self._last: tuple[int, Serving, Serving] | None = None  # to which version, from what, and what answers
        self._lock = threading.Lock()

    def wanted(self, state: State) -> bool:
        """Whether the live version may be answered for by the one before it."""
        asked = self._asked
        if not self.always and asked[0] != state.activation:
            asked = self._asked = state.activation, self._versions.ahead(state.activation)
        return self.always or asked[1]

    def to(self, number: int, version: Callable[[], tuple[Head, int]], before: Serving, revision: int) -> Serving:
        """A serving of a version that is not built yet, by way of the one that answers, which has been caught up to a revision.

        `version` gives its head and encoder. Between two encoders there is no bridge: then `before` answers as itself.
        """
        with self._lock:
            if self._last is None or self._last[0] != number or self._last[1] is not before:
                head, encoder = version()
                over = before
                if encoder == before.encoder:
                    over = Serving(number, head, BridgeIndex(head, before, self._under(encoder)), revision, encoder)
                self._last = number, before, over
            answers = self._last[2]
        if answers is not before:
            answers.revision = revision
        return answers


class BridgeIndex:
    """See `vecmeta.index.protocol`; for reading alone: the old index follows the writes."""

    kind = "bridge"

    def __init__(self, head: Head, before: Serving, items: ItemVectors) -> None:
        self.dim = head.dim
        self.before = before
        self._head, self._items = head, items
        self._back = mapping(before.head, head, sample_of(items)).T

    def __len__(self) -> int:
        return len(self._index)

    @property
    def _index(self) -> VectorIndex:
        return self.before.index

    def expression(self, node: Node) -> Expression | None:
        """As the old index says it."""
        return self._index.expression(node)

    def search(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """The k best of what the old index brings for the mapped queries, by their exact scores."""
        return self._rescored(queries, k, self._index.search, allowed)

    def exact(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """The same with every item on the list."""
        return self._rescored(queries, max(k, len(self)), self._index.exact, allowed, k)

    def _rescored(
        self, queries: Vectors, k: int, ask: Callable[..., tuple[Vectors, Keys]], allowed: Allowed, most: int | None = None
    ) -> tuple[Vectors, Keys]:
        parts = [
            self._part(queries[n : n + AT_ONCE], k, ask, allowed, most or k) for n in range(0, max(len(queries), 1), AT_ONCE)
        ]
        m = min(scores.shape[1] for scores, _ in parts)
        return np.concatenate([scores[:, :m] for scores, _ in parts]), np.concatenate([keys[:, :m] for _, keys in parts])

    def _part(
        self, queries: Vectors, k: int, ask: Callable[..., tuple[Vectors, Keys]], allowed: Allowed, most: int
    ) -> tuple[Vectors, Keys]:
        mapped = unit_rows(queries @ self._back, self.dim) if len(queries) else queries
        found = ask(mapped, max(LEAST, OVERSAMPLE * k), allowed=allowed)[1]  # (q, m)
        keys, base, _ = self._items.vectors(np.unique(found))  # those that are still there
        if not len(keys):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        z = self._head.project(base)
        at = np.minimum(np.searchsorted(keys, found), len(keys) - 1)  # (q, m)
        scores = np.einsum("qd,qmd->qm", queries, z[at], optimize=True)
        scores[keys[at] != found] = -np.inf
        m = min(most, int((scores > -np.inf).sum(axis=1).min(initial=scores.shape[1])))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :m]
        return np.clip(np.take_along_axis(scores, order, axis=1), -1, 1), np.take_along_axis(found, order, axis=1)

    def vectors(self, keys: Keys) -> Vectors:
        """Under the new head; KeyError names the first unknown key."""
        known, base, _ = self._items.vectors(np.unique(keys))
        at = np.searchsorted(known, keys)
        missing = ~np.isin(keys, known)
        if missing.any():
            raise KeyError(int(keys[np.argmax(missing)]))
        return self._head.project(base)[at] if len(keys) else np.empty((0, self.dim), np.float32)

    def keys(self) -> Keys:
        """Of the old index."""
        return self._index.keys()

    @property
    def linked(self) -> int:
        """0: what is linked is another's."""
        return 0

    @property
    def pending(self) -> int:
        """0 likewise."""
        return 0

    def reach(self, good: Callable[[], bool], steps: int) -> bool:  # noqa: ARG002
        """False: how widely it searches is its own affair."""
        return False

    def in_topics(self) -> bool:
        """False likewise."""
        return False

    def settle(self, go_on: Callable[[], None] = lambda: None) -> int:  # noqa: ARG002
        """Nothing to do."""
        return 0

    def wear(self) -> None:
        """Nothing to do."""

    def own(self) -> None:
        """Nothing to do."""

    def fork(self) -> Self | None:
        """None."""
        return None

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Raises IndexUnavailable: writes go to the old index."""
        raise IndexUnavailable(f"a bridge to {self.before.version} takes no {len(keys)} vectors of {vectors.shape[1:]}")

    fill = add

    def remove(self, keys: Keys) -> int:
        """Raises IndexUnavailable: likewise."""
        raise IndexUnavailable(f"a bridge to {self.before.version} removes no {len(keys)} vectors")

    def close(self) -> None:
        """The old index stays open."""
