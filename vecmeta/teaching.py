"""What a collection is taught: judgements, adaptation, fine-tuning, versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vecmeta import intake, judged
from vecmeta.catalogue.catalogue import CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.judgements import Entry, JudgementLog
from vecmeta.catalogue.traffic import TrafficStore
from vecmeta.catalogue.versions import VersionStore
from vecmeta.contents import OWN, Contents
from vecmeta.errors import InvalidConfig, InvalidJudgement
from vecmeta.servings import Servings
from vecmeta.spaces import Space, Spaces
from vecmeta.types import Decision, Judgement, Progress, Report, Understood, Version

if TYPE_CHECKING:
    from vecmeta.finetune import Examples, Mode

BASE = "the untouched encoder"


class Teaching:
    """The verbs of a collection that teach it; see `vecmeta.Collection`."""

    def __init__(
        self, row: CollectionRow, items: ItemStore, log: JudgementLog, versions: VersionStore, contents: Contents, spaces: Spaces,
        servings: Servings, shares: TrafficStore, device: str, others: Callable[[str], Teaching],
    ) -> None:  # fmt: skip
        """``others`` opens another collection of the database."""
        self.row = row
        self._items, self._log, self._versions, self._contents = items, log, versions, contents
        self._spaces, self._servings, self._shares, self._device, self._others = spaces, servings, shares, device, others
        self._adapting = threading.Lock()

    @property
    def live(self) -> int:
        """The number of the live version; 0 is the untouched encoder."""
        return self._versions.state().live

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

    def judgements(self, offset: int = 0, limit: int | None = None) -> list[Judgement]:
        """The log, oldest first, without its first `offset` judgements; at most `limit` of it. Raises InvalidConfig."""
        return self._log.page(intake.whole(offset, "offset", 0), None if limit is None else intake.whole(limit, "limit", 1))

    def judgement_count(self) -> int:
        """How long the log is."""
        return self._log.count()

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
        bridge: bool | None = None,
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
            bridge: True makes it live before its index is built; until then the old one answers for it, see `vecmeta.bridge`. None is what
                the database was opened with.

        Returns:
            What was decided and why; see `vecmeta.Report`.

        Raises:
            InvalidConfig: unknown method, strength outside its range, a start that cannot be read or is another method's.
            StorageDamaged: the start was changed after it was written.
            StorageFull and others: the index files cannot be written; the live version is untouched.
        """
        from vecmeta import adaptation  # brings torch, which a search does without

        wish = adaptation.Wish(method, dry_run, strength, seed, start, activate, bridge)
        with self._adapting:
            space = self._spaces.of_version(self.live)
            return adaptation.adapt(space, self._versions, self._servings, self._device, wish, progress)

    def finetune(
        self,
        mode: Mode | None = None,
        *,
        transfer: str | Sequence[str] = (),
        field: str | None = None,
        source: str | Examples | None = None,
        method: str = "maml",
        config: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        seed: int = 0,
        activate: bool = True,
    ) -> Report:
        """Fine-tune the encoder where adapting its output is not enough: train it, measure it on judgements that were held out from it,
        encode the collection anew from the stored contents, adapt a head on top, and make it live if that is better.

        It is trained from the collection's own encoder, whose vectors stay, so version 0 and every other one can be searched and rolled
        back to. While it works, searches go on under the live version. Stopped or killed, it leaves a checkpoint in the database's folder,
        from which the same call goes on; a dry run leaves the trained encoder there for the same reason.

        Args:
            mode: "features", "lora" or "full"; see `vecmeta.finetune.FinetuneConfig`.
            transfer: any of "representation", "parameters", "instances" and "relations"; unlabelled contents are the collection's own.
            field: learn from this metadata field, whose values are the classes, instead of from the judgements.
            source: labelled contents of another domain, for "instances", which learns from those like this collection's, and for
                "representation": 'NAME' of another collection, whose judgements count, or 'NAME:FIELD' with a metadata field of it; or
                examples, see `vecmeta.finetune.read_examples`.
            method: of the head on top, as in `adapt`.
            config: further settings of `FinetuneConfig`, by name.
            dry_run: train, measure and report; nothing goes live or becomes a version.
            progress: called with (stage, done, total); raise vecmeta.Cancelled in it to stop.
            seed: of what is held out, of the training and of samples.
            activate: False stores what would be promoted, and leaves going live to `activate`.

        Returns:
            What was decided and why. Its metrics tell what each part brought: ``fed_gain`` and ``unfed_gain`` of both together,
            ``…_gain_encoder`` of the fine-tuned encoder alone, ``…_gain_adapt`` of a head on the untouched one.

        Raises:
            InvalidConfig: own vectors, which have no contents to encode anew; settings out of range; one class only, or no two of one.
            CollectionNotFound: no collection of that name is the source.
            EncoderUnavailable: weights or a package are missing, or not even one content fits into memory.
            StorageFull and others: nothing became of it; the live version is untouched.
        """
        if self.row.spec == OWN:
            raise InvalidConfig(
                f"collection {self.row.name!r} holds own vectors, and no contents that a fine-tuned encoder could encode anew: adapt() it, "
                "or fine-tune the encoder that makes the vectors with `vecmeta finetune` and put in what it makes then"
            )
        from vecmeta import finetuning

        wish = finetuning.Wish(mode, transfer, field, method, config or {}, dry_run, seed, activate, source)

        def other(name: str) -> Space:
            return self._others(name)._spaces.own

        with self._adapting:
            return finetuning.finetune(
                self.row, self._spaces, self._versions, self._servings, self._device, wish, other, progress
            )

    # -- versions ------------------------------------------------------------------------------------------------------------

    def versions(self) -> list[Version]:
        """All versions, oldest first; number 0 is the untouched encoder."""
        live = self._versions.state().live
        own, tuned = self.row.encoder, self._spaces.store.names()
        base = Version(0, "none", live == 0, "promoted", BASE, self.row.created, 0, 0.0, {}, own)
        return [base] + [
            Version(v.number, v.method, v.number == live, cast(Decision, v.decision), v.reason, v.created, v.judgements,
                    v.strength, v.report["metrics"], tuned.get(v.number, own))
            for v in self._versions.all()
        ]  # fmt: skip

    def activate(self, version: int) -> None:
        """Make a version live, also one that was kept back; 0 is the untouched encoder. Raises VersionNotFound."""
        number = intake.version_number(version)
        if number is None:
            raise InvalidConfig("activate() needs the number of a version")
        self._servings.go_live(self._servings.current(number), "activate")
        self._servings.tend()

    def rollback(self) -> int:
        """Make live what was live before, and return its number; repeated, it goes further back. Raises VersionNotFound at the end."""
        return self._servings.rollback(self._shares.previous())

    def report(self, version: int) -> Report:
        """The report of a stored version. Raises VersionNotFound (also for version 0, which nobody adapted)."""
        stored = self._versions.get(version)
        return Report.from_dict({**stored.report, "version": stored.number})
