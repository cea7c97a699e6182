"""What a collection is under each of its encoders: base vectors of items and of judged queries, contents to vectors, a sample.

Number 0 is the encoder that the collection was made with; its vectors stand with the items. Those of a fine-tuned encoder are made from
the stored contents when they are first asked for, and kept. So a write need not know which encoders there are: whatever catches up with
it under an encoder encodes what is new.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vecmeta.catalogue.encoders import EncoderStore
from vecmeta.catalogue.items import Changes, ItemStore, Page
from vecmeta.catalogue.judgements import AskedQuery, JudgementLog, Opinion, Word
from vecmeta.catalogue.versions import VersionStore
from vecmeta.contents import Contents
from vecmeta.encoders import open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import EncoderMismatch, EncoderUnavailable
from vecmeta.sample import Sampler
from vecmeta.types import Content, Keys, Progress, Vectors
from vecmeta.where import Node

OWN_ENCODER = 0
ENCODED_AT_ONCE = 256  # contents of which the vectors are written together


class EncodedItems:
    """Items under a fine-tuned encoder."""

    def __init__(self, items: ItemStore, store: EncoderStore, number: int, contents: Contents) -> None:
        self._items, self._store, self._number, self._contents = items, store, number, contents

    def keys(self, where: Node | None = None) -> Keys:
        """As `ItemStore.keys`."""
        return self._items.keys(where)

    def base_vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        """As `ItemStore.base_vectors`."""
        keys = self._store.keys_of(list(ids))
        found = self._found(list(keys.values()))
        return {id: np.frombuffer(found[key], dtype="<f4") for id, key in keys.items() if key in found}

    def vectors(self, keys: Keys) -> tuple[Keys, Vectors, list[str]]:
        """As `ItemStore.vectors`."""
        there, _, ids = self._items.vectors(keys)
        found = self._found(there.tolist())
        kept = [place for place, key in enumerate(there.tolist()) if key in found]
        return there[kept], self._store.vectors([found[int(there[p])] for p in kept]), [ids[p] for p in kept]

    def count(self) -> int:
        """As `ItemStore.count`."""
        return self._items.count()

    def revision(self) -> int:
        """As `ItemStore.revision`."""
        return self._items.revision()

    @contextmanager
    def changes(self, since: int, key: int = 0, *, described: bool = False, limit: int | None = None) -> Iterator[Changes]:
        """As `ItemStore.changes`; what was not encoded yet is encoded as the pages are drawn."""
        with self._items.changes(since, key, described=described, limit=limit) as changes:
            yield replace(changes, pages=self._pages(changes.pages))

    def fill(self, progress: Progress | None = None) -> int:
        """Encode all that was not yet; returns how many. What `progress` raises ends it; what was encoded so far stays."""
        keys = self._items.keys().tolist()
        done = 0
        for start in range(0, len(keys), ENCODED_AT_ONCE):
            if progress is not None:
                progress("building", start, len(keys))
            done += self._encode(keys[start : start + ENCODED_AT_ONCE], {})
        return done

    def _pages(self, pages: Iterator[Page]) -> Iterator[Page]:
        for page in pages:
            found = self._found(page.keys.tolist())
            kept = [
                place for place, key in enumerate(page.keys.tolist()) if key in found
            ]  # deleted since: a later change says so
            if kept:
                keys = page.keys[kept]
                about = None if page.about is None else [page.about[place] for place in kept]
                yield page._replace(keys=keys, vectors=self._store.vectors([found[key] for key in keys.tolist()]), about=about)

    def _found(self, keys: list[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        self._encode(keys, found)
        return found

    def _encode(self, keys: list[int], found: dict[int, bytes]) -> int:
        """Fill `found` with the vectors of all keys that are still there; how many had to be encoded."""
        found.update(self._store.encoded(self._number, keys))
        missing = [key for key in keys if key not in found]
        count = 0
        for start in range(0, len(missing), ENCODED_AT_ONCE):
            stored = [c for c in self._store.contents(missing[start : start + ENCODED_AT_ONCE]) if c.content is not None]
            if stored:
                contents = [c.content for c in stored if c.content is not None]
                vectors = self._contents.encode(contents, [f"item {c.id!r}" for c in stored])
                self._store.keep(self._number, stored, vectors)
                found.update((c.key, v.tobytes()) for c, v in zip(stored, vectors, strict=True))
                count += len(stored)
        return count


class EncodedLog:
    """Judgements with queries under a fine-tuned encoder."""

    def __init__(self, log: JudgementLog, store: EncoderStore, number: int, contents: Contents) -> None:
        self._log, self._store, self._number, self._contents = log, store, number, contents

    def opinions(self) -> list[Opinion]:
        """As `JudgementLog.opinions`."""
        return self._log.opinions()

    def words(self) -> list[list[Word]]:
        """As `JudgementLog.words`."""
        return self._log.words()

    def asked(self) -> dict[int, AskedQuery]:
        """As `JudgementLog.asked`; what was not encoded yet is."""
        asked = self._log.asked()
        known = self._store.queries(self._number)
        new = [row for row, query in asked.items() if query.kind in ("text", "image") and row not in known]
        for start in range(0, len(new), ENCODED_AT_ONCE):
            rows = new[start : start + ENCODED_AT_ONCE]
            contents = [content_of(asked[row]) for row in rows]
            vectors = self._contents.encode(contents, [f"the query {row} of a judgement" for row in rows])
            self._store.keep_queries(self._number, rows, vectors)
            known.update((row, vector.tobytes()) for row, vector in zip(rows, vectors, strict=True))
        return {row: replace(query, vector=known[row]) if row in known else query for row, query in asked.items()}


def content_of(query: AskedQuery) -> Content:
    """What was asked, a text or a picture."""
    return query.blob if query.blob is not None else query.text or ""


@dataclass(frozen=True, eq=False)
class Space:
    """A collection under one encoder."""

    number: int
    encoder: Encoder | None
    items: ItemStore | EncodedItems
    log: JudgementLog | EncodedLog
    contents: Contents
    sampler: Sampler


class Spaces:
    """The spaces of one collection, opened when they are asked for."""

    def __init__(self, own: Space, store: EncoderStore, versions: VersionStore, folder: Path, device: str) -> None:
        """``folder`` is where the folders of fine-tuned encoders lie."""
        self.own, self.store, self.folder = own, store, folder
        self._versions, self._device = versions, device
        self._open: dict[int, Space] = {OWN_ENCODER: own}
        self._lock = threading.Lock()

    def of(self, number: int) -> Space:
        """The collection under an encoder. Raises EncoderUnavailable, EncoderMismatch: its folder is missing, damaged or another's."""
        space = self._open.get(number)
        if space is not None:
            return space
        with self._lock:
            if number not in self._open:
                self._open[number] = self._opened(number)
            return self._open[number]

    def of_version(self, version: int) -> Space:
        """The space of a version."""
        return self.of(self._versions.encoder(version) if version else OWN_ENCODER)

    def forget(self) -> None:
        """Free what samples are kept."""
        for space in list(self._open.values()):
            space.sampler.forget()

    def forget_files(self) -> None:
        """The collection is dropped: delete its fine-tuned encoders."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _opened(self, number: int) -> Space:
        row = self.store.get(number)
        folder = self.folder / row.folder
        if not folder.is_dir():
            raise EncoderUnavailable(
                f"the fine-tuned encoder {row.name} is missing: it belongs at {folder}; restore that folder, or activate a version "
                "of another encoder"
            )
        encoder = open_encoder(str(folder), device=self._device)
        if encoder.name != row.name:
            raise EncoderMismatch(f"{folder} holds the encoder {encoder.name}, where {row.name} belongs")
        return self.made(number, encoder)

    def made(self, number: int, encoder: Encoder) -> Space:
        """The space of an encoder that is open."""
        own = self.own
        assert isinstance(own.items, ItemStore)
        assert isinstance(own.log, JudgementLog)
        plain = own.contents.under(encoder, own.items)
        items = EncodedItems(own.items, self.store, number, plain)
        contents = own.contents.under(encoder, items, number)
        log = EncodedLog(own.log, self.store, number, plain)
        return Space(number, encoder, items, log, contents, Sampler(items, self._versions))
