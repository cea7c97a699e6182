"""The catalogue on PostgreSQL: what SQLite has no counterpart of. What both have in common is tested where it belongs, on both."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import make_url

import vecmeta as vm
from tests.conftest import Clusters, WordCounter
from tests.postgres import QUICK, Postgres, running
from tests.service_kit import until
from vecmeta import places
from vecmeta.catalogue import items as items_module
from vecmeta.catalogue import postgres as module
from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.catalogue.migrations import MIGRATIONS
from vecmeta.worker import Worker

SMALL = Clusters(concepts=12, members=12, dim=24, seed=5)


@pytest.fixture
def catalogue(postgres_url: str) -> Iterator[Catalogue]:
    opened = Catalogue(make_url(postgres_url))
    yield opened
    opened.close()


def filled(db: vm.Database, name: str) -> vm.Collection:
    """A collection with enough judgements for an adaptation."""
    collection = db.create(name, encoder="vectors", dim=SMALL.dim)
    collection.add_vectors(SMALL.ids, SMALL.x)
    collection.feedback(SMALL.judgements(range(4), 4))
    return collection


# -- URLs --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:secret@host/db", "mysql:// is not a database that vecmeta knows"),
        ("sqlite:///file.db", "sqlite:// is not a database"),
        ("postgresql+psycopg2://me:secret@host/db", r"right would be a folder, or postgresql\+psycopg://"),
        ("postgresql+psycopg://me:secret@host:port/db", "no URL of a database"),
        ("://", "no URL of a database"),
    ],
)
def test_urls_that_are_none(url: str, said: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=said) as caught:
        vm.open(url)
    assert "secret" not in str(caught.value)


def test_the_usual_short_form_is_understood() -> None:
    for short in ("postgresql://me@host/db", "postgres://me@host/db"):
        assert str(places.parsed(short)) == "postgresql+psycopg://me@host/db"


def test_a_password_is_never_shown(postgres_url: str, postgres: Postgres) -> None:
    with vm.open(postgres_url, device="cpu") as db:
        assert postgres.password in db.url
        assert postgres.password not in repr(db)
        assert "tests:***@" in repr(db)
    wrong = postgres_url.replace(postgres.password, "wrongone")
    with pytest.raises(vm.StorageUnavailable, match="password authentication failed") as caught:
        vm.open(wrong)
    assert "wrongone" not in str(caught.value)
    with pytest.raises(vm.StorageUnavailable, match='database "missing" does not exist'):
        vm.open(postgres.url("missing"))


def test_index_files_lie_in_the_users_cache_by_the_databases_identity(
    postgres_url: str, tmp_path: Path, postgres: Postgres, catalogue: Catalogue
) -> None:
    with vm.open(postgres_url, device="cpu") as db:
        assert db.folder == tmp_path / "cache" / "vecmeta" / catalogue.identity
        first = db.folder
    with vm.open(postgres_url, device="cpu", files=tmp_path / "there") as db:
        assert db.folder == tmp_path / "there"
    with postgres.lent() as other, vm.open(other, device="cpu") as db:
        assert db.folder not in (first, tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(vm.StorageReadOnly):
        vm.open(postgres_url, files=tmp_path / "file")


def test_databases_that_are_something_else(postgres: Postgres) -> None:
    latin = postgres.new("TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc")
    with pytest.raises(vm.InvalidConfig, match="LATIN1; make one with ENCODING 'UTF8'"):
        vm.open(latin)
    url = postgres.new()
    name = url.rpartition("/")[2]
    postgres.tell("CREATE TABLE orders (id integer)", name)
    vm.open(url).close()  # other programs' tables may lie beside ours
    postgres.tell("UPDATE migrations SET number = 99 WHERE number = 1", name)
    with pytest.raises(vm.StorageDamaged, match="made by a newer version"):
        vm.open(url)
    postgres.tell("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    with pytest.raises(vm.StorageReadOnly, match="lacks the rights"):
        vm.open(url.replace(f"tests:{postgres.password}", "reader:reader"))
    url = postgres.new()
    postgres.tell("CREATE TABLE items (price integer)", url.rpartition("/")[2])
    with pytest.raises(vm.StorageDamaged, match="another program's database"):
        vm.open(url)


# -- one database, many processes --------------------------------------------------------------------------------------------------


def test_many_open_an_empty_database_at_once(postgres: Postgres) -> None:
    url = postgres.new()
    errors: list[BaseException] = []

    def opening() -> None:
        try:
            Catalogue(make_url(url)).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=opening) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert postgres.tell("SELECT number FROM migrations ORDER BY number", url.rpartition("/")[2]) == [
        (n + 1,) for n in range(len(MIGRATIONS))
    ]


def test_a_writer_holds_up_nobody_but_the_same_kind_on_the_same_collection(catalogue: Catalogue) -> None:
    rows = [catalogue.create(name, "vectors", "vectors", 1) for name in ("a", "b")]
    engine = catalogue._engine
    done: list[str] = []

    def writing(room: str, collection: int, word: str) -> threading.Thread:
        def write() -> None:
            with engine.writing(room, collection):  # type: ignore[arg-type]
                done.append(word)

        thread = threading.Thread(target=write)
        thread.start()
        return thread

    with engine.writing("items", rows[0].id) as connection:
        catalogue.items(rows[0])._next_revision(connection)
        others = [writing("items", rows[1].id, "b"), writing("log", rows[0].id, "log"), writing("jobs", 0, "jobs")]
        for thread in others:
            thread.join(20)
        same = writing("items", rows[0].id, "a")
        assert catalogue.versions(rows[0]).state().revision == 0  # and readers see what was
        same.join(0.3)
        assert same.is_alive()
        assert sorted(done) == ["b", "jobs", "log"]
    same.join(20)
    assert done[-1] == "a"
    assert catalogue.versions(rows[0]).state().revision == 1


def test_writers_of_one_collection_take_turns(postgres_url: str) -> None:
    with vm.open(postgres_url, device="cpu") as one, vm.open(postgres_url, device="cpu") as two:
        collections = [one.create("c", encoder="vectors", dim=3), two.collection("c")]
        errors: list[BaseException] = []

        def write(c: vm.Collection, who: int) -> None:
            rng = np.random.default_rng(who)
            try:
                for step in range(15):
                    c.add_vectors([f"w{who}-{step}", f"shared{step % 4}"], rng.normal(size=(2, 3)))
                    if step % 5 == 4:
                        c.delete([f"w{who}-{step - 1}"])
                    assert f"w{who}-{step}" in {hit.id for hit in c.search([1, 0, 0], 1000)}
                    c.feedback([vm.Judgement(f"w{who}-{step}", concept="same", user=str(who))])
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(collections[who % 2], who)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert collections[0].count() == 6 * 12 + 4
        assert len(collections[1].judgements()) == 6 * 15
        keys = [{hit.id: hit.score for hit in c.search([1, 0, 0], 1000)} for c in collections]
        assert keys[0] == pytest.approx(keys[1])
        assert len(keys[0]) == collections[0].count()


def test_a_collection_has_one_adaptation_at_a_time_however_many_workers_there_are(postgres_url: str, tmp_path: Path) -> None:
    names = ["a", "b"]
    with vm.open(postgres_url, device="cpu") as db:
        for name in names:
            filled(db, name)
        ids = [db.jobs.submit(name, params={"seed": seed, "dry_run": True}).id for seed in range(2) for name in names]
        assert db.jobs.submit("a", params={"seed": 1, "dry_run": True}).joined == 1
        stop = threading.Event()
        databases = [vm.open(postgres_url, device="cpu") for _ in range(3)]
        workers = [threading.Thread(target=Worker(one).run, args=(stop,)) for one in databases]
        for worker in workers:
            worker.start()
        jobs = [db.jobs.wait(id, 120) for id in ids]
        stop.set()
        for worker in workers:
            worker.join(30)
        for one in databases:
            one.close()
    assert [(job.state, job.attempts, job.error) for job in jobs] == [("kept", 1, None)] * len(ids)
    for name in names:
        times = sorted((job.started, job.finished) for job in jobs if job.collection == name)
        assert all(before[1] <= after[0] for before, after in pairwise(times))  # type: ignore[operator]


@pytest.mark.quality
def test_two_processes_that_adapt_at_once_agree(postgres_url: str) -> None:
    with vm.open(postgres_url, device="cpu") as db:
        filled(db, "c")
    code = """
import sys, vecmeta as vm
with vm.open(sys.argv[1], device="cpu") as db:
    print(db.collection("c").adapt().version)
"""
    command = [sys.executable, "-c", code, postgres_url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = []
    for worker in workers:
        with worker:
            said.append((worker.communicate(timeout=120)[0].split(), worker.returncode))
    assert said == [(["1"], 0)] * 2
    with vm.open(postgres_url, device="cpu") as db:
        assert [v.live for v in db.collection("c").versions()] == [False, True]


# -- reading in pieces -------------------------------------------------------------------------------------------------------------


def test_base_vectors_come_from_a_cursor_of_the_server(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "_PAGE", 10)
    row = catalogue.create("c", "vectors", "vectors", SMALL.dim)
    store = catalogue.items(row)
    store.write(items_module.Row(id, x.tobytes(), "{}", None, None, None) for id, x in zip(SMALL.ids, SMALL.x, strict=True))
    with store.changes(0) as changes:
        pages = changes.pages
        first = next(pages)
        # What is written now, by another connection, is not in it.
        catalogue.items(row).delete(SMALL.ids[:50])
        rest = list(pages)
    assert [len(page.keys) for page in (first, *rest)] == [10] * 14 + [4]
    assert np.array_equal(np.concatenate([page.vectors for page in (first, *rest)]), SMALL.x)
    with store.changes(changes.revision) as later:
        assert (len(later.removed), later.changed()) == (50, 0)


# -- a server that goes and comes --------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_and_comes_back(tmp_path: Path) -> None:
    with running(**QUICK) as server, vm.open(server.url(), device="cpu", files=tmp_path) as db:
        c = filled(db, "c")
        job = db.jobs.submit("c", params={"dry_run": True})
        assert c.search(SMALL.x[0], 1)[0].id == SMALL.ids[0]
        server.stop()
        for call in (lambda: c.search(SMALL.x[0], 1), lambda: c.delete(["a"]), c.count, lambda: db.keys.create("k")):
            with pytest.raises(vm.StorageUnavailable):
                call()
        with pytest.raises(vm.StorageUnavailable, match="cannot be reached"):
            vm.open(server.url())
        stop = threading.Event()
        worker = threading.Thread(target=Worker(db).run, args=(stop,))
        worker.start()
        time.sleep(0.3)
        assert worker.is_alive()  # it waits
        server.start()
        try:
            # Every pooled connection is dead; nobody notices.
            assert c.search(SMALL.x[0], 1)[0].id == SMALL.ids[0]
            assert c.delete([SMALL.ids[0]]) == 1
            assert c.search(SMALL.x[0], 1)[0].id != SMALL.ids[0]
            assert db.jobs.wait(job.id, 60).state == "kept"
        finally:
            stop.set()
            worker.join(30)


def test_more_callers_than_connections_wait_for_each_other(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 2)
    with vm.open(postgres_url, device="cpu") as db:
        c = db.create("toys", encoder=WordCounter())
        c.add([vm.Item("a", "red cat")])
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(c.search("cat", 1)[0].id)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["a"] * 12


def test_who_shows_a_key_waits_for_nobody(catalogue: Catalogue) -> None:
    keys = catalogue.keys()
    keys.create("0123456789abcdef", "k", b"x" * 32, ["read"], None, None)
    with catalogue._engine.writing("keys") as connection:
        connection.exec_driver_sql("UPDATE keys SET name = 'held'")
        begin = time.monotonic()
        keys.used("0123456789abcdef")
        assert time.monotonic() - begin < 20  # 60 is how long others would wait
        assert keys.get("0123456789abcdef")[0].used is None
    keys.used("0123456789abcdef")
    assert keys.get("0123456789abcdef")[0].used is not None


def test_the_clock_is_the_servers(catalogue: Catalogue) -> None:
    before = catalogue._engine.now()
    with catalogue._engine.reading() as connection:
        told = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    after = catalogue._engine.now()
    assert (before - told).total_seconds() < 1
    assert (told - after).total_seconds() < 1
    until(lambda: catalogue._engine.now() > after)
