"""What fine-tuning brings beside adapting, and in how many seconds: labelled sets x labels per class x kinds of training.

Of up to 20 classes some items are labelled; as many other classes are left unlabelled. 15 items of each class, which nobody labelled,
are then ranked by cosine; quality is MAP@R (Musgrave et al. 2020), the mean over queries, each of these items once:

fed     held-out items of the labelled classes, among each other
unfed   items of the classes that were held out whole, among each other
mixed   all of them among all of them
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.measured import PARTS, ROWS_PER_CLASS, WAYS
from vecmeta.bench.sets import NO_LABEL
from vecmeta.encoders import open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.evaluate import Floats, map_at_r_by_labels
from vecmeta.finetune import FinetuneConfig, finetune, labelled
from vecmeta.meta.episodes import Episode, statistics
from vecmeta.meta.fitting import fit, start_of
from vecmeta.meta.sets import CONTENT_COLUMNS
from vecmeta.types import Content, Keys, Progress, Vectors

SETS = ("clinc150:label", "trec:label", "caltech101:label", "emoji:label")
SHOTS: tuple[int, ...] = (5, 20, 0)  # 0: all there are
SEEDS = 3
ADAPT = "adapt"
TRAININGS: dict[str, dict[str, Any]] = {
    "features": {"mode": "features"},
    "lora": {"mode": "lora"},
    "full": {"mode": "full"},
    "full + L2-SP": {"mode": "full", "transfer": ("parameters",)},
    "full + relations": {"mode": "full", "transfer": ("relations",)},
}
METHODS = (ADAPT, *TRAININGS)
LEAST = ROWS_PER_CLASS + 5  # rows of a class that takes part
BACKGROUND = 1000  # other rows: what a head's statistics are of, and what relations are kept of


@dataclass(frozen=True, eq=False)
class Labels:
    """Contents of a set, and a label each."""

    name: str
    contents: list[Content]
    labels: NDArray[np.str_]


def run(
    data_sets: Path,
    *,
    sets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    settings: dict[str, Any] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_sets: the folder of data sets, NAME/data.parquet.
        sets: "name:column"; SETS by default. Texts are encoded by "text", pictures by "image".
        methods: of METHODS; all by default.
        shots: labelled items of a class; 0 is all there are.
        seeds: repetitions, each with other classes and items.
        settings: of `FinetuneConfig` for every training, such as fewer steps for a slow machine.

    Returns:
        {"machine", "settings", "rows": [one per set x shots x method], "means": [one per shots x method]}.

    Raises:
        InvalidConfig: a method or set that is not there.
    """
    wanted = list(methods or METHODS)
    for name in wanted:
        if name not in METHODS:
            raise vm.InvalidConfig(f"method {name!r} is none of {', '.join(METHODS)}")
    FinetuneConfig(**(settings or {}))
    if seeds < 1 or not shots or min(shots) < 0:
        raise vm.InvalidConfig(f"seeds are a number from 1 and shots from 0 (all), not {seeds} and {list(shots)}")
    sources = [read(data_sets, name) for name in (sets or SETS)]
    runs: list[dict[str, Any]] = []
    done, total = 0, len(sources) * len(shots) * seeds * len(wanted)
    for source in sources:
        encoder = open_encoder("text" if isinstance(source.contents[0], str) else "image", device=device)
        for few in shots:
            for seed in range(seeds):
                trial = Trial(source, encoder, few, seed)
                for name in wanted:
                    if progress is not None:
                        progress("runs", done, total)
                    runs.append({"set": source.name, "shots": few, "seed": seed, "method": name, **trial(name, settings or {})})
                    done += 1
    if progress is not None:
        progress("runs", total, total)
    rows = [_mean(group, ("set", "shots", "method")) for group in _grouped(runs, ("set", "shots", "method"))]
    return {
        "machine": machine(),
        "settings": {
            "seeds": seeds,
            "shots": list(shots),
            "ways": WAYS,
            "rows_per_class": ROWS_PER_CLASS,
            "config": settings or {},
        },
        "runs": runs,
        "rows": rows,
        "means": [_mean(group, ("shots", "method")) for group in _grouped(rows, ("shots", "method"))],
    }


def read(data_sets: Path, name: str) -> Labels:
    """A set's contents and labels; unlabelled rows keep the label "". Raises InvalidConfig."""
    import pyarrow.parquet as pq

    folder, _, column = name.partition(":")
    column, path = column or "label", data_sets / folder / "data.parquet"
    if not path.is_file():
        raise vm.InvalidConfig(f"no data set {folder!r}: there is no file {path}")
    known = pq.read_schema(path).names
    content = next((c for c in CONTENT_COLUMNS if c in known), None)
    if content is None or column not in known:
        raise vm.InvalidConfig(f"data set {folder!r} needs contents and the column {column!r}; it has {', '.join(known)}")
    table = pq.read_table(path, columns=[content, column]).to_pydict()
    pairs = [
        (c, label) for c, label in zip(table[content], table[column], strict=True) if c and (not isinstance(c, str) or c.strip())
    ]
    labels = ["" if label is None or str(label) in NO_LABEL else str(label) for _, label in pairs]
    return Labels(name, [c for c, _ in pairs], np.array(labels))


class Trial:
    """One choice of classes and items: what is labelled, what is asked, and what the untouched encoder answers."""

    def __init__(self, source: Labels, encoder: Encoder, shots: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        names, counts = np.unique(source.labels[source.labels != ""], return_counts=True)
        usable = rng.permutation(names[counts >= LEAST])
        ways = min(WAYS, len(usable) // 2)
        if ways < 2:
            raise vm.InvalidConfig(f"{source.name} has fewer than four classes of {LEAST} items")
        self.taught, others = usable[:ways], usable[ways : 2 * ways]
        asked, given = list[Keys](), list[Keys]()
        for name in (*self.taught, *others):
            rows = rng.permutation(np.flatnonzero(source.labels == name))
            asked.append(rows[:ROWS_PER_CLASS])
            if name in self.taught:
                rest = rows[ROWS_PER_CLASS:]
                given.append(rest[:shots] if shots else rest)
        self._source, self._encoder, self._seed = source, encoder, seed
        self._asked, self._given = np.concatenate(asked), np.concatenate(given)
        self._free = np.setdiff1d(np.arange(len(source.labels)), np.concatenate((self._asked, self._given)))
        self._free = np.sort(rng.permutation(self._free)[:BACKGROUND])
        self._base = self._quality(encoder.encode(self._contents(self._asked)))

    def __call__(self, method: str, settings: dict[str, Any]) -> dict[str, float]:
        """Figures of one method: quality before and after, seconds, and what a head on top of the encoder brings."""
        if method == ADAPT:
            x, free = (self._encoder.encode(self._contents(rows)) for rows in (self._given, self._free))
            begin = time.perf_counter()
            head = self._head(x, free)
            seconds = time.perf_counter() - begin
            after = self._quality(head.project(self._encoder.encode(self._contents(self._asked))))
            return {"labels": float(len(self._given)), "seconds": seconds, **self._changes(after)}
        about = TRAININGS[method]
        config = FinetuneConfig(**{**settings, **about, "seed": self._seed})
        examples = labelled(self._contents(self._given), self._source.labels[self._given].tolist())
        free_contents = self._contents(self._free)
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
            needed = free_contents if "relations" in config.transfer else []
            facts = finetune(self._encoder, examples, Path(folder, "encoder"), config, unlabelled=needed)
            seconds = time.perf_counter() - begin
            tuned = open_encoder(str(Path(folder, "encoder")), device="auto")
            z, x, free = (tuned.encode(self._contents(rows)) for rows in (self._asked, self._given, self._free))
        head = self._head(x, free)
        found = {"labels": float(len(self._given)), "seconds": seconds, "steps": float(facts["scores"]["steps"])}
        found |= self._changes(self._quality(z))
        return found | {
            f"{key}_with_head": value for key, value in self._changes(self._quality(head.project(z))).items() if "gain" in key
        }

    def _contents(self, rows: Keys) -> list[Content]:
        return [self._source.contents[row] for row in rows.tolist()]

    def _head(self, x: Vectors, free: Vectors) -> Any:
        y = (self._source.labels[self._given][:, None] == self.taught[None, :]).astype(np.float32)
        return fit(start_of("maml"), Episode(x, y), statistics(free, len(self._source.labels), self._seed), seed=self._seed)

    def _quality(self, z: Vectors) -> dict[str, Floats]:
        labels = self._source.labels[self._asked]
        names = np.unique(labels)
        y = (labels[:, None] == names[None, :]).astype(np.float32)
        taught = np.isin(labels, self.taught)
        parts = {"fed": taught, "mixed": np.ones(len(z), bool), "unfed": ~taught}
        return {part: map_at_r_by_labels(z[rows], y[rows]) for part, rows in parts.items()}

    def _changes(self, after: dict[str, Floats]) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in PARTS:
            gain = after[part] - self._base[part]
            found |= {f"{part}_base": float(self._base[part].mean()), f"{part}_gain": float(gain.mean())}
            found[f"{part}_worse_02"] = float((gain < -0.02).mean())
        return found


def _grouped(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())


def _mean(group: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Means of the figures, and for gains half the width of the 95 % interval over the group (normal), None for one run."""
    figures = [key for key, value in group[0].items() if isinstance(value, float) and not key.endswith("_half")]
    out = {**{key: group[0][key] for key in keys}, **{key: float(np.mean([row[key] for row in group])) for key in figures}}
    for part in PARTS:
        gains = [row[f"{part}_gain"] for row in group]
        out[f"{part}_half"] = float(1.96 * np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None
    return out
