"""Slow runs on real data sets, which live beside the project and are not part of it: `make quality`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vecmeta.bench import adapt

DATA = Path(os.environ.get("VECMETA_DATA_SETS", Path(__file__).parent.parent.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.quality,
    pytest.mark.skipif(not (DATA / "clinc150").is_dir(), reason=f"no data sets in {DATA} (set VECMETA_DATA_SETS)"),
]


def test_teaching_15_of_150_intents(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of the README, with room for what rounding does on other machines."""
    facts = adapt.run(DATA, sets=["clinc150"], concepts=15, shots=5, seeds=3, device="cpu")
    means = facts["means"]["clinc150"]
    with capsys.disabled():
        print("\n", means)
    assert [run["items"] for run in facts["runs"]] == [4500] * 3
    assert [run["decision"] for run in facts["runs"]] == ["promoted"] * 3
    assert means["fed_gain_relative"] > 0.24
    assert means["mixed_gain_relative"] > 0.14
    assert means["pooled_gain_relative"] > 0.05
    assert means["unfed_gain"] > 0.02
    assert means["fed_worse"] < 0.04
