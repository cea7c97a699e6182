"""A process that is killed at any moment loses nothing that it had acknowledged, and leaves a database that agrees with itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters

WORKER = """
import sys
import numpy as np
import vecmeta as vm
from tests.conftest import Clusters

data = Clusters(concepts=12, members=12, dim=24, seed=5)
with vm.open(sys.argv[1], device="cpu") as db:
    c = db.collection("c")
    rng = np.random.default_rng(int(sys.argv[2]))
    print("ready", flush=True)
    for step in range(1000):
        name = f"late-{sys.argv[2]}-{step}"
        c.add_vectors([name], rng.normal(size=(1, 24)))
        print("item", name, flush=True)
        row = int(rng.integers(len(data.x)))
        c.feedback([vm.Judgement(data.ids[row], concept=f"concept {data.label[row]}")])
        print("judged", len(c.judgements()), flush=True)
        report = c.adapt(seed=step, strength=1.0)
        if report.decision == "kept":
            c.activate(report.version)
        print("live", c.live, flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    data = Clusters(concepts=12, members=12, dim=24, seed=5)
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=data.dim)
        c.add_vectors(data.ids, data.x)
        c.feedback(data.judgements(range(4), 4))
    rng = np.random.default_rng(0)
    items: list[str] = []
    for attempt in range(3):
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(attempt)]
        root = Path(__file__).parent.parent
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as worker:
            assert worker.stdout is not None
            said: list[list[str]] = []
            for line in worker.stdout:
                said.append(line.split())
                if said[-1][0] == "live":  # it is in full swing: kill it somewhere in the next round
                    time.sleep(float(rng.random()) * 0.6)
                    worker.kill()
            worker.wait(30)
        items += [words[1] for words in said if words[0] == "item"]
        judged = max(int(words[1]) for words in said if words[0] == "judged")
        live = max(int(words[1]) for words in said if words[0] == "live")
        with vm.open(tmp_path, device="cpu") as db:
            c = db.collection("c")
            assert {item.id for item in c.get(items)} == set(items)
            assert len(c.judgements()) >= judged
            assert c.live >= live
            hits = c.search(data.x[0], 5)
            assert hits.version == c.live
            z = c.embed(data.x)
            for hit in hits:
                if hit.id in data.ids:
                    assert hit.score == pytest.approx(float(z[0] @ z[data.ids.index(hit.id)]), abs=1e-5)
            assert len(c.search(data.x[0], 10_000)) == c.count()


def test_two_processes_that_adapt_at_once_agree(tmp_path: Path) -> None:
    data = Clusters()
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=data.dim)
        c.add_vectors(data.ids, data.x)
        c.feedback(data.judgements(range(6), 5))
    code = """
import sys, vecmeta as vm
with vm.open(sys.argv[1], device="cpu") as db:
    report = db.collection("c").adapt()
    print(report.decision, report.version)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = []
    for worker in workers:
        with worker:
            outcomes.append((worker.communicate(timeout=120)[0].split(), worker.returncode))
    # A head is a function of its inputs: both made the same version, whoever came first.
    assert outcomes == [(["promoted", "1"], 0)] * 2
    with vm.open(tmp_path, device="cpu") as db:
        assert [v.live for v in db.collection("c").versions()] == [False, True]
