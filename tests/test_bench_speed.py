"""The benchmarks of speed and size, small and real; and what runs may be compared."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from vecmeta import cli
from vecmeta.bench import cold, compare, growth, reindex, reindex_study, streams
from vecmeta.bench.machine import machine
from vecmeta.bench.processes import alone
from vecmeta.bench.streams import Stream


def vecmeta(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as left:
        cli.program(list(arguments))
    captured = capfd.readouterr()
    assert left.value.code == code, captured.err
    return captured.out, captured.err


# -- machines and comparisons ----------------------------------------------------------------------------------------------------


def test_a_machine_is_known_by_what_makes_figures_comparable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = machine()
    assert machine() == here
    assert {"processor", "cores", "memory_gib", "system", "threads", "python", "vecmeta", "torch", "numpy", "faiss-cpu"} <= set(
        here
    )
    assert here["vecmeta"] == vm.__version__
    assert os.uname().nodename not in here.values()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS=1" in str(machine()["threads"])
    assert machine()["machine"] == here["machine"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="needs two cores and Linux")
def test_fewer_cores_are_another_machine() -> None:
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        pytest.skip("this process may use one core only")
    before = machine()
    os.sched_setaffinity(0, {min(usable)})
    try:
        after = machine()
    finally:
        os.sched_setaffinity(0, usable)
    assert after["cores"] == 1
    assert after["machine"] != before["machine"]


def written(path: Path, **facts: Any) -> Path:
    path.write_text(json.dumps({"benchmark": "growth", **machine(), **facts}), "utf-8")
    return path


def test_two_runs_side_by_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"method": "maml", "seconds": 2.0}, {"method": "ridge", "seconds": 1.0}]
    old = written(tmp_path / "old.json", settings={"seed": 0}, add=4.0, empty=0, gone=1, rows=rows, right=True)
    new = written(tmp_path / "new.json", settings={"seed": 1}, add=1.0, empty=3, rows=rows[1:], python="9.9", right=False)
    found = compare.run(old, new)
    assert found["benchmark"] == "growth"
    assert str(machine()["processor"]) in found["machine"]
    assert {row["figure"]: (row["before"], row["after"], row["ratio"]) for row in found["rows"]} == {
        "add": (4.0, 1.0, 0.25),
        "empty": (0, 3, None),
        "rows.ridge.seconds": (1.0, 1.0, 1.0),
    }
    assert found["warnings"] == [
        f"python differs: {machine()['python']} before, 9.9 after",
        "seed differs: 0 before, 1 after",
    ]
    out, err = vecmeta(capfd, "bench", "compare", str(old), str(new), "--out", str(tmp_path / "both.json"))
    assert "0.250" in out
    assert "warning: seed differs" in err
    assert json.loads((tmp_path / "both.json").read_text("utf-8")) == found


def test_a_header_of_its_own_counts_as_well(tmp_path: Path) -> None:
    nested = tmp_path / "nested.json"
    nested.write_text(json.dumps({"benchmark": "growth", "machine": machine(), "add": 2}), "utf-8")
    assert [row["figure"] for row in compare.run(nested, written(tmp_path / "flat.json", add=2))["rows"]] == ["add"]


def test_other_machines_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mine = written(tmp_path / "mine.json", add=1)
    theirs = written(tmp_path / "theirs.json", add=1, machine="0123456789ab", processor="Z80", cores=77)
    _, err = vecmeta(capfd, "bench", "compare", str(mine), str(theirs), code=1)
    assert "Z80, 77 cores" in err
    assert str(machine()["processor"]) in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "does not say which benchmark"),
        ('{"benchmark": "growth", "processor": "Z80"}', "does not say which benchmark"),
        (json.dumps({"benchmark": "cold", **machine()}), "of bench growth and .* of bench cold"),
        (None, "cannot be read"),
    ],
)
def test_files_that_cannot_be_compared(tmp_path: Path, content: str | None, message: str) -> None:
    other = tmp_path / "other.json"
    if content is not None:
        other.write_text(content, "utf-8")
    with pytest.raises(vm.InvalidConfig, match=message):
        compare.run(written(tmp_path / "mine.json", add=1), other)


# -- vectors and judgements ------------------------------------------------------------------------------------------------------


def test_a_stream_is_the_same_each_time_and_keeps_its_queries_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHUNK", 300)
    stream = Stream(700, 64, seed=3)
    parts = list(stream.chunks())
    assert [(start, len(rows)) for start, rows in parts] == [(0, 300), (300, 300), (600, 100)]
    again = np.concatenate([rows for _, rows in stream.chunks()])
    stored = np.concatenate([rows for _, rows in parts])
    assert np.array_equal(again, stored)
    nearest = (stream.queries() @ stored.T).max(axis=1)
    assert len(nearest) == 3 * streams.EXTRA
    assert (nearest < 0.9999).all()  # none is stored
    assert (nearest > 0.4).all()  # each has a neighbourhood


def test_a_stream_of_a_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(450, 8))
    np.save(tmp_path / "rows.npy", rows)
    stream = Stream.of_file(tmp_path / "rows.npy", 1000, seed=0)
    assert (stream.count, stream.dim) == (250, 8)
    assert np.array_equal(next(stream.chunks())[1], rows[:250].astype(np.float32))
    assert np.array_equal(stream.queries(), rows[250:].astype(np.float32))
    np.save(tmp_path / "few.npy", rows[:20])
    with pytest.raises(vm.InvalidConfig, match="holds 20 vectors; at least 400"):
        Stream.of_file(tmp_path / "few.npy", 1000, seed=0)
    np.save(tmp_path / "whole.npy", np.arange(10))
    with pytest.raises(vm.InvalidConfig, match=r"shape \(10,\); \(n, dim\) floats"):
        Stream.of_file(tmp_path / "whole.npy", 1000, seed=0)


@pytest.mark.parametrize("file", [False, True])
def test_what_is_taught(tmp_path: Path, file: bool) -> None:
    stream = Stream(3000, 64)
    if file:
        np.save(tmp_path / "rows.npy", next(stream.chunks())[1])
        stream = Stream.of_file(tmp_path / "rows.npy", 2000, seed=0)
    x = next(stream.chunks())[1]
    with vm.open(tmp_path / "data", index="exact", device="cpu") as db, db.create("c", encoder="vectors", dim=64) as c:
        assert streams.fill(c, stream) > 0
        assert c.count() == stream.count
        judged = streams.teach(c, stream, 4)
        assert len(judged) == 4 * streams.SHOTS
        of: dict[str | None, list[int]] = {}
        for judgement in c.judgements():
            of.setdefault(judgement.concept, []).append(int(judgement.item.removeprefix("item-")))
        streams.teach_more(c, judged)
        assert len({judgement.item for judgement in c.judgements()}) == len(judged) == 4 * (streams.SHOTS + 1)
    assert len(of) == 4
    for rows in of.values():
        assert len(set(rows)) == streams.SHOTS
        if not file:  # two neighbourhoods that the vectors tell apart
            alike = x[rows] @ x[rows[0]] > 0.4
            assert alike.tolist() == [True, True, True, False, False]


# -- the benchmarks --------------------------------------------------------------------------------------------------------------


def test_growth_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures" / "growth.json"
    options = ["--sizes", "200", "400", "--dim", "16", "--no-adapt", "--plot", str(tmp_path / "charts"), "--out", str(out)]
    shown, _ = vecmeta(capfd, "bench", "growth", *options)
    assert "last step" in shown
    facts = json.loads(out.read_text("utf-8"))
    assert facts["benchmark"] == "growth"
    assert facts["machine"] == machine()["machine"]
    assert facts["settings"] == {"sizes": [200, 400], "dim": 16, "seed": 0}
    assert facts["slopes"]["n log n"]["all"] == pytest.approx(1 + np.log(np.log(400) / np.log(200)) / np.log(2), abs=1e-3)
    assert "adapt" not in facts["slopes"]
    for one in facts["by_size"].values():
        assert 0 < one["add"] <= one["add_settled"]
        assert one["faiss"] > 0
        assert 0 < one["memory_at_start_bytes"] <= one["memory_added_bytes"]
    assert (tmp_path / "charts" / "growth.png").read_bytes().startswith(b"\x89PNG")
    figures = {row["figure"] for row in compare.run(out, out)["rows"]}
    assert {"by_size.200.add", "by_size.400.disk_bytes", "slopes.add.last"} <= figures


def test_a_size_with_its_adaptation() -> None:
    found = growth.measure(2000, 32, 0, adapt=True)
    assert found["decision"] == "promoted"
    assert found["stages"]["total"] <= found["adapt"] < 60
    assert found["search_live"] > 0
    assert found["memory_added_bytes"] <= found["peak_memory_bytes"]


def test_slopes() -> None:
    n = np.array([10.0, 100.0, 1000.0])
    assert growth.slopes(n, 3 * n**1.5) == {"all": pytest.approx(1.5), "last": pytest.approx(1.5)}
    assert growth.slopes(n, np.array([1.0, 1.0, 10.0])) == {"all": pytest.approx(0.5), "last": pytest.approx(1.0)}
    assert growth.slopes(n, np.array([0.0, 1.0, 2.0])) == {"all": None, "last": None}


def test_cold_starts() -> None:
    facts = cold.run(500, 16, 1, live=False)
    assert 0 < facts["python_process"] < facts["import_process"] < 60
    assert facts["help_process"] > facts["python_process"]
    base = facts["base"]
    assert base["with_import"] == pytest.approx(base["import"] + base["first_search"])
    assert 0 < base["second_search"] < base["first_search"]
    assert "live" not in facts


def test_a_cold_start_after_an_adaptation(tmp_path: Path) -> None:
    before = cold.fill_base(str(tmp_path), 500, 64, 0)["disk_bytes"]
    assert cold.fill_live(str(tmp_path), 500, 64, 0)["disk_bytes"] > before
    assert cold.first_searches(str(tmp_path), 1, version=1)["first_search"] > 0
    with pytest.raises(vm.VecmetaError, match="first search of version 0 had 10 hits of version 1"):
        cold.first_searches(str(tmp_path), 1, version=0)


def test_reindexing_beside_rebuilding() -> None:
    found = reindex.measure(2000, 32, 0, None, 2, "cpu")
    assert [one["decision"] for one in found["runs"]] == ["promoted", "promoted"]
    assert found["ratio"] == pytest.approx(found["rebuild"] / found["adapt"])
    for one in found["runs"]:
        assert one["rebuild"] == pytest.approx(one["project"] + one["build"])
        assert one["indexing"] < one["stages"]["total"] <= one["adapt"]
        assert one["index"] == "built"  # so small a collection has no graph
        assert one["recall_at_10"] >= 0.99
        assert one["recall_at_10_rebuilt"] >= 0.99
    assert found["memory_filled_bytes"] <= found["memory_before_bytes"] <= found["peak_memory_bytes"]


def test_exact_search_over_chunks_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHUNK", 150)
    stream = Stream(400, 16)
    stored = np.concatenate([rows for _, rows in stream.chunks()])
    queries = stream.queries()
    with vm.open(tmp_path, device="cpu") as db, db.create("c", encoder="vectors", dim=16) as c:
        found = reindex.exact(c, stream, queries)
    assert np.array_equal(found, np.argsort(-(queries @ stored.T), axis=1)[:, : reindex.K])


def test_the_study_of_what_can_be_kept() -> None:
    found = reindex_study.measure(2000, 32, 0, None)
    rows = {(row["index"].split()[0], row["index"], row["how"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 15
    assert 0.3 < found["neighbours_kept"] < 1
    size = {name: row["bytes"] for (_, name, how), row in rows.items() if how == "anew"}
    assert size["HNSW SQ8"] < size["HNSW fp16"] < size["HNSW"]
    for (kind, name, _), row in rows.items():
        assert row["seconds"] > 0
        assert row["recall_at_10"] == sorted(row["recall_at_10"])  # wider finds more
        assert row["recall_at_10"][-1] >= (0.9 if name == "HNSW SQ8" else 0.99), (kind, row)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda folder: growth.run([1000]), "two or more different sizes"),
        (lambda folder: growth.run([10, 1000]), "two or more different sizes from 100"),
        (lambda folder: growth.run([100, 1000], 0), "count and dim"),
        (lambda folder: cold.run(10, 8, 0), "repeats is a whole number from 1"),
        (lambda folder: cold.run(0, 8, 1), "count and dim"),
        (lambda folder: reindex.run(1000, 8, repeats=0), "repeats is a whole number from 1"),
        (lambda folder: reindex.run(1000, 8, folder / "none.npy"), "none.npy is not a file of vectors"),
        (lambda folder: reindex_study.run(1000, 8, folder), "is not a file of vectors"),
    ],
)
def test_bad_arguments(tmp_path: Path, measure: Any, message: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=message):
        measure(tmp_path)


def test_an_out_that_is_a_folder_is_told_before_anything_is_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, err = vecmeta(capfd, "bench", "cold", "--out", str(tmp_path), code=1)
    assert "the name of a file is needed" in err


def test_a_process_that_fails_says_why() -> None:
    assert alone("json", "loads", s="[1]") == [1]
    with pytest.raises(vm.VecmetaError, match=r"the benchmark failed: .*JSONDecodeError"):
        alone("json", "loads", s="[1")
