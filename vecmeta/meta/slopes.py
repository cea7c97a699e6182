"""The slopes of an inner loop's steps: recorded where an outer gradient goes through them, and otherwise not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_mine = threading.local()  # .taken: this thread takes its steps as they are


@contextmanager
def taken_as_they_are() -> Iterator[None]:
    """Nobody differentiates through the steps that this thread takes in here: a head is learned, not a start.

    Recording them takes half as long again, and torch.func a second to load what it needs for that.
    """
    before = getattr(_mine, "taken", False)
    _mine.taken = True
    try:
        yield
    finally:
        _mine.taken = before


def slopes(loss: Callable[..., Tensor], fast: tuple[Tensor, ...], *rest: Any) -> tuple[Tensor, ...]:
    """The gradient of loss(fast, *rest), a number, with respect to each of `fast`; differentiable unless `taken_as_they_are`."""
    if not getattr(_mine, "taken", False):
        found: tuple[Tensor, ...] = torch.func.grad(loss)(fast, *rest)
        return found
    leaves = tuple(w.detach().requires_grad_() for w in fast)
    with torch.enable_grad():
        value = loss(leaves, *rest)
    return torch.autograd.grad(value, leaves, materialize_grads=True)
