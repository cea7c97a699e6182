"""What fine-tuning brings beside adapting, and in how many seconds: labelled sets x labels per class x kinds of training.

Of up to 20 classes some items are labelled; as many other classes are left unlabelled. 15 items of each class, which nobody labelled,
are then ranked by cosine; quality is MAP@R (Musgrave et al. 2020), the mean over queries, each of these items once:

fed     held-out items of the labelled classes, among each other
unfed   items of the classes that were held out whole, among each other
mixed   all of them among all of them

Seconds are those of learning, with all that belongs to it (measuring, loading and writing the encoder), from vectors of the untouched
encoder, which a collection has. Bringing the result into one takes the time of encoding it anew, but for `adapt` and `features`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.finetune_trial import BACKGROUND, METHODS, Base, Trial, read
from vecmeta.bench.machine import machine
from vecmeta.bench.measured import PARTS, ROWS_PER_CLASS, WAYS
from vecmeta.encoders import open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.encoders.weights import torch_device
from vecmeta.finetune import FinetuneConfig
from vecmeta.types import Progress

SETS = ("clinc150:label", "trec:label", "caltech101:label", "emoji:label")
SHOTS: tuple[int, ...] = (5, 20, 0)  # 0: all there are
SEEDS = 3
# What a cell takes, of what "features" with few labels takes: a first guess, until cells like it were measured.
_GUESSES = {"adapt": 0.2, "features": 1.0, "lora": 20.0, "full": 20.0, "full + L2-SP": 22.0, "full + relations": 40.0}
_MORE = {0: 6.0}  # times as much, with so many labels of a class
_PICTURES = 4.0
TIMES = ("seconds", "wall")

Runs = list[dict[str, Any]]


def run(
    data_sets: Path,
    *,
    sets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    settings: dict[str, Any] | None = None,
    device: str = "auto",
    earlier: Mapping[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark: one seed of everything, then the next, so that whatever was interrupted tells something of all.

    Args:
        data_sets: the folder of data sets, NAME/data.parquet.
        sets: "name:column"; SETS by default. Texts are encoded by "text", pictures by "image".
        methods: of METHODS; all by default.
        shots: labelled items of a class; 0 is all there are.
        seeds: repetitions, each with other classes and items.
        settings: of `FinetuneConfig` for every training, such as fewer steps for a slow machine.
        earlier: what an earlier run returned or kept: its cells are not measured again, and stay.
        keep: called with what would be returned whenever a cell has been measured.
        progress: called with seconds gone and seconds in all, as far as they can be foreseen.

    Returns:
        {"machine", "settings", "runs": [one per cell], "rows": [one per set x shots x method], "means": [one per shots x method]}:
        means of quality; of times the median over seeds, and means of these over sets.

    Raises:
        InvalidConfig: a method or set that is not there; `earlier` is of another machine or of other settings.
    """
    wanted = list(methods or METHODS)
    for name in wanted:
        if name not in METHODS:
            raise vm.InvalidConfig(f"method {name!r} is none of {', '.join(METHODS)}")
    FinetuneConfig(**(settings or {}))
    if seeds < 1 or not shots or min(shots) < 0:
        raise vm.InvalidConfig(f"seeds are a number from 1 and shots from 0 (all), not {seeds} and {list(shots)}")
    where = torch_device(device)
    said = {
        "ways": WAYS,
        "rows_per_class": ROWS_PER_CLASS,
        "background": BACKGROUND,
        "device": where,
        "config": settings or {},
    }
    head = {"machine": machine(where), "settings": said}
    runs: Runs = [] if earlier is None else _agreed(earlier, head)
    sources = {name: read(data_sets, name) for name in (sets or SETS)}
    kinds = {name: source.kind for name, source in sources.items()}
    there = {_key(entry) for entry in runs}
    todo = [key for key in product(range(seeds), sources, shots, wanted) if key not in there]
    clock = _Clock(todo, runs, kinds, progress)
    encoders: dict[str, Encoder] = {}
    bases: dict[str, Base] = {}
    trials: dict[tuple[int, str, int], Trial] = {}
    for key in todo:
        seed, name, few, method = key
        clock.next(key)
        if name not in bases:
            kind = kinds[name]
            if kind not in encoders:
                encoders[kind] = open_encoder(kind, device=where)
            bases[name] = Base(sources[name], encoders[kind], where)
        if key[:3] not in trials:
            trials = {key[:3]: Trial(bases[name], few, seed)}  # the one before is not asked again
        trial = trials[key[:3]]
        found = _known(runs, key, trial.labels)
        if found is None:
            begin = time.perf_counter()
            found = trial(method, settings or {}, clock.tell)
            found["wall"] = time.perf_counter() - begin
        runs.append({**found, "set": name, "shots": few, "seed": seed, "method": method})
        clock.done(runs)
        if keep is not None:
            keep({**head, **_told(runs)})
    return {**head, **_told(runs)}


def _key(entry: Mapping[str, Any]) -> tuple[int, str, int, str]:
    return entry["seed"], entry["set"], entry["shots"], entry["method"]


def _known(runs: Runs, key: tuple[int, str, int, str], labels: int) -> dict[str, Any] | None:
    """What was measured with as many labels of the same choice of classes: all there are may be no more than 20 of each."""
    seed, name, _, method = key
    wanted = (seed, name, labels, method)
    return next((entry for entry in runs if (entry["seed"], entry["set"], entry["labels"], entry["method"]) == wanted), None)


def _agreed(earlier: Mapping[str, Any], head: Mapping[str, Any]) -> Runs:
    """The cells of an earlier run. Raises InvalidConfig when they are no company for new ones."""
    try:
        theirs = (earlier["machine"]["machine"], earlier["settings"])
        runs = [dict(entry) for entry in earlier["runs"]]
        for entry in runs:
            _key(entry)
    except (KeyError, TypeError) as error:
        raise vm.InvalidConfig(f"what is there holds no figures of this benchmark: {error!r}") from error
    ours = (head["machine"]["machine"], head["settings"])
    for what, old, new in zip(("on another machine", "with other settings"), theirs, ours, strict=True):
        if old != new:
            raise vm.InvalidConfig(f"what is there was measured {what}, {old!r} and not {new!r}: give another file")
    return runs


class _Clock:
    """Seconds gone, and those that are left as far as cells like them tell."""

    def __init__(
        self, todo: Sequence[tuple[int, str, int, str]], runs: Runs, kinds: Mapping[str, str], progress: Progress | None
    ) -> None:
        self._todo, self._kinds, self._progress = list(todo), kinds, progress
        self._count, self._begin, self._stage = 0, time.perf_counter(), ""
        self._left = 0.0
        self._started = self._begin
        self._foresee(runs)

    def next(self, key: tuple[int, str, int, str]) -> None:
        """A cell begins."""
        _, name, few, method = key
        self._stage = f"seconds: cell {self._count + 1} of {len(self._todo)}, {name}, {few or 'all'} per class, {method}"
        self._started = time.perf_counter()
        self.tell()

    def done(self, runs: Runs) -> None:
        """A cell has been measured."""
        self._count += 1
        self._foresee(runs)
        self.tell()

    def tell(self, *_: Any) -> None:
        """As the `Progress` of whatever runs within a cell."""
        if self._progress is not None:
            now = time.perf_counter()
            running = now - self._started if self._count < len(self._todo) else 0.0
            left = max(self._left - running, 1.0 if self._count < len(self._todo) else 0.0)
            self._progress(self._stage, round(now - self._begin), round(now - self._begin + left))

    def _foresee(self, runs: Runs) -> None:
        like: dict[tuple[str, int, str], list[float]] = {}
        for entry in runs:
            like.setdefault((entry["set"], entry["shots"], entry["method"]), []).append(entry["wall"])
        scales = [
            float(np.mean(walls)) / self._guess(key) for key, walls in like.items() if key[0] in self._kinds and key[2] != "adapt"
        ]
        scale = float(np.mean(scales)) if scales else 2.0
        rest = [key[1:] for key in self._todo[self._count :]]
        self._left = sum(float(np.mean(like[key])) if key in like else scale * self._guess(key) for key in rest)
        self._started = time.perf_counter()

    def _guess(self, key: tuple[str, int, str]) -> float:
        name, few, method = key
        return _GUESSES[method] * _MORE.get(few, 1.0) * (_PICTURES if self._kinds[name] == "image" else 1.0)


def _told(runs: Runs) -> dict[str, Any]:
    """All cells, and their means."""
    names = list(dict.fromkeys([*SETS, *(entry["set"] for entry in runs)]))
    ordered = sorted(runs, key=lambda e: (names.index(e["set"]), e["shots"] or np.inf, METHODS.index(e["method"]), e["seed"]))
    rows = [_mean(group, ("set", "shots", "method"), np.median) for group in _grouped(ordered, ("set", "shots", "method"))]
    by_shots = sorted(rows, key=lambda row: (row["shots"] or np.inf, METHODS.index(row["method"])))
    means = [_mean(group, ("shots", "method"), np.mean) for group in _grouped(by_shots, ("shots", "method"))]
    return {"runs": ordered, "rows": rows, "means": means}


def _grouped(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())


def _mean(group: Sequence[dict[str, Any]], keys: Sequence[str], time_of: Callable[..., Any]) -> dict[str, Any]:
    """Means of the figures, and for gains half the width of the 95 % interval over the group (normal), None for one run.

    ``time_of`` makes one of several times: the median of equal runs does not mind that another program ran beside one of them.
    """
    figures = [key for key, value in group[0].items() if isinstance(value, float) and not key.endswith("_half")]
    out = {key: group[0][key] for key in keys}
    out |= {key: float((time_of if key in TIMES else np.mean)([row[key] for row in group])) for key in figures}
    out["of"] = len(group)
    for part in PARTS:
        gains = [row[f"{part}_gain"] for row in group]
        out[f"{part}_half"] = float(1.96 * np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None
    return out
