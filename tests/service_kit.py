"""What the tests of the HTTP service share: the application on a database of its own, the service as a process, and raw connections."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

import vecmeta as vm
from service.app import create_app
from service.settings import Settings
from tests.conftest import Clusters
from vecmeta.types import Scope

ROOT = Path(__file__).parent.parent
DIM = 4
SMALL = Clusters(concepts=12, members=12, dim=24, seed=5)  # an adaptation takes a few tenths of a second
START = "import json, sys; from service.run import serve; serve(**json.loads(sys.argv[1]))"


@dataclass(slots=True)
class Service:
    """The application in this process; `client` sends an admin key."""

    app: FastAPI
    client: TestClient
    made: int = 0

    @property
    def db(self) -> vm.Database:
        db: vm.Database = self.app.state.runtime.db
        return db

    def key(self, *scopes: str, collections: Sequence[str] | None = None) -> dict[str, str]:
        """Headers with a new key."""
        return bearer(self.db.keys.create("one more", cast(list[Scope], scopes), collections)[0])

    def points(self, n: int = 12) -> str:
        """A new collection of own vectors, i00 to i11: the first half lies along the first axis, the second half along the second."""
        self.made += 1
        name = f"points{self.made}"
        fill(self.db, name, n)
        return name

    def judged(self) -> str:
        """A new collection with enough judgements for an adaptation."""
        self.made += 1
        name = f"judged{self.made}"
        collection = self.db.create(name, encoder="vectors", dim=SMALL.dim)
        collection.add_vectors(SMALL.ids, SMALL.x, [{"label": int(label)} for label in SMALL.label])
        collection.feedback(SMALL.judgements(range(4), 4))
        return name


def fill(db: vm.Database, name: str, n: int = 12) -> vm.Collection:
    """n own vectors with metadata {"n": 0…, "half": "first" | "second"}."""
    rows = np.full((n, DIM), 0.01)
    rows[: n // 2, 0] = 1
    rows[n // 2 :, 1] = 1
    rows[:, 2] = np.linspace(0.0, 0.3, n)
    collection = db.create(name, encoder="vectors", dim=DIM)
    about = [{"n": i, "half": "first" if i < n // 2 else "second"} for i in range(n)]
    collection.add_vectors([f"i{i:02d}" for i in range(n)], rows, about)
    return collection


@contextmanager
def served(folder: Path, *, base_url: str = "http://testserver", **options: Any) -> Iterator[Service]:
    """The application with its lifespan; without workers unless `options` say so."""
    app = create_app(Settings(data=str(folder), device="cpu", **{"workers": 0, **options}))
    secret, _ = app.state.runtime.db.keys.create("tests", ["admin"])
    with TestClient(app, base_url, headers=bearer(secret)) as client:
        yield Service(app, client)


def bearer(secret: str) -> dict[str, str]:
    """Headers with a key."""
    return {"Authorization": f"Bearer {secret}"}


def refused(answer: Any, status: int, error: str | None = None, said: str = "") -> None:
    """An answer is an error of the one shape."""
    assert answer.status_code == status, answer.text[:500]
    told = answer.json()
    assert set(told) == {"error", "detail"}
    assert told["error"]
    assert told["detail"]
    assert len(told["detail"]) <= 2000
    if error is not None:
        assert told["error"] == error, told
    assert said in told["detail"]


def good(answer: Any, status: int = 200) -> Any:
    """What an answer holds, which is no error."""
    assert answer.status_code == status, answer.text[:500]
    return answer.json() if answer.content else None


def png(colour: tuple[int, int, int] = (200, 30, 30), size: int = 16) -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that other threads or processes do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


# -- the service as a process ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """The service as a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    secret: str
    log: Path
    folder: Path

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30) -> Answer:
        """One request over a connection of its own, with the admin key."""
        sent = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        told = {**bearer(self.secret), "Content-Type": "application/json", "Content-Length": str(len(sent)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n{lines}\r\n"
        return answer_of(self.raw(head.encode() + sent, timeout))

    def raw(self, data: bytes, timeout: float = 30) -> bytes:
        """Send bytes; everything that comes back until the connection is closed."""
        with self.connected(timeout) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            return rest(connection)

    def connected(self, timeout: float = 30) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def memory(self) -> int:
        """Bytes of the process that are in memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def children(self) -> list[int]:
        """Processes that it started."""
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def workers(self) -> list[int]:
        """The processes that run its jobs, once they are there."""
        until(lambda: bool(self.children()))
        return self.children()

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@dataclass(slots=True)
class Answer:
    """An answer from a raw connection."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


def packed(*numbers: float) -> bytes:
    """A vector as base64."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers))


def answer_of(raw: bytes) -> Answer:
    """The first answer in what a connection gave."""
    assert raw, "closed without an answer"
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            length = int(size, 16)
            whole, body = whole + body[:length], body[length + 2 :]
            if not length:
                break
        body = whole
    elif "content-length" in headers:
        body = body[: int(headers["content-length"])]
    return Answer(int(first.split()[1]), headers, body)


def rest(connection: socket.socket) -> bytes:
    """Everything until the connection is closed."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def started(folder: Path, env: dict[str, str] | None = None, wait: bool = True, **options: Any) -> Iterator[Running]:
    """The service as a process on the database in `folder`, or on `data`; in the end it is stopped, and nothing of it may be left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with vm.open(options.get("data", folder), device="cpu", files=options.get("files")) as db:
        secret, _ = db.keys.create("tests", ["admin"])
    port, log = options.get("port") or free_port(), folder.parent / f"{folder.name}.log"
    given = {"port": port, "data": str(folder), "device": "cpu", "workers": 0, **options}
    with log.open("wb") as file, (folder.parent / f"{folder.name}.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(given)], stdout=file, stderr=errors, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )  # fmt: skip
    running = Running(process, port, secret, log, folder)
    children: list[int] = []
    try:
        if wait:
            until(lambda: process.poll() is not None or _listens(port), 240)
            assert process.poll() is None, (folder.parent / f"{folder.name}.err").read_text()
        yield running
    finally:
        if process.poll() is None:
            children = running.children()
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        until(lambda: not any(alive(child) for child in children))


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
