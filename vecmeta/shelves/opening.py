"""The shelf of each collection of a database, by the name of the index that the database was opened with."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path

from vecmeta.catalogue.catalogue import Catalogue, CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.tables import PLACE
from vecmeta.index import open_index
from vecmeta.index.milvus.link import Link
from vecmeta.index.milvus.options import is_milvus, masked, parse
from vecmeta.shelves.files import FileShelf
from vecmeta.shelves.milvus import MilvusShelf
from vecmeta.shelves.protocol import Shelf, Under


def known(index: str) -> None:
    """Nothing, if there is such an index. Raises InvalidConfig now, not at the first search."""
    if is_milvus(index):
        parse(index, Path())
    else:
        open_index(index, 1).close()


class Shelves:
    """Makes them; holds the connection that they share."""

    def __init__(self, index: str, folder: Path, own: bool = True) -> None:
        """``own``: the folder is that of the database, which nobody opens without it. Raises InvalidConfig, see `known`."""
        self.shown = masked(index)  # without secrets
        self._index, self._folder = index, folder
        self._link, self._place = None, ""
        if is_milvus(index):
            options = parse(index, folder)
            self._link, self._place = Link(options), options.place
            if options.lite and not own:  # others have the same database, and not this file
                self._place = f"{options.place} of {platform.node()}, {folder.resolve()}"[:PLACE]

    def of(self, catalogue: Catalogue, row: CollectionRow, items: ItemStore, under: Under) -> Shelf:
        """The shelf of a collection."""
        if self._link is not None:
            return MilvusShelf(items, under, catalogue.indexes(row, self._place), self._link, row)
        return FileShelf(items, under, partial(open_index, self._index, row.dim), self._folder / "index" / str(row.id))

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        if self._link is not None:
            self._link.close()
