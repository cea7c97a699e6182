"""The engines that are measured: one small protocol, one module each, imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

import vecmeta as vm
from vecmeta.types import Keys, Metadata, Vectors

Knob = dict[str, Any]  # how widely an engine searches, in its own words; {} where there is nothing to choose
Found = list[list[tuple[int, Mapping[str, Any] | None]]]  # for each query the hits, best first: the item's number, its metadata
EFS = (
    *(10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 224, 256),
    *(320, 384, 512, 768, 1024, 1536, 2048, 4096),
)
FIELDS = {"shelf": 100, "decile": 10, "half": 2}  # of the metadata, with how many different values


def described(number: int) -> dict[str, str | int]:
    """The metadata of an item."""
    return {"n": number, "shelf": f"s{number % 100}", "decile": number % 10, "half": number % 2}


@dataclass(frozen=True, slots=True)
class Equal:
    """A filter: items whose field has this value."""

    field: str
    value: str | int


FILTERS = tuple(Equal(field, described(value)[field]) for field, values in FIELDS.items() for value in range(values))


def matching(where: Equal, count: int) -> Keys:
    """Which of so many items one of FILTERS lets through: (n,) int64, ascending."""
    first = next(n for n in range(FIELDS[where.field]) if described(n)[where.field] == where.value)
    return np.arange(first, count, FIELDS[where.field], dtype=np.int64)


class Engine(Protocol):
    """What is asked of each, made with a folder, a dimension and a seed.

    Items are numbered from 0 in the order in which they are added, their ids are "item-0", "item-1", …; vectors are unit rows.
    A search hands back what the engine gave, ids and metadata as Python objects; `read` makes that comparable and is not timed.
    """

    stores_metadata: bool

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Add items; (n, dim)."""

    def finish(self) -> None:
        """What remains to be done before searches are at their best: build an index, wait for one."""

    def plans(self, where: str | None) -> list[list[Knob]]:
        """The ways to search without a filter or with one on this field: for each its knobs, from the quickest to the most thorough."""

    def use(self, knob: Knob) -> None:
        """Search with this knob from now on."""

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """The k best for one query (dim,)."""

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """The k best for each of (q, dim) queries."""

    def read(self, answer: Any) -> Found:
        """What `one` or `many` gave."""

    def space(self, vectors: Vectors) -> Vectors:
        """(n, dim): the vectors as the engine compares them."""
        return vectors

    def close(self) -> None:
        """Let go of all it holds."""


class Keeper(Engine, Protocol):
    """An engine whose items can be changed."""

    def upsert(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Replace items."""

    def describe(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Replace the metadata alone; the vectors are those that are stored."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items."""

    def count(self) -> int:
        """How many items there are."""

    def settle(self) -> float | None:
        """Wait for what goes on behind the calls, and say for how many seconds; None where nothing does."""


OURS = ("vecmeta", "adapted")  # the second one once an adaptation has gone live
_MODULES = {  # module and class, distribution
    "vecmeta": ("vecmeta.bench.peers.ours", "Ours", "vecmeta"),
    "adapted": ("vecmeta.bench.peers.ours", "Adapted", "vecmeta"),
    "faiss": ("vecmeta.bench.peers.raw_faiss", "RawFaiss", "faiss-cpu"),
    "numpy": ("vecmeta.bench.peers.by_hand", "ByHand", "numpy"),
    "chroma": ("vecmeta.bench.peers.chroma", "Chroma", "chromadb"),
    "lancedb": ("vecmeta.bench.peers.lance", "Lance", "lancedb"),
    "qdrant": ("vecmeta.bench.peers.qdrant", "Qdrant", "qdrant-client"),
}
_NEEDS = {
    "faiss": "faiss",
    "numpy": "numpy",
    "chroma": "chromadb",
    "lancedb": "lancedb",
    "qdrant": "qdrant_client",
}  # what they import
PEERS = tuple(_NEEDS)


def chosen(names: Sequence[str] | None, of: Sequence[str] = PEERS) -> list[str]:
    """The peers to measure; None: those that are installed. Raises InvalidConfig: one that is unknown, or asked for and not installed."""
    if names is None:
        return [name for name in of if importlib.util.find_spec(_NEEDS[name])]
    for name in names:
        if name not in of:
            raise vm.InvalidConfig(f"{name!r} is no peer of this benchmark; there are {', '.join(of)}")
        if not importlib.util.find_spec(_NEEDS[name]):
            raise vm.InvalidConfig(f"the peer {name} needs {_MODULES[name][2]}: pip install 'vecmeta[bench]'")
    return list(dict.fromkeys(names))


def made(name: str, folder: Path, dim: int, seed: int) -> Engine:
    """An engine without items that keeps its files in this folder."""
    module, kind, _ = _MODULES[name]
    return cast(Engine, getattr(importlib.import_module(module), kind)(folder, dim, seed))


def version_of(name: str) -> str:
    """The version that is installed."""
    return vm.__version__ if name in OURS else version(_MODULES[name][2])
