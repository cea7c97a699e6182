"""An index in a Milvus: what re-embedding a collection takes by stage and in memory, and searches while versions are swapped."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.memory import memory
from vecmeta.bench.streams import Stream, fill, teach
from vecmeta.types import Vectors

MILVUS = ("create", "insert", "index")  # stages that are Milvus's own work
TOLERANCE = 1e-4  # of a score
IDLE = 5.0  # seconds of searching before the first swap, and after the last one


@dataclass(slots=True)
class Told:
    """What the searchers saw: (moment, seconds, version, query, [(item, score)])."""

    answers: list[tuple[float, float, int, int, list[tuple[str, float]]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def run(
    index: str, *, count: int = 100_000, swap_count: int = 20_000, dim: int = 384, swaps: int = 10, threads: int = 4, seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Both, each in a database of its own that is dropped at the end; a count of 0 leaves one out."""
    tell = progress or (lambda *_: None)
    facts: dict[str, Any] = {"machine": machine(), "index": _shown(index), "dim": dim}
    if count:
        facts["reembed"] = reembed(index, count, dim, seed, tell)
    if swap_count:
        facts["swap"] = swap(index, swap_count, dim, swaps, threads, seed, tell)
    return facts


def reembed(index: str, count: int, dim: int, seed: int, tell: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Fill a collection, teach it, adapt it: seconds by stage of the adaptation, and how much larger this process became meanwhile."""
    stream = Stream(count, dim, seed)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, index=index, device="cpu") as db:
        c = db.create("bench", encoder="vectors", dim=dim)
        try:
            tell("filling", 0, count)
            adding = fill(c, stream)
            c.settle()
            teach(c, stream)
            c.adapt(dry_run=True)  # imports and the sample's statistics are not what is measured
            before, sizes, done = memory(), [memory()], threading.Event()
            watch = threading.Thread(target=lambda: _watch(sizes, done))
            watch.start()
            try:
                report = c.adapt(progress=tell)
            finally:
                done.set()
                watch.join()
            stages = {name.partition(": ")[2]: took for name, took in report.seconds.items() if name.startswith("building: ")}
            building = report.seconds.get("building", 0.0)
            return {
                "count": count, "decision": report.decision, "adding": adding, "seconds": dict(report.seconds), "stages": stages,
                "milvus_share": sum(stages.get(name, 0.0) for name in MILVUS) / building if building else None,
                "recall": report.metrics.get("recall"), "memory_before": before, "memory_peak": max(sizes),
                "vector_bytes": count * dim * 4,
            }  # fmt: skip
        finally:
            db.drop("bench")


def swap(
    index: str, count: int, dim: int, swaps: int, threads: int, seed: int, tell: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Threads search all the time while one version after the other is learned, built and made live."""
    stream = Stream(count, dim, seed)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, index=index, device="cpu") as db:
        c = db.create("bench", encoder="vectors", dim=dim)
        try:
            fill(c, stream)
            c.settle()
            teach(c, stream)
            queries, told, stop = stream.queries(), Told(), threading.Event()
            c.search(queries[0])
            searchers = [threading.Thread(target=_search, args=(c, queries, n, told, stop)) for n in range(threads)]
            begin = time.perf_counter()
            for thread in searchers:
                thread.start()
            time.sleep(IDLE)
            moments, building = [time.perf_counter()], list[tuple[float, float]]()
            for number in range(swaps):
                tell("swapping", number, swaps)
                started = time.perf_counter()
                report = c.adapt(seed=seed + number)
                if report.decision == "kept" and report.version is not None:
                    c.activate(report.version)
                moments.append(time.perf_counter())
                building.append((started, moments[-1]))
            time.sleep(IDLE)
            stop.set()
            for thread in searchers:
                thread.join()
            return {
                "count": count, "swaps": swaps, "threads": threads, "searches": len(told.answers), "errors": len(told.errors),
                "first_errors": told.errors[:3], "mixed": _mixed(c, queries, told), "versions": sorted({a[2] for a in told.answers}),
                "before": _latency(told, begin, moments[0]), "while": _latency(told, moments[0], moments[-1]),
                "after": _latency(told, moments[-1], np.inf), "seconds_of_a_swap": float(np.median([b - a for a, b in building])),
            }  # fmt: skip
        finally:
            db.drop("bench")


def _search(c: vm.Collection, queries: Vectors, number: int, told: Told, stop: threading.Event) -> None:
    rng = np.random.default_rng(number)
    while not stop.is_set():
        query = int(rng.integers(len(queries)))
        begin = time.perf_counter()
        try:
            hits = c.search(queries[query], 10)
        except vm.VecmetaError as error:
            told.errors.append(f"{type(error).__name__}: {error}")
            continue
        told.answers.append((begin, time.perf_counter() - begin, hits.version, query, [(hit.id, hit.score) for hit in hits]))


def _mixed(c: vm.Collection, queries: Vectors, told: Told) -> int:
    """Answers that hold a score which query and item do not have under the answer's version, or fewer hits than asked for."""
    wrong = 0
    for version in {answer[2] for answer in told.answers}:
        mine = [answer for answer in told.answers if answer[2] == version]
        ids = sorted({id for answer in mine for id, _ in answer[4]})
        adapted = dict(zip(ids, c.embed([vm.Id(id) for id in ids], version=version), strict=True))
        asked = c.embed(queries, version=version)
        for _, _, _, query, hits in mine:
            off = any(abs(float(asked[query] @ adapted[id]) - score) > TOLERANCE for id, score in hits)
            wrong += off or len(hits) < 10
    return wrong


def _latency(told: Told, begin: float, end: float) -> dict[str, float]:
    """Milliseconds of the searches that began between two moments."""
    took = np.array([seconds for at, seconds, *_ in told.answers if begin <= at < end]) * 1000
    return {
        "searches": float(len(took)),
        **({"p50": float(np.median(took)), "p99": float(np.quantile(took, 0.99))} if len(took) else {}),
    }


def _watch(sizes: list[int], done: threading.Event) -> None:
    while not done.wait(0.05):
        sizes.append(memory())


def _shown(index: str) -> str:
    """Without secrets."""
    with tempfile.TemporaryDirectory() as folder, vm.open(Path(folder), index=index) as db:
        return repr(db).partition("index=")[2].strip("'>")
