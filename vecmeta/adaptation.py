"""One adaptation from end to end: judgements -> episode -> measured candidate -> index -> swap -> report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.judgements import AskedQuery, JudgementLog, vector_of
from vecmeta.catalogue.versions import State, VersionStore
from vecmeta.errors import Conflict, InvalidConfig
from vecmeta.evaluate import Gate
from vecmeta.meta import maml
from vecmeta.meta.episodes import Episode, statistics
from vecmeta.meta.head import Head
from vecmeta.meta.start import load_start
from vecmeta.serving import Servings
from vecmeta.trial import STRENGTHS, Background, Fit, Taught, best_strength, drift, judge, measure, why_insufficient
from vecmeta.types import Progress, Report, Vectors

METHODS = ("maml",)
SAMPLE = 8192  # items that the statistics and the trial look at; all of them in smaller collections
STAGES = ("reading", "adapting", "evaluating", "building", "swapping")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked for. Raises InvalidConfig."""

    method: str
    dry_run: bool
    strength: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidConfig(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        s = self.strength
        if s is not None and (isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 < s <= 1):
            raise InvalidConfig(f"a strength is a number above 0 and up to 1, not {s!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidConfig(f"a seed is a whole number from 0, not {self.seed!r}")


class _Clock:
    """Seconds by stage, and the calls of the progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress, self._begin = progress, time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress(name, STAGES.index(name), len(STAGES))
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": time.perf_counter() - self._begin}


def adapt(
    items: ItemStore,
    log: JudgementLog,
    versions: VersionStore,
    servings: Servings,
    device: str,
    wish: Wish,
    progress: Progress | None,
) -> Report:
    """See `vecmeta.Collection.adapt`."""
    clock = _Clock(progress)
    with clock.stage("reading"):
        expected = versions.state()
        taught = resolve(items, log)
        lacking = why_insufficient(taught)
        if lacking is not None:
            return Report("insufficient", None, lacking, seconds=clock.total(), dry_run=wish.dry_run)
        sample, ids, count = _sample(items, wish.seed)
        labelled = {name for name, is_item in zip(taught.rows, taught.is_item.tolist(), strict=True) if is_item}
        free = [row for row, id in enumerate(ids) if id not in labelled]
        background = Background(sample[free], tuple(ids[row] for row in free))
    with clock.stage("adapting"):
        fit, made_of = _method(wish, taught, sample, count, device)
        head = fit(Episode(taught.x, taught.y))
    with clock.stage("evaluating"):
        gate = Gate()
        strengths = STRENGTHS if wish.strength is None else (float(wish.strength),)
        best = best_strength(measure(taught, background, fit, wish.seed, strengths), gate)
        head = head.with_strength(best.strength)
        drifted = drift(head, background, wish.seed)
        promote, reason, metrics = judge(gate, best, drifted, wish.seed)
    report = Report(
        "promoted" if promote else "kept", None, reason, metrics, drifted.harmed, drifted.changed, dry_run=wish.dry_run
    )
    if wish.dry_run:
        return replace(report, seconds=clock.total())
    row = {"method": wish.method, "strength": best.strength, "judgements": int((taught.y != 0).sum())}
    return _publish(versions, servings, made_of, head, row, report, expected, clock, progress)


def resolve(items: ItemStore, log: JudgementLog) -> Taught:
    """The judgements that count, as rows and columns. Those about items that are gone are left out."""
    opinions, asked = log.opinions(), log.asked()
    like = {number: query.text or "" for number, query in asked.items() if query.kind == "item"}
    there = items.base_vectors(list(dict.fromkeys([o.item for o in opinions] + list(like.values()))))
    rows: dict[tuple[str, object], int] = {}
    vectors: list[Vectors] = []

    def row(kind: str, key: object, vector: Vectors) -> int:
        if (kind, key) not in rows:
            rows[kind, key] = len(vectors)
            vectors.append(vector)
        return rows[kind, key]

    columns: dict[tuple[str, object], int] = {}
    own: list[int] = []  # the row of each column's own query, -1 for a concept
    names: list[str] = []
    cells: list[tuple[int, int, float]] = []
    for opinion in opinions:
        if opinion.item not in there:
            continue
        asks = -1
        if opinion.query is not None:
            query = asked[opinion.query]
            if query.kind == "item":
                if query.text not in there:
                    continue
                asks = row("item", query.text, there[query.text])
            else:
                asks = row("query", opinion.query, vector_of(query.vector or b""))
        about = ("concept", opinion.concept) if opinion.query is None else ("query", opinion.query)
        if about not in columns:
            columns[about] = len(own)
            own.append(asks)
            names.append(opinion.concept if opinion.concept is not None else _title(asked[opinion.query or 0]))
            if asks >= 0:
                cells.append((asks, columns[about], 1.0))
        cells.append((row("item", opinion.item, there[opinion.item]), columns[about], opinion.score))
    y = np.zeros((len(vectors), len(own)), dtype=np.float32)
    for r, c, score in cells:
        y[r, c] = score
    taught = np.asarray((y > 0).any(axis=0))  # a concept of which only is said what does not belong teaches nothing
    titles = {place: str(key) if kind == "item" else _title(asked[key]) for (kind, key), place in rows.items()}  # type: ignore[index]
    return Taught(
        x=np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
        y=y[:, taught],
        rows=tuple(str(titles[place]) for place in range(len(vectors))),
        is_item=np.array([kind == "item" for kind, _ in rows], dtype=bool),
        columns=tuple(name for name, used in zip(names, taught.tolist(), strict=True) if used),
        asked=np.array(own, dtype=np.int64)[taught],
    )


def _title(query: AskedQuery) -> str:
    return query.text if query.text is not None else f"<{query.kind}>"


def _sample(items: ItemStore, seed: int) -> tuple[Vectors, list[str], int]:
    """Base vectors and ids of a random part of the collection, and how many items it has."""
    keys = items.keys()
    count = len(keys)
    if count > SAMPLE:
        keys = np.sort(np.random.default_rng(seed).choice(keys, SAMPLE, replace=False))
    _, vectors, ids = items.vectors(keys)
    return vectors, ids, count


def _method(wish: Wish, taught: Taught, sample: Vectors, count: int, device: str) -> tuple[Fit, str]:
    """How a head is fitted to an episode, and the hash of everything that it is a function of."""
    start = load_start()
    stats = statistics(sample, start, count, wish.seed)
    where = _torch_device(device)

    def fit(episode: Episode) -> Head:
        return maml.adapt(start, episode, stats, device=where, seed=wish.seed)

    made_of = hashlib.sha256(json.dumps([wish.method, wish.seed, wish.strength, start.hash, taught.digest()]).encode())
    made_of.update(stats.mean.tobytes() + stats.background.tobytes())
    return fit, made_of.hexdigest()


def _publish(
    versions: VersionStore, servings: Servings, made_of: str, head: Head, row: dict[str, Any], report: Report, expected: State,
    clock: _Clock, progress: Progress | None,
) -> Report:  # fmt: skip
    """Store the version; build and swap it in if it is promoted. If that fails, it is as if nothing had been."""
    before, blob = versions.made_of(made_of), head.to_bytes()
    number = versions.put(made_of, blob, {**row, **_stored(report)})
    report = replace(report, version=number)
    try:
        if report.decision == "promoted" and number != expected.live:
            with clock.stage("building"):
                serving = servings.candidate(number, head, progress)
            with clock.stage("swapping"):
                servings.adopt(serving)
                servings.follow(serving, versions.state().revision)
                versions.activate(number, "adapt", expected)
                servings.prune_files({0, expected.live, number})
    except Conflict as error:
        report = replace(report, decision="kept", reason=f"{error}; adapt again to decide between the two")
    except BaseException:
        if before is None:
            servings.discard(number)
            versions.remove(number)
        raise
    report = replace(report, seconds=clock.total())
    versions.put(made_of, blob, {**row, **_stored(report)})
    return report


def _stored(report: Report) -> dict[str, Any]:
    return {"decision": report.decision, "reason": report.reason, "report": report.to_dict()}


def _torch_device(device: str) -> str:
    """A few steps on tiny tensors: a GPU only when one is there."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
