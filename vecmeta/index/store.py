"""Atomic, checked files for every index that lives in memory.

    folder/
      r7-18c2f0…-3fa9c1/      revision 7: what `index.dump` wrote, and manifest.json with a checksum of each file
      .tmp-…/  .gone-…/       being written, being deleted; swept when older than an hour

A save writes beside, syncs, and renames: a reader sees a whole index or none. Several processes may save into and load from one
folder; the newest revision wins. The files are derived data: a damaged one is deleted with an IndexDamagedWarning.

Checksums are CRC-32: they are there to notice damage, not forgery, and run at 3.4 GB/s here (BLAKE2b 0.7, SHA-256 1.4).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vecmeta.errors import InvalidConfig, StorageError, StorageFull, StorageReadOnly
from vecmeta.index import KINDS
from vecmeta.index.protocol import FiledIndex

FORMAT = 2
MANIFEST = "manifest.json"
LEFTOVER_SECONDS = 3600
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class IndexDamagedWarning(UserWarning):
    """A saved index could not be used and was deleted; it will be built again from the database."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a saved index is.

    ``extra`` is what the caller gave to `save`; ``files`` maps names to (bytes, CRC-32); ``count`` is the number of vectors.
    """

    kind: str
    dim: int
    count: int
    revision: int
    extra: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    format: int = FORMAT


class _Damaged(Exception):
    """Why a saved index cannot be used."""


def save(index: FiledIndex, folder: Path, revision: int, **extra: Any) -> None:
    """Save `index` as `revision` of `folder`, which is made when missing, then delete older ones. `extra` must be JSON.

    Nobody may write to the index meanwhile, or its revision would be a lie. After a failure nothing half-written remains, and
    what was saved before still loads. Raises StorageFull, StorageReadOnly or StorageError; InvalidConfig for a bad revision.
    """
    if isinstance(revision, bool) or not isinstance(revision, int) or revision < 0:
        raise InvalidConfig(f"revision must be a whole number from 0 up, not {revision!r}")
    temporary = folder / f".tmp-{secrets.token_hex(6)}"
    final = folder / f"r{revision}-{time.time_ns():016x}-{secrets.token_hex(3)}"
    with translated(f"cannot save the index in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            index.dump(temporary)
            files = {path.name: _sync(path) for path in sorted(temporary.iterdir())}
            manifest = Manifest(index.kind, index.dim, len(index), revision, extra, files)
            (temporary / MANIFEST).write_text(_sealed(asdict(manifest)), "utf-8")
            _sync(temporary / MANIFEST)
            _sync_folder(temporary)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(folder)
        for older in _saved(folder)[1:]:
            # Newer than ours is what somebody saved in between: not ours to delete. Ours itself is, when it is not the newest any more:
            # that somebody may have looked for older ones just before it was there.
            if _age(older) <= _age(final):
                _discard(older)


def load(folder: Path) -> tuple[FiledIndex, Manifest] | None:
    """The newest saved index that is whole, and what its manifest says; None when there is none.

    Damaged ones are deleted with an IndexDamagedWarning, and the next is tried. Raises StorageError when the folder cannot be read.
    """
    with translated(f"cannot load the index from {folder}"):
        _sweep(folder)
        tried: set[Path] = set()
        while True:  # listed anew each time: another process may have put a newer one in place of what we were reading
            path = next((path for path in _saved(folder) if path not in tried), None)
            if path is None:
                return None
            tried.add(path)
            try:
                return _load(path)
            except (_Damaged, FileNotFoundError) as why:
                if path.exists():  # else another process deleted it because it has a newer one
                    _discard(path)
                    warnings.warn(IndexDamagedWarning(f"deleted the damaged index {path}: {why}"), stacklevel=2)


def _load(path: Path) -> tuple[FiledIndex, Manifest]:
    try:
        text = (path / MANIFEST).read_text("utf-8")
        given = json.loads(text)["manifest"]
        if text != _sealed(given):
            raise ValueError("its checksum is wrong")
        if given["format"] != FORMAT:
            raise ValueError(f"format {given['format']!r} instead of {FORMAT}")
        files = {str(name): (int(size), int(crc)) for name, (size, crc) in given.pop("files").items()}
        manifest = Manifest(files=files, **given)
        kind = KINDS[manifest.kind]()
    except (ValueError, TypeError, KeyError, AttributeError) as why:
        raise _Damaged(f"its manifest cannot be used ({why!r})") from why
    for name, expected in files.items():
        if (found := _checksum(path / name)) != expected:
            raise _Damaged(f"{name} has (bytes, CRC-32) {found}, not {expected}")
    try:
        index = kind.load(path)
    except (ValueError, TypeError, KeyError, RuntimeError, EOFError) as why:  # RuntimeError: faiss
        raise _Damaged(f"its files do not make an index ({why!r})") from why
    if index.dim != manifest.dim:
        raise _Damaged(f"it has dim {index.dim}, its manifest says {manifest.dim}")
    return index, manifest


def _sealed(manifest: Mapping[str, Any]) -> str:
    """The manifest as it is written: with its own checksum, for a wrong revision would pass old vectors off as current."""
    return json.dumps({"manifest": manifest, "crc32": zlib.crc32(json.dumps(manifest).encode())})


def _age(path: Path) -> tuple[int, str]:
    revision, _, rest = path.name[1:].partition("-")
    return int(revision), rest


def _saved(folder: Path) -> list[Path]:
    """Saved indexes, newest first."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []
    found = [folder / name for name in names if name.startswith("r") and name[1:].partition("-")[0].isdecimal()]
    return sorted(found, key=_age, reverse=True)


def _discard(path: Path) -> None:
    """Delete in two steps, so that nobody finds half of it. Not being able to is no failure of whoever tidies up."""
    gone = path.with_name(f".gone-{secrets.token_hex(6)}")
    with suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what crashed processes left behind."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith((".tmp-", ".gone-")):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > LEFTOVER_SECONDS:
                        shutil.rmtree(entry.path, ignore_errors=True)


def _checksum(path: Path) -> tuple[int, int]:
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return size, crc


def _sync(path: Path) -> tuple[int, int]:
    """Bring a file to the disk; returns its size and checksum."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _checksum(path)


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, nor needs to be
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Errors of the operating system and of faiss, as vecmeta's. The one place for it."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageReadOnly if error.errno in _READ_ONLY else StorageError
        raise kind(f"{doing}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise StorageError(f"{doing}: {error}") from error
