"""From judgements to a live version: better on what was taught, measured, kept back when it is not, reversible, repeatable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.evaluate import average_precision
from vecmeta.meta.episodes import Episode, statistics
from vecmeta.meta.fitting import initial_start
from vecmeta.meta.methods import NAMES
from vecmeta.meta.sentinel import familiar
from vecmeta.meta.start import load_start


def quality(c: vm.Collection, data: Clusters, concepts: range, version: int | None = None) -> tuple[float, float]:
    """mAP over the collection of all items of these concepts, under the base and under a version (None: the live one)."""
    queries = np.flatnonzero(np.isin(data.label, concepts))
    relevant = data.label[queries][:, None] == data.label[None, :]
    base, live = (
        average_precision(v[queries], v, relevant, exclude=queries).mean()
        for v in (c.embed(data.x, version=0), c.embed(data.x, version=version))
    )
    return float(base), float(live)


def test_taught_concepts_rank_better_and_the_others_not_worse(taught: vm.Collection, clusters: Clusters) -> None:
    report = taught.adapt()
    assert report.decision == "promoted", report.reason
    assert report.version == taught.live == 1
    base, live = quality(taught, clusters, range(6))
    assert live > base + 0.1
    base, live = quality(taught, clusters, range(6, 20))
    assert live > base - 0.01
    # And searches are served by it: hits, scores and version agree with the embedded vectors.
    hits = taught.search(clusters.x[1], 10)
    assert hits.version == 1
    vectors = taught.embed(clusters.x)
    for hit in hits:
        assert hit.score == pytest.approx(float(vectors[1] @ vectors[clusters.ids.index(hit.id)]), abs=1e-5)


def test_the_report_says_what_was_measured(taught: vm.Collection) -> None:
    report = taught.adapt()
    m = report.metrics
    assert m["fed_tests"] == 30 * 4  # each of 30 held-out items is asked for by the four others of its concept
    assert m["unfed_tests"] == 30  # each asks for its concept's others when the whole concept is held out
    assert 1 <= m["fed_rank"] < m["fed_rank_base"]
    assert 0 < m["fed_gain_low"] <= m["fed_gain"] <= m["fed_gain_high"]
    assert m["fed_gain"] == pytest.approx(np.log2(m["fed_rank_base"] / m["fed_rank"]))
    assert 0 <= report.harmed <= 1
    assert report.changed
    assert all(set(change.entered).isdisjoint(change.left) for change in report.changed)
    assert set(report.seconds) == {"reading", "adapting", "evaluating", "building", "swapping", "total"}
    stored = taught.report(1)
    assert (stored.decision, stored.reason, stored.version) == (report.decision, report.reason, report.version)
    assert stored.metrics == report.metrics
    assert stored.changed == report.changed
    version = taught.versions()[1]
    assert (version.number, version.live, version.judgements, version.method) == (1, True, 30, "maml")


def test_a_dry_run_changes_nothing(taught: vm.Collection, clusters: Clusters) -> None:
    before = taught.search(clusters.x[0], 10)
    report = taught.adapt(dry_run=True)
    assert report.decision == "promoted"
    assert report.dry_run
    assert report.version is None
    assert taught.live == 0
    assert len(taught.versions()) == 1
    assert taught.search(clusters.x[0], 10) == before


def test_the_same_again_is_the_same_version(taught: vm.Collection, clusters: Clusters) -> None:
    first = taught.adapt()
    before = taught.embed(clusters.x)
    second = taught.adapt()
    assert (first.version, second.version) == (1, 1)
    assert len(taught.versions()) == 2
    assert first.metrics == second.metrics
    np.testing.assert_array_equal(before, taught.embed(clusters.x))


def test_the_same_judgements_in_another_database_give_the_same_head(
    taught: vm.Collection, clusters: Clusters, db: vm.Database
) -> None:
    taught.adapt()
    twin = db.create("twin", encoder="vectors", dim=clusters.dim)
    twin.add_vectors(clusters.ids, clusters.x)
    twin.feedback(clusters.judgements(range(6), 5))
    twin.adapt()
    np.testing.assert_array_equal(taught.embed(clusters.x), twin.embed(clusters.x))


def test_versions_start_from_the_meta_start_not_from_each_other(
    taught: vm.Collection, clusters: Clusters, db: vm.Database
) -> None:
    taught.adapt()
    taught.feedback(clusters.judgements(range(6, 9), 5))
    assert taught.adapt().version == 2
    twin = db.create("twin", encoder="vectors", dim=clusters.dim)
    twin.add_vectors(clusters.ids, clusters.x)
    twin.feedback(clusters.judgements(range(6), 5) + clusters.judgements(range(6, 9), 5))
    twin.adapt()
    np.testing.assert_array_equal(taught.embed(clusters.x), twin.embed(clusters.x))


def test_rollback_goes_back_step_by_step(taught: vm.Collection, clusters: Clusters) -> None:
    taught.adapt()
    taught.feedback(clusters.judgements(range(6, 9), 5))
    taught.adapt()
    assert taught.live == 2
    old = taught.embed(clusters.x[:5], version=1)
    assert taught.rollback() == 1
    assert taught.search(clusters.x[0]).version == 1
    np.testing.assert_array_equal(taught.embed(clusters.x[:5]), old)
    assert taught.rollback() == 0
    with pytest.raises(vm.VersionNotFound):
        taught.rollback()
    taught.activate(2)
    assert taught.live == 2
    assert taught.rollback() == 0
    assert [v.live for v in taught.versions()] == [True, False, False]


def test_any_version_can_be_searched(taught: vm.Collection, clusters: Clusters) -> None:
    base = taught.search(clusters.x[0], 10)
    taught.adapt()
    assert taught.search(clusters.x[0], 10, version=0) == base
    assert taught.search(clusters.x[0], 10, version=0).version == 0
    assert taught.search(clusters.x[0], 10, version=1) == taught.search(clusters.x[0], 10)


def test_wrong_labels_are_kept_back_and_can_still_be_activated(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("wrong", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(clusters.ids))[:40]
    c.feedback([vm.Judgement(clusters.ids[row], concept=f"random {n % 8}") for n, row in enumerate(rows)])
    report = c.adapt()
    assert report.decision == "kept"
    assert "held-out" in report.reason
    assert report.metrics["fed_gain_low"] <= 0
    assert report.version == 1
    assert c.live == 0
    assert c.versions()[1].decision == "kept"
    c.activate(1)
    assert c.search(clusters.x[0]).version == 1


def test_harm_to_what_was_not_taught_is_noticed(db: vm.Database) -> None:
    """Where teaching six concepts hurts the others, the candidate is kept back at full strength; and what goes live is gentle."""
    data = Clusters(style=1.6, concepts=30)
    c = db.create("harm", encoder="vectors", dim=data.dim)
    c.add_vectors(data.ids, data.x)
    c.feedback(data.judgements(range(6), 5))
    full = c.adapt(strength=1.0)
    assert full.decision == "kept"
    assert "not taught" in full.reason
    base, candidate = quality(c, data, range(6, 30), version=full.version)
    assert candidate < base - 0.01  # it was right
    if c.adapt().decision == "promoted":
        assert c.versions()[c.live].strength < 1
        base, live = quality(c, data, range(6, 30))
        assert live > base - 0.03


def test_too_few_judgements_are_insufficient(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("few", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    c.feedback([vm.Judgement("i00000", concept="x"), vm.Judgement("i00001", concept="x"), vm.Judgement("i00030", concept="y")])
    report = c.adapt()
    assert report.decision == "insufficient"
    assert "3 judgements" in report.reason
    assert report.version is None
    assert len(c.versions()) == 1


def test_judgements_that_are_taken_back_do_not_count(taught: vm.Collection, clusters: Clusters) -> None:
    taught.feedback([vm.Judgement(j.item, concept=j.concept, score=0.0) for j in clusters.judgements(range(6), 5)])
    assert taught.adapt().decision == "insufficient"


def test_one_concept_alone_can_be_taught(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("one", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    c.feedback(clusters.judgements([3], 8))
    report = c.adapt()
    assert report.decision == "promoted", report.reason
    assert report.metrics["unfed_tests"] == 0  # no concept can be held out
    base, live = quality(c, clusters, range(3, 4))
    assert live > base


def test_query_judgements_teach_too(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("queries", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    rng = np.random.default_rng(0)
    judgements = []
    for concept in range(14):
        members = np.flatnonzero(clusters.label == concept)
        asked = clusters.x[members[0]]
        for row in members[1:6]:
            judgements.append(vm.Judgement(clusters.ids[row], query=asked))
        for row in rng.choice(np.flatnonzero(clusters.label != concept), 3, replace=False):
            judgements.append(vm.Judgement(clusters.ids[row], query=asked, score=-1.0))
    c.feedback(judgements)
    report = c.adapt()
    assert report.metrics["fed_tests"] == 14  # whole queries are held out
    assert report.decision == "promoted", report.reason
    queries = np.flatnonzero(clusters.label >= 14)
    relevant = clusters.label[queries][:, None] == clusters.label[None, :]
    base, live = (
        average_precision(v[queries], v, relevant, exclude=queries).mean()
        for v in (c.embed(clusters.x, version=0), c.embed(clusters.x))
    )
    assert live > base  # other queries gain as well


def test_strength_is_a_dial(taught: vm.Collection, clusters: Clusters) -> None:
    """0.3 moves vectors less than 1.0 does, and the version remembers what it was given."""
    moved = []
    for strength in (0.3, 1.0):
        number = taught.adapt(strength=strength).version
        assert number is not None
        assert taught.versions()[number].strength == strength
        moved.append(float(np.linalg.norm(taught.embed(clusters.x, version=number) - clusters.x)))
    assert 0 < moved[0] < moved[1]


def test_items_added_later_are_found_under_the_live_version(taught: vm.Collection, clusters: Clusters) -> None:
    taught.adapt()
    taught.add_vectors(["late"], clusters.x[5:6])
    hits = taught.search(clusters.x[5], 2)
    assert {h.id for h in hits} == {"late", clusters.ids[5]}
    assert hits.version == 1
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_judgements_about_deleted_items_are_left_out(taught: vm.Collection, clusters: Clusters) -> None:
    gone = clusters.judgements([0], 5)
    taught.delete([j.item for j in gone])
    taught.adapt()
    assert taught.versions()[1].judgements == 25


def test_progress_names_the_stages_and_cancel_leaves_nothing(taught: vm.Collection) -> None:
    stages: list[str] = []
    taught.adapt(dry_run=True, progress=lambda stage, done, total: stages.append(stage))
    assert [s for n, s in enumerate(stages) if s not in stages[:n]] == ["reading", "adapting", "evaluating"]
    for stop_at in ("reading", "adapting", "evaluating", "building", "swapping"):

        def stop(stage: str, done: int, total: int, at: str = stop_at) -> None:
            if stage == at:
                raise vm.Cancelled(f"at {at}")

        with pytest.raises(vm.Cancelled):
            taught.adapt(progress=stop)
        assert taught.live == 0
        assert len(taught.versions()) == 1
    assert taught.adapt().version == 1


def test_versions_survive_a_restart_without_index_files(taught: vm.Collection, clusters: Clusters, db: vm.Database) -> None:
    taught.adapt()
    before = taught.search(clusters.x[0], 10)
    folder = db.folder
    db.close()
    shutil.rmtree(folder / "index")
    with vm.open(folder, device="cpu") as again:
        after = again.collection("clusters").search(clusters.x[0], 10)
    assert [hit.id for hit in after] == [hit.id for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-6)


def test_everything_judged_leaves_nothing_to_be_compared_with(db: vm.Database) -> None:
    """A tiny collection in which each item is judged still adapts or says why not."""
    data = Clusters(concepts=3, members=4, dim=8, seed=3)
    c = db.create("tiny", encoder="vectors", dim=8)
    c.add_vectors(data.ids, data.x)
    c.feedback([vm.Judgement(id, concept=str(label)) for id, label in zip(data.ids, data.label, strict=True)])
    assert c.adapt().decision in ("promoted", "kept")


# -- methods and starts


@pytest.mark.parametrize("method", NAMES)
def test_every_method_teaches(taught: vm.Collection, clusters: Clusters, method: str) -> None:
    report = taught.adapt(method=method, strength=1.0)
    assert report.decision in ("promoted", "kept")
    assert report.version == 1
    assert taught.versions()[1].method == method
    base, candidate = quality(taught, clusters, range(6), version=1)
    assert candidate > base
    assert taught.adapt(method=method, strength=1.0).version == 1  # the same again


def test_a_start_of_ones_own(taught: vm.Collection, clusters: Clusters, tmp_path: Path) -> None:
    start = load_start(method="protonet")
    start.save(tmp_path / "same.safetensors")
    changed = {name: value + 0.25 for name, value in start.tensors.items()}
    replace(start, tensors=changed).save(tmp_path / "mine.safetensors")
    shipped = taught.adapt("protonet")
    assert (
        taught.adapt("protonet", start=tmp_path / "same.safetensors").version == shipped.version
    )  # its hash counts, not its name
    mine = taught.adapt("protonet", start=str(tmp_path / "mine.safetensors"))
    assert mine.version == 2
    assert (taught.embed(clusters.x, version=1) != taught.embed(clusters.x, version=2)).any()


def test_bad_starts(taught: vm.Collection, tmp_path: Path) -> None:
    with pytest.raises(vm.InvalidConfig, match=r"none\.safetensors cannot be read"):
        taught.adapt(start=tmp_path / "none.safetensors")
    initial_start("ridge").save(tmp_path / "ridge.safetensors")
    with pytest.raises(vm.InvalidConfig, match="trained for 'ridge', not for 'maml'"):
        taught.adapt(start=tmp_path / "ridge.safetensors")
    with pytest.raises(vm.InvalidConfig, match="path of a file"):
        taught.adapt(start=7)  # type: ignore[arg-type]
    start = initial_start("ridge")
    replace(start, tensors={"c": start.tensors["c"]}).save(tmp_path / "part.safetensors")
    with pytest.raises(vm.InvalidConfig, match="does not hold the numbers"):
        taught.adapt("ridge", start=tmp_path / "part.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no start")
    with pytest.raises(vm.StorageDamaged):
        taught.adapt(start=tmp_path / "broken.safetensors")
    assert len(taught.versions()) == 1


def test_a_start_that_is_not_shipped_is_an_error_and_a_method_without_one_needs_none(
    taught: vm.Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecmeta.meta.start.STARTS", tmp_path)
    with pytest.raises(vm.InvalidConfig, match="cannot be read"):
        taught.adapt()
    assert taught.adapt("rocchio").version == 1


def test_judgements_unlike_what_the_start_was_trained_on_are_noted(
    taught: vm.Collection, clusters: Clusters, tmp_path: Path
) -> None:
    """A start that was trained on five judgements for each of six concepts of this collection, and then hears of one concept only."""
    stats = statistics(clusters.x, len(clusters.x))
    tasks = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        concepts = rng.permutation(20)[:6]
        rows = np.concatenate([rng.permutation(np.flatnonzero(clusters.label == c))[:5] for c in concepts])
        tasks.append((Episode(clusters.x[rows], (clusters.label[rows][:, None] == concepts).astype(np.float32)), stats))
    start = tmp_path / "start.safetensors"
    replace(load_start(), provenance={"familiar": familiar(tasks)}).save(start)
    report = taught.adapt(start=start)
    assert 0 < report.metrics["shift"] <= 1
    assert report.notes == ()
    strange = taught.feedback([vm.Judgement(id, concept="everything", score=-1.0) for id in clusters.ids[200:]])
    taught.feedback([vm.Judgement(id, concept="everything") for id in clusters.ids[:200:2]])
    assert strange.new == 200
    report = taught.adapt(start=start, strength=1.0)
    assert report.metrics["shift"] > 1
    (note,) = report.notes
    assert "unlike what the start was trained on" in note
    assert report.version is not None
    assert taught.report(report.version).notes == report.notes
    assert taught.adapt("linear", dry_run=True).metrics.keys().isdisjoint({"shift"})


def test_a_report_from_before_there_were_notes_can_be_read() -> None:
    report = vm.Report("kept", 3, "why", {"fed_gain": 1.0}, 0.5, (vm.Change("a", ("b",), ("c",)),), {"total": 1.0})
    stored = report.to_dict()
    assert vm.Report.from_dict(stored) == report
    del stored["notes"], stored["contradictions"]
    assert vm.Report.from_dict(stored) == report
    full = replace(report, notes=("n",), contradictions=("c", "d"))
    assert vm.Report.from_dict(full.to_dict()) == full


# -- pairs


def some_pairs(data: Clusters, concepts: range, alike: int, unlike: int, seed: int = 0) -> list[vm.Judgement]:
    """Pairs among the first members of these concepts: alike within a concept, unlike between two."""
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(data.label == concept))[:8] for concept in concepts]
    found: dict[tuple[str, str], vm.Judgement] = {}
    while len(found) < alike:
        a, b = (data.ids[row] for row in sorted(rng.choice(members[len(found) % len(members)], 2, replace=False)))
        found[a, b] = vm.similar(a, b)
    while len(found) < alike + unlike:
        first, second = rng.choice(len(members), 2, replace=False)
        a, b = sorted((data.ids[rng.choice(members[first])], data.ids[rng.choice(members[second])]))
        found[a, b] = vm.dissimilar(a, b)
    return list(found.values())


def test_pairs_alone_teach(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("pairs", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    c.feedback(some_pairs(clusters, range(6), 30, 15))
    report = c.adapt()
    assert report.metrics["fed_tests"] >= 15
    assert report.metrics["contradictions"] == 0
    assert report.version == 1
    assert c.versions()[1].judgements == 45
    base, candidate = quality(c, clusters, range(6), version=1)
    assert candidate > base + 0.05
    base, candidate = quality(c, clusters, range(6, 20), version=1)
    assert candidate > base - 0.1


def test_pairs_among_what_was_marked_for_concepts_do_no_harm(taught: vm.Collection, clusters: Clusters) -> None:
    alone = quality(taught, clusters, range(6), version=taught.adapt(strength=1.0).version)[1]
    marked = clusters.judgements(range(6), 5)
    pairs = [
        (vm.similar if a.concept == b.concept else vm.dissimilar)(a.item, b.item)
        for place, a in enumerate(marked)
        for b in marked[place + 1 :: 7]
    ]
    taught.feedback(pairs)
    report = taught.adapt(strength=1.0)
    assert report.decision == "promoted", report.reason
    assert report.metrics["fed_tests"] > 100  # the marked items can still be held out
    assert report.metrics["unfed_tests"] == 30
    assert report.metrics["contradictions"] == 0
    assert quality(taught, clusters, range(6), version=report.version)[1] > alone - 0.02


def test_a_pair_that_is_told_apart_is_moved_apart(taught: vm.Collection, clusters: Clusters) -> None:
    """An item near a concept that was told apart from one of its items belongs there less than it did."""
    x = taught.embed(clusters.x, version=taught.adapt(strength=1.0).version)
    marked = [clusters.ids.index(j.item) for j in clusters.judgements(range(6), 5) if j.concept == "concept 0"]
    outside = np.flatnonzero(clusters.label >= 6)
    near = outside[np.argsort(-(x[outside] @ x[marked].mean(0)))[:3]]
    taught.feedback([vm.dissimilar(clusters.ids[marked[0]], clusters.ids[row]) for row in near])
    z = taught.embed(clusters.x, version=taught.adapt(strength=1.0).version)
    assert (z[near] @ z[marked].mean(0)).mean() < (x[near] @ x[marked].mean(0)).mean()


def test_pairs_told_apart_alone_are_insufficient(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("apart", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    c.feedback(some_pairs(clusters, range(6), 0, 15))
    report = c.adapt()
    assert report.decision == "insufficient"
    assert "of 15 judgements 0 can be held out" in report.reason


# -- degrees, and many of them


def test_degrees_of_relevance_with_real_negatives_teach(db: vm.Database, clusters: Clusters) -> None:
    """Items of the query's concept are relevant, those of its domain half as much, near ones of other domains are not."""
    c = db.create("graded", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    rng = np.random.default_rng(0)
    judgements = []
    for concept in range(12):
        members = rng.permutation(np.flatnonzero(clusters.label == concept))
        domain = np.flatnonzero((clusters.label % 5 == concept % 5) & (clusters.label != concept))
        others = np.flatnonzero(clusters.label % 5 != concept % 5)
        near = others[np.argsort(-(clusters.x[others] @ clusters.x[members[0]]))[:20]]
        scores = [(members[1:6], 1.0), (rng.choice(domain, 2, replace=False), 0.5), (rng.choice(near, 4, replace=False), -1.0)]
        judgements += [
            vm.Judgement(clusters.ids[row], query=clusters.x[members[0]], score=score) for rows, score in scores for row in rows
        ]
    c.feedback(judgements)
    report = c.adapt()
    assert report.decision == "promoted", report.reason
    assert report.metrics["fed_tests"] >= 12
    assert c.versions()[1].judgements == 12 * 11
    base, live = quality(c, clusters, range(12))
    assert live > base


def test_thousands_of_judgements(db: vm.Database) -> None:
    data = Clusters(concepts=50, members=80)
    c = db.create("thousands", encoder="vectors", dim=data.dim)
    c.add_vectors(data.ids, data.x)
    c.feedback(data.judgements(range(50), 40))
    report = c.adapt(strength=1.0)
    assert report.decision == "promoted", report.reason
    assert c.versions()[1].judgements == 2000
    assert report.metrics["fed_tests"] == 50 * 5 * 12
    base, live = quality(c, data, range(50))
    assert live > base + 0.2
