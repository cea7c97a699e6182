"""A conditional neural process (Garnelo et al. 2018): a set encoder reads the judgements and emits the head in one pass, no gradient.

So that one network fits every dimension, it reads cosines and not coordinates: of each judged row, how near it lies to its own concept,
to the nearest other one and to the nearest cluster; of each concept, the mean of what is made of its rows (Zaheer et al. 2017), its
number of judgements and how tight they lie. It emits each row's weight in its concept's key, and the concept's dials.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta import attention
from vecmeta.meta.attention import Dials, assemble, numbers, ties_of
from vecmeta.meta.head import Memory
from vecmeta.meta.losses import NEVER
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Facts, Params, Support, directions, facts_of

BATCHED, OUTER = True, "gradient"
HIDDEN = 16
READ, ABOUT, SAID = 3, 2, 2  # cosines per row, facts per concept, dials per concept
LAYERS = {
    "phi1": (READ, HIDDEN),
    "phi2": (HIDDEN, HIDDEN),
    "rho1": (HIDDEN + ABOUT, HIDDEN),
    "rho2": (HIDDEN, SAID),
    "key": (HIDDEN, 1),
}


def initial(config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
    """Scalars and small random weights; the last layers begin at zero, so that the network begins as a prototype head."""
    rng = np.random.default_rng(config.seed)
    out = {}
    for name, (rows, columns) in LAYERS.items():
        spread = 0.0 if name in ("rho2", "key") else (2 / rows) ** 0.5
        out[name] = (spread * rng.normal(size=(rows, columns))).astype(np.float32)
        out[f"{name}_b"] = np.zeros(columns, np.float32)
    return {**numbers(attention.INITIAL), **out}


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    facts = facts_of(support, torch.sigmoid(start["c"]))
    inside = facts.positive > 0  # (N, C)
    rows = _layer(
        start, "phi2", torch.relu(_layer(start, "phi1", torch.stack(_read(support, facts), -1)))
    ).relu()  # (N, C, HIDDEN)
    share = facts.positive / facts.number  # (N, C)
    pooled = (share[..., None] * rows).sum(0)  # (C, HIDDEN)
    about = torch.stack((facts.number.log(), facts.tight), 1)  # (C, 2)
    said = _layer(start, "rho2", torch.relu(_layer(start, "rho1", torch.cat((pooled, about), 1))))  # (C, SAID)
    weight = torch.softmax(
        torch.where(inside, _layer(start, "key", rows)[..., 0] + facts.positive.clamp(min=1e-6).log(), NEVER), 0
    )
    keys = directions((weight * inside).T @ facts.x)  # (C, dim)
    dials = Dials(said[:, 0], said[:, 1].tanh(), support.mean.new_zeros(4))
    ties = ties_of(start, support, facts.background @ facts.background.T)
    return assemble(start, support, facts, ties, keys, keys, dials)


def _read(support: Support, facts: Facts) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C) each: a row's cosine with the rest of the concept, with the nearest other concept, with the nearest cluster."""
    s, y = facts.sums, facts.positive
    dot, squares = facts.x @ s.T, (s * s).sum(1)
    size = (squares - 2 * y * dot + y * y).clamp(min=1e-6).sqrt()
    rest = torch.where(facts.number - y > 1e-3, (dot - y) / size, facts.tightness)
    to_all = torch.where(support.concepts > 0, facts.x @ directions(s).T, -1.0)  # (N, C)
    elsewhere = torch.where(y > 0, -1.0, to_all).amax(1, keepdim=True).expand_as(to_all)
    cluster = torch.where(support.clusters > 0, facts.x @ facts.background.T, -1.0).amax(1, keepdim=True).expand_as(to_all)
    return rest, elsewhere, cluster


def _layer(start: Params, name: str, x: Tensor) -> Tensor:
    return x @ start[name] + start[f"{name}_b"]
