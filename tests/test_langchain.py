"""The LangChain store: LangChain's own standard tests in both modes, and what only vecmeta has."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import IndexingResult, InMemoryRecordManager, index
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from langchain_tests.integration_tests.vectorstores import EMBEDDING_SIZE

import vecmeta as vm
from tests.conftest import Clusters, WordCounter
from vecmeta.langchain import VecmetaVectorStore, _Collection
from vecmeta.types import Content, Vectors

for _name, _member in vars(VectorStoreIntegrationTests).items():
    if inspect.iscoroutinefunction(_member):
        pytest.mark.asyncio(_member)  # they count on asyncio's automatic mode, and may not be overridden


class Words(Embeddings):
    """The toy encoder as LangChain knows encoders; not of unit length, as LangChain allows."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._counter = WordCounter()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(len(texts))
        return [[3 * x for x in row] for row in self._counter.encode(texts).tolist()]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class Embedder:
    """LangChain's encoder as vecmeta knows encoders."""

    name = "langchain-fake@1"
    dim = EMBEDDING_SIZE
    modality: Literal["text", "image", "vector"] = "text"

    def __init__(self, embedding: Embeddings) -> None:
        self._embedding = embedding

    def encode(self, contents: Sequence[Content]) -> Vectors:
        return np.asarray(self._embedding.embed_documents([str(text) for text in contents]), np.float32).reshape(-1, self.dim)


class TestStandardOwnEncoder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, db: vm.Database) -> VectorStore:
        return VecmetaVectorStore(db.create("docs", encoder=Embedder(self.get_embeddings())))


class TestStandardEmbedding(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, db: vm.Database) -> VectorStore:
        return VecmetaVectorStore(db.create("docs", encoder="vectors", dim=EMBEDDING_SIZE), self.get_embeddings())


class OnlyVerbs:
    """A collection that is no vecmeta.Collection and has nothing but what the store's protocol names."""

    def __init__(self, collection: vm.Collection) -> None:
        self._collection = collection

    def __getattr__(self, verb: str) -> Any:
        if verb not in {name for name in vars(_Collection) if not name.startswith("_")}:
            raise AttributeError(verb)
        return getattr(self._collection, verb)


TEXTS = {"a": "red cat", "b": "green cat", "c": "blue dog", "d": "red car", "e": "blue car", "f": "green dog green"}


@pytest.fixture(params=["own encoder", "embedding"])
def store(db: vm.Database, request: pytest.FixtureRequest) -> VecmetaVectorStore:
    """The six texts of the toys, in either mode; b is of 2021, and so on."""
    if request.param == "embedding":
        made = VecmetaVectorStore(OnlyVerbs(db.create("docs", encoder="vectors", dim=WordCounter.dim)), Words())
    else:
        made = VecmetaVectorStore(OnlyVerbs(db.create("docs", encoder=WordCounter())))
    about = [{"year": 2020 + n, "lang": "en" if n % 2 else "de"} for n in range(len(TEXTS))]
    assert made.add_texts(TEXTS.values(), about, ids=list(TEXTS)) == list(TEXTS)
    return made


def ids(documents: Sequence[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_a_filter_is_on_the_documents_own_metadata(store: VecmetaVectorStore) -> None:
    found = store.similarity_search("red cat", 10, filter={"lang": "en", "year": {"$gte": 2022}})
    assert sorted(map(str, ids(found))) == ["d", "f"]
    assert found[0] == Document(id="d", page_content="red car", metadata={"year": 2023, "lang": "en"})
    retriever = store.as_retriever(search_kwargs={"k": 10, "filter": {"$or": [{"year": 2020}, {"year": 2025}]}})
    assert ids(retriever.invoke("red cat")) == ["a", "f"]
    with pytest.raises(vm.InvalidFilter, match=r"\$about"):
        store.similarity_search("red cat", filter={"year": {"$about": 2020}})


def test_scores_are_cosines_and_relevance_lies_between_0_and_1(store: VecmetaVectorStore) -> None:
    scored = store.similarity_search_with_score("red cat", 10)
    assert scored[0][0].id == "a"
    assert scored[0][1] == pytest.approx(1)
    assert {d.id: s for d, s in scored}["b"] == pytest.approx((1 + 0.01) / 2.01)
    relevant = store.similarity_search_with_relevance_scores("red cat", 10)
    assert [r for _, r in relevant] == pytest.approx([(1 + s) / 2 for _, s in scored])
    assert all(0 <= r <= 1 for _, r in relevant)
    sure = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.7, "k": 10})
    assert set(ids(sure.invoke("red cat"))) == {"a", "b", "d"}
    relevance = store._select_relevance_score_fn()
    assert [relevance(x) for x in (-1.0000001, -1, 0, 1, 1.0000001)] == [0, 0, 0.5, 1, 1]


def test_search_by_vector_and_k_beyond_the_collection(store: VecmetaVectorStore) -> None:
    blue_dog = WordCounter().encode(["blue dog"])[0].tolist()
    assert ids(store.similarity_search_by_vector(blue_dog, 1)) == ["c"]
    assert len(store.similarity_search_by_vector(blue_dog, 1000)) == len(TEXTS)
    assert ids(store.max_marginal_relevance_search_by_vector(blue_dog, 1)) == ["c"]
    assert len(store.max_marginal_relevance_search("blue dog", 1000)) == len(TEXTS)
    with pytest.raises(vm.InvalidVector, match="7"):
        store.similarity_search_by_vector([1.0, 2.0])
    with pytest.raises(vm.InvalidConfig, match="k is a whole number"):
        store.similarity_search("blue dog", 0)


def diverse(query: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], names: Sequence[str], k: int, weight: float) -> list[str]:
    """Marginal relevance by its definition; rows of unit length."""
    chosen: list[int] = []
    while len(chosen) < k:
        left = [n for n in range(len(rows)) if n not in chosen]
        near = {n: weight * rows[n] @ query - (1 - weight) * max((rows[n] @ rows[m] for m in chosen), default=0) for n in left}
        chosen.append(max(left, key=near.__getitem__))
    return [names[n] for n in chosen]


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.9])
def test_marginal_relevance_is_what_its_definition_says(store: VecmetaVectorStore, weight: float) -> None:
    query = "red red red red green green blue cat dog dog"  # no two texts are equally near
    x = WordCounter().encode([query, *TEXTS.values()]).astype(np.float64)
    found = store.max_marginal_relevance_search(query, 4, 6, weight)
    assert ids(found) == diverse(x[0], x[1:], list(TEXTS), 4, weight)
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 4, "fetch_k": 6, "lambda_mult": weight})
    assert retriever.invoke(query) == found


def test_marginal_relevance_by_nearness_alone_is_the_search(store: VecmetaVectorStore) -> None:
    bent: list[tuple[str, float]] = [("f", 1.0), ("a", -1.0)]
    near = store.similarity_search("red car dog", 6, feedback=bent)
    assert ids(near) != ids(store.similarity_search("red car dog", 6))
    assert store.max_marginal_relevance_search("red car dog", 3, 6, 1.0, feedback=bent) == near[:3]
    assert store.max_marginal_relevance_search("red", filter={"year": 1900}) == []
    with pytest.raises(vm.InvalidConfig, match=r"lambda_mult is a number from 0 to 1, not 1\.5"):
        store.max_marginal_relevance_search("red", lambda_mult=1.5)


def test_feedback_bends_one_query_through_a_retriever(store: VecmetaVectorStore) -> None:
    plain, bent = store.as_retriever(), store.as_retriever(search_kwargs={"feedback": [("a", 1.0)], "version": 0})
    assert set(ids(plain.invoke("blue dog"))[:2]) != {"c", "a"}
    assert set(ids(bent.invoke("blue dog"))[:2]) == {"c", "a"}
    scored = {d.id: s for d, s in store.similarity_search_with_score("red car", 6)}
    moved = {d.id: s for d, s in store.similarity_search_with_score("red car", 6, feedback=[("e", 1.0)])}
    assert moved["e"] > scored["e"]
    with pytest.raises(vm.VersionNotFound):
        store.similarity_search("red car", version=7)


UNKNOWN: dict[str, Callable[[Any], object]] = {
    "similarity_search": lambda s: s.similarity_search("red", fliter={}),
    "with_score": lambda s: s.similarity_search_with_score("red", fliter={}),
    "by_vector": lambda s: s.similarity_search_by_vector([1.0] * 7, fliter={}),
    "mmr": lambda s: s.max_marginal_relevance_search("red", fliter={}),
    "mmr_by_vector": lambda s: s.max_marginal_relevance_search_by_vector([1.0] * 7, fliter={}),
    "relevance": lambda s: s.similarity_search_with_relevance_scores("red", fliter={}),
    "retriever": lambda s: s.as_retriever(search_kwargs={"fliter": {}}).invoke("red"),
    "add_texts": lambda s: s.add_texts(["red"], fliter={}),
    "add_documents": lambda s: s.add_documents([Document("red")], fliter={}),
    "delete": lambda s: s.delete(["a"], fliter={}),
    "adapt": lambda s: s.adapt(fliter={}),
    "from_texts": lambda s: type(s).from_texts(["red"], s.embeddings, collection=s.collection, fliter={}),
    "from_documents": lambda s: type(s).from_documents([Document("red")], s.embeddings, collection=s.collection, fliter={}),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_an_unknown_argument_is_an_error(store: VecmetaVectorStore, call: str) -> None:
    with pytest.raises(TypeError, match="fliter"):
        UNKNOWN[call](store)
    assert ids(store.get_by_ids(list(TEXTS))) == list(TEXTS)


def test_get_and_delete(store: VecmetaVectorStore) -> None:
    assert ids(store.get_by_ids(["e", "nobody", "a", "nowhere", "c"])) == ["e", "a", "c"]
    assert store.get_by_ids([]) == []
    assert store.delete(["a", "nobody"]) is True
    assert ids(store.get_by_ids(["a", "b"])) == ["b"]
    assert store.delete() is True
    assert store.similarity_search("red cat") == []
    assert store.max_marginal_relevance_search("red cat") == []


def test_ids_are_made_and_replace(store: VecmetaVectorStore) -> None:
    made = store.add_documents([Document("cat cat"), Document("dog car", id="a")])
    assert made[1] == "a"
    assert len(made[0]) == 36
    assert store.get_by_ids(["a"]) == [Document(id="a", page_content="dog car")]
    assert store.add_texts([]) == []
    assert len(store.similarity_search("cat", 100)) == len(TEXTS) + 1


BAD: dict[str, tuple[Callable[[VecmetaVectorStore], object], str]] = {
    "metadata not JSON": (
        lambda s: s.add_texts(["red", "cat"], [{}, {"at": {1}}], ids=["x", "y"]),
        r"item 'y': metadata.*'at'.*set",
    ),
    "metadata no object": (lambda s: s.add_texts(["red"], [["en"]], ids=["x"]), "item 'x': metadata is a JSON object"),  # type: ignore[list-item]
    "an empty text": (lambda s: s.add_texts(["red", " "], ids=["x", "y"]), "a text is needed"),
    "no text": (lambda s: s.add_texts(["red", b"cat"]), "text 1 of the batch is a bytes"),  # type: ignore[list-item]
    "one text": (lambda s: s.add_texts("red cat"), "texts are a list of texts"),
    "the same id twice": (lambda s: s.add_texts(["red", "cat"], ids=["x", "x"]), "'x' stands twice"),
    "too few ids": (lambda s: s.add_texts(["red", "cat"], ids=["x"]), "2 texts need as many .* not 2 and 1"),
    "too few metadata": (lambda s: s.add_texts(["red", "cat"], [{}]), "2 texts need as many .* not 1 and 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_documents_are_named_and_nothing_is_written(store: VecmetaVectorStore, what: str) -> None:
    call, message = BAD[what]
    with pytest.raises((vm.InvalidItem, vm.UndecodableContent), match=message):
        call(store)
    assert len(store.similarity_search("red", 100)) == len(TEXTS)


def test_an_error_on_a_document_without_an_id_says_its_place(store: VecmetaVectorStore) -> None:
    with pytest.raises(vm.InvalidItem, match="metadata") as caught:
        store.add_documents([Document("red cat"), Document("blue car", metadata={"at": object()})])
    assert "is document 1 of the batch: 'blue car'" in caught.value.__notes__[0]


def test_the_text_has_a_key_of_its_own(db: vm.Database) -> None:
    own = db.create("own", encoder="vectors", dim=WordCounter.dim)
    store = VecmetaVectorStore(own, Words())
    with pytest.raises(vm.InvalidItem, match=r"item 'x': metadata has the key 'page_content'.*content_key"):
        store.add_texts(["red"], [{"page_content": "mine"}], ids=["x"])
    other = VecmetaVectorStore(own, Words(), content_key="text")
    other.add_texts(["red"], [{"page_content": "mine"}], ids=["x"])
    assert other.get_by_ids(["x"]) == [Document(id="x", page_content="red", metadata={"page_content": "mine"})]
    assert own.get(["x"])[0].metadata == {"page_content": "mine", "text": "red"}
    own.add_vectors(["bare"], np.eye(1, WordCounter.dim))
    with pytest.raises(vm.InvalidItem, match="item 'bare' of collection 'own' has no text under 'page_content'"):
        store.get_by_ids(["bare"])


def test_an_embedding_is_asked_in_batches_and_not_for_bad_metadata(db: vm.Database) -> None:
    words = Words()
    store = VecmetaVectorStore(db.create("own", encoder="vectors", dim=WordCounter.dim), words)
    store.add_texts(["red", "cat", "dog", "car", "blue"], batch_size=2)
    assert words.batches == [2, 2, 1]
    with pytest.raises(vm.InvalidItem):
        store.add_texts(["red"], [{"at": object()}])
    with pytest.raises(vm.InvalidItem):
        store.add_texts(["red", "cat"], ids=["x", "x"])
    assert words.batches == [2, 2, 1]
    with pytest.raises(vm.InvalidConfig, match="batch_size"):
        store.add_texts(["red"], batch_size=0)


def test_the_collection_must_fit_the_mode(db: vm.Database) -> None:
    with pytest.raises(
        vm.InvalidConfig, match=r"without an embedding needs a collection with a text encoder.*'own' takes vector"
    ):
        VecmetaVectorStore(db.create("own", encoder="vectors", dim=3))
    with pytest.raises(vm.InvalidConfig, match=r"with the embedding Words needs .*encoder='vectors'.*'text' takes text"):
        VecmetaVectorStore(db.create("text", encoder=WordCounter()), Words())


def test_a_store_from_a_path(tmp_path: Path) -> None:
    documents = [Document("red cat", id="a", metadata={"lang": "en"}), Document("blue dog")]
    with VecmetaVectorStore.from_documents(documents, Words(), path=tmp_path, collection_name="d") as store:
        assert ids(store.similarity_search("cat", 1)) == ["a"]
        assert (tmp_path / "vecmeta.db-wal").exists()
    assert not (tmp_path / "vecmeta.db-wal").exists()  # the database is closed
    with VecmetaVectorStore.from_texts(["green car"], Words(), [{"lang": "de"}], path=tmp_path, collection_name="d") as store:
        assert len(store.similarity_search("cat", 10)) == 3  # what was there stays
        assert store.get_by_ids(["a"]) == [documents[0]]
    with vm.open(tmp_path) as db:
        assert db.collections() == ["d"]


def test_a_store_that_cannot_be_made_leaves_no_collection(tmp_path: Path, db: vm.Database) -> None:
    with pytest.raises(vm.UndecodableContent):
        VecmetaVectorStore.from_texts(["red", " "], Words(), path=tmp_path / "new")
    assert not (tmp_path / "new" / "vecmeta.db-wal").exists()
    with vm.open(tmp_path / "new") as other:
        assert other.collections() == []
    there = db.create("there", encoder=WordCounter())
    for given in ({}, {"collection": there, "path": tmp_path}):
        with pytest.raises(vm.InvalidConfig, match="either collection=, or path="):
            VecmetaVectorStore.from_texts(["red"], **given)  # type: ignore[arg-type]
    assert there.count() == 0
    assert ids(VecmetaVectorStore.from_texts(["red"], collection=there, ids=["x"]).similarity_search("red")) == ["x"]


@pytest.mark.asyncio
async def test_a_store_made_and_searched_without_waiting(db: vm.Database) -> None:
    there: Any = db.create("there", encoder=WordCounter())
    none: Any = None
    store = await VecmetaVectorStore.afrom_documents([Document("red cat", id="a"), Document("blue dog")], none, collection=there)
    assert ids(await store.as_retriever(search_kwargs={"k": 1, "filter": {}}).ainvoke("cat")) == ["a"]
    assert len(await store.amax_marginal_relevance_search("cat", 2, version=0)) == 2


def test_langchains_indexing_keeps_the_store_in_step(store: VecmetaVectorStore) -> None:
    records = InMemoryRecordManager("docs")
    records.create_schema()
    pages = [Document(text, metadata={"source": text[-3:]}) for text in ("green cat red", "blue car dog")]

    def step(documents: list[Document]) -> IndexingResult:
        return index(documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")

    assert step(pages) == {"num_added": 2, "num_updated": 0, "num_skipped": 0, "num_deleted": 0}
    assert step(pages[1:]) == {"num_added": 0, "num_updated": 0, "num_skipped": 1, "num_deleted": 1}
    found = store.similarity_search("dog", 100, filter={"source": {"$exists": True}})
    assert [document.page_content for document in found] == ["blue car dog"]


class Points(Embeddings):
    """The clusters' vectors; a text is an item's id."""

    def __init__(self, clusters: Clusters) -> None:
        self._x: dict[str, list[float]] = dict(zip(clusters.ids, clusters.x.tolist(), strict=True))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._x[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._x[text]


@pytest.fixture
def points(db: vm.Database, clusters: Clusters) -> tuple[VecmetaVectorStore, vm.Collection]:
    collection = db.create("points", encoder="vectors", dim=clusters.dim)
    about = [{"label": int(label)} for label in clusters.label]
    store = VecmetaVectorStore.from_texts(clusters.ids, Points(clusters), about, ids=clusters.ids, collection=collection)
    return store, collection


def test_marginal_relevance_of_queries_outside_the_span_of_what_was_found(
    points: tuple[VecmetaVectorStore, vm.Collection], clusters: Clusters
) -> None:
    store, collection = points
    for query in clusters.x[::40] + np.random.default_rng(0).normal(scale=0.3, size=(10, clusters.dim)):
        near = [hit.id for hit in collection.search(query, 10)]
        found = store.max_marginal_relevance_search_by_vector(query.tolist(), 5, 10, 0.6)
        rows = collection.embed([vm.Id(id) for id in near]).astype(np.float64)
        assert ids(found) == diverse(query / np.linalg.norm(query), rows, near, 5, 0.6)


def test_a_retriever_learns(points: tuple[VecmetaVectorStore, vm.Collection], clusters: Clusters) -> None:
    store, collection = points
    concepts: dict[str, list[str]] = {}
    for judgement in clusters.judgements(range(6), 5):
        concepts.setdefault(str(judgement.concept), []).append(judgement.item)
    assert store.teach(concepts, user="ada") == vm.Understood(30, 0, 0)
    assert {(j.item, j.concept, j.user) for j in collection.judgements()} == {
        (id, concept, "ada") for concept, members in concepts.items() for id in members
    }

    def right(**options: Any) -> float:
        retriever = store.as_retriever(search_kwargs={"k": 20, **options})
        found = [(label, retriever.invoke(id)) for id, label in zip(clusters.ids[:120:3], clusters.label[:120:3], strict=True)]
        return float(np.mean([document.metadata["label"] == label for label, documents in found for document in documents]))

    def varied(**options: Any) -> list[list[Document]]:
        return [store.max_marginal_relevance_search(id, 5, 20, **options) for id in clusters.ids[:120:6]]

    before, varied_before = right(), varied()
    report = store.adapt()
    assert (report.decision, report.version) == ("promoted", 1)
    assert right() > before + 0.05
    assert right(version=0) == pytest.approx(before)
    assert varied(version=0) == varied_before != varied()


def test_thumbs_are_judgements_on_a_query(store: VecmetaVectorStore) -> None:
    assert store.thumbs("a red pet", up=["a"], down=["d", "e"], user="ada") == vm.Understood(3, 0, 0)
    assert store.thumbs("a red pet", up=["a"], user="ada") == vm.Understood(0, 1, 0)
    report = store.adapt(dry_run=True)  # options reach the collection
    assert (report.decision, report.dry_run) == ("insufficient", True)
    log = store.collection._collection.judgements()  # type: ignore[attr-defined]
    assert [(j.item, j.score, j.user) for j in log][:3] == [("a", 1.0, "ada"), ("d", -1.0, "ada"), ("e", -1.0, "ada")]
    if store.embeddings is None:
        assert {j.query for j in log} == {"a red pet"}
    else:
        assert log[0].query == pytest.approx(WordCounter().encode(["a red pet"])[0], abs=1e-6)


def test_bad_teaching_stores_nothing(store: VecmetaVectorStore) -> None:
    with pytest.raises(vm.ItemNotFound, match="nobody"):
        store.teach({"pets": ["a", "nobody"]})
    with pytest.raises(vm.InvalidConfig, match=r"give \['a'\]"):
        store.teach({"pets": "a"})
    with pytest.raises(vm.InvalidJudgement, match="'a' has its thumb up and down"):
        store.thumbs("pet", ["a"], ["a"])
    with pytest.raises(vm.InvalidInput, match="a query is a text, not a list"):
        store.thumbs(["pet"], ["a"])  # type: ignore[arg-type]
    assert store.collection._collection.judgements() == []  # type: ignore[attr-defined]


def test_langchain_is_imported_only_by_its_module() -> None:
    code = """
import sys, vecmeta
assert not [m for m in sys.modules if m.startswith("langchain")]
sys.modules["langchain_core"] = None  # as if it were not installed
try:
    import vecmeta.langchain
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "vecmeta.langchain needs langchain-core: pip install 'vecmeta[langchain]'"
