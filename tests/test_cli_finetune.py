"""`vecmeta finetune` and `vecmeta bench finetune` from the command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vecmeta as vm
from tests.tinymodels import pictures, tiny_image, tiny_text, topic_texts
from vecmeta.bench import charts_finetune
from vecmeta.bench import finetune as bench
from vecmeta.bench.finetune_trial import Base, Trial, read
from vecmeta.cli import main
from vecmeta.encoders import ImageEncoder, open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.types import Content, Vectors

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


def test_a_collection_and_source_examples(run: Run, file: Path, model: Path) -> None:
    filled = file.with_name("filled.jsonl")
    filled.write_text("\n".join(file.read_text().splitlines()[:-1]))
    for name in ("docs", "more"):
        run("create", name, "--encoder", f"hf:{model}")
        run("add", name, str(filled))
    arguments = (
        "finetune",
        "--collection",
        "docs",
        "--field",
        "label",
        "--mode",
        "features",
        "--steps",
        "4",
        "--transfer",
        "instances",
    )
    for source in (("--source", str(file)), ("--source-collection", "more:label")):
        report = json.loads(run(*arguments, *source, "--precision", "fp32", "--json")[0])
        assert report["decision"] in ("promoted", "kept")
    assert "needs source examples" in run(*arguments, code=1)[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "either labelled files or --collection"),
        (("a.csv", "--collection", "docs"), "either labelled files or --collection"),
        (("a.csv",), "where is the encoder to be written"),
        (("--collection", "docs", "--out", "x"), "is for files"),
        (("a.csv", "--out", "x", "--field", "y"), "is for --collection"),
        (("a.csv", "--out", "x", "--dry-run"), "is for --collection"),
        (("a.csv", "--out", "x", "--source-collection", "y"), "is for --collection"),
        (("--collection", "docs", "--source", "a.csv", "--source-collection", "y"), "give one of"),
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


@pytest.fixture
def tiny(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark begins from the tiny model where it would take the default one."""
    plain = open_encoder
    monkeypatch.setattr(
        bench, "open_encoder", lambda spec, device: plain(f"hf:{model}" if spec == "text" else spec, device=device)
    )


SMALL = ("--set", "clinc150:label", "--shots", "5", "0", "--seeds", "2", "--steps", "5")


@pytest.mark.usefixtures("tiny")
def test_the_benchmark_on_a_small_set(run: Run, data: Path, tmp_path: Path) -> None:
    arguments = ("bench", "finetune", "--data-sets", str(data), *SMALL)
    out, _ = run(*arguments, "--methods", "adapt", "features", "--out", str(tmp_path / "f.json"))
    assert "all labelled items per class" in out
    assert "means over the sets" in out
    facts = json.loads((tmp_path / "f.json").read_text())
    assert [(row["shots"], row["method"]) for row in facts["rows"]] == [(few, m) for few in (5, 0) for m in ("adapt", "features")]
    for row in facts["rows"]:
        assert row["labels"] == (20 if row["shots"] else 28)  # four classes of 22, less 15 that are asked for
        assert row["of"] == 2
        assert 0 <= row["fed_base"] + row["fed_gain"] <= 1
        assert row["fed_half"] >= 0
        assert 0 < row["seconds"] <= row["wall"]
    assert 1 <= facts["rows"][1]["steps"] <= 5
    assert "mixed_gain_with_head" in facts["rows"][1]
    path = charts_finetune.draw(facts, tmp_path / "charts" / "finetune.png")
    assert path.stat().st_size > 10_000


@pytest.mark.usefixtures("tiny")
def test_an_interrupted_benchmark_goes_on(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.json"
    arguments = ("bench", "finetune", "--data-sets", str(data), *SMALL, "--out", str(out))
    plain, asked = Trial.__call__, list[str]()

    def counted(trial: Trial, method: str, settings: Any, progress: Any = None) -> dict[str, float]:
        asked.append(method)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return plain(trial, method, settings, progress)

    monkeypatch.setattr(Trial, "__call__", counted)
    run(*arguments, "--methods", "adapt", "features", code=130)
    assert len(json.loads(out.read_text())["runs"]) == 3
    first = json.loads(out.read_text())["runs"]
    run(*arguments, "--methods", "adapt", "features")
    assert len(asked) == 4 + 5  # of eight cells three were there
    facts = json.loads(out.read_text())
    assert all(entry in facts["runs"] for entry in first)
    assert len(facts["runs"]) == 8
    run(*arguments, "--methods", "features")
    assert len(asked) == 9  # nothing is left to measure,
    assert json.loads(out.read_text())["runs"] == facts["runs"]  # and what was measured is not lost
    # what was measured elsewhere, or otherwise, is no company
    for change, complaint in (({"machine": {"machine": "x"}}, "on another machine"), ({"settings": {}}, "with other settings")):
        out.write_text(json.dumps({**facts, **change}))
        assert complaint in run(*arguments, code=1)[1]
    for text in ("{", "[]", json.dumps({"benchmark": "adapt"})):
        out.write_text(text)
        assert "give another file" in run(*arguments, code=1)[1]
        assert out.read_text() == text


@pytest.mark.usefixtures("tiny")
def test_the_same_labels_are_not_learned_from_twice(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, asked = Trial.__call__, list[int]()

    def counted(trial: Trial, *arguments: Any) -> dict[str, float]:
        asked.append(trial.labels)
        return plain(trial, *arguments)

    monkeypatch.setattr(Trial, "__call__", counted)
    facts = bench.run(data, sets=["clinc150:label"], methods=["adapt"], shots=[5, 7, 0], seeds=2, device="cpu")
    assert asked == [20, 28, 20, 28]  # seven are all there are
    by_shots = {few: [entry for entry in facts["runs"] if entry["shots"] == few] for few in (5, 7, 0)}
    assert [len(entries) for entries in by_shots.values()] == [2, 2, 2]
    for seven, every in zip(by_shots[7], by_shots[0], strict=True):
        assert {**seven, "shots": 0} == every
    assert by_shots[5][0]["labels"] == 20


def test_seconds_that_are_left(data: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"adapt": 1.0, "features": 10.0}
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench, "open_encoder", lambda spec, device: open_encoder(f"hf:{model}", device=device))

    def cell(_trial: Trial, method: str, _settings: Any, progress: Any = None) -> dict[str, float]:
        now[0] += seconds[method]
        progress("fine-tuning", 1, 2)
        gains = {f"{part}_{what}": 0.0 for part in ("fed", "mixed", "unfed") for what in ("base", "gain", "worse_02")}
        return {"labels": 1.0, "seconds": seconds[method], **gains}

    monkeypatch.setattr(Trial, "__call__", cell)
    told: list[tuple[str, int, int]] = []
    bench.run(
        data, sets=["clinc150:label"], methods=["adapt", "features"], shots=[5], seeds=5, device="cpu",
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert told[-1][1:] == (55, 55)
    late = [said for said in told if "cell 7 of 10" in said[0]]
    assert late[0][1:] == (33, 55)  # three of five seeds are done: two times eleven seconds are left


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_new_last_layer_is_a_product(
    kind: str, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_image(tmp_path / "image", monkeypatch)
    encoder = ImageEncoder("tiny", weights, device="cpu") if kind == "image" else open_encoder(f"hf:{model}", device="cpu")
    base = Base(read(data, "emoji:label" if kind == "image" else "clinc150:label"), encoder, "cpu")
    seen: list[tuple[Any, Any]] = []
    plain = Trial._tuned

    def both(trial: Trial, folder: Path, config: Any) -> Any:
        by_product = plain(trial, folder, config)
        opened = open_encoder(str(folder), device="cpu")
        seen.append((by_product(trial._asked), opened.encode(base.contents(trial._asked))))
        return by_product

    monkeypatch.setattr(Trial, "_tuned", both)
    found = Trial(base, 5, seed=0)("features", {"steps": 10, "rate": 0.01, "holdout": 0.0})
    ((mine, theirs),) = seen
    np.testing.assert_allclose(mine, theirs, atol=1e-4)
    assert np.abs(mine - base.of(np.arange(len(mine)))).max() > 1e-3
    assert found["steps"] == 10


def test_a_row_is_encoded_once(data: Path, model: Path) -> None:
    encoder = open_encoder(f"hf:{model}", device="cpu")
    counted = Counted(encoder)
    base = Base(read(data, "clinc150:label"), counted, "cpu")
    for shots in (5, 0):
        for seed in range(2):
            Trial(base, shots, seed)("adapt", {})
    assert counted.count == base._there.sum()
    rows = np.array([3, 1, 3])
    np.testing.assert_allclose(base.of(rows), encoder.encode(base.contents(rows)), atol=1e-6)


class Counted:
    """An encoder that counts what it is given."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.dim, self.modality, self._encoder = encoder.name, encoder.dim, encoder.modality, encoder
        self.count = 0

    def encode(self, contents: Sequence[Content]) -> Vectors:
        self.count += len(contents)
        return self._encoder.encode(contents)


def test_what_is_asked_was_not_labelled(data: Path, model: Path) -> None:
    source = read(data, "clinc150:label")
    trial = Trial(Base(source, open_encoder(f"hf:{model}", device="cpu"), "cpu"), 5, seed=0)
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
