"""MAML with a memory head, the default: closed-form keys, then a few gradient steps on a loss that leaves each judged row out.

Finn et al. 2017 (gradients through gradient steps), Bertinetto et al. 2019 (R2-D2: ridge regression as a layer), Snell et al. 2017
(prototypes), Li et al. 2017 (Meta-SGD: learned rates), Khosla et al. 2020 (the contrastive loss).

A concept's key begins as its prototype plus the direction that ridge regression finds, in which the clusters of the unlabelled
collection take part with what they were found to be. The inner loop then moves keys and values and sets the dials. Its loss reads every
judged row as though it had not been judged: leaving a row out of a prototype is a subtraction, and out of a ridge regression it is a
rank-one update (Cook and Weisberg 1982, section 2.2), so it costs no more than the regression itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.meta import attention
from vecmeta.meta.attention import Dials, Ties, assemble, moved, no_dials, numbers, parts_of
from vecmeta.meta.head import Memory
from vecmeta.meta.losses import NEVER, contrastive, pairs
from vecmeta.meta.slopes import slopes
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Facts, Params, Support, directions, facts_of

BATCHED, OUTER = True, "gradient"
FAR_MOST = 64  # clusters that stand in the denominators of the inner loss: enough of them to hold against a single concept
FAST = ("keys", "values", "bias", "scale", "common")  # what the inner loop moves

# lam, om, wb, neg: logs
INITIAL = {
    "lam": 0.0,
    "om": -0.5,
    "om_number": 0.0,
    "wb": -0.5,
    "neg": -1.0,
    "v_mean": -2.0,
    "tau_in": math.log(0.1),
    "far": -2.0,
}


class Keys(NamedTuple):
    """Closed-form keys, and what is needed to leave a row out of them."""

    sums: Tensor  # (C, dim) of the positives
    ridge: Tensor  # (C, dim) weights
    row: Tensor  # (N, dim): how the weights answer to a row
    part: Tensor  # (N, C): how much of that is in them because of the row
    share: Tensor  # (): of the ridge direction in a key
    ties: Ties  # of the clusters
    far: Tensor  # (F,) clusters that stand in the denominators of the inner loss, as far as there are so many:
    there: Tensor  # (F,) bool
    at_clusters: Tensor  # (N + F, B) logits of the judged rows and of those clusters at all clusters, without biases


def initial(config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
    """Scalars, and logs of rates (8, inner_steps): of keys, values, bias, scale, and the four common dials."""
    rates = np.full((8, config.inner_steps), -1.0, np.float32)
    rates[:2] = -2.5
    return {**numbers(attention.INITIAL), **numbers(INITIAL), "rates": rates}


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    return inner_loop(start, support, FAST)


def inner_loop(p: Params, support: Support, moved: tuple[str, ...], first_order: bool = False) -> Memory:
    """Closed form, then a gradient step per column of p["rates"] (8, K) on what is moved; differentiable in p.

    Gradients of what there is per concept are times C, so that a rate means the same for one concept and for a hundred.
    ``first_order``: the steps are taken as given when the start is differentiated (FOMAML).
    """
    facts = facts_of(support, torch.sigmoid(p["c"]))
    found = closed_form(p, support, facts)
    k = mixed(found.share, found.sums, found.ridge)
    v = k - p["v_mean"].exp() * (k * support.concepts[:, None]).sum(0) / support.concepts.sum()
    fast: tuple[Tensor, ...] = (torch.zeros_like(k), torch.zeros_like(v), *no_dials(support))
    each = support.concepts.sum()
    scale = (each, each, each, each, 1.0)
    rates = p["rates"].exp()
    for step in range(rates.shape[1]):
        down = slopes(inner_loss, fast, p, support, facts, found, k, v)
        rate = (*rates[:4, step], rates[4:, step])
        fast = tuple(
            w - rate[i] * scale[i] * (slope.detach() if first_order else slope) if FAST[i] in moved else w
            for i, (w, slope) in enumerate(zip(fast, down, strict=True))
        )
    return assemble(p, support, facts, found.ties, directions(k + fast[0]), v + fast[1], Dials(*fast[2:]))


def closed_form(p: Params, support: Support, facts: Facts) -> Keys:
    """Ridge regression on what the judgements say and on what the clusters are taken to be.

    In the dual: with rows A (N + B, dim) of weights w, targets Y, alpha = (A A' + lambda diag(1/w))^-1 Y and W = A' alpha.
    """
    n, a = len(support.rows), torch.cat((facts.x, facts.background))  # (N + B, dim)
    gram = a @ a.T
    ties = attention.ties_of(p, support, gram[n:, n:])
    _, _, logits, shift = attention.slots_of(p, support, facts, directions(facts.sums), no_dials(support))
    claims = attention.propagated(p, ties, logits, shift)  # (C, B)
    there = torch.cat((support.rows, support.clusters))  # (N + B,)
    judged = facts.positive - p["neg"].exp() * (-support.y).clamp(min=0)
    y = torch.cat((judged, claims.T))  # (N + B, C)
    weight = torch.cat((torch.ones_like(support.rows), p["wb"].exp().expand(len(support.clusters))))
    y = (y - (weight * there) @ y / (weight * there).sum()) * there[:, None]
    ridge = torch.diagonal_scatter(gram, gram.diagonal() + p["lam"].exp() / weight)
    root = torch.linalg.cholesky(ridge)  # (N + B, N + B)
    solved = torch.cholesky_solve(torch.cat((torch.eye(len(a), n, dtype=a.dtype, device=a.device), y), 1), root)
    inverse, alpha = solved[:, :n], solved[:, n:]  # the columns (N + B, N) of the judged rows, and (N + B, C)
    share = (p["om"] + p["om_number"] * facts.shots).exp()
    part = alpha[:n] / inverse[:n].diagonal()[:, None]
    far, known = _far(support)
    at_clusters = torch.cat((gram[:n, n:], gram[n:, n:][far])) / p["tb"].exp()
    return Keys(facts.sums, alpha.T @ a, inverse.T @ a, part, share, ties, far, known, at_clusters)


def _far(support: Support) -> tuple[Tensor, Tensor]:
    """Every so many of the clusters that are there, (F,), and which of those there are; by the mask, or padding would change which."""
    most, count = len(support.clusters), support.clusters.sum()
    places = torch.arange(min(FAR_MOST, most), device=count.device) * torch.ceil(count / FAR_MOST)
    return places.clamp(max=most - 1).long(), places < count


def mixed(share: Tensor, sums: Tensor, ridge: Tensor) -> Tensor:
    """Prototype and a share of the ridge direction: (), (C, dim), (C, dim) -> (C, dim) unit rows."""
    return directions(directions(sums) + share * directions(ridge))


def left_out(facts: Facts, found: Keys, shift: Tensor) -> Tensor:
    """Cosines of every row with every key, were the row not judged: (N, C). ``shift`` (C, dim) is what was added to the keys.

    With S and W a concept's sum and ridge weights, y the row's own part in S, u its effect on the ridge and beta the part of it in W::

        key = norm(norm(norm(S - y x) + share norm(W - beta u)) + shift)

    written out in inner products, so that no (N, C, dim) array is made.
    """
    x, u, y, beta, om = facts.x, found.row, facts.positive, found.part, found.share
    s, w = found.sums, found.ridge
    xx = (x * x).sum(1, keepdim=True)  # 1, or 0 for padding
    sx, wx, su, wu = x @ s.T, x @ w.T, u @ s.T, u @ w.T  # (N, C)
    xu, uu = (x * u).sum(1, keepdim=True), (u * u).sum(1, keepdim=True)
    ss, ww, sw = (s * s).sum(1), (w * w).sum(1), (s * w).sum(1)
    size_s = (ss - 2 * y * sx + y * y * xx).clamp(min=1e-9).sqrt()
    size_w = (ww - 2 * beta * wu + beta * beta * uu).clamp(min=1e-9).sqrt()
    x_s, x_w = (sx - y * xx) / size_s, (wx - beta * xu) / size_w
    s_w = (sw - beta * su - y * wx + y * beta * xu) / (size_s * size_w)
    size = (1 + om * om + 2 * om * s_w).clamp(min=1e-6).sqrt()
    dx, du = x @ shift.T, u @ shift.T
    key_shift = ((s * shift).sum(1) - y * dx) / size_s + om * ((w * shift).sum(1) - beta * du) / size_w
    whole = (1 + 2 * key_shift / size + (shift * shift).sum(1)).clamp(min=1e-6).sqrt()
    return ((x_s + om * x_w) / size + dx) / whole


def inner_loss(fast: tuple[Tensor, ...], p: Params, support: Support, facts: Facts, found: Keys, k: Tensor, v: Tensor) -> Tensor:
    """What the inner loop lowers: the contrastive loss of the judged rows, each placed as though it had not been judged. -> ()."""
    n, parts = len(support.rows), parts_of(p, support, facts, found.ties, directions(k + fast[0]), v + fast[1], Dials(*fast[2:]))
    own = left_out(facts, found, fast[0]) / (p["t"] + fast[4][0] + p["t_number"] * facts.shots).exp() + parts.bias  # (N, C)
    asking = torch.cat((facts.x, facts.background[found.far]))  # (N + F, dim)
    z = moved(parts, facts.background, asking, torch.cat((own, parts.logits[:, found.far].T)), found.at_clusters)
    tau = p["tau_in"].exp()
    together, apart = pairs(support.y * support.rows[:, None])
    return contrastive(
        z[:n],
        together,
        tau,
        boost=torch.log1p(p["neg"].exp() * apart),
        far=torch.where(found.there, z[:n] @ z[n:].T / tau + p["far"], NEVER),
        rows=support.rows > 0,
    )
