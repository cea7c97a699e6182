"""The shelf of each collection of a database, by the name of the index that the database was opened with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vecmeta.catalogue.catalogue import Catalogue, CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.index import open_index
from vecmeta.index.milvus.link import Link
from vecmeta.index.milvus.options import is_milvus, masked, parse
from vecmeta.shelves.files import FileShelf
from vecmeta.shelves.milvus import MilvusShelf
from vecmeta.shelves.protocol import Shelf


class Shelves:
    """Makes them; holds the connection that they share. Raises InvalidConfig for an index that is not known."""

    def __init__(self, index: str, folder: Path) -> None:
        self.shown = masked(index)  # without secrets
        self._index, self._folder = index, folder
        self._link = Link(parse(index, folder)) if is_milvus(index) else None
        if self._link is None:
            open_index(index, 1).close()  # an unknown kind is an error now, not at the first search

    def of(self, catalogue: Catalogue, row: CollectionRow, items: ItemStore) -> Shelf:
        """The shelf of a collection."""
        if self._link is not None:
            return MilvusShelf(items, catalogue.indexes(row, self._link.options.place), self._link, row)
        return FileShelf(items, partial(open_index, self._index, row.dim), self._folder / "index" / str(row.id))

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        if self._link is not None:
            self._link.close()
