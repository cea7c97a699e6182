"""What lives as long as the service: the database, the threads, what is batched, and the processes that run jobs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import orjson
import structlog

import vecmeta as vm
from service import logs
from service.batching import Batcher
from service.convert import OwnVector
from service.settings import Settings
from service.workers import Workers
from vecmeta import Collection, Hits, Item, Job, RawHits

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("vecmeta.service")

Content = str | bytes
SearchKey = tuple[Collection, int | None, int, bytes]  # collection, version, k, where as JSON
KNOWN_FOR = 1.0  # seconds after which a collection that another process dropped or made anew is looked up again
FLUSHED_EVERY = 0.5  # seconds that a line of the log may be held back
TOLD_EVERY = 2.0  # seconds between writes of how many searches each version answered
SETTLED = 1000
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)  # a PNG, 1 x 1
PAUSE = 0.01  # seconds that a search may keep the loop waiting


class Runtime:
    """Made by `service.app.create_app`, opened and closed with the application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.db = vm.open(settings.data, **settings.model_dump(include={"index", "device", "files", "bridge"}))
        self.warming: set[str] = set()
        self._ready: set[str] = set()  # collections that have been opened once
        self._known: dict[str, tuple[float, Collection]] = {}  # looked up lately, and until when that is taken for true
        self._beside: dict[str, asyncio.Task[object]] = {}
        self._settled: dict[str, None] = {}  # jobs whose version is known to be in memory
        self.stopping = False  # streams that would go on for ever end now
        self.searched: Counter[tuple[Collection, int]] = (
            Counter()
        )  # answers since they were written last, by collection and version
        self._others = ThreadPoolExecutor(16, "vecmeta")
        self._searchers = ThreadPoolExecutor(settings.search_threads + 8, "search")
        self._encoders = ThreadPoolExecutor(2, "encode")
        most = settings.waiting
        self.searches: Batcher[SearchKey, Any, RawHits] = Batcher(
            _search,
            self._searchers,
            largest=settings.search_batch,
            workers=settings.search_threads,
            pause=PAUSE if settings.index in ("faiss", "exact") else 0.0,  # another server's search leaves this one's cores free
            waiting=most,
            timeout=settings.timeout,
        )
        self.encodings: Batcher[Collection, Content, Any] = Batcher(
            _encode,
            self._encoders,
            largest=settings.encode_batch,
            wait=settings.encode_wait,
            waiting=most,
            timeout=settings.timeout,
        )
        self.writes: Batcher[Collection, Sequence[Item | OwnVector], int] = Batcher(
            _write, self._others, largest=64, waiting=most, timeout=settings.timeout
        )
        self._workers = Workers(settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start what runs beside the requests; stop it in the end, gracefully."""
        warm = asyncio.create_task(self._warm())
        tell = asyncio.create_task(self._tell())
        await self._workers.start()
        try:
            yield
        finally:
            self.stopping = True
            warm.cancel()
            tell.cancel()
            await asyncio.gather(warm, tell, return_exceptions=True)
            await self._workers.stop()
            self.tell_searched()
            for pool in (self._searchers, self._encoders, self._others):
                pool.shutdown(wait=True, cancel_futures=True)
            self.db.close()
            logs.flush()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something that may block, in a thread. Raises TimeoutError after the time limit (the thread ends by itself)."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.settings.timeout):
            return await loop.run_in_executor(self._others, lambda: work(*args, **kwargs))

    def beside(self, what: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Begin something beside the requests, unless it has begun already; that it failed is found out by those who need it."""
        if what not in self._beside:
            task = self._beside[what] = asyncio.get_running_loop().create_task(work())
            task.add_done_callback(lambda done: (self._beside.pop(what), done.cancelled() or done.exception()))

    async def collection(self, name: str) -> Collection:
        """A collection by name; one that was dropped a moment ago says so itself when it is used. Raises CollectionNotFound."""
        known = self.known(name)
        if known is not None:
            return known
        return await self._look_up(name)

    async def _look_up(self, name: str) -> Collection:
        now = time.monotonic()
        collection = await self.run(self.db.collection, name)
        self._known[name] = now + KNOWN_FOR, collection
        return collection

    def known(self, name: str) -> Collection | None:
        """A collection that was looked up lately; one in use is looked up again before it is forgotten."""
        known = self._known.get(name)
        left = 0.0 if known is None else known[0] - time.monotonic()
        if known is not None and left > 0:
            if left < KNOWN_FOR / 2:
                self.beside(f"collection {name}", lambda: self._look_up(name))
            return known[1]
        self._known.pop(name, None)
        return None

    def opened(self, collection: Collection) -> None:
        """A new collection, whose index is empty, is ready at once."""
        collection.warm()
        self._ready.add(collection.name)

    async def drop(self, name: str) -> None:
        """Delete a collection. Raises CollectionNotFound."""
        self._known.pop(name, None)
        await self.run(self.db.drop, name)
        self._known.pop(name, None)

    async def base_vectors(self, collection: Collection, contents: Sequence[Content]) -> list[Any]:
        """Texts or pictures with their base vectors, encoded together with what other requests bring."""
        if len(contents) == 1:
            return [await self.encodings.ask(collection, contents[0])]
        return list(await asyncio.gather(*(self.encodings.ask(collection, content) for content in contents)))

    async def search(
        self, collection: Collection, query: Any, k: int, where: dict[str, Any] | None, version: int | None,
        feedback: list[tuple[str, float]] | None = None,
    ) -> Hits | RawHits:  # fmt: skip
        """The hits of one query: a vector or an Id; searched together with what other requests bring, unless it is bent by feedback."""
        if feedback:
            return await self.run(lambda: collection.search(query, k, where=where, version=version, feedback=feedback))
        return await self.searches.ask((collection, version, k, filter_key(where)), query)

    async def job(self, id: str) -> Job:
        """A job; one that went live is told so only when searches here are answered by its version. Raises JobNotFound."""
        job = await self.run(self.db.jobs.get, id)
        if job.state == "live" and id not in self._settled:
            collection = await self.collection(job.collection)
            await self.run(collection.warm)
            self._settled[id] = None
            if len(self._settled) > SETTLED:
                self._settled.pop(next(iter(self._settled)))
        return job

    def choose(self, collection: Collection, session: str | None) -> int | None:
        """Which version answers a search that names none: a split's candidate, or None, the live one."""
        return collection.traffic.choose(session)

    def answered(self, collection: Collection, version: int) -> str:
        """Count an answer and give it an id, which names its version."""
        self.searched[collection, version] += 1
        return f"{version}-{random.getrandbits(64):016x}"

    def tell_searched(self) -> None:
        """Write the counts of answers."""
        counts, self.searched = self.searched, Counter()
        by_collection: dict[Collection, dict[int, int]] = {}
        for (collection, version), count in counts.items():
            by_collection.setdefault(collection, {})[version] = count
        for collection, searched in by_collection.items():
            with contextlib.suppress(vm.CollectionNotFound):  # dropped since
                collection.traffic.searched(searched)

    def waiting_for(self) -> list[str]:
        """Collections whose index is being read or built; what another process made since the start begins to be opened here.

        A collection that was ready once stays so: while a new version is opened, the one before it answers.
        """
        for name in self.db.collections():
            if name not in self._ready and name not in self.warming:
                self.warming.add(name)
                self._others.submit(self._warm_one, name)
        return sorted(self.warming)

    async def _warm(self) -> None:
        """Read or build the index of every collection, so that the first search does not wait for it."""
        self.warming.update(await self.run(self.db.collections))
        for name in sorted(self.warming):
            await asyncio.get_running_loop().run_in_executor(self._others, self._warm_one, name)

    def _warm_one(self, name: str) -> None:
        """The index of a collection, and the weights of its encoder."""
        try:
            collection = self.db.collection(name)
            collection.settle()  # what was filled beside the service is linked before anybody has to wait for it
            collection.warm(copied=collection.count() * collection.dim * 4 <= self.settings.copied)
            samples: dict[str, str | bytes] = {"text": "warm", "image": PIXEL}
            sample = samples.get(collection.modality or "")
            if sample is not None:
                collection.encoded([sample])
        except vm.VecmetaError as error:  # it cannot be used, and no waiting changes that
            log.warning("not_warmed", collection=name, error=type(error).__name__)
        finally:
            self._ready.add(name)
            self.warming.discard(name)

    async def _tell(self) -> None:
        while True:
            for _ in range(round(TOLD_EVERY / FLUSHED_EVERY)):
                await asyncio.sleep(FLUSHED_EVERY)
                logs.flush()
            if self.searched:
                try:
                    await self.run(self.tell_searched)
                except (vm.VecmetaError, TimeoutError) as error:
                    log.warning("not_counted", error=type(error).__name__)


def filter_key(where: dict[str, Any] | None) -> bytes:
    """A filter as what searches are gathered by. Raises InvalidFilter."""
    try:
        return b"" if where is None else orjson.dumps(where)
    except orjson.JSONEncodeError:  # deeper than it can go, which is some 250 levels
        raise vm.InvalidFilter("the filter is nested too deeply") from None


def _search(key: SearchKey, queries: list[Any]) -> list[RawHits]:
    collection, version, k, where = key
    return collection.search_raw(queries, k, where=orjson.loads(where) if where else None, version=version)


def _encode(collection: Collection, contents: list[Content]) -> list[Any]:
    return collection.encoded(contents)


def added(collection: Collection, items: Sequence[Item | OwnVector]) -> int:
    """Write items, all of them or none; returns how many."""
    vectors = [item for item in items if isinstance(item, OwnVector)]
    if vectors:
        ids, metadata = [item.id for item in vectors], [item.metadata for item in vectors]
        return collection.add_vectors(ids, [item.vector for item in vectors], metadata)
    return collection.add([item for item in items if isinstance(item, Item)])


def _write(collection: Collection, batches: list[Sequence[Item | OwnVector]]) -> list[int]:
    """Batches of several requests in one transaction; one after the other where they speak of the same item."""
    ids = [item.id for batch in batches for item in batch]
    if len(batches) == 1 or len(set(ids)) < len(ids):
        return [added(collection, batch) for batch in batches]
    added(collection, [item for batch in batches for item in batch])
    return [len(batch) for batch in batches]
