"""Indexes in the memory of this process, copies of which are kept in files: one folder for each version."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from vecmeta.catalogue.items import ItemStore
from vecmeta.index import store
from vecmeta.index.protocol import FiledIndex, VectorIndex
from vecmeta.meta.head import Head
from vecmeta.reindex import Reindexed, reindexed
from vecmeta.serving import Serving
from vecmeta.shelves.protocol import Source, Under
from vecmeta.types import Progress

COUNTED = 20  # times that an index which was read from files is caught up and counted, where others write meanwhile


class FileShelf:
    """See `vecmeta.shelves.protocol`."""

    shared = False

    def __init__(self, items: ItemStore, under: Under, open_index: Callable[..., FiledIndex], folder: Path) -> None:
        self._items, self._under, self._open_index, self.folder = items, under, open_index, folder
        self._deleting: threading.Thread | None = None

    def opened(
        self, number: int, head: Head, encoder: int, catch_up: Callable[[Serving], None],
        go_on: Callable[[], None],  # noqa: ARG002  # nobody else builds it
    ) -> Serving:  # fmt: skip
        """Read from its files, or built from the base vectors when they are missing, damaged or of another head or encoder."""
        serving = Serving(number, head, self._open_index(), 0, encoder)
        loaded = store.load(self.files(number))
        if loaded is not None:
            found, manifest = loaded
            ours = found.kind == serving.index.kind and manifest.extra.get("head") == serving.fingerprint
            if ours and manifest.revision <= self._items.revision():  # as it is now: they may have been written a moment ago
                serving.index, serving.revision, serving.sound = found, manifest.revision, found.linked
        before = serving.revision
        catch_up(serving)
        if before and not self._fits(serving, catch_up):
            warnings.warn(f"the index files in {self.files(number)} do not fit the catalogue; rebuilding", stacklevel=2)
            serving = Serving(number, head, self._open_index(), 0, encoder)
            catch_up(serving)
        return serving

    def _fits(self, serving: Serving, catch_up: Callable[[Serving], None]) -> bool:
        """Whether it holds as many items as the catalogue, both at the same revision: others may write at this moment.

        Where somebody does each time, it is given the benefit of the doubt.
        """
        for _ in range(COUNTED):
            count = self._items.count()
            if self._items.revision() == serving.revision:
                return len(serving.index) == count
            catch_up(serving)
        return True

    def built(self, source: Source, live: VectorIndex | None, progress: Progress | None) -> tuple[Serving, Reindexed]:
        """In memory, with the graph of the live version where it has one."""
        made = reindexed(self._under(source.encoder), source.by, live, self._open_index, progress)
        serving = Serving(source.number, source.head, made.index, made.revision, source.encoder)
        serving.unsaved = len(made.index)
        return serving, made

    def catch_up(self, serving: Serving, go_on: Callable[[], None], wait: bool) -> bool:  # noqa: ARG002  # nobody else
        """Apply what was written since to this process's index."""
        # If this is broken off, the revision stays behind and the next one applies the same changes again: add replaces, remove ignores.
        with self._under(serving.encoder).changes(serving.revision) as changes, serving.filling():
            if len(changes.removed):
                serving.index.remove(changes.removed)
            done, touched = 0, [changes.removed]
            for page in changes.pages:
                serving.index.add(page.keys, serving.head.project(page.vectors))
                done += len(page.keys)
                touched.append(page.keys)
                go_on()
            self._items.touched(np.concatenate(touched), serving.revision, changes.revision)
            serving.revision = changes.revision
            serving.unsaved += done + len(changes.removed)
        return True

    def write(self, serving: Serving) -> None:
        """Files anew."""
        with serving.lock:
            store.save(cast(FiledIndex, serving.index), self.files(serving.version), serving.revision, head=serving.fingerprint)
            serving.unsaved = 0

    def live(self, number: int) -> None:
        """Nobody looks at files."""

    def discard(self, number: int) -> None:
        """Delete its files."""
        shutil.rmtree(self.files(number), ignore_errors=True)

    def prune(self, needed: set[int]) -> None:
        """Let go of the files of all others, which can be rebuilt: they are put aside at once and deleted beside what comes next.

        Deleting those of 100,000 vectors takes .05 s, in which a new version would not yet be said to be live.
        """
        self.close()
        names, aside = {f"v{number}" for number in needed}, f".gone-{secrets.token_hex(6)}-"
        gone: list[Path] = []
        with contextlib.suppress(OSError):
            for folder in list(self.folder.iterdir()):
                if folder.name not in names:  # those put aside by whoever could not delete them as well
                    with contextlib.suppress(OSError):
                        gone.append(folder.rename(self.folder / f"{aside}{len(gone)}"))
        if gone:
            self._deleting = threading.Thread(target=_delete, args=(gone,), name="vecmeta-prune")
            self._deleting.start()

    def forget(self) -> None:
        """Delete all files."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def scratch(self, **options: Any) -> FiledIndex:
        """An empty index of the same kind."""
        return self._open_index(**options)

    def cost(self, rows: int) -> None:  # noqa: ARG002
        """Not known: to be tried."""
        return

    def close(self) -> None:
        """Wait until what was put aside is deleted."""
        if self._deleting is not None:
            self._deleting.join()
            self._deleting = None

    def files(self, number: int) -> Path:
        """The folder of a version."""
        return self.folder / f"v{number}"


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
