"""From what users give, contents, own vectors, queries of any kind, to base vectors; errors say which one it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from vecmeta import intake
from vecmeta.catalogue.catalogue import CollectionRow
from vecmeta.catalogue.judgements import AskedQuery
from vecmeta.catalogue.views import ItemVectors
from vecmeta.encoders.parts import in_parts
from vecmeta.encoders.protocol import Encoder
from vecmeta.encoders.vectors import unit_rows
from vecmeta.errors import EncoderUnavailable, InvalidInput, InvalidVector, ItemNotFound, UndecodableContent
from vecmeta.types import Content, Encoded, Id, Query, Vector, Vectors

OWN = "vectors"  # the spec of a collection of own vectors


class Contents:
    """The base vectors of one collection's contents and queries under one encoder, whose number is 0 if it is the collection's own."""

    def __init__(self, row: CollectionRow, items: ItemVectors, encoder: Encoder | None, number: int = 0) -> None:
        self._row, self._items, self._encoder, self._number = row, items, encoder, number

    def under(self, encoder: Encoder, items: ItemVectors, number: int = 0) -> Contents:
        """The same contents under another encoder."""
        return Contents(self._row, items, encoder, number)

    @property
    def name(self) -> str:
        """Of the collection."""
        return self._row.name

    @property
    def modality(self) -> Literal["text", "image", "vector"] | None:
        """The encoder's; None without one."""
        return None if self._encoder is None else self._encoder.modality

    def encode(self, contents: Sequence[Content], names: Sequence[str]) -> Vectors:
        """(n, dim) unit rows; ``names`` says in errors what each content is. What does not fit into memory is halved."""
        if self._row.spec == OWN:
            raise InvalidInput(
                f"collection {self._row.name!r} holds own vectors of dimension {self._row.dim}: {names[0]} cannot be encoded"
            )
        if self._encoder is None:
            raise EncoderUnavailable(
                f"collection {self._row.name!r} was made with an encoder object ({self._row.encoder}); "
                f"open it with db.collection({self._row.name!r}, encoder=…)"
            )
        try:
            parts = list(in_parts(self._encoder, contents, len(contents)))
        except UndecodableContent as error:
            what = names[error.position] if error.position is not None else names[0]
            raise UndecodableContent(f"{what}: {error}", error.position) from error
        # An encoder object of the caller's may not keep its promise of unit rows.
        return unit_rows(parts[0] if len(parts) == 1 else np.concatenate(parts), self._row.dim, what="encoded content")

    def own(self, part: NDArray[Any], names: Sequence[str]) -> Vectors:
        """Own vectors (n, dim) of any number type as unit rows. Raises InvalidVector that names the first bad one."""
        try:
            return unit_rows(part, self._row.dim)
        except InvalidVector:
            for name, vector in zip(names, part, strict=True):  # one by one, to say whose it is
                try:
                    unit_rows(vector[None], self._row.dim)
                except InvalidVector as error:
                    raise InvalidVector(f"item {name!r}: {error}") from None
            raise

    def of_queries(self, queries: Sequence[Query], what: str = "query") -> Vectors:
        """(q, dim) base vectors of queries of any kind; those with contents are encoded together. Raises ItemNotFound for a missing Id."""
        if all(isinstance(query, np.ndarray) and query.shape == (self._row.dim,) for query in queries) and len(queries) > 1:
            with suppress(InvalidVector):  # below, one by one, it is found which
                return unit_rows(np.array(queries), self._row.dim, what="query")
        out = np.empty((len(queries), self._row.dim), dtype=np.float32)
        contents: dict[int, Content] = {}
        ids: dict[int, str] = {}
        for place, query in enumerate(queries):
            if isinstance(query, Id):
                ids[place] = query.value
            elif isinstance(query, Encoded):
                if query.encoder == self._number:
                    out[place] = query.vector
                else:  # another version went live since
                    contents[place] = query.content
            elif isinstance(query, (str, bytes, Path)):
                contents[place] = query
            else:
                out[place] = self._own_query(query)
        if ids:
            out[list(ids)] = self.of_items(list(ids.values()))
        if contents:
            names = [f"the {what}" if len(queries) == 1 else f"{what} {place}" for place in contents]
            out[list(contents)] = self.encode(list(contents.values()), names)
        return out

    def encoded(self, contents: Sequence[Content]) -> list[Encoded]:
        """Texts or pictures with their base vectors."""
        names = [f"query {place}" if len(contents) > 1 else "the query" for place in range(len(contents))]
        vectors = self.encode(contents, names) if contents else ()
        return [Encoded(content, self._number, vector) for content, vector in zip(contents, vectors, strict=True)]

    def of_items(self, ids: Sequence[str]) -> Vectors:
        """(n, dim) base vectors of items, in the order of the ids. Raises ItemNotFound that names the first missing one."""
        stored = self._items.base_vectors(list(dict.fromkeys(ids)))
        found = [stored[id] if id in stored else self.missing(id) for id in ids]
        return np.stack(found) if found else np.empty((0, self._row.dim), np.float32)

    def missing(self, id: str) -> NoReturn:
        """Raises ItemNotFound."""
        raise ItemNotFound(f"collection {self._row.name!r} has no item {id!r}")

    def asked(self, queries: Sequence[Query]) -> Iterator[AskedQuery]:
        """The queries as the judgement log keeps them, in order; each different one is encoded once."""
        read = [intake.picture(q, "the query of a judgement") if isinstance(q, Path) else q for q in queries]
        marks = [q if isinstance(q, (str, bytes, Id)) else np.asarray(q).tobytes() + b"own" for q in read]
        different = dict(zip(marks, read, strict=True))
        vectors = self.of_queries(list(different.values()))
        kept = {mark: _as_asked(q, v) for (mark, q), v in zip(different.items(), vectors, strict=True)}
        return (kept[mark] for mark in marks)

    def _own_query(self, query: object) -> Vector:
        vector = np.asarray(query)
        if vector.ndim != 1 or vector.dtype.kind not in "fiu":
            raise InvalidVector(
                f"a query is a text, a picture (bytes or Path), a vecmeta.Id or an array of {self._row.dim} numbers, "
                f"not a {type(query).__name__} of shape {vector.shape}"
            )
        unit: Vector = unit_rows(vector[None], self._row.dim, what="query")[0]
        return unit


def _as_asked(query: Query, vector: Vector) -> AskedQuery:
    if isinstance(query, Id):
        return AskedQuery("item", query.value, None, None)
    if isinstance(query, str):
        return AskedQuery("text", query, None, vector.tobytes())
    if isinstance(query, bytes):
        return AskedQuery("image", None, query, vector.tobytes())
    return AskedQuery("vector", None, vector.tobytes(), vector.tobytes())
