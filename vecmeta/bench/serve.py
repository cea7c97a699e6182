"""Searches by vector over HTTP: requests a second and latency on loopback, beside the index alone and beside Chroma's own server.

The load comes from wrk (https://github.com/wg/wrk): a generator in Python would need as much of the processor as what it measures.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.vectors import clustered
from vecmeta.client.records import packed
from vecmeta.index.faiss_index import FaissIndex
from vecmeta.types import Vector, Vectors

NAME = "bench"
BODIES = 1000  # different queries; wrk sends them round and round
WARM = 3  # seconds of load before what is measured
_LUA = """
local requests, next = {}, 0
init = function()
  local headers = {["Host"] = wrk.host .. ":" .. wrk.port, ["Content-Type"] = "application/json", ["Authorization"] = "Bearer KEY"}
  for line in io.lines("BODIES") do requests[#requests + 1] = wrk.format("POST", wrk.path, headers, line) end
end
request = function()
  next = next % #requests + 1
  return requests[next]
end
done = function(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('\\nRESULT {"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p95": %f, "p99": %f}\\n', summary.requests,
    summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


def run(
    *, count: int = 100_000, dim: int = 384, vectors: Path | None = None, connections: int = 32, seconds: float = 30, k: int = 10,
    chroma: str | None = None, progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure in turn, with the same vectors and queries: the index in process, vecmeta's server, Chroma's.

    Args:
        count, dim: of made-up clustered vectors.
        vectors: a .npy file of (n, dim) float32 vectors instead; its last 1,000 rows are the queries.
        connections: that ask without a pause.
        chroma: the executable of Chroma, for `chroma run`; None: it is left out.

    Returns:
        For each: requests a second, p50, p95 and p99 in milliseconds, failed requests; and the ratios. vecmeta is asked twice: with vectors
        as its own client sends them (base64), and with a list of numbers, as Chroma's client sends its.

    Raises:
        InvalidConfig: no wrk, or a file that is none of vectors.
    """
    wrk_or_raise()
    tell = progress or (lambda *_: None)
    rows = clustered(count + BODIES, dim, 0) if vectors is None else _read(vectors)
    stored, queries = rows[:-BODIES], rows[-BODIES:]
    steps = 5 if chroma else 4
    tell("index in process", 0, steps)
    facts: dict[str, Any] = {
        **machine(),
        "count": len(stored),
        "dim": rows.shape[1],
        "connections": connections,
        "seconds": seconds,
        "k": k,
    }
    index, turn = InProcess(stored, queries, k), min(seconds / 3, 10)
    index.ask(turn)
    tell("filling", 1, steps)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
        with vm.open(Path(folder) / "data", device="cpu") as db:
            c = db.create(NAME, encoder="vectors", dim=rows.shape[1])
            c.add_vectors(
                [f"item-{n}" for n in range(len(stored))], stored, [{"n": n, "shelf": f"s{n % 100}"} for n in range(len(stored))]
            )
            c.settle()
            key, _ = db.keys.create("bench")
        with server(Path(folder) / "data", workers=0) as url:
            for done, (form, vector) in enumerate({"vecmeta": packed, "vecmeta_listed": listed}.items(), 2):
                tell(form.replace("_", ", "), done, steps)
                bodies = [json.dumps({"vector": vector(query), "k": k}) for query in queries]
                facts[form] = load(f"{url}/v1/collections/{NAME}/search", bodies, key, connections, seconds, Path(folder))
                index.ask(turn)
        if chroma:
            tell("chroma", steps - 1, steps)
            facts["chroma"] = _chroma(chroma, stored, queries, k, connections, seconds, Path(folder))
    facts["index"] = index.facts()
    for form in ("", "_listed"):
        facts[f"of_index{form}"] = facts[f"vecmeta{form}"]["per_second"] / facts["index"]["per_second"]
    if chroma:
        for figure in ("per_second", "p50", "p99"):
            facts[f"{figure}_to_chroma"] = facts["vecmeta"][figure] / facts["chroma"][figure]
    tell("done", steps, steps)
    return facts


def wrk_or_raise() -> None:
    """Raises InvalidConfig without wrk."""
    if shutil.which("wrk") is None:
        raise vm.InvalidConfig("this benchmark needs wrk on the path: apt install wrk, brew install wrk")


class InProcess:
    """The index without a server or a database, asked for one query at a time from as many threads as there are cores.

    It is asked before and after a server is, as machines are quicker at one time than at another.
    """

    def __init__(self, stored: Vectors, queries: Vectors, k: int) -> None:
        self.threads = os.cpu_count() or 1
        self._index, self._queries, self._k = FaissIndex(stored.shape[1]), queries, k
        self._index.add(np.arange(len(stored)), stored)
        self._index.settle()
        self._times: list[float] = []  # of each search
        self._took = 0.0

    def ask(self, seconds: float) -> None:
        """For so long."""
        begin = time.perf_counter()
        with ThreadPoolExecutor(self.threads) as pool:
            for times in pool.map(partial(self._one, begin + seconds), range(self.threads)):
                self._times += times
        self._took += time.perf_counter() - begin

    def _one(self, end: float, number: int) -> list[float]:
        place, times = number * 97, []
        while (begin := time.perf_counter()) < end:
            place = (place + 1) % len(self._queries)
            self._index.search(self._queries[place : place + 1], self._k)
            times.append(time.perf_counter() - begin)
        return times

    def facts(self) -> dict[str, Any]:
        """Of all that was asked."""
        p50, p95, p99 = np.percentile(self._times, [50, 95, 99]) * 1e3
        per_second = len(self._times) / self._took
        return {"threads": self.threads, "per_second": per_second, "p50": p50, "p95": p95, "p99": p99, "failed": 0}


@contextmanager
def server(folder: Path, settings: Mapping[str, str] | None = None, **options: int) -> Iterator[str]:
    """`vecmeta serve` on a free port, with environment variables; its address."""
    port = free_port()
    command = [sys.executable, "-m", "vecmeta", "serve", "--data", str(folder), "--port", str(port), "--device", "cpu"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with _process(command, f"http://127.0.0.1:{port}", "/readyz", settings) as url:
        yield url


@contextmanager
def _process(command: list[str], url: str, ready: str, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    environment = {**os.environ, **(settings or {})}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(process, url + ready)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], url: str, patience: float = 120) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if process.poll() is not None:
            raise vm.VecmetaError(f"{process.args!r} ended with {process.returncode}")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise vm.VecmetaError(f"{url} did not answer in {patience:g} s")


def listed(vector: Vector) -> list[float]:
    """A vector as numbers of the digits that it has."""
    return [round(float(x), 7) for x in vector]


def load(url: str, bodies: list[str], key: str, connections: int, seconds: float, folder: Path) -> dict[str, Any]:
    """What wrk measures, after a little load that does not count."""
    lines, script = folder / "bodies.jsonl", folder / "ask.lua"
    lines.write_text("\n".join(bodies) + "\n")
    script.write_text(_LUA.replace("BODIES", str(lines)).replace("KEY", key))
    for duration in (WARM, seconds):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{duration:g}s", "--timeout", "30s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "RESULT " not in done.stdout:
            raise vm.VecmetaError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    found: dict[str, Any] = json.loads(done.stdout.partition("RESULT ")[2].splitlines()[0])
    return {**found, "per_second": found["requests"] / found["seconds"]}


def _chroma(
    executable: str, stored: Vectors, queries: Vectors, k: int, connections: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """Chroma's own server with cosine distance and its own defaults, filled over HTTP."""
    port = free_port()
    command = [executable, "run", "--path", str(folder / "chroma"), "--port", str(port), "--host", "127.0.0.1"]
    with _process(command, f"http://127.0.0.1:{port}", "/api/v2/heartbeat") as url:
        base = f"{url}/api/v2/tenants/default_tenant/databases/default_database/collections"
        with httpx.Client(timeout=300) as client:
            made = client.post(base, json={"name": NAME, "configuration": {"hnsw": {"space": "cosine"}}})
            made.raise_for_status()
            one = f"{base}/{made.json()['id']}"
            for start in range(0, len(stored), 1000):
                part = stored[start : start + 1000]
                ids = [f"item-{n}" for n in range(start, start + len(part))]
                about = [{"n": n, "shelf": f"s{n % 100}"} for n in range(start, start + len(part))]
                client.post(f"{one}/add", json={"ids": ids, "embeddings": part.tolist(), "metadatas": about}).raise_for_status()
        wanted = {"n_results": k, "include": ["metadatas", "distances", "documents"]}
        bodies = [json.dumps({"query_embeddings": [listed(query)], **wanted}) for query in queries]
        return load(f"{one}/query", bodies, "none", connections, seconds, folder)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(path: Path) -> Vectors:
    try:
        rows = np.load(path)
    except (OSError, ValueError) as error:
        raise vm.InvalidConfig(f"{path} cannot be read as a .npy file: {error}") from error
    if rows.ndim != 2 or len(rows) <= BODIES:
        raise vm.InvalidConfig(f"{path} holds an array of shape {rows.shape}; (n, dim) with more than {BODIES} rows is needed")
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
