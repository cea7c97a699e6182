"""Many readers or one writer, neither starving the other."""

from __future__ import annotations

import threading
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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Share the lock with other readers."""
        with self._changed:
            self._waiting_readers += 1
            try:
                while self._writing or (self._waiting_writers and not self._admitted):
                    self._changed.wait()
                self._readers += 1
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
