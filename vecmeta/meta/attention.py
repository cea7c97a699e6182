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

from vecmeta.meta.head import Memory, softmax
from vecmeta.meta.losses import NEVER
from vecmeta.meta.support import Facts, Params, Support, directions

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


def slots_of(p: Params, support: Support, facts: Facts, keys: Tensor, dials: Dials) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of concepts with unit keys (C, dim): slots (C, dim), the keys divided by their temperature; biases (C,); the logits of the clusters
    at them, (C, B); what the biases of clusters gain, ()."""
    d_t = dials.common[0] + p["t_number"] * facts.shots
    bias = p["b_number"] * facts.number.log() + p["b_tight"] * facts.tight + dials.bias  # (C,)
    shift = dials.common[1] + p["o_number"] * facts.shots
    slots, biases = keys / (p["t"] + d_t).exp(), torch.where(support.concepts > 0, bias, NEVER)
    return slots, biases, slots @ facts.background.T + biases[:, None], shift


class Parts(NamedTuple):
    """What a memory is put together from, and what moves rows by itself where few of them ask."""

    keys: Tensor  # (C, dim) of the concepts, divided by their temperature
    bias: Tensor  # (C,)
    values: Tensor  # (C, dim)
    crowd: Tensor  # (B,) biases of the clusters
    logits: Tensor  # (C, B) of the clusters at the concepts
    passed: Tensor  # (C, B) how much of a cluster's share goes on to each concept
    drawn: Tensor  # (B,) how far a cluster draws rows to itself


def parts_of(p: Params, support: Support, facts: Facts, ties: Ties, keys: Tensor, values: Tensor, dials: Dials) -> Parts:
    """From unit keys (C, dim) and values (C, dim) of the concepts.

    A concept's logit and scale depend on how many judgements it has and how tight they lie, as far as meta-training found that to help.
    """
    d_eta, d_s = dials.common[2] + p["eta_number"] * facts.shots, dials.common[3]
    slots, biases, logits, shift = slots_of(p, support, facts, keys, dials)
    claims = propagated(p, ties, logits, shift) * support.clusters  # (C, B)
    passed = torch.sigmoid(p["eta"] + d_eta) * claims  # (C, B)
    scale = p["s"] * torch.exp(p["s_number"] * facts.number.log() + p["s_tight"] * facts.tight + dials.scale + d_s)  # (C,)
    many = facts.shots.exp()
    return Parts(
        keys=slots,
        bias=biases,
        values=(scale * support.concepts)[:, None] * values,
        crowd=torch.where(support.clusters > 0, _crowd(p, support) + shift, NEVER),
        logits=logits,
        passed=passed,
        drawn=p["s_b"] * many / (many + HALF_DRAWN) * (1 - passed.sum(0)),
    )


def moved(parts: Parts, background: Tensor, x: Tensor, at_concepts: Tensor, at_clusters: Tensor) -> Tensor:
    """`vecmeta.meta.head.forward` of centred rows (n, dim) with known logits (n, C), and (n, B) without biases: -> (n, dim) unit rows.

    Slots of clusters are never written out: of (B, dim) numbers there are more than of all else.
    """
    w = softmax(torch, torch.cat((at_concepts, at_clusters + parts.crowd), 1))  # (n, C + B)
    concepts, clusters = w.split((at_concepts.shape[1], at_clusters.shape[1]), 1)
    return directions(x + (concepts + clusters @ parts.passed.T) @ parts.values + (clusters * parts.drawn) @ background)


def assemble(p: Params, support: Support, facts: Facts, ties: Ties, keys: Tensor, values: Tensor, dials: Dials) -> Memory:
    """A memory of C + B slots from unit keys (C, dim) and values (C, dim) of the concepts."""
    parts = parts_of(p, support, facts, ties, keys, values, dials)
    return Memory(
        keys=torch.cat((parts.keys, facts.background / p["tb"].exp())),
        bias=torch.cat((parts.bias, parts.crowd)),
        values=torch.cat((parts.values, parts.passed.T @ parts.values + parts.drawn[:, None] * facts.background)),
        taught=torch.cat((support.concepts, parts.passed.sum(0))),
        share=torch.sigmoid(p["c"]),
    )


class Ties(NamedTuple):
    """How clusters hang together, which the inner loop does not change: what is left to do in each of its steps is small."""

    weights: (
        Tensor  # (B, B) of clusters among each other in the softmax, before it is divided, with `highest` taken out of the logits
    )
    total: Tensor  # (B,) their sums
    highest: Tensor  # (B,) the greatest logits


def ties_of(p: Params, support: Support, gram: Tensor) -> Ties:
    """From the inner products of the clusters, (B, B). A cluster itself is left out of what it is compared with."""
    own = torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    biases = torch.where(support.clusters > 0, _crowd(p, support), NEVER)  # (B,)
    logits = (gram / p["tb"].exp() + biases).masked_fill(own, NEVER)  # (B, B)
    highest = logits.detach().amax(1)  # it cancels out, so no gradient goes through it
    weights = (logits - highest[:, None]).exp().masked_fill(own, 0.0)  # also where there is no other one
    return Ties(weights, weights.sum(1), highest)


def propagated(p: Params, ties: Ties, logits: Tensor, shift: Tensor) -> Tensor:
    """How much each cluster belongs to each concept: -> (C, B).

    ``logits`` (C, B) are those of the clusters at the concepts; ``shift`` () is what the dials add to the biases of clusters. Concepts come
    first, because products of a few rows with a square take half the time of those of a square with a few columns.
    """
    level = torch.maximum(logits.amax(0), ties.highest + shift).detach()  # (B,)
    near, others = (logits - level).exp(), (ties.highest + shift - level).exp()  # (C, B), (B,)
    whole = near.sum(0) + others * ties.total  # (B,)
    near = near / whole
    along = torch.sigmoid(p["hop"]) * others / whole  # (B,)
    claims = near
    for _ in range(HOPS):
        claims = near + along * (claims @ ties.weights.T)
    return claims


def _crowd(p: Params, support: Support) -> Tensor:
    """The biases of clusters before the dials add to them: (B,)."""
    share = support.counts / (support.counts.sum() / support.clusters.sum())
    crowd: Tensor = p["b"] - p["r"] * support.clusters.sum().log() + 0.5 * share.clamp(min=1e-6).log()
    return crowd
