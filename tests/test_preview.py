"""What a dry run says that building would cost, against what building costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import index_files
from vecmeta import preview
from vecmeta.cli import render
from vecmeta.meta.head import IdentityHead, Projector
from vecmeta.types import Keys, Vectors


def files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module", params=[("exact", 3000), ("faiss", 3000), ("faiss", 12_000)], ids=lambda p: f"{p[0]}-{p[1]}")
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vm.Collection]:
    kind, count = request.param
    with vm.open(tmp_path_factory.mktemp("db"), index=kind, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=64)
        c.add_vectors([f"i{n}" for n in range(count)], np.random.default_rng(0).normal(size=(count, 64)))
        c.settle()
        yield c


def test_the_estimate_is_near_the_truth_and_quick(filled: vm.Collection) -> None:
    head, servings = IdentityHead(64), filled._servings
    ratios = []
    for _ in range(3):  # the machine may be busy with something else for a moment
        begin = time.perf_counter()
        cost = preview.cost(filled._items, servings, Projector(head.project))
        took = time.perf_counter() - begin
        begin = time.perf_counter()
        serving, _ = servings.candidate(7, head)
        real = time.perf_counter() - begin
        size = files(index_files(filled).files(7))
        servings.discard(7)
        assert cost["rows"] == len(serving.index) == filled.count()
        assert cost["bytes"] == pytest.approx(size, rel=0.01)
        ratios.append((took, cost["seconds"] / real, cost["seconds"]))
    assert min(took for took, _, _ in ratios) < 0.5
    assert any(0.4 < ratio < 2.5 for _, ratio, _ in ratios), ratios


def test_it_leaves_nothing_behind(filled: vm.Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = files(index_files(filled).folder)
    preview.cost(filled._items, filled._servings, Projector(IdentityHead(64).project))
    assert list(tmp_path.iterdir()) == []
    assert files(index_files(filled).folder) == before


def test_a_slow_machine_tries_less(filled: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    index = type(filled._servings.shelf.scratch())
    add, rows = index.add, list[int]()

    def slowly(self: object, keys: Keys, vectors: Vectors) -> None:
        time.sleep(0.15)
        rows.append(len(keys))
        add(self, keys, vectors)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "add", slowly)
    cost = preview.cost(filled._items, filled._servings, Projector(IdentityHead(64).project))
    assert rows == [preview.SLICE] * 3  # twice for the time, once for the bytes
    assert cost["seconds"] > 0.15 * filled.count() / preview.SLICE * 0.5


def test_an_empty_collection_costs_no_rows(db: vm.Database) -> None:
    c = db.create("empty", encoder="vectors", dim=8)
    cost = preview.cost(c._items, c._servings, Projector(IdentityHead(8).project))
    assert cost["rows"] == 0
    assert 0 <= cost["seconds"] < 0.5


def test_a_dry_run_reports_it_and_nothing_else_does(taught: vm.Collection) -> None:
    report = taught.adapt(dry_run=True)
    assert set(report.cost) == {"rows", "bytes", "seconds"}
    assert report.cost["rows"] == 400
    assert report.cost["bytes"] > 400 * (48 * 4 + 8)
    assert report.cost["seconds"] > 0
    assert taught.adapt().cost == {}
    taught.feedback([vm.Judgement(j.item, concept=j.concept, score=0.0) for j in taught.judgements()])
    assert taught.adapt(dry_run=True).cost == {}  # too few judgements: nothing to build


def test_reports_go_round_with_and_without_it() -> None:
    report = vm.Report("kept", None, "why", dry_run=True, cost={"rows": 3.0, "bytes": 20.0, "seconds": 0.5})
    assert vm.Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    stored = report.to_dict()
    del stored["cost"]
    assert vm.Report.from_dict(stored).cost == {}


def test_the_command_shows_it(taught: vm.Collection, capsys: pytest.CaptureFixture[str], db: vm.Database) -> None:
    command = [sys.executable, "-m", "vecmeta", "--data", db.url, "--json", "adapt", "clusters", "--dry-run"]
    given = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert given["cost"]["rows"] == 400
    render.show(*render.report_parts(vm.Report.from_dict(given)))
    shown = capsys.readouterr().out
    built = f"{given['cost']['bytes'] / 1e3:.0f} kB of index files, about {given['cost']['seconds']:.1f} s"
    assert f"to build it: 400 items re-embedded, {built}" in shown
    render.show(*render.report_parts(taught.adapt()))
    assert "to build it" not in capsys.readouterr().out
