"""The benchmark of relevance feedback, on made-up data: what it counts, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

import vecmeta as vm
from tests.conftest import WordCounter
from vecmeta.bench import relevance, relevance_methods
from vecmeta.bench.relevance import Retrieval
from vecmeta.bench.relevance_methods import Judged
from vecmeta.types import Vectors


def unit(x: NDArray[Any]) -> Vectors:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def made_up(topics: int = 6, members: int = 25, dim: int = 20) -> Retrieval:
    """Documents around topics, two queries for each; one document of each topic does not count."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(topics, dim))
    label = np.repeat(np.arange(topics), members)
    asked = np.repeat(np.arange(topics), 2)
    x = unit(0.4 + centres[label] + 1.2 * rng.normal(size=(len(label), dim)))
    q = unit(0.4 + centres[asked] + 1.2 * rng.normal(size=(len(asked), dim)))
    gains = (asked[:, None] == label[None, :]) * rng.integers(1, 4, size=(len(asked), len(label))).astype(np.float64)
    out = np.zeros(gains.shape, dtype=bool)
    out[:, ::members] = gains[:, ::members] > 0
    gains[out] = 0
    return Retrieval(x, q, gains, out)


DATA = made_up()


def test_bending_counts_what_it_says() -> None:
    facts = relevance.bending(DATA)
    assert facts["queries"] == 12
    assert set(facts["methods"]) == {*relevance_methods.methods(DATA.x), "ours", "tuned Rocchio"}
    for figures in facts["methods"].values():
        assert 0 <= figures["ndcg"] <= 1
        assert 0 <= figures["map"] <= 1
        assert 0 <= figures["worse"] <= 1
    assert facts["methods"]["base"]["worse"] == 0
    ours, tuned = facts["methods"]["ours"], facts["methods"]["tuned Rocchio"]
    assert tuned["ndcg"] >= facts["methods"]["Rocchio"]["ndcg"]  # its grid holds the usual weights
    assert ours["ndcg"] > facts["methods"]["base"]["ndcg"]
    for metric in ("ndcg", "map"):
        gain = facts[f"{metric}_gain"]
        assert gain["mean"] == pytest.approx(ours[metric] - tuned[metric])
        assert gain["low"] <= gain["mean"] <= gain["high"]
        assert facts["negatives"][f"{metric}_gain"]["mean"] == pytest.approx(
            ours[metric] - facts["negatives"][f"{metric}_without"]
        )
    json.dumps(facts)


def test_judged_documents_and_those_that_do_not_count_are_out_of_the_ranking() -> None:
    tasks, gains = relevance._tasks(DATA)
    for row, (task, gain) in enumerate(zip(tasks, gains, strict=True)):
        assert not DATA.out[row, task.left].any()
        assert len(task.left) == len(DATA.x) - DATA.out[row].sum() - 10
        np.testing.assert_array_equal(gain, DATA.gains[row, task.left])
        for item, score in zip(task.items, task.scores, strict=True):
            place = int(np.argmax(DATA.x @ item))
            assert place not in task.left
            assert (DATA.gains[row, place] > 0) == (score > 0)


def test_quality_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        gains = rng.integers(0, 4, size=40).astype(np.float64)
        at_10, precision = relevance._quality(gains)
        falling = -np.arange(40.0)
        assert at_10 == pytest.approx(ndcg_score(gains[None], falling[None], k=10))
        assert precision == pytest.approx(average_precision_score(gains > 0, falling))


def judged(scores: list[float]) -> Judged:
    return Judged(DATA.q[0], DATA.x[: len(scores)], np.array(scores, np.float32), np.arange(len(scores), len(DATA.x)))


def test_what_others_do_by_hand() -> None:
    how, task = relevance_methods.methods(DATA.x), judged([1, 1, -1])
    q, (a, b, c) = DATA.q[0], DATA.x[:3]
    np.testing.assert_allclose(how["Rocchio"](task), q + 0.75 * (a + b) / 2 - 0.15 * c, atol=1e-6)
    np.testing.assert_allclose(how["positives only"](task), (a + b) / 2, atol=1e-6)
    np.testing.assert_allclose(how["Qdrant average_vector"](task), a + b - c, atol=1e-6)
    np.testing.assert_allclose(how["Qdrant average_vector + query"](task), 2 * (q + a + b) / 3 - c, atol=1e-6)
    scores = how["Qdrant best_score"](task)
    near, far = np.maximum(DATA.x @ a, DATA.x @ b), DATA.x @ c
    np.testing.assert_allclose(scores, np.where(near > far, near / (1 + abs(near)), -far / (1 + abs(far))), atol=1e-6)


@pytest.mark.parametrize("scores", [[1, 1], [-1, -1], [1, -1]])
def test_every_method_copes_with_likes_or_dislikes_alone(scores: list[float]) -> None:
    for method in relevance_methods.methods(DATA.x).values():
        answer = method(judged(scores))
        assert answer.shape in ((DATA.x.shape[1],), (len(DATA.x),))
        assert np.isfinite(answer).all()


def test_adapting_teaches_half_and_measures_the_other_half(db: vm.Database) -> None:
    facts = relevance.adapting(DATA, db, "half", 0)
    assert facts["tests"] == 6
    assert facts["judgements"] == 6 * 24
    assert facts["decision"] in ("promoted", "kept", "insufficient")
    if facts["decision"] == "promoted":
        assert facts["ndcg_after"] == facts["ndcg_candidate"]
    else:
        assert facts["ndcg_after"] == facts["ndcg_before"]
    assert facts["strength"] > 0
    json.dumps(facts)


# -- reading -----------------------------------------------------------------------------------------------------------------


def write(folder: Path, grades: list[int], texts: list[str] | None = None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    words = texts or ["red cat", "green cat", "blue dog", ""]
    ids = [f"d{n}" for n in range(len(words))]
    pq.write_table(pa.table({"id": ids, "title": ["", "a", None, ""][: len(ids)], "text": words}), folder / "corpus.parquet")
    pq.write_table(pa.table({"id": ["q", "unjudged"], "text": ["red", "car"]}), folder / "queries.parquet")
    pairs = {"query_id": ["q"] * len(grades), "doc_id": ids[: len(grades)], "grade": grades}
    pq.write_table(pa.table(pairs), folder / "qrels.parquet")


class Toys:
    """A database whose text encoder is the toy one."""

    def __init__(self, db: vm.Database) -> None:
        self.db = db

    def create(self, name: str, encoder: str) -> vm.Collection:
        assert encoder == "text"
        return self.db.create(name, encoder=WordCounter())


def test_reading_drops_the_empty_and_takes_out_what_does_not_count(tmp_path: Path, db: vm.Database) -> None:
    write(tmp_path / "made", [2, -1, 1, 1])
    data = relevance.read(tmp_path, "made", Toys(db))  # type: ignore[arg-type]
    assert data.x.shape == (3, 7)  # the empty text is no document
    assert data.q.shape == (1, 7)  # nobody judged the other
    np.testing.assert_array_equal(data.gains, [[2, 0, 1]])
    np.testing.assert_array_equal(data.out, [[False, True, False]])
    with pytest.raises(vm.InvalidConfig, match="no query with a relevant document after"):
        relevance.bending(data, "made")


def test_a_set_that_is_not_there(tmp_path: Path, db: vm.Database) -> None:
    with pytest.raises(vm.InvalidConfig, match=r"no retrieval set 'missing'.*corpus\.parquet"):
        relevance.read(tmp_path, "missing", db)
    (tmp_path / "half").mkdir()
    with pytest.raises(vm.InvalidConfig, match="no retrieval set 'half'"):
        relevance.run(tmp_path, sets=["half"])


def test_importing_it_brings_no_torch() -> None:
    code = "import sys, vecmeta.bench.relevance; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
