"""What adapting brings on labelled data: some concepts of a collection are taught, all are measured, before and after.

Data sets are read from a folder that holds `NAME/data.parquet` with a content column (text, jpeg or png), label columns, and perhaps a
column `split`, of which the test part is taken. Metrics are mean average precision over a ranking of the whole collection, for queries
that are items which nobody marked:

fed     items of taught concepts
unfed   items of all other concepts
mixed   items of the taught and of equally many untaught concepts
pooled  the same queries as mixed, but ranked among these concepts' items alone: can the taught be told from the untaught?
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.evaluate import average_precision
from vecmeta.types import Progress, Vectors

DEFAULT_SETS = ("clinc150:label",)
CONTENTS = ("text", "jpeg", "png")
NO_LABEL = ("", "oos")  # out of scope: no concept at all
PARTS = ("fed", "unfed", "mixed", "pooled")
LEAST = 10  # members of a class that is used
MOST = 6000  # items of a collection


def run(
    data_sets: Path,
    *,
    sets: Sequence[str] | None = None,
    concepts: int = 15,
    shots: int = 5,
    seeds: int = 3,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_sets: the folder of data sets.
        sets: names, with ":column" where the label column is not "label".
        concepts: how many are taught.
        shots: items marked for each.
        seeds: repetitions, each with other concepts and items.

    Returns:
        {"machine": …, "settings": …, "runs": [{"set", "seed", "decision", "strength", "fed_before", …}], "means": {set: {…}}}.

    Raises:
        InvalidConfig: a data set that is not there or has too few classes.
    """
    names = list(sets or DEFAULT_SETS)
    runs = []
    for place, name in enumerate(names):
        contents, labels = read(data_sets, name)
        with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, device=device) as db:
            kind = "text" if isinstance(contents[0], str) else "image"
            base = db.create("contents", encoder=kind).embed(contents)
            for seed in range(seeds):
                if progress is not None:
                    progress(name, place * seeds + seed, len(names) * seeds)
                runs.append({"set": name, "seed": seed, **one(db, f"seed-{seed}", base, labels, concepts, shots, seed)})
    if progress is not None:
        progress("done", len(names) * seeds, len(names) * seeds)
    return {
        "machine": machine(device),
        "settings": {"concepts": concepts, "shots": shots, "seeds": seeds},
        "runs": runs,
        "means": {name: _means([r for r in runs if r["set"] == name]) for name in names},
    }


def read(data_sets: Path, name: str) -> tuple[list[str | bytes], NDArray[np.str_]]:
    """Contents and labels of a set's test part, unlabelled and rare classes left out. Raises InvalidConfig."""
    import pyarrow.parquet as pq

    folder, _, column = name.partition(":")
    column = column or "label"
    path = data_sets / folder / "data.parquet"
    if not path.is_file():
        raise vm.InvalidConfig(f"no data set {folder!r}: there is no file {path}")
    known = pq.read_schema(path).names
    content = next((c for c in CONTENTS if c in known), None)
    if content is None or column not in known:
        raise vm.InvalidConfig(
            f"data set {folder!r} needs a column of {', '.join(CONTENTS)} and the column {column!r}; it has {known}"
        )
    table = pq.read_table(path, columns=[content, column, *({"split"} & set(known))])
    split = table["split"].to_pylist() if "split" in known else ["test"] * len(table)
    rows = [
        (text, label)
        for text, label, part in zip(table[content].to_pylist(), table[column].to_pylist(), split, strict=True)
        if part == "test" and isinstance(label, str) and label not in NO_LABEL and text
    ]
    values, counts = np.unique([label for _, label in rows], return_counts=True)
    if (counts >= LEAST).sum() < 2:
        raise vm.InvalidConfig(f"data set {name!r} has fewer than two classes of {LEAST} items in its test part")
    frequent = set(values[counts >= LEAST])
    rows = [row for row in rows if row[1] in frequent]
    picked = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST])
    return [rows[i][0] for i in picked], np.array([rows[i][1] for i in picked])


def one(
    db: vm.Database, name: str, base: Vectors, labels: NDArray[np.str_], concepts: int, shots: int, seed: int
) -> dict[str, Any]:
    """Teach, adapt and measure once, in a new collection of the base vectors."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))
    taught = classes[: min(concepts, len(classes) // 2)]
    marked = {c: rng.permutation(np.flatnonzero(labels == c))[:shots] for c in taught}
    ids = [str(row) for row in range(len(base))]
    collection = db.create(name, encoder="vectors", dim=base.shape[1])
    collection.add_vectors(ids, base)
    collection.feedback([vm.Judgement(item=ids[row], concept=str(c)) for c, rows in marked.items() for row in rows])
    collection.search(base[0], 1)  # the live index is loaded, as it is in a service
    report = collection.adapt()
    x, z = collection.embed(base, version=0), collection.embed(base)
    unmarked = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(marked.values())))
    fed = unmarked[np.isin(labels[unmarked], taught)]
    unfed = unmarked[~np.isin(labels[unmarked], taught)]
    others = rng.choice(classes[len(taught) :], min(len(taught), len(classes) - len(taught)), replace=False)
    pool = np.flatnonzero(np.isin(labels, [*taught, *others]))
    everything = np.arange(len(labels))
    facts: dict[str, Any] = {
        "items": len(labels),
        "decision": report.decision,
        "strength": collection.versions()[-1].strength,
        "seconds": round(report.seconds["total"], 3),
    }
    gains = {}
    mixed = np.intersect1d(unmarked, pool)
    for part, queries, corpus in (
        ("fed", fed, everything),
        ("unfed", unfed, everything),
        ("mixed", mixed, everything),
        ("pooled", mixed, pool),
    ):
        before, after = (_precision(v, labels, queries, corpus) for v in (x, z))
        facts |= {f"{part}_before": float(before.mean()), f"{part}_after": float(after.mean())}
        gains[part] = after - before
    facts["fed_worse"] = float((gains["fed"] < -1e-9).mean())
    facts["unfed_worse_by_02"] = float((gains["unfed"] < -0.02).mean())
    return facts


def _precision(
    vectors: Vectors, labels: NDArray[np.str_], queries: NDArray[np.int64], corpus: NDArray[np.int64]
) -> NDArray[np.float64]:
    relevant = labels[queries][:, None] == labels[corpus][None, :]
    return average_precision(vectors[queries], vectors[corpus], relevant, exclude=np.searchsorted(corpus, queries))


def _means(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    figures = [key for key, value in runs[0].items() if isinstance(value, float)]
    means = {key: round(float(np.mean([r[key] for r in runs])), 4) for key in figures}
    for part in PARTS:
        means[f"{part}_gain"] = round(means[f"{part}_after"] - means[f"{part}_before"], 4)
        means[f"{part}_gain_relative"] = round(means[f"{part}_after"] / means[f"{part}_before"] - 1, 4)
    return means
