"""How fast own vectors go in, and what memory that takes: one process, clustered vectors, a metadata object each."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.types import Vectors


def run(count: int = 100_000, dim: int = 384, seed: int = 0) -> dict[str, Any]:
    """Measure in a process of its own, so that nothing else counts to its memory.

    Returns:
        seconds to add (written, indexed, ready to be searched), vectors per second, the process's peak resident memory in bytes and
        as a multiple of the vectors' bytes, the first search's milliseconds, recall@10 of 200 queries against exact search.

    Raises:
        InvalidConfig: count or dim below 1.
    """
    if count < 1 or dim < 1:
        raise vm.InvalidConfig(f"count and dim are whole numbers from 1, not {count} and {dim}")
    code = f"import json; from vecmeta.bench import add; print(json.dumps(add.measure({count}, {dim}, {seed})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise vm.VecmetaError(f"the benchmark failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    import json

    facts: dict[str, Any] = json.loads(done.stdout)
    return {"processor": platform.machine(), "python": platform.python_version(), "vecmeta": vm.__version__, **facts}


def clustered(count: int, dim: int, seed: int) -> Vectors:
    """(count, dim) float32 unit rows around count / 100 centres: neighbourhoods as text vectors have them, no uniform noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 100), dim)).astype(np.float32)
    out = np.empty((count, dim), np.float32)
    for start in range(0, count, 1000):
        part = out[start : start + 1000]
        part[:] = centres[rng.integers(len(centres), size=len(part))]
        part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def measure(count: int, dim: int, seed: int) -> dict[str, Any]:
    """In this process: see `run`."""
    vectors = clustered(count, dim, seed)
    ids = [f"item-{n}" for n in range(count)]
    metadata = [{"n": n, "shelf": f"s{n % 100}"} for n in range(count)]
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=dim)
        begin = time.perf_counter()
        c.add_vectors(ids, vectors, metadata)
        seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        c.search(vectors[0], 10)
        first = time.perf_counter() - begin
        peak = peak_memory()
        rows = np.random.default_rng(seed + 1).choice(count, min(200, count), replace=False)
        found = c.search_many(list(vectors[rows]), 10)
        true = np.argsort(-(vectors[rows] @ vectors.T), axis=1)[:, :10]
        right = [len({h.id for h in hits} & {ids[t] for t in best}) / len(best) for hits, best in zip(found, true, strict=True)]
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "count": count,
        "dim": dim,
        "seconds": round(seconds, 2),
        "per_second": round(count / seconds),
        "vector_bytes": vectors.nbytes,
        "peak_memory_bytes": peak,
        "peak_memory_ratio": round(peak / vectors.nbytes, 2),
        "first_search_ms": round(1000 * first, 2),
        "recall_at_10": round(float(np.mean(right)), 4),
        "disk_bytes": disk,
    }


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
