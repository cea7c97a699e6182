"""The meta-learned start: a handful of named scalars and inner-loop rates, with the record of where they come from."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, StorageDamaged
from vecmeta.meta.head import SCALARS, digest, pack, unpack

FORMAT = "vecmeta-start-1"
SHIPPED = Path(__file__).parent / "starts" / "default.safetensors"
# Where meta-training begins. c, a: logits; t, tau: logs; neg, far: logs of weights in the denominators of the contrastive loss.
INITIAL = {"c": 0.0, "t": math.log(0.1), "b": 0.0, "r": 0.0, "a": 0.0, "s": 1.0, "s_b": 0.3}
INITIAL |= {"tau_in": math.log(0.1), "tau_out": math.log(0.07), "neg": 0.0, "far": -2.0}


@dataclass(frozen=True)
class MetaConfig:
    """Everything that shapes a start, apart from the data. Raises InvalidConfig when a value is out of its range."""

    inner_steps: int = 5  # gradient steps of the inner loop, in training and ever after
    inner_rows: int = 1024  # most rows in one inner step's (rows, rows) loss; more judgements than that are drawn from
    background_divisor: int = 20  # one centroid for so many items of the collection
    background_most: int = 512  # never more centroids than this: the cost of projecting grows with them
    outer_steps: int = 300  # updates of the scalars
    batch: int = 2  # tasks per update
    learning_rate: float = 2e-2  # of Adam on the scalars, falling to a tenth along a cosine
    ways_most: int = 20  # most concepts taught in one task, and most untaught ones beside them
    shots_most: int = 10  # most judgements per concept
    rows_per_class: int = 8  # rows per class in a task's test
    query_share: float = 0.25  # share of tasks made of queries with relevant and irrelevant items instead of concepts
    unfed_weight: float = 3.0  # weight of the untaught in the outer loss (the taught and the mixed weigh 1)
    validate_every: int = 50  # updates between two looks at the held-out notions
    patience: int = 8  # looks without a better score before training stops
    seed: int = 0

    def __post_init__(self) -> None:
        least = dict.fromkeys(("query_share", "unfed_weight", "seed", "learning_rate"), 0)
        least |= dict.fromkeys(("shots_most", "rows_per_class", "ways_most"), 2)
        for entry in fields(self):
            value, low = getattr(self, entry.name), least.get(entry.name, 1)
            whole = entry.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= low:
                raise InvalidConfig(f"{entry.name} is a{' whole' if whole else ''} number of at least {low}, not {value!r}")
        if self.query_share > 1:
            raise InvalidConfig(f"query_share is a share, at most 1, not {self.query_share}")


@dataclass(frozen=True)
class Start:
    """What adaptation begins from. Carries over between encoders and dimensions, because it is scalars only.

    ``scalars``     0-d float32 by the names in INITIAL.
    ``rates``       (3, inner_steps) float32: logs of the inner loop's learning rates of k, v and dw.
    ``config``      the training's.
    ``provenance``  free JSON: data, scores, command.
    """

    scalars: Mapping[str, Any]
    rates: NDArray[np.float32]
    config: MetaConfig = field(default_factory=MetaConfig)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {name: np.asarray(value, np.float32) for name, value in self.scalars.items()}
        if set(values) != set(INITIAL) or any(v.shape != () or not np.isfinite(v) for v in values.values()):
            raise InvalidConfig(f"a start holds the finite numbers {', '.join(INITIAL)}; given: {dict(self.scalars)!r}")
        rates = np.array(self.rates, np.float32)
        if rates.shape != (3, self.config.inner_steps) or not np.isfinite(rates).all():
            steps = self.config.inner_steps
            raise InvalidConfig(f"{steps} inner steps need finite rates of the shape (3, {steps}), not {rates.shape}")
        rates.setflags(write=False)
        object.__setattr__(self, "scalars", {name: values[name] for name in INITIAL})
        object.__setattr__(self, "rates", rates)

    @property
    def hash(self) -> str:
        """SHA-256, in hex, over everything that changes what an adaptation gives; not over the provenance."""
        return digest(self._tensors(), {"config": asdict(self.config)})

    def formula(self) -> dict[str, NDArray[np.float32]]:
        """The scalars that a head keeps."""
        return {name: self.scalars[name] for name in SCALARS}

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        return {**self.scalars, "rates": self.rates}

    def save(self, path: Path) -> None:
        """Writes ``path`` (safetensors) and, beside it, a .json that people can read: data, config, scores, hash."""
        about = {"config": asdict(self.config), "provenance": dict(self.provenance)}
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, pack(self._tensors(), {"format": FORMAT, **about}))
        numbers = {name: round(float(value), 4) for name, value in self.scalars.items()}
        readable = {"hash": self.hash, "scalars": numbers, "rates": np.round(self.rates.astype(np.float64), 4).tolist(), **about}
        _write(path.with_suffix(".json"), (json.dumps(readable, indent=2) + "\n").encode())


def initial_start(config: MetaConfig | None = None) -> Start:
    """The start before any meta-training: a prototype head with a background, and small inner steps."""
    config = config or MetaConfig()
    scalars = {name: np.asarray(value, np.float32) for name, value in INITIAL.items()}
    return Start(scalars, np.full((3, config.inner_steps), -1.0, np.float32), config)


def load_start(path: Path | None = None) -> Start:
    """The start in a file, or the shipped one.

    Raises:
        InvalidConfig: no such file, or not readable.
        StorageDamaged: not a start, or changed after it was written.
    """
    path = path or SHIPPED
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"the meta-start {path} cannot be read: {error.strerror}") from error
    tensors, about = unpack(blob, FORMAT)
    try:
        rates = tensors.pop("rates")
        return Start(tensors, rates, MetaConfig(**about["config"]), about["provenance"])
    except (KeyError, TypeError, InvalidConfig) as error:
        raise StorageDamaged(f"the meta-start {path} is incomplete: {error}") from error


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
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
