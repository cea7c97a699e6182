"""The filter language: parse `where` once into a small tree that every backend compiles.

    {"lang": "en", "year": {"$gte": 2020, "$lt": 2024}, "$or": [{"tags": "new"}, {"stock": {"$exists": false}}]}

A field is a top-level key of the metadata; its name is taken literally. A value is a text, a number, a boolean or null, and types
never mix: 1 is not "1" nor true. A list in the metadata matches when one of its elements does; an object matches nothing.

``$eq`` (the short form) ``$in`` ``$gt`` ``$gte`` ``$lt`` ``$lte`` need the field; ``$ne`` and ``$nin`` are their negations, so they also
match where the field is missing (as in MongoDB, Chroma and Pinecone). ``$exists`` asks for the key itself, null included.
``$and`` and ``$or`` take a list of filters, ``$not`` one filter (or, under a field, its conditions). Several conditions side by side
are joined by "and"; an empty filter matches everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from vecmeta.errors import InvalidFilter

MAX_DEPTH = 32
MAX_CONDITIONS = 1000
MAX_LIST = 10_000

Scalar: TypeAlias = str | int | float | bool | None
Order: TypeAlias = Literal["$gt", "$gte", "$lt", "$lte"]
_ORDERS = ("$gt", "$gte", "$lt", "$lte")
_KNOWN = "$eq $ne $gt $gte $lt $lte $in $nin $exists $and $or $not"


@dataclass(frozen=True, slots=True)
class Among:
    """One of the field's elements equals one of the values (``$eq`` has one value)."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """One of the field's elements has the value's type (text or number) and stands in this order to it."""

    field: str
    order: Order
    value: str | int | float


@dataclass(frozen=True, slots=True)
class Exists:
    """The key is there."""

    field: str


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; none: always."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds; none: never."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Node


Node: TypeAlias = Among | Compare | Exists | All | Some | Not


def parse(where: Mapping[str, Any]) -> Node:
    """The tree of a filter.

    Raises:
        InvalidFilter: unknown operator, wrong type of value, too deep (32) or too large (1,000 conditions, 10,000 values in a list).
    """
    parser = _Parser()
    return parser.filter(where, 0)


class _Parser:
    def __init__(self) -> None:
        self.conditions = 0

    def filter(self, where: object, depth: int) -> Node:
        if not isinstance(where, Mapping):
            raise InvalidFilter(f"a filter is an object such as {{'lang': 'en'}}, not {_show(where)}")
        if depth > MAX_DEPTH:
            raise InvalidFilter(f"the filter is nested deeper than {MAX_DEPTH} levels")
        return _joined([self.entry(key, value, depth) for key, value in where.items()])

    def entry(self, key: object, value: object, depth: int) -> Node:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise InvalidFilter(f"the filter has more than {MAX_CONDITIONS} conditions")
        if not isinstance(key, str):
            raise InvalidFilter(f"a field's name is a text, not {_show(key)}")
        if key in ("$and", "$or"):
            if not isinstance(value, (list, tuple)) or not value:
                raise InvalidFilter(f"{key} takes a list of at least one filter, not {_show(value)}")
            parts = tuple(self.filter(part, depth + 1) for part in value)
            return All(parts) if key == "$and" else Some(parts)
        if key == "$not":
            return Not(self.filter(value, depth + 1))
        if key.startswith("$"):
            raise InvalidFilter(f"unknown operator {key!r}; known: {_KNOWN}")
        return self.field(_name(key), value, depth + 1)

    def field(self, name: str, value: object, depth: int) -> Node:
        if not isinstance(value, Mapping):
            return Among(name, (_scalar(name, "$eq", value),))
        if not value:
            raise InvalidFilter(f"field {name!r} has an empty object of conditions; for equality give the value itself")
        if depth > MAX_DEPTH:
            raise InvalidFilter(f"the filter is nested deeper than {MAX_DEPTH} levels")
        return _joined([self.condition(name, operator, operand, depth) for operator, operand in value.items()])

    def condition(self, name: str, operator: object, operand: object, depth: int) -> Node:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise InvalidFilter(f"the filter has more than {MAX_CONDITIONS} conditions")
        if operator in ("$eq", "$ne"):
            among = Among(name, (_scalar(name, str(operator), operand),))
            return among if operator == "$eq" else Not(among)
        if operator in ("$in", "$nin"):
            if not isinstance(operand, (list, tuple, set, frozenset)):
                raise InvalidFilter(f"{operator} on {name!r} takes a list, not {_show(operand)}")
            if len(operand) > MAX_LIST:
                raise InvalidFilter(f"{operator} on {name!r} has {len(operand)} values; at most {MAX_LIST}")
            among = Among(name, tuple(_scalar(name, str(operator), v) for v in operand))
            return among if operator == "$in" else Not(among)
        if operator in _ORDERS:
            bound = _scalar(name, str(operator), operand)
            if bound is None or isinstance(bound, bool):
                raise InvalidFilter(f"{operator} on {name!r} takes a number or a text, not {_show(operand)}")
            return Compare(name, operator, bound)  # type: ignore[arg-type]  # `in _ORDERS` has just shown it
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise InvalidFilter(f"$exists on {name!r} takes true or false, not {_show(operand)}")
            return Exists(name) if operand else Not(Exists(name))
        if operator == "$not":
            return Not(self.field(name, operand, depth + 1))
        raise InvalidFilter(f"unknown operator {_show(operator)} on {name!r}; known: {_KNOWN}")


def _joined(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _name(key: str) -> str:
    # A JSON path cannot quote these in every database; metadata may hold such keys, filters cannot ask for them.
    if not key or any(c in '"\\' or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in key):
        raise InvalidFilter(f"cannot filter on the field name {key!r}: empty, or with quotes, backslashes or control characters")
    return key


def _scalar(name: str, operator: str, value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if any(0xD800 <= ord(c) < 0xE000 for c in value):
            raise InvalidFilter(f"{operator} on {name!r}: the text holds a lone surrogate")
        if "\0" in value:  # where SQLite would take the text to end
            raise InvalidFilter(f"{operator} on {name!r}: the text holds NUL")
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else float(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidFilter(f"{operator} on {name!r} takes a text, a finite number, true, false or null, not {_show(value)}")


def _show(value: object) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested very deeply"
    return text if len(text) <= 80 else text[:77] + "..."
