"""What an index kept in memory asks of whatever holds its vectors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from vecmeta.index.keys import KeyTable
from vecmeta.types import Keys, Mask, Vectors


class Store(Protocol):
    """Vectors by row number, appended only. Unlocked."""

    @property
    def linked(self) -> int:
        """Rows that are in the structure that speeds searches up."""

    @property
    def pending(self) -> int:
        """Rows that should be in it and are not yet."""

    def __len__(self) -> int: ...

    def gather(self, rows: Keys) -> Vectors:
        """Rows by number, (n, dim), a copy."""

    def append(self, vectors: Vectors) -> None:
        """Add (n, dim) rows, copied; they are found from now on."""

    def overwrite(self, rows: Keys, vectors: Vectors) -> None:
        """Replace rows, all different: (n,), (n, dim)."""

    def prepare(self, rows: int) -> None:
        """What `link` of so many rows needs first and others may search beside; changes nothing that they see.

        0: nobody minds if it takes `link` a while to grow.
        """

    def own(self) -> None:
        """Put what `prepare` made in its place; at least what is mapped from a file is in memory of its own then."""

    def mixed(self, rows: int) -> tuple[Keys, Keys]:
        """Have rows change places so that the next ones to be linked are any of those that wait; which did, (m,), (m,)."""

    def link(self, rows: int) -> None:
        """Take up to so many of the pending rows into the structure."""

    def rest(self) -> bool:
        """Called when nothing is pending, for as long as it is True: what else makes searches faster, a little at a time."""

    def fork(self) -> Store:
        """The rows that are linked and their structure, copied."""

    def best(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """Scores and rows, both (q, k), best first; only rows in the mask, of which there are at least k."""

    def exact(self, queries: Vectors, k: int, mask: Mask | None) -> tuple[Vectors, Keys]:
        """`best`, without missing any."""

    def dump(self, folder: Path) -> None:
        """Write the vectors, and what speeds up their search."""


class State(NamedTuple):
    """What an index is at one moment: keys and vectors, row by row."""

    table: KeyTable
    store: Store
