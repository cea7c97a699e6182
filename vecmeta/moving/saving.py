"""Collections into a folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Table

from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.catalogue.tables import encoders
from vecmeta.catalogue.transfer import ENCODING, ITEM, PARTS, TUNED, Source
from vecmeta.errors import AlreadyExists, EncoderUnavailable
from vecmeta.index.store import translated
from vecmeta.moving import sheets
from vecmeta.moving.sheets import ENCODERS, ENCODINGS, HEAD, PAGE, Exported
from vecmeta.types import Progress

PART = 1_000_000  # items of one file
GROUP = 16  # pages of one row group


def save(
    catalogue: Catalogue, places: Path, folder: Path, names: Sequence[str], by: str, progress: Progress | None
) -> dict[str, int]:  # fmt: skip
    """Write the collections of these names; returns how many items each has.

    `places` is where the folders of fine-tuned encoders lie, in a folder for each collection by its number.

    Raises:
        AlreadyExists: the folder is there.
        CollectionNotFound.
        EncoderUnavailable: the folder of a fine-tuned encoder is missing.
        StorageFull, StorageReadOnly, StorageError: it cannot be written; nothing of it stays.
    """
    if folder.exists():
        raise AlreadyExists(f"{folder} is there already; name a folder that is not")
    rows = {name: catalogue.collection(name) for name in names}
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}.partial")
    found: dict[str, Exported] = {}
    with translated(f"cannot write {folder}"):
        try:
            temporary.mkdir(parents=True)
            for name, row in rows.items():
                with catalogue.source(row) as source:
                    found[name] = _collection(source, places / str(row.id), temporary, name, progress)
            sheets.write_manifest(temporary, found, by)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return {name: one.items for name, one in found.items()}


def _collection(source: Source, place: Path, top: Path, name: str, progress: Progress | None) -> Exported:
    about, count = source.about(), source.count()
    folder = top / name
    (folder / "heads").mkdir(parents=True)
    paths = list(_items(source, folder, about["dim"], count, progress))
    tuned = sorted({row["folder"] for page in source.rows(encoders, PAGE) for row in page})
    for table in (*PARTS, *(TUNED if tuned else ())):
        path = folder / f"{table.name}.parquet"
        with _written(path, sheets.schema(table)) as writer:
            for page in source.rows(table, PAGE):
                if HEAD in table.c:
                    paths += [_head(folder, row) for row in page]
                writer.write_batch(pa.RecordBatch.from_pylist(_plain(table, page), schema=writer.schema))
        paths.append(path)
    if tuned:
        paths.append(_encodings(source, folder, about["dim"]))
    for one in tuned:
        paths += _encoder(place / one, folder / ENCODERS / one)
    return Exported(about, count, {path.relative_to(top).as_posix(): sheets.sealed(path) for path in paths}, tuned)


def _items(source: Source, folder: Path, dim: int, count: int, progress: Progress | None) -> Iterator[Path]:
    schema, done = sheets.items_schema(dim), 0
    pages = _grouped(source.items(PAGE), GROUP)
    for number in range(max(1, -(-count // PART))):
        path = folder / f"items-{number:05d}.parquet"
        with _written(path, schema) as writer:
            for group in pages:
                writer.write_batch(_batch(group, schema, dim))
                done += len(group)
                if progress is not None:
                    progress("items", done, count)
                if done >= (number + 1) * PART:
                    break
        yield path


def _grouped(pages: Iterable[list[Any]], size: int) -> Iterator[list[Any]]:
    """Some pages as one, never across the border of a file; large pictures alone, for memory's sake."""
    group: list[Any] = []
    seen = held = 0
    for page in pages:
        for row in page:
            group.append(row)
            seen += 1
            held += len(row[5] or b"") + len(row[4] or "")
            if len(group) == size * PAGE or seen % PART == 0 or held > 64 * 2**20:
                yield group
                group, held = [], 0
    if group:
        yield group


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema, dim: int, names: tuple[str, ...] = ITEM) -> pa.RecordBatch:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    vectors = np.frombuffer(b"".join(columns["vector"]), dtype="<f4")
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim)
        if field.name == "vector"
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _encodings(source: Source, folder: Path, dim: int) -> Path:
    """What fine-tuned encoders made of the items."""
    path, schema = folder / ENCODINGS, sheets.encodings_schema(dim)
    with _written(path, schema) as writer:
        for page in source.encodings(GROUP * PAGE):
            writer.write_batch(_batch(page, schema, dim, ENCODING))
    return path


def _encoder(folder: Path, target: Path) -> Iterator[Path]:
    """A fine-tuned encoder's folder, file by file."""
    if not folder.is_dir():
        raise EncoderUnavailable(f"the fine-tuned encoder that belongs at {folder} is missing; restore that folder, then export")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield sheets.copied(path, target / path.relative_to(folder))


def _plain(table: Table, page: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as Parquet holds them."""
    texts = sheets.documents(table)
    return [{**row, **{name: json.dumps(row[name], ensure_ascii=False) for name in texts}} for row in page]


def _head(folder: Path, row: Mapping[str, Any]) -> Path:
    path = folder / "heads" / f"v{row['number']}.safetensors"
    with path.open("wb") as file:
        file.write(row[HEAD])
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def _written(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        yield writer
        writer.close()
        file.flush()
        os.fsync(file.fileno())
