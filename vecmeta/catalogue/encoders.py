"""Fine-tuned encoders of one collection, and the base vectors that they make of its items and queries: added, never overwritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import and_, delete, insert, select

from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.lists import among
from vecmeta.catalogue.moments import aware
from vecmeta.catalogue.tables import encoders, encodings, items, queries, query_encodings, version_encoders
from vecmeta.errors import EncoderUnavailable
from vecmeta.types import Vectors


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """A fine-tuned encoder; ``folder`` is its name, among those of the collection's encoders."""

    number: int
    name: str
    folder: str
    about: dict[str, Any]
    created: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """A content as it is stored, to be encoded."""

    key: int
    id: str
    digest: bytes | None
    content: str | bytes | None


class EncoderStore:
    """Encoders of one collection beside its own, which has the number 0 and no row."""

    def __init__(self, engine: Engine, collection: int, name: str, dim: int) -> None:
        self._engine, self._id, self._name, self._dim = engine, collection, name, dim

    def put(self, name: str, folder: str, about: Mapping[str, Any]) -> int:
        """Store an encoder and return its number; one of the same name is there already under its number."""
        c = encoders.c
        with self._engine.writing("versions", self._id) as connection:
            number = connection.scalar(select(c.number).where(c.collection == self._id, c.name == name))
            if number is None:
                row = {"name": name, "folder": folder, "about": dict(about), "created": datetime.now(UTC)}
                key = connection.execute(insert(encoders).values(collection=self._id, **row)).inserted_primary_key
                number = key[0] if key else 0
        return int(number)

    def get(self, number: int) -> EncoderRow:
        """One encoder. Raises EncoderUnavailable."""
        c = encoders.c
        query = select(c.number, c.name, c.folder, c.about, c.created).where(c.collection == self._id, c.number == number)
        with self._engine.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise EncoderUnavailable(f"the collection {self._name!r} has no encoder {number}")
        return EncoderRow(*row[:-1], created=aware(row.created))

    def names(self) -> dict[int, str]:
        """The names of the encoders of versions, by version; a version of the collection's own encoder is not among them."""
        v = version_encoders.c
        query = select(v.version, encoders.c.name).join_from(version_encoders, encoders, v.encoder == encoders.c.number)
        with self._engine.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query.where(v.collection == self._id))}

    def remove(self, number: int) -> None:
        """Forget an encoder with all that it made, unless a version is of it."""
        used = select(version_encoders.c.encoder).where(version_encoders.c.collection == self._id)
        mine = (encoders.c.collection == self._id, encoders.c.number == number, encoders.c.number.not_in(used))
        with self._engine.writing("versions", self._id) as connection:
            connection.execute(delete(encoders).where(*mine))

    # -- items ---------------------------------------------------------------------------------------------------------------

    def encoded(self, number: int, keys: Sequence[int]) -> dict[int, bytes]:
        """The vectors of those of the items that were encoded as they are now, by key."""
        e = encodings.c
        same = and_(items.c.key == e.key, items.c.digest == e.digest)
        query = select(e.key, e.vector).join_from(encodings, items, same).where(e.encoder == number)
        with self._engine.reading() as connection:
            return {row[0]: row[1] for row in among(connection, query, e.key, keys)}

    def contents(self, keys: Sequence[int]) -> list[Stored]:
        """The contents of the items that are still there."""
        c = items.c
        query = select(c.key, c.id, c.digest, c.text, c.blob)
        with self._engine.reading() as connection:
            return [
                Stored(key, id, digest, self._engine.text_out(text) if blob is None else blob)
                for key, id, digest, text, blob in among(connection, query, c.key, keys)
            ]

    def keep(self, number: int, contents: Sequence[Stored], vectors: Vectors) -> None:
        """Store vectors (n, dim) of contents; of those that were changed or deleted meanwhile none."""
        rows = [
            {"key": c.key, "encoder": number, "digest": c.digest, "vector": v.tobytes()}
            for c, v in zip(contents, vectors, strict=True)
        ]
        with self._engine.writing("encodings", self._id) as connection:
            query = select(items.c.key, items.c.digest)
            there = {row[0]: row[1] for row in among(connection, query, items.c.key, [c.key for c in contents])}
            rows = [row for row in rows if there.get(int(row["key"])) == row["digest"]]
            if rows:
                statement = self._engine.upsert(encodings)
                fresh = {name: statement.excluded[name] for name in ("digest", "vector")}
                connection.execute(statement.on_conflict_do_update(index_elements=["key", "encoder"], set_=fresh), rows)

    def keys_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The keys of the items that are there, by id."""
        c = items.c
        query = select(c.id, c.key).where(c.collection == self._id)
        with self._engine.reading() as connection:
            return {row[0]: row[1] for row in among(connection, query, c.id, ids)}

    # -- queries of judgements -----------------------------------------------------------------------------------------------

    def queries(self, number: int) -> dict[int, bytes]:
        """The vectors of queries that were encoded, by the query's row."""
        q = query_encodings.c
        query = select(q.query, q.vector).join_from(query_encodings, queries, q.query == queries.c.id)
        with self._engine.reading() as connection:
            rows = connection.execute(query.where(q.encoder == number, queries.c.collection == self._id))
            return {row[0]: row[1] for row in rows}

    def keep_queries(self, number: int, rows: Sequence[int], vectors: Vectors) -> None:
        """Store vectors (n, dim) of queries."""
        values = [{"query": row, "encoder": number, "vector": v.tobytes()} for row, v in zip(rows, vectors, strict=True)]
        with self._engine.writing("encodings", self._id) as connection:
            connection.execute(self._engine.upsert(query_encodings).on_conflict_do_nothing(), values)

    def vectors(self, blobs: Sequence[bytes]) -> Vectors:
        """(n, dim) float32 of stored vectors."""
        return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, self._dim)
