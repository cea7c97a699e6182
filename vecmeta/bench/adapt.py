"""What adapting brings, method by method: shots x held-out notions x seeds, against the untouched encoder.

Each run teaches up to 20 classes of a labelled set with 1, 2, 5 or 10 items each; the collection's other items are seen unlabelled. Up
to 15 items of each taught and of as many untaught classes, none of which was judged, are then ranked by cosine; quality is MAP@R
(Musgrave et al. 2020), the mean over queries, each of these items once:

fed     taught items among taught items
unfed   untaught items among untaught items
mixed   all of them among all of them

No set here was trained or validated on; see `vecmeta.bench.sets` for the split.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.adaptation import torch_device
from vecmeta.bench import gate
from vecmeta.bench.machine import machine
from vecmeta.bench.measured import PARTS, ROWS_PER_CLASS, WAYS, changes, quality, sample
from vecmeta.bench.sets import Source, open_sources
from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.fitting import fit, start_of
from vecmeta.meta.head import centre
from vecmeta.meta.methods import NAMES, checked
from vecmeta.meta.start import Start
from vecmeta.meta.tasks import Task
from vecmeta.types import Progress

SHOTS = (1, 2, 5, 10)
SEEDS = 5
# no methods, but what a method's figures have to be read against
REFERENCES = ("centred",)


def run(
    data_sets: Path,
    *,
    sets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    with_gate: bool = False,
    cache: Path | None = None,
    start: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_sets: the folder of data sets, NAME/data.parquet.
        sets: "name:column" of `vecmeta.bench.sets.HELD_OUT`; all by default.
        methods: names of `vecmeta.meta.methods`; all by default.
        shots: judged items per taught class.
        seeds: repetitions, each with other classes and items.
        with_gate: also put every method's candidates on trial, with right, half wrong and random labels.
        cache: folder where encodings are kept.
        start: a start of your own for the first of the methods, instead of the shipped one.

    Returns:
        {"machine", "settings", "split", "rows": [one per set x shots x method], "means": [one per shots x method], "gate"}.

    Raises:
        InvalidConfig: an unknown method or set, a data set that is not there.
    """
    names = [checked(name) for name in (methods or NAMES)]
    if seeds < 1 or not shots or min(shots) < 1:
        raise vm.InvalidConfig(f"seeds and shots are whole numbers from 1, not {seeds} and {list(shots)}")
    where = torch_device(device)
    starts = {name: start_of(name, start if name == names[0] else None) for name in names}
    runs: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    hard: list[dict[str, Any]] = []
    done, total = 0, 0
    for source in (sources := open_sources(data_sets, sets, cache, device, progress)):
        total = len(sources) * len(shots) * seeds
        for few in shots:
            for seed in range(seeds):
                task, stats = sample(source, few, seed)
                runs += compare(source, task, stats, few, seed, starts, where)
                hard.append(with_negatives(source, few, seed, starts[names[0]], where))
                if with_gate:
                    trials += [row for known in starts.values() for row in gate.trials(source, few, seed, known, where)]
                done += 1
                if progress is not None:
                    progress("runs", done, total)
    rows = [_summary(group) for group in _grouped(runs, ("set", "shots", "method"))]
    facts: dict[str, Any] = {
        "machine": machine(device),
        "settings": {"seeds": seeds, "shots": list(shots), "ways": WAYS, "rows_per_class": ROWS_PER_CLASS},
        "split": {source.name: source.split for source in sources},
        "starts": {name: {"hash": s.hash, "trained_on": s.provenance.get("trained_on", [])} for name, s in starts.items()},
        "rows": rows,
        "means": [_over_sets(group) for group in _grouped(rows, ("shots", "method"))],
        "negatives": [_paired(group) for group in _grouped(hard, ("shots",))],
    }
    if with_gate:
        facts["gate"] = gate.summary(trials)
        facts["trials"] = trials
    return facts


def compare(
    source: Source, task: Task, stats: Statistics, shots: int, seed: int, starts: dict[str, Start], device: str
) -> Iterable[dict[str, Any]]:
    """A row of figures for every method, and for the references."""
    before = quality(task.x, task)
    for name in (*REFERENCES, *starts):
        begin = time.perf_counter()
        head = fit(starts[name], task.support, stats, device=device, seed=seed) if name in starts else None
        seconds = time.perf_counter() - begin
        after = quality(head.project(task.x) if head is not None else centre(np, task.x, stats.mean, 1.0), task)
        yield {"set": source.name, "shots": shots, "seed": seed, "method": name, "seconds": seconds, **changes(before, after)}


def with_negatives(source: Source, shots: int, seed: int, start: Start, device: str = "cpu") -> dict[str, Any]:
    """Mixed quality gained from a task with as many hard negatives as positives, and from the same task without them."""
    task, stats = sample(source, shots, seed, negatives=shots)
    before = quality(task.x, task)
    liked = (task.support.y > 0).any(1)
    positives = Episode(task.support.x[liked], np.maximum(task.support.y[liked], 0))
    gains = []
    for episode in (task.support, positives):
        after = quality(fit(start, episode, stats, device=device, seed=seed).project(task.x), task)
        gains.append(changes(before, after)["mixed_gain"])
    return {"set": source.name, "shots": shots, "with": gains[0], "without": gains[1]}


def _paired(group: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means, and the difference with half the width of its 95 % interval over runs."""
    difference = np.array([row["with"] - row["without"] for row in group])
    means = {key: float(np.mean([row[key] for row in group])) for key in ("with", "without")}
    half = float(1.96 * difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else float("nan")
    return {"shots": group[0]["shots"], **means, "difference": float(difference.mean()), "half": half}


def _grouped(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> Iterable[list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups.values()


def _summary(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and half the width of the gains' 95 % interval (normal)."""
    facts = {key: group[0][key] for key in ("set", "shots", "method")}
    figures = [key for key in group[0] if key not in (*facts, "seed")]
    out = {**facts, **{key: float(np.mean([run[key] for run in group])) for key in figures}}
    for part in PARTS:
        gains = [run[f"{part}_gain"] for run in group]
        out[f"{part}_half"] = float(1.96 * np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("nan")
    return out


def _over_sets(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over sets, the smallest gain of the mixed, and the interval that the seeds leave."""
    figures = [key for key in group[0] if key not in ("set", "shots", "method")]
    out = {"shots": group[0]["shots"], "method": group[0]["method"]}
    out |= {key: float(np.mean([row[key] for row in group])) for key in figures}
    for part in PARTS:
        out[f"{part}_half"] = float(np.sqrt(np.sum([row[f"{part}_half"] ** 2 for row in group])) / len(group))
    worst = min(group, key=lambda row: row["mixed_gain"])
    return {**out, "mixed_least": worst["mixed_gain"], "mixed_least_set": worst["set"]}
