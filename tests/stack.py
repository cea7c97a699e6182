"""What docker-compose.yml describes, without containers: PostgreSQL, Milvus and the service as processes, for as long as this one runs.

    python -m tests.stack --folder stack --port 8000          # make stack

PostgreSQL comes from the system's packages. Milvus is the server of the package `milvus`, where that is installed; without it the vectors
are in FAISS. What they hold stays in the folder. A line of JSON says where everything is once it can be used.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from tests.postgres import Postgres, missing

ROOT = Path(__file__).parent.parent


def milvus(folder: Path, stack: ExitStack) -> str | None:
    """The address of a Milvus server that was started, or None where there can be none."""
    if importlib.util.find_spec("tests.realmilvus") is None or importlib.util.find_spec("milvus") is None:
        return None
    module = importlib.import_module("tests.realmilvus")
    why = module.why_not()
    if why is not None:
        raise SystemExit(why)
    return str(stack.enter_context(module.RealMilvus(folder / "milvus")).uri)


def postgres(folder: Path, stack: ExitStack) -> str:
    """The URL of the database `vecmeta` of a server that was started."""
    why = missing()
    if why is not None:
        raise SystemExit(why)
    (folder / "postgres").mkdir(parents=True, exist_ok=True)
    server = Postgres(folder / "postgres", {})
    stack.callback(server.close)
    server.start()
    stack.callback(server.stop)
    if not server.tell("SELECT 1 FROM pg_database WHERE datname = 'vecmeta'"):
        server.tell("CREATE DATABASE vecmeta")
    return server.url("vecmeta")


def service(environment: dict[str, str], port: int, stack: ExitStack) -> None:
    """The service, once it is ready."""
    command = [sys.executable, "-m", "vecmeta", "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        process.wait(60)

    stack.callback(end)
    finish = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > finish:
                raise SystemExit("the service does not come up") from None
            time.sleep(0.1)


def main() -> None:
    """Start everything, tell where it is, wait for Ctrl-C or SIGTERM, stop everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack")
    parser.add_argument("--folder", type=Path, default=Path("stack"))
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--index", help="instead of Milvus: faiss, exact, or the address of another Milvus")
    given = parser.parse_args()
    folder = given.folder.absolute()
    stopped = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    with ExitStack() as stack:
        url = postgres(folder, stack)
        index = given.index or milvus(folder, stack) or "faiss"
        environment = {"VECMETA_DATA": url, "VECMETA_INDEX": index, "VECMETA_FILES": str(folder / "files")}
        service(environment, given.port, stack)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        print(json.dumps({"service": f"http://127.0.0.1:{given.port}", **environment}), flush=True)
        while not stopped:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
