"""Milvus as the place of indexes: options, filters as expressions, who builds what when, and what happens when it is away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.index.milvus import index as index_module
from vecmeta.index.milvus import link as link_module
from vecmeta.index.milvus import table
from vecmeta.index.milvus.facts import expression, facts_of
from vecmeta.index.milvus.index import MilvusIndex
from vecmeta.index.milvus.options import masked, parse
from vecmeta.index.milvus.table import Table
from vecmeta.shelves import pipeline
from vecmeta.shelves.milvus import MilvusShelf
from vecmeta.where import parse as parsed

# -- options -----------------------------------------------------------------------------------------------------------------


def test_options_are_read_from_the_address(tmp_path: Path) -> None:
    plain = parse("http://host", tmp_path, {})
    assert (plain.uri, plain.place, plain.token, plain.kind) == ("http://host:19530", "http://host:19530", "", "hnsw")
    full = parse("https://me:se%40cret@[::1]:1953/orders?ca=ca.pem&kind=ivf_flat&ef=64&grace=0.5&prefix=shop", tmp_path, {})
    assert (full.uri, full.place, full.token, full.database) == (
        "https://[::1]:1953",
        "https://[::1]:1953/orders",
        "me:se@cret",
        "orders",
    )
    assert (full.ca, full.kind, full.ef, full.grace, full.prefix) == ("ca.pem", "ivf_flat", 64, 0.5, "shop")
    assert parse("http://host", tmp_path, {"VECMETA_MILVUS_TOKEN": "t"}).token == "t"
    lite = parse("milvus-lite?consistency=strong", tmp_path, {})
    assert (lite.uri, lite.lite, lite.kind, lite.consistency) == (str(tmp_path / "milvus.db"), True, "flat", "strong")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("http://", "no address of a Milvus"),
        ("ftp://host", "no address of a Milvus"),
        ("http://host:port", "no address of a Milvus"),
        ("http://host?eff=3", "unknown option 'eff'"),
        ("http://host?m=many", "m of a Milvus index is a whole number, not 'many'"),
        ("http://host?m=1", "m of a Milvus index lies from 2 to 2048, not 1"),
        ("http://host?kind=tree", "one of hnsw, flat"),
        ("http://host?prefix=a-b", "prefix is up to 64 letters"),
        ("http://host?cert=a.pem", "belong together"),
        ("http://host?cert=a.pem&key=a.key", "need ca as well"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, index: str, says: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=says):
        vm.open(tmp_path, index=index)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    index = "http://me:hush@host/db?token=hush&m=8"
    assert masked(index) == "http://***@host/db?token=***&m=8"
    with vm.open(tmp_path, index=index) as db:
        assert "hush" not in repr(db)
    assert "hush" not in repr(parse(index, tmp_path, {}))
    with pytest.raises(vm.InvalidConfig) as error:
        parse(f"{index}&x=1", tmp_path, {})
    assert "hush" not in str(error.value)


# -- filters -----------------------------------------------------------------------------------------------------------------


def test_facts_and_expressions_by_eye() -> None:
    facts = facts_of({"lang": "en", "year": [2020, 1.5, "x"], "o": {"a": 1}, 'ü"': None})
    assert facts.facts == [
        "lang?",
        "lang=sen",
        "year?",
        "year=n2020",
        "year=n1.5",
        "year=sx",
        "year#",
        "o?",
        "%C3%BC%22?",
        "%C3%BC%22=null",
    ]
    assert (facts.lows, facts.highs, facts.whole) == ({"year": 1.5}, {"year": 2020.0}, True)
    assert expression(parsed({"lang": {"$ne": 'a"b'}})) == '(not array_contains(facts, "lang=sa%22b"))'
    assert expression(parsed({"year": {"$gte": 3}})) == '(array_contains(facts, "year#") and highs["year"] >= 3.0)'
    assert expression(parsed({})) == "(key >= 0)"
    assert expression(parsed({"lang": {"$gt": "a"}})) is None  # texts in order
    assert expression(parsed({"n": 2**60})) is None  # no float64
    assert expression(parsed({"n": {"$in": list(range(2000))}})) is None  # too long


def test_metadata_that_cannot_be_said(tmp_path: Path) -> None:
    assert not facts_of({"n": 2**60}).whole
    assert not facts_of({"t": "a\0b"}).whole
    many = facts_of({"t": list(range(5000))})
    assert (many.facts, many.whole) == ([], False)
    long = facts_of({"f" * 500: "v" * 500, "g": "w" * 500})
    assert long.whole
    assert max(map(len, long.facts)) <= 200
    assert len(set(long.facts)) == 4


# -- builds ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[vm.Database]:
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    with vm.open(tmp_path / "lite", index="milvus-lite?grace=0", device="cpu") as db:
        yield db


@pytest.fixture
def c(lite: vm.Database, clusters: Clusters) -> vm.Collection:
    collection = lite.create("my-docs", encoder="vectors", dim=clusters.dim)
    collection.add_vectors(clusters.ids, clusters.x)
    collection.feedback(clusters.judgements(range(6), 5))
    return collection


def shelf(collection: vm.Collection) -> MilvusShelf:
    found = collection._servings.shelf
    assert isinstance(found, MilvusShelf)
    return found


def there(collection: vm.Collection) -> set[str]:
    """The names of all collections in its Milvus."""
    return set(shelf(collection)._link.call("list", lambda client: client.list_collections()))


def known(collection: vm.Collection) -> set[str]:
    return shelf(collection)._rows.names()


def pointed(collection: vm.Collection) -> str:
    about = shelf(collection)._link.call("look", lambda client: client.describe_alias(shelf(collection).alias))
    return str(about["collection_name"])


def named(collection: vm.Collection, version: int) -> str:
    row = shelf(collection)._rows.find(version)
    assert row is not None
    return row.name


def test_one_collection_for_each_version_and_an_alias_for_people(lite: vm.Database, c: vm.Collection) -> None:
    assert shelf(c).alias == "vecmeta_my_docs"
    assert pointed(c) == named(c, 0)
    assert c.adapt("ridge", strength=1.0).version == 1
    assert pointed(c) == named(c, 1) != named(c, 0)
    assert there(c) == known(c) == {named(c, 0), named(c, 1)}
    c.rollback()
    assert pointed(c) == named(c, 0)
    row = shelf(c)._link.call("look", lambda client: client.query("vecmeta_my_docs", filter="key >= 0", limit=1))[0]
    assert (row["item"], row["metadata"]) == ("i00000", {})
    lite.drop("my-docs")
    assert there(c) == known(c) == set()


def test_an_alias_that_is_somebody_elses_is_left_alone(lite: vm.Database, clusters: Clusters) -> None:
    one, other = (lite.create(name, encoder="vectors", dim=clusters.dim) for name in ("a-b", "a_b"))
    one.add_vectors(clusters.ids[:3], clusters.x[:3])
    with pytest.warns(UserWarning, match="belongs to something else"):
        other.add_vectors(clusters.ids[:3], clusters.x[:3])
    assert pointed(one) == named(one, 0)
    assert other.search(clusters.x[0], 1)[0].id == clusters.ids[0]


def test_older_versions_go_when_nothing_needs_them(c: vm.Collection, clusters: Clusters) -> None:
    assert c.adapt("ridge", strength=1.0).version == 1
    old = named(c, 0)
    shelf(c).prune({0, 1})
    assert there(c) == known(c) == {old, named(c, 1)}
    shelf(c).prune({1})
    assert there(c) == known(c) == {named(c, 1)}
    assert c.search(clusters.x[3], 2, version=0)[0].id == clusters.ids[3]  # built again
    assert named(c, 0) != old


def test_they_stay_for_their_grace(tmp_path: Path, clusters: Clusters) -> None:
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    with vm.open(tmp_path, index="milvus-lite?grace=60", device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids[:9], clusters.x[:9])
        shelf(c).prune({1})
        assert there(c) == {named(c, 0)}
        assert c.search(clusters.x[0], 1)[0].id == clusters.ids[0]


def test_cancelling_leaves_nothing(c: vm.Collection, clusters: Clusters) -> None:
    before = there(c)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "building" and done >= total > 0:
            raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled):
        c.adapt(progress=stop)
    assert there(c) == known(c) == before
    assert [v.number for v in c.versions()] == [0]
    assert c.search(clusters.x[0], 1).version == 0


def test_a_build_goes_on_where_it_was_broken_off(c: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milvus goes away in the middle; meanwhile items are deleted, replaced and added."""
    monkeypatch.setattr("vecmeta.catalogue.items._PAGE", 32)
    monkeypatch.setattr(pipeline, "NOTED", 1)
    monkeypatch.setattr(pipeline, "SNAPSHOT", 100)
    c.close()
    shelf(c)._rows.retire(0)
    write, written = Table.write, list[int]()

    def breaking(self: Table, rows: list[dict[str, Any]], new: bool) -> None:
        if len(written) == 7:
            raise vm.IndexUnavailable("away")
        written.append(len(rows))
        write(self, rows, new)

    monkeypatch.setattr(Table, "write", breaking)
    with pytest.raises(vm.IndexUnavailable, match="away"):
        c.search(clusters.x[0])
    assert len(written) == 7
    done, name = sum(written), named(c, 0)
    c.delete(clusters.ids[:3])  # already there
    c.add_vectors(clusters.ids[5:8], clusters.x[:3])
    c.add_vectors(["new"], clusters.x[:1])
    written.clear()

    def counting(self: Table, rows: list[dict[str, Any]], new: bool) -> None:
        written.append(len(rows))
        write(self, rows, new)

    monkeypatch.setattr(Table, "write", counting)
    assert len(c.search(clusters.x[0], 1000)) == 398
    assert {hit.id for hit in c.search(clusters.x[0], 2)} == {"new", clusters.ids[5]}
    assert named(c, 0) == name
    assert sum(written) <= 400 - done + 4
    assert there(c) == known(c) == {name}


def test_rows_that_are_there_twice_cost_a_second_build_and_no_more(
    c: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an insertion whose answer was lost: a server keeps both, and counts them."""
    refresh, counted = MilvusIndex.refresh, list[str]()

    def twice(self: MilvusIndex) -> int:
        counted.append(self.name)
        return refresh(self) + (len(counted) <= failures)

    monkeypatch.setattr(MilvusIndex, "refresh", twice)
    failures = 1
    assert c.adapt("ridge", strength=1.0).decision == "promoted"
    assert named(c, 1) != counted[0]
    assert there(c) == known(c) == {named(c, 0), named(c, 1)}
    assert len(c.search(clusters.x[0], 1000)) == 400
    counted.clear()
    failures = 2
    with pytest.raises(vm.IndexUnavailable, match="holds 401 rows, but 400 were written"):
        c.adapt("ridge", strength=0.5)
    assert c.live == 1
    assert there(c) == known(c) == {named(c, 0), named(c, 1)}


@pytest.mark.timeout(1200)  # another process that tests may have the one server first
def test_what_a_server_forgot_to_load_is_loaded_again(
    real_milvus: str, tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loads = Table._load, list[str]()

    def forgetting(self: Table) -> None:
        load(self)
        loads.append(self.name)
        if len(loads) <= forgotten:
            self._link.call("release", lambda client: client.release_collection(self.name))

    monkeypatch.setattr(Table, "_load", forgetting)
    with vm.open(tmp_path, index=f"{real_milvus}?prefix=forgetful&grace=0", device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        forgotten = 2
        c.add_vectors(clusters.ids, clusters.x)
        assert c.search(clusters.x[0], 1)[0].id == clusters.ids[0]
        assert loads == [named(c, 0)] * 3
        c.feedback(clusters.judgements(range(6), 5))
        monkeypatch.setattr(table, "LOADS", 3)
        forgotten = 100
        with pytest.raises(vm.IndexUnavailable, match=r"does not load forgetful_c_v1_\w+, which it was told to do 3 times"):
            c.adapt("ridge", strength=1.0)
        assert c.live == 0
        assert known(c) == {named(c, 0)}
        db.drop("c")


def test_an_index_that_is_gone_or_does_not_fit_is_built_again(c: vm.Collection, clusters: Clusters) -> None:
    index = c._servings.warm().index
    assert isinstance(index, MilvusIndex)
    index.table.drop()
    with pytest.warns(UserWarning, match="is gone; rebuilding"):
        assert len(c.search(clusters.x[0], 1000)) == 400
    c.close()
    Table(shelf(c)._link, named(c, 0), clusters.dim).delete(list(range(1, 11)))
    with pytest.warns(UserWarning, match="does not fit the catalogue; rebuilding"):
        assert len(c.search(clusters.x[0], 1000)) == 400
    assert there(c) == known(c)


def test_only_one_writes_at_a_time(c: vm.Collection, clusters: Clusters) -> None:
    rows = shelf(c)._rows
    name = named(c, 0)
    assert rows.lease(name, "other") is not None
    assert rows.lease(name, "third") is None
    with pytest.raises(vm.Conflict, match="taken over"):
        rows.advance(name, "third", revision=99)
    added = threading.Thread(target=lambda: c.add_vectors(["late"], clusters.x[:1]))
    added.start()
    time.sleep(0.3)
    assert added.is_alive()  # it waits for the other one
    assert "late" not in {hit.id for hit in c.search(clusters.x[0], 5)}  # a search does not
    rows.release(name, "other")
    added.join(20)
    assert "late" in {hit.id for hit in c.search(clusters.x[0], 5)}


def test_a_lease_runs_out(c: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, name = shelf(c)._rows, named(c, 0)
    monkeypatch.setattr("vecmeta.catalogue.indexes.LEASE", -1.0)
    assert rows.lease(name, "dead") is not None
    assert rows.lease(name, "next") is not None
    with pytest.raises(vm.Conflict):
        rows.advance(name, "dead")


def test_rows_of_a_postgresql_database(postgres_url: str, tmp_path: Path, clusters: Clusters) -> None:
    """Leases, places in the order of writes and what is to be dropped, by the statements of the other database."""
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    with vm.open(postgres_url, index="milvus-lite?grace=0", device="cpu", files=tmp_path / "one") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x, [{"said": "a\x01b", "n": n} for n in range(len(clusters.ids))])
        query = clusters.x[0]
        assert c.search(query, 1)[0].id == clusters.ids[0]
        assert c.search(query, 1, where={"n": {"$gt": 0}})[0].id != clusters.ids[0]
        assert c.search(query, 1, where={"said": "a\x01b"})[0].metadata["said"] == "a\x01b"
        rows, name = shelf(c)._rows, named(c, 0)
        assert rows.lease(name, "other") is not None
        assert rows.lease(name, "third") is None
        rows.advance(name, "other")
        with pytest.raises(vm.Conflict):
            rows.advance(name, "third")
        rows.release(name, "other")
        assert rows.begin(0, "another", "head").name == name  # who comes second gets the first one's
        c.feedback(clusters.judgements(range(6), 5))
        assert c.adapt().decision == "promoted"
        assert c.search(query, 1).version == 1
        with vm.open(postgres_url, index="milvus-lite", device="cpu", files=tmp_path / "two") as other:  # another machine's file
            assert other.collection("c").search(query, 1).version == 1
            assert named(other.collection("c"), 1) != named(c, 1)
        c.delete(clusters.ids[:1])
        assert clusters.ids[0] not in {hit.id for hit in c.search(query, 5)}
        db.drop("c")


def test_a_dry_run_tells_the_cost(c: vm.Collection, clusters: Clusters) -> None:
    cost = c.adapt(dry_run=True).cost
    assert cost["rows"] == 400
    assert cost["bytes"] >= 400 * clusters.dim * 4
    assert there(c) == {named(c, 0)}


def test_many_keys_and_large_answers_go_in_parts(c: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "AT_ONCE", 70)
    monkeypatch.setattr(index_module, "ANSWERED", 1000)
    where = {"x": {"$not": {"$gt": "a"}}}  # no expression
    assert len(c.search(clusters.x[0], 1000, where=where)) == 400
    for hits, true in zip(
        c.search_many(list(clusters.x[:9]), 150, where=where), c.search_many(list(clusters.x[:9]), 150), strict=True
    ):
        np.testing.assert_allclose([h.score for h in hits], [h.score for h in true], atol=1e-5)
    monkeypatch.setattr(index_module, "MOST", 100)
    assert len(c.search(clusters.x[0], 150)) == 150


# -- away --------------------------------------------------------------------------------------------------------------------


class Server:
    """milvus-lite as a server of its own: the same protocol, up in a second, and it can be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = str(Path(sys.executable).with_name("milvus-lite"))
        told = [program, "server", "--data-dir", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        soon(self.answers)

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def soon(true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    made = Server(tmp_path / "server")
    yield made
    made.kill()


def test_while_it_is_away_everything_but_search_goes_on(
    server: Server, tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "DOWN_SECONDS", 0.1)
    x, ids = clusters.x, clusters.ids
    with vm.open(tmp_path / "db", index=server.uri, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        assert c.add_vectors(ids[:50], x[:50]) == 50  # before it was ever there
        with pytest.raises(vm.IndexUnavailable, match=r"127\.0\.0\.1"):
            c.search(x[0])
        server.start()

        def found(*expected: str) -> Callable[[], bool]:
            def look() -> bool:
                try:
                    return {hit.id for hit in c.search(x[0], 100)} == set(expected)
                except vm.IndexUnavailable:
                    return False

            return look

        soon(found(*ids[:50]))
        server.kill()
        begin = time.monotonic()
        with pytest.raises(vm.IndexUnavailable):
            c.search(x[0])
        assert c.add_vectors(ids[50:60], x[50:60]) == 10
        assert c.delete(ids[:5]) == 5
        assert c.feedback([vm.Judgement(item=ids[55], concept="q")]).new == 1
        assert c.get([ids[55]])[0].id == ids[55]
        assert c.count() == 55
        assert time.monotonic() - begin < 30
        server.start()
        chased = c._servings
        soon(lambda: all(held.revision == c._items.revision() for held in chased._held.values()))  # by itself
        soon(found(*ids[5:60]))


KILLED = """
import json, sys
import numpy as np
import vecmeta as vm
from vecmeta.catalogue import items
from vecmeta.index.milvus.table import Table
from vecmeta.shelves import pipeline

folder, index, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
items._PAGE, pipeline.NOTED = 32, 1
write, calls = Table.write, 0

def counted(self, rows, new):
    global calls
    write(self, rows, new)
    calls += 1
    if pages and calls == pages:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)

Table.write = counted
with vm.open(folder, index=index, device="cpu") as db:
    c = db.collection("c")
    c.warm()
    hits = c.search(np.ones(c.dim), 1000)
    print(json.dumps({"calls": calls, "hits": len(hits)}))
"""


def test_a_killed_build_goes_on_where_it_was(server: Server, tmp_path: Path, clusters: Clusters) -> None:
    """kill -9 in the middle of a build; the next process writes only what is missing, and what changed since."""
    with vm.open(tmp_path / "db", device="cpu") as db:  # filled without Milvus
        db.create("c", encoder="vectors", dim=clusters.dim).add_vectors(clusters.ids, clusters.x)
    server.start()

    def run(pages: int) -> subprocess.CompletedProcess[str]:
        told = [sys.executable, "-c", KILLED, str(tmp_path / "db"), server.uri, str(pages)]
        return subprocess.run(told, capture_output=True, text=True, check=False, env=os.environ, timeout=120)

    assert run(6).returncode == -signal.SIGKILL
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.collection("c")
        c.delete(clusters.ids[:3])
        c.add_vectors([*clusters.ids[10:12], "new"], clusters.x[:3])
        from vecmeta.catalogue.tables import indexes

        with c._items._engine.writing("indexes") as connection:  # as if its lease had run out, which takes half a minute
            connection.execute(indexes.update().values(until=datetime(2000, 1, 1, tzinfo=UTC)))
    done = run(0)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["hits"] == 398
    assert said["calls"] <= 400 / 32 - 6 + 4
