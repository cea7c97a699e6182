"""One run of the benchmark: what is taught, what is asked, and how the answers changed."""

from __future__ import annotations

import numpy as np

from vecmeta.bench.sets import Source
from vecmeta.evaluate import Floats, map_at_r_by_labels
from vecmeta.meta.episodes import Statistics, statistics
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.tasks import Task, sample_task
from vecmeta.types import Vectors

ROWS_PER_CLASS = 15
WAYS = 20
PARTS = ("fed", "mixed", "unfed")


def sample(source: Source, shots: int, seed: int, negatives: int = 0) -> tuple[Task, Statistics]:
    """One run's task, the same for every method, and the statistics of its collection."""
    notion = source.notion
    ways = min(WAYS, len(notion.classes) // 2)
    task = sample_task(
        notion,
        MetaConfig(ways_most=WAYS),
        np.random.default_rng(seed),
        ways=ways,
        shots=shots,
        kind="concepts",
        rows_per_class=ROWS_PER_CLASS,
        negatives=negatives,
        collection=len(notion.x),
    )
    return task, statistics(task.collection, len(task.collection), seed)


def quality(z: Vectors, task: Task) -> dict[str, Floats]:
    """MAP@R of every query, by part."""
    taught = task.taught
    parts = {"fed": taught, "mixed": np.ones(len(z), bool), "unfed": ~taught}
    return {part: map_at_r_by_labels(z[rows], task.y[rows]) for part, rows in parts.items()}


def changes(before: dict[str, Floats], after: dict[str, Floats]) -> dict[str, float]:
    """Means before and after, and the shares of queries that got worse."""
    out: dict[str, float] = {}
    for part in PARTS:
        known = np.isfinite(before[part])
        gain = (after[part] - before[part])[known]
        out |= {f"{part}_base": float(before[part][known].mean()), f"{part}_gain": float(gain.mean())}
        out |= {f"{part}_worse": float((gain < -1e-9).mean()), f"{part}_worse_02": float((gain < -0.02).mean())}
    return out
