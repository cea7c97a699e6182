"""Items, search, judgements and versions of one collection, driven by the toy encoder."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters, WordCounter
from vecmeta.catalogue import judgements
from vecmeta.catalogue.judgements import AskedQuery, Word
from vecmeta.catalogue.versions import State
from vecmeta.serving import Serving


def ids(hits: list[vm.Hit]) -> list[str]:
    return [hit.id for hit in hits]


# -- items -------------------------------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(toys: vm.Collection) -> None:
    item = vm.Item("é/漢字 1", "red green", {"deep": {"list": [1, 2.5, None, True]}, "text": 'quo"te\\ü', "empty": []})
    assert toys.add([item]) == 1
    assert toys.get([item.id]) == [item]
    assert toys.count() == 7


def test_upsert_replaces_content_metadata_and_place_in_the_index(toys: vm.Collection) -> None:
    assert ids(toys.search("red car", 1)) == ["d"]
    toys.add([vm.Item("d", "green dog", {"new": True})])
    assert toys.count() == 6
    assert toys.get(["d"]) == [vm.Item("d", "green dog", {"new": True})]
    assert toys.search("green dog", 1)[0].id == "d"
    assert toys.search("red car", 1)[0].id != "d"


def test_unchanged_contents_are_not_encoded_again(db: vm.Database) -> None:
    encoder = WordCounter()
    c = db.create("c", encoder=encoder)
    c.add([vm.Item("a", "red"), vm.Item("b", "blue")])
    c.add([vm.Item("a", "red", {"new": "metadata"}), vm.Item("b", "blue car")])
    assert encoder.encoded == 3
    assert c.get(["a"])[0].metadata == {"new": "metadata"}
    assert c.search("blue car", 1)[0].id == "b"


def test_progress_counts_up_to_the_number_of_contents_and_may_cancel(toys: vm.Collection) -> None:
    seen: list[tuple[str, int, int]] = []
    toys.add([vm.Item(f"n{i}", "red dog") for i in range(1300)], progress=lambda *step: seen.append(step))
    assert seen == [("encoding", done, 1300) for done in (0, 256, 512, 768, 1024, 1280, 1300)]

    def stop(stage: str, done: int, total: int) -> None:
        if done:
            raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled):
        toys.add([vm.Item(f"m{i}", "red dog") for i in range(1300)], progress=stop)
    assert toys.count() == 6 + 1300


def test_delete_ignores_unknown_ids_and_the_index_forgets(toys: vm.Collection) -> None:
    assert toys.delete(["d", "nope"]) == 1
    assert toys.delete(["d"]) == 0
    assert "d" not in ids(toys.search("red car", 10))
    assert len(toys.search("red car", 10)) == 5
    with pytest.raises(vm.ItemNotFound, match="'d'"):
        toys.get(["a", "d"])


def test_a_deleted_id_can_return(toys: vm.Collection) -> None:
    toys.delete(["a"])
    toys.add([vm.Item("a", "blue car")])
    assert set(ids(toys.search("blue car", 2))) == {"a", "e"}


def test_items_are_paged_by_id(toys: vm.Collection) -> None:
    first = toys.items(limit=4)
    rest = toys.items(after=first[-1].id, limit=4)
    assert [i.id for i in first + rest] == ["a", "b", "c", "d", "e", "f"]
    assert toys.items(after="f") == []
    assert [i.id for i in toys.items(where={"words": "dog"})] == ["c", "f"]


def test_a_sample_is_drawn_at_random_and_the_same_again(db: vm.Database) -> None:
    c = db.create("many", encoder="vectors", dim=2)
    c.add_vectors([f"i{n:03d}" for n in range(700)], np.ones((700, 2)), [{"n": n} for n in range(700)])
    db.create("others", encoder="vectors", dim=2).add_vectors(["x"], np.ones((1, 2)))
    drawn = c.sample(600)  # more than one page of keys
    assert [item.id for item in drawn] == sorted({item.id for item in drawn})
    assert len(drawn) == 600
    assert drawn == c.sample(600)
    assert drawn != c.sample(600, seed=1)
    assert 250 < np.mean([item.metadata["n"] for item in c.sample(100)]) < 450
    assert len(c.sample(10_000)) == 700
    for count, seed in ((0, 0), (True, 0), (1.0, 0), (1, -1)):
        with pytest.raises(vm.InvalidConfig, match="whole number"):
            c.sample(count, seed)  # type: ignore[arg-type]


def test_a_sample_leaves_contents_out_where_they_are_not_wanted(toys: vm.Collection) -> None:
    first = toys.sample(9)[0]
    assert (first.id, first.content, first.metadata["n"]) == ("a", "red cat", 0)
    assert {item.content for item in toys.sample(9, contents=False)} == {None}


def test_empty_batches_are_nothing(toys: vm.Collection) -> None:
    assert toys.add([]) == 0
    assert toys.delete([]) == 0
    assert toys.get([]) == []
    assert toys.feedback([]) == vm.Understood(0, 0, 0)
    assert toys.search_many([]) == []
    assert toys.embed([]).shape == (0, 7)


# -- search ------------------------------------------------------------------------------------------------------------------


def test_hits_are_sorted_by_cosine_and_carry_the_item(toys: vm.Collection) -> None:
    hits = toys.search("red cat", 3)
    assert ids(hits)[0] == "a"
    assert hits[0].score == pytest.approx(1.0, abs=1e-6)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert hits[0].content == "red cat"
    assert hits[0].metadata == {"words": ["red", "cat"], "n": 0}
    assert hits.version == 0
    # 'green cat' shares one word of two with 'red cat': cosine (1 + .01) / (2 + .01)
    assert {round(h.score, 5) for h in hits[1:]} == {round(1.01 / 2.01, 5)}


def test_k_larger_than_the_collection(toys: vm.Collection) -> None:
    assert len(toys.search("red", 100)) == 6


def test_an_empty_collection_has_no_hits(db: vm.Database) -> None:
    assert db.create("empty", encoder=WordCounter()).search("red") == []


def test_filter_gives_the_best_matching_items(toys: vm.Collection) -> None:
    assert ids(toys.search("red cat", 2, where={"words": "dog"})) in (["c", "f"], ["f", "c"])
    assert toys.search("red cat", 2, where={"n": {"$gt": 99}}) == []


def test_search_by_id_is_more_like_this_without_this(toys: vm.Collection) -> None:
    hits = toys.search(vm.Id("a"), 2)
    assert set(ids(hits)) == {"b", "d"}
    with pytest.raises(vm.ItemNotFound, match="'zz'"):
        toys.search(vm.Id("zz"))


def test_search_by_vector(toys: vm.Collection) -> None:
    vector = np.zeros(7)
    vector[[2, 4]] = 5.0  # any length, any float type
    assert ids(toys.search(vector, 1)) == ["c"]


def test_search_many_equals_search(toys: vm.Collection) -> None:
    queries = ["red cat", vm.Id("b"), np.eye(7)[0], "blue"]
    together, apart = toys.search_many(queries, 6), [toys.search(q, 6) for q in queries]
    for a, b in zip(together, apart, strict=True):  # equal scores may stand in any order
        assert sorted(a, key=lambda h: h.id) == sorted(b, key=lambda h: h.id)


def test_raw_hits_are_hits_whose_metadata_is_json(toys: vm.Collection) -> None:
    queries: list[vm.types.Query] = ["red cat", vm.Id("b"), "blue"]
    where = {"colour": {"$ne": "green"}}
    raw, parsed = toys.search_raw(queries, 4, where=where), toys.search_many(queries, 4, where=where)
    assert [[(id, score, json.loads(about), text) for id, score, about, text in hits] for hits in raw] == [
        [tuple(hit) for hit in hits] for hits in parsed
    ]
    assert {hits.version for hits in raw} == {toys.live}
    assert toys.search_raw([]) == []
    assert toys.search_raw(["red"], where={"colour": "none"}) == [[]]


def test_feedback_on_a_query_bends_it_and_stores_nothing(toys: vm.Collection) -> None:
    plain = toys.search("red", 6)
    bent = toys.search("red", 6, feedback=[("e", 1.0), ("a", -1.0)])
    assert ids(bent).index("e") < ids(plain).index("e")
    assert toys.judgements() == []
    # Rocchio's formula by hand: q + .75 e - .15 a
    q, e, a = toys.embed(["red", "blue car", "red cat"])
    by_hand = q + 0.75 * e - 0.15 * a
    by_hand /= np.linalg.norm(by_hand)
    scores = {h.id: h.score for h in bent}
    assert scores["d"] == pytest.approx(float(by_hand @ toys.embed(["red car"])[0]), abs=1e-5)


def test_recommend_leaves_out_what_was_named(toys: vm.Collection) -> None:
    hits = toys.recommend(like=["a"], unlike=["d"], k=3)
    assert ids(hits)[0] == "b"
    assert not {"a", "d"} & set(ids(hits))
    assert ids(toys.recommend(like=["a", "c"], k=9, where={"words": "green"})) == ["b", "f"]
    with pytest.raises(vm.InvalidConfig, match="liked"):
        toys.recommend(like=[])


def test_embed_takes_contents_ids_and_vectors(toys: vm.Collection) -> None:
    by_content = toys.embed(["red cat", "blue dog"])
    np.testing.assert_allclose(toys.embed([vm.Id("a"), vm.Id("c")]), by_content, atol=1e-6)
    np.testing.assert_allclose(toys.embed(3 * by_content), by_content, atol=1e-6)


def test_embed_is_the_encoder_under_the_base(toys: vm.Collection) -> None:
    np.testing.assert_allclose(toys.embed(["red cat"], version=0), WordCounter().encode(["red cat"]), atol=1e-6)


# -- judgements --------------------------------------------------------------------------------------------------------------


def test_feedback_reads_of_the_log_what_it_is_about(db: vm.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    own = db.create("own", encoder="vectors", dim=3)
    names = [f"i{n}" for n in range(1300)]  # more than one statement asks for
    own.add_vectors(names, np.random.default_rng(0).normal(size=(1300, 3)))
    queries = [np.eye(3)[n % 3] + n for n in range(1300)]
    batch = [vm.Judgement(name, concept="x") for name in names]
    batch += [vm.Judgement(name, query=query, user="u") for name, query in zip(names, queries, strict=True)]
    assert own.feedback(batch) == vm.Understood(2600, 0, 0)
    read: list[Word] = []

    def noted(*row: Any) -> Word:
        read.append(Word(*row))
        return read[-1]

    monkeypatch.setattr(judgements, "Word", noted)
    few = [vm.Judgement("i7", concept="x"), vm.Judgement("i8", query=queries[8], score=-1.0)]
    assert own.feedback(few) == vm.Understood(0, 1, 1)
    assert sorted(word.item for word in read) == ["i7", "i7", "i8", "i8"]
    assert own.feedback(batch) == vm.Understood(0, 2599, 1)  # what was said of i8 is taken back
    with own._log._engine.reading() as connection:
        if connection.dialect.name == "sqlite":
            query = "SELECT seq, item FROM judgements WHERE collection = 1 AND item IN ('a', 'b')"
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert any("judgements_by_item" in row[-1] for row in plan)


def test_feedback_counts_new_repeated_and_contradicting(toys: vm.Collection) -> None:
    like = vm.Judgement(item="a", concept="pets", user="ann")
    assert toys.feedback([like, vm.Judgement(item="b", query="my pet")]) == vm.Understood(2, 0, 0)
    assert toys.feedback([like]) == vm.Understood(0, 1, 0)
    assert toys.feedback([vm.Judgement(item="a", concept="pets", score=-1.0)]) == vm.Understood(0, 0, 1)
    log = toys.judgements()
    assert [(j.item, j.concept, j.query, j.score, j.user) for j in log] == [
        ("a", "pets", None, 1.0, "ann"),
        ("b", None, "my pet", 1.0, None),
        ("a", "pets", None, -1.0, None),
    ]


def test_the_log_comes_in_pages(toys: vm.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.feedback([vm.Judgement(item, concept="x") for item in "abcd"])
    toys.feedback([vm.Judgement("a", query=f"query {n}") for n in range(6)])
    log = toys.judgements()
    assert toys.judgement_count() == len(log) == 10
    assert [j.query for j in log[4:]] == [f"query {n}" for n in range(6)]
    for offset, limit in ((0, 3), (3, 4), (8, 5), (10, 1), (2**40, 1), (0, 10), (0, 2**40)):
        assert toys.judgements(offset, limit) == log[offset : offset + limit]
    assert toys.judgements(7) == log[7:]
    made: list[judgements.AskedQuery] = []

    def noted(*row: object) -> judgements.AskedQuery:
        made.append(AskedQuery(*row))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(judgements, "AskedQuery", noted)
    assert toys.judgements(5, 2) == log[5:7]
    assert [query.text for query in made] == ["query 1", "query 2"]  # and no other
    for wrong in (-1, 1.0, True, "1", None, 2**63):
        with pytest.raises(vm.InvalidConfig, match="offset is a whole number"):
            toys.judgements(wrong)  # type: ignore[arg-type]
    for wrong in (0, -1, 1.0, True, "1", 2**63):
        with pytest.raises(vm.InvalidConfig, match="limit is a whole number"):
            toys.judgements(0, wrong)  # type: ignore[arg-type]


def test_every_kind_of_query_survives_the_log(toys: vm.Collection) -> None:
    vector = np.eye(7, dtype=np.float32)[1]
    toys.feedback([vm.Judgement("a", query="red"), vm.Judgement("a", query=vm.Id("b")), vm.Judgement("a", query=vector)])
    text, item, own = (j.query for j in toys.judgements())
    assert (text, item) == ("red", vm.Id("b"))
    np.testing.assert_array_equal(np.asarray(own), vector)


def test_a_batch_of_judgements_is_all_or_nothing(toys: vm.Collection) -> None:
    with pytest.raises(vm.ItemNotFound, match="'zz'"):
        toys.feedback([vm.Judgement("a", concept="x"), vm.Judgement("zz", concept="x")])
    assert toys.judgements() == []


# -- databases ---------------------------------------------------------------------------------------------------------------


def test_a_database_outlives_its_process(tmp_path: Path, clusters: Clusters) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x)
        before = c.search(clusters.x[7], 5)
    with vm.open(tmp_path, device="cpu") as db:
        assert db.collections() == ["c"]
        assert db.collection("c").search(clusters.x[7], 5) == before


def test_drop_takes_everything_and_the_name_is_free_again(db: vm.Database, toys: vm.Collection) -> None:
    toys.close()
    assert list((db.folder / "index").iterdir())
    db.drop("toys")
    assert db.collections() == []
    assert not list((db.folder / "index").iterdir())
    with pytest.raises(vm.CollectionNotFound, match="dropped"):
        toys.search("red")
    assert db.create("toys", encoder=WordCounter()).count() == 0


def test_create_twice_is_an_error(db: vm.Database, toys: vm.Collection) -> None:
    with pytest.raises(vm.AlreadyExists, match="toys"):
        db.create("toys", encoder=WordCounter())


def test_exact_and_faiss_give_the_same_hits(tmp_path: Path, clusters: Clusters) -> None:
    found = []
    for kind in ("exact", "faiss"):
        with vm.open(tmp_path / kind, index=kind, device="cpu") as db:
            c = db.create("c", encoder="vectors", dim=clusters.dim)
            c.add_vectors(clusters.ids, clusters.x)
            found.append([ids(h) for h in c.search_many(list(clusters.x[:20]), 10)])
    assert found[0] == found[1]


SECOND = """
import sys, numpy as np, vecmeta as vm
with vm.open(sys.argv[1], device="cpu") as db:
    c = db.collection("c")
    c.delete(["i00000"])
    c.add_vectors(["new"], np.eye(c.dim)[:1])
    c.feedback([vm.Judgement("new", concept="x")])
    print(c.search(np.eye(c.dim)[0], 1)[0].id, c.live, flush=True)
    sys.stdin.readline()
    c.warm()  # without it the first search may still be answered by the version before
    print(c.live, c.search(np.eye(c.dim)[0], 1).version, flush=True)
"""


def test_a_second_process_reads_and_writes_and_follows_the_live_version(tmp_path: Path, clusters: Clusters) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x)
        c.feedback(clusters.judgements(range(6), 5))
        assert c.search(clusters.x[0], 1)[0].id == "i00000"
        command = [sys.executable, "-c", SECOND, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline().split() == ["new", "0"]
            # What the other process wrote and deleted is seen here at once.
            assert c.search(np.eye(c.dim)[0], 1)[0].id == "new"
            assert c.search(clusters.x[0], 1)[0].id != "i00000"
            assert len(c.judgements()) == 31
            report = c.adapt()
            assert report.decision == "promoted", report.reason
            # And the other process follows the swap made here.
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline().split() == ["1", "1"]
            assert other.wait(30) == 0


def test_a_judgement_taken_back_can_be_given_again(toys: vm.Collection) -> None:
    toys.feedback([vm.Judgement("a", concept="pets")])
    assert toys.feedback([vm.Judgement("a", concept="pets", score=0.0)]) == vm.Understood(0, 0, 1)
    assert toys.feedback([vm.Judgement("a", concept="pets")]) == vm.Understood(1, 0, 0)
    times = [j.time for j in toys.judgements()]
    assert all(times)
    assert times == sorted(times)  # type: ignore[type-var]


def test_a_version_that_is_built_keeps_nobody_else_waiting(
    taught: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread builds the index of a version, another one's search under the live version goes on."""
    number = taught.adapt().version
    taught.close()
    taught.search(clusters.x[0])
    servings = taught._servings
    started, release = threading.Event(), threading.Event()
    opened = servings._opened

    def slowly(version: int, state: State) -> Serving:
        started.set()
        assert release.wait(20)
        return opened(version, state)

    monkeypatch.setattr(servings, "_opened", slowly)
    other = threading.Thread(target=lambda: taught.search(clusters.x[0], version=0))
    other.start()
    assert started.wait(20)
    assert taught.search(clusters.x[0]).version == number
    assert other.is_alive()
    release.set()
    other.join(20)
    assert not other.is_alive()


def test_two_threads_that_open_a_collection_get_the_same(db: vm.Database, taught: vm.Collection) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: db.collection("clusters"), range(32)))
    assert all(c is taught for c in opened)
