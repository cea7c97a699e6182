"""How fast contents become vectors, beside the same models without vecmeta, and what that changes in the vectors and in what they find.

Texts are of mixed lengths, pictures photographs. Every round measures each way once, one after the other, so that a slow moment of the
machine meets them all; figures are medians of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol, cast

import numpy as np

import vecmeta as vm
from vecmeta.bench import relevance
from vecmeta.bench.machine import machine
from vecmeta.bench.sets import NO_LABEL
from vecmeta.encoders import ImageEncoder, TextEncoder, open_encoder
from vecmeta.encoders.plain import PlainImages, PlainText
from vecmeta.evaluate import map_at_r_by_labels, ndcg
from vecmeta.meta.sets import classes_of, part_of, read_set
from vecmeta.types import Progress, Vectors

TEXTS = (("clinc150", "text"), ("debian", "long"), ("medquad", "text"), ("product_reviews", "text"))  # from a few words to pages
PICTURES = ("caltech101", "jpeg")
LABELLED, RETRIEVAL = "clinc150", "ir_medline"  # what quality is measured on
LABELLED_ROWS = 1500
QUERIES = 20  # short texts, one at a time


class Way(Protocol):
    """A way to encode."""

    @property
    def name(self) -> str:
        """Of the weights and the way."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def encode(self, contents: Sequence[Any]) -> Vectors:
        """(n, dim) float32 unit rows."""


def run(
    data_sets: Path,
    *,
    texts: int = 400,
    pictures: int = 128,
    rounds: int = 3,
    quality: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_sets: the folder of data sets.
        texts: how many, from the sets of TEXTS in equal parts; 0 leaves texts out.
        pictures: how many; 0 leaves pictures out.
        rounds: medians are taken over them.
        quality: whether to measure what the vectors find, too: the labelled and the retrieval set are encoded in every way.

    Returns:
        {"machine", "settings", "texts": {way: figures}, "pictures": {way: figures}}; the first way is the plain one. Figures are "rate"
        (contents a second), "rates", "ratio" to the plain way, "single_ms" (one short text or one picture, p50), "single_ratio",
        "difference" (the largest of any number in a vector), "cosine" (the least), and of texts "map_at_r", "ndcg" and their "…_change".

    Raises:
        InvalidConfig: a data set that is not there, or nothing to measure.
    """
    if not texts and not pictures:
        raise vm.InvalidConfig("there is nothing to measure: give a number of texts or of pictures above 0")
    corpus, queries = (mixed(data_sets, texts), mixed(data_sets, QUERIES, TEXTS[:1])) if texts else ([], [])
    photographs = _column(data_sets, *PICTURES, pictures) if pictures else []
    total, done = rounds * (bool(texts) + bool(pictures)) + (3 if texts and quality else 0), 0

    def tell(what: str, steps: int) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, total)
        done += steps

    found: dict[str, Any] = {"machine": machine(device), "settings": {"texts": texts, "pictures": pictures, "rounds": rounds}}
    if texts:
        ways = text_ways(device)
        found["texts"] = _measured("texts", ways, corpus, queries, rounds, tell)
        if quality:
            found_by = {}
            for way, encoder in ways.items():
                tell(f"quality of {way}", 1)
                found_by[way] = _quality(data_sets, encoder)
            plain = next(iter(found_by.values()))
            for way, values in found_by.items():
                found["texts"][way] |= values | {f"{key}_change": value - plain[key] for key, value in values.items()}
    if pictures:
        found["pictures"] = _measured("pictures", image_ways(device), photographs, photographs[:QUERIES], rounds, tell)
    tell("done", 0)
    return found


def text_ways(device: str) -> dict[str, Way]:
    """The ways to encode a text that are measured, the plain one first. int8 is the processor's, whatever the device."""
    ours = cast(TextEncoder, open_encoder("text", device=device))
    return {"sentence-transformers": PlainText(ours), "text": ours, "text:int8": open_encoder("text:int8", device="cpu")}


def image_ways(device: str) -> dict[str, Way]:
    """The ways to encode a picture, the plain one first."""
    ours = cast(ImageEncoder, open_encoder("image", device=device))
    return {"torch": PlainImages(ours), "image": ours}


def mixed(data_sets: Path, count: int, sets: Sequence[tuple[str, str]] = TEXTS) -> list[str]:
    """So many texts from several sets, in equal parts and in one random order. Raises InvalidConfig."""
    shares = [count // len(sets) + (place < count % len(sets)) for place in range(len(sets))]
    texts = [text for (name, column), share in zip(sets, shares, strict=True) for text in _column(data_sets, name, column, share)]
    return [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]


def _measured(
    what: str,
    ways: Mapping[str, Way],
    contents: Sequence[Any],
    alone: Sequence[Any],
    rounds: int,
    tell: Callable[[str, int], None],
) -> dict[str, dict[str, Any]]:
    vectors = {way: encoder.encode(contents) for way, encoder in ways.items()}  # the first call loads
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        tell(f"{what}, round {number + 1}", 1)
        for way, encoder in ways.items():
            seconds[way].append(_timed(encoder, contents, alone))
    return figures(vectors, seconds)


def figures(vectors: Mapping[str, Vectors], seconds: Mapping[str, list[tuple[float, float]]]) -> dict[str, dict[str, Any]]:
    """What `run` returns of one kind of content, from the seconds for all and for one, round by round; the first way is the plain one."""
    plain = next(iter(seconds))
    count = len(vectors[plain])
    out: dict[str, dict[str, Any]] = {}
    for way, rounds in seconds.items():
        out[way] = {
            "rate": count / median(whole for whole, _ in rounds),
            "rates": [count / whole for whole, _ in rounds],
            "ratio": median(base / whole for (base, _), (whole, _) in zip(seconds[plain], rounds, strict=True)),
            "single_ms": 1e3 * median(single for _, single in rounds),
            "single_ratio": median(base / single for (_, base), (_, single) in zip(seconds[plain], rounds, strict=True)),
            "difference": float(np.abs(vectors[way] - vectors[plain]).max()),
            "cosine": float(np.einsum("ij,ij->i", vectors[way], vectors[plain]).min()),
        }
    return out


def _timed(encoder: Way, contents: Sequence[Any], alone: Sequence[Any]) -> tuple[float, float]:
    """Seconds for all contents in one call, and for one in a call of its own (median)."""
    start = time.perf_counter()
    encoder.encode(contents)
    whole, singles = time.perf_counter() - start, []
    for content in alone:
        start = time.perf_counter()
        encoder.encode([content])
        singles.append(time.perf_counter() - start)
    return whole, median(singles)


class _Contents:
    """A database whose only collection encodes in a given way; as much of one as `relevance.read` needs."""

    def __init__(self, encoder: Way) -> None:
        self.embed = encoder.encode

    def create(self, _name: str, encoder: str) -> _Contents:  # noqa: ARG002
        return self


def _quality(data_sets: Path, encoder: Way) -> dict[str, float]:
    """Means of MAP@R over labels, and of nDCG@10 over queries."""
    labelled = read_set(data_sets / LABELLED / "data.parquet", lambda _: encoder, LABELLED_ROWS)
    classes = classes_of([None if value in NO_LABEL else value for value in labelled.labels["label"]])
    y = np.zeros((len(labelled.x), len(classes)), np.float32)
    for column, rows in enumerate(classes.values()):
        y[rows, column] = 1
    asked = relevance.read(data_sets, RETRIEVAL, cast(vm.Database, _Contents(encoder)))
    return {
        "map_at_r": float(np.nanmean(map_at_r_by_labels(labelled.x, y))),
        "ndcg": float(np.nanmean(ndcg(asked.q, asked.x, asked.gains))),
    }


def _column(data_sets: Path, name: str, column: str, count: int) -> list[Any]:
    """A random part of a set's contents, always the same one. Raises InvalidConfig."""
    import pyarrow.parquet as pq

    path = data_sets / name / "data.parquet"
    if not path.is_file():
        raise vm.InvalidConfig(f"no data set {name!r}: there is no file {path}")
    if column not in pq.read_schema(path).names:
        raise vm.InvalidConfig(f"{path} has no column {column!r}")
    values = pq.read_table(path, columns=[column]).column(column).to_pylist()
    full = [value for value in values if value and (isinstance(value, bytes) or value.strip())]
    if not full:
        raise vm.InvalidConfig(f"the column {column!r} of {path} is empty")
    return [full[row] for row in part_of(len(full), count)]
