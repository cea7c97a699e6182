"""Judgements, adaptation, and the jobs that do it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.convert import query_json, report_model, to_query
from service.deps import FastRoute, Named, Reader, Service, Teacher, Writer
from service.errors import Refused, outcomes
from service.links import JUDGED, SUBMITTED
from service.runtime import Runtime
from service.schemas.teach import (
    AdaptBody,
    ContradictionsAnswer,
    FeedbackBody,
    FinetuneBody,
    JobError,
    JobModel,
    JobsAnswer,
    JudgementAnswer,
    JudgementsAnswer,
    UnderstoodAnswer,
)
from service.security import check
from vecmeta import Job, JobNotFound, Judgement

collections = APIRouter(prefix="/collections/{name}", tags=["teaching"], route_class=FastRoute)
jobs = APIRouter(prefix="/jobs", tags=["jobs"], route_class=FastRoute)

LOOK_EVERY = 0.1  # seconds between looks at a job that is watched
LONGEST_WAIT = 60  # seconds of `Prefer: wait`
_WAIT = re.compile(r"\bwait=(\d{1,6})\b")
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": JobModel,
        "description": "Started; `Location` names the job",
        "headers": {"Location": {"schema": {"type": "string"}}},
        **SUBMITTED[202],
    }
}
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="the job", examples=["0" * 32])]


@collections.post("/feedback", responses={**outcomes(404, 409), **JUDGED})
async def give_feedback(body: FeedbackBody, key: Teacher, collection: Named, service: Service) -> UnderstoodAnswer:
    """Store judgements, all or none; says how many were new, repeated, or changed an earlier one."""
    most = service.settings.max_batch
    if len(body.judgements) > most:
        raise Refused(413, "too_large", f"{len(body.judgements):,} judgements in one request; at most {most:,}")
    if body.adapt:
        check(key, "write", collection.name)
    judgements = [
        Judgement(j.item, j.concept, None if j.query is None else to_query(collection, j.query), j.score, j.user)
        for j in body.judgements
    ]
    understood = await service.run(collection.feedback, judgements)
    if body.adapt:
        job: Job | None = await service.run(service.db.jobs.submit, collection.name)
    else:
        job = await service.run(service.db.jobs.feedback_given, collection.name)
    return UnderstoodAnswer(
        new=understood.new, duplicate=understood.duplicate, contradicting=understood.contradicting, job=job.id if job else None
    )


@collections.get("/judgements", responses=outcomes(404, 409))
async def list_judgements(
    _: Reader,
    collection: Named,
    service: Service,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JudgementsAnswer:
    """The log, oldest first."""
    page = await service.run(collection.judgements, offset, limit)
    return JudgementsAnswer(
        judgements=[judgement_answer(one) for one in page], total=await service.run(collection.judgement_count)
    )


@collections.get("/contradictions", responses=outcomes(404, 409))
async def list_contradictions(
    _: Reader, collection: Named, service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> ContradictionsAnswer:
    """Where the judgements that count contradict each other."""
    return ContradictionsAnswer(contradictions=await service.run(collection.contradictions, limit))


Prefer = Annotated[str | None, Header(max_length=200, description="`wait=10`: answer with the report if it is done in 10 s")]


@collections.post("/adapt", responses={**outcomes(404, 409), **ACCEPTED})
async def adapt(
    body: AdaptBody, _: Writer, collection: Named, service: Service, response: Response, prefer: Prefer = None
) -> JobModel:
    """Start an adaptation: 202 with the job, or 200 with the finished one when `Prefer: wait` was long enough.

    One adaptation of a collection runs at a time. A request that wants the same as one that is still queued joins it.
    """
    return await _started(service, collection.name, "adapt", body.model_dump(exclude_unset=True), response, prefer)


@collections.post("/finetune", responses={**outcomes(404, 409), **ACCEPTED})
async def finetune(
    body: FinetuneBody, key: Writer, collection: Named, service: Service, response: Response, prefer: Prefer = None
) -> JobModel:
    """Start a fine-tuning of the collection's encoder, for where adapting its output is not enough; answers as `adapt` does.

    It takes minutes to hours. Searches go on under the live version until the new one measures better and has encoded the collection anew.
    """
    if body.source is not None:
        check(key, "read", body.source.partition(":")[0])
    return await _started(service, collection.name, "finetune", body.model_dump(exclude_unset=True), response, prefer)


async def _started(
    service: Runtime, collection: str, kind: str, params: dict[str, Any], response: Response, prefer: str | None
) -> JobModel:
    job = await service.run(service.db.jobs.submit, collection, kind, params)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    wish = _WAIT.search(prefer or "")
    if wish:
        response.headers["Preference-Applied"] = wish[0]
        seen = [seen async for seen in _watched(service, job.id, min(int(wish[1]), LONGEST_WAIT))]
        job = seen[-1]
    response.status_code = 202 if job.finished is None else 200
    return job_model(job)


@jobs.get("", responses=outcomes(404))
async def list_jobs(
    service: Service,
    key: Reader,
    collection: Annotated[str | None, Query(max_length=63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$", description="cursor: the `next` of the page before")] = None,
) -> JobsAnswer:
    """Jobs, newest first."""
    if collection is not None:
        check(key, "read", collection)
    found = await service.run(_jobs, service, collection, limit, before, None if key is None else key.collections)
    return JobsAnswer(jobs=[job_model(job) for job in found], next=found[-1].id if len(found) == limit else None)


def _jobs(service: Runtime, collection: str | None, limit: int, before: str | None, bound: Collection[str] | None) -> list[Job]:
    """A full page of the jobs that a key may see, also where those of others lie between them."""
    shown: list[Job] = []
    while True:
        found = service.db.jobs.list(collection, limit=limit, before=before)
        shown += [job for job in found if bound is None or job.collection in bound]
        if len(found) < limit or len(shown) >= limit:
            return shown[:limit]
        before = found[-1].id


async def _reachable(id: JobId, service: Service, key: Reader) -> Job:
    job = await service.job(id)
    check(key, "read", job.collection)
    return job


OneJob = Annotated[Job, Depends(_reachable)]


@jobs.get("/{id}", responses=outcomes(404))
async def get_job(job: OneJob) -> JobModel:
    """One job: its state, progress and ETA; at the end its report or error."""
    return job_model(job)


@jobs.post("/{id}/cancel", responses=outcomes(404))
async def cancel_job(job: OneJob, service: Service, key: Reader) -> JobModel:
    """Cancel a job; one that runs stops soon and leaves nothing behind, one that has ended stays as it is. Needs the scope write."""
    check(key, "write", job.collection)
    return job_model(await service.run(service.db.jobs.cancel, job.id))


@jobs.get("/{id}/events", responses=outcomes(404, streamed=True), response_class=EventSourceResponse)
async def job_events(job: OneJob, service: Service) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `progress` whenever the job moves, `end` when it has ended; each carries the job."""
    async for seen in _watched(service, job.id, None):
        yield ServerSentEvent(data=job_model(seen), event="progress" if seen.finished is None else "end")


async def _watched(service: Runtime, id: str, seconds: float | None) -> AsyncIterator[Job]:
    """A job each time that it has moved, until it has ended, the time is over, or it is gone with its collection."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    before: Any = None
    while True:
        try:
            job = await service.job(id)
        except JobNotFound:
            return
        now = (job.state, job.done, job.total, job.attempts)
        if now != before:
            before = now
            yield job
        if job.finished is not None or (end is not None and loop.time() >= end) or service.stopping:
            return
        await asyncio.sleep(LOOK_EVERY)


def judgement_answer(judgement: Judgement) -> JudgementAnswer:
    """A judgement as an answer."""
    return JudgementAnswer(
        item=judgement.item, concept=judgement.concept, query=query_json(judgement.query), score=judgement.score, user=judgement.user,
        time=judgement.time,
    )  # fmt: skip


def job_model(job: Job) -> JobModel:
    """A job as an answer."""
    return JobModel(
        id=job.id,
        collection=job.collection,
        kind=job.kind,
        params=dict(job.params),
        state=job.state,
        done=job.done,
        total=job.total,
        eta=job.eta,
        attempts=job.attempts,
        joined=job.joined,
        report=None if job.report is None else report_model(job.report),
        error=None if job.error is None else JobError(error=job.error[0], detail=job.error[1]),
        created=job.created,
        due=job.due,
        started=job.started,
        finished=job.finished,
    )
