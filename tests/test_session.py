"""`vecmeta search --interactive`: keys and what they do, on a real terminal too."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from rich.console import Console

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.cli.session import DOWN, Session, run
from vecmeta.types import Progress

ROOT = Path(__file__).parent.parent


def quiet() -> AbstractContextManager[Progress]:
    return nullcontext(lambda stage, done, total: None)


def press(session: Session, keys: str, typed: str = "") -> bool:
    return all(session.press(key, lambda _: typed, quiet) for key in keys)


def shown(session: Session) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for part in session.parts():
        console.print(part)
    console.file.close()
    return console.export_text()


def test_keys_move_mark_and_ask_again(toys: vm.Collection) -> None:
    session = Session(toys, "red", k=4)
    assert session.hits is not None
    first, second = session.hits[0].id, session.hits[1].id
    assert press(session, "+-")
    assert session.marks == {first: 1.0, second: -1.0}
    assert [(j.item, j.query, j.score) for j in toys.judgements()] == [(first, "red", 1.0), (second, "red", -1.0)]
    assert session.cursor == 2
    session.press(DOWN[1], input, quiet)
    assert session.cursor == 3
    press(session, "jjkk0")
    assert session.marks[session.hits[1].id] == 0.0
    press(session, "m")
    assert shown(session).startswith("more like ")
    press(session, "/", "green dog")
    assert session.query == "green dog"
    assert not session.marks
    assert "green dog   version 0" in shown(session)


def test_what_goes_wrong_is_told_and_changes_nothing(toys: vm.Collection) -> None:
    session = Session(toys, "red", k=3)
    press(session, "b")
    assert session.said == "nothing to go back to"
    press(session, "a")
    assert session.said.startswith("insufficient")
    press(session, "z")
    assert "no key" in session.said
    press(session, "/", " ")
    assert session.query == "red"
    assert not press(session, "q")


def test_adapting_shows_before_and_after_and_goes_back(taught: vm.Collection, clusters: Clusters) -> None:
    session = Session(taught, vm.Id(clusters.ids[19]), k=10)
    press(session, "a")
    assert session.said.startswith("promoted")
    assert session.hits is not None
    assert session.hits.version == 1
    assert session.before is not None
    assert session.before.version == 0
    text = shown(session)
    assert "was" in text
    assert any(sign in text for sign in ("▲", "new"))
    press(session, "b")
    assert taught.live == 0
    assert session.before is None


def test_run_shows_until_quit(toys: vm.Collection, capsys: pytest.CaptureFixture[str]) -> None:
    keys = iter("+q")
    run(Session(toys, "red", k=2), lambda: next(keys), input, lambda: None)
    assert capsys.readouterr().out.count("version 0") == 2


def test_without_a_terminal_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vecmeta", "search", "docs", "x", "--interactive", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert "terminal" in done.stderr


def test_on_a_terminal(tmp_path: Path) -> None:
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=2)
        c.add_vectors(["a", "b", "d"], [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    main, side = pty.openpty()
    command = [sys.executable, "-m", "vecmeta", "search", "c", "--like", "a", "-i", "--data", str(tmp_path / "db")]
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, cwd=ROOT, env={**os.environ, "TERM": "xterm"})
    os.close(side)
    try:
        _until(main, "quit")
        _typed(main, b"+")
        _typed(main, b"k")
        while process.poll() is None:
            os.write(main, b"q")
            time.sleep(0.2)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
    with vm.open(tmp_path / "db", device="cpu") as db:
        assert ("b", 1.0) in [(j.item, j.score) for j in db.collection("c").judgements()]


def _until(terminal: int, word: str, seconds: float = 60.0) -> bool:
    """Whether a word comes up on the screen."""
    end, seen = time.monotonic() + seconds, ""
    while word not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode("utf-8", "replace")
    return word in seen


def _typed(terminal: int, key: bytes) -> None:
    """Press a key until the screen is drawn anew: what is typed before the program waits for a key is thrown away."""
    for _ in range(60):
        os.write(terminal, key)
        if _until(terminal, "quit", 1.0):
            return
    raise AssertionError("no key was heard")
