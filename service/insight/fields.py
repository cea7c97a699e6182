"""The metadata fields of a collection, as a filter builder needs them: kinds, usual values, range."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "number", "boolean", "list", "object", "null"]
VALUES = 30  # usual values that are told for each field
LONGEST = 200  # characters of a text that may be one of them


@dataclass(frozen=True, slots=True)
class Field:
    """A field: of how many items, of which kinds, its most usual values, and the range of its numbers."""

    name: str
    items: int
    kinds: tuple[Kind, ...]
    values: tuple[tuple[str | float | bool, int], ...]
    distinct: int
    low: float | None
    high: float | None


def fields(metadata: Iterable[Mapping[str, Any]]) -> list[Field]:
    """The fields of some items, those of most items first."""
    items: Counter[str] = Counter()
    kinds: dict[str, Counter[Kind]] = defaultdict(Counter)
    values: dict[str, Counter[tuple[str, str | float | bool]]] = defaultdict(Counter)
    for one in metadata:
        for name, value in one.items():
            items[name] += 1
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, (bool, int, float)) or (isinstance(part, str) and len(part) <= LONGEST):
                    values[name][kind(part), part] += 1  # with its kind: True is not 1
            kinds[name][kind(value)] += 1
    return [_field(name, count, kinds[name], values[name]) for name, count in sorted(items.items(), key=lambda f: (-f[1], f[0]))]


def kind(value: object) -> Kind:
    """The kind of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"


def _field(name: str, count: int, kinds: Counter[Kind], values: Counter[tuple[str, str | float | bool]]) -> Field:
    usual = sorted(values.items(), key=lambda v: (-v[1], str(v[0][1])))[:VALUES]
    numbers = [float(value) for (of, value) in values if of == "number"]
    low, high = (min(numbers), max(numbers)) if numbers else (None, None)
    return Field(name, count, tuple(sorted(kinds)), tuple((value, n) for (_, value), n in usual), len(values), low, high)
