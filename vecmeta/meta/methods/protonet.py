"""Prototypical networks (Snell et al. 2017): a softmax over cosines to the concepts' means, and to nothing at all."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from vecmeta.meta.attention import numbers
from vecmeta.meta.classifier import classifier
from vecmeta.meta.head import Memory
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support, directions, facts_of

BATCHED, OUTER = True, "gradient"
# c: logit; t: log of the temperature; b: the logit of belonging nowhere; s: how far a row moves to its concept
INITIAL = {"c": 0.0, "t": math.log(0.1), "b": 3.0, "s": 0.5, "tau_out": math.log(0.1)}


def initial(config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
    """See `Method`."""
    return numbers(INITIAL)


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    share = torch.sigmoid(start["c"])
    centres = directions(facts_of(support, share).sums)
    keys = centres / start["t"].exp()
    return classifier(support, keys, torch.zeros_like(support.concepts), start["b"], start["s"] * centres, share)
