"""A database: collections by name, in one folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from vecmeta.bridge import Bridges
from vecmeta.catalogue.catalogue import Catalogue, CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.versions import VersionStore
from vecmeta.collection import Collection
from vecmeta.encoders import open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import EncoderMismatch, InvalidConfig, StorageError, StorageReadOnly
from vecmeta.intake import collection_name
from vecmeta.jobs import Jobs
from vecmeta.keys import Keys
from vecmeta.servings import Servings
from vecmeta.shelves.opening import Shelves

CUSTOM = "custom"  # the spec of a collection whose encoder is an object of the caller's


def open(
    url: str | os.PathLike[str] = "./vecmeta-data", *, index: str = "faiss", device: str = "auto", bridge: bool = False
) -> Database:
    """Open a database, made if it is not there.

    Args:
        url: a folder; it holds the SQLite database (the truth) and the index files (derived).
        index: "faiss", or "exact" (brute force): in the memory of each process, with copies in the folder; "http://host:19530", a Milvus
            that processes share, or "milvus-lite", one in this process (see `vecmeta.index.milvus.options` for what can be set).
        bridge: a version goes live before its index is built; until then the old index answers for it, see `vecmeta.bridge`.
        device: where encoders and adaptations compute: "auto" (a GPU where there is one), "cpu", "cuda", "mps".

    Raises:
        StorageReadOnly: the folder cannot be made or written.
        StorageDamaged: the database is damaged, another program's, or a newer vecmeta's.
        InvalidConfig: an index, device or URL that this vecmeta does not know.
    """
    return Database(url, index=index, device=device, bridge=bridge)


class Database:
    """Collections by name. A context manager; safe to use from several threads, and the folder from several processes."""

    def __init__(self, url: str | os.PathLike[str], *, index: str = "faiss", device: str = "auto", bridge: bool = False) -> None:
        if "://" in os.fspath(url):
            raise InvalidConfig(f"{os.fspath(url)!r}: this version keeps its databases in folders; give the path of one")
        if device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise InvalidConfig(f"device is auto, cpu, cuda or mps, not {device!r}")
        self.folder = Path(url).expanduser()
        self._device, self._bridge = device, bridge
        self._shelves = Shelves(index, self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise StorageReadOnly(f"the folder {self.folder} cannot be made: {error.strerror}") from error
        except OSError as error:
            raise StorageError(f"the folder {self.folder} cannot be made: {error.strerror}") from error
        if not os.access(self.folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StorageReadOnly(f"the folder {self.folder} cannot be written by this user")
        self._catalogue = Catalogue(self.folder / "vecmeta.db")
        self.jobs = Jobs(self._catalogue)  # long work, done by workers of any process
        self.keys = Keys(self._catalogue)  # who may do what over HTTP
        self._open: dict[str, Collection] = {}
        self._lock = threading.RLock()  # over what is open: two threads that ask for a collection get the same one

    def create(self, name: str, encoder: str | Encoder = "text", *, dim: int | None = None) -> Collection:
        """A new collection.

        Args:
            name: 1 to 63 letters, digits, '.', '_' and '-'.
            encoder: "text", "image", "resnet18", "resnet50", "hf:ORG/MODEL", "vectors" (own vectors, with dim=), or an object with the
                methods of `vecmeta.encoders.protocol.Encoder`; such a collection is opened with the same object again.
            dim: length of own vectors.

        Raises:
            AlreadyExists, InvalidConfig, EncoderUnavailable.
        """
        made = open_encoder(encoder, dim=dim, device=self._device)
        spec = encoder if isinstance(encoder, str) else CUSTOM
        row = self._catalogue.create(collection_name(name), spec, made.name, made.dim)
        return self._opened(Collection(self._catalogue, row, made, self._device, self._servings(row)))

    def collection(self, name: str, encoder: Encoder | None = None) -> Collection:
        """An existing collection.

        Args:
            encoder: for collections that were made with an encoder object of the caller's.

        Raises:
            CollectionNotFound.
            EncoderMismatch: the encoder's weights are others than those that filled the collection.
        """
        with self._lock:
            return self._existing(name, encoder)

    def _existing(self, name: str, encoder: Encoder | None) -> Collection:
        row = self._catalogue.collection(name)
        known = self._open.get(name)
        if known is not None and known.row.id == row.id and encoder is None:
            return known
        made: Encoder | None = encoder
        if encoder is None and row.spec != CUSTOM:
            made = open_encoder(row.spec, dim=row.dim if row.spec == "vectors" else None, device=self._device)
        if made is not None and (made.name, made.dim) != (row.encoder, row.dim):
            raise EncoderMismatch(
                f"collection {name!r} was filled by the encoder {row.encoder} (dimension {row.dim}), but this is {made.name} "
                f"(dimension {made.dim}): their vectors cannot be compared; use the old weights, or make a new collection"
            )
        return self._opened(Collection(self._catalogue, row, made, self._device, self._servings(row)))

    def collections(self) -> list[str]:
        """The names of all collections, sorted."""
        return self._catalogue.names()

    def drop(self, name: str) -> None:
        """Delete a collection with its items, judgements and versions. Raises CollectionNotFound."""
        row = self._catalogue.drop(name)
        with self._lock:
            opened = self._open.pop(name, None)
        if opened is None:
            opened = Collection(self._catalogue, row, None, self._device, self._servings(row))
        opened.forget()

    def close(self) -> None:
        """Write what index files lack and close; idempotent."""
        with self._lock:
            for collection in self._open.values():
                collection.close()
            self._open.clear()
        self._shelves.close()
        self._catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<vecmeta.Database {str(self.folder)!r}, index={self._shelves.shown!r}>"

    def _opened(self, collection: Collection) -> Collection:
        with self._lock:
            before = self._open.get(collection.name)
            if before is not None:
                before.close()
            self._open[collection.name] = collection
        return collection

    def _servings(self, row: CollectionRow) -> Callable[[ItemStore, VersionStore], Servings]:
        def made(items: ItemStore, versions: VersionStore) -> Servings:
            shelf = self._shelves.of(self._catalogue, row, items)
            return Servings(versions, row.dim, shelf, Bridges(items) if self._bridge else None)

        return made
