"""Meta-training from files: labelled data sets in, a start and its scores out. What ``vecmeta meta-train`` calls."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.meta.episodes import LEAST_MEMBERS, Notion
from vecmeta.meta.head import unit
from vecmeta.meta.start import MetaConfig
from vecmeta.types import Progress, Vectors

CONTENT_COLUMNS = ("text", "jpeg", "png", "content")  # where content is looked for, in this order
LIMIT = 8000  # rows of a file that are encoded: more make training slower, not better
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
    """The notions of similarity in a data set: one per label column.

    A .parquet or .jsonl file has a content column (text, or encoded pictures) and label columns of texts, whole numbers or lists
    of texts; a random part of ``limit`` rows is encoded, once per encoder and file when there is a ``cache_dir``. An .npz file has
    the rows themselves, X (n, dim), and arrays of labels (n,). An empty label means unlabelled. Without ``label_columns``, every
    column counts that has at least LEAST_CLASSES classes of LEAST_MEMBERS rows, none of them most of the rows.

    Raises InvalidConfig when the file cannot be read, lacks a column, or has a label column with fewer than two classes.
    """
    if not path.is_file():
        raise InvalidConfig(f"no data set at {path}")
    if limit < 1:
        raise InvalidConfig(f"a limit of {limit} rows leaves nothing to learn from")
    if path.suffix == ".npz":
        x, labels = _vectors(path, limit)
    else:
        x, labels = _encoded(path, content_column, encoder, limit, cache_dir, progress)
    named = list(labels) if label_columns is None else list(label_columns)
    for name in named:
        if name not in labels:
            raise InvalidConfig(f"{path} has no label column {name!r}; its columns: {', '.join(labels) or 'none'}")
    classes = {name: classes_of(labels[name]) for name in named}
    if label_columns is None:
        classes = {name: _telling(rows, len(x)) for name, rows in classes.items()}
        classes = {name: rows for name, rows in classes.items() if len(rows) >= LEAST_CLASSES}
        if not classes:
            raise InvalidConfig(
                f"{path} has no column of labels with {LEAST_CLASSES} classes of {LEAST_MEMBERS} rows; found: {named}"
            )
    title = path.parent.name if path.stem == "data" else path.stem
    return [Notion(f"{title}:{name}", x, tuple(rows.values())) for name, rows in classes.items()]


def meta_train_files(
    train: Sequence[Path],
    validate: Sequence[Path],
    out: Path,
    config: MetaConfig | None = None,
    encoder: SupportsEncode | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    *,
    limit: int = LIMIT,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Meta-trains a start on some files, chooses by others, and writes it to ``out`` (and a readable .json beside it).

    Returns what happened: the start's hash, the notions, the best step, its gains on the validation notions (mAP@R over the
    centred base vectors), and the seconds. ``provenance`` goes into the file, beside the config and the scores.

    Raises InvalidConfig for bad data. An ``out`` that cannot be written is an OSError.
    """
    from vecmeta.meta.maml import meta_train

    config = config or MetaConfig()
    begin = time.perf_counter()
    sets = [[n for path in paths for n in notions_from_file(path, None, None, encoder, limit, cache_dir=cache_dir, progress=progress)]
            for paths in (train, validate)]  # fmt: skip
    encoded = time.perf_counter()
    facts = {"encoder": encoder.name if encoder is not None else None, "limit": limit, **(provenance or {})}
    start = meta_train(sets[0], config, progress, validation=sets[1], provenance=facts)
    start.save(out)
    best = start.provenance["best_step"]
    return {
        "out": str(out),
        "hash": start.hash,
        "trained_on": start.provenance["trained_on"],
        "validated_on": start.provenance["validated_on"],
        "best_step": best,
        "gains": next((look for look in start.provenance["validation"] if look["step"] == best), {}),
        "config": asdict(config),
        "seconds": {"encoding": round(encoded - begin, 1), "training": round(time.perf_counter() - encoded, 1)},
    }


def classes_of(values: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
    """The rows of every label, by label in order; lists of labels put a row into several; None and "" into none."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        for label in value if isinstance(value, (list, tuple)) else [value]:
            if label is not None and str(label):
                rows.setdefault(str(label), []).append(row)
    return {label: np.array(rows[label], np.int64) for label in sorted(rows)}


def _telling(classes: Mapping[str, NDArray[np.int64]], n: int) -> dict[str, NDArray[np.int64]]:
    """Classes that are neither too small to practise on nor most of the rows."""
    return {label: rows for label, rows in classes.items() if LEAST_MEMBERS <= len(rows) <= n // 2}


def _vectors(path: Path, limit: int) -> tuple[Vectors, dict[str, list[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidConfig(f"{path} is no .npz file of plain arrays: {error}") from error
    x = columns.pop("X", None)
    if x is None or x.ndim != 2 or not len(x) or not np.issubdtype(x.dtype, np.number) or not np.isfinite(x).all():
        raise InvalidConfig(f"{path} needs an array X of finite rows, (n, dim); it has {sorted(columns)}")
    rows = _part(len(x), limit)
    labels = {name: column[rows].tolist() for name, column in columns.items() if column.shape == (len(x),)}
    return unit(np, np.asarray(x, np.float32)[rows]).astype(np.float32), labels


def _encoded(
    path: Path,
    content_column: str | None,
    encoder: SupportsEncode | None,
    limit: int,
    cache_dir: Path | None,
    progress: Progress | None,
) -> tuple[Vectors, dict[str, list[Any]]]:
    columns = _table(path)
    content = content_column or next((name for name in CONTENT_COLUMNS if name in columns), None)
    if content is None or content not in columns:
        wanted = content_column or " or ".join(CONTENT_COLUMNS)
        raise InvalidConfig(f"{path} has no content column {wanted}; its columns: {', '.join(columns)}")
    if encoder is None:
        raise InvalidConfig(f"the contents of {path} need an encoder")
    full = [row for row, value in enumerate(columns[content]) if value and (not isinstance(value, str) or value.strip())]
    if not full:
        raise InvalidConfig(f"the column {content!r} of {path} is empty")
    rows = [full[i] for i in _part(len(full), limit)]
    cached = None
    if cache_dir is not None:
        key = [encoder.name, encoder.dim, hashlib.sha256(path.read_bytes()).hexdigest(), content, limit]
        cached = cache_dir / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.npy"
    x = _cached(cached, (len(rows), encoder.dim))
    if x is None:
        parts = []
        for at in range(0, len(rows), ENCODE_ROWS):
            parts.append(encoder.encode([columns[content][row] for row in rows[at : at + ENCODE_ROWS]]))
            if progress is not None:
                progress(f"encode {path}", min(at + ENCODE_ROWS, len(rows)), len(rows))
        x = np.concatenate(parts).astype(np.float32)
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary := cached.with_suffix(f".{os.getpid()}"), "wb") as file:
                np.save(file, x, allow_pickle=False)
            temporary.replace(cached)
    labels = {name: [column[row] for row in rows] for name, column in columns.items() if name != content and _labels(column)}
    return x, labels


def _cached(path: Path | None, shape: tuple[int, int]) -> Vectors | None:
    """A cache that is missing, damaged or of another shape is none."""
    try:
        x = np.load(path, allow_pickle=False) if path is not None else None
    except (OSError, ValueError, EOFError):
        return None
    return x if x is not None and x.shape == shape else None


def _labels(column: Sequence[Any]) -> bool:
    """Whether a column holds labels at all: texts, whole numbers, or lists of texts."""
    first = next((value for value in column if value is not None and value != []), None)
    return isinstance(first, str) or (isinstance(first, int) and not isinstance(first, bool)) or _is_text_list(first)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and isinstance(value[0], str)


def _part(n: int, limit: int) -> NDArray[np.int64]:
    """A random part of so many rows, always the same one, ascending."""
    return np.sort(np.random.default_rng(0).permutation(n)[:limit])


def _table(path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    try:
        table = pyarrow.json.read_json(path) if path.suffix == ".jsonl" else pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidConfig(f"{path} is no readable .parquet, .jsonl or .npz file: {error}") from error
    return dict(table.to_pydict())
