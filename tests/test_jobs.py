"""Jobs: asked for once, run once, one of a collection at a time; followed, cancelled, put back, and taken over from the dead."""

from __future__ import annotations

import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.catalogue import sqlite
from vecmeta.catalogue.jobs import ATTEMPTS, RUNNING, Claim, JobStore
from vecmeta.catalogue.tables import jobs
from vecmeta.cli import program
from vecmeta.jobs import MAX_DELAY
from vecmeta.worker import Worker

DRY = {"dry_run": True}


def small(db: vm.Database, name: str, seed: int = 5) -> vm.Collection:
    """144 own vectors with four judgements for each of four concepts: an adaptation takes a few tenths of a second."""
    data = Clusters(concepts=12, members=12, dim=24, seed=seed)
    c = db.create(name, encoder="vectors", dim=data.dim)
    c.add_vectors(data.ids, data.x)
    c.feedback(data.judgements(range(4), 4))
    return c


@pytest.fixture
def c(db: vm.Database) -> vm.Collection:
    return small(db, "c")


def run_due(db: vm.Database) -> list[vm.Job]:
    """Run what is due, in this thread; returns the jobs as they ended."""
    ended: list[vm.Job] = []
    Worker(db).run(threading.Event(), once=True, told=ended.append)
    return ended


@contextmanager
def working(db: vm.Database, grace: float = 10.0, lease: float = 15.0) -> Iterator[threading.Event]:
    """A worker in a thread; yields what stops it."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: Worker(db, lease=lease).run(stop, grace=grace))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def held(c: vm.Collection) -> Iterator[None]:
    """Another adaptation of this process is under way, so a job on the collection waits in its first stage."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(stage: str, done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(30)

    def adapt() -> None:
        with suppress(vm.CollectionNotFound):
            c.adapt(dry_run=True, progress=wait)

    thread = threading.Thread(target=adapt)
    thread.start()
    assert begun.wait(30)
    try:
        yield
    finally:
        go_on.set()
        thread.join(30)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def reaches(db: vm.Database, id: str, *states: str) -> None:
    until(lambda: db.jobs.get(id).state in states)


def command(db: vm.Database, *options: str) -> list[str]:
    return [sys.executable, "-m", "vecmeta", "worker", "--data", db.url, "--device", "cpu", *options]


def asked(db: vm.Database, sql: str, *values: str) -> list[Any]:
    """What SQL says past the library."""
    with sqlite3.connect(db.folder / "vecmeta.db") as connection:
        rows = connection.execute(sql, values).fetchall()
    connection.close()
    return rows


LOG_LENGTH = "SELECT judgements FROM jobs WHERE id = ?"


def given(db: vm.Database, seed: int, shots: int = 1) -> vm.Job | None:
    """New judgements on the collection "c", told to its policy."""
    data = Clusters(concepts=12, members=12, dim=24, seed=5)
    said = [vm.Judgement(data.ids[seed * 7 + n], concept="new") for n in range(shots)]
    db.collection("c").feedback(said)
    return db.jobs.feedback_given("c")


# -- asking


def test_a_job_runs_and_goes_live(db: vm.Database, c: vm.Collection) -> None:
    before = datetime.now(UTC)
    job = db.jobs.submit("c")
    assert (job.collection, job.kind, job.state, job.attempts, job.joined) == ("c", "adapt", "queued", 0, 0)
    assert (job.report, job.error, job.eta, job.started, job.finished) == (None, None, None, None, None)
    assert len(job.id) == 32
    assert int(job.id, 16)
    assert before <= job.created == job.due <= datetime.now(UTC)
    (ended,) = run_due(db)
    assert ended == db.jobs.get(job.id)
    assert (ended.state, ended.attempts, ended.error, ended.eta) == ("live", 1, None, None)
    assert ended.report is not None
    assert ended.report.decision == "promoted"
    assert ended.report.version == c.live == 1
    assert ended.report == c.report(1)
    assert ended.started is not None
    assert ended.finished is not None
    assert ended.due <= ended.started <= ended.finished
    assert asked(db, LOG_LENGTH, job.id) == [(16,)]


@pytest.mark.parametrize("params", [DRY, {"activate": False}])
def test_what_does_not_go_live_is_kept(db: vm.Database, c: vm.Collection, params: dict[str, Any]) -> None:
    db.jobs.submit("c", params=params)
    (ended,) = run_due(db)
    assert ended.state == "kept"
    assert ended.report is not None
    assert ended.report.decision in ("promoted", "kept")
    assert c.live == 0
    assert len(c.versions()) == (1 if params == DRY else 2)


def test_too_few_judgements_are_kept_and_need_no_encoder(db: vm.Database, toys: vm.Collection) -> None:
    toys.feedback([vm.Judgement("a", concept="red")])
    job = db.jobs.submit("toys")
    with vm.open(db.url, device="cpu") as other:  # which knows nothing of the encoder object
        run_due(other)
    ended = db.jobs.get(job.id)
    assert ended.state == "kept"
    assert ended.report is not None
    assert ended.report.decision == "insufficient"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "paint"}, "'paint'"),
        ({"params": {"strenght": 1}}, "'strenght'; known: method"),
        ({"params": {"method": "mamml"}}, "'mamml'; known: maml"),
        ({"params": {"strength": 0}}, "up to 1, not 0"),
        ({"params": {"strength": "much"}}, "not 'much'"),
        ({"params": {"seed": -1}}, "not -1"),
        ({"params": {"seed": True}}, "not True"),
        ({"params": {"dry_run": 1}}, "dry_run is true or false, not 1"),
        ({"params": {"activate": None}}, "activate is true or false, not None"),
        ({"params": {"start": 3}}, "path of a file, not 3"),
        ({"params": [1]}, "not \\[1\\]"),
        ({"delay": -1}, "not -1"),
        ({"delay": MAX_DELAY + 1}, "2,592,000, not"),
        ({"delay": float("nan")}, "not nan"),
    ],
)
def test_a_bad_request_is_refused_at_once(db: vm.Database, c: vm.Collection, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=said):
        db.jobs.submit("c", **arguments)
    assert db.jobs.counts() == {}


def test_what_is_not_there_is_named(db: vm.Database) -> None:
    with pytest.raises(vm.CollectionNotFound, match="'nope'"):
        db.jobs.submit("nope")
    with pytest.raises(vm.CollectionNotFound, match="'nope'"):
        db.jobs.feedback_given("nope")
    for call in (db.jobs.get, db.jobs.cancel, db.jobs.wait, lambda id: db.jobs.list(before=id)):
        with pytest.raises(vm.JobNotFound, match="'0123abcd'"):
            call("0123abcd")
    with pytest.raises(vm.InvalidConfig, match="'lively' of jobs; known: queued"):
        db.jobs.list(states=["lively"])  # type: ignore[list-item]


def test_the_same_wish_joins_what_is_queued(db: vm.Database, c: vm.Collection) -> None:
    small(db, "other")
    first = db.jobs.submit("c", params={"seed": 1})
    assert db.jobs.submit("c", params={"method": "maml", "seed": 1, "start": None}).id == first.id  # what it means is the same
    assert db.jobs.submit("c", params={"seed": 1}).joined == 2
    assert db.jobs.submit("c", params={"seed": 2}).id != first.id
    assert db.jobs.submit("other", params={"seed": 1}).id != first.id
    run_due(db)
    assert db.jobs.submit("c", params={"seed": 1}).id != first.id  # that one is over
    counts = db.jobs.counts()
    assert counts.pop(("adapt", "queued")) == 1
    assert sum(counts.values()) == 3


def test_a_delay_is_waited_for_and_can_only_grow_until_somebody_is_in_a_hurry(db: vm.Database, c: vm.Collection) -> None:
    first = db.jobs.submit("c", params=DRY, delay=100)
    assert first.due - first.created == timedelta(seconds=100)
    assert run_due(db) == []
    assert db.jobs.submit("c", params=DRY, delay=50).due == first.due
    assert db.jobs.submit("c", params=DRY, delay=200).due > first.due + timedelta(seconds=99)
    hurried = db.jobs.submit("c", params=DRY)
    assert hurried.due <= datetime.now(UTC)
    assert db.jobs.submit("c", params=DRY, delay=100).due == hurried.due  # and who can wait does not hold it up
    (ended,) = run_due(db)
    assert (ended.id, ended.joined) == (first.id, 4)


def test_lists_are_newest_first(db: vm.Database, c: vm.Collection) -> None:
    small(db, "other")
    ids = [db.jobs.submit(name, params={"seed": seed}).id for seed in range(3) for name in ("c", "other")]
    db.jobs.cancel(ids[0])
    assert [job.id for job in db.jobs.list()] == ids[::-1]
    assert [job.id for job in db.jobs.list("c")] == ids[-2::-2]
    assert [job.id for job in db.jobs.list(limit=2, before=ids[3])] == ids[2:0:-1]
    assert [job.id for job in db.jobs.list("c", states=["cancelled", "live"])] == ids[:1]
    assert [job.id for job in db.jobs.list("other", states=["queued"], limit=1)] == ids[-1:]


def test_waiting_ends_with_the_job_or_the_time(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c", params=DRY)
    begin = time.monotonic()
    assert db.jobs.wait(job.id, 0.2).state == "queued"
    assert 0.2 <= time.monotonic() - begin < 2
    with working(db):
        assert db.jobs.wait(job.id, 30).state == "kept"


# -- what becomes of it


def test_every_state_is_told_in_its_order(db: vm.Database, c: vm.Collection) -> None:
    asked(db, "CREATE TABLE told (state, done, total)")
    row = "INSERT INTO told VALUES (new.state, new.done, new.total)"
    asked(db, f"CREATE TRIGGER telling AFTER UPDATE OF state ON jobs BEGIN {row}; END")
    db.jobs.submit("c")
    run_due(db)
    told = asked(db, "SELECT state, done, total FROM told ORDER BY rowid")
    assert [state for state, _ in groupby(state for state, _, _ in told)] == [*RUNNING, "live"]
    # Progress is told in items; the count of stages that an adaptation begins each stage with is not progress within it.
    assert {total for _, _, total in told} <= {0, 144}


def test_the_last_job_tells_how_long_the_next_one_takes(db: vm.Database, c: vm.Collection) -> None:
    db.jobs.submit("c")
    (first,) = run_due(db)
    assert first.report is not None
    took = first.report.seconds
    stages = took["reading"] + took["adapting"] + took["evaluating"] + took["building"] + took["swapping"]
    second = db.jobs.submit("c", params={"seed": 1})
    assert second.eta == pytest.approx(stages)
    claim = db.jobs.store.claim("hand")
    assert claim is not None
    assert db.jobs.store.beat(claim, "building", 1, 4) is False
    job = db.jobs.get(second.id)
    assert (job.state, job.done, job.total) == ("building", 1, 4)
    assert job.eta == pytest.approx(0.75 * took["building"] + took["swapping"])
    assert db.jobs.store.beat(claim, "adapting", 0, 0) is False
    eta = db.jobs.get(second.id).eta
    assert eta is not None
    assert stages - took["reading"] - took["adapting"] <= eta + 1e-9 <= stages - took["reading"] + 2e-9


def test_a_wrong_setting_that_only_shows_at_work_fails_the_job(db: vm.Database, c: vm.Collection, tmp_path: Path) -> None:
    db.jobs.submit("c", params={"start": tmp_path / "missing.safetensors"})
    (ended,) = run_due(db)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error[0] == "invalid_config"
    assert "missing.safetensors" in ended.error[1]


def test_a_bug_fails_the_job_and_not_the_worker(
    db: vm.Database, c: vm.Collection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: vm.Collection, **params: Any) -> vm.Report:
        if params.get("seed"):
            raise ZeroDivisionError("secret things")
        return vm.Report("insufficient", None, "fine")

    monkeypatch.setattr(vm.Collection, "adapt", broken)
    db.jobs.submit("c", params={"seed": 1})
    db.jobs.submit("c")
    first, second = run_due(db)
    assert (first.state, first.error) == ("failed", ("internal", "ZeroDivisionError"))
    assert second.state == "kept"
    assert "secret things" in caplog.text


def test_a_dropped_collection_takes_its_jobs_along(db: vm.Database, c: vm.Collection, caplog: pytest.LogCaptureFixture) -> None:
    small(db, "other")
    with working(db):
        with held(c):
            gone = db.jobs.submit("c")
            reaches(db, gone.id, "encoding")
            db.drop("c")
        after = db.jobs.submit("other", params=DRY)
        assert db.jobs.wait(after.id, 30).state == "kept"
    with pytest.raises(vm.JobNotFound):
        db.jobs.get(gone.id)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# -- cancelling and stopping


def test_what_is_queued_is_cancelled_at_once(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c")
    cancelled = db.jobs.cancel(job.id)
    assert cancelled.state == "cancelled"
    assert cancelled.finished is not None
    assert db.jobs.cancel(job.id) == cancelled
    assert run_due(db) == []


def test_what_runs_is_cancelled_soon_and_leaves_nothing(db: vm.Database, c: vm.Collection) -> None:
    with working(db):
        with held(c):
            job = db.jobs.submit("c")
            reaches(db, job.id, "encoding")
            assert db.jobs.cancel(job.id).state == "encoding"
        assert db.jobs.wait(job.id, 30).state == "cancelled"
    assert c.live == 0
    assert len(c.versions()) == 1
    assert db.jobs.get(job.id).report is None


def test_what_is_finished_stays_as_it_is(db: vm.Database, c: vm.Collection) -> None:
    db.jobs.submit("c")
    (ended,) = run_due(db)
    assert db.jobs.cancel(ended.id) == ended


def test_a_stopped_worker_puts_its_job_back(db: vm.Database, c: vm.Collection) -> None:
    with working(db, grace=0) as stop, held(c):
        job = db.jobs.submit("c")
        reaches(db, job.id, "encoding")
        stop.set()
    back = db.jobs.get(job.id)
    assert (back.state, back.attempts, back.done, back.total, back.report) == ("queued", 0, 0, 0, None)
    assert c.live == 0
    (ended,) = run_due(db)
    assert (ended.id, ended.state, ended.attempts) == (job.id, "live", 1)


def test_a_stopped_worker_that_cannot_end_its_job_puts_it_back(
    db: vm.Database, c: vm.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def adapt(self: vm.Collection, **options: Any) -> Any:  # long, and without a look at what is wanted: an import, say
        begun.set()
        assert go_on.wait(30)
        options["progress"]("swapping", 0, 1)

    job = db.jobs.submit("c")
    with monkeypatch.context() as patch, working(db, grace=0) as stop:
        patch.setattr(vm.Collection, "adapt", adapt)
        assert begun.wait(30)
        stop.set()
        reaches(db, job.id, "queued")
        go_on.set()
    assert (db.jobs.get(job.id).state, db.jobs.get(job.id).attempts, c.live) == ("queued", 0, 0)
    (ended,) = run_due(db)
    assert (ended.id, ended.state, ended.attempts) == (job.id, "live", 1)


def test_a_stopped_worker_with_time_left_ends_its_job(db: vm.Database, c: vm.Collection) -> None:
    with working(db, grace=30) as stop, held(c):
        first, second = db.jobs.submit("c"), db.jobs.submit("c", params={"seed": 1})
        reaches(db, first.id, "encoding")
        stop.set()
    assert [db.jobs.get(job.id).state for job in (first, second)] == ["live", "queued"]


# -- several workers


@pytest.mark.parametrize("other", ["nothing", "a job", "the end"])
def test_a_new_version_is_left_to_who_answers_searches_for_a_while(
    db: vm.Database, c: vm.Collection, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked: list[float] = []
    monkeypatch.setattr("vecmeta.worker.LET_BE", 0.5)
    monkeypatch.setattr(vm.Collection, "settle", lambda *_: linked.append(time.monotonic()))
    stop = threading.Event()
    if other == "the end":
        stop.set()
    elif other == "a job":
        db.jobs.submit("c", params=DRY)
    begin = time.monotonic()
    Worker(db)._tend("c", stop)
    assert [at - begin >= 0.5 for at in linked] == ([True] if other == "nothing" else [])


def test_two_processes_share_the_work(db: vm.Database) -> None:
    for name in ("a", "b", "c"):
        small(db, name)
    ids = [db.jobs.submit(name, params={"seed": seed}).id for name in ("a", "b", "c") for seed in range(2)]
    call = command(db, "--json")
    workers = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    done: list[list[dict[str, Any]]] = []
    for id in ids:
        db.jobs.wait(id, 60)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        with worker:
            out = worker.communicate(timeout=30)[0]
        assert worker.returncode == 0  # it was asked to end, and did
        done.append([json.loads(line) for line in out.splitlines()])
    assert all(done), "one of them got nothing to do"
    assert sorted(job["id"] for part in done for job in part) == sorted(ids)
    jobs = [db.jobs.get(id) for id in ids]
    assert {(job.state, job.attempts) for job in jobs} <= {("live", 1), ("kept", 1)}
    spans = [(job.collection, job.started, job.finished) for job in jobs]
    overlaps = []
    for place, (name, begin, end) in enumerate(spans):
        for other, later_begin, later_end in spans[place + 1 :]:
            assert begin is not None
            assert end is not None
            assert later_begin is not None
            assert later_end is not None
            if begin < later_end and later_begin < end:
                overlaps.append((name, other))
    assert overlaps  # the two did work at the same time,
    assert [pair for pair in overlaps if pair[0] == pair[1]] == []  # but never on one collection


def test_a_job_starts_when_it_is_taken_not_when_its_worker_began_to_wait_for_the_lock(db: vm.Database, c: vm.Collection) -> None:
    first, second = (db.jobs.submit("c", params={"seed": seed}).id for seed in range(2))
    store = db.jobs.store
    claim = store.claim("one")
    assert claim is not None
    assert claim.id == first
    claims: list[Claim | None] = []
    another = threading.Thread(target=lambda: claims.append(store.claim("two")))
    with store._engine.writing("jobs") as connection:
        another.start()
        another.join(0.2)
        assert another.is_alive()  # it waits for the lock,
        ended = store.now()  # while the first job ends
        connection.execute(update(jobs).where(jobs.c.id == claim.id).values(state="kept", finished=ended))
    another.join(30)
    assert [taken.id for taken in claims if taken is not None] == [second]
    started = db.jobs.get(second).started
    assert started is not None
    assert started >= ended


def test_a_killed_worker_is_replaced(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c")
    with subprocess.Popen(command(db), stderr=subprocess.DEVNULL) as worker:
        reaches(db, job.id, "encoding")
        worker.kill()
    assert db.jobs.get(job.id).state == "encoding"
    with working(db, lease=0.5):
        ended = db.jobs.wait(job.id, 60)
    assert (ended.state, ended.attempts, c.live) == ("live", 2, 1)


def test_a_job_that_kills_its_workers_is_given_up(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c")
    later = datetime.now(UTC) + timedelta(hours=1)
    for attempt in range(1, ATTEMPTS + 1):
        claim = db.jobs.store.claim(f"worker {attempt}")
        assert claim is not None
        assert claim.attempt == attempt
        assert db.jobs.store.claim("another") is None
        suspects = db.jobs.store.recover(later, {})
        assert list(suspects) == [job.id]
        assert db.jobs.get(job.id).state == "encoding"  # at the first look it may merely be slow
        assert db.jobs.store.recover(later, suspects) == {}
    ended = db.jobs.get(job.id)
    assert (ended.state, ended.attempts) == ("failed", ATTEMPTS)
    assert ended.error is not None
    assert ended.error[0] == "interrupted"
    assert "3 workers" in ended.error[1]


def test_a_sign_of_life_between_two_looks_saves_a_worker(db: vm.Database, c: vm.Collection) -> None:
    db.jobs.submit("c")
    store, later = db.jobs.store, datetime.now(UTC) + timedelta(hours=1)
    claim = store.claim("slow")
    assert claim is not None
    suspects = store.recover(later, {})
    assert store.beat(claim, "adapting", 0, 0) is False
    assert list(store.recover(later, suspects)) == [claim.id]
    assert store.finish(claim, "kept")


def test_who_lost_a_job_can_change_nothing(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c")
    store, later = db.jobs.store, datetime.now(UTC) + timedelta(hours=1)
    lost = store.claim("one")
    assert lost is not None
    store.recover(later, store.recover(later, {}))
    held = store.claim("one")  # the same worker again, after a sleep
    assert held is not None
    assert store.asked(lost) is None
    assert store.beat(lost, "ready", 0, 0) is None
    assert not store.finish(lost, "live")
    assert not store.put_back(lost)
    assert store.asked(held) is False
    assert db.jobs.get(job.id).state == "encoding"


def test_a_cancelled_job_of_a_dead_worker_is_not_done_again(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c")
    store, later = db.jobs.store, datetime.now(UTC) + timedelta(hours=1)
    assert isinstance(store.claim("one"), Claim)
    db.jobs.cancel(job.id)
    store.recover(later, store.recover(later, {}))
    assert db.jobs.get(job.id).state == "cancelled"


def test_a_locked_database_costs_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    with vm.open(tmp_path / "db", device="cpu") as db:
        small(db, "c")
        with working(db, lease=0.5):
            with held(db.collection("c")):
                job = db.jobs.submit("c", params=DRY)
                reaches(db, job.id, "encoding")
                other = sqlite3.connect(db.folder / "vecmeta.db", timeout=10, isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
            until(lambda: "is locked by another process" in caplog.text)
            other.execute("ROLLBACK")
            other.close()
            ended = db.jobs.wait(job.id, 30)
    assert (ended.state, ended.error) == ("kept", None)


# -- the policy


def test_enough_judgements_start_an_adaptation(db: vm.Database, c: vm.Collection) -> None:
    assert given(db, 1) is None  # no policy
    c.set_policy(vm.Policy(auto_adapt=18, debounce=0))
    assert db.jobs.feedback_given("c") is None  # 17
    job = given(db, 2)
    assert job is not None
    assert (job.kind, job.params, job.state) == ("adapt", {}, "queued")
    assert [one.id for one in run_due(db)] == [job.id]
    assert asked(db, LOG_LENGTH, job.id) == [(18,)]
    c.set_policy(vm.Policy(auto_adapt=2, debounce=0))
    assert given(db, 3) is None  # one since then
    db.jobs.submit("c", params=DRY)
    run_due(db)  # which taught nothing
    again = given(db, 4)
    assert again is not None
    assert again.id != job.id
    c.set_policy(vm.Policy())
    assert given(db, 5) is None


def test_further_feedback_puts_it_off_but_not_for_ever(
    db: vm.Database, c: vm.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = db.jobs.store.now()
    monkeypatch.setattr(JobStore, "now", lambda _: moment)
    c.set_policy(vm.Policy(auto_adapt=1, debounce=0.1))
    first = given(db, 1)
    assert first is not None
    assert first.created == moment
    for n in range(1, 25):
        moment += timedelta(seconds=0.04)
        told = db.jobs.feedback_given("c")
        assert told is not None
        assert (told.id, told.joined) == (first.id, n)
        assert told.due == min(moment + timedelta(seconds=0.1), first.created + timedelta(seconds=1))


# -- the command


def test_the_command_tells_each_job(db: vm.Database, c: vm.Collection) -> None:
    job = db.jobs.submit("c")
    done = CliRunner().invoke(program, ["worker", "--data", db.url, "--device", "cpu", "--once"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"{job.id} adapt c: live, version 1: " in done.stderr
    second = db.jobs.submit("c", params=DRY)
    done = CliRunner().invoke(program, ["worker", "--data", db.url, "--device", "cpu", "--once", "--json"])
    told = json.loads(done.stdout)
    assert (told["id"], told["state"], told["params"], told["error"]) == (second.id, "kept", DRY, None)
    assert told["report"]["dry_run"] is True
    assert datetime.fromisoformat(told["finished"]).tzinfo is not None
