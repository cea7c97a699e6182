"""One adaptation from end to end: judgements -> episode -> measured candidate -> index -> swap -> report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vecmeta import intake
from vecmeta.catalogue.versions import State, VersionStore
from vecmeta.errors import Conflict, InvalidConfig
from vecmeta.evaluate import Gate
from vecmeta.judged import Taught, contradictions, lesson, resolve
from vecmeta.meta import sentinel
from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.fitting import fit, start_of
from vecmeta.meta.head import Head, MemoryHead, Projector
from vecmeta.meta.methods import checked
from vecmeta.meta.projecting import projector
from vecmeta.meta.start import Start
from vecmeta.preview import cost
from vecmeta.servings import Servings
from vecmeta.spaces import Space
from vecmeta.trial import STRENGTHS, Background, best_strength, drift, judge, measure, why_insufficient
from vecmeta.types import Decision, Progress, Report

STAGES = ("reading", "adapting", "evaluating", "building", "swapping")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked for. Raises InvalidConfig."""

    method: str
    dry_run: bool
    strength: float | None
    seed: int
    start: str | Path | None = None  # a file; None: the shipped start of the method
    activate: bool = True  # go live if promoted
    bridge: bool | None = None  # before the index is built; None: as the database was opened

    def __post_init__(self) -> None:
        if self.bridge is not None and not isinstance(self.bridge, bool):
            raise InvalidConfig(f"bridge is True, False or None, not {self.bridge!r}")
        checked(self.method)
        intake.start_file(self.start)
        intake.strength(self.strength)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidConfig(f"a seed is a whole number from 0, not {self.seed!r}")


class Clock:
    """Seconds by stage, and the calls of the progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress, self._begin = progress, time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around one of STAGES."""
        if self._progress is not None:
            self._progress(name, STAGES.index(name), len(STAGES))
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def total(self) -> dict[str, float]:
        """Seconds by stage so far, and "total"."""
        return {**self.seconds, "total": time.perf_counter() - self._begin}


def adapt(
    space: Space,
    versions: VersionStore,
    servings: Servings,
    device: str,
    wish: Wish,
    progress: Progress | None,
) -> Report:
    """See `vecmeta.Collection.adapt`. The head is learned for the encoder of the live version, whose `space` it is."""
    items, log = space.items, space.log
    clock = Clock(progress)
    with clock.stage("reading"):
        expected = versions.state()
        start = start_of(wish.method, None if wish.start is None else Path(wish.start))
        taught = resolve(items, log)
        odd, number = contradictions(items, log, taught)
        said: dict[str, Any] = {"contradictions": tuple(odd), "dry_run": wish.dry_run}
        figures = {"contradictions": float(number)}
        lacking = why_insufficient(taught)
        if lacking is not None:
            return Report("insufficient", None, lacking, figures, seconds=clock.total(), **said)
        sample = space.sampler.sample(wish.seed)
        stats = sample.stats
        if stats is None:  # all items that were judged have just been deleted
            return Report("insufficient", None, "the collection is empty", figures, seconds=clock.total(), **said)
        labelled = {name for name, is_item in zip(taught.rows, taught.is_item.tolist(), strict=True) if is_item}
        free = [row for row, id in enumerate(sample.ids) if id not in labelled]
        background = Background(sample.vectors[free], tuple(sample.ids[row] for row in free))
    with clock.stage("adapting"):
        where = torch_device(device)

        def learn(episode: Episode) -> MemoryHead:
            return fit(start, episode, stats, device=where, seed=wish.seed)

        everything = lesson(taught, taught.y)
        head: Head = learn(everything)
        if "familiar" in start.provenance:
            figures["shift"], note = sentinel.shift(start.provenance["familiar"], everything, stats)
            said["notes"] = () if note is None else (note,)
        # a start's record says nothing of judgements that are unlike all it was measured on
        record = start.record if not said.get("notes") else 0.0
    with clock.stage("evaluating"):
        gate = Gate()
        strengths = STRENGTHS if wish.strength is None else (float(wish.strength),)
        best = best_strength(measure(taught, background, learn, wish.seed, strengths), gate)
        head = head.with_strength(best.strength)
        drifted = drift(head, background, wish.seed)
        promote, reason, metrics = judge(gate, best, drifted, wish.seed, record)
    decision: Decision = "promoted" if promote else "kept"
    report = Report(decision, None, reason, {**metrics, **figures}, drifted.harmed, drifted.changed, **said)
    if wish.dry_run:
        return replace(report, cost=cost(items, servings, projector(head, where)), seconds=clock.total())
    row = {"method": wish.method, "strength": best.strength, "judgements": taught.count}
    made_of = _made_of(wish, start, taught, stats)
    return publish(
        versions,
        servings,
        made_of,
        head,
        row,
        report,
        expected,
        wish.activate,
        projector(head, where),
        clock,
        progress,
        space.number,
        wish.bridge,
    )


def _made_of(wish: Wish, start: Start, taught: Taught, stats: Statistics) -> str:
    """The hash of everything that a version is a function of."""
    made_of = hashlib.sha256(json.dumps([wish.method, wish.seed, wish.strength, start.hash, taught.digest()]).encode())
    for array in (stats.mean, stats.background, stats.counts):
        made_of.update(array.tobytes())
    return made_of.hexdigest()


def publish(
    versions: VersionStore, servings: Servings, made_of: str, head: Head, row: dict[str, Any], report: Report, expected: State,
    activate: bool, by: Projector, clock: Clock, progress: Progress | None, encoder: int = 0, bridge: bool | None = None,
) -> Report:  # fmt: skip
    """Store the version; build it if it is promoted, and swap it in unless that is to wait. If that fails, it is as if nothing had been."""
    before, blob = versions.made_of(made_of), head.to_bytes()
    ahead: State | None = None  # what it is once the version is live before its index
    number = versions.put(made_of, blob, {**row, **_stored(report)}, encoder)
    report = replace(report, version=number)
    try:
        if report.decision == "promoted" and number != expected.live:
            over = servings.bridges.always if bridge is None else bridge
            if activate and over and versions.encoder(expected.live) == encoder:
                ahead = servings.go_ahead(number, expected)
            with clock.stage("building"):
                serving, made = servings.candidate(number, head, progress, by, encoder)
            clock.seconds |= {f"building: {stage}": seconds for stage, seconds in made.seconds.items()}
            recall = {} if made.recall is None else {"recall": made.recall}
            report = replace(report, indexing=made.how, metrics={**report.metrics, **recall})
            if activate:
                with clock.stage("swapping"):
                    servings.follow(serving, versions.state().revision)
                    servings.go_live(serving, "adapt", ahead or expected)
            else:
                report = replace(
                    report, reason=f"{report.reason}. It is not live yet, as was asked: activate({number}) makes it so."
                )
            servings.prune_files({0, expected.live, number})
    except Conflict as error:
        report = replace(report, decision="kept", reason=f"{error}; adapt again to decide between the two")
    except BaseException:
        if ahead:
            servings.turn_back(number)
        if before is None:
            servings.discard(number)
            versions.remove(number)
        raise
    report = replace(report, seconds=clock.total())
    versions.put(made_of, blob, {**row, **_stored(report)})
    return report


def _stored(report: Report) -> dict[str, Any]:
    return {"decision": report.decision, "reason": report.reason, "report": report.to_dict()}


def torch_device(device: str) -> str:
    """A few steps on tiny tensors: a GPU only when one is there."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
