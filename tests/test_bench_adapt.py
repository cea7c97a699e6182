"""The benchmark of methods: its parts on numbers that can be checked by eye, and all of it on a small made-up set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vecmeta as vm
from vecmeta import cli
from vecmeta.bench import adapt, charts, gate, measured, outer, sets
from vecmeta.bench.sets import Source
from vecmeta.meta.outer_loop import toy_step
from vecmeta.meta.start import load_start
from vecmeta.meta.tasks import Notion

THINGS = ("card payment", "lost luggage", "weather today", "play music", "book flight", "cook rice", "fix bike", "feed cat")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"text": f"{verb} {thing} {number}", "label": thing, "domain": thing.split()[1], "split": "test"}
        for thing in THINGS
        for number in ("now", "please", "again", "soon", "later", "alone", "twice", "slowly")
        for verb in ("how to", "please", "can you")
    ]
    rows += [{"text": f"nothing at all {n}", "label": "oos", "domain": "oos", "split": "test"} for n in range(20)]
    (tmp_path / "clinc150").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clinc150" / "data.parquet")
    return tmp_path


def notion(classes: int = 6, per_class: int = 30, dim: int = 12) -> Notion:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(classes, dim)), per_class, 0) + 0.8 * rng.normal(size=(classes * per_class, dim))
    rows = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return Notion("toy", rows, [np.arange(per_class) + per_class * c for c in range(classes)])


def test_changes_count_every_query_once() -> None:
    before = {part: np.array([0.5, 0.2, np.nan, 0.4]) for part in measured.PARTS}
    after = {part: np.array([0.6, 0.19, np.nan, 0.1]) for part in measured.PARTS}
    got = measured.changes(before, after)
    assert got["fed_base"] == pytest.approx(1.1 / 3)
    assert got["fed_gain"] == pytest.approx((0.1 - 0.01 - 0.3) / 3)
    assert got["mixed_worse"] == pytest.approx(2 / 3)
    assert got["unfed_worse_02"] == pytest.approx(1 / 3)


def test_a_run_teaches_half_of_the_classes_and_asks_for_what_was_not_judged() -> None:
    source = Source("toy", sets.UNSEEN_SET, notion())
    task, stats = measured.sample(source, 3, seed=1)
    assert task.fed == 3
    assert ((task.support.y > 0).sum(0) == 3).all()
    assert not (task.support.y < 0).any()
    assert len(task.collection) == 180
    assert stats.counts.sum() == pytest.approx(180)
    assert measured.sample(source, 3, seed=1)[0].x.tobytes() == task.x.tobytes()
    with_negatives = measured.sample(source, 3, seed=1, negatives=3)[0]
    assert ((with_negatives.support.y < 0).sum(0) >= 3).all()
    quality = measured.quality(task.x, task)
    assert len(quality["mixed"]) == len(quality["fed"]) + len(quality["unfed"]) == len(task.x)


def test_labels_are_exchanged_and_nothing_else() -> None:
    y = np.eye(4, dtype=np.float32).repeat(5, 0)
    assert np.array_equal(gate.shuffled(y, 0.0, np.random.default_rng(0)), y)
    wrong = gate.shuffled(y, 1.0, np.random.default_rng(0))
    assert (wrong.sum(0) == 5).all()
    assert (wrong != y).any(1).mean() > 0.5


def test_the_gate_is_counted_against_the_truth() -> None:
    row = {"labels": "right", "shots": 5, "method": "maml"}
    rows: list[dict[str, Any]] = [
        {**row, "decision": "kept", "mixed_gain": -0.01},
        {**row, "decision": "promoted", "mixed_gain": -0.03},
        {**row, "decision": "promoted", "mixed_gain": 0.05},
        {**row, "decision": "kept", "mixed_gain": 0.04},
        {**row, "decision": "kept", "mixed_gain": 0.01},
        {**row, "decision": "insufficient"},
    ]
    got = gate.summary(rows)
    assert (got["harmful"], got["harmful_kept"]) == (2, 0.5)
    assert (got["helpful"], got["helpful_kept"]) == (2, 0.5)
    assert (got["clearly_harmful"], got["clearly_harmful_kept"]) == (2, 0.5)
    assert got["insufficient"] == 1
    assert got["methods"]["maml"] == {key: value for key, value in got.items() if key != "methods"}


def test_trials_of_right_and_of_random_labels() -> None:
    source = Source("toy", sets.UNSEEN_SET, notion(classes=10, per_class=40))
    rows = gate.trials(source, 5, 0, load_start(method="protonet"))
    assert [row["labels"] for row in rows] == ["right", "half wrong", "random"]
    assert rows[0]["fed_gain"] > rows[2]["fed_gain"]
    assert all(row["decision"] in ("promoted", "kept") for row in rows)
    assert gate.trials(source, 1, 0, load_start(method="protonet"))[0]["decision"] == "insufficient"


def vecmeta(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as left:
        cli.program(list(arguments))
    captured = capfd.readouterr()
    assert left.value.code == 0, captured.err
    return captured.out


def test_the_whole_benchmark_from_the_command_line(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--set", "clinc150:label", "--methods", "maml", "protonet", "--shots", "1", "2", "--seeds", "1", "--gate"]
    out = tmp_path / "figures.json"
    everything = ["--plot", str(tmp_path / "charts"), "--out", str(out), "--json"]
    printed = vecmeta(capfd, monkeypatch, "bench", "adapt", "--data-sets", str(data), *options, *everything)
    facts = json.loads(out.read_text("utf-8"))
    assert json.loads(printed) == facts
    assert facts["split"] == {"clinc150:label": sets.UNSEEN_SET}
    assert {(m["method"], m["shots"]) for m in facts["means"]} == {
        (m, s) for m in ("centred", "maml", "protonet") for s in (1, 2)
    }
    assert len(facts["trials"]) == 2 * 3 * 2
    assert set(facts["gate"]["methods"]) == {"maml", "protonet"}
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {"quality.png", "harm.png", "gate.png"}
    few = ["--set", "clinc150:label", "--methods", "protonet", "--shots", "2", "--seeds", "2"]
    table = vecmeta(capfd, monkeypatch, "bench", "adapt", "--data-sets", str(data), *few)
    assert "unseen data set" in table
    assert "means over 1 held-out" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["lstm"]}, "unknown method 'lstm'"),
        ({"sets": ["snips:label"]}, "no held-out set 'snips:label'"),
        ({"sets": ["trec:label"]}, "no data set at"),
        ({"seeds": 0}, "whole numbers from 1"),
        ({"shots": [0]}, "whole numbers from 1"),
    ],
)
def test_bad_arguments(data: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=message):
        adapt.run(data, **arguments)


def test_the_split_is_a_split() -> None:
    trained = {f"{name}:{column}" for name, columns in sets.TRAINED.items() for column in columns}
    validated = {f"{name}:{column}" for name, columns in sets.VALIDATED.items() for column in columns}
    assert not trained & set(sets.HELD_OUT)
    assert not validated & set(sets.HELD_OUT)
    assert not trained & validated
    for name, how in sets.HELD_OUT.items():
        seen = name.partition(":")[0] in {*sets.TRAINED, *sets.VALIDATED}
        assert seen == (how == sets.UNSEEN_NOTION)
    for method in ("maml", "fomaml", "anil", "reptile", "protonet", "ridge", "logistic", "cnp"):
        about = load_start(method=method).provenance
        assert {name for name in about["trained_on"] if ":partition" not in name} == trained
        assert set(about["validated_on"]) == validated


def test_charts_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(vm.InvalidConfig, match=r"vecmeta\[bench\]"):
        charts.draw({}, tmp_path)


def test_the_loop_and_the_batch_take_the_same_step() -> None:
    for method in outer.METHODS:
        assert toy_step(method, dim=8, ways=3, shots=2, items=60, per_class=4, tasks=3).apart() < 1e-4
