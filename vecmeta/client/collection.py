"""A collection on a service: the verbs of `vecmeta.Collection`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from vecmeta import intake
from vecmeta.client.errors import TooLarge
from vecmeta.client.link import Steps, encoded
from vecmeta.client.records import (
    RemoteHits,
    batches,
    hits_of,
    item_of,
    possible,
    real_ids,
    sent_bends,
    sent_items,
    sent_query,
    sent_vectors,
    vectors_of,
)
from vecmeta.client.teaching import TeachingVerbs
from vecmeta.client.traffic import AsyncRemoteTraffic, RemoteTraffic
from vecmeta.client.verbs import Awaiting, Blocking, verb
from vecmeta.encoders.vectors import unit_rows
from vecmeta.errors import InvalidConfig, VecmetaError
from vecmeta.searching import parsed
from vecmeta.types import Id, Item, Metadata, Progress, Query, Vectors, Where

PAGE = 500  # items of one answer


class CollectionVerbs(TeachingVerbs):
    """The verbs of `RemoteCollection` and `AsyncRemoteCollection`."""

    # -- items ---------------------------------------------------------------------------------------------------------------

    @verb
    def add(self, items: Iterable[Item], progress: Progress | None = None) -> Steps[int]:
        """Insert or replace items by id; returns how many were written.

        Pictures given as a Path are read here and sent. What can be checked without the encoder is checked before anything is sent. All
        or none holds for what one request holds: up to 256 items or 8 MB, fewer where the service takes less; a note on the error says
        how many were written before.

        Args:
            progress: called with ("encoding", done, total) between requests; raise vecmeta.Cancelled in it to stop.

        Raises:
            InvalidItem, UndecodableContent: names the first item that cannot be taken.
            EncoderUnavailable: the service lacks the weights.
        """
        total, rows = sent_items(items)
        return (yield from self._written(total, rows, progress))

    @verb
    def add_vectors(self, ids: Sequence[str], vectors: ArrayLike, metadata: Sequence[Metadata] | None = None) -> Steps[int]:
        """Insert or replace own vectors by id; returns how many were written. All or none holds for each request, as in `add`.

        Args:
            ids: n different ids.
            vectors: (n, dim), any number type; stored as float32 unit rows.
            metadata: n JSON objects, or None.

        Raises:
            InvalidItem, InvalidVector: names the first item that cannot be taken; nothing is sent.
            InvalidConfig: the collection has an encoder of its own.
        """
        if self.modality != "vector":
            raise InvalidConfig(f"collection {self.name!r} encodes contents with {self.encoder_name}: use add()")
        total, rows = sent_vectors(ids, vectors, metadata, self.dim)
        return (yield from self._written(total, rows, None))

    @verb
    def get(self, ids: Sequence[str]) -> Steps[list[Item]]:
        """The items of these ids, in their order. Raises ItemNotFound that names the first missing one."""
        wanted = intake.listed(ids)
        real = next((n for n, id in enumerate(wanted) if not possible(id)), len(wanted))
        found: list[Item] = []
        for batch in batches((id, len(id)) for id in wanted[:real]):
            found += map(item_of, (yield from self._ask("POST", "/items/get", {"ids": batch}))["items"])
        real_ids(wanted[real:], self.name)
        return found

    @verb
    def delete(self, ids: Sequence[str]) -> Steps[int]:
        """Delete the items that are there; returns how many. Their judgements stay in the log and count again if they return."""
        deleted = 0
        for batch in batches((id, len(id)) for id in intake.listed(ids) if possible(id)):
            deleted += (yield from self._ask("POST", "/items/delete", {"ids": batch}))["count"]
        return deleted

    @verb
    def count(self, where: Where | None = None) -> Steps[int]:
        """How many items match. Raises InvalidFilter."""
        parsed(where)
        return int((yield from self._ask("POST", "/items/count", {"where": where}))["count"])

    @verb
    def items(self, where: Where | None = None, after: str | None = None, limit: int = 100) -> Steps[list[Item]]:
        """Up to `limit` items that match, by ascending id, after the id `after`. Raises InvalidFilter, InvalidConfig."""
        parsed(where)
        most = intake.top(limit, "limit")
        params: dict[str, str | int] = {} if where is None else {"where": encoded(where).decode()}
        found: list[Item] = []
        while True:
            params["limit"] = min(PAGE, most - len(found))
            if after is not None:
                params["after"] = after
            page = yield from self._ask("GET", "/items", params=params)
            found += map(item_of, page["items"])
            after = page["next"]
            if after is None or len(found) >= most:
                return found

    # -- search --------------------------------------------------------------------------------------------------------------

    @verb
    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where | None = None,
        version: int | None = None,
        feedback: Iterable[tuple[str, float]] | None = None,
    ) -> Steps[RemoteHits]:
        """The k nearest items, best first, with cosine scores; `hits.search` is the id of the answer.

        Args:
            query: a text; a picture (bytes or Path, which is read here); a (dim,) array; or vecmeta.Id("a"): more like this item, which is
                then left out of the hits.
            where: a filter on metadata, see `vecmeta.where`.
            version: None for the live one, or a split's candidate; 0 for the untouched encoder, or any stored one.
            feedback: [("id", +1.0), ("id2", -1.0)] bends this one query towards and away from items; nothing is stored.

        Raises:
            InvalidConfig, InvalidFilter, InvalidVector, UndecodableContent, ItemNotFound, VersionNotFound, EncoderUnavailable.
        """
        asked, _ = sent_query(query, self.name, self.dim)
        bent = {"feedback": sent_bends(feedback, self.name)}
        return hits_of((yield from self._ask("POST", "/search", {**asked, **self._options(k, where, version), **bent})))

    @verb
    def search_many(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        where: Where | None = None,
        version: int | None = None,
        feedback: Iterable[tuple[str, float]] | None = None,
    ) -> Steps[list[RemoteHits]]:
        """`search` for several queries at once, all under the same version; one list of hits each."""
        listed = [queries] if isinstance(queries, (str, bytes, Path, Id)) else list(queries)
        options = {**self._options(k, where, version), "feedback": sent_bends(feedback, self.name)}
        found: list[RemoteHits] = []
        for batch in batches(sent_query(query, self.name, self.dim) for query in listed):
            answer = yield from self._ask("POST", "/search/many", {"queries": batch, **options})
            found += map(hits_of, answer["results"])
            options["version"] = found[0].version  # another one may go live between two requests
        return found

    @verb
    def recommend(
        self, like: Sequence[str], unlike: Sequence[str] = (), k: int = 10, where: Where | None = None, version: int | None = None
    ) -> Steps[RemoteHits]:
        """Items near the liked ones and away from the disliked ones, neither of which is among the hits.

        Raises:
            ItemNotFound, InvalidConfig (nothing liked), InvalidFilter, VersionNotFound.
        """
        liked, disliked = intake.listed(like), intake.listed(unlike)
        if not liked:
            raise InvalidConfig("recommend() needs at least one liked item")
        real_ids(liked + disliked, self.name)
        body = {"like": liked, "unlike": disliked, **self._options(k, where, version)}
        return hits_of((yield from self._ask("POST", "/recommend", body)))

    @verb
    def embed(self, contents: Sequence[Query] | ArrayLike, version: int | None = None) -> Steps[Vectors]:
        """(n, dim) float32 unit rows under a version (None: the live one).

        Args:
            contents: what `search` takes: texts, pictures, vecmeta.Id for stored items; or an (n, dim) array of own vectors.

        Raises:
            InvalidVector, UndecodableContent, ItemNotFound, VersionNotFound, EncoderUnavailable.
        """
        number = intake.version_number(version)
        if isinstance(contents, np.ndarray):
            unit_rows(contents, self.dim)
        queries = cast(Sequence[Query], contents)
        sent = list(batches(sent_query(query, self.name, self.dim, f"content {n}") for n, query in enumerate(queries)))
        if number is None and len(sent) > 1:
            number = int((yield from self._ask("GET"))["live"])  # one for all of them
        rows: list[list[float]] = []
        for batch in sent:
            body = {"contents": batch, "version": "live" if number is None else number}
            rows += (yield from self._ask("POST", "/embed", body))["vectors"]
        return vectors_of(rows, self.dim)

    # ------------------------------------------------------------------------------------------------------------------------

    def _options(self, k: int, where: Where | None, version: int | None) -> dict[str, Any]:
        parsed(where)  # raises here what it would there
        number = intake.version_number(version)
        return {"k": intake.top(k), "where": where, "version": "live" if number is None else number}

    def _written(self, total: int, rows: Iterator[tuple[Mapping[str, Any], int]], progress: Progress | None) -> Steps[int]:
        written = 0
        try:
            for batch in batches(rows):
                if progress is not None:
                    progress("encoding", written, total)
                written += yield from self._put(batch)
            if progress is not None and total:
                progress("encoding", total, total)
        except VecmetaError as error:
            if written:
                error.add_note(f"the first {written:,} of {total:,} items are written")
            raise
        return written

    def _put(self, batch: list[Mapping[str, Any]]) -> Steps[int]:
        try:
            return int((yield from self._ask("PUT", "/items", {"items": batch}))["count"])
        except TooLarge:
            if len(batch) == 1:
                raise
        half = len(batch) // 2
        first = yield from self._put(batch[:half])
        return first + (yield from self._put(batch[half:]))


class RemoteCollection(CollectionVerbs, Blocking):
    """One collection of a service; made by `Client.create` and `Client.collection`. A context manager.

    Has the verbs, records and errors of `vecmeta.Collection`; besides, every verb raises `vecmeta.client.ServiceError` and its kin when
    the service cannot be asked. Safe to use from several threads.
    """

    @property
    def traffic(self) -> RemoteTraffic:
        """Which version answers a search that names none, and what came of it."""
        return RemoteTraffic(self._link, self._http, f"/collections/{self.name}")

    def __repr__(self) -> str:
        return f"<vecmeta.client.RemoteCollection {self.name!r}, {self.encoder_name}, dim {self.dim}, at {self._link.shown}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held here: the collection can be used on until its client is closed."""


class AsyncRemoteCollection(CollectionVerbs, Awaiting):
    """`RemoteCollection` with verbs that are awaited, and so are ``live``, ``ready`` and ``policy``: ``await docs.live``."""

    @property
    def traffic(self) -> AsyncRemoteTraffic:
        """Which version answers a search that names none, and what came of it."""
        return AsyncRemoteTraffic(self._link, self._http, f"/collections/{self.name}")

    def __repr__(self) -> str:
        return f"<vecmeta.client.AsyncRemoteCollection {self.name!r}, {self.encoder_name}, dim {self.dim}, at {self._link.shown}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing is held here: the collection can be used on until its client is closed."""
