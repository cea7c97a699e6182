"""Everything at once over HTTP: clients that search, add and judge while adaptations run. Errors, mixed versions, latency beside idle."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.serve import NAME, load, server, wrk_or_raise
from vecmeta.client.records import packed
from vecmeta.types import Keys, Vectors

TAUGHT, SHOTS = 8, 5  # concepts that are judged before it begins, and items each
CHECKERS = 2  # of the searchers keep their answers
CHECKED = 2000  # answers that are checked to be of one version
TOLERANCE = 1e-4  # of a score


@dataclass(slots=True)
class Told:
    """What one client saw."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: list[tuple[int, int, list[tuple[str, float]]]] = field(default_factory=list)  # query, version, hits with scores


def run(
    *, count: int = 20_000, dim: int = 384, seconds: float = 60, searchers: int = 32, adders: int = 4, judges: int = 2,
    adaptations: int = 10, progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """First the searchers alone, for a fourth of the time; then all of them, for `seconds` and until the last adaptation has ended.

    Returns:
        Numbers of requests and errors by kind, p50 and p99 in milliseconds of searches alone and under load with their ratio, versions
        that answered, adaptations by outcome and how many ended under load, and how many of the checked answers hold a score that is not
        of their version.

    Raises:
        InvalidConfig: no wrk.
    """
    wrk_or_raise()
    tell = progress or (lambda *_: None)
    vectors, label = topics(count + 1000, dim)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
        data = Path(folder) / "data"
        key = _fill(data, vectors[:-1000], label)
        with server(data, workers=1) as url:
            tell("searches alone", 0, 3)
            alone = _load(url, key, vectors[-1000:], seconds / 4, searchers, Path(folder))
            tell("everything at once", 1, 3)
            stop = threading.Event()
            others = [Told() for _ in range(adders + judges + 1)]
            threads = [threading.Thread(target=_add, args=(url, key, n, vectors, others[n], stop)) for n in range(adders)]
            threads += [
                threading.Thread(target=_judge, args=(url, key, n, label[:-1000], others[adders + n], stop))
                for n in range(judges)
            ]
            outcomes: list[str] = []
            threads.append(threading.Thread(target=_adapt, args=(url, key, adaptations, seconds, others[-1], outcomes)))
            for thread in threads:
                thread.start()
            under = Told()
            threads.append(threading.Thread(target=_check, args=(url, key, vectors[-1000:], under, threads[-1])))
            threads[-1].start()
            busy = _load(url, key, vectors[-1000:], seconds, searchers - CHECKERS, Path(folder))
            in_time = len(outcomes)
            threads[-2].join()  # the adaptations
            stop.set()
            for thread in threads:
                thread.join()
        tell("checking", 2, 3)
        mixed, checked = _mixed(data, vectors[-1000:], under.answers)
    tell("done", 3, 3)
    figures = {"adds": _joined(others[:adders]), "judgements": _joined(others[adders:-1])}
    facts: dict[str, Any] = {**machine(), "count": count, "dim": dim, "seconds": seconds}
    for name, told in figures.items():
        p50, p99 = np.percentile(told.seconds or [0.0], [50, 99]) * 1e3
        facts[name] = {"requests": len(told.seconds), "errors": len(told.errors), "p50": p50, "p99": p99}
    facts["seconds_of_adaptations"] = others[-1].seconds
    facts["adaptations"] = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    for name, figure in (("searches_alone", alone), ("searches", busy)):
        facts[name] = {"requests": figure["requests"], "errors": figure["failed"], "p50": figure["p50"], "p99": figure["p99"]}
    facts["searches"]["errors"] += len(under.errors)
    facts["errors"] = [error for told in (under, *others) for error in told.errors][:20]
    facts["versions"] = sorted({version for _, version, _ in under.answers})
    facts["adaptations_under_load"] = in_time
    facts["p99_to_idle"] = facts["searches"]["p99"] / facts["searches_alone"]["p99"]
    facts |= {"answers_checked": checked, "answers_of_mixed_versions": mixed}
    return facts


def topics(count: int, dim: int, seed: int = 0) -> tuple[Vectors, Keys]:
    """(count, dim) unit rows of count / 200 topics, with a few strong directions that are beside the point; and their topics (count,)."""
    rng = np.random.default_rng(seed)
    known = max(2 * TAUGHT, count // 200)
    label = rng.integers(known, size=count)
    centres, styles = rng.normal(size=(known, dim)), rng.normal(size=(12, dim))
    out = np.empty((count, dim), np.float32)
    for start in range(0, count, 1000):
        part = label[start : start + 1000]
        noise = 0.5 * rng.normal(size=(len(part), dim)) + 0.35 * rng.normal(size=(len(part), len(styles))) @ styles
        out[start : start + 1000] = 1 + centres[part] + noise
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out, label


def _fill(data: Path, vectors: Vectors, label: Keys) -> str:
    with vm.open(data, device="cpu") as db:
        c = db.create(NAME, encoder="vectors", dim=vectors.shape[1])
        c.add_vectors([f"item-{n}" for n in range(len(vectors))], vectors)
        c.settle()
        rows = {topic: np.flatnonzero(label[: len(vectors)] == topic)[:SHOTS] for topic in range(TAUGHT)}
        c.feedback([vm.Judgement(f"item-{row}", concept=f"topic {topic}") for topic in rows for row in rows[topic]])
        key, _ = db.keys.create("bench", ["admin"])
    return key


def _client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/v1/collections/{NAME}", headers={"Authorization": f"Bearer {key}"}, timeout=60)


def _load(url: str, key: str, queries: Vectors, seconds: float, clients: int, folder: Path) -> dict[str, Any]:
    bodies = [json.dumps({"vector": packed(query), "k": 10}) for query in queries]
    return load(f"{url}/v1/collections/{NAME}/search", bodies, key, clients, seconds, folder)


def _check(url: str, key: str, queries: Vectors, told: Told, during: threading.Thread) -> None:
    """A few clients that keep the answers, in a process of their own, for as long as a thread runs."""
    context = multiprocessing.get_context("spawn")
    enough: Event = context.Event()
    receive, send = context.Pipe(duplex=False)
    asking = context.Process(target=_asking, args=(url, key, queries, 0.0, CHECKERS, enough, send))
    asking.start()
    during.join()
    enough.set()
    seen: Told = receive.recv()
    asking.join()
    told.seconds, told.errors, told.answers = seen.seconds, seen.errors, seen.answers


def _asking(url: str, key: str, queries: Vectors, seconds: float, clients: int, enough: Event, send: Any) -> None:
    import asyncio

    told = Told()
    asyncio.run(_ask_all(url, key, queries, seconds, clients, enough, told))
    send.send(told)


async def _ask_all(url: str, key: str, queries: Vectors, seconds: float, clients: int, enough: Event, told: Told) -> None:
    """Plain HTTP over kept connections: a full client would need more of the processor than the server."""
    import asyncio

    host, _, port = url.removeprefix("http://").partition(":")
    requests = []
    for query in queries:
        body = json.dumps({"vector": packed(query), "k": 10}).encode()
        head = f"POST /v1/collections/{NAME}/search HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
        requests.append(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    end = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        place = number * 31
        while (begin := time.perf_counter()) < end or not enough.is_set():
            place = (place + 1) % len(requests)
            writer.write(requests[place])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            body = await reader.readexactly(length)
            told.seconds.append(time.perf_counter() - begin)
            if not head.startswith(b"HTTP/1.1 200"):
                told.errors.append(f"search: {head[9:12].decode()} {body[:200].decode(errors='replace')}")
            else:
                found = json.loads(body)
                told.answers.append((place, found["version"], [(hit["id"], hit["score"]) for hit in found["hits"]]))
        writer.close()

    await asyncio.gather(*(ask(number) for number in range(clients)))


def _add(url: str, key: str, number: int, vectors: Vectors, told: Told, stop: threading.Event) -> None:
    rng, made = np.random.default_rng(number), 0
    with _client(url, key) as client:
        while not stop.wait(0.02):
            row = vectors[rng.integers(len(vectors))]
            body = {"items": [{"id": f"new-{number}-{made}", "vector": packed(row), "metadata": {"by": number}}]}
            made += 1
            _timed(told, "add", partial(client.put, "/items", json=body))


def _judge(url: str, key: str, number: int, label: Keys, told: Told, stop: threading.Event) -> None:
    rng = np.random.default_rng(100 + number)
    known = np.flatnonzero(label < TAUGHT)
    with _client(url, key) as client:
        while not stop.wait(0.1):
            row = rng.choice(known)
            body = {"judgements": [{"item": f"item-{row}", "concept": f"topic {label[row]}"}]}
            _timed(told, "feedback", partial(client.post, "/feedback", json=body))


def _adapt(url: str, key: str, times: int, seconds: float, told: Told, outcomes: list[str]) -> None:
    """One after the other, spread over the time; each with a seed of its own, so that each makes a version."""
    begin = time.perf_counter()
    with _client(url, key) as client:
        for number in range(times):
            time.sleep(max(0.0, begin + number * seconds / times - time.perf_counter()))
            ask = partial(client.post, "/adapt", json={"seed": number}, headers={"Prefer": "wait=60"})
            answer = _timed(told, "adapt", ask)
            if answer is not None:
                outcomes.append(answer.json()["state"])


def _timed(told: Told, what: str, ask: Callable[[], httpx.Response]) -> httpx.Response | None:
    begin = time.perf_counter()
    try:
        answer = ask()
    except httpx.HTTPError as error:
        told.errors.append(f"{what}: {type(error).__name__}: {error}")
        return None
    told.seconds.append(time.perf_counter() - begin)
    if answer.is_error:
        told.errors.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return None
    return answer


def _mixed(data: Path, queries: Vectors, answers: list[tuple[int, int, list[tuple[str, float]]]]) -> tuple[int, int]:
    """How many answers hold a score that query and item do not have under the answer's version; and how many were checked."""
    rng = np.random.default_rng(0)
    chosen = [answers[n] for n in rng.permutation(len(answers))[:CHECKED]]
    wrong = 0
    with vm.open(data, device="cpu") as db:
        c = db.collection(NAME)
        for version in {version for _, version, _ in chosen}:
            mine = [(query, hits) for query, of, hits in chosen if of == version]
            ids = sorted({id for _, hits in mine for id, _ in hits})
            adapted = dict(zip(ids, c.embed([vm.Id(id) for id in ids], version=version), strict=True))
            asked = c.embed(queries, version=version)
            wrong += sum(
                any(abs(float(asked[query] @ adapted[id]) - score) > TOLERANCE for id, score in hits) for query, hits in mine
            )
    return wrong, len(chosen)


def _joined(told: list[Told]) -> Told:
    return Told([second for one in told for second in one.seconds], [error for one in told for error in one.errors])
