"""Every method of adaptation: one check for all of them, padding, batches, and each against an independent computation."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from tests.metatoys import CONFIG, SCORES, asked64, judged, nuisance, params64, projected, quality, support64, unit_rows
from vecmeta.errors import InvalidConfig, InvalidVector
from vecmeta.meta.episodes import Episode, Statistics, statistics
from vecmeta.meta.fitting import fit, initial_start
from vecmeta.meta.head import Memory, MemoryHead, forward, load_head
from vecmeta.meta.isometry import condensed, widened
from vecmeta.meta.losses import pairs
from vecmeta.meta.methods import NAMES, cnp, linear, logistic, method_of, metric, protonet, ridge, rocchio
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Support, facts_of, stacked
from vecmeta.meta.training import _condensed, outer_loss, outer_slopes, together

BATCHED = [name for name in NAMES if method_of(name).BATCHED]
GRADIENT = [name for name in NAMES if method_of(name).OUTER == "gradient"]
DIM = 12


def world(dim: int = DIM, seed: int = 0) -> tuple[NDArray[np.float32], Statistics]:
    x, _ = nuisance(10, 30, dim, seed)
    return x, statistics(x, len(x))


def episodes() -> dict[str, Episode]:
    """Everything that people may judge."""
    x, _ = world()
    row = x[:1]
    graded = np.array([[1, 0], [0.3, 0], [0.01, 0.5], [0, 1], [-0.2, 0.9], [0, -1]], np.float32)
    query = np.zeros((6, 2), np.float32)
    query[0, 0] = query[3, 1] = 1  # the queries themselves, each in its own column
    query[[1, 4], [0, 1]] = 1, 0.7
    query[[2, 5], [0, 1]] = -1
    return {
        "one judgement": Episode(row, np.ones((1, 1), np.float32)),
        "one concept": Episode(x[:4], np.ones((4, 1), np.float32)),
        "one positive, one negative": Episode(x[[0, 40]], np.array([[1], [-1]], np.float32)),
        "duplicate rows": Episode(np.repeat(row, 5, 0), np.ones((5, 1), np.float32)),
        "duplicates in two concepts": Episode(np.repeat(row, 4, 0), np.eye(2, dtype=np.float32).repeat(2, 0)),
        "opposite rows": Episode(np.concatenate((row, -row)), np.ones((2, 1), np.float32)),
        "opposite concepts": Episode(np.concatenate((row, -row)), np.eye(2, dtype=np.float32)),
        "negatives": Episode(x[:6], np.array([[1, -1], [1, 0], [-1, 1], [0, 1], [-1, 0], [-1, -1]], np.float32)),
        "graded scores": Episode(x[:6], graded),
        "several concepts per row": Episode(x[:6], np.tril(np.ones((6, 6), np.float32))),
        "a row for nothing": Episode(x[:3], np.array([[1, 0], [0, 1], [0, 0]], np.float32)),
        "query columns": Episode(x[[0, 1, 60, 90, 91, 150]], query),
        "a column without positives": Episode(x[:3], np.array([[1, -1], [1, 0], [0, -1]], np.float32)),
        "more concepts than dimensions": Episode(x[:100:2], np.eye(25, dtype=np.float32).repeat(2, 0)),
    }


def taught_head(name: str, episode: Episode, stats: Statistics, **more: Any) -> MemoryHead:
    return fit(initial_start(name), episode, stats, **more)


def assert_sound(head: MemoryHead, x: NDArray[np.float32]) -> None:
    """What holds for every head, whatever was taught."""
    z, g = head.project(x), head.belonging(x)
    assert np.isfinite(z).all()
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-4)
    assert ((g >= 0) & (g <= 1 + 1e-5)).all()
    assert head.strength == 1
    assert load_head(head.to_bytes()).to_bytes() == head.to_bytes()


@pytest.mark.parametrize("name", NAMES)
class TestCommon:
    """One check for all methods."""

    @pytest.mark.parametrize("said", episodes())
    def test_any_episode(self, name: str, said: str) -> None:
        x, stats = world()
        episode = episodes()[said]
        before = episode.x.copy(), episode.y.copy(), stats.background.copy()
        head = taught_head(name, episode, stats)
        assert_sound(head, np.concatenate((x, episode.x, -x[:5])))
        assert taught_head(name, episode, stats).to_bytes() == head.to_bytes()
        for was, now in zip(before, (episode.x, episode.y, stats.background), strict=True):
            np.testing.assert_array_equal(was, now)
        assert head.provenance == {"method": name, "start": initial_start(name).hash}

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_few_dimensions(self, name: str, dim: int) -> None:
        x = unit_rows(np.random.default_rng(0).normal(size=(40, dim)))
        episode = Episode(x[:6], np.eye(2, dtype=np.float32).repeat(3, 0))
        assert_sound(taught_head(name, episode, statistics(x, len(x))), x)

    @pytest.mark.parametrize("rows", [1, 2])
    def test_tiny_collections(self, name: str, rows: int) -> None:
        x = unit_rows(np.random.default_rng(0).normal(size=(rows, DIM)))
        assert_sound(taught_head(name, Episode(x, np.ones((rows, 1), np.float32)), statistics(x, rows)), x)
        alike = np.repeat(x[:1], 50, 0)
        assert_sound(taught_head(name, Episode(alike[:3], np.ones((3, 1), np.float32)), statistics(alike, 50)), alike)

    def test_thousands_of_rows_are_drawn_from(self, name: str) -> None:
        x, _ = nuisance(50, 60, 8)
        episode = Episode(x, np.eye(50, dtype=np.float32).repeat(60, 0))
        stats = statistics(x, len(x))
        start = replace(initial_start(name), config=MetaConfig(inner_rows=300))
        heads = [fit(start, episode, stats, seed=seed) for seed in (0, 0, 1)]
        assert_sound(heads[0], x[:100])
        assert heads[0].to_bytes() == heads[1].to_bytes()
        assert heads[0].to_bytes() != heads[2].to_bytes()

    def test_columns_without_positives_and_the_order_of_columns_do_not_matter(self, name: str) -> None:
        x, stats = world()
        rows, y = np.arange(0, 90, 9), np.eye(3, dtype=np.float32)[np.arange(0, 90, 9) // 30]
        plain = taught_head(name, Episode(x[rows], y), stats).project(x)
        more = np.concatenate((np.zeros((10, 1), np.float32), y), 1)
        np.testing.assert_allclose(taught_head(name, Episode(x[rows], more), stats).project(x), plain, atol=1e-5)
        turned = taught_head(name, Episode(x[rows[::-1]], y[::-1, ::-1]), stats).project(x)
        np.testing.assert_allclose(turned, plain, atol=3e-3)  # float32: Adam's first steps are signs of sums that are nearly zero

    def test_a_start_that_does_not_fit(self, name: str) -> None:
        x, stats = world()
        episode = Episode(x[:2], np.ones((2, 1), np.float32))
        start = initial_start(name)
        other = initial_start("protonet" if name == "maml" else "maml")
        for wrong in (
            replace(start, tensors={**start.tensors, "extra": np.zeros(1, np.float32)}),
            replace(other, method=name) if name not in ("fomaml", "anil", "reptile") else replace(start, tensors={}),
            replace(start, method="nothing of the kind"),
        ):
            with pytest.raises(InvalidConfig):
                fit(wrong, episode, stats)

    def test_dimensions_must_agree(self, name: str) -> None:
        x, _ = world()
        _, stats = world(DIM + 1)
        with pytest.raises(InvalidVector, match=f"dimension {DIM} in a collection of dimension {DIM + 1}"):
            taught_head(name, Episode(x[:2], np.ones((2, 1), np.float32)), stats)

    def test_threads_and_gradients_stay_as_they_were(self, name: str) -> None:
        x, stats = world()
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            taught_head(name, Episode(x[:2], np.ones((2, 1), np.float32)), stats)
            assert torch.get_num_threads() == 2
            assert torch.is_grad_enabled()
        finally:
            torch.set_num_threads(before)

    def test_the_taught_do_not_lose_where_a_nuisance_hides_them(self, name: str) -> None:
        x, labels = nuisance()
        rows, y = judged(labels, range(8), 5)
        head = taught_head(name, Episode(x[rows], y), statistics(x, len(x)))
        rest = np.setdiff1d(np.arange(len(x)), rows)
        z = head.project(x)[rest]
        assert quality(z, labels[rest], range(8)) > quality(x[rest], labels[rest], range(8)) + 0.05
        if head.memory.map is None:
            g = head.belonging(x)
            assert g[labels < 8].mean() > g[labels >= 8].mean() + 0.1


@pytest.mark.parametrize("name", [*BATCHED, "rocchio"])
def test_turning_the_space_turns_the_head(name: str) -> None:
    """Nothing depends on the axes; of the linear maps that cannot be said, for Adam steps coordinate by coordinate."""
    support, asked, p = support64(), asked64(), params64(name)
    turn = torch.linalg.qr(torch.tensor(np.random.default_rng(3).normal(size=(6, 6))))[0]
    turned = support._replace(x=support.x @ turn, mean=support.mean @ turn, background=support.background @ turn)
    method = method_of(name)
    z = projected(method.memory(p, support, CONFIG), support, asked.x) @ turn
    torch.testing.assert_close(projected(method.memory(p, turned, CONFIG), turned, asked.x @ turn), z, rtol=1e-6, atol=1e-7)


# -- padding and batches


def padded_beside(support: Support, beside: Support) -> Support:
    """The support as it lies in a batch with a larger one."""
    return Support(*(part[0] for part in stacked([support, beside])))


@pytest.mark.parametrize("clusters", [3, 40, 100])
@pytest.mark.parametrize("name", BATCHED)
def test_padding_changes_nothing(name: str, clusters: int) -> None:
    """More rows, concepts and clusters that are not there; more of these than stand in the inner loss, too."""
    support, asked, p = support64(clusters=clusters), asked64(), params64(name)
    many = np.concatenate((np.array(SCORES), np.eye(10)), 1)
    large = support64(1, y=np.concatenate((many, many)), clusters=150)
    method = method_of(name)
    z = projected(method.memory(p, support, CONFIG), support, asked.x)
    padded = padded_beside(support, large)
    assert (len(padded.x), len(padded.concepts), len(padded.clusters)) == (20, 13, 150)
    memory = method.memory(p, padded, CONFIG)
    torch.testing.assert_close(projected(memory, padded, asked.x), z, rtol=1e-7, atol=1e-8)
    assert torch.isfinite(torch.cat([part.flatten() for part in memory[:5]])).all()


@pytest.mark.parametrize("name", BATCHED)
def test_a_padded_support_in_single_precision(name: str) -> None:
    support, asked, p = support64(), asked64(), params64(name)
    single = Support(*(part.float() for part in support))
    large = Support(*(part.float() for part in support64(1, clusters=90)))
    lean = {key: value.float() for key, value in p.items()}
    method, x = method_of(name), asked.x.float()
    z = projected(method.memory(lean, single, CONFIG), single, x)
    padded = padded_beside(single, large)
    torch.testing.assert_close(projected(method.memory(lean, padded, CONFIG), padded, x), z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_is_its_tasks_one_by_one(name: str) -> None:
    supports = [support64(0), support64(1, y=np.array(SCORES)[:5, :2], clusters=9), support64(2, y=[[1.0]], clusters=2)]
    asked, p, method = asked64(), params64(name), method_of(name)

    def moved(support: Support) -> Tensor:
        return projected(method.memory(p, support, CONFIG), support, asked.x)

    got = torch.func.vmap(moved)(stacked(supports))
    for one, support in zip(got, supports, strict=True):
        torch.testing.assert_close(one, moved(support), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", GRADIENT)
def test_the_gradient_of_a_batch_is_the_mean_of_its_tasks(name: str) -> None:
    tasks = [(support64(0), asked64(0)), (support64(1, y=np.array(SCORES)[:5, :2], clusters=9), asked64(1, rows=6))]
    p, method = params64(name), method_of(name)
    got, loss = outer_slopes(method, p, together(tasks), CONFIG)
    want, losses = {key: torch.zeros_like(value) for key, value in p.items()}, []
    for support, asked in tasks:
        leaves = {key: value.clone().requires_grad_() for key, value in p.items()}
        value = outer_loss(method, leaves, support, asked, CONFIG)
        losses.append(value.item())
        for key, slope in zip(leaves, torch.autograd.grad(value, list(leaves.values()), allow_unused=True), strict=True):
            want[key] += 0 if slope is None else slope / 2
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-9)
    for key, slope in want.items():
        torch.testing.assert_close(got[key], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [*GRADIENT, "reptile"])
def test_many_dimensions_are_condensed_to_those_that_a_task_spans(name: str) -> None:
    tasks = [(support64(0), asked64(0)), (support64(1, y=np.array(SCORES)[:5, :2], clusters=9), asked64(1, rows=6))]
    dim, small = 400, len(tasks[0][0].mean)
    lifts = [
        torch.linalg.qr(torch.randn(dim, small, generator=torch.Generator().manual_seed(n), dtype=torch.float64))[0].T
        for n in (3, 4)
    ]
    lifted = [
        (s._replace(x=s.x @ lift, background=s.background @ lift, mean=s.mean @ lift), t._replace(x=t.x @ lift))
        for (s, t), lift in zip(tasks, lifts, strict=True)
    ]
    p, method = params64(name), method_of(name)
    slim = _condensed(*together(lifted))
    assert len(slim[0].mean[0]) < slim[1].x.shape[2] < dim / 2
    got, loss = outer_slopes(method, p, together(lifted), CONFIG)
    want, true = outer_slopes(method, p, together(tasks), CONFIG)  # of so few dimensions that they stay as they are
    assert loss.item() == pytest.approx(true.item(), rel=1e-7)
    for key, slope in want.items():
        torch.testing.assert_close(got[key], slope, rtol=1e-5, atol=1e-7)


def test_condensed_rows_keep_their_inner_products() -> None:
    rng = np.random.default_rng(0)
    rows = [torch.tensor(rng.normal(size=(2, n, 200)), dtype=torch.float32) for n in (7, 1, 20)]
    rows[0][1, 5:] = 0  # padding
    rows[2][:, 3] = rows[0][:, 2] + rows[1][:, 0]  # some depend on others
    rows[2][:, 4] = rows[2][:, 5]
    found = condensed(rows, last=1)
    assert [part.shape[2] for part in found] == [8, 8, 28]
    whole = torch.cat([torch.nn.functional.pad(part, (0, 28 - part.shape[2])) for part in found], 1)
    every = torch.cat(rows, 1)
    torch.testing.assert_close(whole @ whole.mT, every @ every.mT, rtol=1e-4, atol=1e-3)
    assert not found[0][1, 5:].any()
    assert condensed([part[:, :, :30] for part in rows], last=1)[0].shape == (2, 7, 30)  # no fewer: as they are


def test_what_was_learned_in_fewer_dimensions_is_the_same_in_more() -> None:
    rng = np.random.default_rng(0)
    arrays = [torch.tensor(rng.normal(size=shape)) for shape in ((3, 5), (3,), (3, 5), (3,), (), (5, 5), (5,))]
    memory, mean = widened(Memory(*arrays[:6]), arrays[6], 9)
    x = torch.tensor(rng.normal(size=(4, 5)))
    z = forward(torch, Memory(*arrays[:6]), x)[0]
    wide = forward(torch, memory, torch.nn.functional.pad(x, (0, 4)))[0]
    torch.testing.assert_close(wide, torch.nn.functional.pad(z, (0, 4)))
    assert mean.tolist() == [*arrays[6].tolist(), 0, 0, 0, 0]
    same, _ = widened(memory, mean, 9)
    assert same is memory


# -- each by itself


def centred(support: Support, share: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    out = []
    for rows in (support.x.numpy(), support.background.numpy()):
        moved = rows - share * support.mean.numpy()
        out.append(moved / np.linalg.norm(moved, axis=1, keepdims=True))
    return out[0], out[1]


def sigmoid(x: Tensor) -> float:
    return float(1 / (1 + np.exp(-float(x))))


def by_softmax(x: NDArray[np.float64], logits: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (Q, dim) moved by a softmax of logits (Q, C + 1) over values (C, dim) and nothing at all."""
    w = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    z = x + w[:, :-1] @ values
    return np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


def prototypes_of(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.array([sum(max(score, 0) * row for score, row in zip(column, x, strict=True)) for column in y.T])
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))


def asked_rows(support: Support, share: float) -> tuple[Tensor, NDArray[np.float64]]:
    asked = asked64().x
    moved = asked.numpy() - share * support.mean.numpy()
    return asked, moved / np.linalg.norm(moved, axis=1, keepdims=True)


def test_protonet_against_numpy() -> None:
    support, p = support64(), params64("protonet")
    share = sigmoid(p["c"])
    x, _ = centred(support, share)
    means = prototypes_of(x, support.y.numpy())
    asked, rows = asked_rows(support, share)
    logits = np.concatenate((rows @ means.T / np.exp(float(p["t"])), np.full((len(rows), 1), float(p["b"]))), 1)
    want = by_softmax(rows, logits, float(p["s"]) * means)
    np.testing.assert_allclose(projected(protonet.memory(p, support, CONFIG), support, asked), want, atol=1e-9)


def test_ridge_against_scikit_learn() -> None:
    support, p = support64(), params64("ridge")
    share = sigmoid(p["c"])
    x, _ = centred(support, share)
    model = Ridge(alpha=float(p["lam"].exp()), fit_intercept=False).fit(x, support.y.numpy())
    solved = ridge.solve(torch.tensor(x), support.y, p["lam"].exp())
    np.testing.assert_allclose(solved, model.coef_, atol=1e-10)
    asked, rows = asked_rows(support, share)
    logits = np.concatenate((np.exp(float(p["alpha"])) * model.predict(rows), np.full((len(rows), 1), float(p["b"]))), 1)
    want = by_softmax(rows, logits, float(p["s"]) * prototypes_of(x, support.y.numpy()))
    np.testing.assert_allclose(projected(ridge.memory(p, support, CONFIG), support, asked), want, atol=1e-9)


def softmax_regression(
    x: NDArray[np.float64], target: NDArray[np.float64], weight: NDArray[np.float64], lam: float
) -> NDArray[np.float64]:
    """(K, dim + 1), the intercept last and penalised like the rest, by scikit-learn: a row of doubt is several rows that weigh less."""
    n, k = target.shape
    rows = np.concatenate((x, np.ones((n, 1))), 1)
    model = LogisticRegression(C=1 / lam, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(np.repeat(rows, k, 0), np.tile(np.arange(k), n), sample_weight=(weight[:, None] * target).ravel())
    return np.asarray(model.coef_)


@pytest.mark.parametrize("lam", [0.3, 1.0, 5.0])
def test_logistic_solver_against_scikit_learn(lam: float) -> None:
    rng = np.random.default_rng(0)
    x = unit_rows(rng.normal(size=(30, 5))).astype(np.float64)
    target = rng.dirichlet(np.ones(4), 30)
    weight = rng.uniform(0.2, 1, 30)
    rows, soft, weights, there = (torch.tensor(part) for part in (x, target, weight, np.ones(4)))
    w, b = logistic.solve(rows, soft, weights, there, torch.tensor(lam))
    want = softmax_regression(x, target, weight, lam)
    # sixty steps: what is left of the first error is told by the bound of Nesterov's method, and grows as the penalty falls
    left = np.abs(np.concatenate((w, b[:, None]), 1) - want).max() / np.abs(want).max()
    assert left < (1e-3 if lam < 1 else 1e-5)


def test_logistic_against_numpy() -> None:
    support, p = support64(), params64("logistic")
    share = sigmoid(p["c"])
    x, background = centred(support, share)
    target = np.zeros((15, 4))
    for i, scores in enumerate(support.y.numpy()):
        target[i, :3] = np.maximum(scores, 0)
        target[i, 3] = max(
            0, 1 - target[i, :3].sum()
        )  # a score below one is a doubt; what is judged not to belong belongs nowhere
        target[i] /= target[i].sum()
    target[10:, 3] = 1  # the clusters
    weight = np.concatenate((np.ones(10), np.full(5, np.exp(float(p["w"])))))
    found = softmax_regression(np.concatenate((x, background)), target, weight, float(p["lam"].exp()))
    asked, rows = asked_rows(support, share)
    logits = np.exp(float(p["alpha"])) * (rows @ found[:, :-1].T + found[:, -1])
    logits[:, -1] += float(p["b"])
    want = by_softmax(rows, logits, float(p["s"]) * prototypes_of(x, support.y.numpy()))
    np.testing.assert_allclose(projected(logistic.memory(p, support, CONFIG), support, asked), want, atol=1e-5)


def test_rocchio_against_numpy() -> None:
    support = support64()
    memory = rocchio.memory({}, support, CONFIG)
    x, background = centred(support, 0.0)
    y = support.y.numpy()
    for c in range(3):
        good = sum(max(w, 0) * row for w, row in zip(y[:, c], x, strict=True)) / np.maximum(y[:, c], 0).sum()
        bad = sum(max(-w, 0) * row for w, row in zip(y[:, c], x, strict=True)) / max(np.maximum(-y[:, c], 0).sum(), 1)
        centre = 0.75 * good - 0.15 * bad
        centre /= np.linalg.norm(centre)
        own = np.average(x @ centre, weights=np.maximum(y[:, c], 0))
        threshold = (own + (background @ centre).mean()) / 2
        np.testing.assert_allclose(memory.keys[c], 100 * centre, atol=1e-7)
        np.testing.assert_allclose(memory.values[c], 0.75 * centre, atol=1e-9)
        assert memory.bias[c].item() == pytest.approx(-100 * threshold, rel=1e-8)
    for part in (memory.keys[3], memory.values[3], memory.bias[3], memory.taught[3], memory.share):
        np.testing.assert_array_equal(part, np.zeros_like(part))  # belonging nowhere moves nothing


def test_rocchio_moves_what_is_near_enough_and_nothing_else() -> None:
    x = np.eye(4, dtype=np.float32)
    stats = Statistics(np.zeros(4, np.float32), x[2:], np.ones(2, np.float32))
    head = taught_head("rocchio", Episode(x[:1], np.ones((1, 1), np.float32)), stats)  # the threshold is a cosine of a half
    rows = unit_rows([[0.6, 0.8, 0, 0], [0.4, 0.9, 0, 0], [1, 0, 0, 0]])
    want = unit_rows([[0.6 + 0.75, 0.8, 0, 0], rows[1].astype(np.float64), [1, 0, 0, 0]])
    np.testing.assert_allclose(head.project(rows), want, atol=1e-2)
    np.testing.assert_allclose(head.belonging(rows), np.array([1, 0, 1]), atol=1e-2)


def hand_written_adam(x: Tensor, loss: Any, steps: int, rate: float) -> Tensor:
    change, first, second = (torch.zeros(x.shape[1], x.shape[1]).double() for _ in range(3))
    for step in range(1, steps + 1):
        change.requires_grad_()
        moved = x + x @ change
        slope = torch.autograd.grad(loss(moved / moved.norm(dim=1, keepdim=True), change), change)[0]
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        change = change.detach() - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return change


def loops_contrastive(z: Tensor, y: Tensor) -> Tensor:
    losses = []
    for i in range(len(z)):
        terms, total = [], torch.zeros(()).double()
        for j in range(len(z)):
            if i == j:
                continue
            apart = sum(abs(float(a * b)) for a, b in zip(y[i], y[j], strict=True) if a * b < 0)
            both = sum(float(a * b) for a, b in zip(y[i], y[j], strict=True) if a > 0 and b > 0) - apart
            total = total + (1 + apart) * (z[i] @ z[j] / 0.1).exp()
            terms.append((max(both, 0.0), z[i] @ z[j] / 0.1))
        if sum(w for w, _ in terms) > 0:
            losses.append(sum(w * (total.log() - u) for w, u in terms) / sum(w for w, _ in terms))
    return torch.stack([torch.as_tensor(loss) for loss in losses]).mean()


def loops_triplet(z: Tensor, both: Tensor) -> Tensor:
    total = torch.zeros(()).double()
    for i in range(len(z)):
        against = [z[i] @ z[j] for j in range(len(z)) if j != i and both[i, j] == 0]
        for j in range(len(z)):
            if both[i, j] > 0 and against:
                total = total + both[i, j] * (0.2 + max(against) - z[i] @ z[j]).clamp(min=0)
    return total / both.sum()


def test_the_triplet_loss_in_plain_loops() -> None:
    support = support64()
    both, _ = pairs(support.y)
    assert metric.triplet(support.x, both).item() == pytest.approx(loops_triplet(support.x, both).item(), rel=1e-10)
    assert metric.triplet(support.x, torch.zeros(10, 10)).item() == 0
    assert metric.triplet(support.x[:2], torch.ones(2, 2) - torch.eye(2)).item() == 0  # nobody to keep away from


def test_linear_and_metric_are_adam_on_their_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    support = support64()
    both, _ = pairs(support.y)
    monkeypatch.setattr(linear, "STEPS", 5)
    monkeypatch.setattr(metric, "STEPS", 5)
    asked = asked64().x
    for module, loss in (
        (linear, lambda z, change: loops_contrastive(z, support.y)),
        (metric, lambda z, change: loops_triplet(z, both) + 1e-2 * (change**2).sum()),
    ):
        want = hand_written_adam(support.x, loss, 5, 1e-3)
        memory = module.memory({}, support, CONFIG)
        torch.testing.assert_close(memory.map, want, rtol=1e-6, atol=1e-9)
        moved = asked + asked @ want  # the mean stays in
        torch.testing.assert_close(
            projected(memory, support, asked), moved / moved.norm(dim=1, keepdim=True), rtol=1e-7, atol=1e-8
        )
        assert memory.share == 0
        assert memory.taught.sum() == 0


@pytest.mark.parametrize("name", ["linear", "metric"])
def test_the_loss_falls(name: str) -> None:
    support = support64(dim=8)
    both, _ = pairs(support.y)
    module = {"linear": linear, "metric": metric}[name]

    def loss(z: Tensor) -> float:
        return float(loops_contrastive(z, support.y) if name == "linear" else metric.triplet(z, both))

    after = projected(module.memory({}, support, CONFIG), support, support.x)
    assert loss(after) < loss(support.x) - 0.05


def test_nothing_to_tell_apart_leaves_the_identity() -> None:
    for name in ("linear", "metric"):
        change = taught_head(name, Episode(np.eye(3, dtype=np.float32)[:1], np.ones((1, 1), np.float32)), world(3)[1]).memory.map
        np.testing.assert_array_equal(change, np.zeros((3, 3)))


# -- the set encoder


@pytest.mark.parametrize("seed", range(3))
def test_cnp_does_not_see_the_order(seed: int) -> None:
    support, asked, p = support64(seed), asked64(), params64("cnp", seed, jitter=0.4)
    rng = np.random.default_rng(seed)
    rows, concepts, clusters = (torch.tensor(rng.permutation(n)) for n in (10, 3, 5))
    mixed = support._replace(
        x=support.x[rows],
        y=support.y[rows][:, concepts],
        background=support.background[clusters],
        counts=support.counts[clusters],
    )
    z = projected(cnp.memory(p, support, CONFIG), support, asked.x)
    torch.testing.assert_close(projected(cnp.memory(p, mixed, CONFIG), mixed, asked.x), z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", BATCHED)
def test_no_method_sees_the_dimension(name: str) -> None:
    """In a space of more dimensions, empty ones, everything is as it was."""
    support, asked, p, method = support64(), asked64(), params64(name), method_of(name)

    def wider(x: Tensor) -> Tensor:
        return torch.cat((x, torch.zeros(*x.shape[:-1], 30).double()), -1)

    wide = support._replace(x=wider(support.x), mean=wider(support.mean), background=wider(support.background))
    z = projected(method.memory(p, support, CONFIG), support, asked.x)
    torch.testing.assert_close(projected(method.memory(p, wide, CONFIG), wide, wider(asked.x)), wider(z), rtol=1e-7, atol=1e-8)


def test_cnp_reads_cosines_against_plain_loops() -> None:
    support = support64()
    facts = facts_of(support, torch.tensor(0.3).double())
    rest, elsewhere, cluster = cnp._read(support, facts)
    x, y, m = facts.x.numpy(), facts.positive.numpy(), facts.background.numpy()
    means = prototypes_of(x, y)
    for i in range(10):
        for c in range(3):
            others = sum(y[j, c] * x[j] for j in range(10) if j != i)
            if y[:, c].sum() - y[i, c] > 1e-3:
                assert rest[i, c].item() == pytest.approx(x[i] @ others / np.linalg.norm(others), abs=1e-9)
            else:
                assert rest[i, c].item() == pytest.approx(facts.tightness[c].item())
            strangers = [x[i] @ means[k] for k in range(3) if y[i, k] == 0]
            assert elsewhere[i, c].item() == pytest.approx(max(strangers), abs=1e-9)
            assert cluster[i, c].item() == pytest.approx(max(x[i] @ m.T), abs=1e-9)


def test_cnp_begins_as_a_head_of_prototypes() -> None:
    support, p = support64(), params64("cnp", jitter=0)
    keys = cnp.memory(p, support, CONFIG).keys[:3] * p["t"].exp()
    x, _ = centred(support, 0.5)
    np.testing.assert_allclose(keys, prototypes_of(x, support.y.numpy()), atol=1e-9)


def test_cnp_weights_rows_within_a_concept() -> None:
    support, p = support64(), params64("cnp", jitter=0.5)
    keys = cnp.memory(p, support, CONFIG).keys[:3]
    x, _ = centred(support, sigmoid(p["c"]))
    weights = np.linalg.lstsq(x[[0, 1, 2, 5]].T, keys[0].numpy(), rcond=None)
    np.testing.assert_allclose(x[[0, 1, 2, 5]].T @ weights[0], keys[0], atol=1e-8)  # a mixture of its positives alone
    assert (weights[0] > 0).all()


# -- speed, devices, kinds of memory


def test_adapting_is_quick() -> None:
    rng = np.random.default_rng(0)
    x = unit_rows(np.repeat(rng.normal(size=(20, 384)), 5, 0) + rng.normal(size=(100, 384)))
    y = np.eye(20, dtype=np.float32).repeat(5, 0)
    stats = Statistics(np.zeros(384, np.float32), unit_rows(rng.normal(size=(225, 384))), np.ones(225, np.float32))
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        taught_head("maml", Episode(x, y), stats)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.0  # 0.06 s on an idle core; the bound leaves room for a busy machine


@pytest.mark.parametrize("name", NAMES)
def test_memories_are_single_precision_numpy(name: str) -> None:
    x, stats = world()
    head = taught_head(name, Episode(x[:3], np.ones((3, 1), np.float32)), stats)
    assert isinstance(head.memory, Memory)
    for part in head.memory:
        assert part is None or (isinstance(part, np.ndarray) and part.dtype == np.float32)
    assert (head.memory.map is not None) == (name in ("linear", "metric"))


def test_a_penalty_in_the_logistic_start_is_felt() -> None:
    support, asked = support64(), asked64()
    moved = []
    for lam in (-2.0, 6.0):
        p = {**params64("logistic", jitter=0), "lam": torch.tensor(lam).double()}
        memory = logistic.memory(p, support, CONFIG)
        moved.append(float(memory.keys.norm()))
        assert torch.isfinite(projected(memory, support, asked.x)).all()
    assert moved[0] > 5 * moved[1]
