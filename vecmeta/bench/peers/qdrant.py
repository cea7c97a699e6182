"""qdrant-client's local mode: exact search in Python, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vecmeta.bench.peers import Engine, Equal, Found, Knob
from vecmeta.types import Metadata, Vectors


class Qdrant(Engine):
    """A local collection without a server; it has no index, so there is nothing to tune. Its ids are whole numbers."""

    stores_metadata = True

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        from qdrant_client import QdrantClient, models

        self._models = models
        self._client = QdrantClient(":memory:")
        self._client.create_collection("bench", vectors_config=models.VectorParams(size=dim, distance=models.Distance.COSINE))

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """One batch."""
        numbers = [about["n"] for about in metadata]
        self._client.upsert("bench", self._models.Batch(ids=numbers, vectors=vectors.tolist(), payloads=list(metadata)))

    def plans(self, where: str | None) -> list[list[Knob]]:
        """One."""
        return [[{"exact": True}]]

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """Points with their payload."""
        return [self._client.query_points("bench", query=query, query_filter=self._filter(where), limit=k, with_payload=True)]

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """Points with their payload."""
        wanted = self._filter(where)
        asked = [self._models.QueryRequest(query=q.tolist(), filter=wanted, limit=k, with_payload=True) for q in queries]
        return self._client.query_batch_points("bench", asked)

    def read(self, answer: Any) -> Found:
        """Responses as they are."""
        return [[(point.id, point.payload) for point in response.points] for response in answer]

    def close(self) -> None:
        """The client."""
        self._client.close()

    def _filter(self, where: Equal | None) -> Any:
        if where is None:
            return None
        match = self._models.MatchValue(value=where.value)
        return self._models.Filter(must=[self._models.FieldCondition(key=where.field, match=match)])
