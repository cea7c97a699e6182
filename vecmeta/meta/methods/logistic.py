"""Multinomial logistic regression with implicit negatives: the clusters of the unlabelled collection stand for "belongs nowhere".

What a careful engineer would build without meta-learning; its penalty, calibration and strength are meta-learned all the same, so that
it is compared at its best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta.attention import numbers
from vecmeta.meta.classifier import classifier
from vecmeta.meta.head import Memory
from vecmeta.meta.losses import NEVER
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support, directions, facts_of

BATCHED, OUTER = True, "gradient"
STEPS = 60  # of accelerated descent: of the first error 1e-4 is left with 100 judged rows, 3 % with 500, 17 % with 2,000
# c: logit; lam, alpha, w: logs (penalty, sharpening, weight of an implicit negative); b: added to belonging nowhere; s: see ridge
INITIAL = {"c": 0.0, "lam": 0.0, "alpha": math.log(2.0), "w": -1.0, "b": 0.0, "s": 0.5, "tau_out": math.log(0.1)}


def initial(config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
    """See `Method`."""
    return numbers(INITIAL)


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    share = torch.sigmoid(start["c"])
    facts = facts_of(support, share)
    concepts = len(support.concepts)
    rows = torch.cat((facts.x, facts.background))  # (N + B, dim)
    weight = torch.cat((support.rows, start["w"].exp() * support.clusters))  # (N + B,)
    target = torch.cat((facts.positive, torch.zeros_like(facts.background[:, :1]).expand(-1, concepts)))  # (N + B, C)
    nowhere = (1 - target.sum(1, keepdim=True)).clamp(min=0)
    target = torch.cat((target, nowhere), 1)
    target = target / target.sum(1, keepdim=True)
    there = torch.cat((support.concepts, torch.ones_like(support.concepts[:1])))
    weights, bias = solve(rows, target, weight, there, start["lam"].exp())  # (C + 1, dim), (C + 1,)
    alpha = start["alpha"].exp()
    values = start["s"] * directions(facts.sums)
    return classifier(
        support, alpha * weights[:-1], alpha * bias[:-1], alpha * bias[-1] + start["b"], values, share, alpha * weights[-1]
    )


def solve(x: Tensor, target: Tensor, weight: Tensor, there: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (K, dim) and intercepts (K,), which are penalised too, of the softmax regression of target (N, K) on x (N, dim).

    Minimises sum_i weight_i CE_i + lam/2 |W|^2 by Nesterov's method for strongly convex functions; the step follows from a bound on
    the curvature, half the Frobenius norm of the weighted Gram matrix.
    """
    rows = torch.cat((x, torch.ones_like(x[:, :1])), 1)  # (N, dim + 1)
    off = torch.where(there > 0, 0.0, NEVER)  # (K,)
    gram = rows @ rows.T
    # without the root of a weight, whose slope at zero, of padding, is infinite
    steep = lam + 0.5 * (weight[:, None] * weight * gram * gram).sum().sqrt()
    ratio = (lam / steep).sqrt()
    momentum = (1 - ratio) / (1 + ratio)
    w = rows.new_zeros(target.shape[1], rows.shape[1])
    ahead = w
    for _ in range(STEPS):
        error = weight[:, None] * (torch.softmax(rows @ ahead.T + off, 1) - target)  # (N, K)
        after = ahead - (error.T @ rows + lam * ahead) / steep
        ahead, w = after + momentum * (after - w), after
    return w[:, :-1], w[:, -1]
