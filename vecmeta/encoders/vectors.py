"""Own vectors: checked, and brought to length one. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecmeta.errors import InvalidConfig, InvalidVector
from vecmeta.types import Content, Vectors

_BLOCK_BYTES = 4 << 20  # rows are worked on in float64 blocks that fit the cache: fast, and no copy of the whole
_SAFE = 1e-280  # a squared norm below this has lost digits in float64, or is zero


def unit_rows(vectors: ArrayLike, dim: int, *, what: str = "vector") -> Vectors:
    """The rows of `vectors`, each divided by its length: (n, dim) float32, C-contiguous, a new array.

    `vectors` is an (n, dim) array or a sequence of n arrays of length dim, of any real type; an empty list is n = 0. It is left
    as it is. Lengths are taken in float64 and rows with extreme values are scaled first, so that neither 1e300 nor 1e-300
    overflows or vanishes. `what` is the word for a row in error messages.

    Raises:
        InvalidVector: another shape or type, NaN, infinity, or a zero vector; names the first offending row.
    """
    rows = _matrix(vectors, dim, what)
    units = np.empty((len(rows), dim), np.float32)
    step = max(1, _BLOCK_BYTES // (8 * dim))
    for start in range(0, len(rows), step):
        with np.errstate(over="ignore", invalid="ignore"):  # both are found below, and reported by row
            block = np.asarray(rows[start : start + step], np.float64)
            squares = np.einsum("ij,ij->i", block, block)
        extreme = np.flatnonzero(~((squares > _SAFE) & (squares < np.inf)))
        if extreme.size:
            block = block.copy()  # which may be the caller's
            squares[extreme] = _rescale(block, extreme, start, what)
        np.divide(block, np.sqrt(squares)[:, None], out=units[start : start + step], casting="same_kind")
    return units


def _rescale(block: NDArray[np.float64], extreme: NDArray[np.intp], start: int, what: str) -> NDArray[np.float64]:
    """Divide the extreme rows of a block by their largest value, in place; their new squared norms."""
    largest = np.abs(block[extreme]).max(axis=1)  # NaN wins a maximum, so this one number tells all three faults
    for row, value in zip(extreme, largest, strict=True):
        if np.isnan(value):
            raise InvalidVector(f"{what} {start + row} holds NaN")
        if np.isinf(value):
            raise InvalidVector(f"{what} {start + row} holds infinity")
        if value == 0:
            raise InvalidVector(f"{what} {start + row} is zero everywhere, so it has no direction")
    block[extreme] /= largest[:, None]
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", block[extreme], block[extreme])
    return squares


def _matrix(vectors: ArrayLike, dim: int, what: str) -> NDArray[Any]:
    """`vectors` as an (n, dim) array of a real type, without a copy where that is possible."""
    if isinstance(vectors, str | bytes):
        raise InvalidVector(f"{what}s must be an (n, {dim}) array of numbers, not {type(vectors).__name__}")
    try:
        rows = np.asarray(vectors)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged rows; a tensor that needs a gradient or lies on a GPU
        _blame_a_row(vectors, dim, what)
        raise InvalidVector(f"{what}s cannot be read as an (n, {dim}) array of numbers: {error}") from error
    if rows.ndim == 1 and rows.size == 0:
        return np.empty((0, dim), np.float32)
    if rows.dtype.kind not in "fiub":
        _blame_a_row(vectors, dim, what)
        raise InvalidVector(f"{what}s must be an (n, {dim}) array of real numbers, not of {rows.dtype}")
    if rows.ndim != 2:
        raise InvalidVector(f"{what}s must be an (n, {dim}) array, not one of shape {rows.shape}; for one {what} give [{what}]")
    if rows.shape[1] != dim:
        raise InvalidVector(f"{what} 0 has {rows.shape[1]} dimensions, not {dim}")
    return rows


def _blame_a_row(vectors: ArrayLike, dim: int, what: str) -> None:
    """Raise for the first row that is not one-dimensional, real and of length dim, if there is one."""
    if not isinstance(vectors, Sequence):
        return
    for position, vector in enumerate(vectors):
        try:
            row = np.asarray(vector)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InvalidVector(f"{what} {position} cannot be read as {dim} numbers: {error}") from error
        if row.dtype.kind not in "fiub":
            given = type(vector).__name__ if row.ndim == 0 else f"an array of {row.dtype}"
            raise InvalidVector(f"{what} {position} must be {dim} real numbers, not {given}")
        if row.ndim != 1:
            raise InvalidVector(f"{what} {position} must be one-dimensional, not of shape {row.shape}")
        if row.size != dim:
            raise InvalidVector(f"{what} {position} has {row.size} dimensions, not {dim}")


class VectorEncoder:
    """The encoder of collections that bring their own vectors: it only checks them and brings them to length one."""

    modality: Literal["text", "image", "vector"] = "vector"

    def __init__(self, dim: int) -> None:
        """An encoder for vectors of length `dim`; InvalidConfig if that is no positive whole number."""
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
            raise InvalidConfig(f"dim must be a positive whole number, not {dim!r}")
        self.dim = int(dim)
        self.name = f"vectors@{self.dim}"

    def encode(self, contents: Sequence[Content] | ArrayLike) -> Vectors:
        """(n, dim) array-like in, (n, dim) float32 unit rows out; see `unit_rows`.

        Raises:
            InvalidVector: another shape or type, NaN, infinity, or a zero vector; names the first offending row.
        """
        return unit_rows(contents, self.dim)  # type: ignore[arg-type]  # what is no number is told there
