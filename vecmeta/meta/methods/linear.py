"""The usual adapter: one linear map on items and queries alike, from the identity, Adam on an in-batch contrastive loss.

What the published recipes for adapting embeddings do (van den Oord et al. 2018 for the loss, Kingma and Ba 2015 for Adam): the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta.head import Memory
from vecmeta.meta.losses import contrastive, pairs
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support, directions

BATCHED, OUTER = False, "none"
STEPS, RATE, TAU = 100, 1e-3, 0.1


def initial(config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
    """Nothing is meta-learned."""
    return {}


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    together, apart = pairs(support.y)
    tau = torch.as_tensor(TAU).to(support.x)

    def loss(z: Tensor, _: Tensor) -> Tensor:
        return contrastive(z, together, tau, boost=torch.log1p(apart))

    return only_a_map(support, trained(support.x, loss, STEPS, RATE))


def trained(x: Tensor, loss: Callable[[Tensor, Tensor], Tensor], steps: int, rate: float) -> Tensor:
    """The change (dim, dim) to the identity that lowers loss(z, change) of the mapped rows x (N, dim), by Adam."""
    change = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    optimiser = torch.optim.Adam([change], rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            loss(directions(x + x @ change), change).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return change.detach()


def only_a_map(support: Support, change: Tensor) -> Memory:
    """A head that is z = norm(x + x change): its only slot moves nothing, and the mean stays in."""
    none = torch.zeros_like(support.mean)
    return Memory(none[None], none[:1], none[None], none[:1], none[0], change)
