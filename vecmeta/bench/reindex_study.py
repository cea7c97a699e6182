"""What else could be kept of an index when a head moves its vectors: graphs and inverted lists, exact and quantised, by FAISS alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.cold import go_live
from vecmeta.bench.machine import machine
from vecmeta.bench.processes import alone
from vecmeta.bench.reindex import CONCEPTS, EF_CONSTRUCTION, K, M
from vecmeta.bench.streams import Stream, fill, teach
from vecmeta.bench.vectors import nearest
from vecmeta.evaluate import recall
from vecmeta.index.graph import faiss
from vecmeta.types import Keys, Vectors

EF, PROBES = (32, 96, 256), (4, 16, 64)  # how widely is searched: efSearch of graphs, nprobe of lists
LISTS = (1, 4)  # times the square root of the number of rows


def run(
    count: int = 30_000,
    dim: int = 384,
    vectors: Path | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Vectors before and after a head that was learned in a vecmeta collection of them, and every way to index the latter.

    Returns:
        ``rows``: ``index``, ``how`` (what was kept of the index of the vectors before, or "anew"), ``seconds`` from moved vectors to an
        index that can be asked, ``bytes`` of it, and for each of three ``breadths`` ``recall_at_10`` against exact search and
        ``ms`` of one query (median).

    Raises:
        InvalidConfig: as `vecmeta.bench.reindex.run`.
    """
    stream = Stream(count, dim, seed) if vectors is None else Stream.of_file(vectors, count, seed)
    if progress is not None:
        progress("measuring", 0, 1)
    found = alone(__name__, "measure", count=stream.count, dim=stream.dim, seed=seed, file=stream.file)
    if progress is not None:
        progress("done", 1, 1)
    settings = {"count": stream.count, "dim": stream.dim, "seed": seed, "vectors": None if vectors is None else vectors.name}
    return {**machine(), "settings": settings, **found}


def measure(count: int, dim: int, seed: int, file: str | None) -> dict[str, Any]:
    """In this process: see `run`."""
    stream = Stream(count, dim, seed, file)
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, device="cpu") as db:
        c = db.create("study", encoder="vectors", dim=dim)
        fill(c, stream)
        teach(c, stream, CONCEPTS)
        report = c.adapt(seed=seed)
        go_live(c, report)
        before = c.embed(np.concatenate([rows for _, rows in stream.chunks()]), version=0)
        queries = stream.queries()
        study = _Study(before, c.embed(before), c.embed(queries), c.embed)
        kept = recall(nearest(c.embed(queries, version=0), before, K), study.true)
        rows = [*study.graphs(), *study.lists()]
    return {"neighbours_kept": kept, "decision": report.decision, "rows": rows}


class _Study:
    """Vectors before and after (n, dim), queries after (q, dim), and the head as a function of rows."""

    def __init__(self, before: Vectors, after: Vectors, queries: Vectors, head: Callable[[Vectors], Vectors]) -> None:
        self.before, self.after, self.queries, self.head = before, after, queries, head
        self.true = nearest(queries, after, K)

    # -- graphs --------------------------------------------------------------------------------------------------------------

    def graphs(self) -> Iterator[dict[str, Any]]:
        """HNSW over full and quantised vectors: codes overwritten and the links kept, against a new graph."""
        for name, kind in (
            ("HNSW", None),
            ("HNSW fp16", faiss.ScalarQuantizer.QT_fp16),
            ("HNSW SQ8", faiss.ScalarQuantizer.QT_8bit),
        ):
            old, _ = _timed(self._graph, kind, self.before)
            kept, seconds = _timed(self._recoded, old, False)
            yield self._row(name, "links kept", kept, seconds, EF)
            if kind == faiss.ScalarQuantizer.QT_8bit:
                kept, seconds = _timed(self._recoded, old, True)
                yield self._row(name, "links kept, ranges anew", kept, seconds, EF)
            anew, seconds = _timed(self._graph, kind, self.after)
            yield self._row(name, "anew", anew, seconds, EF)

    def _graph(self, kind: int | None, rows: Vectors) -> Any:
        dim, metric = rows.shape[1], faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(dim, M, metric) if kind is None else faiss.IndexHNSWSQ(dim, kind, M, metric)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(rows)
        index.add(rows)
        return index

    def _recoded(self, old: Any, train: bool) -> Any:
        index = faiss.clone_index(old)
        storage = faiss.downcast_index(index.storage)
        if train:
            storage.train(self.after)
        faiss.copy_array_to_vector(storage.sa_encode(self.after).ravel(), storage.codes)
        return index

    # -- inverted lists ------------------------------------------------------------------------------------------------------

    def lists(self) -> Iterator[dict[str, Any]]:
        """IVF: centroids moved by the head or made of their lists' moved rows, rows kept in their lists or assigned again."""
        for times in LISTS:
            count = int(times * len(self.before) ** 0.5)
            old = self._trained(count, self.before)
            centroids = old.quantizer.reconstruct_n(0, count)
            assigned = old.quantizer.search(self.before, 1)[1][:, 0]
            for how, work, *given in (
                ("centroids through the head, lists kept", self._moved, centroids, assigned),
                ("centroids of the moved lists, lists kept", self._averaged, count, assigned),
                ("centroids through the head, assigned again", self._moved, centroids, None),
                ("anew", self._trained, count, self.after),
            ):
                index, seconds = _timed(work, *given)
                yield self._row(f"IVF {count}", how, index, seconds, PROBES)

    def _trained(self, count: int, rows: Vectors) -> Any:
        index = faiss.index_factory(rows.shape[1], f"IVF{count},Flat", faiss.METRIC_INNER_PRODUCT)
        faiss.extract_index_ivf(index).cp.spherical = True
        index.train(rows)
        index.add(rows)
        return index

    def _filled(self, centroids: Vectors, assigned: Keys | None) -> Any:
        from faiss.contrib.ivf_tools import add_preassigned

        quantizer = faiss.IndexFlatIP(centroids.shape[1])
        quantizer.add(centroids)
        index = faiss.IndexIVFFlat(quantizer, centroids.shape[1], len(centroids), faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True  # it has its centroids
        if assigned is None:
            index.add(self.after)
        else:
            add_preassigned(index, self.after, assigned)
        return index

    def _moved(self, centroids: Vectors, assigned: Keys | None) -> Any:
        return self._filled(self.head(centroids), assigned)

    def _averaged(self, count: int, assigned: Keys) -> Any:
        sums = np.zeros((count, self.after.shape[1]), np.float32)
        order = np.argsort(assigned, kind="stable")
        lists, starts = np.unique(assigned[order], return_index=True)
        sums[lists] = np.add.reduceat(self.after[order], starts)
        return self._filled(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.float32(1e-12)), assigned)

    # -- measures ------------------------------------------------------------------------------------------------------------

    def _row(self, name: str, how: str, index: Any, seconds: float, breadths: tuple[int, ...]) -> dict[str, Any]:
        row: dict[str, Any] = {"index": name, "how": how, "seconds": seconds, "bytes": len(faiss.serialize_index(index))}
        graph = hasattr(index, "hnsw")
        row |= {"breadths": list(breadths), "recall_at_10": [], "ms": []}
        for breadth in breadths:
            wide = faiss.SearchParametersHNSW(efSearch=breadth) if graph else faiss.SearchParametersIVF(nprobe=breadth)
            found = index.search(self.queries, K, params=wide)[1]
            row["recall_at_10"].append(recall(found, self.true))
            times = [_timed(partial(index.search, params=wide), query[None], K)[1] for query in self.queries]
            row["ms"].append(1e3 * median(times))
        return row


def _timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = work(*given)
    return result, time.perf_counter() - begin
