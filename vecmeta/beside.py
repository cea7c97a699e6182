"""One thread that works beside the searches, and ends when it is told to or when the program does."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vecmeta.errors import Cancelled


class Beside:
    """Does one thing at a time, for one version, with the function given, which calls `go_on` now and then.

    The thread is no daemon, which would be cut off in the middle of foreign code when the interpreter ends.
    """

    def __init__(self, verb: str, work: Callable[[int], object]) -> None:
        self._verb, self._work = verb, work
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failed: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, number: int) -> bool:
        """Have the thread work on a version, unless it is at one. False once that failed: whoever asks is to do it and meet the error."""
        with self._lock:
            if number in self._failed:
                return False
            if self._thread is None or not self._thread.is_alive():
                self._stop = threading.Event()
                name = f"vecmeta-{self._verb}-{number}"
                self._thread = threading.Thread(target=self._run, args=(number, self._stop), name=name)
                self._thread.start()
        return True

    def end(self) -> None:
        """Stop the thread and wait for it; failures are forgotten."""
        with self._lock:
            self._stop.set()
            thread, self._failed = self._thread, set()
        if thread is not None:
            thread.join()

    def forgive(self, number: int) -> None:
        """It has been done for a version after all."""
        with self._lock:
            self._failed.discard(number)

    def go_on(self) -> None:
        """For the function to call, in the thread or out of it. Raises Cancelled in the thread when it is to end."""
        if threading.current_thread() is self._thread and (self._stop.is_set() or not threading.main_thread().is_alive()):
            raise Cancelled(f"the collection was closed while a version was worked on ({self._verb})")

    def _run(self, number: int, stop: threading.Event) -> None:
        try:
            self._work(number)
        except Cancelled:
            pass
        except Exception:  # whatever it is, the next one who asks meets it again
            with self._lock:
                if not stop.is_set():
                    self._failed.add(number)
