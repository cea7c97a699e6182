"""Reading data sets, whole meta-trainings and their checkpoints, and `vecmeta meta-train`."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vecmeta as vm
from tests import test_cli
from tests.conftest import Clusters
from vecmeta.cli import meta_train as cli
from vecmeta.cli import render
from vecmeta.encoders.image import NETWORKS
from vecmeta.errors import Cancelled, InvalidConfig, StorageDamaged
from vecmeta.meta.recipe import checkpoint_of, held_out, make_start
from vecmeta.meta.sets import classes_of, notions_from_file, notions_of, parse_spec, read_set, set_from_metadata
from vecmeta.meta.start import MetaConfig, load_start
from vecmeta.meta.tasks import Notion
from vecmeta.types import Progress, Vectors

run = test_cli.run  # the fixture
Run = test_cli.Run

WORDS = ("apple", "brick", "cloud", "drum", "eagle", "flute")


class Letters:
    """A toy encoder: the direction of the word that a text is about, and a little of its number."""

    name, dim = "letters", 8

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, contents: Sequence[Any]) -> Vectors:
        self.encoded += len(contents)
        x = np.zeros((len(contents), self.dim), np.float32)
        for i, content in enumerate(contents):
            word, number = content.split()
            x[i, WORDS.index(word)] = 1
            x[i, 6 + int(number) % 2] = 0.5
            x[i] += 0.1 * np.sin(np.arange(8) * (int(number) + 1))
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def records() -> list[dict[str, Any]]:
    return [
        {
            "text": f"{word} {n}",
            "label": word,
            "tags": [f"tag{n % 5}", word],
            "split": "train",
            "odd": bool(n % 2),
            "id": f"{word}{n}",
        }
        for word in WORDS
        for n in range(30)
    ]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(records()), tmp_path / "fruit.parquet")
    return tmp_path / "fruit.parquet"


def test_classes_of_labels_and_lists_of_labels() -> None:
    got = {label: rows.tolist() for label, rows in classes_of(["b", "", None, ["a", "b", "a"], [], 3]).items()}
    assert got == {"3": [5], "a": [3], "b": [0, 3]}


def test_parquet_and_jsonl_read_alike(parquet: Path, tmp_path: Path) -> None:
    lines = tmp_path / "fruit.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records()))
    for path in (parquet, lines):
        notions = notions_from_file(path, encoder=Letters())
        assert [n.name for n in notions] == ["fruit:label", "fruit:tags"]
        assert [len(n.classes) for n in notions] == [6, 11]
        assert notions[0].x.shape == (180, 8)
        assert len(notions_from_file(path, ["label"], "text", Letters())) == 1
    assert notions_from_file(parquet, ["label"], encoder=Letters(), limit=150)[0].x.shape == (150, 8)


def test_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "own.npz"
    labels = np.repeat(np.array(["a", "b", "c", "d", ""]), 20)
    np.savez(path, X=rng.normal(size=(100, 6)), kind=labels, other=np.arange(7))
    (notion,) = notions_from_file(path)
    assert (notion.name, len(notion.classes)) == ("own:kind", 4)
    np.testing.assert_allclose(np.linalg.norm(notion.x, axis=1), 1, atol=1e-6)


def test_encodings_are_kept(parquet: Path, tmp_path: Path) -> None:
    encoder = Letters()
    first = notions_from_file(parquet, encoder=encoder, cache_dir=tmp_path / "cache")
    assert encoder.encoded == 180
    second = notions_from_file(parquet, encoder=encoder, cache_dir=tmp_path / "cache")
    assert encoder.encoded == 180
    np.testing.assert_array_equal(first[0].x, second[0].x)
    encoder.name = "others"
    notions_from_file(parquet, encoder=encoder, cache_dir=tmp_path / "cache")
    assert encoder.encoded == 360
    for kept in (tmp_path / "cache").iterdir():
        kept.write_bytes(b"damaged")
    notions_from_file(parquet, encoder=encoder, cache_dir=tmp_path / "cache")
    assert encoder.encoded == 540


def test_bad_files_say_what_is_wrong(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no data set"):
        notions_from_file(tmp_path / "absent.parquet", encoder=Letters())
    with pytest.raises(InvalidConfig, match="no label column 'colour'"):
        notions_from_file(parquet, ["colour"], encoder=Letters())
    with pytest.raises(InvalidConfig, match="no content column"):
        notions_from_file(parquet, ["label"], "body", Letters())
    with pytest.raises(InvalidConfig, match="at least two"):
        notions_from_file(parquet, ["split"], encoder=Letters())
    with pytest.raises(InvalidConfig, match="limit"):
        notions_from_file(parquet, limit=0)
    bad = tmp_path / "bad.parquet"
    for content in (b"no parquet", b""):
        bad.write_bytes(content)
        with pytest.raises(InvalidConfig, match="readable"):
            notions_from_file(bad, encoder=Letters())
    pq.write_table(pa.table({"text": ["apple 1"] * 40, "id": [str(i) for i in range(40)]}), bad)
    with pytest.raises(InvalidConfig, match="no column of labels"):
        notions_from_file(bad, encoder=Letters())
    pq.write_table(pa.table({"text": ["", None, " "], "label": ["a", "b", "c"]}), bad)
    with pytest.raises(InvalidConfig, match="empty"):
        notions_from_file(bad, encoder=Letters())
    arrays = tmp_path / "bad.npz"
    np.savez(arrays, kind=np.array(["a"]))
    with pytest.raises(InvalidConfig, match="array X"):
        notions_from_file(arrays)
    arrays.write_bytes(b"PK no zip")
    with pytest.raises(InvalidConfig, match="npz"):
        notions_from_file(arrays)


def test_specs() -> None:
    assert parse_spec("a.parquet") == (Path("a.parquet"), None)
    assert parse_spec("/x:y/a.parquet") == (Path("/x:y/a.parquet"), None)
    assert parse_spec("../b/a.jsonl:label,tags") == (Path("../b/a.jsonl"), ["label", "tags"])
    for bad in ("", "a.npz:", "a.npz:x,", "b/:x"):
        with pytest.raises(InvalidConfig, match="no FILE"):
            parse_spec(bad)


def test_contents_choose_their_encoder(tmp_path: Path) -> None:
    asked = []

    def encoder_for(kind: str) -> Letters:
        asked.append(kind)
        return Letters()

    table = pa.Table.from_pylist(records())
    pq.write_table(table, tmp_path / "texts.parquet")
    pq.write_table(table.append_column("png", [[b"apple 1"] * 180]).drop_columns(["text"]), tmp_path / "pictures.parquet")
    assert read_set(tmp_path / "texts.parquet", encoder_for).x.shape == (180, 8)
    with pytest.raises(ValueError, match="not in tuple"):  # the toy reads texts alone
        read_set(tmp_path / "pictures.parquet", encoder_for)
    assert asked == ["text", "image"]


def test_metadata_that_are_labels() -> None:
    x = np.eye(60, dtype=np.float32)
    metadata = [
        {"topic": f"t{n % 4}", "year": 2020 + n % 6, "tags": [f"g{n % 4}"], "new": n % 2 == 0, "price": n / 7, "id": f"i{n}"}
        for n in range(60)
    ]
    metadata[3] = {"odd": {"a": 1}, "none": None}
    found = set_from_metadata("shop", x, metadata, collection="shop")
    assert list(found.labels) == ["id", "new", "tags", "topic", "year"]
    assert [n.name for n in notions_of(found)] == ["shop:tags", "shop:topic"]  # no year has twelve items
    assert [len(n.classes) for n in notions_of(found, ["new", "topic"])] == [2, 4]
    assert found.about["collection"] == "shop"
    with pytest.raises(InvalidConfig, match="no label column 'price'; its columns: id, new"):
        notions_of(found, ["price"])


# -- whole trainings

TINY = MetaConfig(inner_steps=2, tasks=12, outer_steps=6, batch=2, ways_most=3, shots_most=3, validate_every=2)


def toy_notions() -> list[Notion]:
    """Six, of two dimensions."""
    rng = np.random.default_rng(5)
    notions = []
    for dim in (6, 9):
        label = np.arange(120) % 6
        x = rng.normal(size=(6, dim))[label] + 0.7 * rng.normal(size=(120, dim))
        rows = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
        for modulus in (6, 3, 2):
            notions.append(Notion(f"{dim}:{modulus}", rows, [np.flatnonzero(label % modulus == c) for c in range(modulus)]))
    return notions


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start that was trained without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "start.safetensors"
    make_start(toy_notions(), out, TINY)
    return out


def stopping(step: int, error: type[BaseException]) -> Progress:
    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("meta-train") and done == step:
            raise error

    return stop


# before the first checkpoint, between two, right after one
@pytest.mark.parametrize(("step", "error"), [(1, Cancelled), (3, KeyboardInterrupt), (4, Cancelled)])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    whole: Path, tmp_path: Path, step: int, error: type[BaseException]
) -> None:
    out = tmp_path / "start.safetensors"
    with pytest.raises(error):
        make_start(toy_notions(), out, TINY, progress=stopping(step, error))
    assert not out.exists()
    assert checkpoint_of(out).exists() == (step > 2)
    seen: list[int] = []
    facts = make_start(toy_notions(), out, TINY, progress=lambda s, d, t: seen.append(d) if s.startswith("meta-train") else None)
    assert facts["resumed"] == (step > 2)
    assert seen[0] == (step // 2 * 2) + 1  # the steps before the checkpoint are not taken again
    assert out.read_bytes() == whole.read_bytes()
    assert not checkpoint_of(out).exists()


def test_a_killed_training_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    code = f"""
import os, signal
from pathlib import Path
from tests.test_meta_train import TINY, toy_notions
from vecmeta.meta.recipe import make_start

def kill(stage, done, total):
    if stage.startswith("meta-train") and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

make_start(toy_notions(), Path({str(out)!r}), TINY, progress=kill)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start.safetensors.checkpoint"]
    assert make_start(toy_notions(), out, TINY)["resumed"]
    assert out.read_bytes() == whole.read_bytes()


def test_checkpoints_of_other_trainings(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    with pytest.raises(Cancelled):
        make_start(toy_notions(), out, TINY, progress=stopping(3, Cancelled))
    kept = checkpoint_of(out).read_bytes()
    with pytest.raises(InvalidConfig, match="other data or with another config"):
        make_start(toy_notions(), out, replace(TINY, seed=1))
    with pytest.raises(InvalidConfig, match="other data or with another config"):
        make_start(toy_notions()[:5], out, TINY)
    assert checkpoint_of(out).read_bytes() == kept
    checkpoint_of(out).write_bytes(kept[:-4] + b"\0\0\0\0")
    with pytest.raises(StorageDamaged):
        make_start(toy_notions(), out, TINY)
    assert not make_start(toy_notions(), out, TINY, resume=False)["resumed"]
    assert out.read_bytes() == whole.read_bytes()


def test_notions_are_held_out_by_the_seed() -> None:
    notions = toy_notions()
    for count, out in ((1, 0), (2, 0), (3, 1), (5, 1), (6, 1)):
        train, validation, _ = held_out(notions[:count], 0)
        assert len(validation) == out
        assert sorted(n.name for n in train + validation) == sorted(n.name for n in notions[:count])
    many = notions * 3
    assert len(held_out(many, 0)[1]) == 4
    assert held_out(many, 0)[1] != held_out(many, 1)[1]
    assert held_out(many, 7) == held_out(many, 7)


def test_the_record(whole: Path) -> None:
    about = json.loads(whole.with_suffix(".json").read_bytes())
    start = load_start(whole)
    known = start.provenance
    assert about["hash"] == start.hash
    assert about["provenance"] == known
    assert len(known["validated_on"]) == 1
    assert len(known["trained_on"]) == 5
    assert known["validation_notions"] == "held out by seed 0"
    assert known["versions"].keys() == {"vecmeta", "torch", "numpy"}
    assert known["versions"]["numpy"] == np.__version__
    scores = about["scores"]
    assert scores["before"].keys() == scores["after"].keys() == {"fed", "mixed", "unfed"}
    assert {**scores["after"], "step": scores["best_step"]} in known["validation"]
    assert about["seconds"]["training"] > 0
    assert about["config"]["outer_steps"] == 6


def test_given_validation_and_none(tmp_path: Path) -> None:
    notions = toy_notions()
    given = make_start(notions[:2], tmp_path / "a.safetensors", TINY, validation=notions[2:3], method="protonet")
    assert given["provenance"]["validated_on"] == ["6:2"]
    assert given["provenance"]["validation_notions"] == "given"
    none = make_start(notions[:2], tmp_path / "b.safetensors", TINY, method="protonet")
    assert none["scores"] == {"best_step": 6, "before": None, "after": None}
    assert "too few" in none["provenance"]["validation_notions"]
    with pytest.raises(InvalidConfig, match="at least one notion"):
        make_start([], tmp_path / "c.safetensors")


# -- vecmeta meta-train


@pytest.fixture
def own(tmp_path: Path, run: Run, clusters: Clusters) -> str:
    """A collection "own" of 400 own vectors in the run's database; its labels are its metadata."""
    with vm.open(tmp_path / "data") as db:
        metadata = [
            {"topic": f"t{label}", "field": int(label % 5), "ways": [f"w{label % 4}"], "id": id, "half": 0.5}
            for id, label in zip(clusters.ids, clusters.label, strict=True)
        ]
        db.create("own", encoder="vectors", dim=clusters.dim).add_vectors(clusters.ids, clusters.x, metadata)
        db.create("empty", encoder="vectors", dim=4)
        db.create("bare", encoder="vectors", dim=clusters.dim).add_vectors(clusters.ids, clusters.x)
    return "own"


QUICK = ("--steps", "2", "--tasks", "8")


def test_from_a_collection(run: Run, own: str, tmp_path: Path) -> None:
    out = tmp_path / "made" / "own.safetensors"
    facts = run("meta-train", "--from-collection", own, "--out", str(out), *QUICK, "--json").json
    assert facts == {"out": "own.safetensors", **json.loads(out.with_suffix(".json").read_bytes())}
    (data,) = facts["provenance"]["data"]
    assert data["notions"] == {"own:field": 5, "own:topic": 20, "own:ways": 4}
    assert (data["collection"], data["items"], data["rows"], data["dim"]) == ("own", 400, 400, 48)
    assert data["encoder"] == "vectors@48"
    assert len(facts["provenance"]["trained_on"]) == 2
    assert load_start(out).hash == facts["hash"]
    facts = run(
        "meta-train", "--from-collection", own, "--column", "topic", "--out", str(out), *QUICK, "--limit", "300", "--json"
    ).json
    assert facts["provenance"]["trained_on"] == ["own:topic"]
    assert facts["provenance"]["data"][0]["rows"] == 300


def test_files_of_several_dimensions(run: Run, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecmeta.encoders.open_encoder", lambda spec, device: Words())
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", X=rng.normal(size=(100, 6)), kind=np.repeat(np.array(["a", "b", "c", "d", "e"]), 20))
    out = tmp_path / "start.safetensors"
    arguments = ("--sets", f"{parquet}:label,tags", str(tmp_path / "own.npz"), "--out", str(out), *QUICK, "--method", "ridge")
    text = run("meta-train", *arguments, "--cache", str(tmp_path / "cache")).out
    assert "a start for ridge" in text
    assert "held out by seed 0" in text
    about = out.with_suffix(".json").read_text()
    assert str(tmp_path) not in about
    known = json.loads(about)["provenance"]
    fruit, own = known["data"]
    assert fruit == {
        "name": "fruit",
        "file": "fruit.parquet",
        "sha256": hashlib.sha256(parquet.read_bytes()).hexdigest(),
        "encoder": "letters",
        "rows": 180,
        "dim": 8,
        "notions": {"fruit:label": 6, "fruit:tags": 11},
    }
    assert (own["file"], own["encoder"], own["dim"]) == ("own.npz", None, 6)
    facts = run("meta-train", *arguments, "--validate", str(parquet), "--json").json
    assert facts["provenance"]["validated_on"] == ["fruit:label", "fruit:tags"]
    assert len(facts["provenance"]["trained_on"]) == 3


class Words(Letters):
    """Letters, as `open_encoder` gives them."""

    modality = "text"


def test_encoders_by_kind() -> None:
    encoder_for = cli._encoders("text", "cpu")
    assert encoder_for("text").dim == 384
    assert encoder_for("image").dim == NETWORKS["efficientnet-lite0"].dim
    assert encoder_for("text") is encoder_for("text")
    assert cli._encoders("image", "cpu")("text").dim == 384


def test_without_labels(run: Run, own: str, tmp_path: Path, clusters: Clusters) -> None:
    np.savez(tmp_path / "plain.npz", X=clusters.x[:300])
    out = tmp_path / "start.safetensors"
    sources = ("--from-collection", "bare", "--sets", str(tmp_path / "plain.npz"))
    facts = run("meta-train", *sources, "--unsupervised", "--out", str(out), *QUICK, "--json").json
    known = facts["provenance"]
    assert known["unsupervised"] is True
    assert [len(data["notions"]) for data in known["data"]] == [8, 8]
    assert len(known["validated_on"]) == 3
    assert "no column of labels" in run("meta-train", *sources, "--out", str(out), *QUICK, code=1).err


def test_ctrl_c_and_the_same_command_again(run: Run, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (
        "meta-train",
        "--from-collection",
        own,
        "--column",
        "field",
        "--steps",
        "52",
        "--tasks",
        "6",
        "--method",
        "protonet",
    )
    whole, out = tmp_path / "whole.safetensors", tmp_path / "start.safetensors"
    run(*arguments, "--out", str(whole))

    @contextmanager
    def stopped() -> Any:
        yield stopping(51, KeyboardInterrupt)

    with monkeypatch.context() as patch:
        patch.setattr(render, "renewed_progress", stopped)
        result = run(*arguments, "--out", str(out), code=130)
    assert result.err == f"stopped; the same command goes on from {out}.checkpoint\n"
    kept = checkpoint_of(out).read_bytes()
    other = run(*arguments, "--out", str(out), "--seed", "1", code=1).err
    assert "belongs to a training on other data or with another config" in other
    assert other.count("\n") == 1
    assert run(*arguments, "--out", str(out), "--json").json["resumed"] is True
    assert out.read_bytes() == whole.read_bytes()
    checkpoint_of(out).write_bytes(kept)
    assert run(*arguments, "--out", str(out), "--no-resume", "--json").json["resumed"] is False
    assert out.read_bytes() == whole.read_bytes()


def test_a_stage_keeps_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with render.renewed_progress() as progress:
        for step in range(1, 4):
            progress(f"meta-train: loss {10 - step}.00, validation +0.05{step}", step, 3)
        progress("encode [a].npz", 1, 1)
    lines = [
        line for line in re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines() if line.strip()
    ]
    assert [line.split("  ")[0].strip()[:16] for line in lines[-2:]] == ["meta-train: loss", "encode [a].npz"]
    assert "loss 7.00, validation +0.053" in lines[-2]
    assert "3/3" in lines[-2]


Wrong = Callable[[Path], Sequence[str]]
WRONG: dict[str, Wrong] = {
    "unknown method 'mamba'": lambda p: ("--sets", f"{p}/own.npz", "--method", "mamba"),
    "the method 'linear' has no start": lambda p: ("--sets", f"{p}/own.npz", "--method", "linear"),
    "the method 'rocchio' has no start": lambda p: ("--sets", f"{p}/own.npz", "--method", "rocchio"),
    "no data set at": lambda p: ("--sets", f"{p}/absent.parquet"),
    "readable": lambda p: ("--sets", f"{p}/bad.parquet"),
    "no .npz file": lambda p: ("--sets", f"{p}/bad.npz"),
    "is no FILE, FILE:column": lambda p: ("--sets", f"{p}/own.npz:"),
    "no label column 'colour'": lambda p: ("--sets", f"{p}/own.npz:colour"),
    "no column of labels": lambda p: ("--sets", f"{p}/plain.npz"),
    "fall into no clusters": lambda p: ("--sets", f"{p}/plain.npz", "--unsupervised"),
    "metadata key 'colour'; keys: field, id, topic, ways": lambda p: ("--from-collection", "own", "--column", "colour"),
    "'absent'": lambda p: ("--from-collection", "absent"),
    "'empty' is empty": lambda p: ("--from-collection", "empty"),
    "'bare' has no column of labels": lambda p: ("--from-collection", "bare"),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_are_one_line(run: Run, own: str, tmp_path: Path, message: str) -> None:
    kind = np.repeat(np.array(["a", "b", "c", "d", "e"]), 20)
    np.savez(tmp_path / "own.npz", X=np.random.default_rng(0).normal(size=(100, 6)), kind=kind)
    np.savez(tmp_path / "plain.npz", X=np.eye(4))
    for name in ("bad.parquet", "bad.npz"):
        (tmp_path / name).write_bytes(b"PK neither")
    out = tmp_path / "start.safetensors"
    found = run("meta-train", *WRONG[message](tmp_path), "--out", str(out), *QUICK, code=1)
    assert message in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert not out.exists()


def test_where_nothing_can_be_written(run: Run, own: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for out, message in (("file/a.safetensors", "cannot be written"), ("folder", "no name"), ("a.json", "no name")):
        found = run("meta-train", "--from-collection", own, "--out", str(tmp_path / out), *QUICK, code=1)
        assert message in found.err
        assert found.err.count("\n") == 1
    (tmp_path / "start.safetensors.checkpoint").mkdir()
    found = run("meta-train", "--from-collection", own, "--out", str(tmp_path / "start.safetensors"), *QUICK, code=1)
    assert found.err.count("\n") == 1
    shutil.rmtree(tmp_path / "start.safetensors.checkpoint")


def test_wrong_usage(run: Run, own: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "start.safetensors"))
    assert "nothing to learn from" in run("meta-train", *out, code=2).err
    assert "--from-collection" in run("meta-train", *out, "--sets", "a.npz", "--column", "x", code=2).err
    assert "no labels" in run("meta-train", *out, "--from-collection", own, "--column", "x", "--unsupervised", code=2).err
    assert "--out" in run("meta-train", "--from-collection", own, code=2).err
