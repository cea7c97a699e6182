"""Concepts and clusters side by side in one memory: what maml, its relatives and cnp fill the head with.

Every row is shared out among the taught concepts and the clusters of the unlabelled collection, by a softmax over cosines. A cluster that
itself lies near a concept passes part of its share on to it, directly or through other clusters (label propagation: Zhou et al. 2004;
Liu et al. 2019): what an unlabelled collection tells about where a concept ends.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta.head import Memory
from vecmeta.meta.losses import NEVER
from vecmeta.meta.support import Facts, Params, Support

HOPS = 3  # how far labels travel from cluster to cluster
# Judgements per concept at which rows are drawn to their own clusters half as far as they ever are. With few, nothing says whether the
# clusters go with what is meant: on most sets they do, but where they do not (pictures of one style), the mixed fall below the base.
HALF_DRAWN = 3.0

# c, eta, hop: logits; t, tb: logs of temperatures
INITIAL = {"c": 0.0, "t": math.log(0.1), "tb": math.log(0.1), "b": 0.0, "r": 0.4, "s": 1.0, "s_b": 0.5, "eta": -0.5, "hop": -0.5}
# how a concept's logit and scale, and everybody's t, b and eta, change with the number of judgements and how tight they lie
INITIAL |= {"b_number": 0.0, "b_tight": 0.0, "s_number": 0.0, "s_tight": 0.0, "t_number": 0.0, "o_number": 0.0, "eta_number": 0.0}
INITIAL |= {"tau_out": math.log(0.1)}  # of the outer loss


class Dials(NamedTuple):
    """What a task may set for itself; all zero to begin with."""

    bias: Tensor  # (C,) added to a concept's logit
    scale: Tensor  # (C,) logs, on what a concept adds
    common: Tensor  # (4,) added to t, b, eta and to the log of s


def no_dials(support: Support) -> Dials:
    """All zero."""
    zero = support.concepts * 0
    return Dials(zero, zero, support.mean.new_zeros(4))


def numbers(values: dict[str, float]) -> dict[str, NDArray[np.float32]]:
    """0-d float32 arrays."""
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def slots_of(p: Params, support: Support, facts: Facts, keys: Tensor, dials: Dials) -> tuple[Tensor, Tensor, Tensor]:
    """Of concepts with unit keys (C, dim): slots (C, dim), the keys divided by their temperature; biases (C,); what clusters' gain, ()."""
    d_t = dials.common[0] + p["t_number"] * facts.shots
    bias = p["b_number"] * facts.number.log() + p["b_tight"] * facts.tight + dials.bias  # (C,)
    shift = dials.common[1] + p["o_number"] * facts.shots
    return keys / (p["t"] + d_t).exp(), torch.where(support.concepts > 0, bias, NEVER), shift


def assemble(p: Params, support: Support, facts: Facts, ties: Ties, keys: Tensor, values: Tensor, dials: Dials) -> Memory:
    """A memory of C + B slots from unit keys (C, dim) and values (C, dim) of the concepts.

    A concept's logit and scale depend on how many judgements it has and how tight they lie, as far as meta-training found that to help.
    """
    d_eta, d_s = dials.common[2] + p["eta_number"] * facts.shots, dials.common[3]
    slots, biases, shift = slots_of(p, support, facts, keys, dials)
    claims = propagated(p, facts, ties, slots, biases, shift) * support.clusters[:, None]  # (B, C)
    passed = torch.sigmoid(p["eta"] + d_eta) * claims  # (B, C)
    scale = p["s"] * torch.exp(p["s_number"] * facts.number.log() + p["s_tight"] * facts.tight + dials.scale + d_s)  # (C,)
    scaled = (scale * support.concepts)[:, None] * values  # (C, dim)
    kept = 1 - passed.sum(1, keepdim=True)  # (B, 1)
    many = facts.shots.exp()
    drawn = p["s_b"] * many / (many + HALF_DRAWN)
    return Memory(
        keys=torch.cat((slots, facts.background / p["tb"].exp())),
        bias=torch.cat((biases, torch.where(support.clusters > 0, _crowd(p, support) + shift, NEVER))),
        values=torch.cat((scaled, passed @ scaled + drawn * kept * facts.background)),
        taught=torch.cat((support.concepts, passed.sum(1))),
        share=torch.sigmoid(p["c"]),
    )


class Ties(NamedTuple):
    """How clusters hang together, which the inner loop does not change: what is left to do in each of its steps is small."""

    weights: (
        Tensor  # (B, B) of clusters among each other in the softmax, before it is divided, with `highest` taken out of the logits
    )
    total: Tensor  # (B,) their sums
    highest: Tensor  # (B,) the greatest logits


def ties_of(p: Params, support: Support, facts: Facts) -> Ties:
    """A cluster itself is left out of what it is compared with."""
    own = torch.eye(len(facts.background), dtype=torch.bool, device=facts.background.device)
    biases = torch.where(support.clusters > 0, _crowd(p, support), NEVER)  # (B,)
    logits = (facts.background @ facts.background.T / p["tb"].exp() + biases).masked_fill(own, NEVER)  # (B, B)
    highest = logits.detach().amax(1)  # it cancels out, so no gradient goes through it
    weights = (logits - highest[:, None]).exp().masked_fill(own, 0.0)  # also where there is no other one
    return Ties(weights, weights.sum(1), highest)


def propagated(p: Params, facts: Facts, ties: Ties, slots: Tensor, biases: Tensor, shift: Tensor) -> Tensor:
    """How much each cluster belongs to each concept: -> (B, C).

    ``slots`` (C, dim) and ``biases`` (C,) are the concepts'; ``shift`` () is what the dials add to the biases of clusters.
    """
    logits = facts.background @ slots.T + biases  # (B, C)
    level = torch.maximum(logits.amax(1), ties.highest + shift).detach()  # (B,)
    near, others = (logits - level[:, None]).exp(), (ties.highest + shift - level).exp()  # (B, C), (B,)
    whole = near.sum(1) + others * ties.total  # (B,)
    near = near / whole[:, None]
    along = (torch.sigmoid(p["hop"]) * others / whole)[:, None]
    claims = near
    for _ in range(HOPS):
        claims = near + along * (ties.weights @ claims)
    return claims


def _crowd(p: Params, support: Support) -> Tensor:
    """The biases of clusters before the dials add to them: (B,)."""
    share = support.counts / (support.counts.sum() / support.clusters.sum())
    crowd: Tensor = p["b"] - p["r"] * support.clusters.sum().log() + 0.5 * share.clamp(min=1e-6).log()
    return crowd
