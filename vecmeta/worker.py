"""A worker: takes the jobs of a database, one after the other. As many as wanted, in any processes, share the work."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Self, cast

from vecmeta.catalogue.jobs import Claim, JobStore
from vecmeta.database import Database
from vecmeta.errors import (
    Cancelled,
    InvalidConfig,
    JobNotFound,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageUnavailable,
    VecmetaError,
)
from vecmeta.types import Job, JobState, Report

IDLE = 0.15  # seconds between looks for work
LET_BE = 1.0  # seconds in which a new version is left to those who answer searches: they open it, and link the same as this process will
TICK = 0.2  # seconds between looks at what became of the job in hand, and between two tellings of its progress
PASSING = (StorageBusy, StorageFull, StorageUnavailable)  # what is better in a while
LET_GO = 2.0  # seconds after which a job that does not end when it has to is given back all the same
TRIES = 3  # to write an outcome while the database is locked or full
_STATES: dict[str, JobState] = {  # stages of an adaptation, and of a fine-tuning
    "reading": "encoding",
    "adapting": "adapting",
    "evaluating": "evaluating",
    "building": "building",
    "swapping": "ready",
}
_log = logging.getLogger(__name__)


class Worker:
    """Runs due jobs, oldest first, one at a time, and never two of one collection at once whoever runs them.

    Args:
        db: where the jobs are.
        name: who it is, for people; None makes one of host and process.
        lease: seconds without a sign of life after which others take its job over; the same for all workers of a database.
    """

    def __init__(self, db: Database, *, name: str | None = None, lease: float = 15.0) -> None:
        if isinstance(lease, bool) or not isinstance(lease, (int, float)) or not 0.5 <= lease <= 3600:
            raise InvalidConfig(f"a lease is a number of seconds from 0.5 to 3,600, not {lease!r}")
        self._db, self._store, self._lease = db, db.jobs.store, lease
        # Two workers of one name must not take each other's jobs for their own.
        self.name = f"{(name or f'{socket.gethostname()}-{os.getpid()}')[:55]}-{secrets.token_hex(4)}"
        self._suspects: dict[str, datetime] = {}
        self._looked = 0.0  # when the suspects were made

    def run(
        self, stop: threading.Event, *, grace: float = 10.0, once: bool = False, told: Callable[[Job], None] | None = None
    ) -> None:
        """Work until `stop` is set; a job that runs then has `grace` seconds to end before it goes back into the queue.

        Args:
            once: end when nothing is due.
            told: called with each job that this worker has let go of, finished or put back.

        Raises:
            StorageError: the database cannot be used; not while it is busy, away or its disk is full, that is waited for.
        """
        while not stop.is_set():
            try:
                claim, idle = self._next()
            except PASSING as error:
                _log.warning("worker %s: %s; trying again", self.name, error)
                stop.wait(1.0)
                continue
            if claim is not None:
                state = self._work(claim, stop, grace, told)
                if state == "live" and not once:
                    self._tend(claim.collection, stop)
            elif idle and once:
                return
            else:
                stop.wait(IDLE)

    def _next(self) -> tuple[Claim | None, bool]:
        """A job to run; and, without one, whether nothing is to be expected soon."""
        alive = self._store.now() - timedelta(seconds=self._lease)
        due, silent = self._store.look(alive)
        if silent and time.monotonic() - self._looked >= self._lease / 5:  # the time in which a living one would have said so
            self._suspects = self._store.recover(alive, self._suspects)
            self._looked = time.monotonic()
            return self._store.claim(self.name), not self._suspects
        return (self._store.claim(self.name) if due else None), not silent

    def _work(self, claim: Claim, stop: threading.Event, grace: float, told: Callable[[Job], None] | None) -> JobState:
        """Do a job; what became of it."""
        pulse = _Pulse(self._store, claim, stop, grace, self._lease / 5)
        state: JobState = "failed"
        report: Report | None = None
        error: tuple[str, str] | None = None
        try:
            with pulse:
                report = self._adapt(claim, pulse)
            wet = not report.dry_run and claim.params.get("activate", True)
            state = "live" if report.decision == "promoted" and wet else "kept"
        except Cancelled:
            state = "queued" if pulse.why == "stop" else "cancelled"
        except StorageUnavailable as problem:  # nothing against the job: when the server is back, somebody does it
            _log.warning("job %s: %s; it is put back", claim.id, problem)
            state = "queued"
        except VecmetaError as problem:
            error = problem.code, str(problem)
        except Exception as problem:
            error = "internal", type(problem).__name__
            if pulse.why != "lost" and self._store.asked(claim) is not None:  # a collection dropped under it breaks many things
                _log.exception("job %s of the collection %r", claim.id, claim.collection)
        except BaseException:  # Ctrl-C
            self._store.put_back(claim)
            raise
        if self._written(claim, state, report, error) and told is not None:
            with suppress(JobNotFound):  # its collection was dropped this very moment
                told(self._db.jobs.get(claim.id))
        return state

    def _tend(self, name: str, stop: threading.Event) -> None:
        """Link what a collection has to link, until that is done or a job is due.

        The next version has the links that this process knows of, and what else there is is scored row by row until it is linked: where
        much is written and nobody searches here, that would be more with every version.
        """
        looked = begin = time.monotonic()

        def progress(*_: object) -> None:
            nonlocal looked
            now = time.monotonic()
            late = now - looked >= IDLE
            looked = now if late else looked
            if stop.is_set() or (late and self._store.look(self._store.now())[0]):
                raise Cancelled("there is other work")

        try:
            while time.monotonic() < begin + LET_BE:
                stop.wait(IDLE)
                progress()
            self._db.collection(name).settle(progress)
        except VecmetaError:
            pass  # whoever needs it meets it again
        except Exception:
            _log.exception("linking what waits in the collection %r", name)

    def _adapt(self, claim: Claim, pulse: _Pulse) -> Report:
        collection = self._db.collection(claim.collection)
        if collection.row.id != claim.collection_id:  # dropped and made anew: nobody asked for this one
            pulse.why = "lost"
            raise Cancelled("the collection has been dropped")
        work = collection.finetune if claim.kind == "finetune" else collection.adapt
        return work(**claim.params, progress=pulse.progress)

    def _written(self, claim: Claim, state: JobState, report: Report | None, error: tuple[str, str] | None) -> bool:
        """Write what came of a job; False if it is not this worker's any more, or went with its collection."""
        for attempt in range(1, TRIES + 1):
            try:
                if state == "queued":
                    return self._store.put_back(claim)
                return self._store.finish(claim, state, report, error)
            except PASSING as problem:
                _log.warning("the outcome of job %s cannot be written (try %d of %d): %s", claim.id, attempt, TRIES, problem)
                time.sleep(attempt / 2)
        return False  # without signs of life it is found as interrupted, and done again: the same judgements, the same version


class _Pulse:
    """The signs of life of a job in hand, in a thread of its own; and the progress callback, which stops the job."""

    def __init__(self, store: JobStore, claim: Claim, stop: threading.Event, grace: float, every: float) -> None:
        self._store, self._claim, self._stop, self._grace, self._every = store, claim, stop, grace, every
        self.why: Literal["user", "stop", "lost"] | None = None  # why the job has to end
        self._stage = ""
        self._now: tuple[JobState, int, int] = (_STATES["reading"], 0, 0)
        self._told, self._beaten = self._now, time.monotonic()
        self._lock = threading.Lock()  # over beats, so that an older progress is never written after a newer one
        self._end: float | None = None  # when the grace is over
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"vecmeta-job-{claim.id[:8]}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Told by the adaptation. Raises Cancelled once the job has to end."""
        if stage != self._stage:
            # At once, and in this thread: nothing goes live that was cancelled, or taken over by another worker, before that.
            self._stage, self._now = (
                stage,
                (_STATES.get(stage, self._now[0]), 0, 0),
            )  # what comes with a new stage counts the stages
            self._beat()
        else:
            self._now = (self._now[0], done, total)
        self._see_stop()
        if self.why is not None:
            raise Cancelled("the job was cancelled" if self.why == "user" else "the worker stops")

    def _beat(self) -> None:
        with self._lock:
            told = self._now
            try:
                self._heard(self._store.beat(self._claim, *told))
            except StorageError as error:
                _log.warning("job %s: no sign of life could be written: %s", self._claim.id, error)
                return
            self._told, self._beaten = told, time.monotonic()

    def _heard(self, cancel: bool | None) -> None:
        if cancel is None:
            self.why = "lost"
        elif cancel and self.why is None:
            self.why = "user"

    def _see_stop(self) -> None:
        if self._stop.is_set():
            self._end = time.monotonic() + self._grace if self._end is None else self._end
            if time.monotonic() >= self._end and self.why is None:
                self.why = "stop"

    def _run(self) -> None:
        while not self._over.wait(TICK):
            self._see_stop()
            if self.why == "stop" and time.monotonic() >= cast(float, self._end) + LET_GO:
                # It may be in the middle of something long, an import or a step, and be killed there. `progress` ends it before
                # anything of it goes live; that another worker has begun it by then is what a lease allows for as well.
                with suppress(StorageError):
                    self._store.put_back(self._claim)
                    return
            if self._now != self._told or time.monotonic() - self._beaten >= self._every:
                self._beat()
                continue
            try:
                self._heard(self._store.asked(self._claim))
            except StorageError as error:
                _log.warning("job %s cannot be looked at: %s", self._claim.id, error)
