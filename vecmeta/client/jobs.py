"""Long work on a service: submitted, watched, cancelled."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from vecmeta import intake
from vecmeta.catalogue.jobs import FINISHED
from vecmeta.client.link import Link, Steps
from vecmeta.client.records import job_of
from vecmeta.client.verbs import Awaiting, Blocking, Speaker, verb
from vecmeta.errors import CollectionNotFound, InvalidConfig, JobNotFound
from vecmeta.jobs import KINDS
from vecmeta.types import Job, JobState

PAGE = 200  # jobs of one request
FIRST_LOOK, LAST_LOOK = 0.05, 0.5  # seconds between looks at a job: often at first, then less and less
_ID = re.compile(r"[0-9a-f]{32}")


class JobVerbs(Speaker):
    """The verbs of `RemoteJobs` and `AsyncRemoteJobs`, those of `Database.jobs`."""

    @verb
    def submit(self, collection: str, kind: str = "adapt", params: Mapping[str, Any] | None = None) -> Steps[Job]:
        """Ask for work on a collection; returns the job, which may be one that was queued already and wants the same.

        Args:
            kind: "adapt" or "finetune".
            params: of `RemoteCollection.adapt`: method, dry_run, strength, seed, activate; or of `RemoteCollection.finetune`.

        Raises:
            CollectionNotFound, InvalidConfig.
        """
        if kind not in KINDS:
            raise InvalidConfig(f"unknown kind {kind!r} of job; known: {', '.join(KINDS)}")
        return (yield from submitted(self._link, collection, {} if params is None else params, kind))

    @verb
    def get(self, id: str) -> Steps[Job]:
        """One job. Raises JobNotFound."""
        return (yield from one(self._link, id))

    @verb
    def list(
        self,
        collection: str | None = None,
        *,
        states: Iterable[JobState] | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Steps[list[Job]]:
        """Jobs, newest first: of one collection, in some states, and older than the job `before`.

        Raises:
            CollectionNotFound, JobNotFound (no `before`), InvalidConfig.
        """
        most = intake.top(limit, "limit")
        wanted = None if states is None else intake.listed(states if isinstance(states, str) else [*states])
        for state in wanted or ():
            if state not in get_args(JobState):
                raise InvalidConfig(f"unknown state {state!r} of jobs; known: {', '.join(get_args(JobState))}")
        if before is not None:
            _checked(before)
        params: dict[str, str | int] = {} if collection is None else {"collection": known(collection)}
        found: list[Job] = []
        while True:
            params["limit"] = PAGE if wanted is not None else min(PAGE, most - len(found))
            if before is not None:
                params["before"] = before
            page = yield from self._link.ask("GET", "/jobs", params=params)
            found += [job for job in map(job_of, page["jobs"]) if wanted is None or job.state in wanted]
            before = page["next"]
            if before is None or len(found) >= most:
                return found[:most]

    @verb
    def cancel(self, id: str) -> Steps[Job]:
        """Cancel a job: at once if it is queued; if it runs, its worker stops soon and leaves nothing; if it is finished, it stays so.

        Raises:
            JobNotFound.
        """
        return (yield from cancelled(self._link, id))

    @verb
    def wait(self, id: str, timeout: float = math.inf) -> Steps[Job]:
        """The job once it is finished, or as it is after `timeout` seconds. Raises JobNotFound, also if the collection is dropped."""
        return (yield from watched(self._link, id, timeout))


class RemoteJobs(JobVerbs, Blocking):
    """The jobs of a service; `Client.jobs`."""


class AsyncRemoteJobs(JobVerbs, Awaiting):
    """The jobs of a service; `AsyncClient.jobs`."""


def submitted(link: Link, collection: str, params: Mapping[str, Any], kind: str = "adapt") -> Steps[Job]:
    """Ask for an adaptation, or a fine-tuning."""
    # Not asked again when the answer was lost: it might run a second time.
    return job_of((yield from link.ask("POST", f"/collections/{known(collection)}/{kind}", dict(params), again=False)))


def one(link: Link, id: str) -> Steps[Job]:
    """Look at a job."""
    return job_of((yield from link.ask("GET", f"/jobs/{_checked(id)}")))


def cancelled(link: Link, id: str) -> Steps[Job]:
    """Cancel a job."""
    return job_of((yield from link.ask("POST", f"/jobs/{_checked(id)}/cancel")))


def watched(link: Link, id: str, timeout: float = math.inf, told: Callable[[Job], None] | None = None) -> Steps[Job]:
    """Look at a job until it has ended or the time is over; `told` hears of each look."""
    end, pause = time.monotonic() + timeout, FIRST_LOOK
    while True:
        job = yield from one(link, id)
        if told is not None:
            told(job)
        left = end - time.monotonic()
        if job.state in FINISHED or left <= 0:
            return job
        yield float(min(pause, left))
        pause = min(LAST_LOOK, pause * 1.2)


def known(collection: str) -> str:
    """A name that a collection can have, so that it may stand in a URL. Raises CollectionNotFound."""
    try:
        return intake.collection_name(collection)
    except InvalidConfig:
        raise CollectionNotFound(f"there is no collection {collection!r}") from None


def _checked(id: object) -> str:
    if not isinstance(id, str):
        raise InvalidConfig(f"the id of a job is a text of 32 hexadecimal digits, not {id!r}")
    if not _ID.fullmatch(id):
        raise JobNotFound(f"there is no job {id!r}")
    return id
