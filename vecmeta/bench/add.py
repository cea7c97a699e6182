"""How fast own vectors go in, change and go out, and what memory that takes; beside Chroma."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import vecmeta as vm
from vecmeta.bench.cold import disk
from vecmeta.bench.machine import machine
from vecmeta.bench.memory import peak_memory
from vecmeta.bench.peers import EFS, Keeper, chosen, described, made, version_of
from vecmeta.bench.processes import alone
from vecmeta.bench.streams import Stream
from vecmeta.bench.vectors import clustered, nearest
from vecmeta.types import Keys, Vectors

K = 10
PEERS = ("chroma",)  # those that keep items in one process and can change them
CHANGED = 20_000  # items upserted, described anew and deleted; a fifth of them at most
PATIENCE = 60  # seconds in which what was written must be found


def run(
    count: int = 100_000,
    dim: int = 384,
    seed: int = 0,
    batch: int = 1_000,
    peers: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure in processes of their own, so that nothing else counts to their memory.

    Returns:
        What `whole` tells of vecmeta; under ``streamed`` what `streamed` tells; under ``peers`` both for each, ``whole`` and ``streamed``.

    Raises:
        InvalidConfig: count, dim or batch below 1, a peer that is unknown or not installed.
    """
    if count < 1 or dim < 1 or batch < 1:
        raise vm.InvalidConfig(f"count, dim and batch are whole numbers from 1, not {count}, {dim} and {batch}")
    names = ["vecmeta", *chosen(peers, PEERS)]
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(names):
        if progress is not None:
            progress(name, 2 * place, 2 * len(names))
        one = alone(__name__, "whole", name=name, count=count, dim=dim, seed=seed)
        if progress is not None:
            progress(name, 2 * place + 1, 2 * len(names))
        many = alone(__name__, "streamed", name=name, count=count, dim=dim, seed=seed, batch=batch)
        found[name] = {"version": version_of(name), "whole": one, "streamed": many}
    if progress is not None:
        progress("done", 2 * len(names), 2 * len(names))
    ours = found.pop("vecmeta")
    return {
        **machine(),
        "settings": {"count": count, "dim": dim, "seed": seed, "batch": batch},
        **ours["whole"],
        "streamed": ours["streamed"],
        "peers": found,
    }


def whole(name: str, count: int, dim: int, seed: int) -> dict[str, Any]:
    """In this process: all items in one call, vectors and metadata held by the caller.

    Returns:
        seconds until they were written and the last one was found, vectors per second, the process's peak resident memory in bytes and
        as a multiple of the vectors' bytes, the first search's milliseconds; recall@10 of up to 200 queries that are stored against exact
        search, at once and settled; ``settled_seconds``, how long that took (None: nothing goes on behind the calls); bytes on disk.
    """
    vectors = clustered(count, dim, seed)
    ids = [f"item-{n}" for n in range(count)]
    metadata = [described(n) for n in range(count)]
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
        engine = _made(name, Path(folder), dim, seed)
        begin = time.perf_counter()
        engine.add(ids, vectors, metadata)
        added = time.perf_counter()
        engine.one(vectors[-1], K, None)
        first = time.perf_counter() - added
        _await(engine, vectors[-1], count - 1)
        seconds = time.perf_counter() - begin
        peak = peak_memory()
        rows = np.random.default_rng(seed + 1).choice(count, min(200, count), replace=False)
        true = nearest(vectors[rows], vectors, K)
        at_once = _recall(engine, vectors[rows], true)
        settled = engine.settle()
        facts = {
            "count": count,
            "dim": dim,
            "seconds": round(seconds, 2),
            "per_second": round(count / seconds),
            "vector_bytes": vectors.nbytes,
            "peak_memory_bytes": peak,
            "peak_memory_ratio": round(peak / vectors.nbytes, 2),
            "first_search_ms": round(1000 * first, 2),
            "recall_at_10": at_once,
            "settled_seconds": settled,
            "recall_at_10_settled": _recall(engine, vectors[rows], true),
        }
        engine.close()
        return {**facts, "disk_bytes": disk(Path(folder))}


def streamed(name: str, count: int, dim: int, seed: int, batch: int) -> dict[str, Any]:
    """In this process: items in batches from a generator that holds none of them, then changes in batches.

    Returns:
        ``seconds`` of the calls until all was written and the last one was found, ``per_second``; ``memory``: at a quarter, at half and in
        the end the peak of the process, and what of it is neither there at the start nor vectors; recall@10 of queries that are not
        stored, at once and settled; ``changes``: items a second of upserts with new vectors, of new metadata alone, and of deletes, each
        with ``of_adding``, its share of the adding rate.
    """
    stream = Stream(count, dim, seed)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
        engine = _made(name, Path(folder), dim, seed)
        start = peak_memory()
        seconds, done, memory, marks = 0.0, 0, [], [-(-count // 4), -(-count // 2), count]
        rows = np.empty((0, dim), np.float32)
        for rows in _batches(stream, batch):
            numbers = range(done, done + len(rows))
            ids, metadata = [f"item-{n}" for n in numbers], [described(n) for n in numbers]
            begin = time.perf_counter()
            engine.add(ids, rows, metadata)
            seconds += time.perf_counter() - begin
            done += len(rows)
            while marks and done >= marks[0]:
                peak = peak_memory()
                beyond = peak - start - done * dim * rows.itemsize
                memory.append({"count": done, "peak_memory_bytes": peak, "beyond_vectors_bytes": beyond})
                marks.pop(0)
        begin = time.perf_counter()
        _await(engine, rows[-1], count - 1)
        seconds += time.perf_counter() - begin
        queries = stream.queries()
        true = _truth(stream, queries)
        at_once = _recall(engine, queries, true)
        settled = engine.settle()
        facts = {
            "batch": batch,
            "seconds": round(seconds, 2),
            "per_second": round(count / seconds),
            "memory_at_start_bytes": start,
            "memory": memory,
            "recall_at_10": at_once,
            "settled_seconds": settled,
            "recall_at_10_settled": _recall(engine, queries, true),
        }
        changes = _changes(engine, count, dim, seed, batch, count / seconds)
        engine.close()
        return {**facts, "changes": changes}


def _changes(engine: Keeper, count: int, dim: int, seed: int, batch: int, rate: float) -> dict[str, Any]:
    """Items of all ages. Raises VecmetaError when a change is not to be seen."""
    chosen_items = np.random.default_rng(seed + 2).choice(count, max(1, min(CHANGED, count // 5)), replace=False).tolist()
    vectors, ids = clustered(len(chosen_items), dim, seed + 3), [f"item-{n}" for n in chosen_items]
    same, other = [described(n) for n in chosen_items], [{**described(n), "shelf": "elsewhere"} for n in chosen_items]

    def timed(change: Callable[[slice], None]) -> dict[str, float]:
        begin = time.perf_counter()
        for first in range(0, len(ids), batch):
            change(slice(first, first + batch))
        per_second = len(ids) / (time.perf_counter() - begin)
        return {"per_second": round(per_second), "of_adding": round(per_second / rate, 3)}

    upserts = timed(lambda part: engine.upsert(ids[part], vectors[part], same[part]))
    _await(engine, vectors[-1], chosen_items[-1])
    metadata = timed(lambda part: engine.describe(ids[part], vectors[part], other[part]))
    number, about = engine.read(engine.one(vectors[-1], K, None))[0][0]
    if number != chosen_items[-1] or about is None or about["shelf"] != "elsewhere":
        raise vm.VecmetaError(
            f"the metadata of item {chosen_items[-1]} were replaced, and item {number} was found with {about!r}"
        )
    deletes = timed(lambda part: engine.delete(ids[part]))
    if engine.count() != count - len(ids):
        raise vm.VecmetaError(f"{count} items less {len(ids)} are {engine.count()}")
    return {
        "count": len(ids),
        "upserts": upserts,
        "metadata": metadata,
        "deletes": deletes,
        "settled_seconds": engine.settle(),
    }


def _made(name: str, folder: Path, dim: int, seed: int) -> Keeper:
    engine = cast(Keeper, made(name, folder, dim, seed))
    if name != "vecmeta":
        engine.use({"ef_search": next(ef for ef in EFS if ef >= 96)})  # vecmeta's own
    return engine


def _batches(stream: Stream, size: int) -> Iterator[Vectors]:
    for _, rows in stream.chunks():
        for first in range(0, len(rows), size):
            yield rows[first : first + size]


def _await(engine: Keeper, vector: Vectors, number: int) -> None:
    """Until an item is found by its vector. Raises VecmetaError when it is not."""
    end = time.perf_counter() + PATIENCE
    while number not in [n for n, _ in engine.read(engine.one(vector, K, None))[0]]:
        if time.perf_counter() > end:
            raise vm.VecmetaError(f"item {number} was written {PATIENCE} s ago and is not found")


def _recall(engine: Keeper, queries: Vectors, true: Keys) -> float:
    found = engine.read(engine.many(queries, K, None))
    return round(
        float(
            np.mean([len({n for n, _ in hits} & {*best}) / len(best) for hits, best in zip(found, true.tolist(), strict=True)])
        ),
        4,
    )


def _truth(stream: Stream, queries: Vectors) -> Keys:
    """(q, k) exact neighbours among all vectors, which are made a second time."""
    scores, places = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start, rows in stream.chunks():
        near = nearest(queries, rows, K)
        scores = np.concatenate([scores, np.take_along_axis(queries @ rows.T, near, 1)], axis=1)
        places = np.concatenate([places, near + start], axis=1)
        best = np.argsort(-scores, axis=1)[:, :K]
        scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
    return places
