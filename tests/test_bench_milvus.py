"""The benchmark of an index in Milvus: what it tells, and versions swapped under load on a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from vecmeta.bench import milvus
from vecmeta.cli import program


def agrees(swap: dict[str, Any], swaps: int) -> None:
    """Nothing was lost or mixed, and every version answered."""
    assert (swap["errors"], swap["mixed"]) == (0, 0), swap["first_errors"]
    assert len(swap["versions"]) == swaps + 1
    for when in ("before", "while", "after"):
        assert swap[when]["searches"] > 0
        assert 0 < swap[when]["p50"] <= swap[when]["p99"]
    assert {"adapting", "evaluating"} <= set(swap["stages"])


def test_a_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")
    monkeypatch.setattr(milvus, "IDLE", 0.3)
    told = ["bench", "milvus", "--count", "300", "--swap-count", "300", "--dim", "16", "--swaps", "2", "--threads", "2"]
    done = CliRunner().invoke(program, [*told, "--index", "milvus-lite", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["reembed"]["count"] == 300
    assert 0 < facts["reembed"]["milvus_share"] <= 1
    assert facts["swap"]["inside"]
    agrees(facts["swap"], 2)


@pytest.mark.kills
@pytest.mark.timeout(3000)
def test_versions_are_swapped_under_load(real_milvus: str) -> None:
    facts = milvus.run(f"{real_milvus}?prefix=load", count=0)["swap"]
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in facts["stages"].items())
    latencies = ", ".join(f"{facts[when]['p50']:.1f}" for when in ("before", "while", "after"))
    print(f"\n{facts['searches']} searches, {facts['seconds_of_a_swap']:.1f} s a swap ({stages}); p50 {latencies} ms")
    agrees(facts, 10)
    assert facts["after"]["p50"] < 1.5 * facts["before"]["p50"]
