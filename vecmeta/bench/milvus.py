"""An index in a Milvus: what re-embedding a collection takes by stage and in memory, and searches while versions are swapped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
NICE = 10  # of the worker, as of a service's
LITE = "milvus-lite"  # which is for one process


@dataclass(slots=True)
class Told:
    """What the searchers saw: (moment, seconds, version, query, [(item, score)])."""

    answers: list[tuple[float, float, int, int, list[tuple[str, float]]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def run(
    index: str, *, count: int = 100_000, swap_count: int = 20_000, dim: int = 384, swaps: int = 10, threads: int = 4,
    inside: bool = False, seed: int = 0, progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Both, each in a database of its own that is dropped at the end; a count of 0 leaves one out.

    `inside`: the process that searches adapts as well, as with milvus-lite; otherwise a worker does, as with a service.
    """
    tell = progress or (lambda *_: None)
    facts: dict[str, Any] = {"machine": machine(), "index": _shown(index), "dim": dim}
    if count:
        facts["reembed"] = reembed(index, count, dim, seed, tell)
    if swap_count:
        inside = inside or index.startswith(LITE)
        facts["swap"] = swap(index, swap_count, dim, swaps, threads, inside, seed, tell)
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
    index: str, count: int, dim: int, swaps: int, threads: int, inside: bool, seed: int, tell: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Threads search all the time while one version after the other is learned, built and made live."""
    stream = Stream(count, dim, seed)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, index=index, device="cpu") as db:
        c = db.create("bench", encoder="vectors", dim=dim)
        try:
            fill(c, stream)
            c.settle()
            teach(c, stream)
            queries, told, reports = stream.queries(), Told(), list[vm.Report]()
            c.search(queries[0])
            with _adapting(c, db, index, inside) as adapt:
                adapt(seed, dry_run=True)  # what is imported then is not what is measured
                begin = time.perf_counter()
                with _searching(c, queries, threads, told):
                    time.sleep(IDLE)
                    moments = [time.perf_counter()]
                    for number in range(swaps):
                        tell("swapping", number, swaps)
                        reports.append(adapt(seed + number))
                        if reports[-1].decision == "kept" and reports[-1].version is not None:
                            c.activate(reports[-1].version)
                        moments.append(time.perf_counter())
                    time.sleep(IDLE)
            return {
                "count": count, "swaps": swaps, "threads": threads, "inside": inside,
                "searches": len(told.answers), "errors": len(told.errors), "first_errors": told.errors[:3],
                "mixed": _mixed(c, queries, told), "versions": sorted({a[2] for a in told.answers}),
                "before": _latency(told, begin, moments[0]), "while": _latency(told, moments[0], moments[-1]),
                "after": _latency(told, moments[-1], np.inf), "seconds_of_a_swap": float(np.median(np.diff(moments))),
                "promoted": sum(report.decision == "promoted" for report in reports), "stages": _medians(reports),
            }  # fmt: skip
        finally:
            db.drop("bench")


@contextmanager
def _adapting(c: vm.Collection, db: vm.Database, index: str, inside: bool) -> Iterator[Callable[..., vm.Report]]:
    """What adapts with a seed: this process, or a worker of its own at low priority, as a service has. Raises VecmetaError."""
    if inside:
        yield lambda seed, dry_run=False: c.adapt(seed=seed, dry_run=dry_run)
        return

    def submitted(seed: int, dry_run: bool = False) -> vm.Report:
        job = db.jobs.submit(c.name, params={"seed": seed, "dry_run": dry_run})
        while job.finished is None:
            job = db.jobs.wait(job.id, 1.0)
            if worker.poll() is not None:
                raise vm.VecmetaError(f"the worker of the benchmark ended with {worker.returncode}")
        if job.report is None:
            raise vm.VecmetaError(f"an adaptation of the benchmark failed: {job.error}")
        return job.report

    environment = {**os.environ, "VECMETA_DATA": db.url, "VECMETA_INDEX": index}
    command = [sys.executable, "-m", "vecmeta", "worker", "--device", "cpu"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as worker:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, NICE)
        try:
            yield submitted
        finally:
            worker.terminate()


@contextmanager
def _searching(c: vm.Collection, queries: Vectors, threads: int, told: Told) -> Iterator[None]:
    """Threads that search without a pause for as long as the block lasts."""
    stop = threading.Event()
    searchers = [threading.Thread(target=_search, args=(c, queries, n, told, stop)) for n in range(threads)]
    for thread in searchers:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in searchers:
            thread.join()


def _medians(reports: Sequence[vm.Report]) -> dict[str, float]:
    """Seconds by stage."""
    stages = dict.fromkeys(stage for report in reports for stage in report.seconds)
    return {stage: float(np.median([report.seconds.get(stage, 0.0) for report in reports])) for stage in stages}


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
