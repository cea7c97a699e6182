"""What an adaptation looks at of a collection: a random part of its base vectors, and statistics of it. Kept until something is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecmeta.catalogue.versions import VersionStore
from vecmeta.catalogue.views import ItemVectors
from vecmeta.meta.episodes import Statistics, statistics
from vecmeta.types import Vectors

SAMPLE = 8192  # items that the statistics and the trial look at; all of them in smaller collections


@dataclass(frozen=True, eq=False)
class Sample:
    """Base vectors (m, dim) and ids (m,) of a random part of the collection, how many items it has, and its statistics; None when empty."""

    vectors: Vectors
    ids: list[str]
    count: int
    stats: Statistics | None


class Sampler:
    """Samples of one collection; the last one is kept. A function of the items and the seed."""

    def __init__(self, items: ItemVectors, versions: VersionStore) -> None:
        self._items, self._versions = items, versions
        self._known: tuple[tuple[int, int], Sample] | None = None

    def sample(self, seed: int) -> Sample:
        """The sample of this seed."""
        mark = (self._versions.state().revision, seed)
        known = self._known
        if known is not None and known[0] == mark:
            return known[1]
        keys = self._items.keys()
        count = len(keys)
        if count > SAMPLE:
            keys = np.sort(np.random.default_rng(seed).choice(keys, SAMPLE, replace=False))
        _, vectors, ids = self._items.vectors(keys)
        found = Sample(vectors, ids, count, statistics(vectors, count, seed) if len(vectors) else None)
        self._known = mark, found
        return found

    def forget(self) -> None:
        """Free what is kept."""
        self._known = None
