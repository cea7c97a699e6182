"""What a method is given, as tensors: one episode and its collection, or a batch of them padded to one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.head import centre, unit

Params: TypeAlias = Mapping[str, Tensor]  # a start's numbers, by the method's names

USUAL_TIGHTNESS = 0.35  # of a concept with one judgement, where no other concept tells


class Support(NamedTuple):
    """An episode of N rows, C concepts and a collection of B clusters; a batch has a leading dimension.

    Padding is rows, concepts and clusters whose mask is 0.
    """

    x: Tensor  # (N, dim) unit rows
    y: Tensor  # (N, C) in [-1, 1]
    rows: Tensor  # (N,) 1 or 0
    concepts: Tensor  # (C,) 1 or 0
    mean: Tensor  # (dim,) of the collection
    background: Tensor  # (B, dim) means of its clusters
    counts: Tensor  # (B,) items in each
    clusters: Tensor  # (B,) 1 or 0


def support_of(
    episode: Episode, stats: Statistics, rows_most: int, rng: np.random.Generator, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Support:  # fmt: skip
    """One episode; columns without a positive are left out, and of more than rows_most rows so many are drawn."""
    y = episode.y[:, (episode.y > 0).any(0)]
    drawn = draw_rows(y, rows_most, rng) if len(y) > rows_most else np.arange(len(y))
    y = y[drawn]
    full = np.flatnonzero((y > 0).any(0))  # drawing can lose a concept when there are more of them than rows
    arrays = (episode.x[drawn], y[:, full], np.ones(len(y)), np.ones(len(full)), stats.mean, stats.background, stats.counts)
    tensors = [torch.as_tensor(np.ascontiguousarray(a), dtype=dtype, device=device) for a in arrays]
    tensors.append(torch.ones_like(tensors[-1]))
    return Support(*tensors)


def draw_rows(y: NDArray[np.float32], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most so many rows, balanced over the concepts, which come whole rather than in part: y (N, C) -> rows, ascending.

    Every column of y has a positive, and at least one of them is drawn.
    """
    quota = max(4, most // y.shape[1])
    drawn: set[int] = set()
    order = rng.permutation(y.shape[1])
    for concept in order:
        for judged in (np.flatnonzero(y[:, concept] > 0), np.flatnonzero(y[:, concept] < 0)):
            drawn.update(rng.permutation(judged)[:quota].tolist())
        if len(drawn) >= most:
            break
    chosen = np.array(sorted(drawn), np.int64)
    if len(chosen) <= most:
        return chosen
    mixed = rng.permutation(chosen)
    last = np.argmax(y[mixed, order[0]] > 0)  # one positive stays, or thousands of negatives might leave nothing to learn from
    mixed[0], mixed[last] = mixed[last], mixed[0]
    return np.sort(mixed[:most])


def stacked(supports: Sequence[Support]) -> Support:
    """A batch of episodes of one dimension, padded to the largest: every tensor gains a leading dimension."""
    n, c, b = (max(len(getattr(s, name)) for s in supports) for name in ("rows", "concepts", "clusters"))
    sizes = {"x": (n,), "y": (n, c), "rows": (n,), "concepts": (c,), "background": (b,), "counts": (b,), "clusters": (b,)}
    return Support(*(torch.stack([padded(getattr(s, name), sizes.get(name, ())) for s in supports]) for name in Support._fields))


def padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Zeros after the first dimensions' ends, up to these sizes."""
    amounts = [size - length for size, length in zip(sizes, tensor.shape, strict=False)]
    lasting = tensor.dim() - len(amounts)
    return torch.nn.functional.pad(tensor, [0, 0] * lasting + [part for amount in reversed(amounts) for part in (0, amount)])


class Facts(NamedTuple):
    """What every method that knows the collection reads off a support."""

    x: Tensor  # (N, dim) centred unit rows, padding zero
    positive: Tensor  # (N, C) y where above 0
    sums: Tensor  # (C, dim) of each concept's positives
    number: Tensor  # (C,) how many they are, graded; 1 for padding
    tightness: Tensor  # (C,) mean cosine of two different positives of a concept
    shots: Tensor  # () mean log of the number
    background: Tensor  # (B, dim) centred unit rows, padding zero

    @property
    def tight(self) -> Tensor:
        """Tightness on a scale of about -1 to 1: (C,)."""
        return 5 * self.tightness - 2


def facts_of(support: Support, share: Tensor) -> Facts:
    """Centre everything by a share () of the mean and look at the concepts."""
    x = centre(torch, support.x, support.mean, share) * support.rows[:, None]
    background = centre(torch, support.background, support.mean, share) * support.clusters[:, None]
    positive = support.y.clamp(min=0) * support.rows[:, None]
    sums, total, squares = positive.T @ x, positive.sum(0), (positive * positive).sum(0)
    pairs = total * total - squares  # (C,) zero for one judgement
    known = pairs > 1e-6
    tightness = torch.where(known, ((sums * sums).sum(1) - squares) / pairs.clamp(min=1e-6), 0.0)
    usual = (tightness.sum() + USUAL_TIGHTNESS * 1e-3) / (known.sum() + 1e-3)
    number = torch.where(support.concepts > 0, total, 1.0)
    shots = number.log().sum() / support.concepts.sum()
    return Facts(x, positive, sums, number, torch.where(known, tightness, usual), shots, background)


def directions(rows: Tensor) -> Tensor:
    """(n, dim) -> (n, dim) unit rows."""
    out: Tensor = unit(torch, rows)
    return out
