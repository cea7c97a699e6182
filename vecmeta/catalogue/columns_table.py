"""The metadata of all items of a collection as one table of fields in memory, that conditions are asked of and writes are put into."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from vecmeta.catalogue.columns_cells import grown
from vecmeta.catalogue.columns_field import LATE, Batch, Field
from vecmeta.types import Keys, Mask, Matching
from vecmeta.where import All, Among, Compare, Exists, Node, Not, Some

FIELDS = 256  # fields held at most
BYTES = 512 * 2**20  # held at most


class Table:
    """Fields of the items of these keys, ascending, as of a revision. `lock` is for the caller to hold around what is marked so.

    Every field is there, or ``complete`` is False. One that holds what the arrays cannot tell exactly, or too much, is there as None.
    Fields that are ``wanted`` stay when there is no room for all.
    """

    def __init__(self, keys: Keys, revision: int, wanted: Iterable[str], next_stamp: Callable[[], int]) -> None:
        self.lock = threading.Lock()
        self.revision = revision
        self.complete = True
        self._next_stamp = next_stamp
        self.wanted = set(wanted)
        self._fields: dict[str, Field | None] = {name: Field(len(keys)) for name in self.wanted}
        self._most = min(FIELDS, BYTES // (1 + 9 * len(keys)))  # at 9 bytes for a number and its kind
        self._held = keys  # with room for more
        self._live = np.ones(len(keys), np.bool_)  # likewise
        self._dead = 0
        self._show(len(keys), None)

    def lacks(self, names: Iterable[str]) -> bool:
        """Whether one of the fields was left out."""
        return not self.complete and any(name not in self._fields for name in names)

    def __len__(self) -> int:
        return len(self._keys) - self._dead

    # -- writing: one thread at a time ---------------------------------------------------------------------------------------

    def fill(self, keys: Keys, documents: Sequence[dict[str, Any]]) -> None:
        """Put in metadata of items whose keys are there and that have none yet. For a table that nobody asks yet."""
        slots = np.searchsorted(self._keys, keys)
        for field, at, batch in self._read(documents):
            field.put(slots[at], batch)
        self._stay_small()

    def finish(self) -> None:
        """After the last `fill`."""
        for field in self._there():
            if field.texts.late:
                field.renumber(*field.texts.sorted())

    def update(self, revision: int, removed: Keys, changed: Keys, documents: Sequence[dict[str, Any]]) -> bool:
        """Apply the writes up to a revision, all at once; False when a key is not where it belongs, and nothing is applied.

        Takes the lock itself, and not for reading the documents.
        """
        slots, old = self._found(changed)
        new = np.sort(changed[~old])
        if not self._live[slots[old]].all() or (len(new) and len(self._keys) and new[0] < self._keys[-1]):
            return False  # keys are given in ascending order and never again
        slots[~old] = len(self._keys) + np.searchsorted(new, changed[~old])
        graves, known = self._found(removed)
        graves = graves[known]
        graves = graves[self._live[graves]]
        read = self._read(documents)
        ordered = [(field, field.texts.sorted()) for field in self._there() if field.texts.unsorted]
        with self.lock:
            if len(new):
                self._append(new)
            if old.any():
                for field in self._there():
                    field.clear(slots[old])
            for field, at, batch in read:
                field.put(slots[at], batch)
            for field, texts in ordered:
                field.renumber(*texts)
            self._live[graves] = False
            self._dead += len(graves)
            if self._dead > max(LATE, len(self)):
                self._compact()
            self._stay_small()
            self.revision = revision
        return True

    def _read(self, documents: Sequence[dict[str, Any]]) -> list[tuple[Field, Keys, Batch]]:
        """What to put where, by field; the places are those of the documents."""
        columns: dict[str, tuple[list[int], list[Any]]] = {}
        for place, document in enumerate(documents):
            for name, value in document.items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = [], []
                column[0].append(place)
                column[1].append(value)
        read = []
        for name, (places, values) in columns.items():
            if name not in self._fields:
                # In a complete table a new field has been missing so far; in another one nobody knows.
                self.complete = self.complete and len(self._fields) < self._most
                if not self.complete:
                    continue
                self._fields[name] = Field(len(self._keys))
            field = self._fields[name]
            batch = None if field is None else field.read(values)
            if field is None or batch is None:
                self._fields[name] = None
            else:
                read.append((field, np.array(places, np.int64), batch))
        return read

    def _found(self, keys: Keys) -> tuple[Keys, Mask]:
        """Where each key is or would be, and whether it is there."""
        slots = np.searchsorted(self._keys, keys)
        there = slots < len(self._keys)
        there[there] = self._keys[slots[there]] == keys[there]
        return slots, there

    def _there(self) -> list[Field]:
        return [field for field in self._fields.values() if field is not None]

    def _append(self, keys: Keys) -> None:
        start, end = len(self._keys), len(self._keys) + len(keys)
        self._held, self._live = grown(self._held, end, 0), grown(self._live, end, True)
        self._held[start:end] = keys
        for field in self._there():
            field.grow(end)
        self._show(end, self._base)

    def _compact(self) -> None:
        slots = np.flatnonzero(self._live[: len(self._keys)])
        self._held, self._live, self._dead = self._keys[slots], np.ones(len(slots), np.bool_), 0
        for field in self._there():
            field.keep(slots)
        self._show(len(slots), None)

    def _show(self, count: int, base: int | None) -> None:
        self._keys = self._held[:count]
        self._keys.flags.writeable = False
        self._stamp = self._next_stamp()
        self._base = self._stamp if base is None else base

    def _stay_small(self) -> None:
        while sum(field.bytes for field in self._there()) > BYTES:
            sizes = {name: field.bytes for name, field in self._fields.items() if field is not None}
            unwanted = sizes.keys() - self.wanted
            largest = max(unwanted or sizes, key=sizes.__getitem__)
            if unwanted:
                del self._fields[largest]
                self.complete = False
            else:
                self._fields[largest] = None

    # -- asking: with the lock held ------------------------------------------------------------------------------------------

    def matching(self, node: Node, names: set[str]) -> Matching | None:
        """The items that match, by conditions on these fields; None when the arrays cannot tell."""
        self.wanted |= names & self._fields.keys()
        try:
            mask = self._mask(node)
        except _UnknowableError:
            return None
        if self._dead:
            mask &= self._live[: len(mask)]
        return Matching(self._keys, mask, self._stamp, self._base)

    def placed(self, keys: Keys) -> Matching | None:
        """These items, whatever they are; None when they are not all here."""
        slots, there = self._found(keys)
        if not there.all():
            return None
        mask = np.zeros(len(self._keys), np.bool_)
        mask[slots] = self._live[slots]
        return Matching(self._keys, mask, self._stamp, self._base)

    def _mask(self, node: Node) -> Mask:
        match node:
            case All(parts):
                return reduce(np.logical_and, map(self._mask, parts)) if parts else np.ones(len(self._keys), np.bool_)
            case Some(parts):
                return reduce(np.logical_or, map(self._mask, parts)) if parts else np.zeros(len(self._keys), np.bool_)
            case Not(part):
                return ~self._mask(part)
            case _:
                found = self._condition(node)
                if found is None:
                    raise _UnknowableError
                return found

    def _condition(self, node: Exists | Among | Compare) -> Mask | None:
        field = self._fields.get(node.field)
        if field is None:
            known = self.complete and node.field not in self._fields
            return np.zeros(len(self._keys), np.bool_) if known else None
        match node:
            case Exists():
                return field.exists()
            case Among(_, values):
                return field.among(values)
            case Compare(_, order, value):
                return field.compare(order, value)


class _UnknowableError(Exception):
    """The arrays cannot tell; SQL can."""
