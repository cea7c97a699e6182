"""Values of different kinds side by side in arrays, so that a condition is one pass over one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecmeta.types import Keys, Mask
from vecmeta.where import Order

A = TypeVar("A", bound=NDArray[Any])

FEW = 4  # values that are looked for one by one; more in one pass by a table

MISSING, NULL, FALSE, TRUE, NUMBER, TEXT, LIST, OBJECT = range(8)


@dataclass(slots=True)
class Cells:
    """Values side by side. What is no number is NaN among the numbers and what is no text -1 among the codes, which equal nothing."""

    kinds: NDArray[np.uint8]
    numbers: NDArray[np.float64] | None = None  # None: there has been none so far
    codes: NDArray[np.int32] | None = None

    @classmethod
    def missing(cls, count: int) -> Cells:
        """As many of which none is there."""
        return cls(np.zeros(count, np.uint8))

    @property
    def bytes(self) -> int:
        """What they hold in memory."""
        return sum(array.nbytes for array in (self.kinds, self.numbers, self.codes) if array is not None)

    def grow(self, room: int) -> None:
        """Make room at the end, for missing ones."""
        self.kinds = grown(self.kinds, room, MISSING)
        if self.numbers is not None:
            self.numbers = grown(self.numbers, room, np.nan)
        if self.codes is not None:
            self.codes = grown(self.codes, room, -1)

    def put(self, at: Keys | slice, cells: Cells) -> None:
        """Replace what stands at these places."""
        self.kinds[at] = cells.kinds
        if self.numbers is None and cells.numbers is not None:
            self.numbers = np.full(len(self.kinds), np.nan)
        if self.numbers is not None:
            self.numbers[at] = np.nan if cells.numbers is None else cells.numbers
        if self.codes is None and cells.codes is not None:
            self.codes = np.full(len(self.kinds), -1, np.int32)
        if self.codes is not None:
            self.codes[at] = -1 if cells.codes is None else cells.codes

    def clear(self, at: Keys) -> None:
        """Let the values at these places be missing."""
        self.put(at, Cells.missing(len(at)))

    def keep(self, at: Keys) -> None:
        """Only these, in this order."""
        self.kinds = self.kinds[at]
        self.numbers = None if self.numbers is None else self.numbers[at]
        self.codes = None if self.codes is None else self.codes[at]

    def equal(self, count: int, kinds: Sequence[int], numbers: Sequence[float], codes: Sequence[int], texts: int) -> Mask:
        """(count,): whether it is of one of the kinds, one of the numbers, or one of the codes below `texts`; all ascending."""
        found = np.zeros(count, np.bool_)
        for array, wanted in ((self.kinds, kinds), (self.numbers, numbers), (self.codes, codes)):
            if array is None or not wanted:
                continue
            values = array[:count]
            if len(wanted) <= FEW:
                for value in wanted:
                    found |= values == value
            elif array is self.codes:
                table = np.zeros(texts + 1, np.bool_)  # the last one is for -1
                table[np.asarray(wanted)] = True
                found |= table[values]
            else:
                ordered = np.asarray(wanted, array.dtype)
                found |= ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
        return found

    def compare(self, count: int, order: Order, bound: float) -> Mask:
        """(count,): whether it is a number that stands in this order to the bound."""
        if self.numbers is None:
            return np.zeros(count, np.bool_)
        return _OPERATIONS[order](self.numbers[:count], bound)

    def within(self, count: int, low: int, high: int, others: Sequence[int], texts: int) -> Mask:
        """(count,): whether it is a text with a code from `low` to below `high`, or one of the others."""
        if self.codes is None or (low >= high and not others):
            return np.zeros(count, np.bool_)
        codes = self.codes[:count]
        found: Mask = codes >= low
        found &= codes < high
        if others:
            found |= self.equal(count, (), (), others, texts)
        return found


_OPERATIONS: dict[Order, Callable[[Any, float], Mask]] = {
    "$gt": np.greater,
    "$gte": np.greater_equal,
    "$lt": np.less,
    "$lte": np.less_equal,
}


def grown(array: A, room: int, fill: float) -> A:
    """The array itself when it has the room, else a longer copy, filled up."""
    if room <= len(array):
        return array
    longer = np.full(room if not len(array) else max(room, len(array) * 5 // 4), fill, array.dtype)
    longer[: len(array)] = array
    return longer  # type: ignore[return-value]  # of the same type as what was given
