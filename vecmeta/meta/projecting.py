"""A whole collection under a head, by torch: on a GPU where there is one, otherwise with the quickest products it has on this processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from vecmeta.encoders.layers import packed_product
from vecmeta.meta.head import Head, MemoryHead, Projector, norm
from vecmeta.meta.threads import one_thread
from vecmeta.types import Vectors

BLOCK = 256  # rows at a time on a processor: their weights, rows times slots, stay in a core's own cache from step to step
Product: TypeAlias = Callable[[Tensor], Tensor]  # (n, in) -> (n, out)


def projector(head: Head, device: str = "cpu") -> Projector:
    """`head.project` for many rows at a time: the same to within 1e-6, in less time.

    Not for the first rows of a process that has no torch yet: importing it takes longer than 100,000 rows.
    """
    if not isinstance(head, MemoryHead) or head.strength == 0:
        return Projector(head.project)
    memory = head.memory
    on = torch.device(device)
    keys, bias, values, mean = (torch.as_tensor(a, device=on) for a in (memory.keys, memory.bias, memory.values, head.mean))
    shift, strength = float(memory.share) * mean, head.strength
    with one_thread():  # they are tried on three rows
        logits, pull = product(keys, bias), product(values.T)
        mapped = None if memory.map is None else product(torch.as_tensor(memory.map, device=on).T)

    def moved(x: Tensor, out: Tensor) -> None:
        """The formula, in place where it can be: these passes over memory are a tenth of the work, and were a fifth."""
        z = x - shift
        z /= norm(torch, z)
        steps = pull(torch.softmax(logits(z), dim=-1))  # (n, M) weights
        if mapped is not None:
            steps += mapped(z)
        z += steps
        if strength != 1:
            z /= norm(torch, z)
            z = torch.lerp(x, z, strength)
        torch.div(z, norm(torch, z), out=out)

    def project(rows: Vectors) -> Vectors:
        if not len(rows):  # no product of nothing
            return head.project(rows)
        out = torch.empty(rows.shape, device=on)
        step = BLOCK if on.type == "cpu" else len(rows)
        with torch.inference_mode():
            for at in range(0, len(rows), step):
                x = torch.tensor(rows[at : at + step], device=on)  # copied: what comes from the database must not be written to
                moved(x, out[at : at + step])
        return out.cpu().numpy()

    # Each of our threads with a page of its own: torch's threads would wait for each other at every product, and for us to read on.
    return Projector(project) if device == "cpu" else Projector(project, threads=1)


def product(matrix: Tensor, bias: Tensor | None = None) -> Product:
    """Rows times the transpose of a matrix (out, in), plus a bias (out,).

    On a processor by oneDNN, because torch leaves products to MKL, which uses half of what processors of another make can do: on weights
    in the layout that suits it, by the operator that torch's own compiler emits for constant ones, which has no public name, or where
    that is missing or wrong as a convolution over single points, a tenth slower. Not so on a GPU, where torch lets convolutions, unlike
    products, round to ten bits (TF32).
    """
    if matrix.device.type != "cpu":
        return lambda rows: linear(rows, matrix, bias)
    try:
        packed = packed_product(matrix, bias)
        rows = torch.linspace(-1, 1, 3 * matrix.shape[1]).reshape(3, -1)
        expected = linear(rows, matrix, bias)
        if bool((packed(rows) - expected).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1)):
            return packed
    except (RuntimeError, AttributeError, NotImplementedError):
        pass
    return _convolved(matrix, bias)


def _convolved(matrix: Tensor, bias: Tensor | None) -> Product:
    weights = matrix[:, :, None, None].contiguous(memory_format=torch.channels_last)

    def convolved(rows: Tensor) -> Tensor:
        points = rows[None, :, None, :].permute(0, 3, 1, 2)  # (1, in, n, 1), and in memory as it was
        return conv2d(points, weights, bias).permute(0, 2, 3, 1).reshape(len(rows), -1)

    return convolved
