"""What relevance feedback brings on classic retrieval collections, whose judgements were made by people for real queries.

Data sets are read from a folder that holds `NAME/corpus.parquet` (id, title, text), `queries.parquet` (id, text) and `qrels.parquet`
(query_id, doc_id, grade). Documents of a grade below 1 are neither relevant nor not: they are taken out of the ranking of their query.

bend    Query time. The first ten documents of each query are judged by the qrels and bend it; judged documents are taken out, and the rest
        is ranked: residual collection (Chang, Cirillo and Razon 1971; Salton and Buckley 1990). Of queries with a relevant document left.
adapt   Collection level. The relevant documents of half of the queries teach the collection; the other half are the test.

nDCG@10 has the grades as gains. "tuned Rocchio" is an oracle: the best of a grid for each set and metric, found on the very queries
that are the test.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.relevance_methods import Judged, methods, rocchio
from vecmeta.evaluate import Floats, bootstrap, ndcg
from vecmeta.meta.feedback import bend, survey
from vecmeta.types import Keys, Mask, Progress, Vector, Vectors

DEFAULT_SETS = ("ir_cranfield", "ir_medline", "ir_cisi")
JUDGED = 10  # documents
GRID = tuple(
    (beta, gamma) for beta in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 10) for gamma in (0, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 1.5)
)


@dataclass(frozen=True, eq=False)
class Retrieval:
    """A set of base vectors with judgements: documents ``x`` (n, dim), queries ``q`` (m, dim), ``gains`` (m, n) >= 0; ``out`` (m, n) bool
    is what does not count for a query.
    """

    x: Vectors
    q: Vectors
    gains: Floats
    out: Mask


class Figures(NamedTuple):
    """Of one method: nDCG@10 (m,) and average precision (m,) of m queries, milliseconds per query."""

    ndcg: Floats
    map: Floats
    milliseconds: float


def run(
    data_sets: Path,
    *,
    sets: Sequence[str] | None = None,
    splits: int = 3,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_sets: the folder of data sets.
        sets: their names.
        splits: repetitions of the part "adapt", each with another half of the queries; 0 leaves it out.

    Returns:
        {"machine": …, "settings": …, "bend": {set: {"queries", "methods": {method: {"ndcg", "map", "worse", "ms"}}, "tuned", "ndcg_gain",
        "map_gain", "negatives"}}, "adapt": {set: [{"decision", "ndcg_before", "ndcg_after", "ndcg_candidate", …}]}}.
        Gains are ours minus tuned Rocchio: mean, low and high of the paired 95 % bootstrap interval.

    Raises:
        InvalidConfig: a data set that is not there, or that has no query with enough relevant documents.
    """
    names = list(sets or DEFAULT_SETS)
    total, done = len(names) * (1 + splits), 0
    bent: dict[str, Any] = {}
    adapted: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        if progress is not None:
            progress(name, done, total)
        with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, device=device) as db:
            data = read(data_sets, name, db)
            bent[name], adapted[name] = bending(data, name), []
            for split in range(splits):
                done += 1
                if progress is not None:
                    progress(name, done, total)
                adapted[name].append({"split": split, **adapting(data, db, f"split-{split}", split)})
        done += 1
    if progress is not None:
        progress("done", total, total)
    return {
        "machine": machine(device),
        "settings": {"judged": JUDGED, "splits": splits},
        "bend": bent,
        "adapt": adapted,
    }


def read(data_sets: Path, name: str, db: vm.Database) -> Retrieval:
    """A set, its texts encoded. Raises InvalidConfig."""
    import pyarrow.parquet as pq

    tables = {}
    for part in ("corpus", "queries", "qrels"):
        path = data_sets / name / f"{part}.parquet"
        if not path.is_file():
            raise vm.InvalidConfig(f"no retrieval set {name!r}: there is no file {path}")
        tables[part] = pq.read_table(path).to_pydict()
    corpus, asked, qrels = tables["corpus"], tables["queries"], tables["qrels"]
    joined = [" ".join(part for part in pair if part) for pair in zip(corpus["title"], corpus["text"], strict=True)]
    texts = {id: text for id, text in zip(corpus["id"], joined, strict=True) if text.strip()}
    judged = set(qrels["query_id"])
    queries = {id: text for id, text in zip(asked["id"], asked["text"], strict=True) if id in judged and text.strip()}
    if not texts or not queries:
        raise vm.InvalidConfig(f"retrieval set {name!r} has no text or no judged query")
    column, row = {id: place for place, id in enumerate(texts)}, {id: place for place, id in enumerate(queries)}
    gains, out = np.zeros((len(row), len(column))), np.zeros((len(row), len(column)), dtype=bool)
    for query, document, grade in zip(qrels["query_id"], qrels["doc_id"], qrels["grade"], strict=True):
        if query in row and document in column:
            at = row[query], column[document]
            gains[at], out[at] = max(grade, 0), grade < 1
    encoder = db.create("contents", encoder="text")
    return Retrieval(encoder.embed(list(texts.values())), encoder.embed(list(queries.values())), gains, out)


# -- query time --------------------------------------------------------------------------------------------------------------


def bending(data: Retrieval, name: str = "") -> dict[str, Any]:
    """The part "bend" for one set: see `run`. Raises InvalidConfig when no query has a relevant document left."""
    tasks, gains = _tasks(data)
    if not tasks:
        raise vm.InvalidConfig(f"retrieval set {name!r} has no query with a relevant document after its first {JUDGED}")
    landscape = survey(data.x[np.random.default_rng(0).permutation(len(data.x))[:2000]])

    def ours(task: Judged) -> Vector:
        return bend(task.query, task.items, task.scores, landscape)

    found = {method: _measure(data.x, tasks, gains, how) for method, how in {**methods(data.x), "ours": ours}.items()}
    grid = [_measure(data.x, tasks, gains, rocchio(beta, gamma)) for beta, gamma in GRID]
    best_ndcg = int(np.argmax([figures.ndcg.mean() for figures in grid]))
    best_map = int(np.argmax([figures.map.mean() for figures in grid]))
    tuned = found["tuned Rocchio"] = Figures(grid[best_ndcg].ndcg, grid[best_map].map, grid[best_ndcg].milliseconds)
    without = _measure(data.x, tasks, gains, lambda task: bend(task.query, task.items, np.clip(task.scores, 0, None), landscape))
    each = np.arange(len(tasks))
    base, mine = found["base"].ndcg, found["ours"]
    return {
        "queries": len(tasks),
        "liked": float(np.mean([len(task.liked) for task in tasks])),
        "methods": {
            method: {
                "ndcg": float(figures.ndcg.mean()),
                "map": float(figures.map.mean()),
                "worse": float((figures.ndcg < base - 1e-9).mean()),
                "ms": figures.milliseconds,
            }
            for method, figures in found.items()
        },
        "tuned": {"ndcg": GRID[best_ndcg], "map": GRID[best_map]},
        "ndcg_gain": _interval(mine.ndcg - tuned.ndcg, each),
        "map_gain": _interval(mine.map - tuned.map, each),
        "negatives": {
            "ndcg_without": float(without.ndcg.mean()),
            "map_without": float(without.map.mean()),
            "ndcg_gain": _interval(mine.ndcg - without.ndcg, each),
            "map_gain": _interval(mine.map - without.map, each),
        },
    }


def _interval(values: Floats, groups: Keys) -> dict[str, float]:
    interval = bootstrap(values, groups, level=0.95)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _tasks(data: Retrieval) -> tuple[list[Judged], list[Floats]]:
    """What is known of each query after its first documents were judged, and the gains (r,) of what is left to rank."""
    tasks, gains = [], []
    for query, gain, out in zip(data.q, data.gains, data.out, strict=True):
        ranking = np.argsort(-np.where(out, -np.inf, data.x @ query), kind="stable")
        ranking = ranking[: len(out) - int(out.sum())]
        seen, left = ranking[:JUDGED], np.sort(ranking[JUDGED:])
        if gain[left].any():
            scores = np.where(gain[seen] > 0, 1, -1).astype(np.float32)
            tasks.append(Judged(query, data.x[seen], scores, left))
            gains.append(gain[left])
    return tasks, gains


def _measure(x: Vectors, tasks: Sequence[Judged], gains: Sequence[Floats], how: Callable[[Judged], NDArray[Any]]) -> Figures:
    """How well a way to use judgements does; the ranking itself is not timed.

    ``how`` gives a query (dim,), or the scores (n,) of all documents.
    """
    begin = time.perf_counter()
    answers = [how(task) for task in tasks]
    milliseconds = 1000 * (time.perf_counter() - begin) / len(tasks)
    at_10, precision = np.empty(len(tasks)), np.empty(len(tasks))
    for place, (answer, task, gain) in enumerate(zip(answers, tasks, gains, strict=True)):
        scores = x @ answer if answer.shape == task.query.shape else answer
        ranked = gain[np.argsort(-scores[task.left], kind="stable")]
        at_10[place], precision[place] = _quality(ranked)
    return Figures(at_10, precision, milliseconds)


def _quality(ranked: Floats) -> tuple[float, float]:
    """nDCG@10 and average precision of gains (r,) in the order of a ranking."""
    discount = 1 / np.log2(np.arange(2, min(10, len(ranked)) + 2))
    ideal = np.sort(ranked)[::-1][: len(discount)] @ discount
    ranks = 1 + np.flatnonzero(ranked > 0)
    return float(ranked[: len(discount)] @ discount / ideal), float((np.arange(1, len(ranks) + 1) / ranks).mean())


# -- collection level --------------------------------------------------------------------------------------------------------


def adapting(data: Retrieval, db: vm.Database, name: str, split: int) -> dict[str, Any]:
    """Half of the queries teach a new collection of the documents; nDCG@10 of the other half, before and after.

    ``ndcg_candidate`` is of the version that was learned, also where it was kept back; where nothing was learned, it is the base's.
    """
    order = np.random.default_rng(split).permutation(len(data.q))
    taught, test = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    ids = [str(place) for place in range(len(data.x))]
    collection = db.create(name, encoder="vectors", dim=data.x.shape[1])
    collection.add_vectors(ids, data.x)
    pairs = [(row, int(at)) for row in taught for at in np.flatnonzero(data.gains[row] > 0)]
    collection.feedback([vm.Judgement(item=ids[at], query=data.q[row], score=1.0) for row, at in pairs])
    report = collection.adapt()
    facts: dict[str, Any] = {
        "decision": report.decision,
        "reason": report.reason,
        "judgements": len(pairs),
        "tests": len(test),
        "ndcg_before": _at_10(data, test, collection, 0),
        "ndcg_after": _at_10(data, test, collection, None),
    }
    if report.version is not None:
        collection.activate(report.version)
    facts["ndcg_candidate"] = _at_10(data, test, collection, None)
    facts["strength"] = collection.versions()[-1].strength
    return facts


def _at_10(data: Retrieval, rows: Keys, collection: vm.Collection, version: int | None) -> float:
    """Mean nDCG@10 of some queries under a version."""
    x, q = collection.embed(data.x, version=version), collection.embed(data.q[rows], version=version)
    figures = []
    for query, gain, out in zip(q, data.gains[rows], data.out[rows], strict=True):
        figures.append(ndcg(query[None], x[~out], gain[~out][None]))
    return float(np.nanmean(np.concatenate(figures)))
