"""`vecmeta finetune` and `vecmeta bench finetune` from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vecmeta as vm
from tests.tinymodels import pictures, tiny_text, topic_texts
from vecmeta.bench import charts_finetune
from vecmeta.bench import finetune as bench
from vecmeta.cli import main
from vecmeta.encoders import open_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text(tmp_path_factory.mktemp("cli-finetune") / "model")


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `vecmeta …` in this process; its standard output and error."""
    monkeypatch.setenv("VECMETA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["vecmeta", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert stopped.value.code == code, (arguments, out, err)
        return out, err

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    texts, labels = topic_texts(8)
    rows = [{"id": str(n), "text": text, "label": label} for n, (text, label) in enumerate(zip(texts, labels, strict=True))]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"id": "x", "text": "", "label": "food"}])))
    return tmp_path / "labelled.jsonl"


def test_files_in_a_folder_out(run: Run, file: Path, model: Path, tmp_path: Path) -> None:
    options = ("--encoder", f"hf:{model}", "--mode", "features", "--steps", "20", "--rate", "0.01", "--device", "cpu")
    out, err = run("finetune", str(file), "--out", str(tmp_path / "mine"), *options)
    assert "left out: 1 empty" in err
    assert "64 examples of 8 classes" in out
    assert "MAP@R" in out
    encoder = open_encoder(str(tmp_path / "mine"), device="cpu")
    assert encoder.name in out
    again, _ = run("finetune", str(file), "--out", str(tmp_path / "mine"), *options, "--json")
    assert json.loads(again)["name"] == encoder.name
    _, err = run("finetune", str(file), "--out", str(tmp_path / "mine"), *options, "--seed", "1", code=1)
    assert "is there already" in err
    run("create", "docs", "--encoder", str(tmp_path / "mine"))
    assert json.loads(run("collections", "--json")[0])


def test_source_and_unlabelled_files(run: Run, file: Path, model: Path, tmp_path: Path) -> None:
    options = ("--encoder", f"hf:{model}", "--mode", "features", "--steps", "4", "--device", "cpu", "--json")
    more = ("--transfer", "instances", "relations", "--source", str(file), "--unlabelled", str(file))
    facts = json.loads(run("finetune", str(file), "--out", str(tmp_path / "mine"), *options, *more)[0])
    assert facts["config"]["transfer"] == ["instances", "relations"]
    assert facts["data"]["source"]["examples"] == 64
    assert facts["data"]["unlabelled"] == 64


def test_a_collection(run: Run, file: Path, model: Path) -> None:
    run("create", "docs", "--encoder", f"hf:{model}")
    filled = file.with_name("filled.jsonl")
    filled.write_text("\n".join(file.read_text().splitlines()[:-1]))
    run("add", "docs", str(filled))
    arguments = ("finetune", "--collection", "docs", "--field", "label", "--mode", "features", "--steps", "20", "--rate", "0.01")
    report = json.loads(run(*arguments, "--dry-run", "--json")[0])
    assert report["dry_run"] is True
    out, _ = run(*arguments)
    assert report["decision"] in out
    versions = json.loads(run("versions", "docs", "--json")[0])
    assert [v["encoder"].partition("@")[0] for v in versions] == ["tiny", "tiny-ft"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "either labelled files or --collection"),
        (("a.csv", "--collection", "docs"), "either labelled files or --collection"),
        (("a.csv",), "where is the encoder to be written"),
        (("--collection", "docs", "--out", "x"), "is for files"),
        (("a.csv", "--out", "x", "--field", "y"), "is for --collection"),
        (("a.csv", "--out", "x", "--dry-run"), "is for --collection"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in " ".join(run("finetune", *arguments, code=2)[1].replace("│", " ").split())


def test_errors_are_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n")
    for arguments, complaint in (
        ((str(tmp_path / "none.csv"), "--out", "x"), "no such file"),
        ((str(tmp_path / "one.csv"), "--out", "x"), "all 2 labelled items are of one class"),
        ((str(tmp_path / "one.csv"), "--out", "x", "--mode", "some"), "none of features, lora, full"),
    ):
        _, err = run("finetune", *arguments, code=1)
        assert complaint in err
        assert err.count("\n") == 1


# ---- the benchmark


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, column, (contents, labels) in (("clinc150", "text", topic_texts(22)), ("emoji", "png", pictures(22))):
        (tmp_path / "sets" / name).mkdir(parents=True)
        table = pa.table({column: [*contents, contents[0]], "label": [*labels, "oos"]})
        pq.write_table(table, tmp_path / "sets" / name / "data.parquet")
    return tmp_path / "sets"


def test_the_benchmark_on_a_small_set(run: Run, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_encoder
    monkeypatch.setattr(
        bench, "open_encoder", lambda spec, device: plain(f"hf:{model}" if spec == "text" else spec, device=device)
    )
    arguments = ("bench", "finetune", "--data-sets", str(data), "--set", "clinc150:label", "--shots", "5", "0", "--seeds", "2")
    out, _ = run(*arguments, "--methods", "adapt", "features", "--steps", "5", "--out", str(tmp_path / "f.json"))
    assert "all labelled items per class" in out
    facts = json.loads((tmp_path / "f.json").read_text())
    assert [(row["shots"], row["method"]) for row in facts["rows"]] == [(few, m) for few in (5, 0) for m in ("adapt", "features")]
    for row in facts["rows"]:
        assert row["labels"] == (20 if row["shots"] else 28)  # four classes of 22, less 15 that are asked for
        assert 0 <= row["fed_base"] + row["fed_gain"] <= 1
        assert row["fed_half"] >= 0
    assert 1 <= facts["rows"][1]["steps"] <= 5
    assert "mixed_gain_with_head" in facts["rows"][1]
    path = charts_finetune.draw(facts, tmp_path / "charts" / "finetune.png")
    assert path.stat().st_size > 10_000


def test_what_is_asked_was_not_labelled(data: Path, model: Path) -> None:
    source = bench.read(data, "clinc150:label")
    trial = bench.Trial(source, open_encoder(f"hf:{model}", device="cpu"), 5, seed=0)
    assert not set(trial._asked) & set(trial._given)
    assert not set(trial._free) & (set(trial._asked) | set(trial._given))
    assert set(source.labels[trial._given]) == set(trial.taught)
    assert len(np.unique(source.labels[trial._asked])) == 2 * len(trial.taught)
    assert "oos" not in source.labels


def test_what_the_benchmark_refuses(data: Path) -> None:
    with pytest.raises(vm.InvalidConfig, match="none of adapt, features"):
        bench.run(data, methods=["magic"])
    with pytest.raises(vm.InvalidConfig, match="seeds are a number from 1"):
        bench.run(data, seeds=0)
    with pytest.raises(vm.InvalidConfig, match="no data set 'none'"):
        bench.run(data, sets=["none"])
    with pytest.raises(vm.InvalidConfig, match="the column 'colour'"):
        bench.run(data, sets=["emoji:colour"])
