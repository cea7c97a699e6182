"""What an adaptation and a fine-tuning have in common: judgements read, stages timed, a measured candidate stored, built and swapped in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vecmeta.catalogue.versions import State, VersionStore
from vecmeta.errors import Conflict
from vecmeta.judged import Taught, contradictions, resolve
from vecmeta.meta.head import Head, Projector
from vecmeta.servings import Servings
from vecmeta.spaces import Space
from vecmeta.trial import why_insufficient
from vecmeta.types import Progress, Report

STAGES = ("reading", "adapting", "evaluating", "building", "swapping")


class Clock:
    """Seconds by stage, and the calls of the progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self.progress, self._begin = progress, time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around one of STAGES."""
        if self.progress is not None:
            self.progress(name, STAGES.index(name), len(STAGES))
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def total(self) -> dict[str, float]:
        """Seconds by stage so far, and "total"."""
        return {**self.seconds, "total": time.perf_counter() - self._begin}


@dataclass(frozen=True, eq=False)
class Heard:
    """What is read before anything is learned.

    ``expected``  the live version at that time, which a swap must not find changed.
    ``taught``    the judgements that count.
    ``lacking``   why they are too few; None: they are not.
    ``said``      what every report says besides; ``counted`` is its part of the metrics.
    """

    expected: State
    taught: Taught
    lacking: str | None
    said: dict[str, Any]
    counted: dict[str, float]

    def insufficient(self, reason: str, clock: Clock) -> Report:
        """The report of what cannot be learned."""
        return Report("insufficient", None, reason, self.counted, seconds=clock.total(), **self.said)


def heard(space: Space, versions: VersionStore, dry_run: bool) -> Heard:
    """Read the judgements in a space."""
    expected = versions.state()
    taught = resolve(space.items, space.log)
    odd, number = contradictions(space.items, space.log, taught)
    said = {"contradictions": tuple(odd), "dry_run": dry_run}
    return Heard(expected, taught, why_insufficient(taught), said, {"contradictions": float(number)})


@dataclass(frozen=True, eq=False)
class Candidate:
    """What was learned and measured.

    ``made_of``  the hash of everything that it is a function of.
    ``made``     method, strength and number of judgements, as the version's row has them.
    ``by``       projects as the head does, more quickly.
    ``encoder``  its number; 0 is the collection's own.
    """

    made_of: str
    head: Head
    made: dict[str, Any]
    report: Report
    by: Projector
    encoder: int = 0


def publish(
    candidate: Candidate, versions: VersionStore, servings: Servings, expected: State, clock: Clock, *, activate: bool,
    bridge: bool | None = None,
) -> Report:  # fmt: skip
    """Store the version; build it if it is promoted, and swap it in unless that is to wait. If that fails, it is as if nothing had been.

    ``bridge``: live before its index is there, see `vecmeta.bridge`; None: as the database was opened.
    """
    made_of, encoder, report = candidate.made_of, candidate.encoder, candidate.report
    before = versions.made_of(made_of)
    ahead: State | None = None  # what it is once the version is live before its index
    number = versions.put(made_of, candidate.head.to_bytes(), {**candidate.made, **_stored(report)}, encoder)
    report, built = replace(report, version=number), False
    try:
        if report.decision == "promoted" and number != expected.live:
            over = servings.bridges.always if bridge is None else bridge
            if activate and over and versions.encoder(expected.live) == encoder:
                ahead = servings.go_ahead(number, expected)
            with clock.stage("building"):
                serving, made = servings.candidate(number, candidate.head, clock.progress, candidate.by, encoder)
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
            built = True
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
    versions.renew(number, _stored(report))
    if built:  # not before all is written down, which would wait for what these begin
        servings.prune_files({0, expected.live, number})
        servings.tend()
    return report


def _stored(report: Report) -> dict[str, Any]:
    return {"decision": report.decision, "reason": report.reason, "report": report.to_dict()}
