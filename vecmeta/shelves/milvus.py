"""Indexes in a Milvus: one collection there for each version, which all processes of a database share.

The catalogue knows of each (`vecmeta.catalogue.indexes`). Who writes holds its lease; the others only look how far it has come. An alias
with the collection's name shows people who look in with their own tools which version is live; what decides is the catalogue's row.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from vecmeta.catalogue.catalogue import CollectionRow
from vecmeta.catalogue.indexes import IndexRow, IndexStore
from vecmeta.catalogue.items import ItemStore
from vecmeta.errors import Conflict, IndexUnavailable
from vecmeta.index import open_index
from vecmeta.index.milvus.index import MilvusIndex
from vecmeta.index.milvus.link import Link
from vecmeta.index.protocol import FiledIndex, IndexGone, VectorIndex
from vecmeta.meta.head import Head, Projector
from vecmeta.reindex import Reindexed
from vecmeta.serving import Serving, fingerprint
from vecmeta.shelves.pipeline import Pipeline, Spread, Unfit
from vecmeta.shelves.protocol import Source, Under
from vecmeta.shelves.spread import Task, spread
from vecmeta.types import Progress

if TYPE_CHECKING:
    from pymilvus import MilvusClient

Built = tuple[IndexRow, float | None, dict[str, float]]  # its row, the recall that was measured, seconds by stage
POLL = 0.01  # seconds between looks at somebody else's writing, and ten times that at his building
MOST_HOURS = 24  # that another process's build is waited for
LINKS = 8  # bytes of a link of HNSW on its lowest level, both ways


class MilvusShelf:
    """See `vecmeta.shelves.protocol`."""

    shared = True

    def __init__(self, items: ItemStore, under: Under, rows: IndexStore, link: Link, collection: CollectionRow) -> None:
        self._items, self._under, self._rows, self._link, self._collection = items, under, rows, link, collection
        self._me = f"{platform.node()[:24]}-{os.getpid()}"
        self._aliased: int | None = None

    # -- opening and building ------------------------------------------------------------------------------------------------

    def opened(
        self, number: int, head: Head, encoder: int, catch_up: Callable[[Serving], None], go_on: Callable[[], None]
    ) -> Serving:  # fmt: skip
        """The collection that is there, loaded if it was not; built when it is not there, is of another head or does not fit."""
        self._link.reach()  # a search is not to wait for as long as a build would
        self.sweep()
        row = self._rows.find(number)
        if row is not None and row.ready and row.head == fingerprint(head, encoder):
            serving = self._serving(row, head, encoder)
            index = _milvus(serving)
            if index.table.there():
                if not index.table.loaded():
                    index.open()
                catch_up(serving)
                if self._fits(index):
                    return serving
                self._retire(number, "does not fit the catalogue")
            else:
                self._retire(number, "is gone")
        row, _, _ = self._built(Source(number, head, Projector(head.project), encoder), None, go_on)
        serving = self._serving(row, head, encoder)
        catch_up(serving)
        return serving

    def built(
        self, source: Source, live: VectorIndex | None, progress: Progress | None  # noqa: ARG002
    ) -> tuple[Serving, Reindexed]:  # fmt: skip
        """By the pipeline, which goes on where it was broken off if it was."""
        row, recall, stages = self._built(source, progress, lambda: None if progress is None else progress("building", 0, 0))
        serving = self._serving(row, source.head, source.encoder)
        return serving, Reindexed(serving.index, row.revision, "built", recall, stages)

    def _built(self, source: Source, progress: Progress | None, go_on: Callable[[], None]) -> Built:
        """`progress` is told of the building, `go_on` called while another process is at it."""
        try:
            return self._begun(source, progress, go_on)
        except Unfit:  # an insertion that a Milvus took before it was killed, and whose answer was lost, is there twice
            return self._begun(source, progress, go_on)

    def _begun(self, source: Source, progress: Progress | None, go_on: Callable[[], None]) -> Built:
        """Begun, or gone on with."""
        mark = fingerprint(source.head, source.encoder)
        row = self._rows.find(source.number)
        if row is not None and row.head != mark:  # numbers are given again
            self._rows.retire(source.number)
            row = None
        name = (row or self._rows.begin(source.number, self._name(source.number), mark)).name
        with self._leased(name, go_on) as (row, holder):
            if row.ready:  # by somebody else, while this one waited
                return row, None, {}
            pipeline = Pipeline(self._under(source.encoder), self._rows, self._index(row), row, holder)
            try:
                about = f"{self._collection.name}, version {source.number}"
                recall = pipeline.build(source.by, about, progress, self._spread(source, name))
            except Conflict:
                raise
            except BaseException as error:
                if not isinstance(error, IndexUnavailable) or isinstance(error, Unfit):  # else it goes on from there one day
                    self._rows.retire(source.number)
                    self.sweep()
                raise
        built = self._rows.find(source.number)
        if built is None or built.name != name:
            raise IndexUnavailable(f"the index of version {source.number} was removed while it was built; try again")
        return built, recall, pipeline.stages

    def _spread(self, source: Source, name: str) -> Spread | None:
        options = self._link.options
        if not options.ray or source.encoder:  # its workers read the vectors that stand with the items
            return None
        head = None if source.number == 0 else source.head.to_bytes()
        return partial(spread, Task(self._items.address, self._collection, head, options, name), self._items, options.ray)

    # -- following -----------------------------------------------------------------------------------------------------------

    def catch_up(self, serving: Serving, go_on: Callable[[], None], wait: bool) -> bool:
        """Apply what was written since, or see that somebody else has."""
        index, holder = _milvus(serving), self._holder()
        begin, seen, wanted = time.monotonic(), serving.revision, self._items.revision()
        while True:
            row = self._rows.find(serving.version)
            if row is None or row.name != index.name:
                raise IndexGone(f"the index of version {serving.version} was removed by another process")
            if row.revision >= wanted and not row.key:
                if seen != row.revision:
                    index.refresh()
                serving.revision, index.whole = row.revision, index.whole and row.whole
                return True
            leased = self._rows.lease(row.name, holder)
            if leased is not None:
                break
            if not wait and time.monotonic() - begin > POLL:
                return False
            go_on()
            time.sleep(POLL)
        try:
            index.whole = index.whole and leased.whole
            pipeline = Pipeline(self._under(serving.encoder), self._rows, index, leased, holder)
            touched = pipeline.follow(serving.head, go_on)
            if leased.revision == seen:
                self._items.touched(touched, seen, pipeline.revision)
            else:
                index.refresh()
            serving.revision = pipeline.revision
        except Conflict:  # another process took over, and does it
            return False
        finally:
            self._rows.release(leased.name, holder)
        return True

    def write(self, serving: Serving) -> None:
        """It is kept already."""
        serving.unsaved = 0

    # -- who looks in, and what goes -----------------------------------------------------------------------------------------

    def live(self, number: int) -> None:
        """Point the alias at the version's collection. Never an error: nothing of vecmeta's depends on it."""
        row = self._rows.find(number)
        if row is None or self._aliased == number:
            return
        alias, timeout = self.alias, self._link.options.timeout

        def alter(client: MilvusClient) -> None:
            client.alter_alias(row.name, alias, timeout=timeout)

        try:
            target = self._pointed()
            if target is None:
                try:
                    self._link.call("make an alias", lambda c: c.create_alias(row.name, alias, timeout=timeout))
                except IndexUnavailable:  # one whose collection was dropped stays behind in some versions of Milvus
                    self._link.call("set an alias", alter)
            elif target in self._rows.names():
                self._link.call("set an alias", alter)
            else:
                warnings.warn(
                    f"the alias {alias!r} in the Milvus at {self._link.options.shown} belongs to something else; it is left as it is "
                    "(another prefix= in the index's options gives names of your own)",
                    stacklevel=2,
                )
            self._aliased = number
        except IndexUnavailable as error:
            warnings.warn(f"the alias {alias!r} was not set: {error}", stacklevel=2)

    def _pointed(self) -> str | None:
        """The name of the collection that the alias stands for."""
        timeout = self._link.options.timeout
        try:  # describe_alias looks into the default database alone on servers 2.3
            about = self._link.call("read an alias", lambda c: c.describe_collection(self.alias, timeout=timeout))
        except IndexGone:
            return None
        return str(about["collection_name"])

    @property
    def alias(self) -> str:
        """The collection's name as Milvus takes it."""
        return f"{self._link.options.prefix}_{re.sub(r'[^A-Za-z0-9_]', '_', self._collection.name)}"

    def discard(self, number: int) -> None:
        """Drop its collection now."""
        self._rows.retire(number)
        self.sweep()

    def prune(self, needed: set[int]) -> None:
        """Drop the others' collections once their grace has ended."""
        self._rows.needed(needed)
        self.sweep()

    def forget(self) -> None:
        """Drop all of them, and the alias."""
        with contextlib.suppress(IndexUnavailable):
            if self._pointed() in self._rows.names():
                self._link.call("drop an alias", lambda c: c.drop_alias(self.alias, timeout=self._link.options.timeout))
        self.sweep()

    def sweep(self) -> None:
        """Drop what is to be dropped, of any collection of this database; what cannot be now stays on the list."""
        self._rows.retire_unused(self._link.options.grace)
        with contextlib.suppress(IndexUnavailable):
            for name in self._rows.retired():
                MilvusIndex(self._link, name, self._collection.dim).table.drop()
                self._rows.forget(name)

    def scratch(self, **options: Any) -> FiledIndex:
        """An exact one in memory."""
        return open_index("exact", self._collection.dim, **options)

    def cost(self, rows: int) -> tuple[float, float]:
        """Vectors and links; and as long as the last build took for each row."""
        options, pace = self._link.options, self._rows.pace()
        links = LINKS * options.m if options.kind == "hnsw" else 0
        return float(rows * (4 * self._collection.dim + links)), rows * pace

    def close(self) -> None:
        """The connection is the database's."""

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _index(self, row: IndexRow) -> MilvusIndex:
        index = MilvusIndex(self._link, row.name, self._collection.dim)
        index.whole, index.ef = row.whole, row.ef or index.ef
        return index

    def _serving(self, row: IndexRow, head: Head, encoder: int) -> Serving:
        """Of an index that is ready, before it is caught up."""
        return Serving(row.version, head, self._index(row), 0, encoder)

    def _retire(self, number: int, what: str) -> None:
        where = self._link.options.shown
        warnings.warn(
            f"the index of version {number} of {self._collection.name!r} in the Milvus at {where} {what}; rebuilding",
            stacklevel=3,
        )
        self._rows.retire(number)

    def _holder(self) -> str:
        return f"{self._me}-{secrets.token_hex(4)}"

    def _name(self, number: int) -> str:
        return f"{self.alias}_v{number}_{secrets.token_hex(6)}"

    def _fits(self, index: MilvusIndex) -> bool:
        """Whether it holds as many rows as the catalogue; one that somebody writes to meanwhile is given the benefit of the doubt."""
        before = self._items.revision()
        return index.refresh() == self._items.count() or self._items.revision() != before

    @contextlib.contextmanager
    def _leased(self, name: str, go_on: Callable[[], None]) -> Iterator[tuple[IndexRow, str]]:
        """Wait for the lease of a build, and hold it: the row as it is then, and the holder's name."""
        begin, holder = time.monotonic(), self._holder()
        while (row := self._rows.lease(name, holder)) is None:
            if name not in self._rows.names():
                raise IndexUnavailable(f"the index {name} was removed by another process; try again")
            if time.monotonic() - begin > MOST_HOURS * 3600:
                raise IndexUnavailable(f"another process has been building the index {name} for {MOST_HOURS} hours")
            go_on()
            time.sleep(10 * POLL)
        try:
            yield row, holder
        finally:
            self._rows.release(name, holder)


def _milvus(serving: Serving) -> MilvusIndex:
    index = serving.index
    if not isinstance(index, MilvusIndex):
        raise TypeError(f"a shelf in Milvus was given a {type(index).__name__}")
    return index
