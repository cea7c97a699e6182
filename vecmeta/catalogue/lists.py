"""Long lists of values in statements, cut: a statement holds only so many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, Select

T = TypeVar("T")
AT_ONCE = 500  # values in one IN (…)


def chunks(values: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """The values, so many at a time."""
    chunk: list[T] = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def among(connection: Connection, query: Select[Any], column: Any, values: Iterable[Any]) -> Iterator[Any]:
    """The rows of a query whose `column` is one of many values, in no order."""
    for chunk in chunks(values):
        yield from connection.execute(query.where(column.in_(chunk)))
