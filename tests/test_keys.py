"""API keys: shown once, kept as a hash, good for what they say and as long as they say."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vecmeta as vm
from vecmeta.cli import program
from vecmeta.keys import SCOPES


def set_column(db: vm.Database, id: str, name: str, value: datetime) -> None:
    """What only time can do."""
    with sqlite3.connect(db.folder / "vecmeta.db") as connection:
        stored = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        connection.execute(f"UPDATE keys SET {name} = ? WHERE id = ?", [stored, id])
    connection.close()


def test_a_key_is_found_by_its_secret(db: vm.Database) -> None:
    before = datetime.now(UTC)
    secret, key = db.keys.create("laptop", ["read", "write", "read"], ["docs", "later"])
    assert re.fullmatch(r"vm_[0-9a-f]{16}_[\w-]{43}", secret)
    assert secret.split("_")[1] == key.id
    assert (key.name, key.scopes, key.collections) == ("laptop", ("read", "write"), ("docs", "later"))
    assert before <= key.created <= datetime.now(UTC)
    assert (key.expires, key.revoked, key.used) == (None, None, None)
    assert db.keys.find(secret) == key
    other, second = db.keys.create("laptop")
    assert other != secret
    assert (second.scopes, second.collections) == (("read",), None)
    assert [one.id for one in db.keys.list()] == [key.id, second.id]


def test_a_wrong_secret_finds_nothing(db: vm.Database) -> None:
    secret, _ = db.keys.create("one")
    other, _ = db.keys.create("two")
    changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    crossed = other[:20] + secret[20:]  # the id of one with the token of the other
    for wrong in ("", "vm_", "vm_x_y", secret.upper(), secret + "a", secret + "\n", " " + secret, changed, crossed, secret[:19]):
        assert db.keys.find(wrong) is None, wrong
    assert db.keys.find(None) is None  # type: ignore[arg-type]


def test_secrets_are_nowhere_on_disk(db: vm.Database) -> None:
    secret, key = db.keys.create("hidden")
    assert db.keys.find(secret) is not None
    db.close()
    stored = b"".join(path.read_bytes() for path in db.folder.rglob("*") if path.is_file())
    assert key.id.encode() in stored  # so it would be seen
    assert secret.encode() not in stored
    assert secret.removeprefix(f"vm_{key.id}_").encode() not in stored


def test_a_key_ends_when_it_says(db: vm.Database) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    secret, key = db.keys.create("short", expires=soon)
    assert key.expires == soon
    assert db.keys.find(secret) is not None
    time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()) + 0.01)
    assert db.keys.find(secret) is None


def test_a_revoked_key_is_no_key(db: vm.Database, tmp_path: Path) -> None:
    secret, key = db.keys.create("lost")
    kept, _ = db.keys.create("kept")
    with vm.open(db.url) as other:  # another process's view of the same folder
        assert other.keys.find(secret) is not None
        revoked = db.keys.revoke(key.id)
        assert other.keys.find(secret) is None
        assert other.keys.find(kept) is not None
    assert revoked.revoked is not None
    assert db.keys.revoke(key.id).revoked == revoked.revoked
    assert [one.revoked is None for one in db.keys.list()] == [False, True]
    with pytest.raises(vm.KeyNotFound, match="'nope'"):
        db.keys.revoke("nope")


def test_use_is_noted_at_most_once_a_minute(db: vm.Database) -> None:
    secret, key = db.keys.create("busy")

    def used() -> datetime | None:
        return db.keys.list()[0].used

    begin = datetime.now(UTC)
    db.keys.find(secret)
    first = used()
    assert first is not None
    assert begin <= first <= datetime.now(UTC)
    db.keys.find(secret)
    assert used() == first
    set_column(db, key.id, "used", first - timedelta(seconds=61))
    db.keys.find(secret)
    second = used()
    assert second is not None
    assert second > first
    db.keys.find(secret[:-2] + "AA")
    assert used() == second


def test_a_locked_database_does_not_hold_up_who_shows_a_key(db: vm.Database) -> None:
    secret, key = db.keys.create("busy")
    writer = sqlite3.connect(db.folder / "vecmeta.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    begin = time.monotonic()
    found = db.keys.find(secret)
    assert time.monotonic() - begin < 5  # a writer waits for a minute
    writer.execute("ROLLBACK")
    writer.close()
    assert found == key
    assert db.keys.list()[0].used is None
    db.keys.find(secret)
    assert db.keys.list()[0].used is not None


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("read", {"read"}),
        ("feedback", {"read", "feedback"}),
        ("write", {"read", "write"}),
        ("admin", {"read", "feedback", "write", "admin"}),
    ],
)
def test_what_scopes_allow(db: vm.Database, scope: vm.types.Scope, allowed: set[str]) -> None:
    _, everywhere = db.keys.create("all", [scope])
    assert {s for s in SCOPES if everywhere.allows(s)} == allowed
    assert {s for s in SCOPES if everywhere.allows(s, "docs")} == allowed
    _, docs = db.keys.create("docs", [scope], ["docs"])
    assert {s for s in SCOPES if docs.allows(s, "docs")} == allowed
    assert {s for s in SCOPES if docs.allows(s, "other")} == set()
    assert {s for s in SCOPES if docs.allows(s)} == {"read"}  # what is the whole database's is not for it to change


def test_scopes_add_up(db: vm.Database) -> None:
    _, key = db.keys.create("both", ["feedback", "write"])
    assert {s for s in SCOPES if key.allows(s)} == {"read", "feedback", "write"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": ""}, "not ''"),
        ({"name": " "}, "not ' '"),
        ({"name": "a\nb"}, "one line"),
        ({"name": "x" * 256}, "255"),
        ({"name": 3}, "not 3"),
        ({"scopes": ["reed"]}, "'reed'; known: read, feedback, write, admin"),
        ({"scopes": "read"}, "list of texts, not 'read'"),
        ({"scopes": []}, "at least one of scopes"),
        ({"collections": []}, "None stands for all"),
        ({"collections": "docs"}, "list of texts, not 'docs'"),
        ({"collections": ["no/slash"]}, "'no/slash' is no name"),
        ({"expires": datetime(2100, 1, 1)}, "time zone"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "in the future, not 2020-01-01"),
        ({"expires": 30}, "not 30"),
    ],
)
def test_bad_input_makes_no_key(db: vm.Database, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=said):
        db.keys.create(**{"name": "key", **arguments})
    assert db.keys.list() == []


def test_the_commands(tmp_path: Path) -> None:
    data = str(tmp_path / "db")

    def run(*arguments: str, code: int = 0) -> Any:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(program, ["keys", *arguments, "--data", data])
        assert done.exit_code == code, done.output
        return done

    made = run("create", "laptop", "--scope", "read", "--scope", "write", "--collection", "docs", "--days", "30")
    secret = made.stdout.strip()
    assert "cannot be shown again" in made.stderr
    assert secret not in made.stderr
    told = json.loads(run("create", "server", "--json").stdout)
    assert (told["name"], told["scopes"], told["collections"], told["expires"]) == ("server", ["read"], None, None)
    with vm.open(data) as db:
        key, other = db.keys.find(secret), db.keys.find(told["secret"])
        assert key is not None
        assert other is not None
        assert (key.scopes, key.collections, other.id) == (("read", "write"), ("docs",), told["id"])
        assert key.expires is not None
        assert timedelta(days=29.9) < key.expires - datetime.now(UTC) <= timedelta(days=30)
    assert run("revoke", key.id).stdout.startswith(f"key {key.id} for laptop is revoked")
    table = run("list").stdout
    assert re.search(rf"{key.id} +laptop +read write +docs .*revoked 20", table)
    assert re.search(rf"{other.id} +server +read +all ", table)
    assert secret not in table
    listed = json.loads(run("list", "--json").stdout)
    assert [one["revoked"] is None for one in listed] == [False, True]
    assert all("secret" not in one for one in listed)
    assert json.loads(run("revoke", "nope", "--json", code=1).stdout)["error"] == "key_not_found"
    assert "'reed'" in run("create", "x", "--scope", "reed", code=1).stderr
    run("create", "x", "--days", "1e300", code=2)
