"""One choice of classes and items of a labelled set, and what each method makes of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecmeta as vm
from vecmeta.bench.measured import PARTS, ROWS_PER_CLASS, WAYS
from vecmeta.bench.sets import NO_LABEL
from vecmeta.encoders import open_encoder, unit_rows
from vecmeta.encoders.parts import encoded
from vecmeta.encoders.protocol import Encoder
from vecmeta.evaluate import Floats, map_at_r_by_labels
from vecmeta.finetune import FinetuneConfig, finetune, labelled, last_layer
from vecmeta.meta.episodes import Episode, statistics
from vecmeta.meta.fitting import fit, start_of
from vecmeta.meta.head import Head
from vecmeta.meta.sets import CONTENT_COLUMNS
from vecmeta.types import Content, Keys, Progress, Vectors

ADAPT = "adapt"
TRAININGS: dict[str, dict[str, Any]] = {
    "features": {"mode": "features"},
    "lora": {"mode": "lora"},
    "full": {"mode": "full"},
    "full + L2-SP": {"mode": "full", "transfer": ("parameters",)},
    "full + relations": {"mode": "full", "transfer": ("relations",)},
}
METHODS = (ADAPT, *TRAININGS)
LEAST = ROWS_PER_CLASS + 5  # rows of a class that takes part
BACKGROUND = 600  # other rows: what a head's statistics are of, and what relations are kept of


@dataclass(frozen=True, eq=False)
class Labels:
    """Contents of a set, and a label each."""

    name: str
    contents: list[Content]
    labels: NDArray[np.str_]

    @property
    def kind(self) -> str:
        """The encoder that takes them, "text" or "image"."""
        return "text" if isinstance(self.contents[0], str) else "image"


def read(data_sets: Path, name: str) -> Labels:
    """A set's contents and labels; unlabelled rows keep the label "". Raises InvalidConfig."""
    import pyarrow.parquet as pq

    folder, _, column = name.partition(":")
    column, path = column or "label", data_sets / folder / "data.parquet"
    if not path.is_file():
        raise vm.InvalidConfig(f"no data set {folder!r}: there is no file {path}")
    known = pq.read_schema(path).names
    content = next((c for c in CONTENT_COLUMNS if c in known), None)
    if content is None or column not in known:
        raise vm.InvalidConfig(f"data set {folder!r} needs contents and the column {column!r}; it has {', '.join(known)}")
    table = pq.read_table(path, columns=[content, column]).to_pydict()
    pairs = [
        (c, label) for c, label in zip(table[content], table[column], strict=True) if c and (not isinstance(c, str) or c.strip())
    ]
    if not pairs:
        raise vm.InvalidConfig(f"data set {folder!r} is empty")
    labels = ["" if label is None or str(label) in NO_LABEL else str(label) for _, label in pairs]
    return Labels(name, [c for c, _ in pairs], np.array(labels))


class Base:
    """A set under the untouched encoder: each row is encoded once, when it is first asked for."""

    def __init__(self, source: Labels, encoder: Encoder, device: str) -> None:
        self.source, self.encoder, self.device = source, encoder, device
        self._x = np.empty((len(source.contents), encoder.dim), np.float32)
        self._there = np.zeros(len(source.contents), bool)

    def of(self, rows: Keys) -> Vectors:
        """(len(rows), dim) unit rows."""
        new = np.unique(rows[~self._there[rows]])
        if len(new):
            self._x[new] = encoded(self.encoder, self.contents(new), "encoding", None)
            self._there[new] = True
        return self._x[rows]

    def contents(self, rows: Keys) -> list[Content]:
        """The contents of rows."""
        return [self.source.contents[row] for row in rows.tolist()]


class Trial:
    """What is labelled, what is asked, and what the untouched encoder answers."""

    def __init__(self, base: Base, shots: int, seed: int) -> None:
        source, rng = base.source, np.random.default_rng(seed)
        names, counts = np.unique(source.labels[source.labels != ""], return_counts=True)
        usable = rng.permutation(names[counts >= LEAST])
        ways = min(WAYS, len(usable) // 2)
        if ways < 2:
            raise vm.InvalidConfig(f"{source.name} has fewer than four classes of {LEAST} items")
        self.taught, others = usable[:ways], usable[ways : 2 * ways]
        asked, given = list[Keys](), list[Keys]()
        for name in (*self.taught, *others):
            rows = rng.permutation(np.flatnonzero(source.labels == name))
            asked.append(rows[:ROWS_PER_CLASS])
            if name in self.taught:
                rest = rows[ROWS_PER_CLASS:]
                given.append(rest[:shots] if shots else rest)
        self._source, self._base, self._seed = source, base, seed
        self._asked, self._given = np.concatenate(asked), np.concatenate(given)
        self._free = np.setdiff1d(np.arange(len(source.labels)), np.concatenate((self._asked, self._given)))
        self._free = np.sort(rng.permutation(self._free)[:BACKGROUND])
        self._before = self._quality(base.of(self._asked))
        self._x, self._free_x = base.of(self._given), base.of(self._free)

    @property
    def labels(self) -> int:
        """How many items are labelled; of the same classes fewer shots are some of those of more."""
        return len(self._given)

    def __call__(self, method: str, settings: dict[str, Any], progress: Progress | None = None) -> dict[str, float]:
        """Figures of one method: quality before and after, seconds, and what a head on top of the encoder brings."""
        labels = {"labels": float(self.labels)}
        if method == ADAPT:
            begin = time.perf_counter()
            head = self._head(self._x, self._free_x)
            seconds = time.perf_counter() - begin
            return labels | {"seconds": seconds} | self._changes(head.project(self._base.of(self._asked)))
        config = FinetuneConfig(**{**settings, **TRAININGS[method], "seed": self._seed})
        examples = labelled(self._base.contents(self._given), self._source.labels[self._given].tolist())
        needed = "relations" in config.transfer
        with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as place:
            out = Path(place, "encoder")
            begin = time.perf_counter()
            facts = finetune(
                self._base.encoder,
                examples,
                out,
                config,
                unlabelled=self._base.contents(self._free) if needed else (),
                base=np.concatenate((self._x, self._free_x)) if needed else self._x,
                progress=progress,
            )
            seconds = time.perf_counter() - begin
            tuned = self._tuned(out, config)
            z, x, free = (tuned(rows) for rows in (self._asked, self._given, self._free))
        found = labels | {"seconds": seconds, "steps": float(facts["scores"]["steps"])} | self._changes(z)
        on_top = self._changes(self._head(x, free).project(z))
        return found | {f"{key}_with_head": value for key, value in on_top.items() if "gain" in key}

    def _tuned(self, folder: Path, config: FinetuneConfig) -> Callable[[Keys], Vectors]:
        """Rows to vectors by a fine-tuned encoder; a new last layer over a frozen one is a product with what is known."""
        if config.mode == "features":
            layer = last_layer(folder)
            return lambda rows: unit_rows(self._base.of(rows) @ layer.T, len(layer))
        encoder = open_encoder(str(folder), device=self._base.device)
        return lambda rows: encoded(encoder, self._base.contents(rows), "encoding", None)

    def _head(self, x: Vectors, free: Vectors) -> Head:
        y = (self._source.labels[self._given][:, None] == self.taught[None, :]).astype(np.float32)
        return fit(start_of("maml"), Episode(x, y), statistics(free, len(self._source.labels), self._seed), seed=self._seed)

    def _quality(self, z: Vectors) -> dict[str, Floats]:
        labels = self._source.labels[self._asked]
        names = np.unique(labels)
        y = (labels[:, None] == names[None, :]).astype(np.float32)
        taught = np.isin(labels, self.taught)
        parts = {"fed": taught, "mixed": np.ones(len(z), bool), "unfed": ~taught}
        return {part: map_at_r_by_labels(z[rows], y[rows]) for part, rows in parts.items()}

    def _changes(self, z: Vectors) -> dict[str, float]:
        found: dict[str, float] = {}
        after = self._quality(z)
        for part in PARTS:
            gain = after[part] - self._before[part]
            found |= {f"{part}_base": float(self._before[part].mean()), f"{part}_gain": float(gain.mean())}
            found[f"{part}_worse_02"] = float((gain < -0.02).mean())
        return found
