"""Filters compiled to PostgreSQL's jsonb functions over the JSON text of a row's metadata."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ColumnElement, Numeric, Text, and_, case, cast, column, exists, false, func, literal, literal_column, not_, or_, select, true,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSONB

from vecmeta.catalogue import escapes
from vecmeta.catalogue.tables import items
from vecmeta.where import All, Among, Compare, Exists, Node, Not, Some

_DOCUMENT = cast(items.c.metadata, JSONB)
_ELEMENT: ColumnElement[Any] = column("element", JSONB)
_TEXT: ColumnElement[str] = _ELEMENT.op("#>>")(literal_column("'{}'")).cast(Text).collate("C")  # in the order of code points


def compiled(node: Node) -> ColumnElement[bool]:
    """The condition of `node` on a row of `items`; all values travel as bound parameters."""
    match node:
        case All(parts):
            return and_(true(), *(compiled(part) for part in parts))
        case Some(parts):
            return or_(false(), *(compiled(part) for part in parts))
        case Not(part):
            return not_(compiled(part))
        case Exists(field):
            return _DOCUMENT.has_key(field)
        case Among(field, values):
            # jsonb's equality keeps 1, "1" and true apart, and takes 1 and 1.0 for the same.
            wanted = json.dumps([escapes.text_in(v) if isinstance(v, str) else v for v in values])
            return _some(field, _ELEMENT.in_(select(func.jsonb_array_elements(cast(literal(wanted, Text), JSONB)))))
        case Compare(field, order, value):
            if isinstance(value, str):
                kind, element, bound = "string", _TEXT, literal(escapes.text_in(value), Text)
            else:
                # As decimals: what was written with the fewest digits compares as the number itself does, and whole numbers exactly.
                kind, element, bound = "number", _ELEMENT.cast(Numeric), literal(Decimal(repr(value)), Numeric)
            comparison = {"$gt": element > bound, "$gte": element >= bound, "$lt": element < bound, "$lte": element <= bound}[order]
            # CASE, for the sides of an AND come in any order, and a text is no number.
            return _some(field, case((func.jsonb_typeof(_ELEMENT) == kind, comparison), else_=false()))


def _some(field: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """That the condition holds for one of the elements of a list, or for the one value; an object matches nothing."""
    value = _DOCUMENT[field]
    kind = func.jsonb_typeof(value)
    # Over one value that is no list, for jsonb_array_elements takes nothing else.
    elements = func.jsonb_array_elements(case((kind == "array", value), else_=func.jsonb_build_array(value)))
    element = elements.table_valued("element", name="elements").render_derived()
    there = and_(_DOCUMENT.has_key(field), kind != "object")
    return and_(there, exists(select(literal(1)).select_from(element).where(condition)))
