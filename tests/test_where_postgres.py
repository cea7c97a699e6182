"""Filters in PostgreSQL: the same items as in SQLite and as in memory, for every kind of value and condition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.postgres import Postgres
from tests.test_columns import NUMBERS, ODD, TEXTS, VALUES, VECTOR, Shelf, conditions
from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.catalogue.items import Row
from vecmeta.where import parse

# without NUL, at which SQLite takes a text to end
STORED: list[Any] = [
    *TEXTS,
    *NUMBERS,
    *(odd for odd in ODD if odd != "a\0b"),
    -(2.0**63),
    1e22,
    True,
    False,
    None,
    {"a": 1},
    [],
    [[]],
    {},
]
ROWS = [{"one": value, "list": [value, [value], None], "häß lich.key'": value} for value in STORED] + [{}]


@pytest.fixture(scope="module")
def shelves(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shelf, Shelf]]:
    """The same items in SQLite and in PostgreSQL."""
    with postgres.lent() as url:
        catalogues = [Catalogue(tmp_path_factory.mktemp("where") / "vecmeta.db"), Catalogue(make_url(url))]
        made = [Shelf(catalogue, "same") for catalogue in catalogues]
        for shelf in made:
            shelf.write({f"i{n:03d}": row for n, row in enumerate(ROWS)})
        yield made[0], made[1]
        for catalogue in catalogues:
            catalogue.close()


def places(shelf: Shelf, where: dict[str, Any]) -> list[str]:
    return [item.id for item in shelf.writer.page(parse(where), None, 1000)]


def test_every_condition_finds_the_same(shelves: tuple[Shelf, Shelf]) -> None:
    sqlite, postgres = shelves
    asked = 0
    for condition in conditions():
        for field in ("one", "list"):
            where = {field: condition}
            assert places(postgres, where) == places(sqlite, where), where
            postgres.agree(where)
            asked += 1
    assert asked > 200


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"one": {"$exists": True}},
        {"one": {"$exists": False}},
        {"missing": {"$ne": 1}},
        {"$not": {"one": "a"}},
        {"$not": {"$or": [{"one": "a"}, {"list": {"$gt": 0}}]}},
        {"$or": [{"one": {"$in": []}}, {"one": None}]},
        {"one": {"$nin": VALUES}},
        {"one": {"$in": list(range(9_000))}},
        {"one": {"$not": {"$gt": 0, "$lt": 2}}},
    ],
    ids=lambda where: str(where)[:40],
)
def test_conditions_together(shelves: tuple[Shelf, Shelf], where: dict[str, Any]) -> None:
    sqlite, postgres = shelves
    assert places(postgres, where) == places(sqlite, where)


def test_many_conditions(shelves: tuple[Shelf, Shelf]) -> None:
    sqlite, postgres = shelves
    many = {"$or": [{"one": {"$eq": value}} for value in VALUES * 8]}
    assert places(postgres, many) == places(sqlite, many)


def test_nul_and_its_stand_in(postgres: Postgres) -> None:
    texts = ["a", "a\0", "a\0b", "a\x01", "a\x01\x01", "a\x01\x02", "a\x02", "\\u0000", "\\\\u0001\\u0001", "\0", "ab"]
    with postgres.lent() as url:
        catalogue = Catalogue(make_url(url))
        shelf = Shelf(catalogue, "nul")
        documents = [json.dumps({"t": text, text: 1}, ensure_ascii=False) for text in texts]
        shelf.writer.write(
            Row(f"i{n:02d}", VECTOR, d, None, t, None) for n, (d, t) in enumerate(zip(documents, texts, strict=True))
        )
        found = shelf.writer.get([f"i{n:02d}" for n in range(len(texts))])
        assert [item.content for item in found.values()] == texts
        assert [item.metadata for item in found.values()] == [{"t": text, text: 1} for text in texts]
        assert shelf.writer.known(["i02"])["i02"].metadata == documents[2]
        assert list(shelf.ask({"t": "a\x01"}).mask) == [text == "a\x01" for text in texts]
        for bound in ("a", "a\x01", "a\x01\x01", "a\x02", "\\u0000"):
            assert places(shelf, {"t": {"$gt": bound}}) == [f"i{n:02d}" for n, text in enumerate(texts) if text > bound]
        catalogue.close()
