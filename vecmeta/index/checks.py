"""What keys and vectors have to look like before an index takes them."""

from __future__ import annotations

import numpy as np

from vecmeta.errors import InvalidInput, InvalidVector
from vecmeta.types import Keys, Vectors

UNIT = 1e-3  # how far a row's length may be from 1


def pairs(keys: Keys, vectors: Vectors, dim: int) -> tuple[Keys, Vectors]:
    """Keys (n,), all different, and vectors (n, dim), checked; of equal keys the last."""
    keys, vectors = check_keys(keys), check_rows(vectors, dim)
    if len(keys) != len(vectors):
        raise InvalidVector(f"{len(keys)} keys but {len(vectors)} vectors")
    last = _last_of_equal(keys)
    return (keys, vectors) if last is None else (keys[last], vectors[last])


def check_rows(vectors: Vectors, dim: int) -> Vectors:
    """The given (n, dim) float32 unit rows, made contiguous; InvalidVector for anything else."""
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != dim:
        given = f"shape {vectors.shape}" if isinstance(vectors, np.ndarray) else f"a {type(vectors).__name__}"
        raise InvalidVector(f"vectors must be an array of shape (n, {dim}), not {given}")
    if vectors.dtype != np.float32:
        raise InvalidVector(f"vectors must be float32, not {vectors.dtype}")
    vectors = np.ascontiguousarray(vectors)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    fine = np.abs(lengths - 1) <= UNIT  # False for NaN and infinity too
    if not fine.all():
        first = int(np.argmin(fine))
        raise InvalidVector(f"vectors must be finite and of length 1; row {first} has length {lengths[first]:.4g}")
    return vectors


def check_keys(keys: Keys) -> Keys:
    """The given (n,) int64 keys >= 0; InvalidInput for anything else."""
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype != np.int64:
        given = f"{keys.dtype} of shape {keys.shape}" if isinstance(keys, np.ndarray) else f"a {type(keys).__name__}"
        raise InvalidInput(f"keys must be an int64 array of shape (n,), not {given}")
    if len(keys) and keys.min() < 0:
        raise InvalidInput(f"keys must be 0 or more, not {keys.min()}")
    return keys


def _last_of_equal(keys: Keys) -> Keys | None:
    """Where the last of each key stands, in the order of the keys; None when they ascend anyway."""
    if len(keys) < 2 or (np.diff(keys) > 0).all():
        return None
    return len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
