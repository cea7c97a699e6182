"""What it would cost to build a candidate: some of the collection's vectors go the same way into a scratch index, and are scaled up."""

from __future__ import annotations

import inspect
import math
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from vecmeta.catalogue.items import ItemStore
from vecmeta.index import KINDS, store
from vecmeta.index.protocol import VectorIndex
from vecmeta.serving import Servings
from vecmeta.types import Keys, Vectors

if TYPE_CHECKING:
    from vecmeta.meta.head import Head

SAMPLE = 2000  # vectors that are tried
SLICE = 250  # of them are indexed at a time, until SECONDS are over
SECONDS = 0.25
EASY = 2  # slices before those that tell how it goes on


def cost(items: ItemStore, servings: Servings, head: Head) -> dict[str, float]:
    """Of building a version with this head: rows to re-embed, bytes of its index files, seconds. Takes less than half a second.

    Reading, projecting and writing take time in proportion to the rows, and so does indexing without a graph; with one a row is looked
    for among those before it, so that n of them take n log n. Writes to a temporary folder only. Raises the StorageError family.

    Measured on one thread with vectors of dim 384: seconds within .02 of the truth at 5,000 rows (.02 to .04 s), and with the graph 1.0,
    .8, .7 and .74 of it at 12,000, 25,000, 50,000 and 100,000 rows (12 s), which are too many for the processor's cache.
    """
    begin = time.perf_counter()
    rows, keys, vectors = _sample(items, head)
    per_row = (time.perf_counter() - begin) / max(len(keys), 1)
    options = _options(servings.scratch(), rows)
    index = servings.scratch(**options)
    rates = _rates(index, keys, vectors, bool(options))
    # The first rows are linked in no time, for there is little to look through; and the median forgives a slice that was interrupted.
    indexing = median(rates[EASY:] or rates or [0.0]) * _growth(rows, bool(options))
    (least, fixed), (size, writing) = _written(servings.scratch(**options)), _written(index)
    times = rows / max(len(index), 1)
    seconds = per_row * rows + indexing + fixed + max(writing - fixed, 0.0) * times
    return {"rows": float(rows), "bytes": float(round(least + (size - least) * times)), "seconds": seconds}


def _sample(items: ItemStore, head: Head) -> tuple[int, Keys, Vectors]:
    """How many items there are, and of the first SAMPLE of them keys (n,) and vectors under the head (n, dim)."""
    with items.changes(0) as changes:  # as a build reads them
        keys, vectors = [np.empty(0, np.int64)], []
        for some, base in changes.pages:
            keys.append(some)
            vectors.append(head.project(base))
            if sum(len(part) for part in keys) >= SAMPLE:
                break
        found = np.concatenate(vectors)[:SAMPLE] if vectors else np.empty((0, 0), np.float32)
        return changes.changed, np.concatenate(keys)[:SAMPLE], found


def _options(index: VectorIndex, rows: int) -> dict[str, Any]:
    """What makes a small index the kind of structure that a large one is: the graph, if it would have one."""
    threshold = inspect.signature(KINDS[index.kind]()).parameters.get("hnsw_from")
    return {} if threshold is None or rows < threshold.default else {"hnsw_from": 0}


def _rates(index: VectorIndex, keys: Keys, vectors: Vectors, graph: bool) -> list[float]:
    """Add what there is time for, slice by slice: the seconds of each in terms of `_growth`."""
    begin, rates = time.perf_counter(), list[float]()
    for start in range(0, len(keys), SLICE):
        before = time.perf_counter()
        if before - begin > SECONDS:
            break
        index.add(keys[start : start + SLICE], vectors[start : start + SLICE])
        rates.append((time.perf_counter() - before) / (_growth(len(index), graph) - _growth(start, graph)))
    return rates


def _growth(rows: int, graph: bool) -> float:
    return rows * math.log(rows + 1) if graph else rows


def _written(index: VectorIndex) -> tuple[int, float]:
    """Bytes of an index's files, and the seconds that they take to be written."""
    with TemporaryDirectory(prefix="vecmeta-") as folder:
        begin = time.perf_counter()
        store.save(index, Path(folder), 0)
        seconds = time.perf_counter() - begin
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()), seconds
