"""Concurrent requests for the same kind of work, done together in threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Generic, Protocol, TypeVar

from vecmeta import VecmetaError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Answer_contra = TypeVar("Answer_contra", contravariant=True)


class Overloaded(Exception):
    """More requests wait than may; come back later."""


class Waiting(Protocol[Answer_contra]):
    """Whom an answer is for: an asyncio.Future, or anything like it."""

    def done(self) -> bool:
        """Whether it needs no answer any more."""

    def set_result(self, result: Answer_contra, /) -> None:
        """The answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Why there is none."""

    def cancel(self) -> object:
        """The service stops."""


class Batcher(Generic[K, Asked, Answer]):
    """Requests of the same key that wait at the same time go through `work(key, [asked, …]) -> [answer, …]` as one batch.

    No clock is needed for that: what comes in while all `workers` are busy is what the next batch holds, so a lonely request never
    waits and a crowd is served in large batches. With `wait` > 0 the first of a batch also waits so many seconds for company when nobody
    is busy. Nobody waits longer than `timeout` seconds, for a turn and the answer together. When a batch of several fails, each is tried by
    itself, so that nobody gets another one's error.

    With `pause` > 0 the loop stands still for so many seconds at most while a batch is worked on. Where that is short, work in C of all
    cores, loop and worker would only take the interpreter's lock from each other: what comes in meanwhile is read in one go afterwards.
    """

    def __init__(
        self, work: Callable[[K, list[Asked]], list[Answer]], pool: Executor, *, largest: int, workers: int = 1, wait: float = 0.0,
        pause: float = 0.0, waiting: int = 2000, timeout: float = 60.0,
    ) -> None:  # fmt: skip
        self._work, self._pool, self._largest = work, pool, largest
        self._wait, self._pause, self._waiting, self._timeout = wait, pause, waiting, timeout
        self._lock = threading.Lock()  # over all that follows
        self._idle = workers
        self._queues: OrderedDict[K, deque[tuple[Asked, Waiting[Answer]]]] = OrderedDict()
        self._count = 0
        self._called = False
        self.batches = 0  # so far; with `answers`, how large they are
        self.answers = 0

    async def ask(self, key: K, asked: Asked) -> Answer:
        """The answer to one request. Raises what `work` raises for it, Overloaded and TimeoutError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self.put(key, asked, future, loop)
        async with asyncio.timeout(self._timeout):
            return await future

    def put(self, key: K, asked: Asked, waiting: Waiting[Answer], loop: asyncio.AbstractEventLoop) -> None:
        """Let one wait for the answer, who has to look at the clock himself. Raises Overloaded."""
        with self._lock:
            if self._count >= self._waiting:
                raise Overloaded
            self._queues.setdefault(key, deque()).append((asked, waiting))
            self._count += 1
        self._call(loop, self._wait)

    def _call(self, loop: asyncio.AbstractEventLoop, wait: float = 0.0) -> None:
        """See to it that a batch begins, if any waits and a worker is idle."""
        with self._lock:
            begins = bool(self._queues) and self._idle > 0 and not self._called
            self._called = self._called or begins
        if begins:
            loop.call_later(wait, self._start, loop) if wait else loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop, seen: int = 0) -> None:
        """Begin a batch, unless the loop has read requests since the last look, when `seen` waited: then more may come at once.

        Whoever has just been answered asks again while others are still being answered, and a batch of two that waited meanwhile would
        be in the way of the thirty who come back.
        """
        with self._lock:
            if seen < self._count < self._largest:
                loop.call_soon(self._start, loop, self._count)
                return
            self._called = False
            found = self._next()
        if found is None:
            return
        key, batch = found
        try:
            future = self._pool.submit(self._together, key, [asked for asked, _ in batch])
        except RuntimeError:  # the service stops
            future = Future()
            future.cancel()
        if self._pause:
            wait([future], self._pause)
        end = partial(self._end, loop, batch)
        if future.done():
            end(future)
        else:
            future.add_done_callback(partial(_in_loop, loop, end))
            self._call(loop)

    def _next(self) -> tuple[K, list[tuple[Asked, Waiting[Answer]]]] | None:
        """A batch for an idle worker, who is not idle then. The lock is held."""
        while self._queues and self._idle:
            key, queue = next(iter(self._queues.items()))
            batch = [queue.popleft() for _ in range(min(len(queue), self._largest))]
            self._count -= len(batch)
            if queue:
                self._queues.move_to_end(key)  # each key has its turn
            else:
                del self._queues[key]
            batch = [(asked, waiting) for asked, waiting in batch if not waiting.done()]  # whoever gave up needs no answer
            if batch:
                self._idle -= 1
                self.batches += 1
                self.answers += len(batch)
                return key, batch
        return None

    def _together(self, key: K, asked: list[Asked]) -> list[Answer | Exception]:
        try:
            return list(self._work(key, asked))
        except Exception as error:
            if len(asked) == 1 or not isinstance(error, VecmetaError):
                return [error] * len(asked)
        return [self._together(key, [one])[0] for one in asked]

    def _end(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[Asked, Waiting[Answer]]],
        future: Future[list[Answer | Exception]],
    ) -> None:
        """In the loop: give the answers of a batch, and begin the next one."""
        with self._lock:
            self._idle += 1
        if future.cancelled():  # the service stops
            for _, waiting in batch:
                waiting.cancel()
            return
        for (_, waiting), answer in zip(batch, future.result(), strict=True):
            if waiting.done():
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
        self._call(loop)


def _in_loop(loop: asyncio.AbstractEventLoop, end: Callable[[Future[T]], None], future: Future[T]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the connections of those who waited
        loop.call_soon_threadsafe(end, future)
