"""Is the gate right? Candidates of right, half wrong and random labels on trial, against what they do to items nobody judged.

Every run's judgements go through the same trial as in `Collection.adapt`; the truth is the change of the mixed MAP@R at the strength that
the trial chose, on items that neither the head nor the trial has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.bench.measured import changes, quality, sample
from vecmeta.bench.sets import Source
from vecmeta.evaluate import Gate
from vecmeta.judged import Taught, lesson
from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.fitting import fit
from vecmeta.meta.head import Head
from vecmeta.meta.sentinel import shift
from vecmeta.meta.start import Start
from vecmeta.meta.tasks import Task
from vecmeta.trial import Background, best_strength, drift, judge, measure, why_insufficient

LABELS = {"right": 0.0, "half wrong": 0.5, "random": 1.0}  # share of judged items whose concept is drawn anew
WORSE, CLEARLY_WORSE, BETTER = 0.0, -0.005, 0.02  # a mixed change below the first is harm, above the last a gain


def trials(source: Source, shots: int, seed: int, start: Start, device: str = "cpu") -> list[dict[str, Any]]:
    """One row per kind of labels: decision and truth."""
    task, stats = sample(source, shots, seed)
    free = unjudged(task)
    background = Background(free, tuple(str(row) for row in range(len(free))))
    rows = []
    for labels, share in LABELS.items():
        episode = Episode(task.support.x, shuffled(task.support.y, share, np.random.default_rng([seed, shots])))
        outcome = _outcome(episode, stats, background, task, start, seed, device)
        rows.append({"set": source.name, "shots": shots, "seed": seed, "labels": labels, "method": start.method, **outcome})
    return rows


def _outcome(
    episode: Episode, stats: Statistics, background: Background, task: Task, start: Start, seed: int, device: str
) -> dict[str, Any]:
    count, concepts = episode.y.shape
    taught = Taught(
        episode.x, episode.y, tuple(str(row) for row in range(count)), np.ones(count, bool),
        tuple(str(column) for column in range(concepts)), np.full(concepts, -1),
    )  # fmt: skip
    if why_insufficient(taught) is not None:
        return {"decision": "insufficient"}

    def fitted(part: Episode) -> Head:
        return fit(start, part, stats, device=device, seed=seed)

    gate, head = Gate(), fitted(lesson(taught, taught.y))
    best = best_strength(measure(taught, background, fitted, seed), gate)
    head = head.with_strength(best.strength)
    drifted = drift(head, background, seed)
    known = start.provenance.get("familiar")
    strange = known is not None and shift(known, episode, stats)[1] is not None
    promote, _, figures = judge(gate, best, drifted, seed, 0.0 if strange else start.record)
    truth = changes(quality(task.x, task), quality(head.project(task.x), task))
    return {"decision": "promoted" if promote else "kept", "strength": best.strength, **truth, **figures}


def shuffled(y: NDArray[np.float32], share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The judgements with a share of the rows exchanged among each other: (N, C) -> (N, C), as many per concept as before."""
    rows = rng.permutation(len(y))[: round(share * len(y))]
    out = y.copy()
    out[rows] = y[rng.permutation(rows)]
    return out


def unjudged(task: Task) -> NDArray[np.float32]:
    """The collection without the judged rows and without the test, (m, dim)."""
    known = {row.tobytes() for row in task.support.x} | {row.tobytes() for row in task.x}
    return task.collection[[row.tobytes() not in known for row in task.collection]]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often harm was kept back and how often a gain was: over all, and by method."""
    by_method = {
        name: _counted([row for row in rows if row["method"] == name]) for name in dict.fromkeys(r["method"] for r in rows)
    }
    return {**_counted(rows), "methods": by_method}


def _counted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    decided = [row for row in rows if row["decision"] != "insufficient"]
    out: dict[str, Any] = {"runs": len(rows), "insufficient": len(rows) - len(decided)}
    groups = {
        "harmful": [row for row in decided if row["mixed_gain"] < WORSE],
        "clearly_harmful": [row for row in decided if row["mixed_gain"] < CLEARLY_WORSE],
        "helpful": [row for row in decided if row["mixed_gain"] > BETTER],
    }
    for name, group in groups.items():
        kept = sum(row["decision"] == "kept" for row in group)
        out |= {name: len(group), f"{name}_kept": kept / len(group) if group else None}
    return out
