"""Batches of items into the catalogue and the live index: all of a batch or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from numpy.typing import ArrayLike

from vecmeta import intake
from vecmeta.catalogue.items import ItemStore, Row
from vecmeta.contents import Contents
from vecmeta.servings import Servings
from vecmeta.types import Item, Metadata, Progress

ENCODED_AT_ONCE = 256  # contents between two calls of the progress callback
WRITTEN_AT_ONCE = 1024  # own vectors made unit rows at a time


class Writer:
    """Writes of one collection."""

    def __init__(self, items: ItemStore, contents: Contents, servings: Servings) -> None:
        self._items, self._contents, self._servings = items, contents, servings

    def add(self, batch: Iterable[Item], progress: Progress | None) -> int:
        """See `vecmeta.Collection.add`."""
        drafts = intake.drafts(batch)
        known = self._items.known([draft.id for draft in drafts])
        vectors = {d.id: known[d.id].vector for d in drafts if d.id in known and known[d.id].digest == d.digest}
        new = [draft for draft in drafts if draft.id not in vectors]
        for start in range(0, len(new), ENCODED_AT_ONCE):
            if progress is not None:
                progress("encoding", start, len(new))
            part = new[start : start + ENCODED_AT_ONCE]
            encoded = self._contents.encode([draft.content for draft in part], [f"item {draft.id!r}" for draft in part])
            vectors |= {draft.id: vector.tobytes() for draft, vector in zip(part, encoded, strict=True)}
        if progress is not None and new:
            progress("encoding", len(new), len(new))
        changed = [d for d in drafts if d.id not in known or (known[d.id].digest, known[d.id].metadata) != (d.digest, d.metadata)]
        if changed:
            with self._servings.writing():
                self._items.write(Row(d.id, vectors[d.id], d.metadata, d.digest, d.text, d.blob) for d in changed)
        return len(drafts)

    def add_vectors(self, ids: Sequence[str], vectors: ArrayLike, metadata: Sequence[Metadata] | None, dim: int) -> int:
        """See `vecmeta.Collection.add_vectors`."""
        names, matrix = intake.matrix(ids, vectors, metadata, dim)

        def rows() -> Iterator[Row]:
            for start in range(0, len(names), WRITTEN_AT_ONCE):
                part = slice(start, start + WRITTEN_AT_ONCE)
                about = [{}] * len(names[part]) if metadata is None else metadata[part]
                unit = self._contents.own(matrix[part], names[part])
                for id, vector, m in zip(names[part], unit, about, strict=True):
                    yield Row(id, vector.tobytes(), intake.metadata_json(m, id), None, None, None)

        if names:
            # Rows are checked as the transaction draws them and a bad one rolls it back: no second copy of a large batch is ever held.
            with self._servings.writing():
                self._items.write(rows())
        return len(names)

    def delete(self, ids: Sequence[str]) -> int:
        """See `vecmeta.Collection.delete`."""
        with self._servings.writing():
            return self._items.delete(ids)
