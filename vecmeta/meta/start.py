"""The meta-learned start of a method: a handful of named numbers, with the record of where they come from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, StorageDamaged
from vecmeta.meta.head import digest, pack, unpack

FORMAT = "vecmeta-start-2"
STARTS = Path(__file__).parent / "starts"  # the shipped ones, METHOD.safetensors


@dataclass(frozen=True)
class MetaConfig:
    """Everything that shapes a start, apart from the data. Raises InvalidConfig when a value is out of its range."""

    inner_steps: int = 3  # gradient steps of the inner loop, in training and ever after
    inner_rows: int = 2048  # most judged rows that are learned from; of more, so many are drawn, balanced over the concepts
    tasks: int = 400  # drawn once, to be practised on
    outer_steps: int = 300  # updates of the start
    batch: int = 4  # tasks per update
    learning_rate: float = 2e-2  # of Adam on the start, falling to a tenth along a cosine
    ways_most: int = 20  # most concepts taught in one task, and most untaught ones beside them
    shots_most: int = 10  # most judgements per concept
    rows_per_class: int = 8  # rows per class in a task's test
    query_share: float = 0.15  # share of tasks made of queries with relevant and irrelevant items instead of concepts
    pair_share: float = 0.1  # share of tasks made of pairs of similar and dissimilar items
    unfed_weight: float = 1.0  # weight of the untaught in the outer loss (the taught and the mixed weigh 1)
    validate_every: int = 50  # updates between two looks at the held-out notions
    patience: int = 4  # looks without a better score before training stops
    seed: int = 0

    def __post_init__(self) -> None:
        least = dict.fromkeys(("query_share", "pair_share", "unfed_weight", "seed", "learning_rate"), 0)
        least |= dict.fromkeys(("shots_most", "rows_per_class", "ways_most"), 2)
        for entry in fields(self):
            value, low = getattr(self, entry.name), least.get(entry.name, 1)
            whole = entry.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value < np.inf:
                raise InvalidConfig(
                    f"{entry.name} is a{' whole' if whole else ' finite'} number of at least {low}, not {value!r}"
                )
        if self.query_share + self.pair_share > 1:
            raise InvalidConfig(
                f"query_share and pair_share are shares, at most 1 together, not {self.query_share + self.pair_share}"
            )


@dataclass(frozen=True, eq=False)
class Start:
    """What adaptation begins from. Carries over between encoders and dimensions: nothing in it depends on the dimension.

    ``method``      the name of the method that it is for.
    ``tensors``     finite float32 arrays by the method's own names; none for a method that nothing is learned for beforehand.
    ``config``      the training's.
    ``provenance``  free JSON: data, scores, command.
    """

    method: str
    tensors: Mapping[str, NDArray[np.float32]]
    config: MetaConfig = field(default_factory=MetaConfig)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tensors = {name: np.array(value, np.float32) for name, value in self.tensors.items()}
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise InvalidConfig(f"{name} of a start holds NaN or infinity: {value.tolist()!r}")
            value.setflags(write=False)
        object.__setattr__(self, "tensors", tensors)

    @property
    def hash(self) -> str:
        """SHA-256, in hex, over everything that changes what an adaptation gives; not over the provenance."""
        return digest(self.tensors, {"method": self.method, "config": asdict(self.config)})

    @property
    def record(self) -> float:
        """In [0, 1]: what mixed quality gains on five of six validation tasks (mean less one standard deviation), 1 being .05 mAP@R.

        0 for a start that was never measured.
        """
        found = self.provenance.get("record")
        return min(max((found["mean"] - found["sd"]) / 0.05, 0.0), 1.0) if found else 0.0

    def save(self, path: Path) -> None:
        """Writes ``path`` (safetensors) and, beside it, a .json that people can read: data, config, scores, hash."""
        about = {"method": self.method, "config": asdict(self.config), "provenance": dict(self.provenance)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, pack(self.tensors, {"format": FORMAT, **about}))
        small = {name: value for name, value in self.tensors.items() if value.size <= 64}
        numbers = {name: np.round(value.astype(np.float64), 4).tolist() for name, value in small.items()}
        readable = {"hash": self.hash, "numbers": numbers, **about}
        write_whole(path.with_suffix(".json"), (json.dumps(readable, indent=2) + "\n").encode())


def load_start(path: Path | None = None, method: str = "maml") -> Start:
    """The start in a file, or the shipped one of a method.

    Raises:
        InvalidConfig: no such file, not readable, or for another method.
        StorageDamaged: not a start, or changed after it was written.
    """
    path = path or STARTS / f"{method}.safetensors"
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"the meta-start {path} cannot be read: {error.strerror}") from error
    tensors, about = unpack(blob, FORMAT)
    try:
        start = Start(about["method"], tensors, MetaConfig(**about["config"]), about["provenance"])
    except (KeyError, TypeError, InvalidConfig) as error:
        raise StorageDamaged(f"the meta-start {path} is incomplete: {error}") from error
    if start.method != method:
        raise InvalidConfig(f"the meta-start {path} was trained for {start.method!r}, not for {method!r}")
    return start


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary name, synced, renamed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for the owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
