"""A real Milvus for tests: the server of the PyPI package `milvus` (standalone, 2.3.5), in a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

TUNING = {  # what a server of few tests has no reason to wait for
    **{
        f"{part}.ip": "127.0.0.1"
        for part in ("proxy", "rootCoord", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
    },
    "log.level": "warn",
    "proxy.timeTickInterval": 20,  # ms; a read that must know the last write waits for one: 35 instead of 200-300 ms
    "dataCoord.segment.assignmentExpiration": 200,  # ms; flush: .7 instead of 3 s
}
PARTS = {"rootcoord", "datacoord", "indexcoord", "querycoord", "querynode", "datanode", "indexnode", "proxy"}
ETCD = (2379, 2380)  # fixed in the embedded etcd: one server for each network namespace


def why_not() -> str | None:
    """Why no server can be started here; None when one can."""
    try:
        import milvus  # noqa: F401
    except ImportError:
        return "the package milvus is not installed (pip install milvus==2.3.5; linux x86_64 only)"
    for port in ETCD:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return f"port {port} is taken, which the etcd of a Milvus server needs: another one runs here"
    return None


def _healthy(port: int) -> bool:
    """Whether every part says so; its state alone is "OK" as well while parts are missing from what it asks."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/healthz", headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            said = json.load(answer)
    except OSError:
        return False
    return said["state"] == "OK" and {part["name"] for part in said["detail"]} >= PARTS


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[RealMilvus]:
    """A server for as long as the block lasts; skips the test where there can be none. Processes that test at once take turns."""
    with (Path(tempfile.gettempdir()) / f"milvus-2.3.5-turn-{os.getuid()}").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        reason = why_not()
        if reason is not None:
            pytest.skip(reason)
        with RealMilvus(folder, **settings) as server:
            yield server


class RealMilvus:
    """A context manager; `uri` is where it answers. Extra settings by their dotted names, or as its template calls them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self._settings = folder.absolute(), {**TUNING, **settings}
        self.uri = ""
        self._server: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self, seconds: float = 120) -> Self:
        """Start it, or start it anew on what it held, and wait until it answers."""
        from milvus import MilvusServer, MilvusServerConfig, _initialize_data_files

        class Config(MilvusServerConfig):  # type: ignore[misc]  # untyped
            def try_bind_port(self, port: int) -> socket.socket | None:
                probe = socket.socket()  # as upstream, but a port that was used a moment ago counts as free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                    probe.listen()
                except OSError:
                    probe.close()
                    return None
                return probe

        unpacked = Path(tempfile.gettempdir()) / f"milvus-2.3.5-bin-{os.getuid()}"  # 250 MB, 3 s, shared by all runs
        unpacked.mkdir(exist_ok=True)
        _initialize_data_files(str(unpacked))
        if not (self.folder / "bin").exists():
            (self.folder / "bin").symlink_to(unpacked / "bin")
        server = self._server = MilvusServer(Config(), wait_for_started=False, data_dir=str(self.folder))
        for name, value in self._settings.items():
            server.config.set(name, value)
        begin = time.monotonic()
        server.start()
        process: subprocess.Popen[bytes] = server.server_proc
        self._process, self.uri = process, f"http://127.0.0.1:{server.listen_port}"
        while time.monotonic() - begin < seconds:
            if process.poll() is not None:
                raise RuntimeError(f"milvus ended with {process.returncode}: see {self.folder}/logs/milvus-stderr.log")
            if _healthy(server.webservice_port):
                return self
            time.sleep(0.05)
        self.kill()
        raise TimeoutError(f"milvus did not answer within {seconds} s")

    def kill(self) -> None:
        """kill -9: it loses nothing that it has acknowledged, and SIGTERM can take minutes."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._server is not None:
            self._server.server_proc = None
            for file in self._server.proc_fds.values():
                file.close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
