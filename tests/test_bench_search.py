"""`vecmeta bench search` and `bench add`, small, with real engines in processes of their own; peers where they are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import vecmeta as vm
from vecmeta.bench import add, search
from vecmeta.bench.peers import EFS, described
from vecmeta.bench.peers.worker import Worker
from vecmeta.bench.vectors import clustered, nearest
from vecmeta.cli import program

SMALL: dict[str, Any] = {"count": 2000, "dim": 16, "queries": 100, "rounds": 1, "budget": 0.05}
PACKAGES = {"chroma": "chromadb", "lancedb": "lancedb", "qdrant": "qdrant_client"}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return search.run(**SMALL, peers=["faiss", "numpy"], adapted=False)


def test_every_engine_is_measured_in_every_setting(facts: dict[str, Any]) -> None:
    assert [(row["setting"], row["engine"]) for row in facts["rows"]] == [
        (setting, engine) for setting in ("no filter", "1 %", "10 %", "50 %") for engine in ("vecmeta", "faiss", "numpy")
    ]
    for row in facts["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["per_second"] > 0
        assert row["reached"]
    assert {"machine", "processor", "cores", "numpy", "faiss-cpu"} <= facts.keys()
    assert facts["settings"]["seed"] == 0
    json.dumps(facts)


def test_recall_is_of_the_items_that_match(facts: dict[str, Any]) -> None:
    recalls = {(row["setting"], row["engine"]): (row["recall"], row["batch_recall"]) for row in facts["rows"]}
    for setting in search.SETTINGS:
        assert recalls[setting, "vecmeta"] == (1.0, 1.0)  # exact below 10,000 items
        assert min(recalls[setting, "faiss"]) > 0.9
        assert recalls[setting, "numpy"] == (1.0, 1.0)
    # 20 rows match: nothing but scoring all of them finds the ten nearest in time, and the graph alone has much less.
    knobs = {row["setting"]: row["knob"] for row in facts["rows"] if row["engine"] == "faiss"}
    assert knobs["1 %"] == {"exact": True}
    assert knobs["no filter"]["efSearch"] in EFS


def test_ratios_are_ours_to_theirs(facts: dict[str, Any]) -> None:
    rows = {(row["setting"], row["engine"]): row for row in facts["rows"]}
    assert [ratio["peer"] for ratio in facts["ratios"]] == 4 * ["faiss", "numpy"]
    for ratio in facts["ratios"]:
        ours, theirs = rows[ratio["setting"], "vecmeta"], rows[ratio["setting"], ratio["peer"]]
        assert ratio["p50"] == ours["p50_ms"] / theirs["p50_ms"]
        assert ratio["rate"] == ours["per_second"] / theirs["per_second"]


def test_what_the_engines_held_is_told(facts: dict[str, Any]) -> None:
    for name in ("vecmeta", "faiss", "numpy"):
        told = facts["engines"][name]
        assert told["add_seconds"] > 0
        assert 2000 * 16 * 4 < told["memory_bytes"] < 2**31
        assert told["version"]


def worker(name: str, folder: Path, rows: np.ndarray[Any, Any]) -> Worker:
    np.save(folder / "rows.npy", rows)
    made = Worker(name, folder / name, rows.shape[1], 0)
    made.ask("fill", rows=str(folder / "rows.npy"))
    return made


@pytest.mark.parametrize("name", ["vecmeta", "faiss", "numpy", *PACKAGES])
def test_an_engine_answers_as_exact_search_does(name: str, tmp_path: Path) -> None:
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed: pip install 'vecmeta[bench]'")
    rows = clustered(1200, 16, 3)
    made = worker(name, tmp_path, rows[:1000])
    try:
        np.save(tmp_path / "queries.npy", rows[1000:])
        for field, value, matching in [
            (None, None, range(1000)),
            ("shelf", "s7", range(7, 1000, 100)),
            ("half", 1, range(1, 1000, 2)),
        ]:
            true = [{matching[n] for n in line} for line in nearest(rows[1000:], rows[list(matching)], 10).tolist()]
            knob = made.ask("plans", where=field)["plans"][-1][-1]  # the most thorough one
            given = {"queries": str(tmp_path / "queries.npy"), "k": 10, "knob": knob, "seconds": 5}
            one = made.ask("one", asked=[[row, field, value] for row in range(20)], **given)["found"]
            many = made.ask("many", asked=[[list(range(20)), field, value]], **given)["found"][0]
            assert [set(found) for found in one] == true[:20]
            assert [set(found) for found in many] == true[:20]
    finally:
        made.close()


def test_a_search_stops_when_its_time_is_over_and_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    rows = clustered(1100, 16, 3)
    made = worker("faiss", tmp_path, rows[:1000])
    try:
        asked = [[0, None, None]] * 100_000
        found = made.ask("one", queries=str(tmp_path / "rows.npy"), k=10, asked=asked, knob={"efSearch": 4096}, seconds=0.05)
        assert 1 <= len(found["seconds"]) < len(asked)
        assert len(found["found"]) == len(found["seconds"])
        made._process.kill()
        with pytest.raises(vm.VecmetaError, match="faiss: its process ended with -9"):
            made.ask("plans", where=None)
    finally:
        made.close()


def test_a_worker_that_fails_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    rows = clustered(1000, 16, 3)
    made = worker("vecmeta", tmp_path, rows)
    np.save(tmp_path / "wrong.npy", rows[:, :8])
    with pytest.raises(vm.VecmetaError, match=r"vecmeta: InvalidVector: .*16"):
        made.ask("one", queries=str(tmp_path / "wrong.npy"), k=10, asked=[[0, None, None]], knob={}, seconds=1)
    number = made._process.pid
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"queries": 150}, "multiple of 100"),
        ({"queries": 900}, "up to 800|from 100 to 800"),
        ({"count": 500}, "1,000 or more"),
        ({"recall": 1.5}, "recall lies in"),
        ({"peers": ["milvus"]}, "'milvus' is no peer of this benchmark; there are faiss, numpy, chroma, lancedb, qdrant"),
    ],
)
def test_bad_input_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=said):
        search.run(**{**SMALL, **given})


def test_a_file_without_enough_vectors_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.ones((1500, 4), np.float32))
    with pytest.raises(vm.InvalidConfig, match=r"few\.npy holds an array of float32 and shape \(1500, 4\)"):
        search.run(vectors=tmp_path / "few.npy", peers=[])
    rows = np.ones((2500, 4), np.float32)
    rows[7] = 0
    np.save(tmp_path / "zero.npy", rows)
    with pytest.raises(vm.InvalidConfig, match=r"row 7 of .*zero\.npy has no direction"):
        search.run(vectors=tmp_path / "zero.npy", peers=[])


def test_a_peer_that_is_not_installed_is_named_with_the_cure() -> None:
    """In a Python that finds no installed packages but the project's own dependencies that this needs."""
    code = """
import importlib.util, vecmeta as vm
from vecmeta.bench import peers
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "chromadb" else found(name, package)
assert "faiss" in peers.chosen(None) and "chroma" not in peers.chosen(None)
try:
    peers.chosen(["chroma"])
except vm.InvalidConfig as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "the peer chroma needs chromadb: pip install 'vecmeta[bench]'\n"


def test_importing_the_benchmarks_imports_no_peer() -> None:
    code = "import sys; from vecmeta.bench import add, search; from vecmeta.cli import bench_search; "
    code += "print(sorted({'chromadb', 'lancedb', 'qdrant_client', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_added_in_one_call() -> None:
    facts = add.whole("vecmeta", 1500, 16, 0)
    assert facts["vector_bytes"] == 1500 * 16 * 4
    assert facts["per_second"] == pytest.approx(1500 / facts["seconds"], rel=0.5, abs=100_000)
    assert facts["recall_at_10"] == facts["recall_at_10_settled"] == 1.0
    assert facts["disk_bytes"] > facts["vector_bytes"]
    assert facts["peak_memory_bytes"] > facts["vector_bytes"]


def test_what_is_added_and_changed_in_batches() -> None:
    begin = time.perf_counter()
    facts = add.streamed("vecmeta", 2000, 16, 0, 300)
    took = time.perf_counter() - begin
    assert 0 < facts["seconds"] < took
    assert [mark["count"] for mark in facts["memory"]] == [600, 1200, 2000]  # where a quarter, half and all had been added
    peaks = [mark["peak_memory_bytes"] for mark in facts["memory"]]
    assert peaks == sorted(peaks)
    assert facts["recall_at_10"] == facts["recall_at_10_settled"] == 1.0
    assert facts["changes"]["count"] == 400
    for kind in ("upserts", "metadata", "deletes"):
        assert facts["changes"][kind]["per_second"] > 0


def test_adding_reports_by_the_command(tmp_path: Path) -> None:
    out = tmp_path / "add.json"
    options = ["--count", "500", "--dim", "8", "--batch", "100", "--out", str(out)]
    done = CliRunner().invoke(program, ["bench", "add", *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "batches of 100" in done.stdout
    facts = json.loads(out.read_text())
    assert facts["benchmark"] == "add"
    assert facts["settings"] == {"count": 500, "dim": 8, "seed": 0, "batch": 100}
    assert facts["streamed"]["changes"]["count"] == 100
    with pytest.raises(vm.InvalidConfig, match="batch are whole numbers from 1"):
        add.run(500, 8, batch=0)
    with pytest.raises(vm.InvalidConfig, match="'faiss' is no peer of this benchmark; there are chroma"):
        add.run(500, 8, peers=["faiss"])


def test_the_chart_is_drawn(facts: dict[str, Any], tmp_path: Path) -> None:
    from vecmeta.bench import charts_search

    path = charts_search.draw(facts, tmp_path / "charts")
    assert path.name == "search.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "file").write_text("")
    with pytest.raises(vm.InvalidConfig, match="cannot be written"):
        charts_search.draw(facts, tmp_path / "file" / "charts")


def test_metadata_tell_filters_apart() -> None:
    assert described(207) == {"n": 207, "shelf": "s7", "decile": 7, "half": 1}
