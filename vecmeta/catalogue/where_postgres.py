"""Filters compiled to PostgreSQL's JSON functions over the JSON text of a row's metadata.

`json`, not `jsonb`: it keeps a number as it was written, which tells whole numbers from floats.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Numeric,
    Text,
    and_,
    case,
    cast,
    column,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSON

from vecmeta.catalogue import escapes
from vecmeta.catalogue.tables import items
from vecmeta.catalogue.where_sql import Condition, joined
from vecmeta.where import Among, Compare, Exists, Node, Scalar

_INT64 = 2**63
_EXACT = 10**16  # floats below are written with all their digits

_ELEMENT: ColumnElement[Any] = column("element", JSON)
_element_kind = func.json_typeof(_ELEMENT)
_WRITTEN = _ELEMENT.cast(Text)
_TEXT: ColumnElement[str] = _ELEMENT.op("#>>")(literal_column("'{}'")).cast(Text).collate("C")  # in the order of code points


def compiled(node: Node) -> ColumnElement[bool]:
    """The condition of `node` on a row of `items`; all values travel as bound parameters."""
    return joined(node, _said)


def _said(condition: Condition) -> ColumnElement[bool]:
    match condition:
        case Exists(field):
            return _value(field).is_not(None)
        case Among(field, values):
            return _some(field, _equals(values))
        case Compare(field, order, value):
            kind: str
            element: ColumnElement[Any]
            bound: ColumnElement[Any]
            if isinstance(value, str):
                kind, element, bound = "string", _TEXT, literal(escapes.text_in(value), Text)
            else:
                kind, element, bound = "number", _number(), literal(_told(value), Numeric)
            comparison = {"$gt": element > bound, "$gte": element >= bound, "$lt": element < bound, "$lte": element <= bound}[
                order
            ]
            return _some(field, _if(kind, comparison))


def _equals(values: tuple[Scalar, ...]) -> ColumnElement[bool]:
    # JSON types keep 1, "1" and true apart.
    names = [{None: "null", True: "true", False: "false"}[v] for v in values if v is None or isinstance(v, bool)]
    numbers = [str(_told(v)) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    texts = [escapes.text_in(v) for v in values if isinstance(v, str)]
    choices: list[ColumnElement[bool]] = []
    if names:
        choices.append(_WRITTEN.in_(sorted(set(names))))
    if numbers:
        choices.append(_if("number", _number().in_(select(_unpacked(numbers).cast(Numeric)))))
    if texts:
        choices.append(_if("string", _TEXT.in_(select(_unpacked(texts).collate("C")))))
    return or_(false(), *choices)


def _if(kind: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    # CASE, for the sides of an AND come in any order, and a text is no number.
    return case((_element_kind == kind, condition), else_=false())


def _unpacked(values: list[str]) -> ColumnElement[str]:
    return func.json_array_elements_text(cast(literal(json.dumps(values), Text), JSON))


def _told(value: int | float) -> Decimal:
    """A number as the decimal that stands for it; `_number` gives the same to the same and keeps the order.

    What decimal a float is written as says which float it is, not what its value is: from 10**16 on whole numbers lie between the two.
    """
    if isinstance(value, float) and abs(value) >= _EXACT and -_INT64 <= value < _INT64:
        return Decimal(int(value))
    return Decimal(repr(value))


def _number() -> ColumnElement[Decimal]:
    """The decimal that stands for an element that is a number. What is no int64 is taken for a float, as in SQLite."""
    number, double = _WRITTEN.cast(Numeric), _WRITTEN.cast(Double)
    return case(
        (func.abs(number) < _constant(_EXACT), number),
        (
            and_(_WRITTEN.op("~")(literal_column("'^-?[0-9]+$'")), number.between(_constant(-_INT64), _constant(_INT64 - 1))),
            number,
        ),
        (func.abs(number) > _constant("1.7976931348623157e308"), number),  # than every float
        (and_(double >= _constant(-_INT64), double < _constant(_INT64)), double.cast(BigInteger).cast(Numeric)),
        else_=double.cast(Text).cast(Numeric),
    )


def _constant(value: int | str) -> ColumnElement[Any]:
    return literal_column(str(value))


def _value(field: str) -> ColumnElement[Any]:
    return cast(items.c.metadata, JSON)[field]


def _some(field: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """That the condition holds for one of the elements of a list, or for the one value; an object matches nothing."""
    value = _value(field)
    kind = func.json_typeof(value)
    # Over one value that is no list, for json_array_elements takes nothing else.
    elements = func.json_array_elements(case((kind == "array", value), else_=func.json_build_array(value)))
    element = elements.table_valued("element", name="elements").render_derived()
    there = and_(value.is_not(None), kind != "object")
    return and_(there, exists(select(literal(1)).select_from(element).where(condition)))
