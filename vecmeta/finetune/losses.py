"""What a step minimises: pairs told apart, and what is carried over from the untouched encoder.

The loss of the task is sentence-transformers' own; the others are a few lines each. All take unit rows, (b, dim) tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from vecmeta.finetune.batches import Round

ANGLE, DISTANCE = 2.0, 1.0  # weights of the two parts, as Park et al. have them


def ranking_loss(scale: float) -> Any:
    """sentence-transformers' MultipleNegativesRankingLoss; only its formula is used, which needs no model."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(None, scale=scale)


def task_loss(loss: Any, z: Tensor, rounds: Iterable[Round]) -> Tensor:
    """The mean over the rounds of a batch z (b, dim): each anchor finds its positive among all of its round."""
    total, weight = z.new_zeros(()), 0
    for part in rounds:
        columns = [z[part.anchors], z[part.positives]] + ([z[part.others]] if len(part.others) else [])
        if len(part.anchors) + len(part.others) < 2:
            continue
        total = total + len(part.anchors) * loss.compute_loss_from_embeddings(columns, None)
        weight += len(part.anchors)
    return total / max(weight, 1)


def l2_sp(parameters: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Half the squared distance of weights to where they started (Li, Grandvalet and Davoine 2018, eq. 2): pairs (now, start)."""
    parts = [(now - start).square().sum() for now, start in parameters]
    return 0.5 * torch.stack(parts).sum()


def relational(z: Tensor, teacher: Tensor) -> Tensor:
    """Relational knowledge distillation (Park et al. 2019, eqs. 5 and 8): distances, over their mean, and angles of triplets.

    Huber's loss between those of z and those of the teacher; (b, dim) each, b >= 3.
    """
    distance = smooth_l1_loss(_distances(z), _distances(teacher))
    angle = smooth_l1_loss(_angles(z), _angles(teacher))
    return DISTANCE * distance + ANGLE * angle


def _distances(x: Tensor) -> Tensor:
    """(b, b) Euclidean distances over the mean of those that are not zero."""
    squares = (2 - 2 * x @ x.T).clamp_min(1e-12)  # unit rows
    distance: Tensor = squares.sqrt() * (1 - torch.eye(len(x), device=x.device))
    return distance / distance.sum().div(len(x) * (len(x) - 1)).clamp_min(1e-6)


def _angles(x: Tensor) -> Tensor:
    """(b, b, b) cosines of the angle at j of the triplet i, j, k."""
    edges = normalize(x[None, :, :] - x[:, None, :], dim=2)  # (j, i, dim)
    return torch.bmm(edges, edges.transpose(1, 2))  # (j, i, k)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Distance of two covariances (Deep CORAL, Sun and Saenko 2016, eq. 1): ||C_s - C_t||^2 / (4 dim^2).

    Of rows times the root of dim: a dimension of a unit row has a variance of the order 1 / dim, and the formula is made for one of 1.
    """
    return (_covariance(source) - _covariance(target)).square().sum() / 4


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / max(len(x) - 1, 1)
