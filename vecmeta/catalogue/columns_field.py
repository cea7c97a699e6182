"""One field of the metadata of all items as arrays: what kind of value each item has there, numbers, texts by number, elements of lists."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.catalogue.columns_cells import FALSE, LIST, MISSING, NULL, NUMBER, OBJECT, TEXT, TRUE, Cells, grown
from vecmeta.types import Keys, Mask
from vecmeta.where import Order, Scalar

PREFIX = 200  # characters of a text that are kept; of a longer one the rest counts by its hash
PER_TEXT = 160  # bytes that one more different text costs besides its characters
LATE = 1000  # texts that may stand unsorted behind the others, or a sixteenth of those
EXACT = 2.0**53  # up to here every whole number is a float64

_KINDS = {type(None): NULL, bool: TRUE, int: NUMBER, float: NUMBER, str: TEXT, list: LIST, dict: OBJECT}


class Texts(dict[str, int]):
    """The different texts of a field, each with its number: those that were sorted in their order, later ones as they came.

    Long ones are named by their beginning, NUL and a hash. Names compare as texts do, except for two long ones of the same beginning.
    """

    def __init__(self, ordered: Iterable[str] = (), *, long: bool = False) -> None:
        self.ordered = list(ordered)
        self.late: list[str] = []
        self.long = long  # there are long ones
        self.odd = False  # a text with NUL, where SQLite may take it to end
        self.bytes = sum(map(len, self.ordered)) + PER_TEXT * len(self.ordered)
        super().__init__(zip(self.ordered, range(len(self.ordered)), strict=True))

    def __missing__(self, text: str) -> int:
        self.odd |= "\0" in text
        self.long |= len(text) > PREFIX
        name = _name(text)
        code = self.get(name)
        if code is None:
            code = self[name] = len(self)
            self.late.append(name)
            self.bytes += PER_TEXT + len(name)
        return code

    def code(self, text: str) -> int:
        """The number of a text; -1 where no item has it."""
        return self.get(_name(text), -1)

    def span(self, order: Order, bound: str) -> tuple[int, int, list[int]]:
        """The numbers of the texts that stand in this order to `bound`, no longer than PREFIX: a range, and others besides."""
        first = bisect_right(self.ordered, bound) if order in ("$gt", "$lte") else bisect_left(self.ordered, bound)
        low, high = (first, len(self.ordered)) if order in ("$gt", "$gte") else (0, first)
        fits: Callable[[str], bool] = {"$gt": bound.__lt__, "$gte": bound.__le__, "$lt": bound.__gt__, "$lte": bound.__ge__}[
            order
        ]
        return low, high, [code for code, text in enumerate(self.late, len(self.ordered)) if fits(text)]

    @property
    def unsorted(self) -> bool:
        """Whether it is worth sorting them."""
        return len(self.late) > max(LATE, len(self.ordered) // 16)

    def sorted(self) -> tuple[Texts, NDArray[np.int32]]:
        """The same texts, all in order, and the new number of each old one, with -1 behind them for -1."""
        texts = Texts(sorted([*self.ordered, *sorted(self.late)]), long=self.long)
        moved = np.fromiter((texts[text] for text in chain(self.ordered, self.late)), np.int32, len(self))
        return texts, np.append(moved, np.int32(-1))


@dataclass(frozen=True, slots=True)
class Batch:
    """Values of n items, ready to be put in."""

    cells: Cells  # (n,)
    owners: Keys  # (m,) from 0 to below n: whose list an element is of
    elements: Cells  # (m,)


class Field:
    """One field. Not locked: reading values may go on beside conditions, putting them in may not."""

    def __init__(self, slots: int) -> None:
        self.texts = Texts()
        self._slots = slots
        self._cells = Cells.missing(slots)  # with room for more
        self._elements = Cells.missing(0)  # likewise; those of lists that are gone are missing
        self._owners = np.empty(0, np.int32)
        self._count = 0  # of elements
        self._gone = 0  # of elements too

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        return self._cells.bytes + self._elements.bytes + self._owners.nbytes + self.texts.bytes

    # -- writing -------------------------------------------------------------------------------------------------------------

    def read(self, values: Sequence[Any]) -> Batch | None:
        """The values of some items, as JSON has them; None when one of them is odd. Changes nothing but the numbering of texts."""
        owners = [place for place, value in enumerate(values) if type(value) is list for _ in value]
        elements = [element for value in values if type(value) is list for element in value] if owners else []
        cells, inner = self._read(values), self._read(elements)
        if cells is None or inner is None or self.texts.odd:
            return None
        return Batch(cells, np.array(owners, np.int64), inner)

    def _read(self, values: Sequence[Any]) -> Cells | None:
        kinds = np.fromiter(map(_KINDS.__getitem__, map(type, values)), np.uint8, len(values))
        cells = Cells(kinds)
        for kind in np.flatnonzero(np.bincount(kinds, minlength=8)).tolist():
            if kind not in (TRUE, NUMBER, TEXT):
                continue
            at = np.flatnonzero(kinds == kind)
            picked = values if len(at) == len(values) else [values[place] for place in at.tolist()]
            if kind == TRUE:
                kinds[at[~np.array(picked, np.bool_)]] = FALSE
            elif kind == NUMBER:
                numbers = _numbers(picked)
                if numbers is None:
                    return None
                cells.numbers = np.full(len(values), np.nan)
                cells.numbers[at] = numbers
            else:
                cells.codes = np.full(len(values), -1, np.int32)
                cells.codes[at] = list(map(self.texts.__getitem__, picked))
        return cells

    def grow(self, slots: int) -> None:
        """Have so many slots."""
        self._cells.grow(slots)
        self._slots = slots

    def put(self, slots: Keys, batch: Batch) -> None:
        """Replace the values of these slots, one for each."""
        self._kill(slots)
        self._cells.put(slots, batch.cells)
        end = self._count + len(batch.owners)
        self._elements.grow(end)
        self._owners = grown(self._owners, end, 0)
        self._elements.put(slice(self._count, end), batch.elements)
        self._owners[self._count : end] = slots[batch.owners]
        self._count = end

    def clear(self, slots: Keys) -> None:
        """Let the field be missing from these slots."""
        self._kill(slots)
        self._cells.clear(slots)

    def _kill(self, slots: Keys) -> None:
        lists = slots[self._cells.kinds[slots] == LIST]
        if not len(lists):
            return
        hit = np.zeros(self._slots, np.bool_)
        hit[lists] = True
        dead = np.flatnonzero(hit[self._owners[: self._count]])
        self._elements.clear(dead)
        self._gone += len(dead)
        if self._gone > max(LATE, self._count // 2):
            self._keep_elements(self._elements.kinds[: self._count] != MISSING)

    def _keep_elements(self, which: Mask) -> None:
        at = np.flatnonzero(which)
        self._elements.keep(at)
        self._owners = self._owners[at]
        self._count, self._gone = len(at), 0

    def keep(self, slots: Keys) -> None:
        """Only these slots, which are ascending; they are numbered anew."""
        moved = np.full(self._slots, -1, np.int32)
        moved[slots] = np.arange(len(slots), dtype=np.int32)
        self._owners = moved[self._owners[: self._count]]
        self._keep_elements((self._owners >= 0) & (self._elements.kinds[: self._count] != MISSING))
        self._cells.keep(slots)
        self._slots = len(slots)

    def renumber(self, texts: Texts, moved: NDArray[np.int32]) -> None:
        """Take over what `texts.sorted()` gave."""
        self.texts = texts
        for cells in (self._cells, self._elements):
            if cells.codes is not None:
                cells.codes = moved[cells.codes]

    # -- conditions; (slots,), the caller's own ------------------------------------------------------------------------------

    def exists(self) -> Mask:
        """Where the field is, null included."""
        found: Mask = self._cells.kinds[: self._slots] != MISSING
        return found

    def among(self, values: Sequence[Scalar]) -> Mask:
        """Where an element equals one of the values."""
        kinds = {NULL if v is None else TRUE if v else FALSE for v in values if v is None or isinstance(v, bool)}
        whole = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        numbers = {float(v) for v in whole if float(v) == v}  # another whole number is no float64, and equals none
        codes = {self.texts.code(v) for v in values if isinstance(v, str)} - {-1}
        wanted = sorted(kinds), sorted(numbers), sorted(codes), len(self.texts)
        return self._joined(lambda cells, count: cells.equal(count, *wanted))

    def compare(self, order: Order, value: str | int | float) -> Mask | None:
        """Where an element of the value's type stands in this order to it; None when the arrays cannot tell."""
        if isinstance(value, str):
            if len(value) > PREFIX and self.texts.long:
                return None
            span = self.texts.span(order, value)
            return self._joined(lambda cells, count: cells.within(count, *span, len(self.texts)))
        bound = float(value)
        if bound > value:  # rounded up: no float64 lies between the two
            order = "$gte" if order in ("$gt", "$gte") else "$lt"
        elif bound < value:
            order = "$gt" if order in ("$gt", "$gte") else "$lte"
        return self._joined(lambda cells, count: cells.compare(count, order, bound))

    def _joined(self, test: Callable[[Cells, int], Mask]) -> Mask:
        found = test(self._cells, self._slots)
        if self._count:
            found[self._owners[: self._count][test(self._elements, self._count)]] = True
        return found


def _numbers(values: Sequence[int | float]) -> NDArray[np.float64] | None:
    """As float64; None when a whole number is none of those, or is one that SQLite holds as a rounded float."""
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        return None
    for place in np.flatnonzero(np.abs(numbers) >= EXACT).tolist():
        value = values[place]
        if isinstance(value, int) and not (-(2**63) <= value < 2**63 and int(numbers[place]) == value):
            return None
    return numbers


def _name(text: str) -> str:
    if len(text) <= PREFIX:
        return text
    return f"{text[:PREFIX]}\0{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
