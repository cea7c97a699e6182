"""From judgements to a served new notion, beside projecting all vectors and building a new graph of them, in the same run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.cold import go_live
from vecmeta.bench.machine import machine
from vecmeta.bench.memory import peak_memory
from vecmeta.bench.processes import alone
from vecmeta.bench.streams import Stream, fill, settled, teach, teach_more
from vecmeta.bench.vectors import nearest
from vecmeta.evaluate import recall
from vecmeta.index.graph import faiss
from vecmeta.types import Keys, Vectors

CONCEPTS = 12
M, EF_CONSTRUCTION, EF_SEARCH = 16, 48, 96  # as vecmeta builds and asks its graphs
SLICE = 1024  # rows that are added at once: as many as vecmeta reads at once when it builds
K = 10


def run(
    count: int = 100_000,
    dim: int = 384,
    vectors: Path | None = None,
    seed: int = 0,
    repeats: int = 3,
    progress: Callable[[str, int, int], None] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure in a process of its own.

    Args:
        count, dim: of clustered vectors.
        vectors: a .npy file of (n, dim) vectors instead, of which the first `count` are stored and the last ones are queries.
        device: what adaptations compute on, as for `vecmeta.open`.
        repeats: adaptations, each after one more judgement for each concept; a rebuild follows each.

    Returns:
        ``adapt`` and ``rebuild``, medians of seconds, and ``ratio`` = rebuild / adapt; ``rebuild_at_once`` and ``ratio_at_once``, were all
        rows in memory and given to the graph in one call, which its threads share best; ``indexing`` and ``ratio_indexing``, the same of
        the adaptation's stages building and swapping alone; ``stages`` of the median adaptation;
        ``recall_at_10`` of both against exact search, queries not stored, at the same efSearch, and ``recall_ratio``;
        ``peak_memory_bytes`` of the process after the first adaptation, ``memory_before_bytes`` before it and ``memory_filled_bytes``
        before torch was imported; ``runs``, one by one, with what
        the reports say of it: ``index``, see `vecmeta.Report.indexing`, and ``recall_sampled``, its metric ``recall``.

    Raises:
        InvalidConfig: counts below 1, a file of something else.
    """
    if repeats < 1:
        raise vm.InvalidConfig(f"repeats is a whole number from 1, not {repeats}")
    stream = Stream(count, dim, seed) if vectors is None else Stream.of_file(vectors, count, seed)
    if progress is not None:
        progress("measuring", 0, 1)
    found = alone(
        __name__, "measure", count=stream.count, dim=stream.dim, seed=seed, file=stream.file, repeats=repeats, device=device
    )
    if progress is not None:
        progress("done", 1, 1)
    settings = {"count": stream.count, "dim": stream.dim, "seed": seed, "repeats": repeats, "concepts": CONCEPTS,
                "vectors": None if vectors is None else vectors.name, "ef_search": EF_SEARCH, "device": device}  # fmt: skip
    return {**machine(device), "settings": settings, **found}


def measure(count: int, dim: int, seed: int, file: str | None, repeats: int, device: str) -> dict[str, Any]:
    """In this process: see `run`. A dry run imports and starts what the first adaptation needs, as in a service that has adapted before."""
    stream = Stream(count, dim, seed, file)
    queries = stream.queries()
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, device=device) as db:
        c = db.create("reindex", encoder="vectors", dim=dim)
        add = fill(c, stream)
        add += settled(c)
        filled = peak_memory()
        runs: list[dict[str, Any]] = []
        c.search(queries[0], K)
        judged = teach(c, stream, CONCEPTS)
        c.adapt(dry_run=True, seed=seed)
        ready = peak_memory()
        for number in range(repeats):
            if number:
                teach_more(c, judged)
            begin = time.perf_counter()
            report = c.adapt(seed=seed)
            seconds = time.perf_counter() - begin
            if not number:
                peak = peak_memory()
            go_live(c, report)
            hits = c.search_many(list(queries), K)
            settle = settled(c)
            after = c.search_many(list(queries), K)
            rebuild, index = _rebuilt(c, stream)
            true = exact(c, stream, queries)
            at_once, in_the_end = (recall(_numbers(h), true) for h in (hits, after))
            runs.append(
                {
                    "adapt": seconds,
                    "indexing": sum(report.seconds.get(stage, 0.0) for stage in ("building", "swapping")),
                    "stages": dict(report.seconds),
                    "decision": report.decision,
                    "index": report.indexing,
                    "recall_sampled": report.metrics.get("recall"),
                    "settle": settle,
                    **rebuild,
                    "recall_at_10": at_once,
                    "recall_at_10_settled": in_the_end,
                    "recall_at_10_rebuilt": recall(_asked(index, c.embed(queries)), true),
                }
            )
    middle = sorted(runs, key=lambda one: one["adapt"])[len(runs) // 2]
    figures = (
        "adapt",
        "indexing",
        "settle",
        "project",
        "build",
        "rebuild",
        "rebuild_at_once",
        "recall_at_10",
        "recall_at_10_settled",
        "recall_at_10_rebuilt",
    )
    medians: dict[str, float] = {name: median(one[name] for one in runs) for name in figures}
    return {
        "add": add,
        **medians,
        "ratio": medians["rebuild"] / medians["adapt"],
        "ratio_at_once": medians["rebuild_at_once"] / medians["adapt"],
        "ratio_indexing": medians["rebuild"] / max(medians["indexing"], 1e-9),
        "recall_ratio": medians["recall_at_10"] / medians["recall_at_10_rebuilt"],
        "stages": middle["stages"],
        "memory_filled_bytes": filled,
        "memory_before_bytes": ready,
        "peak_memory_bytes": peak,
        "runs": runs,
    }


def _rebuilt(collection: vm.Collection, stream: Stream) -> tuple[dict[str, float], Any]:
    """Project everything under the live version and build a graph of it: seconds, without reading or making the vectors; and the graph."""
    index, whole = _empty(stream.dim), list[Vectors]()
    project = build = 0.0
    for _, rows in stream.chunks():
        for start in range(0, len(rows), SLICE):
            begin = time.perf_counter()
            moved = collection.embed(rows[start : start + SLICE])
            projected = time.perf_counter()
            index.add(moved)
            project, build = project + projected - begin, build + time.perf_counter() - projected
            whole.append(moved)
    best = _empty(stream.dim)
    everything = np.concatenate(whole)
    begin = time.perf_counter()
    best.add(everything)
    at_once = time.perf_counter() - begin
    seconds = {"project": project, "build": build, "rebuild": project + build, "rebuild_at_once": project + at_once}
    return seconds, index


def _empty(dim: int) -> Any:
    index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
    return index


def exact(collection: vm.Collection, stream: Stream, queries: Vectors) -> Keys:
    """(q, K), the true nearest rows under the live version, best first."""
    asked = collection.embed(queries)
    scores, best = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start, rows in stream.chunks():
        moved = collection.embed(rows)
        top = nearest(asked, moved, K)
        near = np.einsum("qd,qkd->qk", asked, moved[top])
        scores, best = np.hstack([scores, near]), np.hstack([best, top + start])
        order = np.argsort(-scores, axis=1)[:, :K]
        scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)
    return best


def _asked(index: Any, queries: Vectors) -> Keys:
    found: Keys = index.search(queries, K)[1]
    return found


def _numbers(hits: list[vm.Hits]) -> Keys:
    return np.array([[int(hit.id.removeprefix("item-")) for hit in one] for one in hits])
