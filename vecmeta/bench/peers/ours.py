"""vecmeta itself, through its public interface; as it is, and once an adaptation has gone live."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vecmeta as vm
from vecmeta.bench.cold import go_live
from vecmeta.bench.peers import Equal, Found, Keeper, Knob
from vecmeta.bench.streams import CHUNK, Stream, settled, teach
from vecmeta.index.faiss_index import FaissIndex
from vecmeta.types import Metadata, Vectors

NAME = "bench"


class Ours(Keeper):
    """A collection of own vectors under the untouched encoder."""

    stores_metadata = True

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._database = vm.open(folder / "data", device="cpu")
        self.collection = self._database.create(NAME, encoder="vectors", dim=dim)

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """One batch."""
        self.collection.add_vectors(ids, vectors, metadata)

    upsert = describe = add  # a batch replaces what is there, and vectors that are as they were are its business

    def delete(self, ids: Sequence[str]) -> None:
        """One batch."""
        self.collection.delete(ids)

    def count(self) -> int:
        """Of items."""
        return self.collection.count()

    def settle(self) -> float | None:
        """Until the index is as it will stay."""
        return settled(self.collection) if hasattr(self.collection, "settle") else None

    def finish(self) -> None:
        """Wait for what works in the background."""
        self.settle()

    def plans(self, where: str | None) -> list[list[Knob]]:
        """One: how widely it searches is its own affair."""
        return [[{"ef_search": inspect.signature(FaissIndex).parameters["ef_search"].default}]]

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """The live version's."""
        return [self.collection.search(query, k, where=_filter(where))]

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """The live version's."""
        return self.collection.search_many(list(queries), k, where=_filter(where))

    def read(self, answer: Any) -> Found:
        """Hits as they are."""
        return [[(int(hit.id.removeprefix("item-")), hit.metadata) for hit in hits] for hits in answer]

    def space(self, vectors: Vectors) -> Vectors:
        """Under the live version."""
        return self.collection.embed(vectors)

    def close(self) -> None:
        """The whole database."""
        self._database.close()


class Adapted(Ours):
    """The same, taught: every search has to project its query."""

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        super().__init__(folder, dim, seed)
        self._first: list[Vectors] = []

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """One batch; the first of them are what is taught."""
        super().add(ids, vectors, metadata)
        if sum(map(len, self._first)) < CHUNK:
            self._first.append(vectors)

    def finish(self) -> None:
        """Judge some items, adapt, go live."""
        import numpy as np

        path = self._folder / "first.npy"
        np.save(path, np.concatenate(self._first))
        self._first = []
        teach(self.collection, Stream.of_file(path, CHUNK, self._seed))
        go_live(self.collection, self.collection.adapt(seed=self._seed))
        super().finish()


def _filter(where: Equal | None) -> dict[str, Any] | None:
    return None if where is None else {where.field: where.value}
