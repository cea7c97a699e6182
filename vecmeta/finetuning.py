"""One fine-tuning of a collection's encoder: judgements -> examples -> encoder -> exam against what adapting alone brings -> swap.

What is held out is held out from the encoder and from the heads alike: part of every concept's items, and whole concepts. The encoder
that was measured is the one that goes live; the head on top learns from all judgements, as after every adaptation.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vecmeta.adaptation import torch_device
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
from vecmeta.finetune.config import collections_transfers, named_source
from vecmeta.folds import Fold, exam
from vecmeta.judged import Taught
from vecmeta.labels import contents_of, examples_of, field_taught, source_examples, without
from vecmeta.meta.fitting import start_of
from vecmeta.meta.head import Head
from vecmeta.meta.methods import checked
from vecmeta.meta.projecting import projector
from vecmeta.meta.start import Start
from vecmeta.preview import cost
from vecmeta.promotion import Candidate, Clock, Heard, heard, publish
from vecmeta.servings import Servings
from vecmeta.spaces import EncodedItems, Space, Spaces
from vecmeta.trial import Background, Measured, best_strength, drift, judge
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
    source: str | Examples | None = None

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
        collections_transfers(self.transfer, self.source)
        if self.source is not None and not isinstance(self.source, Examples):
            named_source(self.source)

    def settings(self) -> FinetuneConfig:
        """As the training takes them. Raises InvalidConfig."""
        given: dict[str, Any] = {**self.config, "transfer": self.transfer, "seed": self.seed}
        return FinetuneConfig(**given if self.mode is None else {**given, "mode": self.mode})


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What was read: the judgements, the classes that are learned (the same, or a field's values), the exam, examples, the rest.

    ``x`` (n, dim) are the base vectors of the examples, None where one of them is gone; ``source`` are examples of elsewhere.
    """

    told: Heard
    classes: Taught
    parts: list[Fold]
    examples: Examples
    x: Vectors | None
    free: Free
    source: Examples | None


def finetune(
    row: CollectionRow,
    spaces: Spaces,
    versions: VersionStore,
    servings: Servings,
    device: str,
    wish: Wish,
    others: Callable[[str], Space],
    progress: Progress | None,
) -> Report:
    """See `vecmeta.Collection.finetune`; `others` opens another collection under its own encoder."""
    clock = Clock(progress)
    own = spaces.own
    if own.encoder is None:
        raise InvalidConfig(
            f"collection {row.name!r} was made with an encoder object, which was not given: open it with db.collection(name, encoder=…)"
        )
    with clock.stage("reading"):
        start, told = start_of(wish.method), heard(own, versions, wish.dry_run)
        if wish.field is None and told.lacking is not None:
            return told.insufficient(told.lacking, clock)
        lesson = _read(own, told, wish, others)
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
    metrics = {**drifted.metrics, **told.counted, **_scores(facts)}
    report = replace(drifted, decision=decision, metrics=metrics, notes=(*facts["notes"], *drifted.notes), **told.said)
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
        count = int(sum(len(rows) for rows in lesson.examples.members)) if wish.field else told.taught.count
        made = {"method": wish.method if strength else "none", "strength": strength, "judgements": count}
        candidate = Candidate(_made_of(wish, encoder, start, lesson.classes), verdict.head, made, report, by, under)
        return publish(candidate, versions, servings, told.expected, clock, activate=wish.activate)
    except BaseException:
        spaces.store.remove(under)
        raise


def _read(own: Space, told: Heard, wish: Wish, others: Callable[[str], Space]) -> _Lesson:
    assert isinstance(own.items, ItemStore)
    classes, more = (told.taught, None) if wish.field is None else field_taught(own.items, wish.field, wish.seed)
    parts = exam(classes, wish.seed)
    if not any(fold.part == "fed" for fold in parts):
        raise InvalidConfig("nothing can be held out to check the rest: two classes with three labelled items each are needed")
    ids = list[str]() if more is None else more.about["ids"]
    free = unlabelled(own, {*classes.rows, *ids}, wish.seed)
    known = own.items.base_vectors(ids)
    x = np.stack([*classes.x, *(known[id] for id in ids)]) if len(known) == len(ids) else None
    examples = examples_of(own, classes, parts[0].y, more)
    source = wish.source
    if isinstance(source, str):
        name, field = named_source(source)
        source = source_examples(_other(own, name, others), field)
    if source is not None:  # what the exam asks for is not to be learned from there either
        asked = np.flatnonzero(~(parts[0].y != 0).any(1))
        source = without(source, {examples.contents[row] for row in asked.tolist()})
    return _Lesson(told, classes, parts, examples, x, free, source)


def _other(own: Space, name: str, others: Callable[[str], Space]) -> Space:
    """Another collection, if it holds contents of the kind that this one holds. Raises InvalidConfig."""
    if name == own.contents.name:
        raise InvalidConfig(
            f"source {name!r} is this collection itself, whose held-out items would be learned from: give another one"
        )
    other = others(name)
    mine, theirs = own.contents.modality, other.contents.modality
    if mine != theirs:
        raise InvalidConfig(f"the source {name!r} holds {theirs or 'content'}s: give a collection of {mine}s, as this one is")
    return other


def _trained(
    parent: Encoder, spaces: Spaces, lesson: _Lesson, settings: FinetuneConfig, device: str, progress: Progress | None
) -> tuple[Encoder, dict[str, Any]]:
    """The fine-tuned encoder, and its record with the name of its folder."""
    place = _place(settings, lesson, parent)

    def step(_stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress("adapting", done, total)

    needed = {"relations", "representation"} & set(settings.transfer)
    known = None
    if lesson.x is not None and lesson.source is None:
        known = np.concatenate((lesson.x, lesson.free.x)) if needed else lesson.x
    facts = train(
        parent,
        lesson.examples,
        spaces.folder / place,
        settings,
        unlabelled=lesson.free.contents if needed else (),
        source=lesson.source,
        base=known,
        progress=step,
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
        head = examiner.head_of_log(own, lesson.told.taught, lesson.told.lacking, encoder, free, gate)
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


def _place(settings: FinetuneConfig, lesson: _Lesson, encoder: Encoder) -> str:
    """The name of the encoder's folder: the same call finds what it left."""
    source = None if lesson.source is None else lesson.source.digest()
    said = json.dumps([asdict(settings), lesson.examples.digest(), source, encoder.name], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _made_of(wish: Wish, encoder: Encoder, start: Start, taught: Taught) -> str:
    """The hash of everything that the version is a function of."""
    said = ["finetune", encoder.name, wish.method, wish.seed, wish.field, start.hash, taught.digest()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
