"""A search by a vector that its connection answers itself is answered as by the application, whatever happens on the way."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.run import configured
from tests.service_kit import Answer, Service, answer_of, free_port, refused, rest, served, until
from tests.test_service_hot import BODIES, USUAL

PLAIN = "application/json"
ALONE: dict[str, bytes] = {  # where a check by hand could differ from pydantic's
    "some true": b'{"vector": [1, true, 0, 0]}',
    "all true": b'{"vector": [true, true, true, true]}',
    "texts": b'{"vector": ["1", "0", "0", "0"]}',
    "a text": b'{"vector": [1, "0", 0, 0]}',
    "null": b'{"vector": [1, null, 0, 0]}',
    "lists": b'{"vector": [[1], [0], [0], [0]]}',
    "uneven lists": b'{"vector": [1, [0, 1], 0, 0]}',
    "a huge whole number": b'{"vector": [1, 99999999999999999999, 0, 0]}',
    "too large a number": b'{"vector": [1e39, 0, 0, 0]}',
    "k as a text": b'{"vector": [1, 0, 0, 0], "k": "3"}',
    "k as a float": b'{"vector": [1, 0, 0, 0], "k": 3.0}',
    "k true": b'{"vector": [1, 0, 0, 0], "k": true}',
    "no k": b'{"vector": [1, 0, 0, 0], "k": 0}',
    "contents as a text": b'{"vector": [1, 0, 0, 0], "content": "no"}',
    "where null": b'{"vector": [1, 0, 0, 0], "where": null}',
    "where a list": b'{"vector": [1, 0, 0, 0], "where": []}',
    "twice": b'{"vector": [1, 0, 0, 0], "vector": [0, 1, 0, 0]}',
    "deep": b'{"vector": ' + b"[" * 600 + b"]" * 600 + b"}",
}


class Server:
    """The application behind a port, in threads of this process."""

    def __init__(self, service: Service, port: int, client: httpx.Client) -> None:
        self.service, self.port, self.client = service, port, client
        self.path = f"/v1/collections/{service.points()}/search"
        self.used()

    def used(self) -> None:
        """Key and collection are known from now on, for a moment."""
        for known in (self.service.app.state.runtime._known, self.service.app.state.gatekeeper._known):
            known.clear()
        answer = self.client.post(self.path, content=BODIES["vector"], headers={"Content-Type": USUAL})
        assert answer.status_code == 200

    def ask(self, body: bytes, kind: str = PLAIN, **headers: str) -> httpx.Response:
        return self.client.post(self.path, content=body, headers={"Content-Type": kind, **headers})

    def head(self, size: int, *more: str) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Type: {PLAIN}", f"Content-Length: {size}"]
        lines += [f"Authorization: {self.client.headers['Authorization']}", *more, "", ""]
        return "\r\n".join(lines).encode()

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Server]:
    port = free_port()
    with served(folder, **options) as service:
        server = configured(service.app, "127.0.0.1", port)
        server.config.lifespan = "off"  # the test client has begun it
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until(lambda: server.started)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=service.key("admin"), timeout=30) as client:
                yield Server(service, port, client)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("direct"), max_body=20_000) as server:
        yield server


@pytest.fixture(autouse=True)
def known(server: Server) -> None:
    server.used()


@pytest.fixture
def direct_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def routed(*_: object) -> None:
        raise AssertionError("the application was asked")

    monkeypatch.setattr("service.routes.search.json_response", routed)
    monkeypatch.setattr("service.hot.json_bytes", routed)


@pytest.mark.parametrize("what", [*BODIES, *ALONE])
def test_both_ways_say_the_same(server: Server, what: str) -> None:
    body = {**BODIES, **ALONE}[what]
    short, usual = server.ask(body), server.ask(body, USUAL)
    assert short.status_code == usual.status_code
    told, wanted = short.json(), usual.json()
    assert {k: v for k, v in told.items() if k != "search"} == {k: v for k, v in wanted.items() if k != "search"}
    assert set(short.headers) == set(usual.headers)
    assert short.headers["content-type"] == usual.headers["content-type"]


@pytest.mark.usefixtures("direct_only")
@pytest.mark.parametrize("what", ["vector", "packed", "where", "more than there are"])
def test_the_connection_answers_itself(server: Server, what: str) -> None:
    assert server.ask(BODIES[what]).status_code == 200
    assert server.ask(BODIES[what], USUAL).status_code == 500


@pytest.mark.usefixtures("direct_only")
def test_a_packed_vector_is_found_as_its_numbers_are(server: Server) -> None:
    assert server.ask(BODIES["packed"]).json()["hits"] == server.ask(b'{"vector": [1, 0.1, 0, 0], "k": 5}').json()["hits"]


@pytest.mark.usefixtures("direct_only")
def test_ids_of_requests_metrics_and_logs(server: Server) -> None:
    count = 'vecmeta_request_seconds_count{method="POST",route="/collections/{name}/search",status="200"}'

    def counted() -> float:
        lines = server.service.client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(count)).rpartition(" ")[2])

    before = counted()
    assert server.ask(BODIES["vector"], **{"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"
    made = server.ask(BODIES["vector"], **{"X-Request-ID": "not mine"}).headers["x-request-id"]
    assert len(made) == 16
    until(lambda: counted() >= before + 2)  # an answer is counted a moment after it is sent
    assert counted() == before + 2


class Remembered:
    """Heads that were found among those parsed before, of connections to a server."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        direct = server.service.app.state.direct
        self.heads, self.found, recall = direct._heads, 0, direct.recall
        self.heads.clear()

        def noted(received: bytes) -> Any:
            found = recall(received)
            self.found += found is not None
            return found

        monkeypatch.setattr(direct, "recall", noted)


def asked(connection: socket.socket, *parts: bytes) -> Answer:
    """What is answered to a request that comes in one piece or several, on a connection that stays."""
    for part in parts:
        connection.sendall(part)
        time.sleep(0.02 if len(parts) > 1 else 0)
    raw = b""
    while b"\r\n\r\n" not in raw or len((answer := answer_of(raw)).content) < int(answer.headers["content-length"]):
        raw += connection.recv(65536)
    return answer


def test_a_head_that_was_parsed_before(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, body, other = Remembered(server, monkeypatch), BODIES["vector"], BODIES["where"]
    with server.connected() as one, server.connected() as two:
        answers = [asked(connection, server.head(len(body)) + body) for connection in (one, one, two, two)]
        assert (len(seen.heads), seen.found) == (1, 2)  # the first one of a connection is parsed
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.headers["x-request-id"] for answer in answers}) == 4
        assert all(answer.json()["hits"] == answers[0].json()["hits"] for answer in answers)
        assert len({tuple(answer.headers) for answer in answers}) == 1
        assert asked(one, server.head(len(other)) + other).json()["hits"] != answers[0].json()["hits"]  # of another length
        assert (len(seen.heads), seen.found) == (2, 2)
        wrong = body.replace(b"vector", b"vectro")  # the same head, and the application has to say what is wrong
        refused(asked(one, server.head(len(body)) + wrong), 422)
        assert seen.found == 3
        assert asked(one, server.head(len(body)) + body).status_code == 200


def test_a_head_that_was_parsed_before_with_a_key_that_holds_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, body = Remembered(server, monkeypatch), BODIES["vector"]
    secret, key = server.service.db.keys.create("short", scopes=["read"])
    request = server.head(len(body)).replace(server.client.headers["Authorization"].encode(), f"Bearer {secret}".encode()) + body
    with server.connected() as connection:
        statuses = [asked(connection, request).status_code for _ in range(3)]
        assert (statuses, seen.found) == ([200] * 3, 1)  # with the first one the key was looked up
        server.service.db.keys.revoke(key.id)
        server.service.app.state.gatekeeper._known.clear()
        refused(asked(connection, request), 401)
    assert seen.found == 2


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("cut", [-1, -9, 40, None])
def test_a_head_that_was_parsed_before_whose_request_comes_otherwise(
    server: Server, monkeypatch: pytest.MonkeyPatch, before: bytes, cut: int | None
) -> None:
    seen, body = Remembered(server, monkeypatch), BODIES["vector"]
    whole = server.head(len(body)) + body
    with server.connected() as connection:
        assert all(asked(connection, whole).json()["hits"] for _ in range(2))
        assert seen.found == 1
        assert asked(connection, before + whole[:cut], *([whole[cut:]] if cut else [])).json()["hits"]
        assert seen.found == 1 + (not before and cut is None)
        connection.sendall(whole + whole + whole)  # at once, and answered one by one
        told = b""
        while told.count(b'"hits"') < 3:
            told += connection.recv(65536)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer_of(rest(connection)).status_code == 200


def test_heads_that_are_not_remembered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, body = Remembered(server, monkeypatch), BODIES["vector"]
    for more in (["Connection: close"], ["X-Long: " + "x" * 3000, "Connection: close"]):
        with server.connected() as connection:
            connection.sendall(server.head(len(body), *more) + body)
            assert answer_of(rest(connection)).status_code == 200
    with server.connected() as connection:
        assert asked(connection, server.head(len(body), "X-Long: " + "x" * 3000) + body).status_code == 200
    with server.connected() as connection:  # whose body no parser reads
        assert asked(connection, server.head(len(body), "Upgrade: h2c", "Connection: Upgrade") + body).status_code == 422
    assert not seen.heads
    monkeypatch.setattr("service.direct.MOST", 5)
    with server.connected() as connection:
        for n in (*range(12), 11):
            answer = asked(connection, server.head(len(body), f"X-Request-ID: mine-{n}") + body)
            assert answer.headers["x-request-id"] == f"mine-{n}"
            assert 1 <= len(seen.heads) <= 5
    assert seen.found == 1


def test_an_idle_connection_is_closed_and_one_in_use_is_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.connection.KEEP_ALIVE", 1.5)
    whole = server.head(len(BODIES["vector"])) + BODIES["vector"]
    with server.connected() as connection:
        for _ in range(4):
            assert asked(connection, whole).status_code == 200
            time.sleep(0.5)
        begin = time.monotonic()
        assert connection.recv(1) == b""
        assert time.monotonic() - begin < 10


@pytest.mark.usefixtures("direct_only")
def test_two_requests_at_once_on_one_connection(server: Server) -> None:
    bodies = BODIES["vector"], BODIES["where"]
    with server.connected() as connection:
        connection.sendall(b"".join(server.head(len(body)) + body for body in bodies[:1]))
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(server.head(len(bodies[1]), "Connection: close") + bodies[1])
        last = answer_of(rest(connection))
    assert last.status_code == 200
    assert len(last.json()["hits"]) == 4


def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    bodies = [BODIES["vector"], BODIES["where"], BODIES["vector"]]
    with server.connected() as connection:
        sent = [server.head(len(body), *(["Connection: close"] if n == 2 else [])) + body for n, body in enumerate(bodies)]
        connection.sendall(b"".join(sent))
        raw = rest(connection)
    answers = raw.split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 3
    assert [len(json.loads(answer.partition(b"\r\n\r\n")[2])["hits"]) for answer in answers] == [10, 4, 10]


def test_a_body_that_comes_in_pieces(server: Server) -> None:
    body = BODIES["where"]
    with server.connected() as connection:
        for part in (server.head(len(body), "Connection: close"), body[:9], body[9:]):
            connection.sendall(part)
            time.sleep(0.1)
        answer = answer_of(rest(connection))
    assert (answer.status_code, len(answer.json()["hits"])) == (200, 4)


def test_too_large(server: Server) -> None:
    body = b'{"vector": [1, 0, 0, 0], "where": {"n": "' + b"n" * 20_000 + b'"}}'
    assert server.ask(body).status_code == 413
    assert server.ask(body, USUAL).status_code == 413


def test_keys(server: Server) -> None:
    elsewhere = server.service.key("read", collections=["elsewhere"])
    for _ in range(2):  # unknown, then known
        refused(server.ask(BODIES["vector"], **elsewhere), 403)
        refused(server.ask(BODIES["vector"], Authorization="Bearer vm_wrong"), 401)


def test_numbers_of_any_length(server: Server) -> None:
    name = server.path.split("/")[3]
    server.service.db.collection(name).add_vectors(["large"], [[0, 0, 0, 1.0]], [{"n": 2**70}])
    try:
        answer = server.ask(b'{"vector": [0, 0, 0, 1], "k": 1}')
        assert answer.json()["hits"][0]["metadata"] == {"n": 2**70}
    finally:
        server.service.db.collection(name).delete(["large"])


def test_a_client_that_goes_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    ids: list[bytes] = []
    ledger = server.service.app.state.direct.ledger
    enter = ledger.enter

    def noted(scope: Any, request_id: bytes, status: int, seconds: float) -> None:
        seen.append(status)
        ids.append(request_id)
        enter(scope, request_id, status, seconds)

    monkeypatch.setattr(ledger, "enter", noted)
    assert server.ask(BODIES["vector"], **{"X-Request-ID": "before"}).status_code == 200
    until(lambda: b"before" in ids)  # a request is entered once it is answered: this one is, and so are those before it
    seen.clear()
    with held(server, monkeypatch) as go_on:
        with server.connected() as connection:
            connection.sendall(server.head(len(BODIES["vector"])) + BODIES["vector"])
            assert go_on.begun.wait(30)
        time.sleep(0.2)  # the end of the connection is seen
    until(lambda: seen == [499])
    assert server.ask(BODIES["vector"]).status_code == 200


def test_a_mistake_of_ours(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    for place in ("service.direct.answer_of", "service.routes.search.answer_of"):
        monkeypatch.setattr(place, broken)
    refused(server.ask(BODIES["vector"]), 500, "internal")


class Held:
    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()


@contextmanager
def held(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Searches wait in their thread until the end."""
    hold, batcher = Held(), server.service.app.state.runtime.searches
    work = batcher._work

    def wait(key: Any, asked: list[Any]) -> Any:
        hold.begun.set()
        assert hold.go_on.wait(30)
        return work(key, asked)

    with monkeypatch.context() as patch:
        patch.setattr(batcher, "_work", wait)
        try:
            yield hold
        finally:
            hold.go_on.set()


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, timeout=0.5, rate=8) as server:
        assert server.ask(BODIES["vector"]).status_code == 200
        with held(server, monkeypatch):
            begin = time.monotonic()
            refused(server.ask(BODIES["vector"]), 503, "timeout")
            assert 0.4 < time.monotonic() - begin < 10
        statuses = [server.ask(BODIES["vector"]).status_code for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2  # with the one that made it known
        assert server.ask(BODIES["vector"]).headers["retry-after"]


def test_too_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, waiting=1) as server, held(server, monkeypatch) as hold, ExitStack() as stack:
        connections = [stack.enter_context(server.connected()) for _ in range(6)]
        for connection in connections:
            connection.sendall(server.head(len(BODIES["vector"]), "Connection: close") + BODIES["vector"])
        time.sleep(0.3)
        hold.go_on.set()
        answers = [answer_of(rest(connection)) for connection in connections]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(answer.json()["error"] == "overloaded" for answer in answers if answer.status_code == 503)
