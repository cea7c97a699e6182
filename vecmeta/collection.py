"""A collection: items in, search, judgements, adaptation, versions. The flow of the whole system, top to bottom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from vecmeta import intake, judged
from vecmeta.catalogue.catalogue import Catalogue, CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.judgements import Entry
from vecmeta.catalogue.versions import VersionStore
from vecmeta.contents import OWN, Contents
from vecmeta.encoders.protocol import Encoder
from vecmeta.encoders.vectors import unit_rows
from vecmeta.errors import InvalidConfig, InvalidJudgement
from vecmeta.sample import Sampler
from vecmeta.searching import Searcher, parsed
from vecmeta.servings import Servings
from vecmeta.traffic import Traffic
from vecmeta.types import (
    Decision,
    Hits,
    Item,
    Judgement,
    Metadata,
    Policy,
    Progress,
    Query,
    Report,
    Understood,
    Vectors,
    Version,
    Where,
)
from vecmeta.writing import Writer

BASE = "the untouched encoder"


class Collection:
    """One collection of a database; made by `Database.create` and `Database.collection`. A context manager.

    Safe to use from several threads. Every method raises the StorageError family when the database fails, and CollectionNotFound
    once the collection has been dropped.
    """

    def __init__(
        self, catalogue: Catalogue, row: CollectionRow, encoder: Encoder | None, device: str,
        servings: Callable[[ItemStore, VersionStore], Servings],
    ) -> None:  # fmt: skip
        self.row = row
        self._device = device
        self._items, self._log = catalogue.items(row), catalogue.judgements(row)
        self._versions = catalogue.versions(row)
        self._contents = Contents(row, self._items, encoder)
        self._servings = servings(self._items, self._versions)
        self._writer = Writer(self._items, self._contents, self._servings)
        self._searcher = Searcher(self._items, self._contents, self._servings)
        self._policies, self._shares = catalogue.policies(row), catalogue.traffic(row)
        self._traffic = Traffic(self._shares, self._servings)
        self._sampler = Sampler(self._items, self._versions)
        self._adapting = threading.Lock()

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
    def live(self) -> int:
        """The number of the live version; 0 is the untouched encoder."""
        return self._versions.state().live

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
        self._sampler.forget()

    def warm(self) -> None:
        """Open the live version's index now, or build it, so that the first search need not."""
        self._servings.warm()

    def settle(self, progress: Progress | None = None) -> None:
        """Wait until searches are as quick as they get. What was written is found at once, but linked into the graph in the background."""
        self._servings.settle(progress)

    def forget(self) -> None:
        """The collection has been dropped: delete its index files."""
        self._servings.forget_files()

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
        return self._searcher.search(queries, k, where, intake.version_number(version), feedback)

    def recommend(
        self, like: Sequence[str], unlike: Sequence[str] = (), k: int = 10, where: Where | None = None, version: int | None = None
    ) -> Hits:
        """Items near the liked ones and away from the disliked ones, neither of which is among the hits.

        Raises:
            ItemNotFound, InvalidConfig (nothing liked), InvalidFilter, VersionNotFound.
        """
        return self._searcher.recommend(intake.listed(like), intake.listed(unlike), k, where, intake.version_number(version))

    def embed(self, contents: Sequence[Query] | ArrayLike, version: int | None = None) -> Vectors:
        """(n, dim) float32 unit rows under a version (None: the live one).

        Args:
            contents: what `search` takes: texts, pictures, vecmeta.Id for stored items; or an (n, dim) array of own vectors.

        Raises:
            InvalidVector, UndecodableContent, ItemNotFound, VersionNotFound, EncoderUnavailable.
        """
        own = unit_rows(contents, self.dim) if isinstance(contents, np.ndarray) else None
        base = self._contents.of_queries(list(cast(Sequence[Query], contents)), "content") if own is None else own
        return self._servings.current(intake.version_number(version)).head.project(base)

    # -- judgements ----------------------------------------------------------------------------------------------------------

    def feedback(self, judgements: Iterable[Judgement]) -> Understood:
        """Store judgements, all of the batch or none; says how many were new, repeated, or changed an earlier one.

        Raises:
            InvalidJudgement: not a judgement, or a query of the wrong kind.
            ItemNotFound: names the first item that is not there.
        """
        batch = list(judgements)
        for at, judgement in enumerate(batch):
            if not isinstance(judgement, Judgement):
                raise InvalidJudgement(f"judgement {at} of the batch is a {type(judgement).__name__}, not a vecmeta.Judgement")
        self._contents.of_items([j.item for j in batch])  # raises for the first one that is not there
        asked = self._contents.asked([j.query for j in batch if j.query is not None])
        entries = [Entry(j.item, j.concept, None if j.query is None else next(asked), float(j.score), j.user) for j in batch]
        return self._log.append(entries)

    def judgements(self) -> list[Judgement]:
        """The whole log, oldest first."""
        return self._log.all()

    def contradictions(self, limit: int = 100) -> list[str]:
        """Where the judgements that count contradict each other, at most `limit` sentences: users who disagree on the same item and
        concept or query, and two things that one concept, query or pair puts together and another tells apart. Raises InvalidConfig.
        """
        resolved = judged.resolve(self._items, self._log)
        return judged.contradictions(self._items, self._log, resolved, intake.top(limit, "limit"))[0]

    # -- adaptation ----------------------------------------------------------------------------------------------------------

    def adapt(
        self,
        method: str = "maml",
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        strength: float | None = None,
        seed: int = 0,
        start: str | Path | None = None,
        activate: bool = True,
    ) -> Report:
        """Learn a head from all judgements, measure it on held-out ones, and make it live if it is better.

        The head is a function of the meta-learned start, the judgements, the collection's statistics, the method and the seed: the same
        again gives the same version again. While it works, searches go on under the live version.

        Args:
            method: "maml", the memory head with its inner loop, or another one of `vecmeta.meta.methods.NAMES`.
            dry_run: measure and report, also what building it would cost; store nothing.
            progress: called with (stage, done, total); raise vecmeta.Cancelled in it to stop, nothing is left behind.
            strength: in (0, 1], how far vectors are moved; None chooses it on held-out judgements.
            seed: of folds and samples.
            start: a meta-learned start of your own for this method (`vecmeta meta-train`); None is the shipped one.
            activate: False stores what would be promoted, with its index built, and leaves going live to `activate`.

        Returns:
            What was decided and why; see `vecmeta.Report`.

        Raises:
            InvalidConfig: unknown method, strength outside its range, a start that cannot be read or is another method's.
            StorageDamaged: the start was changed after it was written.
            StorageFull and others: the index files cannot be written; the live version is untouched.
        """
        from vecmeta import adaptation  # brings torch, which a search does without

        wish = adaptation.Wish(method, dry_run, strength, seed, start, activate)
        with self._adapting:
            return adaptation.adapt(
                self._items, self._log, self._versions, self._servings, self._sampler, self._device, wish, progress
            )

    # -- versions ------------------------------------------------------------------------------------------------------------

    def versions(self) -> list[Version]:
        """All versions, oldest first; number 0 is the untouched encoder."""
        live = self._versions.state().live
        base = Version(0, "none", live == 0, "promoted", BASE, self.row.created, 0, 0.0, {})
        return [base] + [
            Version(v.number, v.method, v.number == live, cast(Decision, v.decision), v.reason, v.created, v.judgements,
                    v.strength, v.report["metrics"])
            for v in self._versions.all()
        ]  # fmt: skip

    def activate(self, version: int) -> None:
        """Make a version live, also one that was kept back; 0 is the untouched encoder. Raises VersionNotFound."""
        number = intake.version_number(version)
        if number is None:
            raise InvalidConfig("activate() needs the number of a version")
        self._servings.go_live(self._servings.current(number), "activate")

    def rollback(self) -> int:
        """Make live what was live before, and return its number; repeated, it goes further back. Raises VersionNotFound at the end."""
        return self._servings.rollback(self._shares.previous())

    def report(self, version: int) -> Report:
        """The report of a stored version. Raises VersionNotFound (also for version 0, which nobody adapted)."""
        stored = self._versions.get(version)
        return Report.from_dict({**stored.report, "version": stored.number})
