"""The exact k best rows, by scoring every one of them in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vecmeta.types import Keys, Mask, Vectors

SCORES = 4_000_000  # scores held at once: 16 MB
TALL = 16_384  # rows at a time at least, where there are many queries
# OpenBLAS hands a matrix-vector product of more than about 460,000 numbers to all its threads. Reading memory gains little from
# them, and on a busy machine they wait for each other: 20,000 x 384 took 11 ms (p95 16) at once, 3.4 ms (p95 3.8) in blocks.
ONE_THREAD = 400_000
GATHERED = (
    1024  # rows copied together at a time when only some count: 1.5 MB at dim 384, in the processor's cache when they are scored
)
GROUP = 16  # scores whose largest is looked at first
EQUAL = 8  # times k scores that are left of a row on average, from which on many are equal and sorting them would take long


def top_k(queries: Vectors, rows: Vectors, k: int, mask: Mask | None = None) -> tuple[Vectors, Keys]:
    """The exact k best rows for each query by inner product: scores (q, k) float32 and row numbers (q, k) int64, best first.

    queries (q, dim) and rows (n, dim) float32; mask (n,) bool has at least k True, and only those rows count.
    """
    at = left_out = None
    if mask is not None:
        at = np.flatnonzero(mask)
        if 2 * len(at) >= len(rows):  # reading all in a row is quicker than picking out half
            at, left_out = None, np.where(mask, np.float32(0), np.float32(-np.inf))
    n = len(rows) if at is None else len(at)
    tall = max(SCORES // max(len(queries), 1), TALL)  # rows at a time, each read once for as many queries as can be
    wide = max(1, SCORES // max(min(n, tall), 1))
    parts = []
    for start in range(0, max(n, 1), tall):
        here = slice(start, min(start + tall, n))
        block, chosen = (rows[here], None) if at is None else (rows, at[here])
        without = None if left_out is None else left_out[here]
        found = [
            _top(queries[q : q + wide], block, min(k, here.stop - start), chosen, without) for q in range(0, len(queries), wide)
        ]
        if found:
            scores, best = (np.concatenate(one) if len(found) > 1 else one[0] for one in zip(*found, strict=True))
            parts.append((scores, best if chosen is not None else best + start))
    return merged(parts, k) if parts else (np.empty((0, k), np.float32), np.empty((0, k), np.int64))


def _top(queries: Vectors, rows: Vectors, k: int, at: Keys | None, left_out: Vectors | None) -> tuple[Vectors, Keys]:
    """`top_k` of all rows, or of those given; (n,) is added to their scores."""
    scores = _scores(queries, rows, at)  # (b, n)
    if left_out is not None:
        scores += left_out
    best, found = _largest(scores, k)
    return best, found if at is None else at[found]


def merged(parts: Sequence[tuple[Vectors, Keys]], k: int) -> tuple[Vectors, Keys]:
    """The k best of what was found in parts that share no row: scores and rows, (q, k_i) each with sum k_i >= k -> (q, k), best first."""
    if len(parts) == 1:
        return parts[0]
    scores, rows = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _scores(queries: Vectors, rows: Vectors, at: Keys | None) -> Vectors:
    """(q, n): of all rows, or of those given.

    Those are copied a few at a time into the same memory, and so are all where they are mapped from a file at an odd address: BLAS cannot
    be given these, and what numpy does instead takes a hundred times as long.
    """
    n = len(rows) if at is None else len(at)
    direct = at is None and rows.flags.aligned
    if direct and len(queries) > 1:
        return queries @ rows.T
    out = np.empty((len(queries), n), np.float32)
    block = max(1, ONE_THREAD // rows.shape[1]) if len(queries) == 1 else GATHERED
    copied = np.empty((0 if direct else min(block, n), rows.shape[1]), np.float32)
    for start in range(0, n, block):
        stop = min(start + block, n)
        part = rows[start:stop] if direct else copied[: stop - start]
        if at is not None:  # as bytes, which have no address that is odd; "raise" would copy twice
            np.take(rows.view(np.uint8), at[start:stop], axis=0, out=part.view(np.uint8), mode="clip")
        elif not direct:
            part.view(np.uint8)[:] = rows[start:stop].view(np.uint8)
        out[:, start:stop] = queries @ part.T  # with out= that is no whole array, numpy would not ask BLAS
    return out


def _largest(scores: Vectors, k: int) -> tuple[Vectors, Keys]:
    """The k largest of each row of (b, n) scores and where they stand, both (b, k), best first; k <= n.

    Of the groups k have a largest score that is at least as large as the k-th of these: what is smaller need not be looked at. That
    leaves little more than k, and is a third of the work of partitioning all.
    """
    b, n = scores.shape
    width = n // GROUP
    if width > 2 * k:
        heads = scores[:, : GROUP * width].reshape(b, GROUP, width).max(axis=1)  # every width-th score is of the same group
        least = np.partition(heads, width - k, axis=1)[:, width - k]
        left = np.flatnonzero(scores >= least[:, None])
        if len(left) <= EQUAL * b * k:
            of, places = np.divmod(left, n)
            found = scores[of, places]
            order = np.lexsort((-found, of))
            chosen = order[np.searchsorted(of, np.arange(b))[:, None] + np.arange(k)]
            return found[chosen], places[chosen]
    top = np.argpartition(scores, n - k, axis=1)[:, n - k :] if k < n else np.tile(np.arange(n), (b, 1))
    found = np.take_along_axis(scores, top, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(top, order, axis=1)
