"""The client against a real service, beside the same verbs on a database in a folder."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import io
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, assert_type

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

import vecmeta as vm
from service.app import create_app
from service.settings import Settings
from tests.conftest import Clusters
from vecmeta.client import (
    AsyncClient,
    Client,
    Forbidden,
    InvalidRequest,
    RemoteCollection,
    RemoteHits,
    RemoteJobs,
    RemoteTraffic,
    ServiceError,
    Timeout,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from vecmeta.client.records import sent_query
from vecmeta.jobs import Jobs
from vecmeta.teaching import Teaching
from vecmeta.traffic import Traffic

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
ODD_IDS = ["a/b", "..", ".", "50%", "what?", "#1", "é ü", "a//b", "%2F", "日本", "a\nb", "items/get", "x" * 512]
Answer = tuple[int, dict[str, str], Any]  # status, headers, body


class Served:
    """A service on a free port, in a thread; its jobs are done by a worker process."""

    def __init__(self, data: Path) -> None:
        with vm.open(data, device="cpu") as db:
            self.admin, _ = db.keys.create("admin", ["admin"])
            self.reader, _ = db.keys.create("reader", ["read"])
        app = create_app(Settings(data=str(data), device="cpu", grace=0.0))
        config = uvicorn.Config(app, port=0, loop="asyncio", log_config=None, access_log=False, lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Served:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "db") as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    with Client(served.url, served.admin) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vm.Database]:
    with vm.open(tmp_path_factory.mktemp("folder") / "db", device="cpu") as db:
        yield db


_number = itertools.count()


@pytest.fixture
def name() -> str:
    """Of a collection, different each time."""
    return f"c{next(_number)}"


@pytest.fixture
def pair(folder: vm.Database, client: Client, name: str) -> tuple[vm.Collection, RemoteCollection]:
    """The same six own vectors here and there."""
    return filled(folder.create(name, "vectors", dim=4)), filled(client.create(name, "vectors", dim=4))


@pytest.fixture(scope="module")
def still(folder: vm.Database, client: Client) -> tuple[vm.Collection, RemoteCollection]:
    """A pair that stays as it is."""
    return filled(folder.create("still", "vectors", dim=4)), filled(client.create("still", "vectors", dim=4))


def filled(collection: Any) -> Any:
    vectors = np.array([[1, 0, 0, 0.1], [0.9, 0.2, 0, 0], [0, 1, 0, 0], [0, 0.8, 0.3, 0], [0, 0, 1, 0], [0.2, 0, 0.7, 1]])
    assert collection.add_vectors(list("abcdef"), vectors, [{"n": n, "even": n % 2 == 0} for n in range(6)]) == 6
    return collection


# -- the same verbs ----------------------------------------------------------------------------------------------------------------

NOT_REMOTE = {  # what makes no sense from afar
    vm.Collection: {"warm", "settle", "forget", "encoded", "sample", "search_raw"},
    Teaching: set(),
    vm.Database: {"export_to", "import_from"},  # folders of the machine where the database is
    Jobs: {"feedback_given", "counts"},
    Traffic: {"choose", "searched"},
}
WITHOUT = {  # parameters that cannot be sent: an encoder object, a file of the caller's, a delay
    "Database.collection": {"encoder"},
    "Teaching.adapt": {"start"},
    "Jobs.submit": {"delay"},
}


@pytest.mark.parametrize(
    ("local", "remote"),
    [
        (vm.Database, Client),
        (vm.Collection, RemoteCollection),
        (Teaching, RemoteCollection),
        (Jobs, RemoteJobs),
        (Traffic, RemoteTraffic),
    ],
)
def test_signatures_are_those_of_the_database(local: type, remote: type) -> None:
    compared = 0
    for name, member in vars(local).items():
        if name.startswith("_") or name in NOT_REMOTE[local]:
            continue
        there = getattr(remote, name)
        if not inspect.isfunction(member):  # a property
            assert not callable(there), name
            continue
        left_out = WITHOUT.get(f"{local.__name__}.{name}", set())
        mine = {k: (p.kind, p.default) for k, p in inspect.signature(member).parameters.items() if k not in left_out}
        theirs = {k: (p.kind, p.default) for k, p in inspect.signature(there).parameters.items() if k not in ("self", "owner")}
        mine.pop("self")
        assert theirs == mine, name
        assert inspect.getdoc(there)
        compared += 1
    assert compared >= 4


def test_types_are_known_to_mypy(served: Served) -> None:
    with Client(served.url, served.admin) as client:
        docs = client.create("typed", "vectors", dim=2)
        assert_type(docs, RemoteCollection)
        docs.add_vectors(["a"], [[1.0, 0.0]])
        assert_type(docs.search([1.0, 0.0], 1), RemoteHits)
        assert_type(docs.live, int)
        assert_type(docs.traffic.outcomes(), list[vm.Outcome])

    async def later() -> None:
        async with AsyncClient(served.url, served.admin) as client:
            docs = await client.collection("typed")
            assert_type(await docs.search([1.0, 0.0], 1), RemoteHits)
            assert_type(await docs.live, int)
            assert inspect.iscoroutinefunction(docs.search)
            assert str(inspect.signature(docs.count)).startswith("(where:")
            await client.drop("typed")

    asyncio.run(later())


def same(a: Any, b: Any) -> None:
    """Equal, scores and vectors but for rounding."""
    if isinstance(a, vm.Hits):
        assert isinstance(b, RemoteHits)
        assert a.version == b.version
        assert [h._replace(score=0) for h in a] == [h._replace(score=0) for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-6)
    elif isinstance(a, list) and a and isinstance(a[0], (vm.Hits, vm.Judgement)):
        for left, right in zip(a, b, strict=True):
            same(left, right)
    elif isinstance(a, vm.Judgement):
        assert (a.item, a.concept, a.score, a.user) == (b.item, b.concept, b.score, b.user)
        assert (a.time is None) == (b.time is None)
        np.testing.assert_equal(a.query, b.query)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-6)
    elif isinstance(a, list) and a and isinstance(a[0], vm.Version):
        assert [(v.number, v.live, v.reason) for v in a] == [(v.number, v.live, v.reason) for v in b]
    else:
        assert type(a) is type(b)
        assert a == b


NEAR_A = [1.0, 0.1, 0.0, 0.0]
READS: dict[str, Callable[[Any], Any]] = {
    "facts": lambda c: (c.name, c.dim, c.encoder_name, c.modality, c.live, c.policy),
    "get": lambda c: c.get(["f", "a", "a"]),
    "get none": lambda c: c.get([]),
    "count": lambda c: (c.count(), c.count({"n": {"$gte": 4}})),
    "items": lambda c: c.items(where={"even": True}, after="a", limit=2),
    "items of many": lambda c: c.items(limit=10_000),
    "delete none": lambda c: c.delete([]),
    "search": lambda c: c.search(NEAR_A, 3),
    "search float32": lambda c: c.search(np.array(NEAR_A, np.float32), k=3, where={"$not": {"n": 0}}, version=0),
    "search like": lambda c: c.search(vm.Id("c"), 10),
    "search bent": lambda c: c.search(NEAR_A, 6, feedback=[("e", 1.0), ("a", -1)]),
    "search many": lambda c: c.search_many([NEAR_A, vm.Id("e")], 2, where={"n": {"$in": (1, 2, 5)}}),
    "search none": lambda c: c.search_many([]),
    "search more than one request holds": lambda c: c.search_many([[n + 1, 1, 1, 1] for n in range(300)], 1),
    "recommend": lambda c: c.recommend(["a"], ["c"], 3),
    "embed": lambda c: c.embed([NEAR_A, vm.Id("b"), np.array([1, 2, 3, 4])]),
    "embed array": lambda c: c.embed(np.array([NEAR_A, [0, 0, 3e300, 4e300]]), version=0),
    "embed more than one request holds": lambda c: c.embed(np.eye(300, 4) + 1),
    "embed none": lambda c: c.embed([]),
    "feedback none": lambda c: c.feedback([]),
    "versions": lambda c: c.versions(),
    "activate": lambda c: (c.activate(0), c.live),
    "context": lambda c: c.__enter__() is c and c.close(),
}
WRITES: dict[str, Callable[[Any], Any]] = {
    "delete": lambda c: (c.delete(["a", "never", ""]), c.count()),
    "feedback": lambda c: (
        c.feedback([vm.Judgement("a", "x"), vm.Judgement("b", query=NEAR_A, score=-0.5, user="u"), vm.similar("a", "d")]),
        c.feedback([vm.Judgement("a", "x"), vm.dissimilar("a", "d")]),
    ),
    "judgements": lambda c: (c.feedback([vm.Judgement("a", "x"), vm.Judgement("b", query=NEAR_A)]), c.judgements())[1],
    "judgements in pages": lambda c: (
        c.feedback([vm.Judgement(item, concept) for item in "abd" for concept in ("x", "y")]),
        *(c.judgement_count(), c.judgements(), c.judgements(1), c.judgements(1, 3), c.judgements(limit=2), c.judgements(5, 9)),
    ),
    "contradictions": lambda c: (
        c.feedback([vm.Judgement("a", "x", score=s, user=u) for s, u in ((1, "u"), (-1, "v"))]),
        c.contradictions(),
    ),
    "policy": lambda c: (c.set_policy(vm.Policy(7, 1.5)), c.policy),
    "replace": lambda c: (c.add_vectors(["a"], [[0, 0, 0, 1]]), c.get(["a"])),
    "odd ids": lambda c: (
        c.add_vectors(ODD_IDS, np.eye(13, 4) + 1),
        [item.id for item in c.get(ODD_IDS)],
        c.items(after="日"),
        [h.id for h in c.search(vm.Id(".."), 3)],
        c.delete(ODD_IDS),
        c.count(),
    ),
    "metadata": lambda c: (
        c.add_vectors(["m"], [[1, 1, 1, 1]], [{"t": 'é\n"', "f": 0.1, "deep": {"a": [None, True, -(2**63)]}, "": 1e300}]),
        c.get(["m"]),
    ),
    "many": lambda c: (c.add_vectors([f"n{n}" for n in range(600)], np.eye(600, 4) + 1), c.count(), c.items(limit=555)),
    "split": lambda c: (c.traffic.split(), c.traffic.stop(), c.traffic.outcomes()),
}


@pytest.mark.parametrize("case", READS)
def test_answers_are_those_of_the_database(case: str, still: tuple[vm.Collection, RemoteCollection]) -> None:
    local, remote = (READS[case](collection) for collection in still)
    same(local, remote)


@pytest.mark.parametrize("case", WRITES)
def test_writes_do_what_those_on_the_database_do(case: str, pair: tuple[vm.Collection, RemoteCollection]) -> None:
    local, remote = (WRITES[case](collection) for collection in pair)
    same(local, remote)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_arrive_to_the_last_bit(pair: tuple[vm.Collection, RemoteCollection], dtype: type) -> None:
    rows: Any = np.random.default_rng(3).normal(size=(300, 4)).astype(dtype)
    names = [f"r{n}" for n in range(len(rows))]
    assert isinstance(sent_query(rows[0], "c", 4)[0]["vector"], str) == (dtype is np.float32)
    stored, found = [], []
    for collection in pair:
        collection.add_vectors(names, rows)
        stored.append(collection.embed([vm.Id(id) for id in names], version=0))
        found.append([(hit.id, hit.score) for hit in collection.search(rows[7], 20)])
    np.testing.assert_array_equal(stored[0], stored[1])
    assert found[0] == found[1]


NAN = [0.0, float("nan"), 0.0, 0.0]
WRONG: dict[str, Callable[[Any], Any]] = {
    "missing": lambda c: c.get(["a", "nope"]),
    "missing, though another is impossible": lambda c: c.get(["a", "nope", ""]),
    "impossible": lambda c: c.get(["a", "", "nope"]),
    "a text for ids": lambda c: c.get("abc"),
    "an id that is none": lambda c: c.delete([3]),
    "no item": lambda c: c.add(["a"]),
    "no content": lambda c: c.add([vm.Item("a")]),
    "twice": lambda c: c.add([vm.Item("a", "x"), vm.Item("a", "y")]),
    "no such file": lambda c: c.add([vm.Item("a", Path("nowhere/a.png"))]),
    "metadata": lambda c: c.add_vectors(["a"], [NEAR_A], [{"x": {1, 2}}]),
    "shape": lambda c: c.add_vectors(["a"], NEAR_A),
    "length": lambda c: c.add_vectors(["a", "b"], [[1, 2, 3], [1, 2, 3]]),
    "zero": lambda c: c.add_vectors(["x", "y"], [NEAR_A, [0, 0, 0, 0]]),
    "too few metadata": lambda c: c.add_vectors(["x"], [NEAR_A], []),
    "k": lambda c: c.search(NEAR_A, 0),
    "k as text": lambda c: c.search_many([NEAR_A], "3"),
    "filter": lambda c: c.search(NEAR_A, where={"n": {"$about": 1}}),
    "filter of count": lambda c: c.count({"$and": 3}),
    "limit": lambda c: c.items(limit=0),
    "query": lambda c: c.search(NAN),
    "query of 3": lambda c: c.search([1, 2, 3]),
    "query of objects": lambda c: c.search({"a": 1}),
    "query like nothing": lambda c: c.search(vm.Id("nope")),
    "version": lambda c: c.search(NEAR_A, version=5),
    "version as text": lambda c: c.search(NEAR_A, version="1"),
    "bend": lambda c: c.search(NEAR_A, feedback=[("a", 2.0)]),
    "bend by nothing": lambda c: c.search(NEAR_A, feedback=[("nope", 1.0)]),
    "nothing liked": lambda c: c.recommend([]),
    "like nothing": lambda c: c.recommend(["a"], ["nope"]),
    "embed": lambda c: c.embed(np.ones((2, 3))),
    "embed nothing": lambda c: c.embed([vm.Id("nope")]),
    "no judgement": lambda c: c.feedback([vm.Judgement("a", "x"), ("b", "x")]),
    "judged nothing": lambda c: c.feedback([vm.Judgement("a", "x"), vm.Judgement("nope", "x")]),
    "judged by NaN": lambda c: c.feedback([vm.Judgement("a", query=NAN)]),
    "policy": lambda c: c.set_policy({"auto_adapt": 3}),
    "method": lambda c: c.adapt("magic"),
    "activate": lambda c: c.activate(9),
    "activate none": lambda c: c.activate(None),
    "rollback": lambda c: c.rollback(),
    "report": lambda c: c.report(4),
    "share": lambda c: c.traffic.share(3, 10),
    "share of live": lambda c: c.traffic.share(0, 10),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_those_of_the_database(case: str, still: tuple[vm.Collection, RemoteCollection]) -> None:
    local, remote = still
    with pytest.raises(vm.VecmetaError) as here:
        WRONG[case](local)
    with pytest.raises(vm.VecmetaError) as there:
        WRONG[case](remote)
    assert there.type is here.type
    assert str(there.value) == str(here.value)
    assert remote.count() == 6


def test_collections_by_name(client: Client, name: str) -> None:
    made = client.create(name, "vectors", dim=3)
    assert (made.name, made.dim, made.modality, made.encoder_name, made.live) == (name, 3, "vector", "vectors@3", 0)
    assert name in client.collections()
    assert "dim 3" in repr(client.collection(name))
    with pytest.raises(vm.AlreadyExists, match=name):
        client.create(name, "vectors", dim=3)
    client.drop(name)
    assert name not in client.collections()
    for gone in (name, "../x", "a/b", ".."):
        with pytest.raises(vm.CollectionNotFound, match="there is no collection"):
            client.collection(gone)
        with pytest.raises(vm.CollectionNotFound, match="there is no collection"):
            client.drop(gone)
    with pytest.raises(vm.CollectionNotFound):
        made.count()
    with pytest.raises(vm.InvalidConfig, match="is no name for a collection"):
        client.create("a/b")
    with pytest.raises(vm.InvalidConfig, match="'bert' is not offered here"):
        client.create(name, "bert")
    with pytest.raises(vm.InvalidConfig, match="name of an encoder"):
        client.create(name, object())  # type: ignore[arg-type]


def test_a_log_of_several_answers(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecmeta.client.teaching.PAGE", 4)
    docs = client.create(name, encoder="vectors", dim=2)
    docs.add_vectors([f"i{n}" for n in range(10)], np.eye(2, dtype=np.float32)[[0, 1] * 5])
    docs.feedback([vm.Judgement(f"i{n}", "x") for n in range(10)])
    for offset, limit in ((0, None), (3, None), (2, None), (0, 4), (1, 8), (1, 9), (1, 10), (9, 1), (12, 3)):
        items = [judgement.item for judgement in docs.judgements(offset, limit)]
        assert items == [f"i{n}" for n in range(10)][offset:][:limit]


def test_texts_and_langchain(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecmeta.client.records.MOST", 8)
    from vecmeta.langchain import VecmetaVectorStore

    docs = client.create(name)
    told: list[tuple[str, int, int]] = []
    items = [vm.Item(f"t{n}", f"number {n}", {"n": n}) for n in range(10)]
    items[0] = vm.Item("t0", "How do I get my money back?")
    assert docs.add(iter(items), progress=lambda *now: told.append(now)) == 10
    assert told == [("encoding", 0, 10), ("encoding", 8, 10), ("encoding", 10, 10)]
    assert docs.get(["t0", "t9"]) == [items[0], items[9]]
    [hit] = docs.search("refund my money", 1)
    assert (hit.id, hit.content) == ("t0", "How do I get my money back?")
    assert docs.feedback([vm.Judgement("t0", query="refund")]) == vm.Understood(1, 0, 0)
    assert docs.judgements() == [vm.Judgement("t0", query="refund")]
    with pytest.raises(vm.InvalidInput, match="asked by text"):
        docs.search(b"a picture")
    with pytest.raises(vm.InvalidConfig, match=r"use add\(\)"):
        docs.add_vectors(["a"], [[1.0]])

    def stop(stage: str, done: int, total: int) -> None:
        if done:
            raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled) as stopped:
        docs.add(items, progress=stop)
    assert stopped.value.__notes__ == ["the first 8 of 10 items are written"]

    store = VecmetaVectorStore(docs)
    assert store.add_texts(["red cat", "blue car"], [{"lang": "en"}, {"lang": "de"}], ids=["r/1", "b"]) == ["r/1", "b"]
    assert [d.id for d in store.similarity_search("cats", 1, filter={"lang": {"$exists": True}})] == ["r/1"]
    assert store.thumbs("vehicle", up=["b"]).new == 1
    assert store.get_by_ids(["r/1", "gone"])[0].page_content == "red cat"
    assert store.delete()
    assert docs.count() == 0


def test_pictures_are_read_here(client: Client, name: str, tmp_path: Path) -> None:
    pictures = client.create(name, "image")
    files = []
    for colour in ("red", "blue"):
        held = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(held, "PNG")
        files.append(held.getvalue())
    (tmp_path / "red.png").write_bytes(files[0])
    assert pictures.add([vm.Item("red", tmp_path / "red.png"), vm.Item("blue", files[1])]) == 2
    assert [item.content for item in pictures.get(["red", "blue"])] == files
    hits = pictures.search(tmp_path / "red.png", 2)
    assert (hits[0].id, hits[0].content) == ("red", files[0])
    assert hits[0].score == pytest.approx(1, abs=1e-4)
    with pytest.raises(vm.InvalidItem, match=r"item 'x': cannot read the file .*nothing.png"):
        pictures.add([vm.Item("new", files[0]), vm.Item("x", tmp_path / "nothing.png")])
    assert pictures.count() == 2


# -- adaptation --------------------------------------------------------------------------------------------------------------------


def test_an_adaptation_from_afar(client: Client, folder: vm.Database, clusters: Clusters, name: str) -> None:
    pair: list[Any] = [made.create(name, "vectors", dim=clusters.dim) for made in (folder, client)]
    for c in pair:
        c.add_vectors(clusters.ids, clusters.x)
        c.feedback(clusters.judgements(range(6), 5))
    local, remote = pair
    told: list[tuple[str, int, int]] = []
    here, there = local.adapt(), remote.adapt(progress=lambda *now: told.append(now))
    assert (there.decision, there.version, there.changed) == (here.decision, 1, here.changed)
    assert there.decision == "promoted"
    assert there.metrics == pytest.approx(here.metrics, rel=1e-3)
    assert told
    assert {stage for stage, _, _ in told} <= {"queued", "encoding", "adapting", "evaluating", "building", "ready"}
    assert remote.live == 1
    assert dataclasses.replace(remote.report(1), seconds={}) == dataclasses.replace(there, seconds={})
    assert [v.live for v in remote.versions()] == [False, True]
    same(local.search(clusters.x[0], 5), remote.search(clusters.x[0], 5))
    [job] = client.jobs.list(name, states=["live"])
    assert (job.state, job.report, job.params["method"]) == ("live", there, "maml")
    assert client.jobs.get(job.id) == job == client.jobs.wait(job.id) == client.jobs.cancel(job.id)
    assert client.jobs.list(name, before=job.id) == []
    with pytest.raises(vm.VersionNotFound):
        remote.report(0)

    hits = remote.search(clusters.x[0], 2, version=1)
    assert hits.search is not None
    assert remote.traffic.clicked(hits.search, hits.version, hits[0].id, rank=1)
    assert not remote.traffic.clicked(hits.search, hits.version, hits[0].id, rank=1)
    with pytest.raises(vm.InvalidConfig, match="not one that version 0 answered"):
        remote.traffic.clicked(hits.search, 0, hits[0].id)
    with pytest.raises(vm.InvalidJudgement, match="id of an item"):
        remote.traffic.clicked(hits.search, 1, "")
    assert [(o.version, o.clicks) for o in remote.traffic.outcomes() if o.clicks] == [(1, 1)]

    assert remote.rollback() == 0
    split = remote.traffic.share(1, 100)
    assert (split.version, split.percent) == (1, 100)
    assert remote.traffic.split() == split
    assert remote.search(clusters.x[0]).version == 1
    remote.traffic.stop()
    assert remote.search(clusters.x[0]).version == 0


def test_too_few_judgements(pair: tuple[vm.Collection, RemoteCollection]) -> None:
    local, remote = (dataclasses.replace(collection.adapt(), seconds={}) for collection in pair)
    assert local.decision == "insufficient"
    assert remote == local


def test_a_fine_tuning_from_afar_says_why_not(pair: tuple[vm.Collection, RemoteCollection]) -> None:
    local, remote = pair
    for collection in (local, remote):
        with pytest.raises(vm.InvalidConfig, match="holds own vectors"):
            collection.finetune("features", config={"steps": 5})
    with pytest.raises(vm.InvalidConfig, match="steps is a whole number"):
        remote.finetune(config={"steps": 0})


def test_a_notebook_moves_by_one_line(served: Served) -> None:
    block = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if 'vm.open("./my-data")' in block)
    moved = re.sub(r'vm\.open\("\./my-data"\)', f"Client({served.url!r}, {served.admin!r})", block, count=1)
    names: dict[str, Any] = {"Client": Client}
    exec(compile(moved, "README.md", "exec"), names)
    assert isinstance(names["db"], Client)
    assert names["hits"][0].id == "a"
    assert names["report"].decision == "insufficient"
    with Client(served.url, served.admin) as client:
        assert client.collection("docs").count() == 2  # of three the last line deletes one
        client.drop("docs")


def test_who_stops_listening_cancels_the_job(client: Client, clusters: Clusters, name: str) -> None:
    taught = client.create(name, "vectors", dim=clusters.dim)
    taught.add_vectors(clusters.ids, clusters.x)
    taught.feedback(clusters.judgements(range(6), 5))

    def stop(stage: str, done: int, total: int) -> None:
        raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled, match="enough"):
        taught.adapt(progress=stop)
    [job] = client.jobs.list(name)
    assert client.jobs.wait(job.id, 30).state == "cancelled"
    assert taught.live == 0

    with pytest.raises(vm.JobNotFound, match="no job"):
        client.jobs.get("../x")
    with pytest.raises(vm.JobNotFound, match="no job"):
        client.jobs.cancel("0" * 32)
    with pytest.raises(vm.InvalidConfig, match="unknown kind"):
        client.jobs.submit(name, "train")
    with pytest.raises(vm.InvalidConfig, match="strength"):
        client.jobs.submit(name, params={"strength": 2.0})
    with pytest.raises(vm.InvalidConfig, match="unknown state 'done'"):
        client.jobs.list(name, states=["done"])  # type: ignore[list-item]


def test_awaited(served: Served, clusters: Clusters, name: str) -> None:
    async def run() -> None:
        async with AsyncClient(served.url, served.admin) as client:
            c = await client.create(name, "vectors", dim=clusters.dim)
            assert await c.add_vectors(clusters.ids, clusters.x, [{"n": n} for n in range(400)]) == 400
            found = await asyncio.gather(*(c.search(x, 1) for x in clusters.x[:5]))
            assert [hits[0].id for hits in found] == clusters.ids[:5]
            assert (await c.live, await c.ready, await c.policy) == (0, True, vm.Policy())
            assert (c.name, c.dim, await c.count({"n": {"$lt": 3}})) == (name, clusters.dim, 3)
            with pytest.raises(vm.ItemNotFound, match="'nope'"):
                await c.get(["nope"])
            await c.feedback(clusters.judgements(range(6), 5))
            heard = asyncio.Event()
            task = asyncio.create_task(c.adapt(progress=lambda *_: heard.set()))
            await heard.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            [job] = await client.jobs.list(name)
            assert (await client.jobs.wait(job.id, 30)).state == "cancelled"
            assert await c.traffic.split() is None
            async with c:
                await client.drop(name)
            with pytest.raises(vm.CollectionNotFound):
                await client.collection(name)

    asyncio.run(run())


# -- what lies between -------------------------------------------------------------------------------------------------------------


def test_keys(served: Served, still: object) -> None:
    for key in (None, "vm_wrong"):
        with Client(served.url, key) as stranger, pytest.raises(Unauthorized, match="API key") as refused:
            stranger.collections()
        assert (refused.value.status, refused.value.error) == (401, "unauthorized")
    with Client(served.url + "/v1/", served.reader) as reader:
        assert served.reader not in repr(reader)
        assert reader.collection("still").count() == 6
        with pytest.raises(Forbidden, match="lacks the scope 'admin'") as lacking:
            reader.drop("still")
        assert lacking.value.status == 403
    for wrong in ("", "two words\nof it", "ключ"):
        with pytest.raises(vm.InvalidConfig, match="API key"):
            Client(served.url, wrong)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "", "http://x/?a=b", "http://[", "http://a b", "http://x:99999", 3]
)
def test_what_is_no_url(url: Any) -> None:
    with pytest.raises(vm.InvalidConfig):
        Client(url)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": True}, {"retries": -1}, {"retries": 1.5}])
def test_what_is_no_patience(options: dict[str, Any]) -> None:
    with pytest.raises(vm.InvalidConfig, match=next(iter(options))):
        Client("http://localhost", **options)


def test_nobody_there_names_the_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with (
        Client(url.replace("//", "//me:secret@"), retries=0) as client,
        pytest.raises(Unreachable, match=f"no vecmeta service can be reached at {url}") as gone,
    ):
        client.collections()
    assert gone.value.status is None
    assert "secret" not in str(gone.value)


async def inside(settings: Settings, use: Callable[[AsyncClient], Any]) -> None:
    """A service in this process, asked through `transport`."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with AsyncClient("http://localhost", retries=0, transport=transport) as client:
            await use(client)


def test_fewer_items_go_into_one_request_where_the_service_takes_fewer(tmp_path: Path) -> None:
    async def use(client: AsyncClient) -> None:
        c = await client.create("c", "vectors", dim=2)
        assert await c.add_vectors([f"i{n}" for n in range(10)], np.ones((10, 2))) == 10
        assert await c.count() == 10
        with pytest.raises(TooLarge, match="4 judgements in one request; at most 3"):
            await c.feedback([vm.Judgement(f"i{n}", "x") for n in range(4)])

    asyncio.run(inside(Settings(data=str(tmp_path / "db"), auth=False, workers=0, max_batch=3), use))


class Scripted:
    """A real HTTP server that answers as it is told, in turn; the last answer for ever. A status 0 breaks the connection."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[str] = []
        script = list(answers)
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                asked.append(f"{self.command} {self.path}")
                status, headers, body = script.pop(0) if len(script) > 1 else script[0]
                if status == 0:
                    self.close_connection = True
                    return
                if status == -1:
                    time.sleep(0.5)
                    return
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


ABOUT = {"name": "c", "encoder": "vectors@2", "dim": 2, "modality": "vector", "items": 0, "live": 0, "ready": True}
OPENED: Answer = (200, {}, ABOUT)
BROKEN: Answer = (0, {}, None)
NAMES: Answer = (200, {}, {"collections": ["c"]})


def refusal(status: int, error: str, wait: str = "0") -> Answer:
    return status, {"Retry-After": wait}, {"error": error, "detail": f"it is {error}"}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as short as they come, but for those that the service asks for."""
    monkeypatch.setattr("vecmeta.client.link.FIRST_PAUSE", 0.01)


@pytest.mark.usefixtures("hasty")
def test_a_busy_service_is_asked_again() -> None:
    with Scripted(BROKEN, refusal(503, "storage_busy"), NAMES) as server, Client(server.url) as client:
        assert client.collections() == ["c"]
        assert len(server.asked) == 3
    with Scripted(refusal(429, "too_many_requests"), (502, {}, b"<html>"), NAMES) as server:

        async def run() -> None:
            async with AsyncClient(server.url) as client:
                assert await client.collections() == ["c"]

        asyncio.run(run())
        assert len(server.asked) == 3


def test_it_waits_as_long_as_it_is_told() -> None:
    with Scripted(refusal(429, "too_many_requests", "1"), NAMES) as server, Client(server.url) as client:
        began = time.monotonic()
        client.collections()
        assert 1 <= time.monotonic() - began < 3


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("answer", "kind", "asked"),
    [
        (refusal(503, "overloaded"), "Overloaded", 3),
        (refusal(429, "too_many_requests"), "TooManyRequests", 3),
        (refusal(429, "too_many_requests", "3600"), "TooManyRequests", 1),  # nobody waits for an hour
        (refusal(503, "timeout"), "Timeout", 1),
        (refusal(503, "encoder_unavailable"), "EncoderUnavailable", 1),
        (refusal(507, "storage_full"), "StorageFull", 1),
        (refusal(422, "invalid_request"), "InvalidRequest", 1),
        (refusal(500, "internal"), "ServiceError", 1),
        ((404, {}, b"<html>nginx</html>"), "ServiceError", 1),
        ((200, {}, b"<html>hello</html>"), "ServiceError", 1),
        ((307, {"Location": "/"}, b""), "ServiceError", 1),
        (BROKEN, "Unreachable", 3),
    ],
)
def test_what_is_asked_again_and_what_is_raised(answer: Any, kind: str, asked: int) -> None:
    with Scripted(answer) as server, Client(server.url) as client:
        with pytest.raises(vm.VecmetaError) as raised:
            client.collections()
        assert raised.type.__name__ == kind
        assert len(server.asked) == asked
        if kind == "TooManyRequests":
            assert isinstance(raised.value, TooManyRequests)
            assert raised.value.retry_after == float(answer[1]["Retry-After"])
        if kind in ("ServiceError", "Unreachable"):
            assert server.url in str(raised.value) or "it is internal" in str(raised.value)


@pytest.mark.usefixtures("hasty")
def test_what_must_not_happen_twice_is_not_asked_again() -> None:
    verbs: list[Callable[[Client, RemoteCollection], object]] = [
        lambda _, c: c.rollback(),
        lambda _, c: c.adapt(),
        lambda client, _: client.create("c"),
        lambda client, _: client.drop("c"),
    ]
    for verb in verbs:
        for answer, times in ((BROKEN, 1), (refusal(503, "storage_busy"), 1), (refusal(503, "overloaded"), 3)):
            with Scripted(OPENED, answer) as server, Client(server.url) as client:
                c = client.collection("c")
                with pytest.raises(vm.VecmetaError):
                    verb(client, c)
                assert len(server.asked) == 1 + times


def test_no_answer_in_time() -> None:
    with Scripted((-1, {}, None)) as server, Client(server.url, timeout=0.1) as client:
        with pytest.raises(Timeout, match=r"did not answer within 0\.1 s") as late:
            client.collections()
        assert isinstance(late.value, TimeoutError)
        assert len(server.asked) == 1


def test_an_adaptation_that_lost_its_service_names_its_job() -> None:
    job: dict[str, Any] = {
        "id": "a" * 32, "collection": "c", "kind": "adapt", "params": {}, "state": "queued", "done": 0, "total": 0, "eta": None,
        "attempts": 0, "joined": 0, "report": None, "error": None, "created": "2026-01-01T00:00:00Z",
        "due": "2026-01-01T00:00:00Z", "started": None, "finished": None,
    }  # fmt: skip
    with Scripted(OPENED, (202, {}, job), BROKEN) as server, Client(server.url, retries=0) as client:
        with pytest.raises(Unreachable) as lost:
            client.collection("c").adapt()
        assert job["id"] in lost.value.__notes__[0]
        assert not [asked for asked in server.asked if "cancel" in asked]
    failed = {**job, "state": "failed", "error": {"error": "storage_full", "detail": "no space"}}
    with (
        Scripted(OPENED, (202, {}, job), (200, {}, failed)) as server,
        Client(server.url) as client,
        pytest.raises(vm.StorageFull, match="no space"),
    ):
        client.collection("c").adapt()


def test_what_json_cannot_hold_is_told_before_it_is_sent(still: tuple[vm.Collection, RemoteCollection]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be sent as JSON"):
        still[1].search([1, 0, 0, 0], where={"n": 2**70})
    with pytest.raises(InvalidRequest, match="surrogates not allowed"):
        still[1].items(after="\ud800")
    assert issubclass(InvalidRequest, ServiceError)
