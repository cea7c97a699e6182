"""Reading data sets, and meta-training from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecmeta.errors import Cancelled, InvalidConfig
from vecmeta.meta.start import MetaConfig, load_start
from vecmeta.meta.train import classes_of, meta_train_files, notions_from_file
from vecmeta.types import Vectors

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
    got = {label: rows.tolist() for label, rows in classes_of(["b", "", None, ["a", "b"], [], 3]).items()}
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
    with pytest.raises(InvalidConfig, match="encoder"):
        notions_from_file(parquet)
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


def test_meta_train_files(parquet: Path, tmp_path: Path) -> None:
    config = MetaConfig(inner_steps=2, outer_steps=4, batch=1, ways_most=3, validate_every=2)
    seen: list[tuple[str, int, int]] = []
    out = tmp_path / "start.safetensors"
    facts = meta_train_files(
        [parquet],
        [parquet],
        out,
        config,
        Letters(),
        tmp_path / "cache",
        lambda *now: seen.append(now),
        provenance={"command": "test"},
    )
    start = load_start(out)
    assert facts["hash"] == start.hash
    assert facts["gains"]["step"] == facts["best_step"] > 0
    assert start.provenance["command"] == "test"
    assert start.provenance["encoder"] == "letters"
    assert start.provenance["trained_on"] == ["fruit:label", "fruit:tags"]
    assert seen[-1] == ("meta-train", 4, 4)
    assert seen[0][1:] == (180, 180)
    json.dumps(facts)


def test_cancelling_writes_nothing(parquet: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "meta-train":
            raise Cancelled

    with pytest.raises(Cancelled):
        meta_train_files([parquet], [], tmp_path / "s.safetensors", MetaConfig(outer_steps=3, batch=1), Letters(), None, stop)
    assert not (tmp_path / "s.safetensors").exists()
