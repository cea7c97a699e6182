"""Chroma, embedded: a persistent client with its own settings but for the distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vecmeta.bench.peers import EFS, Equal, Found, Keeper, Knob
from vecmeta.types import Metadata, Vectors


class Chroma(Keeper):
    """A collection in a folder, cosine distance, vectors given, telemetry off."""

    stores_metadata = True

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        import chromadb
        from chromadb.config import Settings

        self._client = chromadb.PersistentClient(folder / "chroma", settings=Settings(anonymized_telemetry=False))
        self._most = self._client.get_max_batch_size()
        self._collection: Any = self._client.create_collection(
            "bench", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )
        self._ef: int | None = None

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """In as few calls as it allows."""
        for part in self._parts(ids):
            self._collection.add(ids=ids[part], embeddings=vectors[part], metadatas=metadata[part])

    def upsert(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """In as few calls as it allows."""
        for part in self._parts(ids):
            self._collection.upsert(ids=ids[part], embeddings=vectors[part], metadatas=metadata[part])

    def describe(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Without touching vectors."""
        for part in self._parts(ids):
            self._collection.update(ids=ids[part], metadatas=metadata[part])

    def delete(self, ids: Sequence[str]) -> None:
        """In as few calls as it allows."""
        for part in self._parts(ids):
            self._collection.delete(ids=ids[part])

    def count(self) -> int:
        """Of items."""
        return int(self._collection.count())

    def settle(self) -> float | None:
        """It indexes as it is filled."""
        return None

    def plans(self, where: str | None) -> list[list[Knob]]:
        """Its graph."""
        return [[{"ef_search": ef} for ef in EFS]]

    def use(self, knob: Knob) -> None:
        """A setting of the collection."""
        if self._ef != knob["ef_search"]:
            self._ef = knob["ef_search"]
            self._collection.modify(configuration={"hnsw": {"ef_search": self._ef}})

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """With ids, metadata and distances."""
        return self.many(query[None], k, where)

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """With ids, metadata and distances."""
        wanted = None if where is None else {where.field: where.value}
        return self._collection.query(query_embeddings=queries, n_results=k, where=wanted, include=["metadatas", "distances"])

    def read(self, answer: Any) -> Found:
        """Lists by query, of ids and of metadata."""
        return [
            [(int(id.removeprefix("item-")), about) for id, about in zip(ids, metadata, strict=True)]
            for ids, metadata in zip(answer["ids"], answer["metadatas"], strict=True)
        ]

    def _parts(self, ids: Sequence[str]) -> Iterator[slice]:
        return (slice(start, start + self._most) for start in range(0, len(ids), self._most))
