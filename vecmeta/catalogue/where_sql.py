"""What filters are in any SQL: conditions on fields, as a database says them, joined by and, or and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sqlalchemy import ColumnElement, and_, false, not_, or_, true

from vecmeta.where import All, Among, Compare, Exists, Node, Not, Some

Condition: TypeAlias = Among | Compare | Exists  # on one field


def joined(node: Node, said: Callable[[Condition], ColumnElement[bool]]) -> ColumnElement[bool]:
    """The whole filter, with `said` for what stands at its leaves."""
    match node:
        case All(parts):
            return and_(true(), *(joined(part, said) for part in parts))
        case Some(parts):
            return or_(false(), *(joined(part, said) for part in parts))
        case Not(part):
            return not_(joined(part, said))
        case condition:
            return said(condition)
