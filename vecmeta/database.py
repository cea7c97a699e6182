"""A database: collections by name, in one folder or on a PostgreSQL server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vecmeta import intake
from vecmeta.bridge import Bridges
from vecmeta.catalogue.catalogue import CollectionRow
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.versions import VersionStore
from vecmeta.collection import Collection
from vecmeta.encoders import open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import EncoderMismatch, InvalidConfig
from vecmeta.jobs import Jobs
from vecmeta.keys import Keys
from vecmeta.places import located, shown
from vecmeta.servings import Servings
from vecmeta.shelves.opening import Shelves, known
from vecmeta.shelves.protocol import Under
from vecmeta.types import Progress

CUSTOM = "custom"  # the spec of a collection whose encoder is an object of the caller's


def open(
    url: str | os.PathLike[str] = "./vecmeta-data",
    *,
    index: str = "faiss",
    device: str = "auto",
    files: str | os.PathLike[str] | None = None,
    bridge: bool = False,
) -> Database:
    """Open a database, made if it is not there.

    Args:
        url: a folder; it holds the SQLite database (the truth) and the index files (derived). Or ``postgresql+psycopg://…``, an empty
            database of a PostgreSQL server at first, which any number of processes and machines share.
        index: "faiss", or "exact" (brute force): in the memory of each process, with copies in files; "http://host:19530", a Milvus
            that processes share, or "milvus-lite", one in this process (see `vecmeta.index.milvus.options` for what can be set).
        bridge: a version goes live before its index is built, where `Collection.adapt` does not say otherwise; until then the old index
            answers for it, see `vecmeta.bridge`.
        device: where encoders and adaptations compute: "auto" (a GPU where there is one), "cpu", "cuda", "mps".
        files: the folder of the index files. None: the database's own folder; for a URL one in this user's cache, by the database's
            identity. They are derived: without them indexes are built again. Processes of one machine do well to share them.

    Raises:
        StorageReadOnly: the folder cannot be made or written.
        StorageUnavailable: the server cannot be reached, or does not let this user in.
        StorageDamaged: the database is damaged, another program's, or a newer vecmeta's.
        InvalidConfig: an index, device or URL that this vecmeta does not know.
    """
    return Database(url, index=index, device=device, files=files, bridge=bridge)


class Database:
    """Collections by name. A context manager; safe to use from several threads, and the folder or server from several processes.

    ``url`` opens the same database again; ``folder`` is where its index files are.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        index: str = "faiss",
        device: str = "auto",
        files: str | os.PathLike[str] | None = None,
        bridge: bool = False,
    ) -> None:
        self.url = os.fspath(url)
        if device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise InvalidConfig(f"device is auto, cpu, cuda or mps, not {device!r}")
        known(index)
        self._device, self._bridge = device, bridge
        self._catalogue, self.folder = located(self.url, files)
        self._encoders = self.folder / "encoders"  # those that were fine-tuned, by the number of their collection
        self._shelves = Shelves(index, self.folder, own=files is None and "://" not in self.url)
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
        row = self._catalogue.create(intake.collection_name(name), spec, made.name, made.dim)
        return self._opened(self._made(row, made))

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
        return self._opened(self._made(row, made))

    def collections(self) -> list[str]:
        """The names of all collections, sorted."""
        return self._catalogue.names()

    def drop(self, name: str) -> None:
        """Delete a collection with its items, judgements and versions. Raises CollectionNotFound."""
        row = self._catalogue.drop(name)
        with self._lock:
            opened = self._open.pop(name, None)
        if opened is None:
            opened = self._made(row, None)
        opened.forget()

    def export_to(
        self, folder: str | os.PathLike[str], names: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> dict[str, int]:
        """Write collections (None: all) with judgements and versions into a new folder of Parquet and safetensors files.

        Each collection is one snapshot: what is written meanwhile is not in it. Memory does not grow with it.

        Returns:
            How many items each has.

        Raises:
            AlreadyExists: the folder is there.
            CollectionNotFound.
            EncoderUnavailable: the folder of an encoder that was fine-tuned in a collection is missing.
            StorageFull, StorageReadOnly, StorageError: it cannot be written; nothing of it stays.
        """
        from vecmeta import __version__, moving  # brings pyarrow

        wanted = self.collections() if names is None else list(dict.fromkeys(intake.listed(names)))
        return moving.save(self._catalogue, self._encoders, Path(folder).expanduser(), wanted, f"vecmeta {__version__}", progress)

    def import_from(
        self,
        folder: str | os.PathLike[str],
        names: Sequence[str] | None = None,
        *,
        rename: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, int]:
        """Read collections (None: all) from what `export_to` wrote, from whichever database; each is there at once or not at all.

        Args:
            rename: other names, by those in the export.

        Returns:
            How many items each has, by its new name.

        Raises:
            InvalidInput: the folder is not an export, or one of a later vecmeta.
            CollectionNotFound: the export has no such collection.
            AlreadyExists, InvalidConfig: a name that is taken, or that is none.
            StorageDamaged: a file is not as it was written.
            StorageFull, StorageReadOnly, StorageError: an encoder that was fine-tuned cannot be written.
        """
        from vecmeta import moving

        wanted = None if names is None else list(dict.fromkeys(intake.listed(names)))
        return moving.load(self._catalogue, self._encoders, Path(folder).expanduser(), wanted, rename or {}, progress)

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
        return f"<vecmeta.Database {shown(self.url)!r}, index={self._shelves.shown!r}>"

    def _opened(self, collection: Collection) -> Collection:
        with self._lock:
            before = self._open.get(collection.name)
            if before is not None:
                before.close()
            self._open[collection.name] = collection
        return collection

    def _made(self, row: CollectionRow, encoder: Encoder | None) -> Collection:
        folder = self._encoders / str(row.id)
        return Collection(self._catalogue, row, encoder, self._device, folder, self._servings(row), self.collection)

    def _servings(self, row: CollectionRow) -> Callable[[ItemStore, VersionStore, Under], Servings]:
        def made(items: ItemStore, versions: VersionStore, under: Under) -> Servings:
            shelf = self._shelves.of(self._catalogue, row, items, under)
            return Servings(versions, row.dim, shelf, Bridges(under, versions, self._bridge))

        return made
