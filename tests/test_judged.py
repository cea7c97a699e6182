"""What was judged: pairs, what of them is learned, and where judgements contradict each other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.judged import Taught, lesson

DATA = Clusters(concepts=4, members=6, dim=16)


def said(cells: dict[str, dict[int, float]], concepts: int) -> Taught:
    """Item rows 0, 1, …; a column named "a" … is a concept, one named "3" is what was said of item 3 and others."""
    rows = 1 + max(row for column in cells.values() for row in column)
    y = np.zeros((rows, len(cells)), np.float32)
    for place, column in enumerate(cells.values()):
        for row, score in column.items():
            y[row, place] = score
    names = tuple(cells)
    asked = np.array([-1 if place < concepts else int(name) for place, name in enumerate(names)])
    return Taught(DATA.x[:rows], y, tuple(DATA.ids[:rows]), np.ones(rows, bool), names, asked)


# -- pairs


def test_a_pair_is_a_judgement_whichever_item_is_named_first() -> None:
    assert vm.similar("a", "b") == vm.Judgement("b", query=vm.Id("a")) == vm.similar("b", "a")
    assert vm.similar("a", "b", 0.5, user="me") == vm.Judgement("b", query=vm.Id("a"), score=0.5, user="me")
    assert vm.dissimilar("b", "a") == vm.Judgement("b", query=vm.Id("a"), score=-1.0)
    assert vm.dissimilar("a", "b", -0.5).score == -0.5
    assert vm.similar("a", "b", 0).score == 0


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (vm.similar, ("a", "a"), "two different items"),
        (vm.similar, ("a", 7), "ids, texts"),
        (vm.similar, ("a", "b", -1.0), r"use dissimilar\(\)"),
        (vm.dissimilar, ("a", "b", 1.0), r"use similar\(\)"),
        (vm.similar, ("a", "b", 2.0), "from -1 to 1"),
        (vm.dissimilar, ("a", "b", "no"), "from -1 to 1"),
    ],
)
def test_a_bad_pair(make: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(vm.InvalidJudgement, match=message):
        make(*arguments)


def test_the_latest_word_on_a_pair_counts(toys: vm.Collection) -> None:
    assert toys.feedback([vm.similar("a", "b")]) == vm.Understood(1, 0, 0)
    assert toys.feedback([vm.similar("b", "a")]) == vm.Understood(0, 1, 0)
    assert toys.feedback([vm.dissimilar("b", "a")]) == vm.Understood(0, 0, 1)
    assert toys.contradictions() == []  # one user changed their mind


def test_two_items_that_are_told_apart_are_negatives_of_each_others_concepts() -> None:
    episode = lesson(taught := said({"a": {0: 1, 1: 1}, "b": {2: 1, 3: 0.5}, "0": {0: 1, 2: -1}}, 2), taught.y)
    np.testing.assert_array_equal(episode.y, [[1, -1], [1, 0], [-1, 1], [0, 0.5]])


def test_a_pair_told_apart_of_which_one_belongs_to_a_pair() -> None:
    episode = lesson(taught := said({"0": {0: 1, 1: 1}, "2": {2: 1, 0: -1}}, 0), taught.y)
    np.testing.assert_array_equal(episode.y, [[1], [1], [-1]])


def test_pairs_that_hang_together_become_a_concept() -> None:
    taught = said({"0": {0: 1, 1: 1, 2: 0.5}, "2": {2: 1, 3: 1}, "4": {4: 1, 5: 1, 3: -1}}, 0)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, [[1, 0], [1, 0], [1, 0], [1, -1], [-1, 1], [0, 1]])


def test_items_that_are_somewhat_alike_belong_somewhat() -> None:
    taught = said({"0": {0: 1, 1: 0.5}, "1": {1: 1, 2: 0.25}}, 0)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, [[0.5], [0.5], [0.25]])


def test_pairs_that_hang_together_stay_pairs_when_two_of_the_items_are_told_apart() -> None:
    taught = said({"0": {0: 1, 1: 1, 2: -1}, "1": {1: 1, 2: 1}}, 0)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, [[1, -1], [1, 1], [-1, 1]])


def test_what_is_similar_to_an_item_of_a_concept_belongs_to_it() -> None:
    taught = said({"a": {0: 1, 1: 0.5}, "b": {4: 1}, "1": {1: 1, 2: 0.5}, "2": {2: 1, 3: 1}}, 2)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, [[1, 0], [0.5, 0], [1, 0], [1, 0], [0, 1]])


@pytest.mark.parametrize(
    "cells",
    [
        {"a": {0: 1, 1: 1, 2: -1}, "b": {4: 1}, "1": {1: 1, 2: 1}},  # said not to belong to it
        {"a": {0: 1, 1: 1}, "b": {3: 1}, "1": {1: 1, 2: 1, 3: 1}},  # between two concepts
    ],
)
def test_what_is_similar_to_an_item_of_a_concept_does_not_belong_to_it_when_something_else_was_said(
    cells: dict[str, dict[int, float]],
) -> None:
    taught = said(cells, 2)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, taught.y[(taught.y != 0).any(1)])


def test_a_pair_told_apart_that_a_concept_puts_together_stays_as_it_is() -> None:
    taught = said({"a": {0: 1, 1: 1, 2: 1}, "0": {0: 1, 1: -1}}, 1)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, taught.y)


def test_a_pair_told_apart_alone_waits_until_one_of_them_belongs_to_something() -> None:
    taught = said({"a": {0: 1, 1: 1}, "2": {2: 1, 3: -1}}, 1)
    np.testing.assert_array_equal(lesson(taught, taught.y).y, [[1], [1]])


def test_what_was_judged_is_not_changed_by_learning_from_it() -> None:
    taught = said({"a": {0: 1, 1: 1}, "0": {0: 1, 2: -1}}, 1)
    before = taught.y.copy()
    lesson(taught, taught.y)
    np.testing.assert_array_equal(taught.y, before)
    assert taught.count == 3


# -- contradictions


def test_users_who_disagree_are_named(toys: vm.Collection) -> None:
    toys.feedback([vm.Judgement("a", concept="pets", user="ann"), vm.Judgement("b", query="dog", score=-1, user="ann")])
    assert toys.contradictions() == []
    toys.feedback([vm.Judgement("a", concept="pets", score=-1, user="bob"), vm.Judgement("b", query="dog", score=0.5)])
    first, second = toys.contradictions()
    assert first == "ann says that 'a' belongs to the concept 'pets', bob that it does not; the latest word of all counts, bob's"
    assert (
        second == "somebody says that 'b' suits the query 'dog', ann that it does not; the latest word of all counts, somebody's"
    )
    toys.feedback([vm.Judgement("a", concept="pets", user="bob")])  # bob agrees now
    assert toys.contradictions() == [second]
    assert toys.contradictions(limit=1) == [second]
    toys.delete(["b"])
    assert toys.contradictions() == []  # nobody speaks of what is there
    with pytest.raises(vm.InvalidConfig, match="limit"):
        toys.contradictions(limit=0)


def test_a_user_who_agreed_before_others_changed_their_mind_is_remembered(toys: vm.Collection) -> None:
    yes = vm.Judgement("a", concept="pets")
    assert toys.feedback([vm.Judgement("a", concept="pets", user="ann")]).new == 1
    assert toys.feedback([vm.Judgement("a", concept="pets", user="bob")]).duplicate == 1
    assert toys.feedback([vm.Judgement("a", concept="pets", score=-1, user="ann")]).contradicting == 1
    assert len(toys.judgements()) == 3
    (sentence,) = toys.contradictions()
    assert sentence.startswith("bob says")
    assert sentence.endswith("ann's")
    assert toys.feedback([vm.Judgement("a", concept="pets", score=-1, user="ann")]).duplicate == 1
    assert len(toys.judgements()) == 3
    assert yes not in toys.judgements()


def test_who_disagrees_on_a_pair(toys: vm.Collection) -> None:
    toys.feedback([vm.similar("a", "b", user="ann"), vm.dissimilar("b", "a", user="bob"), vm.similar("a", "b", 0, user="cat")])
    (sentence,) = toys.contradictions()
    assert sentence == (
        "ann says that 'b' is similar to 'a', bob that it is not; the latest word of all counts, cat's, which takes it back"
    )


def test_what_one_concept_puts_together_and_another_tells_apart(toys: vm.Collection) -> None:
    toys.feedback([vm.Judgement(item, concept="animals") for item in ("a", "b", "c")])
    toys.feedback([vm.Judgement("a", concept="cats"), vm.Judgement("c", concept="cats", score=-1)])
    assert toys.contradictions() == ["'a' and 'c' are put together by the concept 'animals' and told apart by the concept 'cats'"]
    toys.feedback([vm.dissimilar("a", "c"), vm.dissimilar("a", "b"), vm.similar("e", "f")])
    assert toys.contradictions()[1:] == [
        "'a' and 'b' are put together by the concept 'animals' and told apart by the pairs of 'a'"
    ]
    toys.feedback([vm.Judgement("e", query="blue car"), vm.Judgement("f", query="blue car", score=-1)])
    assert "'e' and 'f' are put together by the pairs of 'e' and told apart by the query 'blue car'" in toys.contradictions()
    assert len(toys.contradictions()) == 3


def test_many_contradictions_are_counted_and_a_few_told(db: vm.Database, clusters: Clusters) -> None:
    c = db.create("odd", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    members = [clusters.ids[row] for row in np.flatnonzero(clusters.label == 0)]
    c.feedback(clusters.judgements(range(1, 6), 5))
    c.feedback([vm.Judgement(id, concept="all") for id in members])
    c.feedback([vm.Judgement(id, concept="half", score=1.0 if n < 10 else -1.0) for n, id in enumerate(members)])
    report = c.adapt()
    assert report.metrics["contradictions"] == 10 * 10
    assert len(report.contradictions) == 20
    assert len(c.contradictions()) == 100
    assert len(c.contradictions(limit=1000)) == 100
    assert report.version is not None
    assert c.report(report.version).contradictions == report.contradictions


def test_looking_for_contradictions_takes_no_time_to_speak_of(db: vm.Database) -> None:
    data = Clusters(concepts=20, members=100, dim=8)
    c = db.create("many", encoder="vectors", dim=8)
    c.add_vectors(data.ids, data.x)
    c.feedback(
        [
            vm.Judgement(id, concept=f"{concept}", score=1.0 if concept == label else -1.0)
            for id, label in zip(data.ids, data.label, strict=True)
            for concept in (label, (label + 1) % 20)
        ]
    )
    begin = time.perf_counter()
    assert c.contradictions() == []
    assert time.perf_counter() - begin < 5
