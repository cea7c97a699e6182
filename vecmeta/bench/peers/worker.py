"""An engine in a process of its own, kept alive and told what to do: requests and replies are lines of JSON, arrays are files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.memory import memory, peak_memory
from vecmeta.bench.peers import Engine, Equal, Found, described, made

BATCH = 5_000  # items added in one call; Chroma takes up to 5,461
WARM, WARM_PART = 20, 0.06  # searches that do not count, before those that do, and the part of the time that they may take


class Worker:
    """The process of one engine, seen from the benchmark. Every method raises VecmetaError when the engine fails."""

    def __init__(self, name: str, folder: Path, dim: int, seed: int) -> None:
        self.name = name
        folder.mkdir()
        # Nothing is to be sent anywhere by what is measured.
        quiet = {"ANONYMIZED_TELEMETRY": "False", "HF_HUB_OFFLINE": "1", "LANCEDB_LOG": "error", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vecmeta.bench.peers.worker", name, str(folder), str(dim), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **quiet},
        )

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        """Have it do one thing, see the functions below."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise vm.VecmetaError(f"{self.name}: its process ended with {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise vm.VecmetaError(f"{self.name}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # it ends when there is nothing more to read
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def fill(engine: Engine, rows: str) -> dict[str, Any]:
    """Add the vectors of a file; read in pieces, so that the memory measured is the engine's."""
    count, adding, before = len(np.load(rows, mmap_mode="r")), 0.0, peak_memory()
    for start in range(0, count, BATCH):
        vectors = np.array(np.load(rows, mmap_mode="r")[start : start + BATCH])
        numbers = range(start, start + len(vectors))
        ids, metadata = [f"item-{n}" for n in numbers], [described(n) for n in numbers]
        begin = time.perf_counter()
        engine.add(ids, vectors, metadata)
        adding += time.perf_counter() - begin
    begin = time.perf_counter()
    engine.finish()
    finishing = time.perf_counter() - begin
    return {
        "add_seconds": adding,
        "finish_seconds": finishing,
        "memory_before_bytes": before,
        "memory_bytes": memory(),
        "peak_memory_bytes": peak_memory(),
    }


def plans(engine: Engine, where: str | None) -> dict[str, Any]:
    """The engine's ways to search."""
    return {"plans": engine.plans(where)}


def space(engine: Engine, given: str, out: str) -> dict[str, Any]:
    """Write the vectors as the engine compares them."""
    np.save(out, engine.space(np.load(given)))
    return {}


def one(engine: Engine, queries: str, k: int, asked: list[list[Any]], knob: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Ask one query after the other, at most for some seconds; asked: (row, field or None, value)."""
    engine.use(knob)
    rows = np.load(queries)
    wanted = [(rows[row], _where(field, value)) for row, field, value in asked]
    _warm(lambda n: engine.one(wanted[-1 - n % len(wanted)][0], k, wanted[-1 - n % len(wanted)][1]), seconds)
    took, answers = _timed(lambda asked, where: engine.one(asked, k, where), wanted, seconds)
    found = [_checked(engine, engine.read(a), w)[0] for a, (_, w) in zip(answers, wanted, strict=False)]
    return {"seconds": took, "found": found}


def many(engine: Engine, queries: str, k: int, asked: list[list[Any]], knob: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Ask batches one after the other, at most for some seconds; asked: (rows, field or None, value)."""
    engine.use(knob)
    vectors = np.load(queries)
    wanted = [(vectors[rows], _where(field, value)) for rows, field, value in asked]
    _warm(lambda _: engine.many(wanted[-1][0], k, wanted[-1][1]), seconds, 2)
    took, answers = _timed(lambda asked, where: engine.many(asked, k, where), wanted, seconds)
    found = [_checked(engine, engine.read(a), w) for a, (_, w) in zip(answers, wanted, strict=False)]
    return {"seconds": took, "found": found}


def _timed(
    ask: Callable[[Any, Equal | None], Any], wanted: Sequence[tuple[Any, Equal | None]], seconds: float
) -> tuple[list[float], list[Any]]:
    """Ask one after the other until the time is over: the seconds of each, and the answers."""
    took, answers = list[float](), list[Any]()
    end = time.perf_counter() + seconds
    for asked, where in wanted:
        begin = time.perf_counter()
        answers.append(ask(asked, where))
        took.append(time.perf_counter() - begin)
        if time.perf_counter() > end:
            break
    return took, answers


def _where(field: str | None, value: str | int) -> Equal | None:
    return None if field is None else Equal(field, value)


def _warm(ask: Callable[[int], Any], seconds: float, most: int = WARM) -> None:
    end = time.perf_counter() + WARM_PART * seconds
    for n in range(most):
        ask(n)
        if time.perf_counter() > end:
            break


def _checked(engine: Engine, found: Found, where: Equal | None) -> list[list[int]]:
    """The numbers alone. Raises VecmetaError for a hit with metadata that is not its own, or that the filter excludes."""
    for hits in found:
        for number, about in hits:
            if engine.stores_metadata and dict(about or {}) != described(number):
                raise vm.VecmetaError(f"item {number} came with the metadata {about!r}")
            if where is not None and described(number)[where.field] != where.value:
                raise vm.VecmetaError(f"item {number} does not match {where}")
    return [[number for number, _ in hits] for hits in found]


DOES: dict[str, Callable[..., dict[str, Any]]] = {"fill": fill, "plans": plans, "space": space, "one": one, "many": many}


def main() -> None:
    """The process: one request a line on standard input, one reply a line on standard output, until there are no more requests."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no reply
    engine: Engine | None = None
    name, folder, dim, seed = sys.argv[1:]
    for line in sys.stdin:
        request = json.loads(line)
        try:
            engine = engine or made(name, Path(folder), int(dim), int(seed))
            reply = DOES[request.pop("do")](engine, **request)
        except Exception as error:  # whatever it is, the benchmark says it
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    if engine is not None:
        engine.close()


if __name__ == "__main__":
    main()
