"""A browser for tests: Debian's Chromium, driven through Playwright, and what a test of the console looks at."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

from tests.service_kit import Running

CHROMIUM = (
    os.environ.get("VECMETA_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
PATIENCE = 20_000  # ms
AXE = Path(__file__).parent.parent / ".venv" / "axe" / "axe.min.js"  # fetched by `make test`

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: `make test` installs it where it may (Debian, as root)"
)


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, without a window."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], headless=True
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True)
class Visit:
    """A page of the console, and what went wrong in it."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)  # exceptions, errors on the console, what the policy forbade
    seen: list[Response] = field(default_factory=list)

    def go(self, where: str = "") -> None:
        """To a view: `#/docs/search`."""
        self.page.goto(f"{self.url}/{where}")

    def arrived(self) -> None:
        """Wait until a view stands there."""
        expect(self.page.locator("main:not([aria-busy]) > *").first).to_be_visible()


@contextmanager
def visit(browser: Browser, running: Running, *, key: str | None = "", port: int = 0, **context: Any) -> Iterator[Visit]:
    """A new visitor; `key` "": the admin's, None: none; `port`: of a relay to the service."""
    with browser.new_context(**context) as made:
        made.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page = made.new_page()
        one = Visit(page, f"http://127.0.0.1:{port or running.port}")
        secret = running.secret if key == "" else key
        if secret is not None:
            page.add_init_script(f"sessionStorage.setItem('vecmeta-key', {secret!r})")
        page.on("pageerror", lambda error: one.problems.append(str(error)))
        page.on("console", lambda said: one.problems.append(said.text) if said.type == "error" else None)
        page.on("response", lambda answer: one.seen.append(answer))  # noqa: PLW0108  # Playwright marks what it is given
        yield one


class Relay:
    """A way to a port that can be shut: to whoever goes it, the service is gone then; to the service, its clients are."""

    def __init__(self, to: int) -> None:
        self._to, self._shut = to, threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Refuse and break all connections."""
        self._shut.set()
        _end(self._listener)
        with suppress(IndexError):
            while True:  # one that comes in meanwhile is ended by its own thread
                _end(self._open.pop())

    def open(self) -> None:
        """Take connections again, on the same port."""
        self._shut.clear()
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", self._to))
                self._open += (here, there)
                if self._shut.is_set():  # while this one came in
                    self.shut()
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    """What comes in on one side goes out on the other, until one of them ends."""
    with suppress(OSError):
        while part := one.recv(2**16):
            other.sendall(part)
    _end(one)
    _end(other)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def relayed(to: int) -> Iterator[Relay]:
    """A relay for as long as the block lasts."""
    relay = Relay(to)
    try:
        yield relay
    finally:
        relay.shut()
