"""Collections out of a folder, into a database."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json
from sqlalchemy import Table

from vecmeta import intake
from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.catalogue.tables import encoders
from vecmeta.catalogue.transfer import ENCODING, ITEM, PARTS, TUNED, Target
from vecmeta.errors import AlreadyExists, CollectionNotFound, InvalidConfig, InvalidInput, StorageDamaged
from vecmeta.index.store import translated
from vecmeta.meta.head import load_head
from vecmeta.moving import sheets
from vecmeta.moving.sheets import ENCODERS, ENCODINGS, HEAD, PAGE, Exported
from vecmeta.types import Progress, Vectors

UNIT = 1e-3  # how far the length of a stored vector may be from 1


def load(
    catalogue: Catalogue, places: Path, folder: Path, names: Sequence[str] | None, rename: Mapping[str, str],
    progress: Progress | None,
) -> dict[str, int]:  # fmt: skip
    """Read the collections of these names (None: all), some under another name; returns how many items each has, by its new name.

    `places` is where the folders of fine-tuned encoders belong, in a folder for each collection by its number.

    Raises:
        InvalidInput: the folder is not an export, or one of a later vecmeta.
        CollectionNotFound: the export has no such collection.
        AlreadyExists: the database has a collection of that name.
        InvalidConfig: a new name that is none.
        StorageDamaged: a file that is not as it was written. What was imported before it stays, whole.
        StorageFull, StorageReadOnly, StorageError: a fine-tuned encoder cannot be written.
    """
    found = sheets.read_manifest(folder)
    wanted = list(found) if names is None else list(names)
    for name in [*wanted, *rename]:
        if name not in found:
            raise CollectionNotFound(f"the export in {folder} has no collection {name!r}; it has: {', '.join(found) or 'none'}")
    new = {name: intake.collection_name(rename.get(name, name)) for name in wanted}
    if len(set(new.values())) < len(new):
        raise InvalidConfig(f"two collections cannot both become {max(new.values(), key=[*new.values()].count)!r}")
    taken = set(catalogue.names())
    for name in new.values():
        if name in taken:
            raise AlreadyExists(f"there is a collection {name!r} already; drop it, or import under another name")
    for name in wanted:
        _check(folder, found[name], progress)
    for name, other in new.items():
        place: Path | None = None
        try:
            with catalogue.target(_about(found[name], other)) as target:
                place = places / str(target.number)
                _collection(target, folder / name, found[name], progress)
                _encoders(folder, name, found[name], place)
        except BaseException:
            if place is not None:
                shutil.rmtree(place, ignore_errors=True)
            raise
    return {other: found[name].items for name, other in new.items()}


def _check(folder: Path, one: Exported, progress: Progress | None) -> None:
    """That all files are there as they were written."""
    total = sum(seal.bytes for seal in one.files.values())
    done = 0
    for path, seal in one.files.items():
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise StorageDamaged(f"the manifest of {folder} names a file outside of it: {path}")
        try:
            now = sheets.sealed(folder / path)
        except OSError as error:
            raise StorageDamaged(f"{folder / path} cannot be read: {error.strerror}") from error
        if now != seal:
            raise StorageDamaged(f"{folder / path} is not as it was written: {now}, and it was {seal}; export it again")
        done += now.bytes
        if progress is not None:
            progress("checking", done, total)


def _about(one: Exported, name: str) -> dict[str, Any]:
    try:
        return {**one.about, "name": name, "created": datetime.fromisoformat(one.about["created"])}
    except (KeyError, ValueError, TypeError) as error:
        raise StorageDamaged(f"the manifest tells something impossible of {name!r}: {error}") from error


def _collection(target: Target, folder: Path, one: Exported, progress: Progress | None) -> None:
    dim, done = one.about["dim"], 0
    for path in sorted(folder.glob("items-*.parquet")):
        for batch in _batches(path, sheets.items_schema(dim)):
            target.items(_items(batch, dim, path))
            done += len(batch)
            if progress is not None:
                progress("items", done, one.items)
    if done != one.items:
        raise StorageDamaged(f"{folder} holds {done:,} items, and the manifest says {one.items:,}")
    try:
        for table in (*PARTS, *(TUNED if one.encoders else ())):
            path = folder / f"{table.name}.parquet"
            for batch in _batches(path, sheets.schema(table)):
                rows = [_row(table, row, folder) for row in batch.to_pylist()]
                if table is encoders and (lost := {row["folder"] for row in rows} - set(one.encoders)):
                    raise KeyError(min(lost))
                target.rows(table, rows)
        if one.encoders:
            path = folder / ENCODINGS
            for batch in _batches(path, sheets.encodings_schema(dim)):
                blobs = [vector.tobytes() for vector in _vectors(batch, dim, path)]
                about = (batch.column(name).to_pylist() for name in ENCODING[:2])
                target.encodings(list(zip(*about, blobs, strict=True)))
        target.live(one.about["live"], one.about["activation"])
    except KeyError as error:
        raise StorageDamaged(f"{folder} refers to something that it does not hold: {error}") from error


def _encoders(folder: Path, name: str, one: Exported, place: Path) -> None:
    """The folders of fine-tuned encoders, of the files that the manifest lists."""
    with translated(f"cannot write {place}"):
        for encoder in one.encoders:
            inside = Path(name, ENCODERS, encoder)
            files = [path for path in map(Path, one.files) if path.is_relative_to(inside)]
            if inside.parent != Path(name, ENCODERS) or not files:
                raise StorageDamaged(f"{folder} does not hold the fine-tuned encoder {encoder!r}")
            for path in files:
                sheets.copied(folder / path, place / encoder / path.relative_to(inside))


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(schema):
                raise InvalidInput(
                    f"{path} has the columns {file.schema_arrow.names}, and not those of an export of this vecmeta"
                )
            for batch in file.iter_batches(PAGE):
                if len(batch):
                    yield batch
    except (pa.ArrowException, OSError) as error:
        raise StorageDamaged(f"{path} cannot be read: {error}") from error


def _items(batch: pa.RecordBatch, dim: int, path: Path) -> list[tuple[Any, ...]]:
    columns = {name: batch.column(name).to_pylist() for name in ITEM if name != "vector"}
    vectors = _vectors(batch, dim, path)
    intake.distinct(columns["id"])
    try:
        if not all(isinstance(about, dict) for about in from_json(f"[{','.join(columns['metadata'])}]")):
            raise ValueError("not an object")
    except ValueError as error:
        raise StorageDamaged(f"{path}: metadata that is no JSON object: {error}") from error
    columns["vector"] = [vector.tobytes() for vector in vectors]
    return list(zip(*(columns[name] for name in ITEM), strict=True))


def _vectors(batch: pa.RecordBatch, dim: int, path: Path) -> Vectors:
    """(n, dim) of the columns vector and id."""
    vectors = np.ascontiguousarray(batch.column("vector").flatten().to_numpy(), dtype="<f4").reshape(-1, dim)
    odd = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT)  # NaN as well
    if odd.any():
        raise StorageDamaged(f"{path}: the vector of {batch.column('id')[int(np.argmax(odd))].as_py()!r} has no length of 1")
    return vectors


def _row(table: Table, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    for name in sheets.documents(table):
        row[name] = json.loads(row[name])
    if HEAD in table.c:
        row[HEAD] = (folder / "heads" / f"v{row['number']}.safetensors").read_bytes()
        load_head(row[HEAD])  # raises for what is none
    return row
