"""The exact k best rows, by scoring every one of them in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vecmeta.types import Keys, Mask, Vectors

SCORES = 4_000_000  # scores held at once: 16 MB, and twice that for their order
# OpenBLAS hands a matrix-vector product of more than about 460,000 numbers to all its threads. Reading memory gains little from
# them, and on a busy machine they wait for each other: 20,000 x 384 took 11 ms (p95 16) at once, 3.4 ms (p95 3.8) in blocks.
ONE_THREAD = 400_000
GATHERED = 4096  # rows copied together at a time when only some of them count


def top_k(queries: Vectors, rows: Vectors, k: int, mask: Mask | None = None) -> tuple[Vectors, Keys]:
    """The exact k best rows for each query by inner product: scores (q, k) float32 and row numbers (q, k) int64, best first.

    queries (q, dim) and rows (n, dim) float32; mask (n,) bool has at least k True, and only those rows count.
    """
    at = None if mask is None else np.flatnonzero(mask)
    n = len(rows) if at is None else len(at)
    scores, best = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    step = max(1, SCORES // max(len(rows), 1))
    for start in range(0, len(queries), step):
        part = _scores(queries[start : start + step], rows, at)  # (b, n)
        if k < n:
            top = np.argpartition(part, n - k, axis=1)[:, n - k :]  # (b, k)
            part = np.take_along_axis(part, top, axis=1)
        order = np.argsort(-part, axis=1)
        scores[start : start + step] = np.take_along_axis(part, order, axis=1)
        found = np.take_along_axis(top, order, axis=1) if k < n else order
        best[start : start + step] = found if at is None else at[found]
    return scores, best


def merged(parts: Sequence[tuple[Vectors, Keys]], k: int) -> tuple[Vectors, Keys]:
    """The k best of what was found in parts that share no row: scores and rows, (q, k_i) each with sum k_i >= k -> (q, k), best first."""
    if len(parts) == 1:
        return parts[0]
    scores, rows = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _scores(queries: Vectors, rows: Vectors, at: Keys | None) -> Vectors:
    if at is not None and 2 * len(at) >= len(rows):  # reading all in a row is quicker than picking out half
        return _scores(queries, rows, None)[:, at]
    n = len(rows) if at is None else len(at)
    out = np.empty((len(queries), n), np.float32)
    block = max(1, ONE_THREAD // rows.shape[1]) if len(queries) == 1 else n if at is None else GATHERED
    for start in range(0, n, max(block, 1)):
        part = rows[start : start + block] if at is None else rows[at[start : start + block]]
        if len(queries) == 1:
            np.dot(part, queries[0], out=out[0, start : start + block])
        else:
            out[:, start : start + block] = queries @ part.T
    return out
