"""All items under a head into a collection of Milvus, in constant memory, step by step; each step is noted, so that a killed one goes on.

    read base vectors ─▶ project (other threads, or the device) ─▶ insert, page by page ─▶ flush ─▶ build the index ─▶ load ─▶ check

Reading goes by snapshots of SNAPSHOT rows: no transaction stays open for hours. What is written or deleted meanwhile comes with a later
one, for rows are read in the order of their writes. The check counts, and compares a sample's nearest with the exact ones; where the
index finds too few of them it is searched more widely from then on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vecmeta.catalogue.indexes import LEASE, IndexRow, IndexStore
from vecmeta.catalogue.items import Page
from vecmeta.catalogue.views import ItemVectors
from vecmeta.errors import IndexUnavailable, VecmetaError
from vecmeta.index.milvus.index import MilvusIndex
from vecmeta.index.milvus.link import PATIENCE, WORKING_PATIENCE
from vecmeta.index.scan import merged, top_k
from vecmeta.meta.head import Head, Projector
from vecmeta.reindex import FLOOR, SAMPLE, K, agreement, projected
from vecmeta.types import Keys, Progress, Vectors

SNAPSHOT = 100_000  # rows of one transaction of the catalogue
NOTED = 8  # pages between two notes of how far it has come
CHECKED_FROM = 2000  # rows from which on recall is measured; fewer are scored one by one anyway
WIDEST = 4096  # how wide a search may become for the sake of recall

Stages = dict[str, float]
Spread = Callable[[], Iterator[tuple[int, bool]]]  # writes all of it elsewhere: rows and wholeness, chunk by chunk


class Unfit(IndexUnavailable):
    """What was built is not what was to be built."""

    code = IndexUnavailable.code


class Pipeline:
    """One build or catching up of one index, whose lease `holder` has."""

    def __init__(self, items: ItemVectors, rows: IndexStore, index: MilvusIndex, row: IndexRow, holder: str) -> None:
        self._items, self._rows, self._index, self._holder = items, rows, index, holder
        self._name = row.name
        self.revision, self._key = row.revision, row.key  # the index holds the writes up to here
        self._pages = 0
        self.stages: Stages = {}  # seconds
        self._lost: VecmetaError | None = None

    def build(self, by: Projector, about: str, progress: Progress | None, spread: Spread | None = None) -> float | None:
        """All of it, and say that it is ready; returns the recall@10 that was measured, None where it was not.

        Raises:
            IndexUnavailable: Milvus is away. Unfit: what it holds is not what was written.
            Conflict: another process took over.
        """
        begin, index = time.perf_counter(), self._index
        index.table.patience = WORKING_PATIENCE
        fresh, total = (self.revision, self._key) == (0, 0), self._items.count()
        with self._held():
            with self._stage("create"):
                index.table.create(about)
            done = 0 if fresh else len(index)

            def tell() -> None:
                if progress is not None:
                    progress("building", done, max(total, done))

            tell()
            if spread is not None and fresh:
                revision = self._items.revision()
                index.table.drop()  # what a broken off job left: items may have been deleted since
                index.table.create(about)
                with self._stage("read, project and insert"):
                    for written, whole in spread():
                        done, index.whole = done + written, index.whole and whole
                        self._hold()
                        tell()
                self.revision, fresh = revision, False  # what was written since is replaced
            for pages in self._snapshots():
                for page in self._read(projected(by, pages)):
                    with self._stage("insert"):
                        index.add(page.keys, page.vectors, page.about, new=fresh)
                    self._passed(page)
                    done += len(page.keys)
                    tell()
            self._note()
            with self._stage("index"):
                index.open(tell)
            with self._stage("check"):
                found = self._checked(by, tell)
        pace = (time.perf_counter() - begin) / done if fresh and done >= CHECKED_FROM else None
        self._note(ready=True, ef=index.ef, pace=pace)
        index.table.patience = PATIENCE
        return found

    def follow(self, head: Head, go_on: Callable[[], None]) -> Keys:
        """Apply what came since; the keys that were touched."""
        touched = [np.empty(0, np.int64)]
        with self._held():  # under a fine-tuned encoder a page takes as long as encoding it
            for pages in self._snapshots(touched):
                for page in pages:
                    self._index.add(page.keys, head.project(page.vectors), page.about)
                    touched.append(page.keys)
                    self._passed(page)
                    go_on()
        self._note()
        return np.concatenate(touched)

    # -- reading -------------------------------------------------------------------------------------------------------------

    def _snapshots(self, touched: list[Keys] | None = None) -> Iterator[Iterator[Page]]:
        """The pages that are still to be written, those of one snapshot at a time; deleted items are removed before."""
        removed = np.empty(0, np.int64)
        while True:
            with self._items.changes(self.revision, self._key, described=True, limit=SNAPSHOT) as changes:
                graves = np.setdiff1d(changes.removed, removed)
                if len(graves):
                    self._index.remove(graves)
                    removed = np.union1d(removed, graves)
                    if touched is not None:
                        touched.append(graves)
                whole = changes.changed() <= SNAPSHOT
                yield changes.pages
            if whole:
                self.revision, self._key = changes.revision, 0
                return

    def _read(self, pages: Iterator[Page]) -> Iterator[Page]:
        while True:
            with self._stage("read and project"):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _passed(self, page: Page) -> None:
        self.revision, self._key = page.revision, page.last
        self._pages += 1
        if self._pages % NOTED == 0:
            self._note()
        self._hold()

    def _hold(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _note(self, **more: Any) -> None:
        self._rows.advance(
            self._name, self._holder, revision=self.revision, key=self._key, whole=self._index.whole, **more
        )  # fmt: skip

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Renew the lease meanwhile: Milvus may take minutes for one step."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(LEASE / 4):
                try:
                    self._rows.advance(self._name, self._holder)
                except VecmetaError as error:
                    self._lost = error
                    return

        thread = threading.Thread(target=renew, name="vecmeta-lease")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - begin

    # -- checking ------------------------------------------------------------------------------------------------------------

    def _checked(self, by: Projector, go_on: Callable[[], None]) -> float | None:
        """Raises Unfit when the number of rows is wrong; otherwise the recall of a sample, for which the search is widened if need be."""
        index = self._index
        there, expected = index.refresh(), self._items.count()
        if there != expected and self._items.revision() == self.revision:
            raise Unfit(f"the Milvus collection {self._name} holds {there} rows, but {expected} were written to it; try again")
        if there < CHECKED_FROM:
            return None
        asking, queries, true = self._exact(by, go_on)
        while True:
            measured = agreement(index.search(queries, K + 1)[1], true, asking)
            if measured >= FLOOR or index.ef >= WIDEST or not index.widened():
                return measured

    def _exact(self, by: Projector, go_on: Callable[[], None], seed: int = 0) -> tuple[Keys, Vectors, Keys]:
        """A sample of items (q,), their vectors (q, dim), and the exact nearest of each (q, K + 1), from the catalogue alone."""
        keys = self._items.keys()
        chosen = np.sort(np.random.default_rng(seed).choice(keys, min(SAMPLE, len(keys)), replace=False))
        asking, base, _ = self._items.vectors(chosen)
        queries = by.project(base)
        best = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        with self._items.changes(0) as changes:
            for page in projected(by, changes.pages):
                scores, rows = top_k(queries, page.vectors, min(K + 1, len(page.keys)))
                best = merged([best, (scores, page.keys[rows])], min(K + 1, best[0].shape[1] + scores.shape[1]))
                go_on()
        return asking, queries, best[1]
