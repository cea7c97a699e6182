"""The metadata of a collection kept in memory for filters, made at the first one and never older than what a search knows of.

Why: measured on two cores, 100,000 items with {"n": i, "shelf": "s7", "lang": "en", "year": 2020} and vectors of dim 384, medians:

    filter                              share    columns ms    SQL ms
    shelf equals                          1 %       .013        160
    n between                             1 %       .026        170
    n below                              10 %       .012        150
    n from                               50 %       .011        170
    shelf from, as texts                 55 %       .020        205
    shelf among 10                       10 %       .10         160
    n among 1,000                         1 %       .37         145
    three joined by "and"                16 %       .05         205
    three joined by "or"                 36 %       .05         285

Reading all of it takes .3 s, once: as long as two filters in SQL. The first filter after a write of 10 items takes .6 to 1.4 ms, after one
of 1,000 4 to 7 ms; after more than an eighth of all items everything is read anew, and who comes meanwhile asks SQL.

Memory per item: 9 bytes for its key, and for each field 9 when there are numbers in it, 5 when there are texts, and some 160 bytes
besides its characters for each different text. An element of a list costs 5 to 17 more. `columns_table.BYTES` is the bound.

SQL answers where the arrays cannot: a field with whole numbers that are no float64, texts with NUL or a comparison of very long ones,
and fields for which there is no room.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic_core import from_json
from sqlalchemy import Connection, Select, select

from vecmeta.catalogue import columns_table
from vecmeta.catalogue.columns_table import Table
from vecmeta.catalogue.engine import Engine
from vecmeta.catalogue.tables import collections, items, tombstones
from vecmeta.types import Keys, Matching
from vecmeta.where import All, Node, Not, Some

PATIENCE = 0.05  # seconds a search waits for somebody else's reading of writes before it asks SQL
PAGE = 1024  # rows read and parsed at once
SHARE = 8  # more changed rows than one in so many, and than PAGE: all is read anew


class Columns:
    """The columns of one collection. Safe to use from several threads; writes of other processes are seen by the revision."""

    def __init__(self, engine: Engine, collection: int) -> None:
        self._engine, self._id = engine, collection
        self._table: Table | None = None
        self._stamps = itertools.count(1)
        self._renewing = threading.Lock()  # held by the one who reads from SQL

    def matching(self, node: Node, revision: int) -> Matching | None:
        """The items that match, each as it is at `revision` or later; None when SQL has to be asked."""
        names = set(_fields(node))
        table = self._current(names, revision)
        if table is None:
            return None
        with table.lock:
            return table.matching(node, names)

    def placed(self, keys: Keys) -> Matching:
        """Items that SQL found, ascending by key: in the slots there are, or in ones of their own."""
        table = self._table
        if table is not None:
            with table.lock:
                found = table.placed(keys)
            if found is not None:
                return found
        stamp = next(self._stamps)
        return Matching(keys, np.ones(len(keys), np.bool_), stamp, stamp)

    def _current(self, names: set[str], revision: int) -> Table | None:
        table = self._table
        if table is not None and table.revision >= revision and not table.lacks(names):
            return table
        # The first time there is nothing better to do than to wait; later SQL is.
        if not self._renewing.acquire(timeout=-1 if table is None else PATIENCE):
            return None
        try:
            table = self._table
            lacks = table is not None and table.lacks(names)
            wanted = names if table is None else table.wanted | names if lacks else table.wanted
            if len(wanted) > columns_table.FIELDS:
                return None
            if table is None or lacks or table.revision < revision:
                try:
                    self._table = table = self._renewed(None if lacks else table, wanted)
                except BaseException:
                    self._table = None  # it may be neither old nor new
                    raise
        finally:
            self._renewing.release()
        return table

    def _renewed(self, table: Table | None, wanted: set[str]) -> Table | None:
        with self._engine.reading() as connection:
            revision = connection.scalar(select(collections.c.revision).where(collections.c.id == self._id))
            if revision is None:  # dropped
                return None
            if table is not None and self._updated(connection, table, revision):
                return table
            return self._built(connection, revision, wanted)

    def _updated(self, connection: Connection, table: Table, revision: int) -> bool:
        """Whether the writes since are in the table now: not when so many rows have changed that making it anew is no dearer."""
        most = max(PAGE, len(table) // SHARE)
        newer = [(t.c.collection == self._id, t.c.revision > table.revision) for t in (items, tombstones)]
        pages = self._engine.pages(connection, select(items.c.key, items.c.metadata).where(*newer[0]).limit(most + 1), PAGE)
        rows = list(itertools.chain.from_iterable(pages))
        if len(rows) > most:
            return False
        removed = self._keys(connection, select(tombstones.c.key).where(*newer[1]))
        return table.update(revision, removed, _first(rows), self._parsed(rows))

    def _built(self, connection: Connection, revision: int, wanted: set[str]) -> Table:
        mine = items.c.collection == self._id
        keys = np.sort(self._keys(connection, select(items.c.key).where(mine)))
        table = Table(keys, revision, wanted, lambda: next(self._stamps))
        for rows in self._engine.pages(connection, select(items.c.key, items.c.metadata).where(mine), PAGE):
            table.fill(_first(rows), self._parsed(rows))
        table.finish()
        return table

    def _keys(self, connection: Connection, query: Select[Any]) -> Keys:
        pages = self._engine.pages(connection, query, PAGE)
        return np.fromiter((key for rows in pages for (key,) in rows), np.int64)

    def _parsed(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        text = self._engine.json_out(f"[{','.join(row[1] for row in rows)}]")  # at once: a call costs more than a row
        documents: list[dict[str, Any]] = from_json(text)
        return documents


def _first(rows: Sequence[Any]) -> Keys:
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


def _fields(node: Node) -> Iterator[str]:
    match node:
        case All(parts) | Some(parts):
            for part in parts:
                yield from _fields(part)
        case Not(part):
            yield from _fields(part)
        case _:
            yield node.field
