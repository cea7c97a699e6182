"""Labelled sets: from files, or from vectors and metadata at hand, to the notions of similarity that meta-training learns from."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.meta.head import unit
from vecmeta.meta.tasks import LEAST_MEMBERS, Notion
from vecmeta.types import Progress, Vectors

CONTENT_COLUMNS = ("text", "jpeg", "png", "content")  # where content is looked for, in this order
LIMIT = 8000  # rows of a set that are learned from: more make training slower, not better
LEAST_CLASSES = 4  # a column that nobody named needs so many classes to count as a notion
ENCODE_ROWS = 512  # rows between two calls of the progress callback


class SupportsEncode(Protocol):
    """What is needed of an encoder; see `vecmeta.encoders`."""

    @property
    def name(self) -> str:
        """Identifies the weights."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def encode(self, contents: Sequence[Any]) -> Vectors:
        """(n, dim) float32 unit rows."""


EncoderFor: TypeAlias = Callable[
    [str], SupportsEncode
]  # "text" or "image" -> what encodes it, as `vecmeta.encoders.open_encoder`


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Vectors and what is known of them.

    ``x`` (n, dim) float32 unit rows; ``labels`` n values per column, each a text, a whole number, a boolean, a list of texts, or None;
    ``about`` is free JSON that goes into the record of a training: where the rows come from.
    """

    name: str
    x: Vectors
    labels: Mapping[str, Sequence[Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


def parse_spec(text: str) -> tuple[Path, list[str] | None]:
    """``FILE:column,column`` as a path and its columns; a ":" after the last "/" names them. Raises InvalidConfig for an empty part."""
    folder, slash, name = text.rpartition("/")
    name, colon, columns = name.partition(":")
    listed = columns.split(",") if colon else None
    if not name or (listed is not None and not all(listed)):
        raise InvalidConfig(f"{text!r} is no FILE, FILE:column or FILE:column,column")
    return Path(folder + slash + name), listed


def read_set(
    path: Path,
    encoder_for: EncoderFor | None = None,
    limit: int = LIMIT,
    *,
    content_column: str | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> LabelledSet:
    """A data set's file as vectors and labels.

    A .parquet or .jsonl file has a content column (texts, or pictures as bytes) and label columns; a random part of ``limit`` rows is
    encoded, once per encoder and file when there is a ``cache_dir``. An .npz file has the rows themselves, X (n, dim), and arrays of
    labels (n,). ``encoder_for`` tells what encodes "text" and what "image" (default: vecmeta's own).

    Raises:
        InvalidConfig: the file cannot be read, or has no content.
        UndecodableContent, EncoderUnavailable: as the encoder raises.
    """
    if not path.is_file():
        raise InvalidConfig(f"no data set at {path}")
    if limit < 1:
        raise InvalidConfig(f"a limit of {limit} rows leaves nothing to learn from")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    about: dict[str, Any] = {"file": path.name, "sha256": sha256}
    if path.suffix == ".npz":
        x, labels = _vectors(path, limit)
        about["encoder"] = None
    else:
        x, labels, encoder = _encoded(path, sha256, content_column, encoder_for, limit, cache_dir, progress)
        about["encoder"] = encoder
    return LabelledSet(_title(path), x, labels, about | {"rows": len(x), "dim": x.shape[1]})


def set_from_metadata(name: str, x: Vectors, metadata: Sequence[Mapping[str, Any]], **about: Any) -> LabelledSet:
    """Vectors x (n, dim), unit rows, and n JSON objects: every key whose values are labels throughout is a column."""
    keys = dict.fromkeys(key for entry in metadata for key in entry)
    columns = {key: [entry.get(key) for entry in metadata] for key in sorted(keys)}
    labels = {key: column for key, column in columns.items() if _labels(column)}
    sha256 = hashlib.sha256(x.tobytes()).hexdigest()  # over the vectors
    return LabelledSet(name, x, labels, {"sha256": sha256, "rows": len(x), "dim": x.shape[1], **about})


def notions_of(labelled: LabelledSet, columns: Sequence[str] | None = None) -> list[Notion]:
    """The notions of similarity in a set: one per label column, named SET:column. An empty label means unlabelled.

    Without ``columns``, every column counts that has at least LEAST_CLASSES classes of LEAST_MEMBERS rows, none of them most of the
    rows; that may be none. Raises InvalidConfig for a column that is not there or has fewer than two classes.
    """
    for name in columns or ():
        if name not in labelled.labels:
            there = ", ".join(labelled.labels) or "none"
            raise InvalidConfig(f"{labelled.name} has no label column {name!r}; its columns: {there}")
    classes = {name: classes_of(labelled.labels[name]) for name in (labelled.labels if columns is None else columns)}
    if columns is None:
        classes = {name: _telling(rows, len(labelled.x)) for name, rows in classes.items()}
        classes = {name: rows for name, rows in classes.items() if len(rows) >= LEAST_CLASSES}
    return [Notion(f"{labelled.name}:{name}", labelled.x, tuple(rows.values())) for name, rows in classes.items()]


def notions_from_file(
    path: Path,
    label_columns: Sequence[str] | None = None,
    content_column: str | None = None,
    encoder: SupportsEncode | None = None,
    limit: int = LIMIT,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Notion]:
    """`read_set` with one encoder for whatever the content is, then `notions_of`; raises as they do, and when there is no notion."""
    encoder_for = None if encoder is None else lambda _kind: encoder
    found = read_set(path, encoder_for, limit, content_column=content_column, cache_dir=cache_dir, progress=progress)
    notions = notions_of(found, label_columns)
    if not notions:
        raise InvalidConfig(no_notion(str(path), found.labels))
    return notions


def no_notion(where: str, columns: Sequence[str] | Mapping[str, Any]) -> str:
    """Says what a column needs to count."""
    return f"{where} has no column of labels with {LEAST_CLASSES} classes of {LEAST_MEMBERS} rows; found: {', '.join(columns) or 'none'}"


def classes_of(values: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
    """The rows of every label, by label in order; lists of labels put a row into several; None and "" into none."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        for label in dict.fromkeys(value) if isinstance(value, (list, tuple)) else [value]:
            if label is not None and str(label):
                rows.setdefault(str(label), []).append(row)
    return {label: np.array(rows[label], np.int64) for label in sorted(rows)}


def _telling(classes: Mapping[str, NDArray[np.int64]], n: int) -> dict[str, NDArray[np.int64]]:
    """Classes that are neither too small to practise on nor most of the rows."""
    return {label: rows for label, rows in classes.items() if LEAST_MEMBERS <= len(rows) <= n // 2}


def _labels(column: Sequence[Any]) -> bool:
    """Whether a column holds labels at all: texts, whole numbers, booleans or lists of texts; and not nothing but None."""
    given = [value for value in column if value is not None and value != []]
    return bool(given) and all(
        isinstance(value, (str, int)) or (isinstance(value, list) and all(isinstance(part, str) for part in value))
        for value in given
    )


def _vectors(path: Path, limit: int) -> tuple[Vectors, dict[str, list[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidConfig(f"{path} is no .npz file of plain arrays: {_line(error)}") from error
    x = columns.pop("X", None)
    if x is None or x.ndim != 2 or not x.size or x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        raise InvalidConfig(f"{path} needs an array X of finite rows, (n, dim); it has {sorted(columns)}")
    rows = part_of(len(x), limit)
    labels = {name: column[rows].tolist() for name, column in columns.items() if column.shape == (len(x),)}
    labels = {name: column for name, column in labels.items() if _labels(column)}
    return unit(np, np.asarray(x, np.float32)[rows]).astype(np.float32), labels


def _encoded(
    path: Path,
    sha256: str,
    content_column: str | None,
    encoder_for: EncoderFor | None,
    limit: int,
    cache_dir: Path | None,
    progress: Progress | None,
) -> tuple[Vectors, dict[str, list[Any]], str]:
    columns = _table(path)
    content = content_column or next((name for name in CONTENT_COLUMNS if name in columns), None)
    if content is None or content not in columns:
        wanted = content_column or " or ".join(CONTENT_COLUMNS)
        raise InvalidConfig(f"{path} has no content column {wanted}; its columns: {', '.join(columns)}")
    full = [row for row, value in enumerate(columns[content]) if value and (not isinstance(value, str) or value.strip())]
    if not full:
        raise InvalidConfig(f"the column {content!r} of {path} is empty")
    rows = [full[i] for i in part_of(len(full), limit)]
    encoder = (encoder_for or _own_encoder)("image" if isinstance(columns[content][rows[0]], bytes) else "text")
    cached = None
    if cache_dir is not None:
        key = [encoder.name, encoder.dim, sha256, content, limit]
        cached = cache_dir / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.npy"
    x = _cached(cached, (len(rows), encoder.dim))
    if x is None:
        parts = []
        for at in range(0, len(rows), ENCODE_ROWS):
            parts.append(encoder.encode([columns[content][row] for row in rows[at : at + ENCODE_ROWS]]))
            if progress is not None:
                progress(f"encode {_title(path)}", min(at + ENCODE_ROWS, len(rows)), len(rows))
        x = np.concatenate(parts).astype(np.float32)
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary := cached.with_suffix(f".{os.getpid()}"), "wb") as file:
                np.save(file, x, allow_pickle=False)
            temporary.replace(cached)
    labels = {name: [column[row] for row in rows] for name, column in columns.items() if name != content and _labels(column)}
    return x, labels, encoder.name


def _own_encoder(kind: str) -> SupportsEncode:
    from vecmeta.encoders import open_encoder

    return open_encoder(kind)


def _cached(path: Path | None, shape: tuple[int, int]) -> Vectors | None:
    """A cache that is missing, damaged or of another shape is none."""
    try:
        x = np.load(path, allow_pickle=False) if path is not None else None
    except (OSError, ValueError, EOFError):
        return None
    return x if x is not None and x.shape == shape else None


def part_of(n: int, limit: int) -> NDArray[np.int64]:
    """A random part of so many rows, always the same one, ascending."""
    return np.sort(np.random.default_rng(0).permutation(n)[:limit])


def _table(path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    try:
        table = pyarrow.json.read_json(path) if path.suffix == ".jsonl" else pyarrow.parquet.read_table(path)
        return dict(table.to_pydict())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidConfig(f"{path} is no readable .parquet, .jsonl or .npz file: {_line(error)}") from error


def _title(path: Path) -> str:
    """FOLDER of FOLDER/data.parquet, else the file's name without its ending."""
    return path.parent.name if path.stem == "data" and path.parent.name else path.stem


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
