"""Who shares a database file sees what was written at once, though most looks at it read nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.catalogue import sqlite
from vecmeta.catalogue.sqlite import SqliteEngine
from vecmeta.catalogue.tick import BYTES, TRUST, Tick


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[vm.Database, vm.Database]]:
    """The same database opened twice; what was read is trusted for ever unless somebody says that he has written."""
    monkeypatch.setattr(sqlite, "TRUST", 3600.0)
    with vm.open(tmp_path / "db", device="cpu") as one, vm.open(tmp_path / "db", device="cpu") as other:
        yield one, other


def test_a_write_is_seen_at_once(two: tuple[vm.Database, vm.Database], clusters: Clusters) -> None:
    one, other = two
    one.create("c", encoder="vectors", dim=clusters.dim).add_vectors(clusters.ids[:5], clusters.x[:5])
    found = other.collection("c")
    assert len(found.search(clusters.x[0], 10)) == 5
    for n in range(5, 15):
        one.collection("c").add_vectors(clusters.ids[n : n + 1], clusters.x[n : n + 1])
        assert found.search(clusters.x[n], 1)[0].id == clusters.ids[n]
    one.collection("c").delete(clusters.ids[:1])
    assert clusters.ids[0] not in {hit.id for hit in found.search(clusters.x[0], 15)}
    one.drop("c")
    with pytest.raises(vm.CollectionNotFound):
        found.search(clusters.x[0], 1)


def test_another_process_is_seen_at_once(two: tuple[vm.Database, vm.Database], clusters: Clusters) -> None:
    one, _ = two
    c = one.create("c", encoder="vectors", dim=2)
    c.add_vectors(["a"], [[1.0, 0.0]])
    assert [hit.id for hit in c.search([1.0, 0.0], 5)] == ["a"]
    program = "import sys, vecmeta as vm; vm.open(sys.argv[1], device='cpu').collection('c').add_vectors(['b'], [[0.0, 1.0]])"
    subprocess.run([sys.executable, "-c", program, one.url], check=True, timeout=120)
    assert {hit.id for hit in c.search([1.0, 0.0], 5)} == {"a", "b"}


def test_nothing_is_read_while_nothing_is_written(
    two: tuple[vm.Database, vm.Database], clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    c = one.create("c", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    c.search(clusters.x[0], 5)
    asked: list[str] = []
    told = SqliteEngine.told

    def heard(self: SqliteEngine, sql: str) -> Any:
        asked.append(sql)
        return told(self, sql)

    monkeypatch.setattr(SqliteEngine, "told", heard)
    c.search(clusters.x[0], 5)
    assert asked == []


def test_what_other_tools_write_is_seen_after_a_moment(tmp_path: Path, clusters: Clusters) -> None:
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x)
        assert c.search(clusters.x[0], 1)
        with sqlite3.connect(tmp_path / "db" / "vecmeta.db") as connection:
            connection.execute("DELETE FROM collections")
        time.sleep(2 * TRUST)
        with pytest.raises(vm.CollectionNotFound):
            c.search(clusters.x[0], 1)


def test_marks(tmp_path: Path) -> None:
    one, other = Tick(tmp_path / "t"), Tick(tmp_path / "t")
    assert one.mark() == other.mark() == bytes(BYTES)
    seen = {one.mark()}
    for tick in (one, other) * 3:
        tick.renew()
        assert one.mark() == other.mark()
        assert one.mark() not in seen
        seen.add(one.mark())
    (tmp_path / "longer").write_bytes(b"x" * 100)  # of a later version, say
    assert Tick(tmp_path / "longer").mark() == b"x" * BYTES
    assert (tmp_path / "longer").stat().st_size == 100
    one.close()
    assert one.mark() is None
    one.renew()


def test_without_such_a_file_everything_is_read(tmp_path: Path, clusters: Clusters) -> None:
    (tmp_path / "db").mkdir()
    os.mkdir(tmp_path / "db" / "vecmeta.db-tick")  # root may write to a read-only folder, but nobody into a folder
    assert Tick(tmp_path / "db" / "vecmeta.db-tick").mark() is None
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x)
        assert len(c.search(clusters.x[0], 3)) == 3
