"""Versions ready to be searched: head and index of one version together, kept current with the catalogue.

A search takes one `Serving` and uses nothing else, so it cannot mix two versions. The index is derived data: it is read from its files,
or built from the base vectors when they are missing, damaged or of another head, and then follows the writes by their revision.

No search waits for a swap. This process opens a version before it makes it live; when another one did, a thread opens the new version
while searches are answered by the serving that answered them before.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from vecmeta.beside import Beside
from vecmeta.bridge import Bridges
from vecmeta.catalogue.versions import AHEAD, State, VersionStore
from vecmeta.errors import Cancelled, IndexUnavailable
from vecmeta.index.protocol import IndexGone
from vecmeta.meta.head import IdentityHead, Projector, load_head
from vecmeta.reindex import Reindexed
from vecmeta.serving import Serving
from vecmeta.shelves.protocol import Shelf, Source
from vecmeta.types import Progress
from vecmeta.upkeep import save_or_warn, settle

if TYPE_CHECKING:
    from vecmeta.meta.head import Head

T = TypeVar("T")
KEPT = 3  # versions held in memory: the live one, the one before it, the base
AWAY = 25  # times .02 seconds between two tries to bring up to date an index that could not be reached
PATIENCE = 0.05  # seconds a search waits for somebody else's catching up before it answers without the last writes


class Servings:
    """The servings of one collection, made when they are asked for."""

    def __init__(self, versions: VersionStore, dim: int, shelf: Shelf, bridges: Bridges) -> None:
        self._versions, self._dim, self.shelf, self.bridges = versions, dim, shelf, bridges
        self._held: OrderedDict[int, Serving] = OrderedDict()
        self._answering: Serving | None = None  # what the last search that named no version got; held until the next one
        self._opening: dict[int, threading.Lock] = {}
        self._opener = Beside("open", lambda number: self._get(number, self._versions.state()))
        self._keeper = Beside("keep", self._keep)
        self._chaser = Beside("chase", self._chase)
        self._searched = False  # this process has answered a search that named no version
        self._lock = threading.Lock()
        self._writers = 0  # threads of this process that are about to bring up to date what answers

    def current(self, number: int | None = None) -> Serving:
        """The serving of a version, caught up with the catalogue. Raises VersionNotFound.

        None is the live one; where another process made it live, the one that answered before for as long as opening it takes.
        """
        state = self._versions.state()
        # The live one need not be built yet where there is a bridge.
        serving = (
            self._live(state)
            if number is None or (number == state.live and self.bridges.wanted(state))
            else self._get(number, state)
        )
        if serving.revision < state.revision:
            self.follow(serving, state.revision)
        if number is None:
            self._searched = True
        if serving.due and serving is self._answering:
            self._keeper.begin(serving.version)
        return serving

    def ask(self, number: int | None, question: Callable[[Serving], T]) -> T:
        """The answer of the serving of a version; of a new one, when its index has been removed from outside meanwhile."""
        serving: Serving | None = None
        try:
            serving = self.current(number)
            return question(serving)
        except IndexGone:
            with self._lock:
                gone = [n for n, held in self._held.items() if held is serving or (serving is None and number in (None, n))]
                self._held = OrderedDict((n, held) for n, held in self._held.items() if n not in gone)
                self._answering = None
        return question(self.current(number))

    def settle(self, progress: Progress | None = None) -> None:
        """Bring the index of the live version up to date, what speeds it up included, and wait for it."""
        serving = self.warm()
        total = serving.index.pending

        def go_on() -> None:
            if progress is not None:
                progress("linking", max(total - serving.index.pending, 0), total)

        settle(serving, self.shelf, go_on)

    def warm(self) -> Serving:
        """Open the live version, or build it, and wait for it."""
        state = self._versions.state()
        serving = self._get(state.live, state)
        self._answer(serving)
        self.follow(serving, state.revision)
        return serving

    @property
    def ready(self) -> bool:
        """Whether a search that names no version is answered at once. Costs the reading of one row."""
        live = self._versions.state().live
        with self._lock:
            serving = self._held.get(live) or self._answering
        return serving is not None and not serving.building

    @property
    def answering(self) -> int | None:
        """The version that answered the last search that named none; None before the first."""
        serving = self._answering
        return None if serving is None else serving.version

    def at_hand(self, number: int) -> bool:
        """Whether a search of a version need not wait for it more than others had to; if not, a thread begins to open it."""
        return number in self._held or self._answering is None or not self._opener.begin(number)

    def candidate(
        self, number: int, head: Head, progress: Progress | None = None, by: Projector | None = None, encoder: int = 0
    ) -> tuple[Serving, Reindexed]:
        """Build a version that is about to go live: all items projected and indexed. Nothing changes for searches.

        Its files are written here, for whoever answers searches; where this process does, once it is live. `by` is quicker than the head.

        Raises:
            StorageError: its files cannot be written (StorageFull, StorageReadOnly, …); nothing half-written stays.
        """
        state = self._versions.state()
        live = None
        if not self.shelf.shared:
            live = (self._answering if state.live == number else None) or self._get(state.live, state)
        # the links of a graph are those of its encoder: under another one they lead nowhere
        links = live.index if live is not None and live.encoder == encoder else None
        with self._opening_of(number):  # who asks for it meanwhile waits, or goes over the bridge
            serving, made = self.shelf.built(Source(number, head, by or Projector(head.project), encoder), links, progress)
            if not self._searched:
                self.shelf.write(serving)
            with self._lock:
                self._hold(serving)
        return serving, made

    def go_live(self, serving: Serving, why: str, expected: State | None = None) -> None:
        """Make a version live whose serving is ready: it answers the very next search. Raises VersionNotFound, Conflict."""
        self._versions.activate(serving.version, why, expected)
        self._answer(serving)
        self.shelf.live(serving.version)

    def tend(self) -> None:
        """Have a thread link and write what answers, where this process answers searches."""
        serving = self._answering
        if self._searched and serving is not None and serving.due:
            self._keeper.begin(serving.version)

    def go_ahead(self, number: int, expected: State) -> State:
        """Make a version live that is still to be built; until then the one before answers for it. Raises VersionNotFound, Conflict."""
        self.warm()
        return self._versions.activate(number, AHEAD, expected)

    def turn_back(self, number: int) -> None:
        """It could not be built: what was live before is live again."""
        if self._versions.state().live == number:
            self._versions.rollback()

    def rollback(self, before: int | None) -> int:
        """Make live what was live before, which is opened first (None: there is nothing). Raises VersionNotFound at the bottom."""
        if before is not None:
            self.current(before)
        state = self._versions.rollback()
        self._answer(self._get(state.live, state))
        self.shelf.live(state.live)
        return state.live

    def discard(self, number: int) -> None:
        """Forget a version that did not come to be, and its files."""
        with self._lock:
            self._held.pop(number, None)
        self.shelf.discard(number)

    def follow(self, serving: Serving, revision: int) -> None:
        """Apply the writes up to a revision. Who finds somebody else at it waits a little, then goes on with what there is.

        While this process writes, those who search leave it to those who write, who do so before they say that it is written.
        """
        patient = serving.revision == 0 if self.shelf.shared else len(serving.index) == 0
        if self._writers and not patient and serving is self._answering:
            return
        if serving.lock.acquire(timeout=-1 if patient else PATIENCE):
            try:
                if serving.revision < revision:
                    self._catch_up(serving, wait=patient)
            finally:
                serving.lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around a write of this process; what answers is brought up to date in the end, so that the next search finds what was written."""
        with self._lock:
            self._writers += 1
        try:
            yield
            try:
                self._written()
            except IndexUnavailable:
                if not self.shelf.shared:
                    raise
                self._chaser.begin(0)  # it is written; searches say that they cannot be answered until the index is back
        finally:
            with self._lock:
                self._writers -= 1

    def _written(self) -> None:
        state = self._versions.state()
        serving = self._live(state)
        with serving.lock:
            if serving.revision < state.revision:
                self._catch_up(serving)
        if serving.due:
            self._keeper.begin(serving.version)

    def close(self) -> None:
        """Write what the files lack, let go of the indexes."""
        for serving in self._end():
            if serving.unsaved:
                save_or_warn(serving, self.shelf)
            serving.index.close()
        self.shelf.close()

    def forget_files(self) -> None:
        """The collection is dropped: delete its indexes."""
        self._end()
        self.shelf.forget()

    def _end(self) -> list[Serving]:
        for thread in (self._opener, self._keeper, self._chaser):
            thread.end()
        with self._lock:
            held, self._held, self._answering = list(self._held.values()), OrderedDict(), None
        return held

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _live(self, state: State) -> Serving:
        serving, before = self._found(state.live), self._answering
        if serving is None:
            if before is not None and self._opener.begin(state.live):
                return self._over(state, before)
            serving = self._get(state.live, state)
        self._answer(serving)
        return serving

    def _over(self, state: State, before: Serving) -> Serving:
        """The live version by way of the one that answered before, whose index follows the writes for both."""
        if not self.bridges.wanted(state):
            return before
        if before.revision < state.revision:
            self.follow(before, state.revision)
        return self.bridges.to(state.live, lambda: self._version(state.live), before, state.revision)

    def _answer(self, serving: Serving) -> None:
        if self._answering is not serving:
            with self._lock:
                self._answering = serving
                self._hold(serving)

    def _get(self, number: int, state: State) -> Serving:
        serving = self._found(number)
        if serving is not None:
            return serving
        # Twenty threads that ask for a version at once build it once, and those that ask for another one do not wait for it.
        with self._opening_of(number):
            serving = self._found(number)
            if serving is None:
                serving = self._opened(number, state)
                with self._lock:
                    self._hold(serving)
                self._opener.forgive(number)
        return serving

    def _opening_of(self, number: int) -> threading.Lock:
        with self._lock:
            return self._opening.setdefault(number, threading.Lock())

    def _found(self, number: int) -> Serving | None:
        with self._lock:
            serving = self._held.get(number)
            if serving is not None:
                self._held.move_to_end(number)
        return serving

    def _hold(self, serving: Serving) -> None:
        self._held[serving.version] = serving
        self._held.move_to_end(serving.version)
        while len(self._held) > KEPT:
            # Searches that still use it keep it alive; its files stay for a rollback.
            del self._held[next(number for number, held in self._held.items() if held not in (serving, self._answering))]

    def _opened(self, number: int, state: State) -> Serving:
        serving = self.shelf.opened(number, *self._version(number), self._catch_up, self._opener.go_on)
        if number == state.live:
            self.shelf.live(number)
        return serving

    def _version(self, number: int) -> tuple[Head, int]:
        """Its head, and its encoder."""
        stored = self._versions
        return (load_head(stored.head(number)), stored.encoder(number)) if number else (IdentityHead(self._dim), 0)

    def _chase(self, _: int) -> None:
        """Bring up to date, once it is back, an index that could not be reached."""
        while True:
            try:
                self._written()
                return
            except IndexUnavailable:
                for _ in range(AWAY):
                    self._chaser.go_on()
                    time.sleep(0.02)

    def _keep(self, number: int) -> None:
        """Link what a version's index has to link, and write its files, while it is the one that answers."""
        serving = self._found(number)

        def go_on() -> None:
            self._keeper.go_on()
            if serving is not self._answering:
                raise Cancelled(f"version {number} does not answer any more")

        if serving is not None:
            settle(serving, self.shelf, go_on)

    def _catch_up(self, serving: Serving, wait: bool = True) -> None:
        while not self.shelf.catch_up(serving, self._opener.go_on, wait) and wait:
            self._opener.go_on()

    def prune_files(self, keep: set[int]) -> None:
        """Let go of the indexes of all versions but these and those in memory: they can be rebuilt."""
        with self._lock:
            needed = keep | set(self._held)
        self.shelf.prune(needed)
