"""A collection: items in, search; with `vecmeta.teaching` the flow of the whole system, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from vecmeta import intake
from vecmeta.catalogue.catalogue import Catalogue, CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.versions import VersionStore
from vecmeta.contents import OWN, Contents
from vecmeta.encoders.protocol import Encoder
from vecmeta.encoders.vectors import unit_rows
from vecmeta.errors import InvalidConfig
from vecmeta.sample import Sampler
from vecmeta.searching import Searcher, hits_of, parsed, raw_of
from vecmeta.servings import Servings
from vecmeta.shelves.protocol import Under
from vecmeta.spaces import OWN_ENCODER, Space, Spaces
from vecmeta.teaching import Teaching
from vecmeta.traffic import Traffic
from vecmeta.types import Content, Encoded, Hits, Item, Metadata, Policy, Progress, Query, RawHits, Vectors, Where
from vecmeta.writing import Writer


class Collection(Teaching):
    """One collection of a database; made by `Database.create` and `Database.collection`. A context manager.

    Safe to use from several threads. Every method raises the StorageError family when the database fails, and CollectionNotFound
    once the collection has been dropped.
    """

    def __init__(
        self, catalogue: Catalogue, row: CollectionRow, encoder: Encoder | None, device: str, encoders: Path,
        servings: Callable[[ItemStore, VersionStore, Under], Servings], others: Callable[[str], Collection],
    ) -> None:  # fmt: skip
        """``encoders`` is the folder of the fine-tuned ones; ``servings`` makes what answers searches; ``others`` opens a collection."""
        items, log, versions = catalogue.items(row), catalogue.judgements(row), catalogue.versions(row)
        contents = Contents(row, items, encoder)
        own = Space(OWN_ENCODER, encoder, items, log, contents, Sampler(items, versions))
        spaces = Spaces(own, catalogue.encoders(row), versions, encoders, device)
        made = servings(items, versions, lambda number: spaces.of(number).items)
        super().__init__(row, items, log, versions, contents, spaces, made, catalogue.traffic(row), device, others)
        self._writer = Writer(items, contents, made)
        self._searcher = Searcher(items, spaces, made)
        self._policies = catalogue.policies(row)
        self._traffic = Traffic(self._shares, made)

    # -- what it is ----------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name in the database."""
        return self.row.name

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return self.row.dim

    @property
    def encoder_name(self) -> str:
        """The encoder, with the hash of its weights."""
        return self.row.encoder

    @property
    def modality(self) -> Literal["text", "image", "vector"] | None:
        """What it takes as contents; None when its encoder is an object of the caller's that was not given."""
        return self._contents.modality

    @property
    def ready(self) -> bool:
        """Whether a search is answered at once: an index that answers is in memory, and not just being built."""
        return self._servings.ready

    @property
    def traffic(self) -> Traffic:
        """Which version answers a search that names none, and what came of it."""
        return self._traffic

    @property
    def policy(self) -> Policy:
        """When it adapts by itself; see `set_policy`."""
        return self._policies.get()

    def set_policy(self, policy: Policy) -> None:
        """Say when it adapts by itself; who does that is a worker, see `vecmeta serve`. Raises InvalidConfig."""
        if not isinstance(policy, Policy):
            raise InvalidConfig(f"a policy is a vecmeta.Policy, not {policy!r}")
        self._policies.set(policy)

    def __repr__(self) -> str:
        return f"<vecmeta.Collection {self.name!r}, {self.encoder_name}, dim {self.dim}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Write what the index files lack and free the indexes; the collection opens them again when it is used again."""
        self._servings.close()
        self._spaces.forget()

    def warm(self, copied: bool = False) -> None:
        """Open the live version's index now, or build it, so that the first search need not.

        Index files are mapped into memory, which takes no time and is shared among processes; ``copied`` reads them into memory of this
        process alone, where large pages make searches up to a tenth quicker.
        """
        serving = self._servings.warm()
        if copied:
            serving.index.own()

    def settle(self, progress: Progress | None = None) -> None:
        """Wait until searches are as quick as they get. What was written is found at once, but linked into the graph in the background."""
        self._servings.settle(progress)

    def forget(self) -> None:
        """The collection has been dropped: delete its index files and fine-tuned encoders."""
        self._servings.forget_files()
        self._spaces.forget_files()

    # -- items ---------------------------------------------------------------------------------------------------------------

    def add(self, items: Iterable[Item], progress: Progress | None = None) -> int:
        """Insert or replace items by id, all of the batch or none; returns how many were written.

        An item whose content is as it was keeps its base vector: only what changed is encoded.

        Raises:
            InvalidItem, UndecodableContent: names the first item that cannot be taken; nothing of the batch is written.
            EncoderUnavailable: the weights are missing.
        """
        return self._writer.add(items, progress)

    def add_vectors(self, ids: Sequence[str], vectors: ArrayLike, metadata: Sequence[Metadata] | None = None) -> int:
        """Insert or replace own vectors by id, all of the batch or none; returns how many were written.

        Args:
            ids: n different ids.
            vectors: (n, dim), any number type; stored as float32 unit rows.
            metadata: n JSON objects, or None.

        Raises:
            InvalidItem, InvalidVector: names the first item that cannot be taken; nothing of the batch is written.
            InvalidConfig: the collection has an encoder of its own.
        """
        if self.row.spec != OWN:
            raise InvalidConfig(f"collection {self.name!r} encodes contents with {self.encoder_name}: use add()")
        return self._writer.add_vectors(ids, vectors, metadata, self.dim)

    def get(self, ids: Sequence[str]) -> list[Item]:
        """The items of these ids, in their order. Raises ItemNotFound that names the first missing one."""
        wanted = intake.listed(ids)
        found = self._items.get(wanted)
        return [found[id] if id in found else self._contents.missing(id) for id in wanted]

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the items that are there; returns how many. Their judgements stay in the log and count again if they return."""
        return self._writer.delete(intake.listed(ids))

    def count(self, where: Where | None = None) -> int:
        """How many items match. Raises InvalidFilter."""
        return self._items.count(parsed(where))

    def items(self, where: Where | None = None, after: str | None = None, limit: int = 100) -> list[Item]:
        """Up to `limit` items that match, by ascending id, after the id `after`. Raises InvalidFilter, InvalidConfig."""
        return self._items.page(parsed(where), after, intake.top(limit, "limit"))

    def sample(self, count: int, seed: int = 0, *, contents: bool = True) -> list[Item]:
        """Up to `count` items drawn at random, by ascending id: the same ones for the same seed, as long as nothing is written.

        Args:
            contents: False leaves them out: pictures that nobody looks at are not read.

        Raises:
            InvalidConfig.
        """
        return self._items.drawn(intake.whole(count, "count", 1), intake.whole(seed, "seed", 0), contents)

    # -- search --------------------------------------------------------------------------------------------------------------

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where | None = None,
        version: int | None = None,
        feedback: Iterable[tuple[str, float]] | None = None,
    ) -> Hits:
        """The k nearest items, best first, with cosine scores.

        Args:
            query: a text; a picture (bytes or Path); a (dim,) array for own vectors; or vecmeta.Id("a"): more like this item, which is
                then left out of the hits.
            where: a filter on metadata, see `vecmeta.where`.
            version: None for the live one, 0 for the untouched encoder, or any stored one.
            feedback: [("id", +1.0), ("id2", -1.0)] bends this one query towards and away from items; nothing is stored.

        Raises:
            InvalidConfig, InvalidFilter, InvalidVector, UndecodableContent, ItemNotFound, VersionNotFound, EncoderUnavailable.
        """
        return self.search_many([query], k, where=where, version=version, feedback=feedback)[0]

    def search_many(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        where: Where | None = None,
        version: int | None = None,
        feedback: Iterable[tuple[str, float]] | None = None,
    ) -> list[Hits]:
        """`search` for several queries at once, all under the same version; one list of hits each."""
        return hits_of(self._searcher.search(queries, k, where, intake.version_number(version), feedback))

    def search_raw(
        self, queries: Sequence[Query], k: int = 10, *, where: Where | None = None, version: int | None = None
    ) -> list[RawHits]:
        """`search_many` for whoever passes hits on: (id, score, metadata as JSON, content), nothing of which is parsed."""
        return raw_of(self._searcher.search(queries, k, where, intake.version_number(version), None))

    def recommend(
        self, like: Sequence[str], unlike: Sequence[str] = (), k: int = 10, where: Where | None = None, version: int | None = None
    ) -> Hits:
        """Items near the liked ones and away from the disliked ones, neither of which is among the hits.

        Raises:
            ItemNotFound, InvalidConfig (nothing liked), InvalidFilter, VersionNotFound.
        """
        return hits_of(
            self._searcher.recommend(intake.listed(like), intake.listed(unlike), k, where, intake.version_number(version))
        )[0]

    def embed(self, contents: Sequence[Query] | ArrayLike, version: int | None = None) -> Vectors:
        """(n, dim) float32 unit rows under a version (None: the live one).

        Args:
            contents: what `search` takes: texts, pictures, vecmeta.Id for stored items; or an (n, dim) array of own vectors.

        Raises:
            InvalidVector, UndecodableContent, ItemNotFound, VersionNotFound, EncoderUnavailable.
        """
        serving = self._servings.current(intake.version_number(version))
        own = unit_rows(contents, self.dim) if isinstance(contents, np.ndarray) else None
        under = self._spaces.of(serving.encoder).contents
        base = under.of_queries(list(cast(Sequence[Query], contents)), "content") if own is None else own
        return serving.head.project(base)

    def encoded(self, contents: Sequence[Content]) -> list[Encoded]:
        """Texts or pictures as queries that need not be encoded any more, for whoever encodes those of several searches together.

        Raises:
            UndecodableContent, EncoderUnavailable.
        """
        return self._spaces.of(self._servings.current().encoder).contents.encoded(contents)
