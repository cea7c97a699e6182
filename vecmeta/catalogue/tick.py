"""Whether anything was written to a database by those who share a machine, without asking the database."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

BYTES = 16
TRUST = 0.05  # seconds


class Tick:
    """A few random bytes in a file that every process has mapped, and that who writes renews before he says that he has written.

    While they stay as they are, what was read since is what would be read. Looking at them costs a microsecond and, unlike any statement or
    system call, no moment at which another thread may take the interpreter. Killed between a commit and the new bytes, a writer has
    acknowledged nothing; other tools write without a word: both are why a mark is trusted for no longer than `TRUST`.

    SQLite's own counter, in the header of FILE-shm, would do as well, but to close any descriptor of that file gives up
    the locks that SQLite holds on it for the whole process (POSIX).
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._map: mmap.mmap | None = None
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if os.fstat(descriptor).st_size < BYTES:
                    os.ftruncate(descriptor, BYTES)  # only ever made longer: a shorter file would end those who look at it
                self._map = mmap.mmap(descriptor, BYTES)
            finally:
                os.close(descriptor)

    def mark(self) -> bytes | None:
        """What is there now; None where there cannot be such a file, on a read-only disk for one."""
        mapped = self._map
        return None if mapped is None else mapped[:]

    def renew(self) -> None:
        """Tell everybody that something was written."""
        mapped = self._map
        if mapped is not None:
            mapped[:] = os.urandom(BYTES)

    def close(self) -> None:
        """Let go of it. Whoever is looking at it at this moment holds it until then."""
        self._map = None
