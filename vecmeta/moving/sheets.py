"""The Parquet files of an export: what their columns are, and the manifest that says what belongs to it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Float, Integer, LargeBinary, Table

from vecmeta.errors import InvalidInput, StorageDamaged

FORMAT = 2
READ = (1, 2)  # 1 had no fine-tuned encoders
MANIFEST = "manifest.json"
PAGE = 1024  # rows that are in memory at once
HEAD = "head"  # the column of versions that is a file of its own
ENCODERS, ENCODINGS = "encoders", "encodings.parquet"  # folders of fine-tuned encoders, and what they made of the items
_KINDS: tuple[tuple[type, Any], ...] = (  # the first that fits
    (Boolean, pa.bool_()),
    (BigInteger, pa.int64()),
    (Integer, pa.int64()),
    (Float, pa.float64()),
    (LargeBinary, pa.large_binary()),
    (DateTime, pa.timestamp("us", tz="UTC")),
)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Exported:
    """A collection of an export: its own row (`about`), how many items, its files by their path in the export's folder, and the names
    of the folders of fine-tuned encoders.
    """

    about: dict[str, Any]
    items: int
    files: dict[str, Sealed] = field(default_factory=dict)
    encoders: list[str] = field(default_factory=list)


def items_schema(dim: int) -> pa.Schema:
    """Of items."""
    columns = [
        ("id", pa.string(), False), ("vector", pa.list_(pa.float32(), dim), False), ("metadata", pa.large_string(), False),
        ("digest", pa.binary(), True), ("text", pa.large_string(), True), ("blob", pa.large_binary(), True),
    ]  # fmt: skip
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in columns])


def encodings_schema(dim: int) -> pa.Schema:
    """Of vectors that fine-tuned encoders made of items."""
    columns = [("encoder", pa.int64()), ("id", pa.string()), ("vector", pa.list_(pa.float32(), dim))]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def schema(table: Table) -> pa.Schema:
    """Of a table of the catalogue, without the collection's number; JSON as text."""
    fields = [column for column in table.c if column.name not in ("collection", HEAD)]
    kinds = {c.name: next((kind for sql, kind in _KINDS if isinstance(c.type, sql)), pa.large_string()) for c in fields}
    return pa.schema([pa.field(column.name, kinds[column.name], nullable=bool(column.nullable)) for column in fields])


def documents(table: Table) -> list[str]:
    """The columns that hold JSON."""
    return [column.name for column in table.c if isinstance(column.type, JSON)]


def sealed(path: Path) -> Sealed:
    """A file's size and checksum, read in pieces."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return Sealed(size, digest.hexdigest())


def copied(path: Path, target: Path) -> Path:
    """A copy of a file, on the disk; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    return target


def write_manifest(folder: Path, found: dict[str, Exported], by: str) -> None:
    """The last file of an export."""
    told = {"format": FORMAT, "by": by, "collections": {name: asdict(one) for name, one in found.items()}}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(told, file, ensure_ascii=False, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict[str, Exported]:
    """What an export holds, by collection.

    Raises:
        InvalidInput: not an export, or one of a later vecmeta.
        StorageDamaged: a manifest that cannot be read.
    """
    try:
        told = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{folder} is not a folder that `vecmeta export` made: it has no {MANIFEST}") from None
    except (ValueError, OSError) as error:
        raise StorageDamaged(f"{folder / MANIFEST} cannot be read: {error}") from error
    try:
        if told["format"] not in READ:
            raise InvalidInput(f"{folder} was written in format {told['format']!r}, this vecmeta reads {FORMAT}; upgrade vecmeta")
        return {
            name: Exported(
                one["about"],
                one["items"],
                {path: Sealed(**seal) for path, seal in one["files"].items()},
                list(one.get("encoders", ())),
            )
            for name, one in told["collections"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageDamaged(f"{folder / MANIFEST} is damaged: {error!r}") from error
