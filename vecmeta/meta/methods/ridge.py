"""R2-D2 (Bertinetto et al. 2019): ridge regression from the judged rows to their concepts, in closed form, with learned calibration.

W = X' (X X' + lambda I)^-1 Y        logits = alpha x W + beta
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
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support, directions, facts_of

BATCHED, OUTER = True, "gradient"
# c: logit; lam, alpha: logs; b: the logit of belonging nowhere; s: how far a row moves to its concept
INITIAL = {"c": 0.0, "lam": 0.0, "alpha": math.log(10.0), "b": 3.0, "s": 0.5, "tau_out": math.log(0.1)}


def initial(config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
    """See `Method`."""
    return numbers(INITIAL)


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    share = torch.sigmoid(start["c"])
    facts = facts_of(support, share)
    weights = solve(facts.x, support.y * support.rows[:, None], start["lam"].exp())  # (C, dim)
    keys = start["alpha"].exp() * weights
    return classifier(support, keys, torch.zeros_like(support.concepts), start["b"], start["s"] * directions(facts.sums), share)


def solve(x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Ridge weights, without intercept: x (N, dim), y (N, C), lam () -> (C, dim). In the dual: N is small and dim is not."""
    gram = x @ x.T + lam * torch.eye(len(x), dtype=x.dtype, device=x.device)  # (N, N)
    weights: Tensor = torch.linalg.solve(gram, y).T @ x
    return weights
