"""Rocchio (1971) for a whole collection: a row that lies near enough to a concept's centre is moved towards it as a query would be.

    centre = norm(0.75 mean(positives) - 0.15 mean(negatives))        z = norm(x + 0.75 centre of the nearest, if near enough)

Near enough is half-way between how near a concept's own judgements lie to it and how near the clusters of the collection do.
"""

from __future__ import annotations

import torch

from vecmeta.meta.classifier import classifier
from vecmeta.meta.head import Memory
from vecmeta.meta.methods import linear
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support, directions, facts_of

BATCHED, OUTER = False, "none"
initial = linear.initial
BETA, GAMMA = 0.75, 0.15
SHARP = 100.0  # of the softmax: as good as choosing the nearest


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    facts = facts_of(support, support.mean.new_zeros(()))
    negative = (-support.y).clamp(min=0)
    away = negative.T @ facts.x / negative.sum(0).clamp(min=1)[:, None]
    centres = directions(BETA * facts.sums / facts.number[:, None] - GAMMA * away)  # (C, dim)
    own = (facts.positive * (facts.x @ centres.T)).sum(0) / facts.number  # (C,)
    usual = (facts.background @ centres.T).mean(0)  # (C,)
    threshold = (own + usual) / 2  # (C,)
    bias = -SHARP * threshold
    return classifier(support, SHARP * centres, bias, torch.zeros_like(bias[0]), BETA * centres, support.mean.new_zeros(()))
