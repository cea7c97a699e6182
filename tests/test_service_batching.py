"""Concurrent requests are done together, in order, each with its own answer or error; and too many are told to come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import vecmeta as vm
from service.batching import Batcher, Overloaded
from tests.service_kit import Service, good, refused, served, until


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Gate:
    """Work that doubles numbers, and waits until it may; remembers the batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[tuple[str, list[int]]] = []
        self.lock = threading.Lock()

    def work(self, key: str, asked: list[int]) -> list[int]:
        with self.lock:
            self.batches.append((key, list(asked)))
        assert self.open.wait(20)
        if any(n < 0 for n in asked):
            raise vm.InvalidVector(f"{next(n for n in asked if n < 0)} is below 0")
        if any(n > 1000 for n in asked):
            raise ZeroDivisionError
        return [2 * n for n in asked]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def busy(gate: Gate, batches: int = 1) -> None:
    while len(gate.batches) < batches:
        await asyncio.sleep(0.001)


async def asked(batcher: Batcher[str, int, int], key: str, *numbers: int) -> list[asyncio.Task[int]]:
    """Questions that wait; they have been asked when this returns."""
    tasks = [asyncio.create_task(batcher.ask(key, n)) for n in numbers]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_meanwhile_is_one_batch_in_order(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=8)
        first = await asked(batcher, "a", 1)
        await busy(gate)
        others = await asked(batcher, "a", *range(2, 14))
        gate.open.set()
        assert await asyncio.gather(*first, *others) == [2 * n for n in range(1, 14)]
        assert gate.batches == [("a", [1]), ("a", list(range(2, 10))), ("a", list(range(10, 14)))]
        assert (batcher.batches, batcher.answers) == (3, 13)

    run(test)


def test_who_was_answered_and_asks_again_at_once_goes_with_those_who_waited(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=100)

        async def twice(first: int, second: int) -> int:
            await batcher.ask("a", first)
            return await batcher.ask("a", second)

        tasks = [asyncio.create_task(twice(1, 3)), asyncio.create_task(twice(1, 4))]
        await busy(gate)
        waits = await asked(batcher, "a", 2)
        gate.open.set()
        assert await asyncio.gather(*tasks, *waits) == [6, 8, 4]
        assert gate.batches == [("a", [1, 1]), ("a", [2, 3, 4])]

    run(test)


def test_what_comes_in_one_turn_of_the_loop_is_one_batch(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate.work, pool, largest=100)
        assert await asyncio.gather(*(batcher.ask("a", n) for n in range(50))) == [2 * n for n in range(50)]
        assert batcher.batches == 1

    run(test)


def test_a_lonely_request_does_not_wait(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate.work, pool, largest=8)
        for n in range(5):
            assert await batcher.ask("a", n) == 2 * n
        assert gate.batches == [("a", [n]) for n in range(5)]

    run(test)


def test_an_error_is_its_own_alone(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate.work, pool, largest=8)
        answers = await asyncio.gather(*(batcher.ask("a", n) for n in (1, -2, 3, -4)), return_exceptions=True)
        assert [answers[0], answers[2]] == [2, 6]
        assert [str(answers[1]), str(answers[3])] == ["-2 is below 0", "-4 is below 0"]
        assert all(isinstance(answers[n], vm.InvalidVector) for n in (1, 3))
        # What is no error of the input is nobody's in particular: trying again would only break again.
        answers = await asyncio.gather(*(batcher.ask("a", n) for n in (1, 2000)), return_exceptions=True)
        assert all(isinstance(answer, ZeroDivisionError) for answer in answers)
        assert await batcher.ask("a", 4) == 8

    run(test)


def test_each_key_has_its_turn(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=2)
        first = await asked(batcher, "crowd", 0)
        await busy(gate)
        crowd = await asked(batcher, "crowd", *range(1, 9))
        lonely = await asked(batcher, "lonely", 100)
        gate.open.set()
        await asyncio.gather(*first, *crowd, *lonely)
        assert [key for key, _ in gate.batches] == ["crowd", "crowd", "lonely", "crowd", "crowd", "crowd"]
        assert all(len({key}) == 1 for key, _ in gate.batches)

    run(test)


def test_as_many_batches_at_once_as_workers(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=1, workers=3)
        tasks = await asked(batcher, "a", *range(6))
        await busy(gate, 3)
        await asyncio.sleep(0.05)
        assert len(gate.batches) == 3
        gate.open.set()
        assert sorted(await asyncio.gather(*tasks)) == [0, 2, 4, 6, 8, 10]

    run(test)


def test_too_many_are_told_to_come_back(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=8, waiting=3)
        first = await asked(batcher, "a", 0)
        await busy(gate)
        waiting = await asked(batcher, "a", 1, 2, 3)
        for key in ("a", "b"):
            with pytest.raises(Overloaded):
                await batcher.ask(key, 4)
        gate.open.set()
        assert await asyncio.gather(*first, *waiting) == [0, 2, 4, 6]
        assert await batcher.ask("a", 5) == 10

    run(test)


def test_who_went_away_is_not_worked_for(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=8, waiting=3)
        first = await asked(batcher, "a", 0)
        await busy(gate)
        waiting = await asked(batcher, "a", 1, 2, 3)
        waiting[1].cancel()
        first[0].cancel()  # its batch is under way
        await asyncio.sleep(0)
        gate.open.set()
        assert [await waiting[0], await waiting[2]] == [2, 6]
        assert gate.batches == [("a", [0]), ("a", [1, 3])]
        for _ in range(3):  # nothing is left that counts as waiting
            assert await asyncio.gather(*await asked(batcher, "a", 1, 2, 3)) == [2, 4, 6]

    run(test)


def test_the_first_waits_for_company_if_told_to(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate.work, pool, largest=8, wait=0.1)
        first = await asked(batcher, "a", 1)
        await asyncio.sleep(0.02)
        second = await asked(batcher, "a", 2)
        assert await asyncio.gather(*first, *second) == [2, 4]
        assert gate.batches == [("a", [1, 2])]

    run(test)


def test_the_loop_stands_still_for_a_short_batch(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        turns = 0
        seen: list[tuple[int, int]] = []

        def work(_key: str, asked: list[int]) -> list[int]:
            before = turns
            time.sleep(0.05)
            seen.append((before, turns))
            return asked

        async def turning() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(turning())
        still, moving = (Batcher(work, pool, largest=8, pause=pause) for pause in (10.0, 0.0))
        assert await still.ask("a", 1) == await moving.ask("a", 1) == 1
        other.cancel()
        (before, after), (start, end) = seen
        assert before == after
        assert start < end

    run(test)


def test_the_loop_goes_on_when_a_batch_takes_longer(pool: ThreadPoolExecutor) -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate.work, pool, largest=8, workers=2, pause=0.01)
        slow = await asked(batcher, "a", 1)
        await busy(gate)
        others = [*await asked(batcher, "b", 2), *await asked(batcher, "c", 3)]
        await busy(gate, 2)
        await asyncio.sleep(0.05)
        assert [key for key, _ in gate.batches] == ["a", "b"]
        gate.open.set()
        assert await asyncio.gather(*slow, *others) == [2, 4, 6]

    run(test)


def test_who_waits_when_the_service_stops_is_told() -> None:
    async def test() -> None:
        gate = Gate()
        pool = ThreadPoolExecutor(1)
        batcher = Batcher(gate.work, pool, largest=1, workers=2, pause=0.01)
        tasks = await asked(batcher, "a", 1, 2, 3)
        await busy(gate)
        await asyncio.sleep(0.05)  # the second one waits for the pool's only thread, the third for a worker
        pool.shutdown(wait=False, cancel_futures=True)
        gate.open.set()
        assert await tasks[0] == 2
        for task in tasks[1:]:
            with pytest.raises(asyncio.CancelledError):
                await task

    run(test)


# -- in the service ----------------------------------------------------------------------------------------------------------------


def together(count: int, ask: Callable[[int], Any]) -> list[Any]:
    """Answers of requests that are made at the same time."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("batching") / "db", encode_wait=0.05) as service:
        good(service.client.post("/v1/collections", json={"name": "docs"}), 201)
        texts = ["money back", "lost parcel", "new password", "opening hours"]
        items = [{"id": f"t{n}", "text": text} for n, text in enumerate(texts)]
        good(service.client.put("/v1/collections/docs/items", json={"items": items}))
        yield service


def test_concurrent_text_searches_are_encoded_in_fewer_batches(service: Service) -> None:
    queries = ["refund", "where is my package", "I cannot log in", "when are you open"] * 4
    alone = [service.db.collection("docs").search(query, 4) for query in queries]
    batcher = service.app.state.runtime.encodings
    batches, answers = batcher.batches, batcher.answers

    def ask(n: int) -> Any:
        return good(service.client.post("/v1/collections/docs/search", json={"text": queries[n], "k": 4}))["hits"]

    found = together(len(queries), ask)
    assert batcher.answers - answers == len(queries)
    assert batcher.batches - batches < len(queries) / 2
    for hits, expected in zip(found, alone, strict=True):
        assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
        assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_concurrent_writes_are_each_whole_or_refused(service: Service) -> None:
    def ask(n: int) -> int:
        items = [{"id": f"w{n}", "text": f"text {n}"}, {"id": f"x{n}", "text": " " if n % 4 == 0 else "more"}]
        return service.client.put("/v1/collections/docs/items", json={"items": items}).status_code

    before = service.db.collection("docs").count()
    statuses = together(12, ask)
    assert statuses == [422 if n % 4 == 0 else 200 for n in range(12)]
    assert service.db.collection("docs").count() - before == 2 * 9
    refused(service.client.get("/v1/collections/docs/items/w4"), 404)


def test_concurrent_searches_with_different_filters_and_k(service: Service) -> None:
    name = service.points()

    def ask(n: int) -> list[str]:
        body = {"vector": [1.0, 0.0, 0.0, 0.0], "k": 1 + n % 3, "where": {"n": {"$gte": n % 5}}}
        return [hit["id"] for hit in good(service.client.post(f"/v1/collections/{name}/search", json=body))["hits"]]

    found = together(30, ask)
    assert found == [[f"i{i:02d}" for i in range(n % 5, n % 5 + 1 + n % 3)] for n in range(30)]


def test_503_when_too_many_wait(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, search = threading.Event(), vm.Collection.search_raw
    begun: list[int] = []

    def slow(collection: vm.Collection, *args: Any, **kwargs: Any) -> list[vm.RawHits]:
        begun.append(1)
        assert go_on.wait(20)
        return search(collection, *args, **kwargs)

    with served(tmp_path_factory.mktemp("overload") / "db", waiting=2, search_threads=1) as service:
        name = service.points()
        monkeypatch.setattr(vm.Collection, "search_raw", slow)

        def ask(_: int) -> Any:
            return service.client.post(f"/v1/collections/{name}/search", json={"vector": [1.0, 0.0, 0.0, 0.0]})

        with ThreadPoolExecutor(8) as threads:
            first = threads.submit(ask, 0)
            until(lambda: bool(begun))
            others = [threads.submit(ask, n) for n in range(1, 7)]
            until(lambda: sum(other.done() for other in others) == 4)
            go_on.set()
            answers = [future.result() for future in (first, *others)]
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 4
    for answer in answers:
        if answer.status_code == 503:
            refused(answer, 503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1


def test_503_when_it_takes_too_long(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def stuck(collection: vm.Collection, where: Any = None) -> int:
        assert go_on.wait(20)
        return 0

    with served(tmp_path_factory.mktemp("slow") / "db", timeout=0.3) as service:
        name = service.points()
        monkeypatch.setattr(vm.Collection, "count", stuck)
        answer = service.client.post(f"/v1/collections/{name}/items/count", json={})
        refused(answer, 503, "timeout")
        go_on.set()
