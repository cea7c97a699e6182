"""Long work as rows: who asked for what, which worker has it, how far it is, what came of it. Every step is one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn, cast

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, not_, or_, select, update
from sqlalchemy.exc import IntegrityError

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import collections, jobs, judgements, policies
from vecmeta.errors import CollectionNotFound, JobNotFound
from vecmeta.types import Job, JobState, Policy, Report

RUNNING: tuple[JobState, ...] = ("encoding", "adapting", "evaluating", "building", "ready")  # in their order
FINISHED: tuple[JobState, ...] = ("live", "kept", "failed", "cancelled")
ATTEMPTS = 3  # a job that took so many workers down with it is not tried again
LONGEST_DEBOUNCE = 10  # debounces after which steady feedback pushes an adaptation no further
_STAGES = dict(
    zip(RUNNING, ("reading", "adapting", "evaluating", "building", "swapping"), strict=True)
)  # names in Report.seconds
_j, _c = jobs.c, collections.c


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in a worker's hands. ``attempt`` tells it from an earlier one of the same worker on the same job."""

    id: str
    collection: str
    collection_id: int
    kind: str
    params: Mapping[str, Any]
    worker: str
    attempt: int


class JobStore:
    """The jobs of all collections."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def now(self) -> datetime:
        """This moment by the clock that all workers of the database go by."""
        return self._engine.now()

    # -- asking for work -----------------------------------------------------------------------------------------------------

    def submit(
        self, collection: int, kind: str, params: Mapping[str, Any], delay: float, alike: Callable[[Mapping[str, Any]], object],
        longest: float | None = None,
    ) -> Job:  # fmt: skip
        """A new job, or the queued one of the same kind whose params are `alike`, which the request then joins.

        A delay pushes what is not due yet further away, at most to `longest` seconds after it was made; without one it is due now.

        Raises:
            CollectionNotFound: the collection has just been dropped.
        """
        moment = self.now()
        due = moment + timedelta(seconds=delay)
        with self._engine.writing("jobs") as connection:
            query = select(_j.seq, _j.params, _j.due, _j.created).order_by(_j.seq)
            queued = query.where(_j.collection == collection, _j.kind == kind, _j.state == "queued")
            for seq, known, stored_due, created in connection.execute(queued):
                if alike(known) == alike(params):
                    before = aware(stored_due)
                    if delay <= 0 or before <= moment:  # somebody wants it now: a later request that can wait changes nothing
                        due = min(before, moment)
                    else:
                        due = due if longest is None else min(due, aware(created) + timedelta(seconds=longest))
                        due = max(before, due)
                    connection.execute(update(jobs).where(_j.seq == seq).values(joined=_j.joined + 1, due=due))
                    return _one(connection, _j.seq == seq, self.now())
            values = {"id": secrets.token_hex(16), "collection": collection, "kind": kind, "params": dict(params)}
            try:
                connection.execute(insert(jobs).values(**values, state="queued", created=moment, due=due))
            except IntegrityError:
                raise CollectionNotFound("the collection has been dropped") from None
            return _one(connection, _j.id == values["id"], self.now())

    def cancel(self, id: str) -> Job:
        """Cancel what is queued, ask what runs to stop, leave what is finished. Raises JobNotFound."""
        with self._engine.writing("jobs") as connection:
            end = {"state": "cancelled", "finished": self.now(), "cancel": True}
            if not connection.execute(update(jobs).where(_j.id == id, _j.state == "queued").values(**end)).rowcount:
                connection.execute(update(jobs).where(_j.id == id, _j.state.in_(RUNNING)).values(cancel=True))
            return _one(connection, _j.id == id, self.now(), id)

    def unheard(self, collection: int) -> tuple[Policy, int] | None:
        """When a collection adapts by itself, and the judgements since the last adaptation that was taken; None: it does not.

        A dry run teaches nothing, so it does not count.
        """
        with self._engine.reading() as connection:
            policy = connection.execute(
                select(policies.c.auto_adapt, policies.c.debounce).where(policies.c.collection == collection)
            ).one_or_none()
            if policy is None or policy.auto_adapt is None:
                return None
            taken = and_(_j.collection == collection, _j.kind == "adapt", _j.judgements.is_not(None))
            wet = not_(func.coalesce(_j.params["dry_run"].as_boolean(), False))
            last = connection.scalar(select(_j.judgements).where(taken, wet).order_by(_j.started.desc()).limit(1)) or 0
            return Policy(*policy), _log_length(connection, collection) - last

    # -- looking -------------------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Job:
        """One job. Raises JobNotFound."""
        with self._engine.reading() as connection:
            return _one(connection, _j.id == id, self.now(), id)

    def list(self, collection: int | None, states: Sequence[str] | None, limit: int, before: str | None) -> list[Job]:
        """Newest first. Raises JobNotFound for an unknown `before`."""
        query = _FULL.order_by(_j.seq.desc()).limit(limit)
        if collection is not None:
            query = query.where(_j.collection == collection)
        if states is not None:
            query = query.where(_j.state.in_(states))
        with self._engine.reading() as connection:
            if before is not None:
                seq = connection.scalar(select(_j.seq).where(_j.id == before))
                query = query.where(_j.seq < (seq if seq is not None else _missing(before)))
            return [_job(connection, row, self.now()) for row in connection.execute(query).all()]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many jobs there are, by (kind, state)."""
        with self._engine.reading() as connection:
            rows = connection.execute(select(_j.kind, _j.state, func.count()).group_by(_j.kind, _j.state))
            return {(kind, state): count for kind, state, count in rows}

    # -- working -------------------------------------------------------------------------------------------------------------

    def look(self, alive: datetime) -> tuple[bool, bool]:
        """Whether a job can be taken, and whether one runs whose worker gave no sign of life since `alive`. Cheap."""
        with self._engine.reading() as connection:
            row = connection.execute(select(exists(_takeable(self.now())), exists(select(_j.seq).where(_silent(alive))))).one()
            return bool(row[0]), bool(row[1])

    def claim(self, worker: str) -> Claim | None:
        """Take the oldest job that is due and whose collection has none running."""
        with self._engine.writing("jobs") as connection:
            moment = self.now()  # only now: the one that ran on this collection may have ended while this one waited to write
            row = connection.execute(_takeable(moment).order_by(_j.seq).limit(1)).one_or_none()
            if row is None:
                return None
            taken = {"state": RUNNING[0], "done": 0, "total": 0, "attempts": row.attempts + 1, "worker": worker}
            times = {"heartbeat": moment, "started": moment, "judgements": _log_length(connection, row.collection)}
            connection.execute(update(jobs).where(_j.seq == row.seq).values(**taken, **times))
            name = connection.scalar(select(_c.name).where(_c.id == row.collection))
            return Claim(row.id, cast(str, name), row.collection, row.kind, row.params, worker, row.attempts + 1)

    def asked(self, claim: Claim) -> bool | None:
        """Whether the job is to be cancelled; None: it is not this worker's any more, or gone with its collection."""
        with self._engine.reading() as connection:
            return connection.scalar(select(_j.cancel).where(_held(claim)))

    def beat(self, claim: Claim, state: JobState, done: int, total: int) -> bool | None:
        """A sign of life with the progress so far; returns as `asked`."""
        values = {"state": state, "done": done, "total": total, "heartbeat": self.now()}
        with self._engine.writing("jobs") as connection:
            cancel: bool | None = connection.scalar(update(jobs).where(_held(claim)).values(**values).returning(_j.cancel))
        return cancel

    def finish(self, claim: Claim, state: JobState, report: Report | None = None, error: tuple[str, str] | None = None) -> bool:
        """What came of it; False if it is not this worker's any more."""
        told = None if error is None else {"error": error[0], "detail": error[1]}
        values = {"state": state, "report": None if report is None else report.to_dict(), "error": told, "finished": self.now()}
        with self._engine.writing("jobs") as connection:
            return bool(connection.execute(update(jobs).where(_held(claim)).values(**values)).rowcount)

    def put_back(self, claim: Claim) -> bool:
        """Back into the queue, where any worker finds it, or cancelled if it was to be; False as `finish`."""
        with self._engine.writing("jobs") as connection:
            return _requeue(
                connection, _held(claim), self.now(), attempts=claim.attempt - 1
            )  # an orderly stop is nothing against the job

    def recover(self, alive: datetime, suspects: Mapping[str, datetime]) -> dict[str, datetime]:
        """Queue again the running jobs that gave no sign of life since `alive`, or fail those that were tried ATTEMPTS times.

        Only those that a look before this one, `suspects`, found at the same sign of life: a worker may be alive and merely have waited
        for a write lock that somebody else held, as this one did, and is given a moment to say so.

        Returns:
            The suspects for the next look, id -> last sign of life.
        """
        again: dict[str, datetime] = {}
        with self._engine.writing("jobs") as connection:
            for seq, id, heartbeat, attempts in connection.execute(
                select(_j.seq, _j.id, _j.heartbeat, _j.attempts).where(_silent(alive))
            ).all():
                if suspects.get(id) != heartbeat:
                    again[id] = heartbeat
                elif attempts < ATTEMPTS:
                    _requeue(connection, _j.seq == seq, self.now())
                else:
                    detail = f"{attempts} workers that ran it were killed or lost; it is not tried again"
                    end = {"state": "failed", "finished": self.now(), "error": {"error": "interrupted", "detail": detail}}
                    connection.execute(update(jobs).where(_j.seq == seq).values(**end))
        return again


_COLUMNS = (
    _j.id, _c.name.label("name"), _j.collection, _j.kind, _j.params, _j.state, _j.done, _j.total, _j.attempts, _j.joined, _j.report,
    _j.error, _j.created, _j.due, _j.started, _j.finished,
)  # fmt: skip
_FULL = select(*_COLUMNS).join_from(jobs, collections, _j.collection == _c.id)


def _takeable(moment: datetime):  # type: ignore[no-untyped-def]  # SQLAlchemy's type has no short name
    other = jobs.alias("other")
    busy = select(other.c.collection).where(
        other.c.state.in_(RUNNING)
    )  # not correlated: the history of a collection is not walked
    columns = (_j.seq, _j.id, _j.collection, _j.kind, _j.params, _j.attempts)
    return select(*columns).where(_j.state == "queued", _j.due <= moment, _j.collection.not_in(busy))


def _silent(alive: datetime) -> ColumnElement[bool]:
    return and_(_j.state.in_(RUNNING), or_(_j.heartbeat.is_(None), _j.heartbeat < alive))


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(_j.id == claim.id, _j.worker == claim.worker, _j.attempts == claim.attempt, _j.state.in_(RUNNING))


def _requeue(connection: Connection, which: ColumnElement[bool], moment: datetime, **values: Any) -> bool:
    cancelled = update(jobs).where(which, _j.cancel).values(state="cancelled", finished=moment)
    fresh = {"state": "queued", "worker": None, "heartbeat": None, "started": None, "judgements": None, "done": 0, "total": 0}
    queued = update(jobs).where(which, not_(_j.cancel)).values(**fresh, **values)
    return bool(connection.execute(cancelled).rowcount + connection.execute(queued).rowcount)


def _log_length(connection: Connection, collection: int) -> int:
    query = select(func.count()).select_from(judgements).where(judgements.c.collection == collection)
    return connection.scalar(query) or 0


def _one(connection: Connection, which: ColumnElement[bool], moment: datetime, id: str = "") -> Job:
    row = connection.execute(_FULL.where(which)).one_or_none()
    return _job(connection, row, moment) if row is not None else _missing(id)


def _missing(id: str) -> NoReturn:
    raise JobNotFound(f"there is no job {id!r}")


def _job(connection: Connection, row: Any, moment: datetime) -> Job:
    return Job(
        id=row.id,
        collection=row.name,
        kind=row.kind,
        params=row.params,
        state=row.state,
        done=row.done,
        total=row.total,
        eta=None if row.state in FINISHED else _eta(connection, row, moment),
        attempts=row.attempts,
        joined=row.joined,
        report=None if row.report is None else Report.from_dict(row.report),
        error=None if row.error is None else (row.error["error"], row.error["detail"]),
        created=aware(row.created),
        due=aware(row.due),
        started=aware(row.started),
        finished=aware(row.finished),
    )


def _eta(connection: Connection, row: Any, moment: datetime) -> float | None:
    """Seconds to the job's end if it goes as the last one of its kind on this collection went."""
    whole = and_(_j.state.in_(("live", "kept")), _j.report["decision"].as_string() != "insufficient")
    alike = and_(_j.collection == row.collection, _j.kind == row.kind, whole)
    last = connection.scalar(select(_j.report).where(alike, _j.id != row.id).order_by(_j.finished.desc()).limit(1))
    if last is None:
        return _at_this_pace(row, moment)
    seconds = [float(last["seconds"].get(stage, 0.0)) for stage in _STAGES.values()]
    if row.state == "queued":
        due: datetime = aware(row.due)
        return max(0.0, (due - moment).total_seconds()) + sum(seconds)
    place = RUNNING.index(row.state)
    if row.total:
        left: float = seconds[place] * (1 - row.done / row.total)
    else:
        elapsed = (moment - aware(row.started)).total_seconds() - sum(seconds[:place])
        left = seconds[place] - max(0.0, elapsed)
    return max(0.0, left) + sum(seconds[place + 1 :])


def _at_this_pace(row: Any, moment: datetime) -> float | None:
    """Seconds to the end of a training some of whose steps are done, which is most of a fine-tuning; None where nothing can be told."""
    if row.kind != "finetune" or row.state != "adapting" or not row.done:
        return None
    elapsed: float = (moment - aware(row.started)).total_seconds()
    return max(0.0, elapsed) * float(row.total - row.done) / float(row.done)
