"""One suite for every backend: the same calls on each pair of database and index give the same hits, scores and errors.

The oracle is exact search over SQLite. To add a backend, add a line to `BACKENDS`: a name, a function that gives the URL of an empty
database, what `vecmeta.open` is told as the index, and whether that is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters

DATA = Clusters(concepts=12, members=12, dim=24, seed=5)
DIM = DATA.dim
Where = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[str]]


@contextmanager
def on_sqlite(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A folder."""
    yield str(folder / "db")


@contextmanager
def on_postgres(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A database of the server that all tests share."""
    with request.getfixturevalue("postgres").lent() as url:
        yield url


@dataclass(frozen=True)
class Backend:
    """A pair of database and index."""

    database: Where
    index: str | Callable[[pytest.FixtureRequest, Path], str]  # what `vecmeta.open` is told; a function that starts what it takes
    approximate: bool = False


BACKENDS: dict[str, Backend] = {
    "sqlite-exact": Backend(on_sqlite, "exact"),
    "sqlite-faiss": Backend(on_sqlite, "faiss", approximate=True),
    "postgres-exact": Backend(on_postgres, "exact"),
    "postgres-faiss": Backend(on_postgres, "faiss", approximate=True),
}


@contextmanager
def opened(backend: Backend, request: pytest.FixtureRequest, folder: Path) -> Iterator[vm.Database]:
    """An empty database of a backend."""
    index = backend.index if isinstance(backend.index, str) else backend.index(request, folder)
    with backend.database(request, folder) as url, vm.open(url, index=index, device="cpu", files=folder / "files") as db:
        yield db


@dataclass
class Both:
    """The backend in question and the oracle, which are told the same."""

    mine: vm.Database
    oracle: vm.Database
    approximate: bool
    made: int = 0

    def collections(self, fill: bool = True, dim: int = DIM) -> tuple[vm.Collection, vm.Collection]:
        """A new collection in each, with the same items."""
        self.made += 1
        pair = tuple(db.create(f"c{self.made}", encoder="vectors", dim=dim) for db in (self.mine, self.oracle))
        if fill:
            for c in pair:
                c.add_vectors(DATA.ids, DATA.x, about(range(len(DATA.ids))))
        return pair  # type: ignore[return-value]

    def agree(self, pair: tuple[vm.Collection, vm.Collection], ask: Callable[[vm.Collection], Sequence[vm.Hits]]) -> None:
        """The same hits with the same scores, and of each version alone; of an approximate index as good as the same."""
        mine, oracle = (list(ask(c)) for c in pair)
        assert len(mine) == len(oracle)
        found = wanted = 0
        for a, b in zip(mine, oracle, strict=True):
            assert (a.version, len(a)) == (b.version, len(b))
            assert [hit.score for hit in a] == sorted((hit.score for hit in a), reverse=True)
            exact = {hit.id: hit for hit in b}
            for hit in a:
                if hit.id in exact:
                    assert hit.score == pytest.approx(exact[hit.id].score, abs=1e-5)
                    assert (hit.metadata, hit.content) == (exact[hit.id].metadata, exact[hit.id].content)
                    found += 1
                elif b:  # equal scores may come in any order
                    found += abs(hit.score - b[-1].score) < 1e-5
            wanted += len(b)
        assert found >= (0.98 if self.approximate else 1.0) * wanted


def about(rows: Sequence[int]) -> list[dict[str, Any]]:
    """Metadata of every kind."""
    langs = ("en", "de", "日本語", "e'n\"\\")
    return [
        {
            "n": n,
            "label": int(DATA.label[n % len(DATA.label)]),
            "lang": langs[n % 4],
            "half": n / 2,
            "even": n % 2 == 0,
            "none": None,
        }
        | ({"tags": [f"t{n % 5}", n % 3]} if n % 7 else {})
        for n in rows
    ]


@pytest.fixture(scope="module", params=list(BACKENDS))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    backend = BACKENDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    oracle = tmp_path_factory.mktemp("oracle")
    with opened(backend, request, folder) as mine, opened(BACKENDS["sqlite-exact"], request, oracle) as other:
        yield Both(mine, other, backend.approximate)


@pytest.fixture(scope="module")
def filled(both: Both) -> tuple[vm.Collection, vm.Collection]:
    """Two collections that tests only read."""
    return both.collections()


QUERIES = list(np.asarray(np.random.default_rng(1).normal(size=(8, DIM)), np.float32))
FILTERS: list[dict[str, Any]] = [
    {"lang": "en"},
    {"lang": {"$in": ["日本語", "e'n\"\\"]}},
    {"n": {"$gte": 20, "$lt": 60}},
    {"half": 3.5},
    {"even": True},
    {"none": None},
    {"tags": "t1"},
    {"tags": 1},
    {"tags": {"$exists": False}},
    {"lang": {"$ne": "en"}, "$or": [{"n": {"$lt": 9}}, {"label": {"$nin": [1, 2, 3]}}]},
    {"$not": {"even": True}},
    {"n": {"$gt": 10_000}},
    {"lang": {"$gt": "en"}},
]


def test_search(both: Both, filled: tuple[vm.Collection, vm.Collection]) -> None:
    both.agree(filled, lambda c: c.search_many(QUERIES, 10))
    both.agree(filled, lambda c: [c.search(vm.Id(id), 5) for id in DATA.ids[:6]])
    both.agree(filled, lambda c: [c.recommend(DATA.ids[:3], DATA.ids[50:52], 7)])
    both.agree(filled, lambda c: [c.search(QUERIES[0], 10, feedback=[(DATA.ids[3], 1.0), (DATA.ids[70], -1.0)])])


@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_filters(both: Both, filled: tuple[vm.Collection, vm.Collection], where: dict[str, Any]) -> None:
    both.agree(filled, lambda c: c.search_many(QUERIES, 10, where=where))
    mine, oracle = filled
    assert mine.count(where) == oracle.count(where)
    assert mine.items(where, limit=500) == oracle.items(where, limit=500)


def test_more_asked_for_than_there_is(both: Both, filled: tuple[vm.Collection, vm.Collection]) -> None:
    both.agree(filled, lambda c: c.search_many(QUERIES[:2], 10_000))
    assert {len(hits) for hits in filled[0].search_many(QUERIES, 10_000)} == {len(DATA.ids)}


def test_an_empty_collection(both: Both) -> None:
    pair = both.collections(fill=False)
    both.agree(pair, lambda c: c.search_many(QUERIES, 3))
    assert [c.search(QUERIES[0], 3, where={"n": 1}) for c in pair] == [[], []]
    for c in pair:
        c.add_vectors(["only"], DATA.x[:1])
    both.agree(pair, lambda c: c.search_many(QUERIES, 3))
    assert [c.delete(["only", "never"]) for c in pair] == [1, 1]
    both.agree(pair, lambda c: c.search_many(QUERIES, 3))


def test_ids_of_every_kind(both: Both) -> None:
    ids = [
        "a",
        "A",
        "B",
        "b",
        "ä",
        "a b",
        "'; DROP TABLE items --",
        '"',
        "\\",
        "%",
        "日本語",
        "\U0001f600",
        "e\u0301",
        "é",
        "x" * 512,
        "\uffff",
    ]
    pair = both.collections(fill=False)
    for c in pair:
        c.add_vectors(ids, DATA.x[: len(ids)], [{"id": id} for id in ids])
    both.agree(pair, lambda c: c.search_many(list(DATA.x[: len(ids)]), 5))
    mine, oracle = pair
    assert [item.id for item in mine.items(limit=50)] == [item.id for item in oracle.items(limit=50)] == sorted(ids)
    assert [item.id for item in mine.items(after="a b")] == [id for id in sorted(ids) if id > "a b"]
    for id in ids:
        assert mine.search(DATA.x[ids.index(id)], 1, where={"id": id})[0].id == id
    assert mine.get(ids) == oracle.get(ids)


def test_what_is_written_is_found_at_once(both: Both) -> None:
    pair = both.collections()
    rng = np.random.default_rng(4)
    for step in range(6):
        ids = [f"new{step}-{n}" for n in range(5)] + DATA.ids[step * 7 : step * 7 + 4]
        vectors = rng.normal(size=(len(ids), DIM))
        for c in pair:
            c.add_vectors(ids, vectors, about(range(step, step + len(ids))))
            c.delete([DATA.ids[100 + step], f"new{step}-0"])
        for c in pair:
            assert c.search(vectors[1], 1)[0].id == ids[1]
            assert DATA.ids[100 + step] not in {hit.id for hit in c.search(DATA.x[100 + step], 20)}
        both.agree(pair, lambda c, v=vectors: c.search_many([*QUERIES[:3], *v[:3]], 10, where={"n": {"$lt": 120}}))  # type: ignore[misc]
    assert pair[0].count() == pair[1].count()
    both.agree(pair, lambda c: c.search_many(QUERIES, 10))


def test_a_version_goes_live_and_back(both: Both) -> None:
    pair = both.collections()
    reports = []
    for c in pair:
        assert c.feedback(DATA.judgements(range(4), 4)) == vm.Understood(16, 0, 0)
        reports.append([c.adapt(), c.adapt(seed=1, activate=False)])
    mine, oracle = reports
    for a, b in zip(mine, oracle, strict=True):
        assert (a.decision, a.version, a.reason) == (b.decision, b.version, b.reason)
        for name in ("fed_rank", "fed_gain", "neighbours_kept"):
            assert a.metrics[name] == pytest.approx(b.metrics[name], abs=1e-6)
    for version in (None, 0, 1, 2):
        both.agree(pair, lambda c, v=version: c.search_many(QUERIES, 10, version=v))  # type: ignore[misc]
    for c in pair:
        c.activate(2)
        c.add_vectors(["late"], DATA.x[7:8])
        assert c.search(DATA.x[7], 2).version == 2
        assert {hit.id for hit in c.search(DATA.x[7], 2)} == {"late", DATA.ids[7]}
    both.agree(pair, lambda c: c.search_many(QUERIES, 10))
    assert [c.rollback() for c in pair] == [1, 1]
    both.agree(pair, lambda c: c.search_many([*QUERIES, DATA.x[7]], 10))  # what was written meanwhile is there
    assert [c.rollback() for c in pair] == [0, 0]
    both.agree(pair, lambda c: c.search_many(QUERIES, 10))
    assert [[v.live for v in c.versions()] for c in pair] == [[True, False, False]] * 2


def test_the_same_errors(both: Both, filled: tuple[vm.Collection, vm.Collection]) -> None:
    calls: list[Callable[[vm.Collection], object]] = [
        lambda c: c.search(QUERIES[0][:-1]),
        lambda c: c.search(QUERIES[0], 0),
        lambda c: c.search(QUERIES[0], where={"$what": 1}),
        lambda c: c.search(QUERIES[0], version=9),
        lambda c: c.search(vm.Id("missing")),
        lambda c: c.add_vectors(["a", "a"], DATA.x[:2]),
        lambda c: c.add_vectors(["a"], np.full((1, DIM), np.nan)),
        lambda c: c.add_vectors(["new", ""], DATA.x[:2]),
        lambda c: c.feedback([vm.Judgement("missing", concept="x")]),
        lambda c: c.activate(9),
        lambda c: c.rollback(),
        lambda c: c.get(["missing"]),
    ]
    for call in calls:
        said = []
        for c in filled:
            with pytest.raises(vm.VecmetaError) as caught:
                call(c)
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]
    assert filled[0].count() == len(DATA.ids)  # nothing of them was written


def test_a_dropped_collection_is_gone(both: Both) -> None:
    pair = both.collections()
    for c, db in zip(pair, (both.mine, both.oracle), strict=True):
        c.search(QUERIES[0], 1)
        db.drop(c.name)
        assert c.name not in db.collections()
        with pytest.raises(vm.CollectionNotFound):
            c.search(QUERIES[0], 1)
        with pytest.raises(vm.CollectionNotFound):
            c.add_vectors(["a"], DATA.x[:1])
        again = db.create(c.name, encoder="vectors", dim=DIM)
        assert again.search(QUERIES[0], 3) == []
