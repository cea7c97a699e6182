"""A candidate on a share of the searches: who gets it, when it ends, and what came of its answers beside the live version's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]
from sqlalchemy import event, func, select

import vecmeta as vm
from tests.conftest import WordCounter
from vecmeta import traffic
from vecmeta.catalogue.tables import clicks, outcomes, policies, splits
from vecmeta.meta.head import IdentityHead
from vecmeta.types import Policy

USERS = [f"user {n}" for n in range(4000)]


def stored_version(c: vm.Collection) -> int:
    """One more version of the collection; what its head does is of no importance here."""
    row = {"method": "none", "strength": 0.0, "judgements": 0, "decision": "promoted", "reason": "", "report": {"metrics": {}}}
    return c._versions.put(f"inputs {time.perf_counter_ns()}", IdentityHead(c.dim).to_bytes(), row)


@pytest.fixture
def c(toys: vm.Collection) -> vm.Collection:
    """Version 0 live, versions 1 and 2 stored."""
    assert [stored_version(toys), stored_version(toys)] == [1, 2]
    return toys


def chosen(c: vm.Collection) -> set[str]:
    """The users who get the candidate."""
    return {user for user in USERS if c.traffic.choose(user) is not None}


def rows(db: vm.Database, table: Any) -> int:
    with db._catalogue._engine.reading() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


# -- policy


def test_a_collection_never_adapts_by_itself_until_it_is_told_to(db: vm.Database, toys: vm.Collection) -> None:
    assert toys.policy == Policy(auto_adapt=None, debounce=10.0)
    toys.set_policy(Policy(auto_adapt=20))
    toys.set_policy(Policy(auto_adapt=5, debounce=0.5))
    assert toys.policy == Policy(5, 0.5)
    other = db.create("other", encoder="vectors", dim=3)
    assert other.policy == Policy()
    with vm.open(db.url, device="cpu") as again:
        assert again.collection("toys", encoder=WordCounter()).policy == Policy(5, 0.5)
    toys.set_policy(Policy())
    assert toys.policy == Policy()


def test_a_policy_is_a_policy(toys: vm.Collection) -> None:
    with pytest.raises(vm.InvalidConfig, match="not 5"):
        toys.set_policy(5)  # type: ignore[arg-type]
    with pytest.raises(vm.InvalidConfig, match="not 0"):
        toys.set_policy(Policy(auto_adapt=0))
    assert toys.policy == Policy()


# -- split


def test_without_a_split_the_live_version_answers(c: vm.Collection) -> None:
    assert c.traffic.split() is None
    assert c.traffic.choose() is None
    assert c.traffic.choose("user") is None
    c.traffic.stop()  # nothing to stop


def test_a_share_of_the_users_gets_the_candidate_and_each_user_always_the_same(c: vm.Collection) -> None:
    split = c.traffic.share(2, 10)
    assert split == c.traffic.split()
    assert (split.version, split.percent) == (2, 10.0)
    assert split.started.tzinfo is not None
    first = chosen(c)
    assert abs(len(first) / len(USERS) - 0.10) < 0.02
    assert chosen(c) == first
    assert c.search("red cat", version=c.traffic.choose(next(iter(first)))).version == 2
    c.traffic.stop()
    assert c.traffic.split() is None
    assert chosen(c) == set()


def test_who_names_no_session_is_drawn_anew_each_time(c: vm.Collection) -> None:
    c.traffic.share(1, 25)
    drawn = [c.traffic.choose() for _ in range(4000)]
    assert set(drawn) == {None, 1}
    assert abs(drawn.count(1) / len(drawn) - 0.25) < 0.04


def test_a_larger_share_keeps_its_users_and_another_split_has_others(c: vm.Collection) -> None:
    started = c.traffic.share(1, 5).started
    few = chosen(c)
    assert c.traffic.share(1, 20).started == started
    more = chosen(c)
    assert few < more
    assert c.traffic.share(1, 100).percent == 100
    assert chosen(c) == set(USERS)
    c.traffic.share(2, 20)
    assert c.traffic.choose(next(user for user in USERS if c.traffic.choose(user))) == 2
    others = chosen(c)
    assert abs(len(others & more) / len(others) - 0.2) < 0.06  # drawn anew: a fifth of them by chance


def test_a_share_that_cannot_be(c: vm.Collection) -> None:
    with pytest.raises(vm.VersionNotFound, match="no version 7"):
        c.traffic.share(7, 10)
    for percent in (0, -1, 100.5, float("nan"), "10", True, None):
        with pytest.raises(vm.InvalidConfig, match="percentage above 0 and up to 100"):
            c.traffic.share(1, percent)  # type: ignore[arg-type]
    with pytest.raises(vm.InvalidConfig, match="live already"):
        c.traffic.share(0, 10)
    with pytest.raises(vm.InvalidConfig, match="version"):
        c.traffic.share(None, 10)  # type: ignore[arg-type]
    for session in (5, b"user", ["user"]):
        with pytest.raises(vm.InvalidConfig, match="session"):
            c.traffic.choose(session)  # type: ignore[arg-type]
    assert c.traffic.split() is None
    c.traffic.share(1, 50)
    assert c.traffic.choose("\ud800") in (None, 1)  # any text is a session


def test_the_untouched_encoder_can_be_a_candidate(c: vm.Collection) -> None:
    c.activate(1)
    c.traffic.share(0, 100)
    assert c.traffic.choose("user") == 0


def test_choosing_asks_the_database_once_a_second(db: vm.Database, c: vm.Collection) -> None:
    c.traffic.share(1, 50)
    asked: list[str] = []
    engine = db._catalogue._engine._engine
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    begin = time.monotonic()
    for user in USERS * 5:
        c.traffic.choose(user)
    assert len([sql for sql in asked if sql.startswith("SELECT")]) <= 1 + (time.monotonic() - begin) / traffic.RENEWED_AFTER


def test_the_split_ends_when_its_candidate_goes_live_and_a_rollback_does_not_bring_it_back(c: vm.Collection) -> None:
    c.traffic.share(1, 100)
    assert c.traffic.choose("user") == 1
    c.activate(1)
    c.search("red cat")
    assert c.traffic.choose("user") is None  # at once, in this process
    assert c.traffic.split() is None
    assert c.rollback() == 0
    assert c.traffic.split() is None
    assert c.traffic.choose("user") is None
    again = c.traffic.share(1, 100)
    assert c.traffic.split() == again
    assert c.traffic.choose("user") == 1
    c.activate(2)
    assert c.traffic.choose("user") == 1  # another one went live: the candidate is still one


def test_a_candidate_that_is_removed_ends_its_split(c: vm.Collection) -> None:
    c.traffic.share(1, 100)
    c.traffic.searched({1: 3})
    c._versions.remove(1)
    assert c.traffic.split() is None
    assert c.traffic.choose("user") is None
    assert c.traffic.clicked("s", 1, "a")  # an answer that was given before
    assert [(o.version, o.searches, o.clicks) for o in c.traffic.outcomes()] == [(1, 3, 1)]
    c._servings.close()
    with pytest.raises(vm.VersionNotFound):
        c.traffic.share(1, 10)
    assert c.traffic.share(2, 10).version == 2


def soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def test_other_processes_learn_of_it_and_their_searches_do_not_wait(
    db: vm.Database, c: vm.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "RENEWED_AFTER", 0.05)
    with vm.open(db.url, device="cpu") as elsewhere:
        there = elsewhere.collection("toys", encoder=WordCounter())
        assert there.search("red cat").version == 0
        assert there.traffic.choose("user") is None
        going_on = threading.Event()
        opened = there._servings._opened

        def slowly(*given: Any) -> Any:
            assert going_on.wait(10)
            return opened(*given)

        monkeypatch.setattr(there._servings, "_opened", slowly)
        c.traffic.share(1, 100)
        assert soon(lambda: there.traffic.split() is not None)
        assert there.traffic.choose("user") is None  # its index is being opened
        going_on.set()
        assert soon(lambda: there.traffic.choose("user") == 1)
        assert there.search("red cat", version=1).version == 1
        c.traffic.stop()
        assert soon(lambda: there.traffic.choose("user") is None)


def test_the_index_of_the_candidate_is_open_before_the_first_search(c: vm.Collection) -> None:
    c.search("red cat")
    assert 1 not in c._servings._held
    c.traffic.share(1, 50)
    assert 1 in c._servings._held


# -- outcomes


def test_nothing_counted_is_an_empty_list(c: vm.Collection) -> None:
    assert c.traffic.outcomes() == []
    c.traffic.searched({})
    c.traffic.searched({1: 0})
    assert c.traffic.outcomes() == []


def test_outcomes_by_version(c: vm.Collection) -> None:
    t = c.traffic
    t.searched({2: 5, 0: 30})
    t.searched({0: 10})
    assert t.clicked("s1", 0, "a", 4)
    assert t.clicked("s1", 0, "b", 2)
    assert t.clicked("s2", 0, "a", 1)
    assert t.clicked("s3", 0, "c")
    assert t.clicked("t1", 2, "a", 3)
    zero, two = t.outcomes()
    assert (zero.version, zero.searches, zero.clicked, zero.clicks) == (0, 40, 3, 4)
    assert (two.version, two.searches, two.clicked, two.clicks) == (2, 5, 1, 1)
    assert zero.rate == 3 / 40
    assert zero.mean_reciprocal_rank == pytest.approx((1 / 2 + 1) / 2)  # the highest of each answer; of s3 nothing is known
    assert two.mean_reciprocal_rank == pytest.approx(1 / 3)
    for outcome in (zero, two):
        reference = binomtest(outcome.clicked, outcome.searches).proportion_ci(method="wilson")
        assert outcome.low == pytest.approx(reference.low)
        assert outcome.high == pytest.approx(reference.high)


@pytest.mark.parametrize(("hits", "tries"), [(0, 1), (1, 1), (0, 12), (12, 12), (7, 20), (1, 100_000), (99_999, 100_000)])
def test_the_interval_is_wilsons(hits: int, tries: int) -> None:
    reference = binomtest(hits, tries).proportion_ci(method="wilson")
    low, high = traffic.wilson(hits, tries)
    assert low == pytest.approx(reference.low, abs=1e-12)
    assert high == pytest.approx(reference.high, abs=1e-12)
    assert 0 <= low <= hits / tries <= high <= 1


def test_a_click_counts_once(c: vm.Collection) -> None:
    assert c.traffic.clicked("s", 0, "a", 3)
    assert not c.traffic.clicked("s", 0, "a", 3)
    assert not c.traffic.clicked("s", 0, "a", 1)  # the first word stands
    assert c.traffic.clicked("s", 0, "b")
    (outcome,) = c.traffic.outcomes()
    assert (outcome.clicked, outcome.clicks) == (1, 2)
    assert outcome.mean_reciprocal_rank == pytest.approx(1 / 3)


def test_clicks_that_arrive_before_their_answers_are_counted(c: vm.Collection) -> None:
    c.traffic.clicked("s1", 0, "a")
    c.traffic.clicked("s2", 0, "a")
    (outcome,) = c.traffic.outcomes()
    assert (outcome.searches, outcome.clicked, outcome.rate, outcome.low, outcome.high) == (0, 2, None, None, None)
    assert outcome.mean_reciprocal_rank is None
    c.traffic.searched({0: 1})
    (outcome,) = c.traffic.outcomes()
    assert (outcome.searches, outcome.clicked, outcome.rate, outcome.high) == (1, 2, 1.0, 1.0)


def test_deleted_items_were_clicked_all_the_same(c: vm.Collection) -> None:
    c.delete(["a"])
    assert c.traffic.clicked("s", 0, "a")
    assert c.traffic.clicked("s", 0, "never there")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", 0, "a", 1), "id of a search is a text of 1 to 64"),
        (("s" * 65, 0, "a", 1), "id of a search"),
        ((7, 0, "a", 1), "id of a search"),
        (("s\0", 0, "a", 1), "id of a search"),
        (("\ud800", 0, "a", 1), "id of a search"),
        (("s", 0, "", 1), "id of an item is a text of 1 to 512"),
        (("s", 0, "a" * 513, 1), "id of an item"),
        (("s", 0, None, 1), "id of an item"),
        (("s", 0, "a", 0), "rank is a whole number from 1"),
        (("s", 0, "a", 1.5), "rank"),
        (("s", 0, "a", True), "rank"),
        (("s", 0, "a", 2**31), "rank"),
    ],
)
def test_clicks_that_cannot_be(c: vm.Collection, given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(vm.InvalidJudgement, match=message):
        c.traffic.clicked(*given)
    assert c.traffic.outcomes() == []


def test_versions_and_counts_that_cannot_be(c: vm.Collection) -> None:
    for version in (-1, "1", None, True, 2**31):
        with pytest.raises(vm.InvalidConfig, match="version"):
            c.traffic.clicked("s", version, "a")  # type: ignore[arg-type]
        with pytest.raises(vm.InvalidConfig, match="version"):
            c.traffic.searched({0: 1, version: 1})  # type: ignore[dict-item]
    for count in (-1, 1.5, "1", None, True):
        with pytest.raises(vm.InvalidConfig, match="number of answers"):
            c.traffic.searched({0: 1, 1: count})  # type: ignore[dict-item]
    assert c.traffic.outcomes() == []  # nothing of a bad batch is counted


def test_the_longest_texts_and_largest_numbers_fit(c: vm.Collection) -> None:
    assert c.traffic.clicked("s" * 64, 2**31 - 1, "ä" * 512, 2**31 - 1)
    c.traffic.searched({2**31 - 1: 2**31 - 1})
    c.traffic.searched({2**31 - 1: 2**31 - 1})
    (outcome,) = c.traffic.outcomes()
    assert (outcome.version, outcome.searches, outcome.clicks) == (2**31 - 1, 2**32 - 2, 1)


def test_threads_and_processes_count_together(db: vm.Database, c: vm.Collection) -> None:
    with vm.open(db.url, device="cpu") as elsewhere:
        both = [c.traffic, elsewhere.collection("toys", encoder=WordCounter()).traffic]
        new: list[bool] = []

        def count(place: int) -> None:
            for n in range(20):
                both[place % 2].searched({0: 1, 1: 2})
                new.append(both[place % 2].clicked(f"s{n}", 1, "a", place + 1))

        threads = [threading.Thread(target=count, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(new) == 20  # of the four who tell of one click, one is the first
    zero, one = c.traffic.outcomes()
    assert (zero.searches, zero.clicked) == (80, 0)
    assert (one.searches, one.clicked, one.clicks) == (160, 20, 20)


# -- the collection it belongs to


def test_collections_keep_theirs_apart(db: vm.Database, c: vm.Collection) -> None:
    other = db.create("other", encoder="vectors", dim=3)
    other.add_vectors(["a"], np.eye(3)[:1])
    assert stored_version(other) == 1
    c.traffic.share(1, 100)
    c.traffic.searched({0: 5})
    c.traffic.clicked("s", 0, "a")
    assert other.traffic.split() is None
    assert other.traffic.outcomes() == []
    assert other.traffic.clicked("s", 0, "a")
    other.activate(1)  # its version 1, not the candidate
    assert c.traffic.choose("user") == 1
    assert c.traffic.split() is not None


def test_a_dropped_collection_takes_all_of_it_along(db: vm.Database, c: vm.Collection) -> None:
    c.set_policy(Policy(3))
    c.traffic.share(1, 100)
    c.traffic.searched({0: 5})
    c.traffic.clicked("s", 0, "a")
    assert [rows(db, table) for table in (policies, splits, outcomes, clicks)] == [1, 1, 1, 1]
    db.drop("toys")
    assert [rows(db, table) for table in (policies, splits, outcomes, clicks)] == [0, 0, 0, 0]
    for call in (
        lambda: c.policy,
        lambda: c.set_policy(Policy()),
        lambda: c.traffic.share(1, 5),
        lambda: c.traffic.searched({0: 1}),
        lambda: c.traffic.clicked("s", 0, "a"),
    ):
        with pytest.raises(vm.CollectionNotFound, match="'toys' has been dropped"):
            call()
    assert c.traffic.split() is None
    assert c.traffic.outcomes() == []
