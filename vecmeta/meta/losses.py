"""What is lowered: a contrastive loss over graded pairs. And what every method begins with: prototypes."""

from __future__ import annotations

import torch
from torch import Tensor

from vecmeta.meta.head import unit

NEVER = -1e9  # a logit that takes no part; finite, so that a gradient through it is zero and not NaN


def pairs(y: Tensor) -> tuple[Tensor, Tensor]:
    """How much two rows belong together, and how much they are known not to: y (N, C) -> (N, N), (N, N), both >= 0.

    A pair that is told apart by one concept is never a positive by another that weighs no more.
    """
    positive, negative = y.clamp(min=0), (-y).clamp(min=0)
    apart = positive @ negative.T  # (N, N)
    apart = apart + apart.T
    together = (positive @ positive.T - apart).clamp(min=0)
    return together - torch.diag(together.diagonal()), apart


def prototypes(x: Tensor, y: Tensor) -> Tensor:
    """The direction of each concept's positives (Snell et al. 2017): x (N, dim), y (N, C) -> (C, dim) unit rows."""
    rows: Tensor = unit(torch, y.clamp(min=0).T @ x)
    return rows


def contrastive(
    z: Tensor,
    together: Tensor,
    tau: Tensor,
    *,
    boost: Tensor | None = None,
    far: Tensor | None = None,
    anchors: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """The supervised contrastive loss (Khosla et al. 2020) with graded pairs: z (N, dim) unit rows, together (N, N) >= 0 -> ().

    ``boost`` (N, N) is added to the logits in the denominators only (real negatives count for more there); ``far`` (N, B) are
    further logits in the denominators, of rows that are nobody's positives; ``anchors`` (N,) bool picks the rows that are averaged
    over, ``rows`` (N,) bool those that are there at all. Rows without a positive are no anchors; without any anchor the loss is zero.
    """
    logits = z @ z.T / tau  # (N, N)
    against = logits if boost is None else logits + boost
    against = against.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), NEVER)
    if rows is not None:
        against = torch.where(rows, against, NEVER)
        together = together * rows * rows[:, None]
    if far is not None:
        against = torch.cat((against, far), dim=1)  # (N, N + B)
    weight = together.sum(1)  # (N,)
    loss = (together * (against.logsumexp(1, keepdim=True) - logits)).sum(1) / weight.clamp(min=1e-9)  # (N,)
    asks = weight > 0 if anchors is None else (weight > 0) & anchors
    return torch.where(asks, loss, 0.0).sum() / asks.sum().clamp(min=1)
