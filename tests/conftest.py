"""What the tests share: a toy encoder whose vectors can be computed by eye, and databases in temporary folders."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it: no test may touch the network
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its threads write of one test's connection into what another says on stderr

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import vecmeta as vm
from tests import realmilvus
from tests.postgres import QUICK, Postgres, running
from tests.realmilvus import RealMilvus
from vecmeta.index.milvus.link import Link
from vecmeta.index.milvus.options import parse
from vecmeta.shelves.files import FileShelf
from vecmeta.types import Content, Vectors

WORDS = ("red", "green", "blue", "cat", "dog", "car")


class WordCounter:
    """Counts of six words, plus a constant seventh so that no text is the zero vector: 'red cat' -> norm(1 0 0 1 0 0 .1)."""

    dim = len(WORDS) + 1
    modality: Literal["text", "image", "vector"] = "text"

    def __init__(self, name: str = "word-counter@1") -> None:
        self.name = name
        self.encoded = 0

    def encode(self, contents: Sequence[Content]) -> Vectors:
        self.encoded += len(contents)
        rows = []
        for position, text in enumerate(contents):
            if not isinstance(text, str) or not text.strip():
                raise vm.UndecodableContent("a text is needed", position)
            rows.append([float(text.split().count(word)) for word in WORDS] + [0.1])
        x = np.array(rows, dtype=np.float32).reshape(-1, self.dim)
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def index_files(collection: vm.Collection) -> FileShelf:
    """Where a collection keeps its index files."""
    shelf = collection._servings.shelf
    assert isinstance(shelf, FileShelf)
    return shelf


# Modules whose tests run on SQLite and on PostgreSQL: all of those that use the fixture `db`.
ON_BOTH = {"test_collection"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "db" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        metafunc.parametrize("db", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def db(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[vm.Database]:
    if getattr(request, "param", os.environ.get("VECMETA_TEST_DATABASE", "sqlite")) == "postgres":
        url, files = request.getfixturevalue("postgres_url"), tmp_path / "files"
    else:
        url, files = str(tmp_path / "db"), None
    with vm.open(url, device="cpu", files=files) as database:
        yield database


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; starts with the first test that asks for it."""
    with running(**QUICK) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty database; the folder for index files lies in the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with postgres.lent() as url:
        yield url


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For the modules that ask for it: products this small are slower on two threads, and much slower where others compute too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toys(db: vm.Database) -> vm.Collection:
    """Six texts about coloured things."""
    collection = db.create("toys", encoder=WordCounter())
    texts = {"a": "red cat", "b": "green cat", "c": "blue dog", "d": "red car", "e": "blue car", "f": "green dog green"}
    collection.add([vm.Item(id, text, {"words": text.split(), "n": i}) for i, (id, text) in enumerate(texts.items())])
    return collection


class Clusters:
    """Unit vectors of `concepts` x `members` points: domain + concept + noise that lives in a few directions, as style does.

    The base encoder confuses concepts of one style; the labels are the concepts, so teaching has something to gain. With
    ``style=1.2`` teaching some concepts does the others good; from 1.6 on it does them harm.
    """

    def __init__(self, concepts: int = 20, members: int = 20, dim: int = 48, seed: int = 0, style: float = 1.2) -> None:
        rng = np.random.default_rng(seed)
        domain, concept = rng.normal(size=(5, dim)), rng.normal(size=(concepts, dim))
        self.label = np.repeat(np.arange(concepts), members)
        common, directions = 0.8 * rng.normal(size=dim), rng.normal(size=(12, dim)) / np.sqrt(12)
        x = common + 0.8 * domain[self.label % 5] + concept[self.label]
        x += style * rng.normal(size=(len(self.label), 12)) @ directions + 0.5 * rng.normal(size=(len(self.label), dim))
        self.x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)
        self.ids = [f"i{n:05d}" for n in range(len(self.label))]
        self.dim = dim

    def judgements(self, concepts: Sequence[int], shots: int, seed: int = 0) -> list[vm.Judgement]:
        rng = np.random.default_rng(seed)
        rows = [(c, r) for c in concepts for r in rng.permutation(np.flatnonzero(self.label == c))[:shots]]
        return [vm.Judgement(item=self.ids[row], concept=f"concept {c}") for c, row in rows]


@pytest.fixture(scope="session")
def clusters() -> Clusters:
    return Clusters()


@pytest.fixture
def taught(db: vm.Database, clusters: Clusters) -> vm.Collection:
    """400 own vectors with five judgements for each of six concepts; nothing adapted yet."""
    collection = db.create("clusters", encoder="vectors", dim=clusters.dim)
    collection.add_vectors(clusters.ids, clusters.x, [{"label": int(label)} for label in clusters.label])
    collection.feedback(clusters.judgements(range(6), 5))
    return collection


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMilvus]:
    """A real Milvus server for a module's tests."""
    with realmilvus.running(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(scope="module")
def real_milvus(milvus_server: RealMilvus) -> str:
    """Its address."""
    return milvus_server.uri


@pytest.fixture(scope="session")
def lite_link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """milvus-lite in a folder that all tests share."""
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    link = Link(parse("milvus-lite", tmp_path_factory.mktemp("lite")))
    yield link
    link.close()
