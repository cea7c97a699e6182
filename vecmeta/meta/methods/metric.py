"""Metric learning from the identity: a linear map by triplets (Weinberger and Saul 2009; Schroff et al. 2015), held near where it began.

Each row's hardest negative (a row of another concept, or one judged not to belong) has to lie further away than each of its mates, by a
margin of the cosine; the squared distance of the map from the identity is added to the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vecmeta.meta.head import Memory
from vecmeta.meta.losses import NEVER, pairs
from vecmeta.meta.methods import linear
from vecmeta.meta.methods.linear import only_a_map, trained
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support

BATCHED, OUTER = False, "none"
initial = linear.initial
STEPS, RATE, MARGIN, HOLD = 60, 1e-3, 0.2, 1e-2


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    together, _ = pairs(support.y)

    def loss(z: Tensor, change: Tensor) -> Tensor:
        return triplet(z, together) + HOLD * (change * change).sum()

    return only_a_map(support, trained(support.x, loss, STEPS, RATE))


def triplet(z: Tensor, together: Tensor) -> Tensor:
    """Mean over pairs of mates of max(0, margin + hardest negative - mate): z (N, dim) unit rows, together (N, N) -> ()."""
    cosine = z @ z.T  # (N, N)
    same = (together > 0) | torch.eye(len(z), dtype=torch.bool, device=z.device)
    hardest = cosine.masked_fill(same, NEVER).amax(1, keepdim=True)  # (N, 1)
    hinge = together * (MARGIN + hardest - cosine).clamp(min=0)
    return hinge.sum() / together.sum().clamp(min=1e-9)
