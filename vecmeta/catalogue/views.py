"""Items and judgements as one encoder sees them: what learning and indexing ask of a catalogue, whichever encoder it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from vecmeta.catalogue.items import Changes
from vecmeta.catalogue.judgements import AskedQuery, Opinion, Word
from vecmeta.types import Keys, Vectors
from vecmeta.where import Node


class ItemVectors(Protocol):
    """The base vectors of a collection's items; `ItemStore` tells what the methods promise."""

    def keys(self, where: Node | None = None) -> Keys:
        """The keys of the items that match."""

    def base_vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        """(dim,) each of the items that are there, by id."""

    def vectors(self, keys: Keys) -> tuple[Keys, Vectors, list[str]]:
        """Of the given keys those still there, their base vectors (n, dim) and ids."""

    def count(self) -> int:
        """How many items there are."""

    def revision(self) -> int:
        """The number of the last write."""

    def changes(
        self, since: int, key: int = 0, *, described: bool = False, limit: int | None = None
    ) -> AbstractContextManager[Changes]:
        """What came after a revision."""


class Log(Protocol):
    """The judgements that count, and the queries that they speak of; `JudgementLog` tells what the methods promise."""

    def opinions(self) -> list[Opinion]:
        """The latest word on everything."""

    def words(self) -> list[list[Word]]:
        """What more than one user spoke of."""

    def asked(self) -> dict[int, AskedQuery]:
        """The queries, with their base vectors."""
