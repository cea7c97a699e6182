"""Every backend against the exact index: the same calls, the same hits, and scores to 1e-5.

A backend is what `vecmeta.open` is given as its index, over SQLite and over PostgreSQL. The oracle is index="exact" on SQLite, held
to plain numpy in test_index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import vecmeta as vm
from tests.conftest import Clusters
from tests.test_where import FILTERS, ROWS, nested
from vecmeta.types import Hits, Metadata

pytestmark = pytest.mark.timeout(1200)  # another process that tests may have the one Milvus server first
BACKENDS = ["exact", "faiss", "milvus-lite", "milvus"]
ODD_IDS = ["ключ 1", "日本語", "a\"b'c\\d", "🦊/?&=%", " leading", "ü" * 500]


def metadata(number: int, clusters: Clusters) -> Metadata:
    """Rows of every kind; whole numbers are ones that every backend can compare."""
    odd = {name: 2**40 if value == 10**18 else value for name, value in ROWS[number % len(ROWS)].items()}
    return {**odd, "label": int(clusters.label[number]), "half": number / 2}


@pytest.fixture(scope="module", params=BACKENDS)
def index(request: pytest.FixtureRequest) -> str:
    if request.param == "milvus-lite":
        pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    return str(request.getfixturevalue("real_milvus")) if request.param == "milvus" else str(request.param)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def catalogue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path_factory.mktemp("catalogue"))
    else:
        with request.getfixturevalue("postgres").lent() as url:
            yield url


@pytest.fixture(scope="module")
def database(index: str, catalogue: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vm.Database]:
    with vm.open(catalogue, index=index, device="cpu", files=tmp_path_factory.mktemp("backend")) as db:
        yield db
        for name in db.collections():
            db.drop(name)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vm.Database]:
    with vm.open(tmp_path_factory.mktemp("oracle"), index="exact", device="cpu") as db:
        yield db


class Both:
    """The same collection twice; each call goes to both, and what comes back must be the same."""

    def __init__(self, databases: tuple[vm.Database, vm.Database], name: str, dim: int) -> None:
        self.tested, self.oracle = (db.create(name, encoder="vectors", dim=dim) for db in databases)

    def call(self, function: Callable[[vm.Collection], Any]) -> Any:
        found, true = function(self.tested), function(self.oracle)
        assert found == true
        return found

    def agree(self, query: Any, k: int = 10, **how: Any) -> Hits:
        """The k best: their scores are the k best there are, each is its item's own, and items are as they were given."""
        found, true = self.tested.search(query, k, **how), self.oracle.search(query, k, **how)
        everything = {hit.id: hit for hit in self.oracle.search(query, 10_000, **how)}
        assert found.version == true.version
        assert len(found) == len({hit.id for hit in found}) == len(true)
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in true], atol=1e-5)
        for hit in found:
            same = everything[hit.id]
            assert hit.score == pytest.approx(same.score, abs=1e-5)
            assert (hit.metadata, hit.content) == (same.metadata, same.content)
        return found


@pytest.fixture
def life(database: vm.Database, oracle: vm.Database, clusters: Clusters) -> Iterator[Both]:
    """For writing: empty."""
    yield Both((database, oracle), "life", clusters.dim)
    for db in (database, oracle):
        db.drop("life")


@pytest.fixture(scope="module")
def filled(database: vm.Database, oracle: vm.Database, clusters: Clusters) -> Iterator[Both]:
    """For reading: the clusters with metadata of every kind."""
    both = Both((database, oracle), "filled", clusters.dim)
    about = [metadata(number, clusters) for number in range(len(clusters.ids))]
    both.call(lambda c: c.add_vectors(clusters.ids, clusters.x, about))
    yield both
    oracle.drop("filled")


def test_the_same_calls_give_the_same_hits(life: Both, clusters: Clusters) -> None:
    """From the empty collection through writes, deletions and adaptations to a rollback."""
    both = life
    x, n = clusters.x, len(clusters.ids)
    assert both.agree(x[0]) == []
    assert both.agree(x[0], where={"label": 1}) == []
    assert both.call(lambda c: c.delete(["nobody"])) == 0

    both.call(lambda c: c.add_vectors(ODD_IDS, x[: len(ODD_IDS)], [{"odd": True, "ü ö": "ß"}] * len(ODD_IDS)))
    assert {hit.id for hit in both.agree(x[0], 100)} == set(ODD_IDS)  # k > n
    assert both.agree(x[2], 1)[0].id == ODD_IDS[2]
    assert both.agree(vm.Id(ODD_IDS[3]), 1, where={"ü ö": "ß"})[0].id != ODD_IDS[3]

    both.call(lambda c: c.add_vectors(clusters.ids, x, [metadata(number, clusters) for number in range(n)]))
    assert both.call(lambda c: c.count()) == n + len(ODD_IDS)
    for query in (x[7], x[333], -x[5]):
        both.agree(query, 10)
        both.agree(query, n + 50)
    both.agree(x[9], feedback=[(clusters.ids[9], 1.0), (clusters.ids[200], -1.0)])

    # Other vectors and other metadata under the same ids; then some of them go, and one returns.
    moved = clusters.ids[100:140]
    both.call(lambda c: c.add_vectors(moved, np.roll(x[100:140], 1, axis=0), [{"label": -1}] * 40))
    assert {hit.id for hit in both.agree(x[110], 100, where={"label": -1})} == set(moved)
    assert both.call(lambda c: c.delete([*moved[:20], "nobody", ODD_IDS[0]])) == 21
    assert {hit.id for hit in both.agree(x[110], 100, where={"label": -1})} == set(moved[20:])
    both.agree(x[110], n)
    both.call(lambda c: c.add_vectors(moved[:1], x[100:101], [{"label": -2}]))
    assert both.agree(x[100], 1)[0].id == moved[0]

    both.call(lambda c: c.feedback(clusters.judgements([0, 1, 2, 3, 4, 8], 5)))
    report = both.call(lambda c: (r := c.adapt()).version and (r.decision, r.version))
    assert report == ("promoted", 1)
    assert both.agree(x[7]).version == 1
    both.agree(x[7], 5, where={"label": {"$in": [1, 2, 3]}})
    assert both.agree(x[7], version=0).version == 0
    both.call(lambda c: c.add_vectors(["late"], x[50:51] + 0.01))
    assert "late" in {hit.id for hit in both.agree(x[50], 3)}
    assert both.call(lambda c: c.rollback()) == 0
    assert "late" in {hit.id for hit in both.agree(x[50], 3)}
    both.call(lambda c: c.activate(1))
    assert both.agree(x[50], 3).version == 1

    # A number that is no float64, and a text with NUL: filters go another way, and the hits stay the same.
    both.call(lambda c: c.add_vectors(["large", "nul"], x[:2], [{"year": 10**18 + 1, "lang": "en"}, {"lang": "e\0n"}]))
    for where in ({"year": 10**18 + 1}, {"year": {"$gt": 10**18}}, {"lang": "en"}, {"$not": {"lang": "en"}}):
        both.agree(x[0], 50, where=where)


@pytest.mark.parametrize(
    "where",
    [
        {"lang": {"$gt": "d"}},
        {"half": {"$gte": 10, "$lt": 20}},
        {"half": {"$gt": -1e-5}},
        {"half": {"$lt": 1e20}},
        {"label": {"$in": list(range(0, 3000))}},
        {"label": {"$nin": list(range(2, 3000))}},
        {"häß lich.key": {"$exists": True}},
        {"häß lich.key": "ü'; DROP TABLE items --"},
        {"stock": {"$in": [None, True, 1, "true"]}},
        {"$or": [{"tags": 1}, {"tags": "1"}, {"tags": None}]},
        {"year": -0.0},
        {"missing": "x" * 1000},
        nested(32),
    ],
    ids=lambda where: str(where)[:40],
)
def test_filters(filled: Both, clusters: Clusters, where: dict[str, Any]) -> None:
    assert len(filled.agree(clusters.x[3], 500, where=where)) == filled.oracle.count(where)
    filled.agree(clusters.x[3], 3, where=where)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=FILTERS)
def test_any_filter(filled: Both, clusters: Clusters, where: dict[str, Any]) -> None:
    assert len(filled.agree(clusters.x[11], 500, where=where)) == filled.oracle.count(where)


def test_many_at_once_and_recommendations(filled: Both, clusters: Clusters) -> None:
    answers = [c.search_many(list(clusters.x[:30]), 7, where={"half": {"$lt": 150}}) for c in (filled.tested, filled.oracle)]
    for found, true in zip(*answers, strict=True):
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in true], atol=1e-5)
        assert {hit.id for hit in found} == {hit.id for hit in true}
    recommended = [c.recommend(clusters.ids[:2], clusters.ids[50:51], 6) for c in (filled.tested, filled.oracle)]
    assert [hit.id for hit in recommended[0]] == [hit.id for hit in recommended[1]]


def test_bad_input_is_named_the_same(filled: Both, clusters: Clusters) -> None:
    for wrong, kind in [
        (lambda c: c.search(np.zeros(clusters.dim)), vm.InvalidVector),
        (lambda c: c.search(clusters.x[0][:5]), vm.InvalidVector),
        (lambda c: c.search(clusters.x[0], where={"a": {"$like": 1}}), vm.InvalidFilter),
        (lambda c: c.search(clusters.x[0], version=77), vm.VersionNotFound),
        (lambda c: c.search(vm.Id("nobody")), vm.ItemNotFound),
    ]:
        said = []
        for collection in (filled.tested, filled.oracle):
            with pytest.raises(kind) as error:
                wrong(collection)  # type: ignore[no-untyped-call]
            said.append(str(error.value))
        assert said[0] == said[1]


def test_another_process_finds_the_same(
    index: str, catalogue: str, filled: Both, database: vm.Database, clusters: Clusters
) -> None:
    """A second opening of the same database: it does not build again, and follows what the first one writes."""
    before = filled.tested.search(clusters.x[20], 5)
    with vm.open(catalogue, index=index, device="cpu", files=database.folder) as elsewhere:
        there = elsewhere.collection("filled")
        assert there.search(clusters.x[20], 5) == before
        there.add_vectors(["from there"], clusters.x[20:21])
        assert "from there" in {hit.id for hit in filled.tested.search(clusters.x[20], 2)}
        filled.tested.delete(["from there"])
        assert there.search(clusters.x[20], 5) == before
