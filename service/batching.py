"""Concurrent requests for the same kind of work, done together in threads."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from typing import Generic, TypeVar

from vecmeta import VecmetaError

K = TypeVar("K", bound=Hashable)
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """More requests wait than may; come back later."""


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
        self._idle = workers
        self._queues: OrderedDict[K, deque[tuple[Asked, asyncio.Future[Answer]]]] = OrderedDict()
        self._count = 0
        self._called = False
        self.batches = 0  # so far; with `answers`, how large they are
        self.answers = 0

    async def ask(self, key: K, asked: Asked) -> Answer:
        """The answer to one request. Raises what `work` raises for it, Overloaded and TimeoutError."""
        if self._count >= self._waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queues.setdefault(key, deque()).append((asked, future))
        self._count += 1
        if self._idle and not self._called:
            self._called = True
            # Not at once: what the loop has read from other connections meanwhile belongs to the same batch.
            loop.call_later(self._wait, self._start) if self._wait else loop.call_soon(self._start)
        async with asyncio.timeout(self._timeout):
            return await future

    def _start(self) -> None:
        self._called = False
        loop = asyncio.get_running_loop()
        while self._idle and self._queues:
            key, queue = next(iter(self._queues.items()))
            batch = [queue.popleft() for _ in range(min(len(queue), self._largest))]
            self._count -= len(batch)
            if queue:
                self._queues.move_to_end(key)  # each key has its turn
            else:
                del self._queues[key]
            batch = [(asked, future) for asked, future in batch if not future.done()]  # whoever went away needs no answer
            if batch:
                self._idle -= 1
                self.batches += 1
                self.answers += len(batch)
                done = loop.run_in_executor(self._pool, self._together, key, [asked for asked, _ in batch])
                done.add_done_callback(lambda done, batch=batch: self._finish(batch, done))  # type: ignore[misc]

    def _together(self, key: K, asked: list[Asked]) -> list[Answer | Exception]:
        try:
            return list(self._work(key, asked))
        except Exception as error:
            if len(asked) == 1 or not isinstance(error, VecmetaError):
                return [error] * len(asked)
        return [self._together(key, [one])[0] for one in asked]

    def _finish(
        self,
        batch: list[tuple[Asked, asyncio.Future[Answer]]],
        done: asyncio.Future[list[Answer | Exception]],
    ) -> None:
        self._idle += 1
        self._start()
        if done.cancelled():  # the service stops
            for _, future in batch:
                future.cancel()
            return
        for (_, future), answer in zip(batch, done.result(), strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
