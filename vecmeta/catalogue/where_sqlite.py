"""Filters compiled to SQLite's JSON functions over the JSON text of a row's metadata."""

from __future__ import annotations

import json

from sqlalchemy import ColumnElement, and_, exists, false, func, literal, or_, select

from vecmeta.catalogue.tables import items
from vecmeta.catalogue.where_sql import Condition, joined
from vecmeta.where import Among, Compare, Exists, Node, Scalar

_NUMBERS = ("integer", "real")


def compiled(node: Node) -> ColumnElement[bool]:
    """The condition of `node` on a row of `items`; all values travel as bound parameters."""
    return joined(node, _said)


def _said(condition: Condition) -> ColumnElement[bool]:
    match condition:
        case Exists(field):
            return func.json_type(items.c.metadata, _path(field)).is_not(None)
        case Among(field, values):
            return _among(field, values)
        case Compare(field, order, value):
            element, there = _elements(field)
            kinds = ("text",) if isinstance(value, str) else _NUMBERS
            bound = literal(value)
            comparison = {
                "$gt": element.c.value > bound,
                "$gte": element.c.value >= bound,
                "$lt": element.c.value < bound,
                "$lte": element.c.value <= bound,
            }[order]
            return and_(there, exists(select(literal(1)).select_from(element).where(element.c.type.in_(kinds), comparison)))


def _among(field: str, values: tuple[Scalar, ...]) -> ColumnElement[bool]:
    element, there = _elements(field)
    # JSON types keep 1, "1" and true apart, which SQLite's own comparison would not.
    names = [{None: "null", True: "true", False: "false"}[v] for v in values if v is None or isinstance(v, bool)]
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    texts = [v for v in values if isinstance(v, str)]
    choices: list[ColumnElement[bool]] = []
    if names:
        choices.append(element.c.type.in_(sorted(set(names))))
    if numbers:
        choices.append(and_(element.c.type.in_(_NUMBERS), element.c.value.in_(_unpacked(numbers))))
    if texts:
        choices.append(and_(element.c.type == "text", element.c.value.in_(_unpacked(texts))))
    return and_(there, exists(select(literal(1)).select_from(element).where(or_(false(), *choices))))


def _unpacked(values: list[int | float] | list[str]):  # type: ignore[no-untyped-def]  # SQLAlchemy's type has no short name
    # One parameter however long the list is: SQLite limits the number of parameters.
    return select(func.json_each(json.dumps(values)).table_valued("value").c.value)


def _elements(field: str):  # type: ignore[no-untyped-def]  # likewise
    """The values to test: the elements of a list, or the one value; and the condition that it is no object."""
    element = func.json_each(items.c.metadata, _path(field)).table_valued("value", "type")
    return element, func.json_type(items.c.metadata, _path(field)) != "object"


def _path(field: str) -> str:
    return f'$."{field}"'
