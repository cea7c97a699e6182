"""The filter language: the same answer from SQL as from a plain reading of the rules in `vecmeta.where`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecmeta as vm
from tests.conftest import WordCounter
from vecmeta.types import Metadata
from vecmeta.where import MAX_CONDITIONS, MAX_DEPTH, MAX_LIST, parse

ROWS: list[dict[str, Any]] = [
    {"lang": "en", "year": 2020, "tags": ["new", "sale"], "stock": True},
    {"lang": "de", "year": 2021.5, "tags": [], "stock": False},
    {"lang": "EN", "year": "2020", "tags": "new", "stock": None},
    {"year": -3, "nested": {"lang": "en"}, "tags": [["new"]], "häß lich.key": "ü'; DROP TABLE items --"},
    {},
    {"lang": None, "year": 10**18, "tags": [1, "1", True, None], "stock": 1},
    {"lang": "", "year": 1e-3, "tags": [2020, "new"], "stock": "true"},
    {"lang": "e%", "year": 0, "tags": {"new": 1}, "stock": 0},
]


def kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def same(a: object, b: object) -> bool:
    return kind(a) == kind(b) and a == b


def plain(where: dict[str, Any], row: Metadata) -> bool:
    """The rules, written once more without any care for speed."""
    return all(entry(key, value, row) for key, value in where.items())


def entry(key: str, value: Any, row: Metadata) -> bool:
    if key == "$and":
        return all(plain(part, row) for part in value)
    if key == "$or":
        return any(plain(part, row) for part in value)
    if key == "$not":
        return not plain(value, row)
    if not isinstance(value, dict):
        value = {"$eq": value}
    return all(condition(key, operator, operand, row) for operator, operand in value.items())


def condition(key: str, operator: str, operand: Any, row: Metadata) -> bool:
    if operator == "$not":
        return not entry(key, operand, row)
    if operator == "$exists":
        return (key in row) is operand
    if operator == "$ne":
        return not condition(key, "$eq", operand, row)
    if operator == "$nin":
        return not condition(key, "$in", operand, row)
    if key not in row or isinstance(row[key], dict):
        return False
    elements = row[key] if isinstance(row[key], list) else [row[key]]
    if operator in ("$eq", "$in"):
        wanted = operand if operator == "$in" else [operand]
        return any(same(e, w) for e in elements for w in wanted)
    alike = [e for e in elements if kind(e) == kind(operand)]
    return any({"$gt": e > operand, "$gte": e >= operand, "$lt": e < operand, "$lte": e <= operand}[operator] for e in alike)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> vm.Collection:
    database = vm.open(tmp_path_factory.mktemp("where"), device="cpu")
    collection = database.create("rows", encoder=WordCounter())
    collection.add([vm.Item(str(number), "red", row) for number, row in enumerate(ROWS)])
    return collection


def found(collection: vm.Collection, where: dict[str, Any]) -> list[str]:
    return [item.id for item in collection.items(where=where)]


def expected(where: dict[str, Any]) -> list[str]:
    return [str(number) for number, row in enumerate(ROWS) if plain(where, row)]


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"lang": "en"},
        {"lang": {"$ne": "en"}},
        {"lang": None},
        {"stock": True},
        {"stock": 1},
        {"stock": {"$in": [True, "true", None]}},
        {"year": {"$gte": 2020, "$lt": 2022}},
        {"year": {"$gt": "2019"}},
        {"year": 10**18},
        {"year": {"$lte": 0}},
        {"tags": "new"},
        {"tags": {"$nin": ["new", "sale"]}},
        {"tags": {"$in": []}},
        {"lang": {"$exists": True}},
        {"lang": {"$exists": False}},
        {"nested": {"$ne": "en"}},
        {"$or": [{"lang": "en"}, {"year": {"$lt": 0}}]},
        {"$and": [{"lang": {"$exists": True}}, {"$not": {"lang": "en"}}]},
        {"year": {"$not": {"$gt": 0}}},
        {"häß lich.key": "ü'; DROP TABLE items --"},
        {"lang": "e%"},
        {"missing": {"$not": {"$exists": True}}},
    ],
)
def test_sql_agrees_with_the_rules(rows: vm.Collection, where: dict[str, Any]) -> None:
    assert found(rows, where) == expected(where)
    assert rows.count(where) == len(expected(where))


SCALARS = st.sampled_from(["en", "de", "new", "", "2020", "1", 2020, 0, 1, -3, 2021.5, True, False, None])
ORDERED = st.sampled_from(["en", "", "2020", 2020, 0, 1, -3.5])
FIELDS = st.sampled_from(["lang", "year", "tags", "stock", "nested", "missing"])
CONDITIONS = st.one_of(
    SCALARS,
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$eq", "$ne"]), SCALARS),
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4)),
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED),
    st.builds(lambda v: {"$exists": v}, st.booleans()),
    st.builds(lambda v: {"$not": {"$gte": v}}, ORDERED),
)
FILTERS = st.recursive(
    st.dictionaries(FIELDS, CONDITIONS, max_size=2),
    lambda part: st.one_of(
        st.builds(lambda op, parts: {op: parts}, st.sampled_from(["$and", "$or"]), st.lists(part, min_size=1, max_size=3)),
        st.builds(lambda p: {"$not": p}, part),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(where=FILTERS)
def test_sql_agrees_with_the_rules_on_any_filter(rows: vm.Collection, where: dict[str, Any]) -> None:
    assert found(rows, where) == expected(where)


def nested(depth: int) -> dict[str, Any]:
    return {"a": 1} if depth == 0 else {"$not": nested(depth - 1)}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"lang": {"$regex": "e"}}, r"\$regex"),
        ({"$nor": [{"a": 1}]}, r"\$nor"),
        ({"$or": []}, "at least one"),
        ({"$and": {"a": 1}}, "list"),
        ({"a": {}}, "empty object"),
        ({"a": {"$in": "abc"}}, "list"),
        ({"a": {"$gt": None}}, "number or a text"),
        ({"a": {"$gt": True}}, "number or a text"),
        ({"a": {"$exists": 1}}, "true or false"),
        ({"a": [1]}, "not \\[1\\]"),
        ({"a": float("nan")}, "nan"),
        ({"a": float("inf")}, "inf"),
        ({'a"b': 1}, "quotes"),
        ({"": 1}, "empty"),
        ({"a": "\ud800"}, "surrogate"),
        ({1: 1}, "name is a text"),
        ("lang = 'en'", "is an object"),
        (nested(MAX_DEPTH + 1), "deeper"),
        ({"$or": [{"a": n} for n in range(MAX_CONDITIONS + 1)]}, "conditions"),
        ({"a": {"$in": list(range(MAX_LIST + 1))}}, "at most"),
    ],
)
def test_bad_filters_are_named(where: Any, says: str) -> None:
    with pytest.raises(vm.InvalidFilter, match=says):
        parse(where)


def test_search_and_count_refuse_a_bad_filter(rows: vm.Collection) -> None:
    for call in (
        lambda: rows.search("red", where={"a": {"$near": 1}}),
        lambda: rows.count({"a": {"$near": 1}}),
        lambda: rows.items({"a": {"$near": 1}}),
    ):
        with pytest.raises(vm.InvalidFilter, match=r"\$near"):
            call()


def test_long_lists_travel_as_one_parameter(rows: vm.Collection) -> None:
    assert found(rows, {"year": {"$in": list(range(MAX_LIST))}}) == expected({"year": {"$in": list(range(MAX_LIST))}})


def test_a_text_with_nul_is_refused() -> None:
    with pytest.raises(vm.InvalidFilter, match="NUL"):
        parse({"half": "first\0second"})


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(vm.InvalidFilter, match="nested"):
        parse({"a": {"$eq": deep}})
