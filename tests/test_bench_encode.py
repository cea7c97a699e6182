"""The benchmark of encoding: what it counts, and a small real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vecmeta as vm
from tests.test_encoders_speed import pictures
from vecmeta import cli
from vecmeta.bench import encode


def written(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def data_sets(tmp_path: Path) -> Path:
    asked = {"cards": "my card was {}", "travel": "a flight to {}", "oos": "what is {}"}
    words = ["lost", "Rome", "declined", "Oslo", "stolen"]
    pairs = [(label, how.format(word)) for label, how in asked.items() for word in words]
    written(tmp_path / "clinc150" / "data.parquet", text=[text for _, text in pairs], label=[label for label, _ in pairs])
    written(tmp_path / "debian" / "data.parquet", long=["", None, "a package " * 30, "another one " * 9])
    for name in ("medquad", "product_reviews"):
        written(tmp_path / name / "data.parquet", text=[f"{name} {number} " * number for number in range(1, 5)])
    written(tmp_path / "caltech101" / "data.parquet", jpeg=pictures(3))
    retrieval = tmp_path / "ir_medline"
    written(retrieval / "corpus.parquet", id=["a", "b"], title=["", ""], text=["lenses of the eye", "a broken leg"])
    written(retrieval / "queries.parquet", id=["q"], text=["crystalline lens of eyes"])
    written(retrieval / "qrels.parquet", query_id=["q"], doc_id=["a"], grade=[1])
    return tmp_path


def test_texts_are_mixed_in_equal_parts(data_sets: Path) -> None:
    texts = encode.mixed(data_sets, 8)
    assert texts == encode.mixed(data_sets, 8)
    assert sum(text.startswith(("a package", "another one")) for text in texts) == 2
    assert sum(text.startswith("medquad") for text in texts) == 2
    assert len(set(texts)) == 8
    assert len(encode.mixed(data_sets, 7)) == 7


def test_figures_by_hand() -> None:
    vectors = {"plain": np.eye(2, dtype=np.float32), "ours": np.array([[1, 0], [0.6, 0.8]], np.float32)}
    found = encode.figures(vectors, {"plain": [(2, 0.1), (4, 0.1), (3, 0.1)], "ours": [(1, 0.05), (1, 0.1), (2, 0.05)]})
    assert found["plain"]["ratio"] == found["plain"]["single_ratio"] == 1
    assert found["plain"]["rate"] == pytest.approx(2 / 3)
    ours = found["ours"]
    assert (ours["rate"], ours["rates"], ours["ratio"]) == (2, [2, 2, 1], 2)  # ratios within a round: 2, 4, 1.5
    assert ours["single_ms"] == pytest.approx(50)
    assert ours["single_ratio"] == pytest.approx(2)
    assert ours["difference"] == pytest.approx(0.6)
    assert ours["cosine"] == pytest.approx(0.8)


def test_what_is_not_there(data_sets: Path, tmp_path: Path) -> None:
    with pytest.raises(vm.InvalidConfig, match="nothing to measure"):
        encode.run(data_sets, texts=0, pictures=0)
    with pytest.raises(vm.InvalidConfig, match=r"no data set 'clinc150': there is no file .*data\.parquet"):
        encode.run(tmp_path / "nowhere")
    written(data_sets / "debian" / "data.parquet", short=["a"])
    with pytest.raises(vm.InvalidConfig, match="has no column 'long'"):
        encode.run(data_sets)
    written(data_sets / "debian" / "data.parquet", long=["", " "])
    with pytest.raises(vm.InvalidConfig, match="is empty"):
        encode.run(data_sets)


def test_a_small_run(data_sets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["bench", "encode", "--data-sets", str(data_sets), "--texts", "8", "--pictures", "2", "--rounds", "1", "--json"]
    with pytest.raises(SystemExit) as left:
        cli.program(["--device", "cpu", *given])
    out, err = capfd.readouterr()
    if "int8 products of this processor are not exact" in err:
        pytest.skip(err)
    assert left.value.code == 0, err
    facts = json.loads(out)
    assert list(facts["texts"]) == ["sentence-transformers", "text", "text:int8"]
    assert list(facts["pictures"]) == ["torch", "image"]
    for kind in ("texts", "pictures"):
        for way in facts[kind].values():
            assert way["rate"] > 0
            assert way["single_ms"] > 0
            assert len(way["rates"]) == 1
    assert facts["texts"]["text"]["difference"] < 1e-5
    assert 1e-5 < facts["texts"]["text:int8"]["difference"] < 0.1
    assert facts["texts"]["text:int8"]["cosine"] > 0.98
    assert facts["pictures"]["image"]["difference"] < 1e-5
    for way in facts["texts"].values():
        assert 0 < way["map_at_r"] <= 1
        assert way["ndcg"] == 1  # the lens is nearer than the leg
    assert facts["texts"]["text"]["map_at_r_change"] == pytest.approx(0, abs=1e-9)
    assert facts["machine"]["machine"]


def test_the_table(data_sets: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"rate": 120.4, "ratio": 2.5, "single_ms": 4.21, "single_ratio": 1.9, "difference": 3e-7, "cosine": 1.0}
    quality = {"map_at_r": 0.57, "map_at_r_change": -0.0012, "ndcg": 0.79, "ndcg_change": 0.0}
    facts = {"settings": {"texts": 8, "pictures": 0, "rounds": 3}, "texts": {"text": figures | quality}}
    monkeypatch.setattr(encode, "run", lambda *_, **__: facts)
    with pytest.raises(SystemExit):
        cli.program(["bench", "encode", "--data-sets", str(data_sets)])
    out = capfd.readouterr().out
    for shown in ("8 texts, medians of 3 rounds", "120", "2.50", "4.2", "1.90", "3.0e-07", "0.5700 -0.0012", "0.7900 +0.0000"):
        assert shown in out
