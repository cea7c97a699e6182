"""What an index that answers needs now and then, beside its searches: linking, a look at its graph, files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

from vecmeta.errors import StorageError
from vecmeta.index.protocol import VectorIndex
from vecmeta.reindex import FLOOR, recall_of
from vecmeta.serving import Serving
from vecmeta.shelves.protocol import Shelf

PAIRS, ALIKE = 500, 0.05  # pairs of items that are compared, and by how much cosines differ where there are topics


def settle(serving: Serving, shelf: Shelf, go_on: Callable[[], None]) -> None:
    """Link what there is to link, look whether that is good, and write the files where they lack much."""
    renewed = False
    while True:
        with serving.tending:  # one at a time: two would both find the same wanting
            if not serving.due:
                return
            serving.unsaved += serving.index.settle(go_on)
            if serving.grown:
                # The more there is, the wider a search has to be. A new graph takes minutes for a million, and is for rows that came in a
                # bad order; where they did not it would be no better, so it comes after a wider search.
                good = _sound(serving) or serving.index.reach(
                    partial(_sound, serving), 1 if not renewed and in_topics(serving.index) else 3
                )
                if good or renewed:  # what does not mend it either is let be until there is twice as much
                    serving.sound = serving.index.linked * (1 if good else 2)
                else:
                    serving.index.wear()
                    renewed = True
            elif serving.lacking:
                save_or_warn(serving, shelf)


def _sound(serving: Serving) -> bool:
    return recall_of(serving.index) >= FLOOR


def in_topics(index: VectorIndex, seed: int = 0) -> bool:
    """Whether items came one topic after the other, which makes for a bad graph: those that came one after the other are more alike than
    any two."""
    keys, rng = index.keys(), np.random.default_rng(seed)
    if len(keys) < 2:
        return False
    one, other = rng.integers(len(keys) - 1, size=PAIRS), rng.integers(len(keys), size=PAIRS)
    x, following, any_other = (index.vectors(keys[places]) for places in (one, one + 1, other))
    return float((x * following).sum(1).mean() - (x * any_other).sum(1).mean()) > ALIKE


def save_or_warn(serving: Serving, shelf: Shelf) -> None:
    """Keep an index where its shelf keeps it; not being able to is a warning."""
    try:
        shelf.write(serving)
    except StorageError as error:
        # The files are derived data: the next start builds them again. It is tried again at the end, or after as many rows as now.
        serving.unsaved = 1
        warnings.warn(f"index files not written, they will be rebuilt at the next start: {error}", stacklevel=3)
