"""Fine-tuning in a collection: exam, re-encoding, swap, rollback across encoders, what is kept back, jobs."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import inspect

import vecmeta as vm
from tests.conftest import WordCounter
from tests.tinymodels import NOISE, TOPICS, pictures, tiny_text, topic_texts
from vecmeta.catalogue.migrations import MIGRATIONS, migrate
from vecmeta.catalogue.sqlite import SqliteEngine
from vecmeta.evaluate import Gate
from vecmeta.finetune import labelled
from vecmeta.folds import exam
from vecmeta.judged import resolve
from vecmeta.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {"rate": 1e-2, "steps": 40, "pairs": 12, "measurements": 4}
EACH = 25  # items of a topic


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text(tmp_path_factory.mktemp("finetuning") / "model")


def filled(db: vm.Database, model: Path) -> vm.Collection:
    collection = db.create("docs", encoder=f"hf:{model}")
    texts, labels = topic_texts(EACH)
    collection.add([vm.Item(f"i{n}", x, {"topic": y, "n": n}) for n, (x, y) in enumerate(zip(texts, labels, strict=True))])
    return collection


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose collection was fine-tuned by its metadata field, to be copied."""
    place = tmp_path_factory.mktemp("finetuned") / "db"
    with vm.open(place, device="cpu") as db:
        report = filled(db, model).finetune("features", field="topic", config=QUICK)
    assert report.decision == "promoted", report.reason
    return place


@pytest.fixture
def tuned(folder: Path, tmp_path: Path) -> Iterator[vm.Collection]:
    shutil.copytree(folder, tmp_path / "db")
    with vm.open(tmp_path / "db", device="cpu") as db:
        yield db.collection("docs")


@pytest.fixture
def plain(db: vm.Database, model: Path) -> vm.Collection:
    return filled(db, model)


def ids(hits: vm.Hits) -> list[str]:
    return [hit.id for hit in hits]


def right(collection: vm.Collection, version: int | None = None) -> float:
    """The share of the ten nearest of items that share their topic."""
    found = collection.search_many([vm.Id(f"i{n}") for n in range(0, EACH * 8, 5)], 10, version=version)
    topics = [[hit.metadata["topic"] for hit in hits] for hits in found]
    return float(np.mean([np.mean([t == list(TOPICS)[n * 5 // EACH] for t in row]) for n, row in enumerate(topics)]))


# ---- into the collection


def test_the_collection_is_encoded_anew_and_served(tuned: vm.Collection) -> None:
    before, after = tuned.versions()
    assert tuned.live == 1
    assert before.encoder == tuned.encoder_name
    assert after.encoder.startswith("tiny-ft@")
    assert after.encoder != before.encoder
    assert right(tuned) > right(tuned, version=0) + 0.05
    text = "bread soup"
    assert np.abs(tuned.embed([text]) - tuned.embed([text], version=0)).max() > 0.01


def test_the_report_says_what_it_brought(tuned: vm.Collection) -> None:
    report = tuned.report(1)
    assert report.metrics["fed_gain_encoder"] > 0
    assert report.metrics["unfed_gain_encoder"] == report.metrics["unfed_gain"]  # classes were held out whole
    assert report.metrics["map_tuned"] > report.metrics["map_base"]
    assert set(report.seconds) == {"reading", "adapting", "evaluating", "building", "swapping", "total"}
    assert report.indexing == "built"


def test_rollback_across_encoders(tuned: vm.Collection) -> None:
    texts = ["bread soup", "the rain storm"]
    hits = {version: [ids(found) for found in tuned.search_many(texts, 8, version=version)] for version in (0, 1)}
    assert hits[0] != hits[1]
    assert tuned.rollback() == 0
    assert [ids(found) for found in tuned.search_many(texts, 8)] == hits[0]
    tuned.activate(1)
    assert [ids(found) for found in tuned.search_many(texts, 8)] == hits[1]
    assert tuned.search(texts[0]).version == 1


def test_vectors_of_the_first_encoder_are_kept(tuned: vm.Collection, model: Path) -> None:
    from vecmeta.encoders import open_encoder

    texts, _ = topic_texts(EACH)
    expected = open_encoder(f"hf:{model}", device="cpu").encode(texts[:5])
    np.testing.assert_allclose(tuned.embed([vm.Id(f"i{n}") for n in range(5)], version=0), expected, atol=1e-5)


def test_what_is_written_after_the_swap_is_found_under_both(tuned: vm.Collection) -> None:
    tuned.add([vm.Item("new", "bread soup", {"topic": "food"})])
    for version in (None, 0, 1):
        assert ids(tuned.search("bread soup", 1, version=version)) == ["new"]
    np.testing.assert_allclose(tuned.embed([vm.Id("new")]), tuned.embed(["bread soup"]), atol=1e-5)
    tuned.add([vm.Item("new", "guitar piano", {"topic": "music"})])  # encoded again, under both
    for version in (None, 0):
        assert ids(tuned.search("guitar piano", 1, version=version)) == ["new"]
        np.testing.assert_allclose(
            tuned.embed([vm.Id("new")], version=version), tuned.embed(["guitar piano"], version=version), atol=1e-5
        )
    tuned.delete(["new"])
    for version in (None, 0):
        assert "new" not in ids(tuned.search("guitar piano", 20, version=version))


def test_index_files_of_a_fine_tuned_version_can_be_lost(tuned: vm.Collection, tmp_path: Path) -> None:
    expected = ids(tuned.search("bread soup", 8))
    tuned.close()
    shutil.rmtree(tmp_path / "db" / "index")
    assert ids(tuned.search("bread soup", 8)) == expected


def test_a_milvus_holds_each_version_under_its_encoder(tuned: vm.Collection, tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed (pip install 'vecmeta[milvus]')")

    def scores(collection: vm.Collection, version: int) -> list[list[float]]:
        found = collection.search_many(["bread soup", "the rain storm"], 8, version=version)
        return [[hit.score for hit in hits] for hits in found]

    expected = {version: scores(tuned, version) for version in (0, 1)}
    assert np.abs(np.subtract(expected[0], expected[1])).max() > 0.01
    tuned.close()
    with vm.open(tmp_path / "db", index="milvus-lite", device="cpu") as db:
        c = db.collection("docs")
        for number in (1, 0):
            np.testing.assert_allclose(scores(c, number), expected[number], atol=1e-4)
        c.add([vm.Item("new", "bread soup", {"topic": "food"})])
        for version in (None, 0, 1):
            assert ids(c.search("bread soup", 1, version=version)) == ["new"]
        c.delete(["new"])
        np.testing.assert_allclose(scores(c, 1), expected[1], atol=1e-4)


def test_adapting_on_top_of_a_fine_tuned_encoder(tuned: vm.Collection) -> None:
    tuned.feedback([vm.Judgement(f"i{n}", concept=str(n // EACH)) for n in range(EACH * 4) if n % EACH < 6])
    tuned.feedback([vm.Judgement("i3", query="bread soup"), vm.Judgement("i30", query="bread soup", score=-1.0)])
    tuned.adapt(activate=False)
    version = tuned.versions()[-1]
    assert version.number == 2
    assert version.encoder == tuned.versions()[1].encoder
    tuned.activate(2)
    assert ids(tuned.search(vm.Id("i0"), 3))
    assert tuned.rollback() == 1


def test_queries_that_were_encoded_before_the_swap(tuned: vm.Collection) -> None:
    asked = tuned.encoded(["bread soup", "rain storm"])
    expected = [ids(found) for found in tuned.search_many(["bread soup", "rain storm"], 8)]
    assert [ids(found) for found in tuned.search_many(asked, 8)] == expected
    tuned.activate(0)
    expected = [ids(found) for found in tuned.search_many(["bread soup", "rain storm"], 8)]
    assert [ids(found) for found in tuned.search_many(asked, 8)] == expected


def test_a_missing_folder_leaves_the_other_versions(tuned: vm.Collection, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "db" / "encoders")
    with pytest.raises(vm.EncoderUnavailable, match="restore that folder, or activate a version of another"):
        tuned.search("bread soup")
    assert ids(tuned.search("bread soup", version=0))
    tuned.activate(0)
    assert ids(tuned.search("bread soup"))


def test_dropping_takes_the_encoders_along(tuned: vm.Collection, tmp_path: Path) -> None:
    assert list((tmp_path / "db" / "encoders").glob("*/*/vecmeta.json"))
    with vm.open(tmp_path / "db", device="cpu") as db:
        db.drop("docs")
    assert not list((tmp_path / "db" / "encoders").glob("*/*"))


def test_searches_go_on_under_the_live_version(plain: vm.Collection) -> None:
    seen: list[int] = []

    def search(stage: str, done: int, total: int) -> None:
        if threading.current_thread() is threading.main_thread():
            seen.append(plain.search("bread soup").version)

    plain.search("bread soup")
    report = plain.finetune("features", field="topic", config=QUICK, progress=search)
    assert report.decision == "promoted"
    assert set(seen) == {0}
    assert plain.search("bread soup").version == 1
    again = plain.finetune("features", field="topic", config=QUICK)  # the same function of the same inputs
    assert again.version == 1


# ---- judgements


def judge_topics(collection: vm.Collection, *, shots: int, wrong: bool = False) -> None:
    labels = [n // EACH for n in range(EACH * 8)]
    rows = [n for n in range(EACH * 8) if n % EACH < shots]
    said = [labels[n] for n in rows]
    if wrong:
        said = np.random.default_rng(0).permutation(said).tolist()
    collection.feedback([vm.Judgement(f"i{n}", concept=f"topic {label}") for n, label in zip(rows, said, strict=True)])


def test_wrong_labels_are_kept_back(plain: vm.Collection) -> None:
    judge_topics(plain, shots=10, wrong=True)
    report = plain.finetune("full", config={**QUICK, "rate": 3e-3, "holdout": 0.0, "steps": 30})
    assert report.decision == "kept"
    assert plain.live == 0
    assert "nearer" not in report.reason
    assert report.metrics["fed_gain"] < 0.3
    kept = plain.versions()[1]
    assert kept.decision == "kept"
    plain.activate(1)  # whoever wants it all the same
    assert plain.search("bread soup").version == 1
    assert right(plain) < right(plain, version=0) + 0.05


def test_an_encoder_that_harms_what_it_was_not_taught_is_kept_back(db: vm.Database, model: Path) -> None:
    """Taught to go by the style alone, it forgets the topics; the one concept that is a topic was held out from it."""
    rng = np.random.default_rng(0)
    styles = [NOISE[n : n + 3] for n in range(0, 15, 3)]
    texts, concepts = list[str](), list[str]()
    for n in range(30 * (len(styles) + 1)):
        taught = n // 30
        food = taught == len(styles)
        topic = "food" if food else str(rng.choice(list(TOPICS)))
        style = styles[int(rng.integers(len(styles))) if food else taught]
        texts.append(" ".join([*rng.choice(TOPICS[topic].split(), 2), *rng.choice(style, 2)]))
        concepts.append("food" if food else f"style {taught}")
    docs = db.create("styles", encoder=f"hf:{model}")
    docs.add([vm.Item(f"i{n}", text) for n, text in enumerate(texts)])
    docs.feedback([vm.Judgement(f"i{n}", concept=concept) for n, concept in enumerate(concepts) if n % 30 < 15])
    told = resolve(docs._items, docs._log)

    def held_out(seed: int) -> set[str]:
        learned = (exam(told, seed)[0].y > 0).sum(0)
        return {name for name, count in zip(told.columns, learned.tolist(), strict=True) if not count}

    seed = next(seed for seed in range(100) if held_out(seed) == {"food"})
    report = docs.finetune("full", config={**QUICK, "rate": 3e-3, "steps": 60}, seed=seed)
    assert report.metrics["fed_gain_encoder"] > 0.5
    assert report.metrics["unfed_gain_encoder"] < -Gate().max_unfed_loss
    assert report.decision == "kept"
    assert docs.live == 0
    assert "what was not taught would be found worse" in report.reason


def test_judgements_are_learned_from_and_each_part_is_told(plain: vm.Collection) -> None:
    judge_topics(plain, shots=10)
    report = plain.finetune("full", config={**QUICK, "rate": 3e-3}, dry_run=True)
    for name in ("fed_gain", "fed_gain_adapt", "fed_gain_encoder", "unfed_gain", "unfed_gain_adapt", "unfed_gain_encoder"):
        assert name in report.metrics
    assert report.metrics["fed_gain_encoder"] > 0.3
    assert "a head on the untouched encoder" in report.notes[-1]
    assert report.cost["rows"] == EACH * 8
    assert report.dry_run
    assert len(plain.versions()) == 1  # stored nothing
    assert plain.live == 0


def test_judgements_teach_an_encoder_that_goes_live(plain: vm.Collection) -> None:
    judge_topics(plain, shots=14)
    report = plain.finetune("full", config={**QUICK, "rate": 3e-3, "steps": 60})
    assert report.decision == "promoted", report.reason
    assert report.version == plain.live == 1
    assert report.metrics["fed_gain"] > report.metrics["fed_gain_adapt"]  # or adapting would have done
    before, after = plain.versions()
    assert before.encoder == plain.encoder_name
    assert after.encoder.startswith("tiny-ft@")
    assert after.judgements == 14 * 8
    assert right(plain) > right(plain, version=0) + 0.05
    texts = ["bread soup", "the rain storm"]
    hits = {version: [ids(found) for found in plain.search_many(texts, 8, version=version)] for version in (0, 1)}
    assert hits[0] != hits[1]
    assert [ids(found) for found in plain.search_many(texts, 8)] == hits[1]
    assert plain.rollback() == 0  # across encoders, and forth again
    assert [ids(found) for found in plain.search_many(texts, 8)] == hits[0]
    plain.activate(1)
    assert [ids(found) for found in plain.search_many(texts, 8)] == hits[1]
    plain.add([vm.Item("new", "bread soup", {"topic": "food"})])
    for version in (None, 0, 1):
        assert ids(plain.search("bread soup", 1, version=version)) == ["new"]
    plain.delete(["new"])
    for version in (None, 0):
        assert "new" not in ids(plain.search("bread soup", 20, version=version))
    # judged on, adapted on top of the encoder that is live, and rolled back to it
    plain.feedback([vm.Judgement(f"i{n}", concept=f"topic {n // EACH}") for n in range(EACH * 8) if n % EACH == 20])
    plain.adapt(activate=False)
    assert plain.versions()[2].encoder == after.encoder
    plain.activate(2)
    assert plain.rollback() == 1
    assert [ids(found) for found in plain.search_many(texts, 8)] == hits[1]


# ---- source examples of elsewhere


FEW: dict[str, Any] = {"rate": 3e-3, "steps": 40, "pairs": 12, "measurements": 4, "holdout": 0.0, "unfreeze": 0.0}


def few_labelled(db: vm.Database, model: Path) -> vm.Collection:
    """Of 25 items of each topic four are labelled."""
    collection = db.create("few", encoder=f"hf:{model}")
    texts, labels = topic_texts(EACH)
    rows = enumerate(zip(texts, labels, strict=True))
    collection.add([vm.Item(f"i{n}", x, {"topic": y, **({"kind": y} if n % EACH < 4 else {})}) for n, (x, y) in rows])
    return collection


def more_of_them(db: vm.Database, model: Path) -> vm.Collection:
    """Other texts of the same topics, labelled in metadata and judged."""
    collection = db.create("more", encoder=f"hf:{model}")
    texts, labels = topic_texts(12, seed=7)
    collection.add([vm.Item(f"m{n}", x, {"about": y}) for n, (x, y) in enumerate(zip(texts, labels, strict=True))])
    collection.feedback([vm.Judgement(f"m{n}", concept=y) for n, y in enumerate(labels)])
    return collection


def test_source_examples_of_another_collection_help(db: vm.Database, model: Path, tmp_path: Path) -> None:
    few, more = few_labelled(db, model), more_of_them(db, model)
    alone = few.finetune("full", field="kind", config=FEW)
    assert alone.version == 1
    for number, source in enumerate(("more:about", "more"), start=2):
        helped = few.finetune("full", transfer="instances", field="kind", source=source, config=FEW)
        assert helped.version == number
        assert right(few, version=number) > right(few, version=1) + 0.05
    # the record says what was learned from
    facts = [json.loads(path.read_text()) for path in (tmp_path / "db" / "encoders").glob("*/*/vecmeta.json")]
    sources = [entry["data"]["source"] for entry in facts]
    assert sorted((s["collection"], s.get("field") or "", s["examples"]) for s in sources if s) == [
        ("more", "", more.count()), ("more", "about", more.count()),
    ]  # fmt: skip
    # and a job takes the name as well
    job = db.jobs.submit("few", "finetune", {"transfer": ["instances"], "field": "kind", "source": "more:about", "config": FEW})
    Worker(db).run(threading.Event(), once=True)
    done = db.jobs.get(job.id)
    assert done.report is not None, done.error
    assert done.report.version == 2  # the same function of the same inputs


def test_source_examples_of_files(db: vm.Database, model: Path, tmp_path: Path) -> None:
    from vecmeta.finetune import read_examples

    few = few_labelled(db, model)
    texts, labels = topic_texts(6, seed=7)
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "more.jsonl").write_text("\n".join(rows))
    source = read_examples([tmp_path / "more.jsonl"], "text")
    config = {**FEW, "steps": 4}
    few.finetune("features", transfer=["instances", "relations"], field="kind", source=source, config=config)
    few.finetune("features", transfer=["representation"], field="kind", source=source, config=config)
    facts = [json.loads(path.read_text()) for path in (tmp_path / "db" / "encoders").glob("*/*/vecmeta.json")]
    assert [entry["data"]["source"]["examples"] for entry in facts] == [48, 48]
    with pytest.raises(vm.InvalidConfig, match="source example 0 is a bytes"):
        few.finetune("features", transfer="instances", field="kind", source=labelled(*pictures(2)), config=config)


def test_what_the_exam_asks_for_is_not_learned_from_a_source(db: vm.Database, model: Path, tmp_path: Path) -> None:
    few = few_labelled(db, model)
    same = db.create("same", encoder=f"hf:{model}")
    same.add([vm.Item(item.id, item.content, {"about": item.metadata["topic"]}) for item in few.items(limit=1000)])
    few.finetune("features", transfer="instances", field="kind", source="same:about", config={**FEW, "steps": 4}, dry_run=True)
    (facts,) = [json.loads(path.read_text()) for path in (tmp_path / "db" / "encoders").glob("*/*/vecmeta.json")]
    source, data = facts["data"]["source"], facts["data"]
    taught = resolve(few._items, few._log)
    assert not taught.columns
    assert source["examples"] == few.count()  # their contents are there, for how the two are alike
    labelled_here = 4 * 8
    learned = labelled_here - source["held_out"]
    assert 0 < learned < labelled_here
    assert data["classes_held_out"] >= 1
    assert source["held_out"] >= 4  # a class as a whole, and items of the others


def test_sources_that_are_none(db: vm.Database, model: Path, taught: vm.Collection) -> None:
    few = few_labelled(db, model)
    db.create("bare", encoder=f"hf:{model}").add([vm.Item("a", "bread soup")])
    for wish, kind, complaint in (
        ({"source": "nowhere"}, vm.CollectionNotFound, "nowhere"),
        ({"source": "clusters:label"}, vm.InvalidConfig, "the source 'clusters' holds vectors"),
        ({"source": "few:topic"}, vm.InvalidConfig, "is this collection itself"),
        ({"source": "bare"}, vm.InvalidConfig, "'bare' has no judgements to learn from; give source='bare:FIELD'"),
        ({"source": "bare:colour"}, vm.InvalidConfig, "no item has a metadata field 'colour'"),
        ({"source": "few:"}, vm.InvalidConfig, "names no metadata field"),
        ({"source": 3}, vm.InvalidConfig, "source is 'NAME' of a collection"),
        ({"source": "few:topic", "transfer": "relations"}, vm.InvalidConfig, "source examples are for"),
    ):
        params: dict[str, Any] = {"transfer": "instances", "field": "kind", "config": FEW, **wish}
        with pytest.raises(kind, match=complaint):
            few.finetune("features", **params)
        assert len(few.versions()) == 1
    with pytest.raises(vm.CollectionNotFound, match="nowhere"):
        db.jobs.submit("few", "finetune", {"transfer": ["instances"], "source": "nowhere"})
    assert not db.jobs.list()


def test_queries_and_pairs_are_learned_from(plain: vm.Collection) -> None:
    for topic, words in enumerate(TOPICS.values()):
        query = " ".join(words.split()[:2])
        first = topic * EACH
        plain.feedback([vm.Judgement(f"i{first + n}", query=query) for n in range(6)])
        plain.feedback([vm.Judgement(f"i{(first + EACH) % (EACH * 8)}", query=query, score=-1.0)])
    plain.feedback([vm.similar("i10", "i11"), vm.dissimilar("i10", "i40")])
    report = plain.finetune("features", config={**QUICK, "steps": 10}, dry_run=True)
    assert report.decision in ("promoted", "kept")
    assert report.metrics["fed_tests"] >= 1


def test_an_exam_holds_out_items_and_concepts(plain: vm.Collection) -> None:
    judge_topics(plain, shots=10)
    taught = resolve(plain._items, plain._log)
    fed, unfed = exam(taught, seed=0)
    assert (fed.y == unfed.y).all()
    learned = (fed.y > 0).sum(0)
    assert sorted(learned)[0] == 0  # one of eight concepts whole
    assert set(sorted(learned)[1:]) == {8}
    used = (fed.y != 0).any(1)
    assert not (fed.relevant & used[None, :]).any()
    assert not (unfed.relevant & used[None, :]).any()
    assert used[fed.asked].all()
    assert not used[unfed.asked].any()


def test_too_few_judgements(plain: vm.Collection) -> None:
    plain.feedback([vm.Judgement("i0", concept="a"), vm.Judgement("i1", concept="a")])
    report = plain.finetune("features")
    assert report.decision == "insufficient"
    assert len(plain.versions()) == 1


# ---- interruptions and jobs


def test_what_was_stopped_leaves_nothing_and_goes_on(plain: vm.Collection) -> None:
    def stop_at(stage: str, at: int) -> Any:
        def stop(now: str, done: int, total: int) -> None:
            if now == stage and done >= at:
                raise vm.Cancelled("enough")

        return stop

    for stage, at in (("adapting", 25), ("evaluating", 0), ("building", 0)):
        with pytest.raises(vm.Cancelled):
            plain.finetune("features", field="topic", config=QUICK, progress=stop_at(stage, at))
        assert len(plain.versions()) == 1
        assert plain.live == 0
    steps: list[int] = []
    report = plain.finetune(
        "features", field="topic", config=QUICK, progress=lambda stage, done, total: steps.append(done) if total == 40 else None
    )
    assert report.decision == "promoted"
    assert not steps  # trained already: only what came after the stop was done again


def test_a_job_fine_tunes(plain: vm.Collection, db: vm.Database) -> None:
    job = db.jobs.submit("docs", "finetune", {"mode": "features", "field": "topic", "config": QUICK})
    assert db.jobs.submit("docs", "finetune", {"mode": "features", "field": "topic", "config": QUICK}).id == job.id
    states: list[str] = []
    Worker(db).run(threading.Event(), once=True, told=lambda done: states.append(done.state))
    assert states == ["live"]
    done = db.jobs.get(job.id)
    assert done.report is not None
    assert done.report.version == plain.live == 1
    assert done.kind == "finetune"


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"mode": "some"}, "none of features, lora, full"),
        ({"transfer": ["instances"]}, "needs source examples"),
        ({"transfer": ["love"]}, "none of representation"),
        ({"config": {"speed": 3}}, "no setting 'speed'"),
        ({"config": {"seed": 3}}, "no setting 'seed'"),
        ({"config": {"steps": 0}}, "steps is a whole number"),
        ({"config": 3}, "config is an object"),
        ({"field": ""}, "field is the name"),
        ({"method": "magic"}, "magic"),
        ({"seed": -1}, "a seed is a whole number"),
        ({"config": {"precision": "fp8"}}, "precision is one of auto, fp32, bf16"),
        ({"transfer": ["instances"], "source": ""}, "source is 'NAME' of a collection"),
        ({"source": "docs:topic"}, "source examples are for"),
    ],
)
def test_bad_wishes(params: dict[str, Any], complaint: str, plain: vm.Collection, db: vm.Database) -> None:
    with pytest.raises(vm.InvalidConfig, match=complaint):
        plain.finetune(**params)
    with pytest.raises(vm.InvalidConfig, match=complaint):
        db.jobs.submit("docs", "finetune", params)
    assert not db.jobs.list()


def test_params_of_the_other_kind(plain: vm.Collection, db: vm.Database) -> None:
    with pytest.raises(vm.InvalidConfig, match="an adaptation has no setting 'mode'"):
        db.jobs.submit("docs", "adapt", {"mode": "full"})
    with pytest.raises(vm.InvalidConfig, match="a fine-tuning has no setting 'strength'"):
        db.jobs.submit("docs", "finetune", {"strength": 0.5})
    with pytest.raises(vm.InvalidConfig, match="known: adapt, finetune"):
        db.jobs.submit("docs", "train")


def test_fields_that_teach_nothing(plain: vm.Collection) -> None:
    with pytest.raises(vm.InvalidConfig, match="no item has a metadata field 'colour'; fields: n, topic"):
        plain.finetune("features", field="colour")
    with pytest.raises(vm.InvalidConfig, match="none of the 200 classes has two items"):
        plain.finetune("features", field="n")
    plain.add([vm.Item("one", "bread", {"kind": "a"}), vm.Item("two", "soup", {"kind": "a"})])
    with pytest.raises(vm.InvalidConfig, match="all 2 labelled items are of one class, 'a'"):
        plain.finetune("features", field="kind")


def test_collections_without_contents(db: vm.Database, taught: vm.Collection) -> None:
    with pytest.raises(vm.InvalidConfig, match="holds own vectors"):
        taught.finetune("features")
    toys = db.create("toys", encoder=WordCounter())
    toys.add([vm.Item(str(n), "red cat", {"kind": str(n % 2)}) for n in range(12)])
    with pytest.raises(vm.InvalidConfig, match="no weights that could be fine-tuned"):
        toys.finetune("features", field="kind")


def test_a_database_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    engine = SqliteEngine(tmp_path / "db" / "vecmeta.db")
    assert migrate(engine, MIGRATIONS[:2]) == 2
    with engine.writing("schema") as connection:
        connection.exec_driver_sql("DROP INDEX judgements_by_item")  # which tables had not then
    engine.close()
    with vm.open(tmp_path / "db", device="cpu") as db:
        own = db.create("own", encoder="vectors", dim=2)
        own.add_vectors(["a"], np.eye(2)[:1])
        assert own.versions()[0].encoder == "vectors@2"
        with own._log._engine.reading() as connection:
            assert "judgements_by_item" in {index["name"] for index in inspect(connection).get_indexes("judgements")}
