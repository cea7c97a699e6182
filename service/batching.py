"""Concurrent requests for the same kind of work, done together in threads."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Generic, Protocol, TypeVar

from vecmeta import VecmetaError

K = TypeVar("K", bound=Hashable)
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
    """

    def __init__(
        self, work: Callable[[K, list[Asked]], list[Answer]], pool: Executor, *, largest: int, workers: int = 1, wait: float = 0.0,
        waiting: int = 2000, timeout: float = 60.0,
    ) -> None:  # fmt: skip
        self._work, self._pool, self._largest = work, pool, largest
        self._wait, self._waiting, self._timeout = wait, waiting, timeout
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
            begins = self._idle > 0 and not self._called
            self._called = self._called or begins
        if begins:
            # Not at once: what the loop has read from other connections meanwhile belongs to the same batch.
            loop.call_later(self._wait, self._start, loop) if self._wait else loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._called = False
        while (found := self._next(idle=True)) is not None:
            self._pool.submit(self._serve, loop, *found).add_done_callback(partial(self._served, loop, found[1]))

    def _next(self, *, idle: bool) -> tuple[K, list[tuple[Asked, Waiting[Answer]]]] | None:
        """A batch for a worker, who was `idle` or has just done one and is idle if there is none."""
        with self._lock:
            while self._queues and (self._idle or not idle):
                key, queue = next(iter(self._queues.items()))
                batch = [queue.popleft() for _ in range(min(len(queue), self._largest))]
                self._count -= len(batch)
                if queue:
                    self._queues.move_to_end(key)  # each key has its turn
                else:
                    del self._queues[key]
                batch = [(asked, waiting) for asked, waiting in batch if not waiting.done()]  # whoever gave up needs no answer
                if batch:
                    self._idle -= idle
                    self.batches += 1
                    self.answers += len(batch)
                    return key, batch
            self._idle += not idle
            return None

    def _serve(self, loop: asyncio.AbstractEventLoop, key: K, batch: list[tuple[Asked, Waiting[Answer]]]) -> None:
        """One batch after the other, in a thread, for as long as there are any: to be sent each one by a busy loop takes longer than it."""
        found: tuple[K, list[tuple[Asked, Waiting[Answer]]]] | None = key, batch
        while found is not None:
            key, batch = found
            answers = self._together(key, [asked for asked, _ in batch])
            loop.call_soon_threadsafe(self._deliver, batch, answers)
            found = self._next(idle=False)

    def _together(self, key: K, asked: list[Asked]) -> list[Answer | Exception]:
        try:
            return list(self._work(key, asked))
        except Exception as error:
            if len(asked) == 1 or not isinstance(error, VecmetaError):
                return [error] * len(asked)
        return [self._together(key, [one])[0] for one in asked]

    def _served(self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Asked, Waiting[Answer]]], done: Future[None]) -> None:
        if done.cancelled():  # the service stops
            loop.call_soon_threadsafe(lambda: [waiting.cancel() for _, waiting in batch])

    def _deliver(self, batch: list[tuple[Asked, Waiting[Answer]]], answers: list[Answer | Exception]) -> None:
        for (_, waiting), answer in zip(batch, answers, strict=True):
            if waiting.done():
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
