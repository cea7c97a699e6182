"""A PostgreSQL server of the tests' own: made in a temporary folder, on a free port, run by a user without rights, gone in the end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

QUICK = {  # what a test's database may do without: it does not outlive the machine
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "4GB",
}  # fmt: skip
ALWAYS = {
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "64MB", "max_connections": "200",
    "log_min_messages": "fatal",
}  # fmt: skip
LANGUAGE = ("--no-locale", "--locale-provider=icu", "--icu-locale=en")  # which sorts "a" before "B", as most databases do
WHERE = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt/postgresql")


def program(name: str) -> Path | None:
    """A program of PostgreSQL's, from the newest version that is installed."""
    known = [path for folder in WHERE for path in Path(folder).glob(f"*/bin/{name}")]
    known.sort(key=lambda path: [int(part) for part in path.parts[-3].split(".") if part.isdecimal()])
    if known:
        return known[-1]
    found = shutil.which(name)
    return None if found is None else Path(found).resolve()


def missing() -> str | None:
    """Why there can be no server here."""
    if program("initdb") is None or program("postgres") is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "its driver is not installed: pip install 'vecmeta[postgres]'"
    return None


class Postgres:
    """A server whose data lie in a folder: made there if they are not yet."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.data, self.port, self._settings = folder / "data", _free_port(), settings
        word = folder / "password"
        if not word.exists():
            word.write_text(secrets.token_hex(8))
        self.password = word.read_text()
        self._user = next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.geteuid() == 0 else None
        self._free: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (folder / "log").open("ab")
        if self._user is not None:  # it refuses to be run by root
            for path in (folder, word):
                shutil.chown(path, self._user)
        if not (self.data / "PG_VERSION").exists():
            create = ("-D", self.data, "-U", "tests", "-E", "UTF8", *LANGUAGE, "-A", "scram-sha-256", "--pwfile", word, "-N")
            self._run("initdb", *create)

    def url(self, database: str = "postgres") -> str:
        """What `vecmeta.open` is given."""
        return f"postgresql+psycopg://tests:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [part for name, value in {**ALWAYS, **self._settings}.items() for part in ("-c", f"{name}={value}")]
        command = [str(program("postgres")), "-D", str(self.data), "-p", str(self.port), *settings]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True, **self._as())
        end = time.monotonic() + 60
        while not self.answers():
            assert self._process.poll() is None, Path(self._log.name).read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes connections."""
        import psycopg

        try:
            psycopg.connect(self.url().replace("+psycopg", ""), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it; SIGKILL takes the server and all that it started, as a power cut would."""
        if self._process is not None:
            if how == signal.SIGKILL:
                os.killpg(self._process.pid, how)
            else:
                self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """End it for good."""
        self.stop(signal.SIGQUIT)
        self._log.close()

    def new(self, options: str = "") -> str:
        """The URL of a new database."""
        name = f"t{secrets.token_hex(6)}"
        self.tell(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of a database with vecmeta's tables and nothing in them. It is emptied and lent again: making one takes much longer."""
        from vecmeta.catalogue.catalogue import Catalogue
        from vecmeta.catalogue.tables import identity, metadata

        if not self._free:
            self._free.append(self.new())
            Catalogue(make_url(self._free[-1])).close()
        url = self._free.pop()
        yield url
        name = url.rpartition("/")[2]
        self.tell(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        emptied = ", ".join(table.name for table in metadata.tables.values() if table is not identity)
        self.tell(f"TRUNCATE {emptied} RESTART IDENTITY", name)
        self.tell(f"UPDATE identity SET id = '{secrets.token_hex(16)}'", name)
        self._free.append(url)

    def tell(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement outside of any transaction; its rows."""
        import psycopg

        with psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(program(name)), *map(str, arguments)]
        subprocess.run(command, stdout=self._log, stderr=self._log, check=True, timeout=120, **self._as())

    def _as(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": (), "cwd": "/"}


@contextmanager
def running(**settings: str) -> Iterator[Postgres]:
    """A server for as long as the block lasts; skips the test where there can be none."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vecmeta-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), settings)
        try:
            server.start()
            yield server
        finally:
            server.close()


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
