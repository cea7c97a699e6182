"""A classifier as a head: a row moves towards the concepts that it is taken to belong to, and stays when it belongs nowhere."""

from __future__ import annotations

import torch
from torch import Tensor

from vecmeta.meta.head import Memory
from vecmeta.meta.losses import NEVER
from vecmeta.meta.support import Support


def classifier(
    support: Support,
    keys: Tensor,
    bias: Tensor,
    nowhere: Tensor,
    values: Tensor,
    share: Tensor,
    nowhere_key: Tensor | None = None,
) -> Memory:
    """A memory of C + 1 slots, the last of which is "belongs nowhere" and moves nothing.

    keys (C, dim) and bias (C,) give a concept's logit, nowhere_key (dim,) (zero if not given) and nowhere () that of the last slot;
    values (C, dim) are what a concept adds.
    """
    there = support.concepts > 0
    none = torch.zeros_like(support.mean)[None]  # (1, dim)
    return Memory(
        keys=torch.cat((keys, none if nowhere_key is None else nowhere_key[None])),
        bias=torch.cat((torch.where(there, bias, NEVER), nowhere.reshape(1))),
        values=torch.cat((values * support.concepts[:, None], none)),
        taught=torch.cat((support.concepts, none[0, :1])),
        share=share,
    )
