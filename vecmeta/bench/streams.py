"""Vectors that are made or read in chunks and never held together, so that the memory measured is vecmeta's; and what to teach of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import vecmeta as vm
from vecmeta.bench.vectors import clustered
from vecmeta.index.graph import faiss
from vecmeta.types import Keys, Vectors

CHUNK = 10_000
EXTRA = 20  # rows more in a chunk, of the same neighbourhoods: queries that are not stored
ASKING = 10  # chunks that queries are taken from
TAUGHT, SHOTS = 10, 5  # concepts, and items judged for each


@dataclass(frozen=True, slots=True)
class Stream:
    """`count` vectors of dimension `dim`: clustered ones from a seed, or the first rows of a .npy file whose last rows are the queries.

    Raises InvalidConfig for a count or dimension below 1, and for a file that holds too little or no vectors.
    """

    count: int
    dim: int
    seed: int = 0
    file: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.dim < 1:
            raise vm.InvalidConfig(f"count and dim are whole numbers from 1, not {self.count} and {self.dim}")

    @classmethod
    def of_file(cls, path: Path, count: int, seed: int) -> Stream:
        """Up to `count` vectors of a file."""
        rows = _mapped(path)
        if len(rows) < 2 * EXTRA * ASKING:
            raise vm.InvalidConfig(f"{path} holds {len(rows)} vectors; at least {2 * EXTRA * ASKING} are needed")
        return cls(min(count, len(rows) - EXTRA * ASKING), rows.shape[1], seed, str(path))

    def chunks(self) -> Iterator[tuple[int, Vectors]]:
        """The place of a chunk's first row, and its rows (n, dim) float32; the same ones each time."""
        rows = None if self.file is None else _mapped(Path(self.file))
        for start in range(0, self.count, CHUNK):
            n = min(CHUNK, self.count - start)
            yield start, self._made(start, n)[:n] if rows is None else np.ascontiguousarray(rows[start : start + n], np.float32)

    def queries(self) -> Vectors:
        """(q, dim) float32 rows that are not stored: EXTRA for each of the first ASKING chunks."""
        if self.file is not None:
            return np.ascontiguousarray(_mapped(Path(self.file))[-EXTRA * ASKING :], np.float32)
        starts = range(0, self.count, CHUNK)[:ASKING]
        return np.concatenate([self._made(start, min(CHUNK, self.count - start))[-EXTRA:] for start in starts])

    def _made(self, start: int, n: int) -> Vectors:
        return clustered(n + EXTRA, self.dim, self.seed + start)


def _mapped(path: Path) -> Vectors:
    try:
        rows: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise vm.InvalidConfig(f"{path} is not a file of vectors (.npy): {error}") from error
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating):
        raise vm.InvalidConfig(f"{path} holds an array of {rows.dtype} and shape {rows.shape}; (n, dim) floats are needed")
    return rows


def fill(collection: vm.Collection, stream: Stream) -> float:
    """Add the vectors as item-0, item-1, … with a metadata object each; returns the seconds of adding, without making the vectors."""
    seconds = 0.0
    for start, rows in stream.chunks():
        numbers = range(start, start + len(rows))
        ids, metadata = [f"item-{n}" for n in numbers], [{"n": n, "shelf": f"s{n % 100}"} for n in numbers]
        begin = time.perf_counter()
        collection.add_vectors(ids, rows, metadata)
        seconds += time.perf_counter() - begin
    return seconds


def settled(collection: vm.Collection) -> float:
    """Seconds until what works behind the collection's back has ended."""
    begin = time.perf_counter()
    collection.settle()
    return time.perf_counter() - begin


def teach(collection: vm.Collection, stream: Stream, concepts: int = TAUGHT) -> list[vm.Judgement]:
    """Judge SHOTS items for each concept; returns the judgements.

    A concept of clustered vectors is two neighbourhoods taken together, which the vectors alone do not show, so that there is something
    to learn; of vectors of one's own it is a cluster of a sample (k-means), and the items are any of it.
    """
    _, x = next(stream.chunks())
    rng = np.random.default_rng(stream.seed)
    rows = _pairs(x, concepts, rng) if stream.file is None else _clusters(x, concepts, rng)
    judgements = [vm.Judgement(f"item-{row}", concept=f"concept {number}") for number, group in enumerate(rows) for row in group]
    collection.feedback(judgements)
    return judgements


def teach_more(collection: vm.Collection, judgements: list[vm.Judgement]) -> None:
    """Judge one more item for each concept: the nearest to one of its own that is not judged, as somebody does who looks at hits."""
    known = {judgement.item for judgement in judgements}
    for concept, item in {judgement.concept: judgement.item for judgement in judgements}.items():
        hit = next((hit for hit in collection.search(vm.Id(item), len(known)) if hit.id not in known), None)
        if hit is not None:
            known.add(hit.id)
            judgements.append(vm.Judgement(hit.id, concept=concept))
    collection.feedback(judgements[-len({judgement.concept for judgement in judgements}) :])


def _pairs(x: Vectors, concepts: int, rng: np.random.Generator) -> list[Keys]:
    chosen: list[int] = []
    for row in rng.permutation(len(x)).tolist():
        if len(chosen) < 2 * concepts and (not chosen or float((x[chosen] @ x[row]).max()) < 0.4):  # of another neighbourhood
            chosen.append(row)
    near = np.argsort(-(x[chosen] @ x.T), axis=1)[:, :SHOTS]
    return [np.concatenate([near[n, : SHOTS - SHOTS // 2], near[n + 1, : SHOTS // 2]]) for n in range(0, len(near) - 1, 2)]


def _clusters(x: Vectors, concepts: int, rng: np.random.Generator) -> list[Keys]:
    means = faiss.Kmeans(x.shape[1], concepts, niter=10, seed=int(rng.integers(2**31)), spherical=True, min_points_per_centroid=1)
    means.train(x)
    label = means.index.search(x, 1)[1][:, 0]
    members = [np.flatnonzero(label == number) for number in range(concepts)]
    return [rng.choice(rows, SHOTS, replace=False) for rows in members if len(rows) >= SHOTS]
