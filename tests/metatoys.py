"""What the tests of the meta-learning core share: small problems with every kind of judgement in them, in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta.head import Memory, centre, forward
from vecmeta.meta.methods import method_of
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Support
from vecmeta.meta.tasks import Notion
from vecmeta.meta.training import Test as Asked
from vecmeta.meta.training import average_precision
from vecmeta.types import Vectors

CONFIG = MetaConfig(inner_steps=2)
# graded and whole scores, negatives, a row of two concepts, and a concept that one row alone speaks for
SCORES = [
    [1, 0, 0],
    [0.5, 0, 0],
    [1, -1, 0],
    [0, 1, 0],
    [0, 1, -0.5],
    [1, 1, 0],
    [-1, 1, 0],
    [0, -0.5, 0],
    [0, 0, 1],
    [0, 0.7, 0],
]


def unit_rows(x: Any) -> Vectors:
    x = np.asarray(x, np.float64)
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32)


def directions64(rng: np.random.Generator, n: int, dim: int) -> Tensor:
    """Unit rows in double precision."""
    x = rng.normal(size=(n, dim))
    return torch.tensor(x / np.linalg.norm(x, axis=1, keepdims=True))


def support64(seed: int = 0, dim: int = 6, clusters: int = 5, y: Any = SCORES) -> Support:
    """A support in double precision, without padding."""
    rng = np.random.default_rng(seed)
    scores = torch.as_tensor(np.asarray(y, np.float64))
    n, c = scores.shape
    background = directions64(rng, clusters, dim) * torch.tensor(rng.uniform(0.5, 0.9, (clusters, 1)))  # means are no unit rows
    return Support(
        directions64(rng, n, dim), scores, torch.ones(n).double(), torch.ones(c).double(), torch.tensor(0.15 * rng.normal(size=dim)),
        background, torch.tensor(rng.uniform(5, 40, clusters)), torch.ones(clusters).double(),
    )  # fmt: skip


def asked64(seed: int = 0, dim: int = 6, rows: int = 11) -> Asked:
    """What is asked: rows of two taught and two untaught classes; one of them in two classes, one of them asks nothing."""
    rng = np.random.default_rng([seed, 1])
    y = torch.eye(4).double()[torch.arange(rows) % 4]
    y[0, 1] = 1
    anchors = torch.ones(rows).double()
    anchors[-1] = 0
    return Asked(directions64(rng, rows, dim), y, torch.ones(rows).double(), (y[:, :2] > 0).any(1).double(), anchors)


def params64(method: str, seed: int = 0, config: MetaConfig = CONFIG, jitter: float = 0.1) -> dict[str, Tensor]:
    """A method's start, a little away from where it begins: nothing is zero and nothing is special."""
    rng = np.random.default_rng([seed, 2])
    begin = method_of(method).initial(config)
    return {name: torch.tensor(value.astype(np.float64) + jitter * rng.normal(size=value.shape)) for name, value in begin.items()}


def projected(memory: Memory, support: Support, x: Tensor) -> Tensor:
    """z of some rows under a memory that a method gave."""
    z: Tensor = forward(torch, memory, centre(torch, x, support.mean, memory.share))[0]
    return z


def nuisance(classes: int = 30, per_class: int = 20, dim: int = 64, seed: int = 0) -> tuple[Vectors, NDArray[np.int64]]:
    """Clusters that two strong directions, unrelated to the class, stretch apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    x = rng.normal(size=(classes, dim))[labels] + 1.4 * rng.normal(size=(len(labels), dim))
    x[:, :2] += 3 * rng.normal(size=(len(labels), 2))
    return unit_rows(x), labels


def judged(labels: NDArray[np.int64], concepts: Sequence[int], shots: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first rows of some classes, and what is said of them."""
    rows = np.concatenate([np.flatnonzero(labels == c)[:shots] for c in concepts])
    return rows, (labels[rows][:, None] == np.array(concepts)[None]).astype(np.float32)


def quality(z: Vectors, labels: NDArray[np.int64], group: Sequence[int]) -> float:
    """mAP@R among the rows of some classes."""
    keep = np.isin(labels, group)
    return average_precision(z[keep], (labels[keep][:, None] == np.array(group)[None]).astype(np.float32))


def toy_notion(name: str = "toy", dim: int = 16, seed: int = 0, classes: int = 12, per_class: int = 24) -> Notion:
    x, labels = nuisance(classes, per_class, dim, seed)
    return Notion(name, x, [np.flatnonzero(labels == c) for c in range(classes)])
