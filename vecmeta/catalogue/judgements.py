"""The judgement log of one collection: append-only, with time and user; the latest word on the same thing counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, insert, select

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.lists import among
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import judgements, queries
from vecmeta.types import Id, Judgement, Query, Understood, Vectors


@dataclass(frozen=True, slots=True)
class AskedQuery:
    """A query that judgements speak of. ``vector`` is its (dim,) base vector; None when it is an item, whose vector is the item's own."""

    kind: str  # text | image | vector | item
    text: str | None
    blob: bytes | None
    vector: bytes | None

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was asked."""
        content = self.blob if self.blob is not None else (self.text or "").encode()
        return hashlib.sha256(self.kind.encode() + b"\0" + content).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A judgement as it is written: about a concept or about a query."""

    item: str
    concept: str | None
    query: AskedQuery | None
    score: float
    user: str | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """The latest word on an item and a concept or query (``query`` is the query's row, see `JudgementLog.asked`)."""

    item: str
    concept: str | None
    query: int | None
    score: float


@dataclass(frozen=True, slots=True)
class Word:
    """What a user (None: whoever gave no name) said of an item and a concept or query; fields as in `Opinion`."""

    item: str
    concept: str | None
    query: int | None
    user: str | None
    score: float


class JudgementLog:
    """Judgements of one collection."""

    def __init__(self, engine: Engine, collection: int, dim: int) -> None:
        self._engine, self._id, self._dim = engine, collection, dim
        c = judgements.c
        self._log = select(c.seq, c.item, c.concept, c.query, c.user, c.score).where(c.collection == collection)

    def append(self, entries: Sequence[Entry]) -> Understood:
        """Write a batch, all or nothing. A judgement that repeats the latest word, and that user's own, is not written again."""
        counts = {"new": 0, "duplicate": 0, "contradicting": 0}
        with self._engine.writing("log", self._id) as connection:
            digests = [None if entry.query is None else entry.query.digest for entry in entries]
            asked = self._known(connection, digests)
            words = self._said(connection, entries)
            latest = {(w.item, w.concept, w.query): w.score for w in words}
            own = {(w.item, w.concept, w.query, w.user): w.score for w in words}
            fresh = []
            now = datetime.now(UTC)
            for entry, digest in zip(entries, digests, strict=True):
                query = None
                if entry.query is not None and digest is not None:
                    if digest not in asked:
                        q = entry.query
                        values = {"digest": digest, "kind": q.kind, "text": q.text, "blob": q.blob, "vector": q.vector}
                        key = connection.execute(insert(queries).values(collection=self._id, **values)).inserted_primary_key
                        asked[digest] = key[0] if key else 0
                    query = asked[digest]
                about = (entry.item, entry.concept, query)
                before = latest.get(about)
                if before == entry.score:
                    counts["duplicate"] += 1
                    if own.get((*about, entry.user)) == entry.score:
                        continue
                else:
                    counts["contradicting" if before and before * entry.score <= 0 else "new"] += 1
                latest[about] = own[(*about, entry.user)] = entry.score
                fresh.append(
                    {
                        "collection": self._id,
                        "item": entry.item,
                        "concept": entry.concept,
                        "query": query,
                        "score": entry.score,
                        "user": entry.user,
                        "time": now,
                    }
                )
            if fresh:
                connection.execute(insert(judgements), fresh)
        return Understood(**counts)

    def opinions(self) -> list[Opinion]:
        """The latest word on each item and concept or query, in the order of the log; those taken back (score 0) are left out."""
        latest: dict[tuple[object, ...], Opinion] = {}
        with self._engine.reading() as connection:
            words = self._words(connection)
        for word in words:
            about = (word.item, word.concept, word.query)
            if about in latest and latest[about].score == word.score:
                continue  # another user agrees
            latest.pop(about, None)  # so that the order is that of the latest word
            latest[about] = Opinion(*about, word.score)
        return [opinion for opinion in latest.values() if opinion.score != 0]

    def words(self) -> list[list[Word]]:
        """What more than one user spoke of: each user's latest word on it, the latest last."""
        latest: dict[tuple[object, ...], dict[str | None, Word]] = {}
        with self._engine.reading() as connection:
            words = self._words(connection)
        for word in words:
            said = latest.setdefault((word.item, word.concept, word.query), {})
            said.pop(word.user, None)
            said[word.user] = word
        return [list(said.values()) for said in latest.values() if len(said) > 1]

    def _words(self, connection: Connection) -> list[Word]:
        """The whole log, oldest first."""
        return [Word(*row[1:]) for row in connection.execute(self._log.order_by(judgements.c.seq))]

    def _said(self, connection: Connection, entries: Sequence[Entry]) -> list[Word]:
        """What was said of the items of a batch, oldest first: a log grows, and a batch does not."""
        about = dict.fromkeys(entry.item for entry in entries)
        # Sorted here: asked to sort, SQLite would rather read the whole log, which is sorted already.
        rows = sorted(among(connection, self._log, judgements.c.item, about), key=lambda row: row[0])
        return [Word(*row[1:]) for row in rows]

    def _known(self, connection: Connection, digests: Sequence[bytes | None]) -> dict[bytes, int]:
        """Rows of those queries that were asked before, by digest."""
        mine = select(queries.c.digest, queries.c.id).where(queries.c.collection == self._id)
        wanted = dict.fromkeys(digest for digest in digests if digest is not None)
        return {row.digest: row.id for row in among(connection, mine, queries.c.digest, wanted)}

    def asked(self, numbers: Iterable[int] | None = None) -> dict[int, AskedQuery]:
        """The queries that judgements speak of, by their row: those of these rows, or all."""
        c = queries.c
        query = select(c.id, c.kind, c.text, c.blob, c.vector).where(c.collection == self._id)
        with self._engine.reading() as connection:
            found: Sequence[Any] = (
                connection.execute(query).all() if numbers is None else list(among(connection, query, c.id, numbers))
            )
        return {row[0]: AskedQuery(*row[1:]) for row in found}

    def page(self, offset: int = 0, limit: int | None = None) -> list[Judgement]:
        """Of the log, oldest first: without its first `offset`, at most `limit`."""
        c = judgements.c
        columns = (c.item, c.concept, c.query, c.score, c.user, c.time)
        query = select(*columns).where(c.collection == self._id).order_by(c.seq)
        if offset:
            query = query.offset(offset)
        if limit is not None:
            query = query.limit(limit)
        with self._engine.reading() as connection:
            rows = connection.execute(query).all()
        part = bool(offset) or limit is not None
        asked = self.asked({row.query for row in rows if row.query is not None} if part else None)
        return [
            Judgement(item, concept, None if query is None else _asked_as(asked[query]), score, user, aware(time))
            for item, concept, query, score, user, time in rows
        ]

    def count(self) -> int:
        """The length of the log."""
        with self._engine.reading() as connection:
            query = select(func.count()).select_from(judgements).where(judgements.c.collection == self._id)
            return connection.scalar(query) or 0


def _asked_as(query: AskedQuery) -> Query:
    """The query as the user gave it."""
    if query.kind == "item":
        return Id(query.text or "")
    if query.kind == "vector":
        return vector_of(query.vector or b"")
    return query.text if query.blob is None else query.blob  # type: ignore[return-value]  # a text query has its text


def vector_of(stored: bytes) -> Vectors:
    """(dim,) float32 from its stored bytes."""
    return np.frombuffer(stored, dtype="<f4")
