"""One fine-tuning of a collection's encoder: judgements -> examples -> encoder -> exam against what adapting alone brings -> swap.

What is held out is held out from the encoder and from the heads alike: part of every concept's items, and whole concepts. The encoder
that was measured is the one that goes live; the head on top learns from all judgements, as after every adaptation.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vecmeta.adaptation import Clock, publish, torch_device
from vecmeta.catalogue.catalogue import CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.versions import VersionStore
from vecmeta.compared import Compared, Examiner, Free, unlabelled
from vecmeta.encoders import open_encoder
from vecmeta.encoders.parts import encoded
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import InvalidConfig
from vecmeta.evaluate import Gate
from vecmeta.finetune import Examples, FinetuneConfig, Mode
from vecmeta.finetune import finetune as train
from vecmeta.finetune.config import collections_transfers
from vecmeta.folds import Fold, exam
from vecmeta.judged import Taught, contradictions, resolve
from vecmeta.labels import contents_of, field_taught
from vecmeta.meta.fitting import start_of
from vecmeta.meta.head import Head
from vecmeta.meta.methods import checked
from vecmeta.meta.projecting import projector
from vecmeta.meta.start import Start
from vecmeta.preview import cost
from vecmeta.servings import Servings
from vecmeta.spaces import EncodedItems, Space, Spaces
from vecmeta.trial import Background, Measured, best_strength, drift, judge, why_insufficient
from vecmeta.types import Decision, Progress, Report, Vectors


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked for. Raises InvalidConfig."""

    mode: Mode | None
    transfer: str | Sequence[str]
    field: str | None
    method: str
    config: Mapping[str, Any]
    dry_run: bool
    seed: int
    activate: bool

    def __post_init__(self) -> None:
        checked(self.method)
        if self.field is not None and (not isinstance(self.field, str) or not self.field):
            raise InvalidConfig(f"field is the name of a metadata field, not {self.field!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidConfig(f"a seed is a whole number from 0, not {self.seed!r}")
        if not isinstance(self.config, Mapping):
            raise InvalidConfig(f"config is an object of settings such as {{'rate': 1e-4}}, not {self.config!r}")
        known = [name for name in FinetuneConfig.__dataclass_fields__ if name not in ("mode", "transfer", "seed")]
        for name in self.config:
            if name not in known:
                raise InvalidConfig(f"a fine-tuning has no setting {name!r}; known: {', '.join(known)}")
        self.settings()
        collections_transfers(self.transfer)

    def settings(self) -> FinetuneConfig:
        """As the training takes them. Raises InvalidConfig."""
        given: dict[str, Any] = {**self.config, "transfer": self.transfer, "seed": self.seed}
        return FinetuneConfig(**given if self.mode is None else {**given, "mode": self.mode})


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What was read: the judgements, the classes that are learned (the same, or a field's values), the exam, examples, the rest."""

    taught: Taught
    lacking: str | None
    classes: Taught
    parts: list[Fold]
    examples: Examples
    free: Free


def finetune(
    row: CollectionRow,
    spaces: Spaces,
    versions: VersionStore,
    servings: Servings,
    device: str,
    wish: Wish,
    progress: Progress | None,
) -> Report:
    """See `vecmeta.Collection.finetune`."""
    clock = Clock(progress)
    own = spaces.own
    if own.encoder is None:
        raise InvalidConfig(
            f"collection {row.name!r} was made with an encoder object, which was not given: open it with db.collection(name, encoder=…)"
        )
    with clock.stage("reading"):
        expected, start = versions.state(), start_of(wish.method)
        taught = resolve(own.items, own.log)
        odd, number = contradictions(own.items, own.log, taught)
        said: dict[str, Any] = {"contradictions": tuple(odd), "dry_run": wish.dry_run}
        counted = {"contradictions": float(number)}
        lacking = why_insufficient(taught)
        if wish.field is None and lacking is not None:
            return Report("insufficient", None, lacking, counted, seconds=clock.total(), **said)
        lesson = _read(own, taught, lacking, wish)
    with clock.stage("adapting"):
        encoder, facts = _trained(own.encoder, spaces, lesson, wish.settings(), device, progress)
    with clock.stage("evaluating"):
        begin = time.perf_counter()
        contents = [*contents_of(own, lesson.classes), *lesson.free.contents]
        z = encoded(encoder, contents, "evaluating", progress)
        rate = (time.perf_counter() - begin) / max(len(contents), 1)
        examiner = Examiner(start, lesson.free, torch_device(device), wish.seed)
        verdict = _examined(examiner, own, lesson, encoder, z, wish)
    decision: Decision = "promoted" if verdict.promote else "kept"
    drifted = verdict.report
    metrics = {**drifted.metrics, **counted, **_scores(facts)}
    report = replace(drifted, decision=decision, metrics=metrics, notes=(*facts["notes"], *drifted.notes), **said)
    by = projector(verdict.head, examiner.device)
    if wish.dry_run:
        estimate = cost(own.items, servings, by)
        estimate["seconds"] += rate * estimate["rows"]
        return replace(report, cost=estimate, seconds=clock.total())
    under = spaces.store.put(encoder.name, facts["folder"], {"parent": facts["parent"], "config": facts["config"]})
    try:
        if verdict.promote:
            with clock.stage("building"):
                items = spaces.of(under).items
                assert isinstance(items, EncodedItems)
                items.fill(progress)
        strength = verdict.head.strength
        count = int(sum(len(rows) for rows in lesson.examples.members)) if wish.field else taught.count
        made = {"method": wish.method if strength else "none", "strength": strength, "judgements": count}
        made_of = _made_of(wish, encoder, start, lesson.classes)
        return publish(
            versions, servings, made_of, verdict.head, made, report, expected, wish.activate, by, clock, progress, under
        )  # fmt: skip
    except BaseException:
        spaces.store.remove(under)
        raise


def _read(own: Space, taught: Taught, lacking: str | None, wish: Wish) -> _Lesson:
    assert isinstance(own.items, ItemStore)
    classes, more = (taught, None) if wish.field is None else field_taught(own.items, wish.field, wish.seed)
    parts = exam(classes, wish.seed)
    if not any(fold.part == "fed" for fold in parts):
        raise InvalidConfig("nothing can be held out to check the rest: two classes with three labelled items each are needed")
    labelled = set(classes.rows) | (set(more.about["ids"]) if more is not None else set())
    free = unlabelled(own, labelled, wish.seed)
    return _Lesson(taught, lacking, classes, parts, _examples(own, classes, parts[0], more), free)


def _trained(
    parent: Encoder, spaces: Spaces, lesson: _Lesson, settings: FinetuneConfig, device: str, progress: Progress | None
) -> tuple[Encoder, dict[str, Any]]:
    """The fine-tuned encoder, and its record with the name of its folder."""
    place = _place(settings, lesson.examples, parent)

    def step(_stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress("adapting", done, total)

    needed = {"relations", "representation"} & set(settings.transfer)
    facts = train(
        parent, lesson.examples, spaces.folder / place, settings, unlabelled=lesson.free.contents if needed else (), progress=step
    )
    return open_encoder(str(spaces.folder / place), device=device), {**facts, "folder": place}


@dataclass(frozen=True, eq=False)
class _Verdict:
    promote: bool
    head: Head
    report: Report  # reason, metrics, what changed, notes


def _examined(examiner: Examiner, own: Space, lesson: _Lesson, encoder: Encoder, z: Vectors, wish: Wish) -> _Verdict:
    """Measure the encoder and heads with what was held out; z (n, dim) are the classes' rows and the unlabelled items under it."""
    classes, gate = lesson.classes, Gate()
    rows = len(classes.x)
    under, free = replace(classes, x=z[:rows]), z[rows:]
    compared = examiner.exam(classes, under, free, lesson.parts, heads=wish.field is None)
    head: Head
    if wish.field is None:
        best = best_strength(compared.both, gate)
        head = examiner.head(under, free).with_strength(best.strength)
    else:
        best = compared.encoder
        head = examiner.head_of_log(own, lesson.taught, lesson.lacking, encoder, free, gate)
    drifted = drift(head, Background(lesson.free.x, lesson.free.ids), wish.seed, free)
    promote, reason, metrics = judge(gate, best, drifted, wish.seed)
    if promote and (why := _no_better(compared, best)):
        promote, reason = False, why
    told = Report("kept", None, reason, metrics | compared.parts(), drifted.harmed, drifted.changed, notes=compared.told(best))
    return _Verdict(promote, head, told)


def _no_better(compared: Compared, best: Measured) -> str | None:
    """Says so where adapting alone, which takes a moment, does as well."""
    if compared.adapt is None:
        return None
    alone, both = (float(m.gain("fed").mean()) for m in (compared.adapt, best))
    if both > alone:
        return None
    return (
        f"adapting the untouched encoder's output does as well: with it held-out items come up {2**alone:.2f} times as near to the top, "
        f"with the fine-tuned encoder {2**both:.2f} times; use adapt()"
    )


def _examples(own: Space, taught: Taught, left: Fold, more: Examples | None) -> Examples:
    """What the exam leaves of the judgements, and further labelled items."""
    contents = contents_of(own, taught)
    members = [np.flatnonzero(column > 0) for column in left.y.T]
    against = [np.flatnonzero(column < 0) for column in left.y.T]
    asks = np.where((taught.asked >= 0) & (left.y.max(0, initial=0) > 0), taught.asked, -1)
    if more is not None:  # of the same classes; what is held out whole stays so
        held_out = {name for name, rows in zip(taught.columns, members, strict=True) if not len(rows)}
        shift = len(contents)
        by_name = dict(zip(more.classes, more.members, strict=True))
        members = [
            np.concatenate((rows, by_name.get(name, np.empty(0, np.int64)) + shift)) if name not in held_out else rows
            for name, rows in zip(taught.columns, members, strict=True)
        ]
        contents = [*contents, *more.contents]
    used = [place for place, rows in enumerate(members) if len(rows)]
    about = {"collection": own.contents.name, "classes_held_out": len(members) - len(used)}
    return Examples(
        tuple(contents), tuple(taught.columns[c] for c in used), tuple(members[c] for c in used), tuple(against[c] for c in used),
        asks[used], about,
    )  # fmt: skip


def _scores(facts: Mapping[str, Any]) -> dict[str, float]:
    """Of the training's own held-out examples."""
    scores = facts["scores"]
    found = {"steps": float(scores["steps"]), "best_step": float(scores["best_step"])}
    if "base" in scores:
        found |= {
            f"{name}_{when}": scores[key][name]
            for when, key in (("base", "base"), ("tuned", "finetuned"))
            for name in ("map", "ndcg")
        }
    return found


def _place(settings: FinetuneConfig, examples: Examples, encoder: Encoder) -> str:
    """The name of the encoder's folder: the same call finds what it left."""
    said = json.dumps([asdict(settings), examples.digest(), encoder.name], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _made_of(wish: Wish, encoder: Encoder, start: Start, taught: Taught) -> str:
    """The hash of everything that the version is a function of."""
    said = ["finetune", encoder.name, wish.method, wish.seed, wish.field, start.hash, taught.digest()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
