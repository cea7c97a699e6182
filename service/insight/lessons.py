"""Notions that a sample can be taught: a few items of each value of a field, marked; the others are left to see what it brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vecmeta import Item

LEFT = 3  # items of a concept at least that nobody marks
MOST = 12  # concepts


@dataclass(frozen=True, slots=True)
class Lesson:
    """A notion by its field, and the ids to mark for each concept."""

    name: str
    concepts: dict[str, list[str]]


def lesson(items: Sequence[Item], field: str, marks: int) -> Lesson | None:
    """The concepts of most items with `marks` of each, spread over the sample; None where fewer than two have items enough."""
    members: dict[str, list[str]] = {}
    for item in items:
        value = item.metadata.get(field)
        if isinstance(value, str):
            members.setdefault(value, []).append(item.id)
    enough = sorted((value for value, ids in members.items() if len(ids) >= marks + LEFT), key=lambda v: (-len(members[v]), v))
    if len(enough) < 2:
        return None
    return Lesson(field, {value: _spread(members[value], marks) for value in enough[:MOST]})


def _spread(ids: Sequence[str], count: int) -> list[str]:
    return [ids[(2 * part + 1) * len(ids) // (2 * count)] for part in range(count)]
