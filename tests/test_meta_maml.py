"""MAML and its relatives, against loops written by hand: nothing here shares a formula with the code.

By hand, a judged row is left out by taking it out of the arrays and solving the regression again, clusters pass on what they claim one
by one, losses are sums over pairs, and gradients are those of torch.autograd through all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from tests.metatoys import CONFIG, asked64, judged, nuisance, params64, projected, quality, support64, unit_rows
from vecmeta.meta import attention
from vecmeta.meta.episodes import Episode, statistics
from vecmeta.meta.fitting import fit, initial_start
from vecmeta.meta.head import Memory
from vecmeta.meta.losses import contrastive, pairs, prototypes
from vecmeta.meta.methods import NAMES, maml, method_of
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support, directions, facts_of
from vecmeta.meta.training import REPTILE_RATE, REPTILE_STEPS, outer_loss, outer_slopes, together
from vecmeta.meta.training import Test as Asked

DIFFERENTIATED = ("maml", "anil", "protonet", "ridge", "logistic", "cnp")


# -- by hand


def norm(x: Tensor) -> Tensor:
    out: Tensor = x / x.norm(dim=-1, keepdim=True)
    return out


class ByHand:
    """One episode without padding, in the words of the formulas."""

    def __init__(self, p: Params, support: Support) -> None:
        self.p, self.y = p, support.y
        share = torch.sigmoid(p["c"])
        self.x, self.m = norm(support.x - share * support.mean), norm(support.background - share * support.mean)
        self.n, self.c, self.b = len(self.x), self.y.shape[1], len(self.m)
        self.counts = support.counts
        self.positive = self.y.clamp(min=0)
        self.number = self.positive.sum(0)
        self.shots = self.number.log().mean()
        known = {}
        for c in range(self.c):
            weights = self.positive[:, c]
            both = [(weights[i] * weights[j], self.x[i] @ self.x[j]) for i in range(self.n) for j in range(self.n) if i != j]
            if sum(float(w) for w, _ in both) > 1e-6:
                known[c] = sum(w * cosine for w, cosine in both) / sum(w for w, _ in both)
        usual = (sum(known.values()) + 0.35e-3) / (len(known) + 1e-3)
        self.tight = torch.stack([5 * torch.as_tensor(known.get(c, usual)) - 2 for c in range(self.c)])
        self.prototypes = norm(torch.stack([self.sum_of(c) for c in range(self.c)]))
        self.targets = self.ridge_targets()
        everyone = list(range(self.n + self.b))
        self.k = self.keys(self.prototypes, self.ridge(everyone))
        self.v = self.k - p["v_mean"].exp() * self.k.mean(0)

    def sum_of(self, concept: int, without: int | None = None) -> Tensor:
        rows = [i for i in range(self.n) if i != without]
        return torch.stack([self.positive[i, concept] * self.x[i] for i in rows]).sum(0)

    def ridge_targets(self) -> Tensor:
        """What the regression is told, its weighted mean taken out: rows, then clusters."""
        claims = self.claims(self.prototypes, self.dials())
        judged = self.positive - self.p["neg"].exp() * (-self.y).clamp(min=0)
        told, weight = torch.cat((judged, claims)), self.weights()
        centred: Tensor = told - (weight[:, None] * told).sum(0) / weight.sum()
        return centred

    def weights(self) -> Tensor:
        return torch.cat((torch.ones(self.n).double(), self.p["wb"].exp() * torch.ones(self.b).double()))

    def ridge(self, kept: list[int]) -> Tensor:
        """(C, dim), in the primal: (A' W A + lambda I)^-1 A' W Y, of the rows that are kept."""
        a = torch.cat((self.x, self.m))[kept]
        weight = self.weights()[kept][:, None]
        penalty = self.p["lam"].exp() * torch.eye(a.shape[1]).double()
        solved: Tensor = torch.linalg.solve(a.T @ (weight * a) + penalty, a.T @ (weight * self.targets[kept]))
        return solved.T

    def keys(self, prototypes: Tensor, ridge: Tensor) -> Tensor:
        share = (self.p["om"] + self.p["om_number"] * self.shots).exp()
        return norm(prototypes + share * norm(ridge))

    def dials(self) -> list[Tensor]:
        return [torch.zeros(size).double() for size in (self.c, self.c, 4)]

    def logits(
        self, row: Tensor, keys: Tensor, dials: list[Tensor], without: int | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of the concepts and of the clusters, without one of these: a row's own cluster."""
        p, shots = self.p, self.shots
        warmth = (p["t"] + dials[2][0] + p["t_number"] * shots).exp()
        near = [
            row @ keys[c] / warmth + p["b_number"] * self.number[c].log() + p["b_tight"] * self.tight[c] + dials[0][c]
            for c in range(self.c)
        ]
        usual = self.counts.mean()
        far = [
            row @ self.m[b] / p["tb"].exp()
            + p["b"] + dials[2][1] + p["o_number"] * shots
            - p["r"] * np.log(self.b)
            + 0.5 * (self.counts[b] / usual).log()
            for b in range(self.b)
            if b != without
        ]  # fmt: skip
        return near, far

    def claims(self, keys: Tensor, dials: list[Tensor]) -> Tensor:
        """(B, C): what a cluster is taken to be, told by concepts and by other clusters, three times over."""
        near, along = [], []
        for b in range(self.b):
            mine, others = self.logits(self.m[b], keys, dials, without=b)
            w = torch.softmax(torch.stack(mine + others), 0)
            near.append(w[: self.c])
            others_w = list(w[self.c :])
            along.append([others_w.pop(0) if other != b else torch.zeros(()).double() for other in range(self.b)])
        claims = near
        for _ in range(3):
            passed = [sum(along[b][o] * claims[o] for o in range(self.b)) for b in range(self.b)]
            claims = [near[b] + torch.sigmoid(self.p["hop"]) * passed[b] for b in range(self.b)]
        return torch.stack(claims)

    def values(self, keys: Tensor, values: Tensor, dials: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the slots add, (C + B, dim), and how much each of them is taught, (C + B,)."""
        p = self.p
        passed = torch.sigmoid(p["eta"] + dials[2][2] + p["eta_number"] * self.shots) * self.claims(keys, dials)
        add = [
            p["s"]
            * (p["s_number"] * self.number[c].log() + p["s_tight"] * self.tight[c] + dials[1][c] + dials[2][3]).exp()
            * values[c]
            for c in range(self.c)
        ]
        for b in range(self.b):
            many = self.shots.exp()
            own = p["s_b"] * many / (many + 3) * (1 - passed[b].sum()) * self.m[b]
            add.append(own + sum(passed[b][c] * add[c] for c in range(self.c)))
        return torch.stack(add), torch.cat((torch.ones(self.c).double(), passed.sum(1)))

    def left_out(self, row: int, shift: Tensor) -> Tensor:
        """(C, dim): the keys, had the row not been judged.

        A concept that the row alone spoke for has nothing left: its prototype points where no row is, in a dimension of its own.
        """
        sums = [self.sum_of(c, without=row) for c in range(self.c)]
        alone = [float(s.detach().norm()) < 1e-9 for s in sums]
        nothing, nowhere = torch.zeros(self.c, 1).double(), torch.tensor(alone).double()[:, None]
        left = torch.stack([s * 0 if gone else norm(s) for s, gone in zip(sums, alone, strict=True)])
        ridge = norm(self.ridge([i for i in range(self.n + self.b) if i != row]))
        share = (self.p["om"] + self.p["om_number"] * self.shots).exp()
        key = norm(torch.cat((left, nowhere), 1) + share * torch.cat((ridge, nothing), 1))
        return norm(key + torch.cat((shift, nothing), 1))[:, :-1]

    def loss(self, fast: list[Tensor]) -> Tensor:
        p, dials = self.p, fast[2:]
        keys = norm(self.k + fast[0])
        add, _ = self.values(keys, self.v + fast[1], dials)

        def moved(row: Tensor, keys: Tensor) -> Tensor:
            near, far = self.logits(row, keys, dials)
            return norm(row + torch.softmax(torch.stack(near + far), 0) @ add)

        told = [
            any(self.positive[i, c] > 0 and self.number[c] - self.positive[i, c] > 1e-3 for c in range(self.c))
            for i in range(self.n)
        ]
        z = [moved(self.x[i], self.left_out(i, fast[0])) for i in range(self.n)]
        far = [moved(self.m[b], keys) for b in range(self.b)]
        losses = []
        for i in range(self.n):
            below, weights, above = [], [], []
            for j in range(self.n):
                if i == j:
                    continue
                both, apart = said(self.y[i], self.y[j])
                below.append((1 + p["neg"].exp() * apart) * (z[i] @ z[j] / p["tau_in"].exp()).exp())
                weights.append(both if told[i] and told[j] else 0.0)
                above.append(z[i] @ z[j] / p["tau_in"].exp())
            total = torch.stack(below).sum() + sum((z[i] @ m / p["tau_in"].exp() + p["far"]).exp() for m in far)
            if sum(weights) > 0:
                losses.append(sum(w * (total.log() - u) for w, u in zip(weights, above, strict=True)) / sum(weights))
        return torch.stack([torch.as_tensor(value) for value in losses]).mean()

    def adapted(self, moved: tuple[str, ...] = maml.FAST, first_order: bool = False) -> Memory:
        fast = [torch.zeros_like(self.k), torch.zeros_like(self.v), *self.dials()]
        rates = self.p["rates"].exp()
        for step in range(rates.shape[1]):
            fast = [w if w.requires_grad else w.requires_grad_() for w in fast]
            slopes = torch.autograd.grad(self.loss(fast), fast, create_graph=not first_order)
            names = ("keys", "values", "bias", "scale", "common")
            rate = [self.c * rates[i, step] for i in range(4)] + [rates[4:, step]]
            fast = [
                w - rate[i] * slope if names[i] in moved else w for i, (w, slope) in enumerate(zip(fast, slopes, strict=True))
            ]
        keys, dials = norm(self.k + fast[0]), fast[2:]
        add, taught = self.values(keys, self.v + fast[1], dials)
        warmth = (self.p["t"] + dials[2][0] + self.p["t_number"] * self.shots).exp()
        origin = torch.zeros(self.x.shape[1]).double()  # whose logits are the biases
        near, far = self.logits(origin, keys, dials)
        slots = torch.cat((keys / warmth, self.m / self.p["tb"].exp()))
        return Memory(slots, torch.stack(near + far), add, taught, torch.sigmoid(self.p["c"]))


def said(one: Tensor, other: Tensor) -> tuple[float, float]:
    """How much two rows are said to belong together, and to be told apart."""
    both = sum(float(a * b) for a, b in zip(one, other, strict=True) if a > 0 and b > 0)
    apart = sum(abs(float(a * b)) for a, b in zip(one, other, strict=True) if a * b < 0)
    return max(both - apart, 0.0), apart


def plain_contrastive(z: Tensor, y: Tensor, tau: Tensor, rows: list[int], anchors: list[int]) -> Tensor:
    """The outer loss among some rows, one pair after the other."""
    losses = []
    for i in (i for i in rows if i in anchors):
        total = torch.stack([(z[i] @ z[j] / tau).exp() for j in rows if j != i]).sum()
        terms = [(said(y[i], y[j])[0], z[i] @ z[j] / tau) for j in rows if j != i]
        if sum(w for w, _ in terms) > 0:
            losses.append(sum(w * (total.log() - u) for w, u in terms) / sum(w for w, _ in terms))
    return torch.stack([torch.as_tensor(loss) for loss in losses]).mean()


def plain_outer(memory: Memory, p: Params, support: Support, test: Asked, config: MetaConfig) -> Tensor:
    z = projected(memory, support, test.x)
    rows, asks = list(range(len(z))), [i for i in range(len(z)) if test.anchors[i] > 0]
    fed = [i for i in rows if test.taught[i] > 0]
    unfed = [i for i in rows if i not in fed]
    tau = p["tau_out"].exp()
    parts = [plain_contrastive(z, test.y, tau, some, asks) for some in (rows, fed, unfed)]
    return parts[0] + parts[1] + config.unfed_weight * parts[2]


def leaves_of(p: Params) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in p.items()}


def assert_slopes(got: Params, want: Params, relative: float = 1e-6, absolute: float = 1e-9) -> None:
    for name, slope in want.items():
        assert (got[name] - slope).norm() <= relative * slope.norm() + absolute, name


# -- losses


def test_prototypes_and_pairs() -> None:
    support = support64()
    x, y = support.x, support.y
    want = np.stack([sum(max(w, 0) * row for w, row in zip(column, x.numpy(), strict=True)) for column in y.numpy().T])
    np.testing.assert_allclose(prototypes(x, y).numpy(), want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-9)
    both, apart = (m.numpy() for m in pairs(y))
    for i in range(len(y)):
        for j in range(len(y)):
            assert (both[i, j], apart[i, j]) == pytest.approx(said(y[i], y[j]) if i != j else (0, apart[i, i]))
    assert both[0, 1] == 0.5  # graded
    assert (both[0, 6], apart[0, 6]) == (0, 1)  # a real negative
    assert (both[2, 5], apart[2, 5]) == (0, 1)  # told apart by one concept, together by another
    np.testing.assert_array_equal(apart, apart.T)


def test_contrastive_in_plain_loops() -> None:
    rng = np.random.default_rng(2)
    z, far = unit_rows(rng.normal(size=(6, 4))).astype(np.float64), rng.normal(size=(6, 2))
    both = np.zeros((6, 6))
    both[0, 1] = both[1, 0] = both[3, 4] = both[4, 3] = 1
    both[2, 3] = both[3, 2] = 0.5
    both[2, 4] = both[4, 2] = 2
    boost = np.abs(rng.normal(size=(6, 6)))
    anchors = [0, 2, 3, 4, 5]
    for rows in ([0, 1, 2, 3, 4, 5], [0, 2, 3, 4]):
        losses = []
        for i in (i for i in anchors if i in rows and both[i][rows].sum() > 0):
            total = sum(np.exp(z[i] @ z[j] / 0.2 + boost[i, j]) for j in rows if j != i) + np.exp(far[i]).sum()
            terms = [-both[i, j] * (z[i] @ z[j] / 0.2 - np.log(total)) for j in rows]
            losses.append(float(sum(terms) / both[i][rows].sum()))
        got = contrastive(
            torch.tensor(z), torch.tensor(both), torch.tensor(0.2, dtype=torch.float64), boost=torch.tensor(boost), far=torch.tensor(far),
            anchors=torch.tensor([i in anchors for i in range(6)]), rows=torch.tensor([i in rows for i in range(6)]),
        )  # fmt: skip
        assert got.item() == pytest.approx(np.mean(losses), rel=1e-9)
    assert contrastive(torch.tensor(z), torch.zeros(6, 6), torch.tensor(0.2, dtype=torch.float64)).item() == 0


def test_a_loss_without_anchors_has_a_gradient_of_zero() -> None:
    z = torch.eye(3, requires_grad=True)
    for both, rows in ((torch.zeros(3, 3), None), (torch.ones(3, 3), torch.zeros(3, dtype=torch.bool))):
        loss = contrastive(z, both, torch.tensor(0.1), rows=rows)
        assert loss.item() == 0
        np.testing.assert_array_equal(torch.autograd.grad(loss, z)[0], np.zeros((3, 3)))


# -- the closed form


def test_closed_form_against_scikit_learn() -> None:
    p, support = params64("maml"), support64()
    facts = facts_of(support, torch.sigmoid(p["c"]))
    found, hand = maml.closed_form(p, support, facts), ByHand(p, support)
    ridge = Ridge(alpha=float(p["lam"].exp()), fit_intercept=False)
    ridge.fit(torch.cat((hand.x, hand.m)).numpy(), hand.targets.numpy(), sample_weight=hand.weights().numpy())
    np.testing.assert_allclose(found.ridge, ridge.coef_, atol=1e-10)
    np.testing.assert_allclose(found.ridge, hand.ridge(list(range(15))), atol=1e-10)
    np.testing.assert_allclose(maml.mixed(found.share, found.sums, found.ridge), hand.k, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_left_out_is_as_though_the_row_had_not_been_judged(seed: int) -> None:
    p, support = params64("maml", seed), support64(seed, dim=7)
    facts = facts_of(support, torch.sigmoid(p["c"]))
    found, hand = maml.closed_form(p, support, facts), ByHand(p, support)
    shift = 0.3 * torch.tensor(np.random.default_rng(seed).normal(size=(3, 7)))
    for moved in (torch.zeros_like(shift), shift):
        got = maml.left_out(facts, found, moved)
        want = torch.stack([hand.left_out(i, moved) @ hand.x[i] for i in range(hand.n)])
        np.testing.assert_allclose(got, want, atol=1e-8)


def test_a_row_that_says_nothing_of_a_concept_still_moves_its_ridge() -> None:
    """The targets are centred, so every row takes part in every concept; only the prototype of another stays."""
    p, support = params64("maml"), support64()
    facts = facts_of(support, torch.sigmoid(p["c"]))
    found = maml.closed_form(p, support, facts)
    plain = facts.x @ maml.mixed(found.share, found.sums, found.ridge).T
    left = maml.left_out(facts, found, torch.zeros_like(found.sums))
    assert ((left - plain).abs() > 1e-6).all()
    inside = support.y > 0.4
    assert (left < plain)[inside].all()  # a row lies nearer to what it takes part in


# -- the memory and the inner loop


@pytest.mark.parametrize("clusters", [1, 5])
def test_the_memory_before_any_step(clusters: int) -> None:
    p, support = params64("maml"), support64(clusters=clusters)
    p["rates"] = p["rates"][:, :0]
    got, want = maml.inner_loop(p, support, maml.FAST), ByHand(p, support).adapted()
    for one, other in zip(got[:5], want[:5], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    assert got.map is None
    assert ((got.taught >= 0) & (got.taught <= 1 + 1e-12)).all()


@pytest.mark.parametrize("moved", [maml.FAST, ("bias", "scale", "common"), ("keys",), ()], ids=len)
def test_the_inner_loop(moved: tuple[str, ...]) -> None:
    p, support = params64("maml"), support64()
    got, want = maml.inner_loop(p, support, moved), ByHand(p, support).adapted(moved)
    for one, other in zip(got[:5], want[:5], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("seed", range(2))
def test_the_inner_loss_at_any_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, support = params64("maml", seed), support64(seed)
    facts = facts_of(support, torch.sigmoid(p["c"]))
    found, hand = maml.closed_form(p, support, facts), ByHand(p, support)
    fast = [torch.tensor(0.2 * rng.normal(size=shape)) for shape in ((3, 6), (3, 6), (3,), (3,), (4,))]
    got = maml.inner_loss(tuple(fast), p, support, facts, found, hand.k, hand.v)
    assert got.item() == pytest.approx(hand.loss(fast).item(), rel=1e-9)


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_second_order_through_the_inner_loop(method: str) -> None:
    """The gradient of an outer loss, of every number of the start, through the loop that was written by hand."""
    support, test, p = support64(), asked64(), params64(method)
    got, loss = slopes_of(method, p, support, test)
    mine = leaves_of(p)
    memory = ByHand(mine, support).adapted(maml.FAST if method == "maml" else ("bias", "scale", "common"))
    want = plain_outer(memory, mine, support, test, CONFIG)
    assert loss.item() == pytest.approx(want.item(), rel=1e-9)
    assert_slopes(got, gradient(want, mine))


def slopes_of(method: str, p: Params, support: Support, test: Asked) -> tuple[Params, Tensor]:
    slopes, loss = outer_slopes(method_of(method), p, together([(support, test)]), CONFIG)
    return slopes, loss


def gradient(loss: Tensor, leaves: Params) -> Params:
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: torch.zeros_like(leaf) if s is None else s for (name, leaf), s in zip(leaves.items(), slopes, strict=True)}


def test_first_order_takes_the_steps_as_given() -> None:
    support, test, p = support64(), asked64(), params64("fomaml")
    got, loss = slopes_of("fomaml", p, support, test)
    mine = leaves_of(p)
    want = plain_outer(ByHand(mine, support).adapted(first_order=True), mine, support, test, CONFIG)
    assert_slopes(got, gradient(want, mine))
    second, same = slopes_of("maml", p, support, test)
    assert loss.item() == pytest.approx(same.item(), rel=1e-12)  # the head is the same
    away = [(got[name] - second[name]).norm() / second[name].norm() for name in ("t", "lam", "om", "tau_in", "far")]
    assert min(away) > 1e-3
    for name in ("tau_in", "far"):  # they are in the inner loss alone
        assert got[name] == 0
        assert second[name] != 0


def test_first_order_by_autograd_and_by_functorch() -> None:
    support, test, p = support64(), asked64(), params64("fomaml")
    mine = leaves_of(p)
    plain = gradient(outer_loss(method_of("fomaml"), mine, support, test, CONFIG), mine)
    assert_slopes(slopes_of("fomaml", p, support, test)[0], plain, 1e-10)


@pytest.mark.parametrize("method", DIFFERENTIATED)
def test_outer_gradient_against_finite_differences(method: str) -> None:
    support, test, p = support64(), asked64(), params64(method, jitter=0.2)
    slopes, _ = slopes_of(method, p, support, test)
    rng = np.random.default_rng(5)
    step = 1e-5
    with torch.no_grad():
        for name, value in p.items():
            many = value.numel() > 20  # then along two random directions
            ways = (
                [rng.normal(size=value.shape) for _ in range(2)]
                if many
                else list(np.eye(value.numel()).reshape(-1, *value.shape))
            )
            idle = name == "key_b"  # the same for all that a softmax compares
            assert (slopes[name].norm() < 1e-9) == idle, f"{name} changes nothing"
            for way in ways:
                along = torch.tensor(way)
                ends = [
                    outer_loss(method_of(method), {**p, name: value + d * along}, support, test, CONFIG) for d in (step, -step)
                ]
                by_steps = ((ends[0] - ends[1]) / (2 * step)).item()
                got = float((slopes[name] * along).sum())
                assert got == pytest.approx(by_steps, rel=1e-6, abs=3e-9), name


def test_reptile_against_a_loop() -> None:
    tasks = [(support64(seed), asked64(seed)) for seed in range(3)]
    p = params64("reptile")
    got, loss = outer_slopes(method_of("reptile"), p, together(tasks), CONFIG)
    ends, firsts = [], []
    for support, test in tasks:
        now = dict(p)
        for step in range(REPTILE_STEPS):
            leaves = leaves_of(now)
            value = outer_loss(method_of("reptile"), leaves, support, test, CONFIG)
            if step == 0:
                firsts.append(value.item())
            slopes = gradient(value, leaves)
            now = {name: now[name] - REPTILE_RATE * slopes[name].clamp(-1, 1) for name in now}
        ends.append(now)
    want = {name: (p[name] - sum(end[name] for end in ends) / 3) / (REPTILE_STEPS * REPTILE_RATE) for name in p}
    assert_slopes(got, want, 1e-9)
    assert loss.item() == pytest.approx(np.mean(firsts))
    assert max(slope.abs().max() for slope in got.values()) <= 1 + 1e-12  # every step is clipped


# -- what it is for


def test_maml_gains_clearly_where_a_nuisance_hides_the_classes() -> None:
    gains = []
    for seed in range(3):
        x, labels = nuisance(seed=seed)
        fed, unfed = list(range(8)), list(range(8, 30))
        rows, y = judged(labels, fed, 5)
        head = fit(initial_start("maml"), Episode(x[rows], y), statistics(x, len(x)))
        rest = np.setdiff1d(np.arange(len(x)), rows)
        z, base, kept = head.project(x)[rest], x[rest], labels[rest]
        gains.append([quality(z, kept, group) - quality(base, kept, group) for group in (fed, unfed)])
        assert head.belonging(x)[np.isin(labels, fed)].mean() > head.belonging(x)[np.isin(labels, unfed)].mean() + 0.2
    fed_gain, unfed_gain = np.mean(gains, 0)
    assert fed_gain > 0.2
    assert unfed_gain > -0.02


@pytest.mark.parametrize("shots", [1, 5])
def test_a_single_concept(shots: int) -> None:
    x, labels = nuisance()
    rows, y = judged(labels, [4], shots)
    head = fit(initial_start("maml"), Episode(x[rows], y), statistics(x, len(x)))
    rest = np.setdiff1d(np.arange(len(x)), rows)
    z, everything = head.project(x)[rest], list(range(30))
    assert quality(z, labels[rest], everything) > quality(x[rest], labels[rest], everything) - 0.02
    g = head.belonging(x)[rest]
    assert g[labels[rest] == 4].mean() > 2 * g[labels[rest] != 4].mean()


def test_negatives_push_away() -> None:
    x, labels = nuisance()
    rows, y = judged(labels, [0, 1], 4)
    wrong = np.flatnonzero(labels == 2)[:3]
    everything, unsaid = np.concatenate((rows, wrong)), np.concatenate((y, np.zeros((3, 2), np.float32)))
    negative = unsaid.copy()
    negative[-3:, 0] = -1
    stats = statistics(x, len(x))
    near = []
    for scores in (negative, unsaid):
        z = fit(initial_start("maml"), Episode(x[everything], scores), stats).project(x)
        near.append(float((z[wrong] @ z[rows[:4]].T).mean()))
    assert near[0] < near[1]


def test_one_thing_in_several_concepts() -> None:
    x, labels = nuisance()
    rows, y = judged(labels, [0, 1, 2], 4)
    y[:4, 1] = 1  # the first concept's things belong to the second as well
    z = fit(initial_start("maml"), Episode(x[rows], y), statistics(x, len(x))).project(x)
    assert (z[rows[:4]] @ z[rows[4:8]].T).mean() > (z[rows[:4]] @ z[rows[8:]].T).mean()


def test_relatives_share_what_they_say_they_share() -> None:
    support = support64()
    p = params64("maml")
    memories = {name: method_of(name).memory(p, support, CONFIG) for name in ("maml", "fomaml", "anil", "reptile")}
    for name in ("fomaml", "reptile"):
        for one, other in zip(memories["maml"][:5], memories[name][:5], strict=True):
            torch.testing.assert_close(one, other)
    hand = ByHand(p, support)  # ANIL's keys are those of the closed form
    torch.testing.assert_close(norm(memories["anil"].keys[:3]), hand.k, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(norm(memories["maml"].keys[:3]), hand.k, atol=1e-4)


def test_the_methods_are_the_ones_that_are_named() -> None:
    assert NAMES[0] == "maml"
    known: dict[str, Any] = {name: method_of(name) for name in NAMES}
    assert len({id(module) for module in known.values()}) == len(NAMES)
    for name, module in known.items():
        assert module.__name__ == f"vecmeta.meta.methods.{name}"
        assert module.OUTER in ("gradient", "reptile", "none")
        assert (module.OUTER == "none") == (not module.initial(CONFIG))
        assert module.BATCHED or module.OUTER == "none"


def test_directions_and_dials() -> None:
    call: Callable[[Tensor], Tensor] = directions
    np.testing.assert_allclose(call(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), np.array([[0.6, 0.8], [0, 0]]), rtol=1e-6)
    assert [part.abs().sum().item() for part in attention.no_dials(support64())] == [0, 0, 0]
