"""One version ready to be searched: its head, its index, and how far it has followed the catalogue."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from vecmeta.index.protocol import VectorIndex
from vecmeta.meta.feedback import LEAST, SURVEYED, Landscape, survey

if TYPE_CHECKING:
    from vecmeta.meta.head import Head


SAVE_AFTER = 20_000  # rows that may be lost from an index's files (never from the catalogue) before they are written anew
GROWN = 1.25  # times as many vectors in a graph as when it was last looked at: look at it again


class Serving:
    """Head and index of one version."""

    def __init__(self, version: int, head: Head, index: VectorIndex, revision: int, encoder: int = 0) -> None:
        self.version = version
        self.head = head
        self.encoder = encoder  # whose vectors the head is for; 0 is the collection's own
        self.fingerprint = fingerprint(head, encoder)  # an index of another head or encoder is not this version's
        self.index = index
        self.revision = revision  # the index holds all writes up to here
        self.unsaved = 0
        self.sound = index.linked  # vectors in its graph when that was last looked at
        self.building = False  # all of it is being indexed, and searches of it would find a part
        self.lock = threading.Lock()  # held by the one who catches up
        self.tending = threading.Lock()  # held by the one who links and looks at what was linked
        self._landscape: Landscape | None = None
        self._surveyed = 0  # items there were when the landscape was made
        self._surveying = threading.Lock()

    @property
    def grown(self) -> bool:
        """Whether so much has been linked that the graph is to be looked at again."""
        return self.index.linked > GROWN * self.sound

    @property
    def due(self) -> bool:
        """Whether its index has something to link, or its files lack much."""
        return self.index.pending > 0 or self.lacking

    @property
    def lacking(self) -> bool:
        """Whether its files lack much."""
        return self.unsaved > max(SAVE_AFTER, len(self.index) // 4)

    def landscape(self) -> Landscape | None:
        """What bending a query knows of the collection under this version; None with fewer than LEAST items.

        Made from a random sample of this index's vectors when it is first asked for, and again when the collection has grown or shrunk to
        twice or half of what was looked at: a mean and a covariance change slowly.
        """
        count = len(self.index)
        if count < LEAST:
            return None
        with self._surveying:
            if self._landscape is None or not self._surveyed / 2 < count < 2 * self._surveyed:
                keys = self.index.keys()
                rng = np.random.default_rng(self.version)
                while len(keys):
                    sample = np.sort(rng.choice(keys, min(SURVEYED, len(keys)), replace=False))
                    try:
                        self._landscape, self._surveyed = survey(self.index.vectors(sample)), count
                        break
                    except KeyError:  # deleted since the keys were read
                        keys = self.index.keys()
            return self._landscape

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """Around a catching up; the first one builds."""
        self.building = self.revision == 0
        try:
            yield
        finally:
            self.building = False


def fingerprint(head: Head, encoder: int = 0) -> str:
    """SHA-256 of a head, hexadecimal, and the number of its encoder if that is not the collection's own."""
    return hashlib.sha256(head.to_bytes()).hexdigest() + (f":{encoder}" if encoder else "")
