"""What an index that answers needs now and then, beside its searches: linking, a look at its graph, files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

from vecmeta.errors import StorageError
from vecmeta.reindex import FLOOR, recall_of
from vecmeta.serving import Serving
from vecmeta.shelves.protocol import Shelf

STEPS = 3  # of a wider search that are tried where a new graph would be no better


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
                # bad order; where they did not it would be no better.
                good, topics = _sound(serving), False
                if not good:
                    topics = not renewed and serving.index.in_topics()
                    good = serving.index.reach(partial(_sound, serving), 1 if topics else STEPS)
                if good or not topics:  # what nothing mends is let be until there is twice as much
                    serving.sound = serving.index.linked * (1 if good else 2)
                else:
                    serving.index.wear()
                    renewed = True
            elif serving.lacking:
                save_or_warn(serving, shelf)


def _sound(serving: Serving) -> bool:
    return recall_of(serving.index) >= FLOOR


def save_or_warn(serving: Serving, shelf: Shelf) -> None:
    """Keep an index where its shelf keeps it; not being able to is a warning."""
    try:
        shelf.write(serving)
    except StorageError as error:
        # The files are derived data: the next start builds them again. It is tried again at the end, or after as many rows as now.
        serving.unsaved = 1
        warnings.warn(f"index files not written, they will be rebuilt at the next start: {error}", stacklevel=3)
