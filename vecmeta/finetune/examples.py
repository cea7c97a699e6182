"""Labelled contents: which belong together, which do not, and a stratified part that is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.types import Content, Keys

LEAST_TO_HOLD_OUT = 3  # members of a class from which one can be spared


@dataclass(frozen=True, eq=False)
class Examples:
    """Contents and the classes, concepts or queries that put them together.

    ``contents``  n texts, or n pictures (bytes or Path).
    ``classes``   names, C of them.
    ``members``   C arrays of rows that belong to a class, ascending.
    ``against``   C arrays of rows that were said not to.
    ``asks``      (C,) the row of the class's own query, which is never held out; -1: it has none.
    ``about``     free JSON for the record: where they come from, what was left out.
    """

    contents: tuple[Content, ...]
    classes: tuple[str, ...]
    members: tuple[Keys, ...]
    against: tuple[Keys, ...]
    asks: Keys
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.contents)

    def y(self, rows: Keys) -> NDArray[np.float32]:
        """(len(rows), C) float32, 1 where a row belongs to a class; for `vecmeta.evaluate`."""
        place = np.full(len(self.contents), -1)
        place[rows] = np.arange(len(rows))
        y = np.zeros((len(rows), len(self.classes)), np.float32)
        for column, members in enumerate(self.members):
            there = place[members]
            y[there[there >= 0], column] = 1
        return y

    def part(self, keep: NDArray[np.bool_]) -> Examples:
        """The same contents, and of the classes only what these rows (n,) say."""
        members, against = (tuple(rows[keep[rows]] for rows in listed) for listed in (self.members, self.against))
        return Examples(self.contents, self.classes, members, against, self.asks, self.about)

    def digest(self) -> str:
        """SHA-256 of all that is learned from."""
        found = hashlib.sha256()
        for content in self.contents:
            data = content.encode() if isinstance(content, str) else _bytes(content)
            found.update(len(data).to_bytes(8, "little") + data)
        for name, members, against in zip(self.classes, self.members, self.against, strict=True):
            found.update(f"{name}\0{members.tolist()}\0{against.tolist()}\0".encode())
        found.update(self.asks.tobytes())
        return found.hexdigest()


def labelled(contents: Sequence[Content], labels: Sequence[Any], about: dict[str, Any] | None = None) -> Examples:
    """Examples of contents with a label each; None and "" are unlabelled, a list puts a content into several classes.

    Raises:
        InvalidConfig: as many labels as contents are needed, two classes, and a class of two; says what there is.
    """
    if len(contents) != len(labels):
        raise InvalidConfig(f"{len(contents)} contents need as many labels, not {len(labels)}")
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(labels):
        for label in dict.fromkeys(value) if isinstance(value, (list, tuple)) else [value]:
            if label is not None and str(label):
                rows.setdefault(str(label), []).append(row)
    classes = tuple(sorted(rows))
    members = tuple(np.array(rows[name], np.int64) for name in classes)
    none = tuple(np.empty(0, np.int64) for _ in classes)
    return checked(Examples(tuple(contents), classes, members, none, np.full(len(classes), -1, np.int64), about or {}))


def checked(examples: Examples) -> Examples:
    """The examples themselves, if something can be learned from them. Raises InvalidConfig."""
    names = examples.classes
    if not names:
        raise InvalidConfig("there are no labels to learn from: at least two classes with two items each are needed")
    if len(names) == 1 and not len(examples.against[0]):
        raise InvalidConfig(
            f"all {len(examples.members[0])} labelled items are of one class, {names[0]!r}: without a second one there is nothing to "
            "tell apart"
        )
    if not any(len(rows) >= 2 for rows in examples.members):
        raise InvalidConfig(
            f"none of the {len(names)} classes has two items: what belongs together is learned from pairs; label at least two of each"
        )
    return examples


@dataclass(frozen=True, eq=False)
class Split:
    """What is learned from, and what is held out: (n,) bool of the rows whose memberships are held out."""

    learned: Examples
    held_out: NDArray[np.bool_]


def stratified(examples: Examples, share: float, seed: int) -> Split:
    """Hold out a share of each class, at least one of `LEAST_TO_HOLD_OUT`, none of fewer; a row is held out of all its classes.

    The order of classes and rows decides nothing: every class loses nearly the same share.
    """
    rng = np.random.default_rng(seed)
    out = np.zeros(len(examples), bool)
    asking = np.unique(examples.asks[examples.asks >= 0])
    for members in sorted(examples.members, key=len):  # rare classes choose first
        free = np.setdiff1d(members, asking)
        wanted = round(share * len(free)) if share else 0
        if share and not wanted and len(members) >= LEAST_TO_HOLD_OUT:
            wanted = 1
        wanted = min(wanted, len(members) - 2) - int(out[members].sum())
        if wanted > 0:
            left = free[~out[free]]
            out[rng.permutation(left)[:wanted]] = True
    return Split(examples.part(~out), out)


def _bytes(content: Content) -> bytes:
    if isinstance(content, Path):
        try:
            return content.read_bytes()
        except OSError as error:
            raise InvalidConfig(f"the picture {content} cannot be read: {error.strerror or error}") from error
    return bytes(content) if not isinstance(content, str) else content.encode()
