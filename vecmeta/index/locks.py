"""Many readers or one writer, neither starving the other; and writers in turn, with one among them that can wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Phase-fair: a waiting writer holds back new readers; when it leaves, the readers that waited go before the next writer.

    So a bulk load that takes the lock once per slice delays a search by one slice at most, and steady searching cannot keep a
    writer out. Not re-entrant.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting_readers = 0
        self._waiting_writers = 0
        self._admitted = 0  # readers that may enter before the next writer; never more than wait
        self.entered = 0  # readers so far

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Share the lock with other readers."""
        with self._changed:
            self._waiting_readers += 1
            try:
                while self._writing or (self._waiting_writers and not self._admitted):
                    self._changed.wait()
                self._readers += 1
                self.entered += 1
            finally:  # also when a signal interrupts the wait: an admission nobody takes would shut writers out
                self._waiting_readers -= 1
                self._admitted = min(max(self._admitted - 1, 0), self._waiting_readers)
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._readers:
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._changed:
            self._waiting_writers += 1
            try:
                while self._writing or self._readers or self._admitted:
                    self._changed.wait()
                self._writing = True
            finally:
                self._waiting_writers -= 1
                if not self._writing:
                    self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._admitted = self._waiting_readers
                self._changed.notify_all()


class Turns:
    """A lock whose waiters are known, so that one that is in no hurry can let them go first: a plain lock goes back to who just had it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = threading.Lock()
        self._waiting = 0
        self.taken = 0  # turns of others than `patiently`

    def __enter__(self) -> None:
        with self._count:
            self._waiting += 1
        try:
            self._lock.acquire()
        finally:
            with self._count:
                self._waiting -= 1
                self.taken += 1

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Hold it once nobody else waits for it, or after a twentieth of a second all the same."""
        end = time.monotonic() + 0.05
        while self._waiting and time.monotonic() < end:
            time.sleep(0.0002)
        with self._lock:
            yield
