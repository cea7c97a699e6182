"""The same rows with fewer numbers: coordinates in a basis of the space that they span, in which every inner product is as it was.

What a method learns from a task depends on inner products alone (a start is scalars), so its loss and its slopes are the same there, and
are had in less time where a task has fewer rows than these have numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from vecmeta.meta.head import Memory

TINY = 1e-10  # added to squared norms, so that rows may depend on each other
WORTH = 0.75  # of the numbers of a row: with more than that left, finding the basis takes what it brings


def condensed(parts: Sequence[Tensor], last: int) -> list[Tensor]:
    """Rows of a batch of tasks, (T, n, dim) each, in coordinates: (T, n, r), where r is how many rows a task has in all.

    Of all parts but the ``last`` ones r is how many rows those have; what is left out of them is zero. As they are where that would not be
    fewer by far. The coordinates are the rows of the Cholesky factor L of the inner products, G = L L'. Zero rows stay zero.
    """
    sizes = [part.shape[1] for part in parts]
    rows = torch.cat(list(parts), 1)  # (T, r, dim)
    if rows.shape[1] > WORTH * rows.shape[2]:
        return list(parts)
    there = (rows != 0).any(2, keepdim=True)  # (T, r, 1)
    exact = rows.double()
    gram = exact @ exact.mT  # (T, r, r)
    gram.diagonal(dim1=1, dim2=2).add_(TINY)
    found = list((torch.linalg.cholesky(gram).to(rows.dtype) * there).split(sizes, 1))
    first = len(parts) - last
    span = sum(sizes[:first])
    return [part[:, :, :span].contiguous() for part in found[:first]] + found[first:]


def widened(memory: Memory, mean: Tensor, dim: int) -> tuple[Memory, Tensor]:
    """What was learned in the first coordinates, with zeros in those that come after them: a memory and a mean of that dimension."""
    more = dim - len(mean)
    if not more:
        return memory, mean
    rows = {"keys": pad(memory.keys, (0, more)), "values": pad(memory.values, (0, more))}
    square = None if memory.map is None else pad(memory.map, (0, more, 0, more))
    return memory._replace(map=square, **rows), pad(mean, (0, more))
