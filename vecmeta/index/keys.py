"""Which key sits in which row: small enough for millions of keys, and quick when they arrive in order."""

from __future__ import annotations

from typing import Self

import numpy as np

from vecmeta.types import Keys, Mask


class KeyTable:
    """Keys by row, where rows are only ever appended and a replaced or removed row stays behind, dead.

    A dict would cost about 100 bytes per key. Here a key costs 9 while keys arrive in ascending order (a binary search over the
    rows themselves finds them), and 25 once they do not, or once rows have changed places: then a sorted copy covers the older rows
    and a small dict the latest, merged when the dict has grown to a sixteenth of the rest.

    Not locked: the index that owns it does that.
    """

    def __init__(self) -> None:
        self.rows = 0  # dead ones included
        self.count = 0  # live ones
        self.exchanges = 0  # how often rows have changed places
        self._keys: Keys = np.empty(0, np.int64)
        self._live: Mask = np.empty(0, np.bool_)
        self._sorted: Keys | None = None  # keys of the rows below `_covered`, ascending; None: the rows are in that order
        self._order: Keys | None = None  # the row of each of `_sorted`
        self._covered = 0
        self._late: dict[int, int] = {}  # key -> row, for rows from `_covered` on

    @classmethod
    def restored(cls, keys: Keys, live: Mask | None) -> Self:
        """From the (rows,) arrays that `by_row` and `live` gave; ValueError when they cannot belong together."""
        table = cls()
        live = np.ones(len(keys), np.bool_) if live is None else live
        if keys.ndim != 1 or keys.dtype != np.int64 or live.shape != keys.shape or live.dtype != np.bool_:
            raise ValueError(f"keys {keys.dtype}{keys.shape} and marks {live.dtype}{live.shape} do not fit")
        table._keys, table._live = keys, live
        table.rows, table.count = len(keys), int(live.sum())
        if (np.diff(keys) > 0).all():
            table._covered = table.rows
            return table
        rows = np.flatnonzero(live)
        table._order = rows[np.argsort(keys[rows])]
        table._sorted, table._covered = keys[table._order], table.rows
        if (np.diff(table._sorted) == 0).any():
            raise ValueError("a key has two rows")
        return table

    @property
    def by_row(self) -> Keys:
        """The key of every row, dead ones included. A view."""
        return self._keys[: self.rows]

    @property
    def live(self) -> Mask:
        """True for rows that count. A view."""
        return self._live[: self.rows]

    def head(self, rows: int) -> KeyTable:
        """A copy of the first rows."""
        return KeyTable.restored(self._keys[:rows].copy(), self._live[:rows].copy())

    def live_keys(self) -> Keys:
        """The live keys, ascending. A copy."""
        keys = self.by_row[self.live]
        return keys if self._in_order else np.sort(keys)

    def live_rows(self) -> Keys:
        """The live rows in ascending order of their keys."""
        rows = np.flatnonzero(self.live)
        return rows if self._in_order else rows[np.argsort(self.by_row[rows])]

    def find(self, keys: Keys) -> Keys:
        """The live row of each key, -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        if not self.rows:
            return found
        base = self.by_row[: self._covered] if self._sorted is None else self._sorted
        if len(base):
            at = np.minimum(np.searchsorted(base, keys), len(base) - 1)
            hit = base[at] == keys
            found[hit] = at[hit] if self._order is None else self._order[at[hit]]
            found[(found >= 0) & ~self._live[found]] = -1
        if self._late:
            for i in np.flatnonzero(found < 0):
                row = self._late.get(int(keys[i]), -1)
                if row >= 0 and self._live[row]:
                    found[i] = row
        return found

    def append(self, keys: Keys) -> None:
        """One new live row for each of these keys, all different; a row that such a key had dies."""
        n = len(keys)
        if not n:
            return
        in_order = self._in_order and (n < 2 or bool((np.diff(keys) > 0).all()))
        in_order = in_order and (not self.rows or keys[0] > self._keys[self.rows - 1])
        if not in_order:
            old = self.find(keys)
            self.kill(old[old >= 0])
        self._grow(self.rows + n)
        self._keys[self.rows : self.rows + n] = keys
        self._live[self.rows : self.rows + n] = True
        if not in_order:
            self._late.update(zip(keys.tolist(), range(self.rows, self.rows + n), strict=True))
        self.rows += n
        self.count += n
        if in_order:
            self._covered = self.rows
        elif len(self._late) > max(1024, self._covered // 16):
            self._merge()

    def exchange(self, one: Keys, other: Keys) -> None:
        """Have these rows change places, each of the first with one of the second, all different: (n,), (n,)."""
        if not len(one):
            return
        by_key, order = self._merge() if self._sorted is None or self._order is None else (self._sorted, self._order)
        old, new = np.concatenate((one, other)), np.concatenate((other, one))
        keys, live = self._keys[old], self._live[old]
        at, known = np.searchsorted(by_key, keys), np.zeros(len(old), np.bool_)
        inside = at < len(by_key)
        known[inside] = (by_key[at[inside]] == keys[inside]) & (order[at[inside]] == old[inside])
        order[at[known]] = new[known]
        if self._late:
            others = zip(keys[~known].tolist(), old[~known].tolist(), new[~known].tolist(), strict=True)
            self._late.update({key: there for key, here, there in others if self._late.get(key) == here})
        self._keys[new], self._live[new] = keys, live
        self.exchanges += 1

    def kill(self, rows: Keys) -> None:
        """Mark these live rows, all different, as dead."""
        self._live[rows] = False
        self.count -= len(rows)

    @property
    def _in_order(self) -> bool:
        return self._sorted is None and self._covered == self.rows

    def _merge(self) -> tuple[Keys, Keys]:
        """The latest into the sorted copy, which keeps the live ones; returns it, and the row of each."""
        late = np.array(sorted(self._late.items()), np.int64).reshape(-1, 2)  # (n, 2): key, row
        late = late[self._live[late[:, 1]]]
        order = np.arange(self._covered) if self._order is None else self._order
        order = order[self._live[order]]
        earlier = self._keys[order]
        at = np.searchsorted(earlier, late[:, 0])
        self._sorted, self._order = np.insert(earlier, at, late[:, 0]), np.insert(order, at, late[:, 1])
        self._covered, self._late = self.rows, {}
        return self._sorted, self._order

    def _grow(self, needed: int) -> None:
        if needed > len(self._keys):
            room = max(needed, len(self._keys) * 3 // 2)
            keys, live = np.empty(room, np.int64), np.empty(room, np.bool_)
            keys[: self.rows], live[: self.rows] = self.by_row, self.live
            self._keys, self._live = keys, live
