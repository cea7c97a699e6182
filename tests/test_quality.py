"""Slow runs on real data sets, which live beside the project and are not part of it: `make quality`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vecmeta.bench import adapt, teach

DATA = Path(os.environ.get("VECMETA_DATA_SETS", Path(__file__).parent.parent.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.quality,
    pytest.mark.skipif(not (DATA / "clinc150").is_dir(), reason=f"no data sets in {DATA} (set VECMETA_DATA_SETS)"),
]


def test_teaching_15_of_150_intents(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of the README, with room for what rounding does on other machines."""
    facts = teach.run(DATA, sets=["clinc150"], concepts=15, shots=5, seeds=3, device="cpu")
    means = facts["means"]["clinc150"]
    with capsys.disabled():
        print("\n", means)
    assert [run["items"] for run in facts["runs"]] == [4500] * 3
    assert [run["decision"] for run in facts["runs"]] == ["promoted"] * 3
    assert means["fed_gain_relative"] > 0.2
    assert means["mixed_gain_relative"] > 0.15
    assert means["pooled_gain_relative"] > 0.06
    assert means["unfed_gain"] > 0.05
    assert means["fed_worse"] < 0.04


def test_the_default_beats_the_alternatives_on_what_no_start_has_seen(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A small part of `vecmeta bench adapt`: two sets of texts, few seeds."""
    peers = ["linear", "ridge", "protonet", "logistic", "rocchio"]
    sets = ["clinc150:label", "trec:label"]
    cache = tmp_path_factory.mktemp("encodings")
    facts = adapt.run(DATA, sets=sets, methods=["maml", *peers], shots=[1, 5], seeds=2, cache=cache, device="cpu")
    with capsys.disabled():
        for row in facts["means"]:
            print(row["shots"], row["method"], *(f"{part} {row[f'{part}_gain']:+.3f}" for part in ("fed", "mixed", "unfed")))
    mixed = {(row["method"], row["shots"]): row["mixed_gain"] for row in facts["means"]}
    for shots in (1, 5):
        for peer in peers:
            assert mixed["maml", shots] > mixed[peer, shots], (peer, shots)
    at_five = next(row for row in facts["means"] if row["method"] == "maml" and row["shots"] == 5)
    assert at_five["fed_gain"] > 0.1
    assert at_five["mixed_gain"] > 0.045
    assert at_five["unfed_gain"] > -0.005
    assert all(row["mixed_gain"] > 0 for row in facts["rows"] if row["method"] == "maml")
