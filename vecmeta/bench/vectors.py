"""Vectors to measure with, and what is truly near: made-up clustered ones, those of a file, exact search."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import vecmeta as vm
from vecmeta.types import Keys, Vectors

AT_ONCE = 200  # queries scored against all rows at a time


def clustered(count: int, dim: int, seed: int) -> Vectors:
    """(count, dim) float32 unit rows around count / 100 centres: neighbourhoods as text vectors have them, no uniform noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 100), dim)).astype(np.float32)
    out = np.empty((count, dim), np.float32)
    for start in range(0, count, 1000):
        part = out[start : start + 1000]
        part[:] = centres[rng.integers(len(centres), size=len(part))]
        part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def read(path: Path, more_than: int) -> Vectors:
    """(n, dim) float32 unit rows of a .npy file. Raises InvalidConfig: none of vectors, or not more rows than needed."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise vm.InvalidConfig(f"{path} cannot be read as a .npy file: {error}") from error
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or len(rows) <= more_than:
        raise vm.InvalidConfig(
            f"{path} holds an array of {rows.dtype} and shape {rows.shape}; (n, dim) floats with more than {more_than} rows are needed"
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise vm.InvalidConfig(f"row {int(np.argmin(np.isfinite(lengths) & (lengths > 0)))} of {path} has no direction")
    unit: Vectors = (rows / lengths).astype(np.float32)
    return unit


def nearest(queries: Vectors, rows: Vectors, k: int) -> Keys:
    """(q, min(k, n)) int64: the places of the rows with the largest inner products, in no order; (q, dim), (n, dim)."""
    k = min(k, len(rows))
    found = [
        np.argpartition(-(queries[start : start + AT_ONCE] @ rows.T), k - 1, axis=1)[:, :k]
        for start in range(0, len(queries), AT_ONCE)
    ]
    places: Keys = np.concatenate(found) if found else np.empty((0, k), np.int64)
    return places
