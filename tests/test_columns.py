"""Metadata in memory: the same answers as from SQL whatever was written, quickly, and never older than asked for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecmeta.catalogue import columns, columns_field, columns_table
from vecmeta.catalogue.catalogue import Catalogue, CollectionRow
from vecmeta.catalogue.items import ItemStore, Row
from vecmeta.types import Matching
from vecmeta.where import parse

VECTOR = np.ones(1, np.float32).tobytes()
LONG = "x" * columns_field.PREFIX


class Shelf:
    """One collection: written through one store and asked of another one, as two processes would."""

    def __init__(self, catalogue: Catalogue, name: str) -> None:
        self.row: CollectionRow = catalogue.create(name, "vectors", "vectors", 1)
        self.writer: ItemStore = catalogue.items(self.row)
        self.reader: ItemStore = catalogue.items(self.row)
        self.versions = catalogue.versions(self.row)

    def write(self, rows: dict[str, dict[str, Any]]) -> None:
        self.writer.write(Row(id, VECTOR, json.dumps(about, ensure_ascii=False), None, None, None) for id, about in rows.items())

    @property
    def revision(self) -> int:
        return self.versions.state().revision

    def ask(self, where: dict[str, Any]) -> Matching:
        return self.reader.matching(parse(where), self.revision)

    def agree(self, where: dict[str, Any]) -> None:
        found = self.ask(where)
        assert (np.diff(found.keys) > 0).all()
        assert found.keys[found.mask].tolist() == self.writer.keys(parse(where)).tolist()


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    opened = Catalogue(tmp_path_factory.mktemp("columns") / "vecmeta.db")
    yield opened
    opened.close()


@pytest.fixture
def shelf(catalogue: Catalogue, request: pytest.FixtureRequest) -> Shelf:
    return Shelf(catalogue, request.node.name[:60])


@pytest.fixture
def no_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ItemStore, "keys", lambda *_: pytest.fail("SQL was asked"))


@pytest.fixture
def no_sql_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `no_sql`, where the test itself asks SQL."""
    monkeypatch.setattr(columns.Columns, "placed", lambda *_: pytest.fail("SQL was asked"))


def small(patch: pytest.MonkeyPatch) -> None:
    """Sorting, compaction and reading anew come after a few rows instead of thousands."""
    patch.setattr(columns_field, "LATE", 1)
    patch.setattr(columns_table, "LATE", 3)
    patch.setattr(columns, "PAGE", 4)
    patch.setattr(columns, "SHARE", 2)


# -- the same answers as SQL ---------------------------------------------------------------------------------------------------

FIELDS = st.sampled_from(["a", "b", "häß lich.key"])
TEXTS = ["", "1", "a", "ab", "ä", "\uffff", "\U0001f600", LONG, LONG[1:], "true"]
NUMBERS = [0, 1, -1, 1.5, -0.0, 2**53, -(2**53), 2.0**53, 2**53 + 2, 2.0**63, 1e18, 10**18, 1e-300, 1e300, 5e-324]
ODD: list[Any] = [
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**63 + 2**11,
    -(2**63),
    -(2**63) - 1,
    10**30,
    10**400,
    "a\0b",
    LONG + "a",
    LONG + "b",
]
PLAIN = st.sampled_from([*TEXTS, *NUMBERS, True, False, None])
STORED = st.one_of(
    PLAIN, PLAIN, PLAIN, st.lists(PLAIN, max_size=4), st.sampled_from([{"a": 1}, {}, [["a"]], [{"a": 1}, 1], [None]])
)
VALUES = [
    *TEXTS,
    *NUMBERS,
    True,
    False,
    None,
    2**53 + 1,
    2**53 + 3,
    -(2**53) - 1,
    2**63 - 1,
    10**30,
    LONG + "a",
    LONG + "aa",
    "zz",
]
ASKED = st.sampled_from(VALUES)
ORDERED = ASKED.filter(lambda v: v is not None and not isinstance(v, bool))
CONDITIONS = st.one_of(
    ASKED,
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$eq", "$ne"]), ASKED),
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$in", "$nin"]), st.lists(ASKED, max_size=12)),
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED),
    st.builds(lambda v: {"$exists": v}, st.booleans()),
)
FILTERS = st.recursive(
    st.dictionaries(st.one_of(FIELDS, st.just("missing")), CONDITIONS, max_size=2),
    lambda part: st.one_of(
        st.builds(lambda op, parts: {op: parts}, st.sampled_from(["$and", "$or"]), st.lists(part, min_size=1, max_size=3)),
        st.builds(lambda p: {"$not": p}, part),
    ),
    max_leaves=4,
)
IDS = st.sampled_from("abcdefghijklmnop")


def writes(stored: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    rows = st.dictionaries(IDS, st.dictionaries(FIELDS, stored, max_size=3), min_size=1, max_size=8)
    return st.lists(st.one_of(rows, rows, st.lists(IDS, min_size=1, max_size=8, unique=True)), min_size=1, max_size=6)


def run(catalogue: Catalogue, steps: Sequence[Any], filters: Sequence[dict[str, Any]]) -> None:
    run.count += 1  # type: ignore[attr-defined]
    shelf = Shelf(catalogue, f"example{run.count}")  # type: ignore[attr-defined]
    for step in steps:
        if isinstance(step, dict):
            shelf.write(step)
        else:
            shelf.writer.delete(step)
        for where in filters:
            shelf.agree(where)


run.count = 0  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=writes(STORED), filters=st.lists(FILTERS, min_size=1, max_size=4))
def test_columns_agree_with_sql(catalogue: Catalogue, steps: list[Any], filters: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        # Nothing stored is odd here, so that it is the columns that answer.
        patch.setattr(columns.Columns, "placed", lambda *_: pytest.fail("SQL was asked"))
        run(catalogue, steps, filters)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(steps=writes(st.one_of(STORED, st.sampled_from(ODD))), filters=st.lists(FILTERS, min_size=1, max_size=4))
def test_columns_and_sql_together_agree_with_sql(catalogue: Catalogue, steps: list[Any], filters: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        patch.setattr(columns_table, "FIELDS", 2)  # there are more, and three at most in one filter
        run(catalogue, steps, filters)


def conditions() -> Iterator[dict[str, Any]]:
    for value in VALUES:
        yield {"$eq": value}
        if value is not None and not isinstance(value, bool):
            yield from ({order: value} for order in ("$gt", "$gte", "$lt", "$lte"))
    yield from ({"$in": VALUES[start:]} for start in range(0, len(VALUES), 5))


def test_every_value_against_every_condition(shelf: Shelf, no_sql_found: None) -> None:
    plain = [*TEXTS, *NUMBERS, True, False, None, {"a": 1}]
    shelf.write({f"i{n}": {"one": value, "list": [value, [value], None]} for n, value in enumerate(plain)})
    for condition in conditions():
        shelf.agree({"one": condition})
        shelf.agree({"list": condition})


def test_odd_values_change_no_answer(shelf: Shelf) -> None:
    near = [[odd, "a", LONG, LONG + "c"] if isinstance(odd, str) else [odd, min(odd, 10**300) * 1.0, 0] for odd in ODD]
    shelf.write({f"i{n}": {f"f{f}": values[n] for f, values in enumerate(near) if n < len(values)} for n in range(4)})
    for condition in conditions():
        ((operator, value),) = condition.items()
        for f, odd in enumerate(ODD):
            if operator in ("$eq", "$gt", "$lte") and isinstance(value, str) == isinstance(odd, str):
                shelf.agree({f"f{f}": condition})


def test_what_an_upsert_leaves_out_is_gone(shelf: Shelf, no_sql_found: None) -> None:
    values: list[Any] = [1, "a", True, None, [1, "a"], {"a": 1}]
    shelf.write({f"i{n}": {"f": value} for n, value in enumerate(values)})
    shelf.agree({"f": {"$exists": True}})
    for step in range(1, len(values)):  # every kind after every other one
        shelf.write({f"i{n}": {"f": values[(n + step) % len(values)]} for n in range(len(values))})
        for condition in ({"$exists": True}, {"$eq": 1}, {"$eq": "a"}, {"$in": [True, None]}):
            shelf.agree({"f": condition})
    shelf.write({f"i{n}": {"other": 1} for n in range(len(values))})
    for condition in ({"$exists": True}, {"$eq": 1}, {"$eq": "a"}, {"$in": [True, None]}):
        shelf.agree({"f": condition})
    assert not shelf.ask({"f": {"$exists": True}}).mask.any()


def test_many_different_values(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def about(n: int) -> dict[str, Any]:
        return {
            "n": n,
            "x": float(rng.normal()),
            "name": f"n{rng.integers(10**6)}",
            "tags": [f"t{t}" for t in rng.integers(0, 50, 3)],
        }

    rows = {f"i{n}": about(n) for n in range(3000)}
    filters: list[dict[str, Any]] = [
        {"n": {"$gte": 100, "$lt": 200}},
        {"n": {"$in": list(range(0, 9000, 7))}},
        {"x": {"$gt": rows["i5"]["x"]}},
        {"x": rows["i6"]["x"]},
        {"name": {"$lte": rows["i7"]["name"]}},
        {"name": {"$in": [rows[f"i{n}"]["name"] for n in range(0, 3000, 11)]}},
        {"tags": {"$in": ["t1", "t7"]}},
        {"tags": {"$nin": [f"t{n}" for n in range(20)]}},
        {"$or": [{"tags": "t3"}, {"x": {"$lt": -1}}, {"name": {"$gt": "n9"}}]},
    ]
    shelf.write(rows)
    for step in range(4):
        for where in filters:
            shelf.agree(where)
        if step == 1:
            monkeypatch.setattr(columns_field, "LATE", 50)  # and now late texts are sorted in
        shelf.write({f"i{n}": about(-n) for n in rng.choice(4000, 200, replace=False).tolist()})


# -- slots ---------------------------------------------------------------------------------------------------------------------


def test_keys_are_the_same_array_until_items_come(shelf: Shelf, no_sql: None) -> None:
    shelf.write({f"i{n}": {"n": n} for n in range(10)})
    first = shelf.ask({"n": {"$lt": 5}})
    shelf.write({"i3": {"n": 50}})
    second = shelf.ask({"n": {"$lt": 5}})
    assert second.keys is first.keys
    assert second.stamp == first.stamp
    assert second.mask.tolist() == [n < 5 and n != 3 for n in range(10)]
    assert first.mask.tolist() == [n < 5 for n in range(10)]  # what was given stays as it was
    shelf.writer.delete(["i0"])
    third = shelf.ask({"m": {"$exists": False}})
    assert third.stamp == first.stamp
    assert third.mask.tolist() == [n > 0 for n in range(10)]
    shelf.write({"new": {"n": 1}})
    fourth = shelf.ask({"n": 1})
    assert fourth.stamp != first.stamp
    assert fourth.base == first.base
    assert fourth.keys[:10].tolist() == first.keys.tolist()
    assert np.flatnonzero(fourth.mask).tolist() == [1, 10]
    with pytest.raises(ValueError, match="read-only"):
        fourth.keys[0] = 0


def test_slots_of_deleted_items_do_not_pile_up(shelf: Shelf, no_sql: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_table, "LATE", 5)
    shelf.write({f"i{n}": {"n": n, "tags": [n, "t"]} for n in range(20)})
    first = shelf.ask({"tags": "t"})
    shelf.writer.delete([f"i{n}" for n in range(12)])
    second = shelf.ask({"tags": {"$gte": 15}})
    assert second.base != first.base
    assert second.keys.tolist() == first.keys[12:].tolist()
    assert second.mask.tolist() == [n >= 15 for n in range(12, 20)]


def test_what_sql_finds_comes_in_the_same_slots(shelf: Shelf) -> None:
    shelf.write({f"i{n}": {"n": n, "id": 2**60 + n} for n in range(10)})
    plain, odd = shelf.ask({"n": 3}), shelf.ask({"id": 2**60 + 3})
    assert odd.keys is plain.keys
    assert odd.stamp == plain.stamp
    assert odd.mask.tolist() == plain.mask.tolist() == [n == 3 for n in range(10)]


# -- writes --------------------------------------------------------------------------------------------------------------------


def test_small_writes_are_put_in_and_large_ones_read_anew(shelf: Shelf, no_sql: None, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = columns.Columns._built

    def counted(*given: Any) -> columns_table.Table:
        built.append(1)
        return original(*given)

    monkeypatch.setattr(columns.Columns, "_built", counted)
    monkeypatch.setattr(columns, "PAGE", 20)
    shelf.write({f"i{n}": {"n": n} for n in range(50)})
    assert shelf.ask({"n": {"$lt": 5}}).mask.sum() == 5
    for n in range(5):
        shelf.write({f"i{n}": {"n": 100}, f"new{n}": {"n": 100, "more": [n]}})
        shelf.writer.delete([f"i{10 + n}"])
        assert shelf.ask({"n": 100}).mask.sum() == 2 * (n + 1)
        assert shelf.ask({"more": {"$gte": 0}}).mask.sum() == n + 1
    assert len(built) == 1
    shelf.write({f"i{n}": {"n": 200} for n in range(50)})
    assert shelf.ask({"n": 200}).mask.sum() == 50
    assert len(built) == 2


def test_nothing_is_read_again_without_a_write(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.write({"a": {"n": 1}})
    revision = shelf.revision
    assert shelf.ask({"n": 1}).mask.all()
    monkeypatch.setattr(shelf.reader._columns._engine, "reading", lambda: pytest.fail("read again"))
    assert not shelf.reader.matching(parse({"n": 2}), revision).mask.any()


def test_a_write_broken_off_half_way_is_made_good(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.write({f"i{n}": {"n": n, "m": n} for n in range(5)})
    shelf.ask({"n": 1})
    shelf.write({f"i{n}": {"n": -1, "m": -1} for n in range(5)})
    put, calls = columns_field.Field.put, []

    def failing(self: columns_field.Field, *rest: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        put(self, *rest)

    monkeypatch.setattr(columns_field.Field, "put", failing)
    with pytest.raises(MemoryError):
        shelf.ask({"n": -1})
    halves = [{"n": -1, "m": {"$ne": -1}}, {"m": -1, "n": {"$ne": -1}}]
    assert not any(
        shelf.reader.matching(parse(where), 1).mask.any() for where in halves
    )  # for who wants no more than what was there
    assert shelf.ask({"n": -1, "m": -1}).mask.all()


def test_a_dropped_collection_has_nothing(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "vecmeta.db")
    shelf = Shelf(catalogue, "dropped")
    shelf.write({"a": {"n": 1}})
    assert shelf.ask({"n": 1}).mask.all()
    catalogue.drop("dropped")
    assert shelf.reader.matching(parse({"n": 1}), 2).mask.tolist() == []
    catalogue.close()


# -- bounds --------------------------------------------------------------------------------------------------------------------


def test_too_many_fields_leave_room_for_those_asked_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_table, "FIELDS", 3)
    shelf.write({f"i{n}": {f"f{n}": n} for n in range(10)})
    for n in (7, 8, 9):
        shelf.agree({f"f{n}": n})
    table = shelf.reader._columns._table
    assert table is not None
    assert set(table._fields) == {"f7", "f8", "f9"}
    for n in range(10):
        shelf.agree({f"f{n}": {"$exists": True}})
    shelf.write({"new": {"f1": 1, "f7": 70}})
    shelf.agree({"f1": {"$exists": True}})
    shelf.agree({"f7": 70})
    assert set(table._fields) == {"f7", "f8", "f9"}


def test_memory_is_bounded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_table, "BYTES", 30_000)
    shelf.write({f"i{n}": {"n": n, "name": f"{n:0100}", "other": f"{n:0100}"} for n in range(100)})
    for field, value in (("n", 5), ("name", f"{5:0100}"), ("other", f"{5:0100}"), ("n", 6)):
        shelf.agree({field: value})
        table = shelf.reader._columns._table
        assert table is not None
        assert sum(field.bytes for field in table._there()) <= 30_000
    shelf.write({"more": {"n": "y" * 100}})
    shelf.agree({"n": "y" * 100})


# -- threads -------------------------------------------------------------------------------------------------------------------


def test_a_write_is_seen_whole_or_not_at_all(shelf: Shelf) -> None:
    count, rounds = 50, 30
    shelf.write({f"i{n}": {"round": 0, "tags": ["r0"]} for n in range(count)})
    done = threading.Event()

    def look() -> int:
        looks = 0
        while not done.is_set() or not looks:
            revision = shelf.revision
            for where in ({"round": revision - 1}, {"tags": f"r{revision - 1}"}):
                assert shelf.reader.matching(parse(where), revision).mask.sum() in (0, count)
            assert shelf.reader.matching(parse({"round": {"$gte": revision - 1}}), revision).mask.sum() == count
            looks += 1
        return looks

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look) for _ in range(4)]
        try:
            for number in range(1, rounds):
                shelf.write({f"i{n}": {"round": number, "tags": [f"r{number}"]} for n in range(count)})
        finally:
            done.set()
        assert all(look.result() for look in looking)


def test_no_search_sees_a_write_half_put_in(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.write({f"i{n}": {"n": 0, "m": 0} for n in range(5)})
    before = shelf.revision
    shelf.ask({"n": 0})
    put, arrived = columns_field.Field.put, threading.Event()

    def slow(*given: Any) -> None:
        put(*given)
        arrived.set()
        time.sleep(0.05)

    monkeypatch.setattr(columns_field.Field, "put", slow)
    shelf.write({f"i{n}": {"n": 1, "m": 1} for n in range(5)})
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(shelf.ask, {"n": 1})
        assert arrived.wait(10)
        found = shelf.reader.matching(parse({"$or": [{"n": 1, "m": {"$ne": 1}}, {"m": 1, "n": {"$ne": 1}}]}), before)
        assert not found.mask.any()
        assert other.result(10).mask.all()


def test_nobody_waits_while_another_reads_everything_anew(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PAGE", 4)
    shelf.write({f"i{n}": {"n": n} for n in range(10)})
    before = shelf.revision
    assert shelf.ask({"n": 1}).mask.sum() == 1
    fill = columns_table.Table.fill
    arrived, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> None:
        arrived.set()
        assert go_on.wait(10)
        fill(*given)

    monkeypatch.setattr(columns_table.Table, "fill", slow)
    shelf.write({f"i{n}": {"n": 1} for n in range(10)})
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(shelf.ask, {"n": 1})
        try:
            assert arrived.wait(10)
            assert shelf.reader.matching(parse({"n": 1}), before).mask.sum() == 1  # what there was
            assert shelf.ask({"n": 1}).mask.sum() == 10  # from SQL
        finally:
            go_on.set()
        assert other.result(10).mask.sum() == 10
