"""What is asked of a place for indexes. What is there is derived data: losing it costs a rebuild."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from vecmeta.catalogue.views import ItemVectors
from vecmeta.index.protocol import FiledIndex, VectorIndex
from vecmeta.meta.head import Head, Projector
from vecmeta.reindex import Reindexed
from vecmeta.serving import Serving
from vecmeta.types import Progress

Under: TypeAlias = Callable[[int], ItemVectors]  # the items as an encoder sees them


class Source(NamedTuple):
    """What a version is made from: its number, its head, a way to project with it, and the encoder whose vectors the head is for."""

    number: int
    head: Head
    by: Projector
    encoder: int = 0  # the collection's own


class Shelf(Protocol):
    """The indexes of one collection, by version."""

    shared: bool  # several processes write to the same index; else each has its own and what is kept are copies

    def opened(
        self, number: int, head: Head, encoder: int, catch_up: Callable[[Serving], None], go_on: Callable[[], None]
    ) -> Serving:
        """The serving of a version, caught up with the catalogue; built when it is not kept. Raises IndexUnavailable.

        What `go_on` raises ends the waiting for another process that builds it.
        """

    def built(self, source: Source, live: VectorIndex | None, progress: Progress | None) -> tuple[Serving, Reindexed]:
        """A version that is about to go live: all items projected, indexed, checked. What `progress` raises leaves nothing.

        `live`: the index of the version that is live, whose structure may be kept; None where there is none of the same encoder.
        """

    def catch_up(self, serving: Serving, go_on: Callable[[], None], wait: bool) -> bool:
        """Apply the writes that a serving lacks; its lock is held. False when somebody else is at it, and without `wait` at once."""

    def write(self, serving: Serving) -> None:
        """Keep it as it is now. Raises the StorageError family."""

    def live(self, number: int) -> None:
        """Tell those who look in from outside which version is live."""

    def discard(self, number: int) -> None:
        """A version did not come to be."""

    def prune(self, needed: set[int]) -> None:
        """Only these versions are needed: the others may go."""

    def forget(self) -> None:
        """The collection has been dropped: nothing of it is needed."""

    def scratch(self, **options: Any) -> FiledIndex:
        """An empty index in memory to try things with."""

    def cost(self, rows: int) -> tuple[float, float] | None:
        """Bytes of an index of so many rows, and the seconds to build it once they are projected; None: to be tried with `scratch`."""

    def close(self) -> None:
        """Stop what goes on in the background."""
