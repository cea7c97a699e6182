"""Adaptation and meta-training, against loops written by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vecmeta.errors import Cancelled, InvalidConfig, InvalidVector
from vecmeta.meta.episodes import Episode, Notion, Statistics, sample_task, statistics
from vecmeta.meta.maml import (
    adapt,
    average_precision,
    contrastive,
    draw_rows,
    inner_loop,
    meta_train,
    one_thread,
    outer_loss,
    pairs,
    prototypes,
    score,
)
from vecmeta.meta.start import MetaConfig, Start, initial_start, load_start
from vecmeta.types import Vectors

START = load_start()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def unit_rows(x: Any) -> Vectors:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32)


def nuisance(classes: int = 30, per_class: int = 20, dim: int = 64, seed: int = 0) -> tuple[Vectors, np.ndarray[Any, Any]]:
    """Clusters that two strong directions, unrelated to the class, stretch apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    x = rng.normal(size=(classes, dim))[labels] + 1.4 * rng.normal(size=(len(labels), dim))
    x[:, :2] += 3 * rng.normal(size=(len(labels), 2))
    return unit_rows(x), labels


def taught(labels: np.ndarray[Any, Any], concepts: list[int], shots: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows = np.concatenate([np.flatnonzero(labels == c)[:shots] for c in concepts])
    return rows, (labels[rows][:, None] == np.array(concepts)[None]).astype(np.float32)


def one_hot(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.eye(labels.max() + 1, dtype=np.float32)[labels])


def quality(z: Vectors, labels: np.ndarray[Any, Any], concepts: list[int]) -> float:
    keep = np.isin(labels, concepts)
    return average_precision(z[keep], one_hot(labels[keep]))


# the hand-written loop: its own formula, its own loss, torch.autograd.grad(create_graph=True)


def by_hand(s: dict[str, Tensor], rates: Tensor, x: Tensor, y: Tensor, background: Tensor) -> list[Tensor]:
    def head(p: list[Tensor], rows: Tensor) -> Tensor:
        k, v, dw = p
        keys = k / k.norm(dim=1, keepdim=True)
        near, far = rows @ keys.T / s["t"].exp(), rows @ background.T / s["t"].exp()
        w = torch.cat([near, far + s["b"] - s["r"] * torch.tensor(float(len(background))).log()], 1).softmax(1)
        g, a = w[:, : len(k)].sum(1, keepdim=True), s["a"].sigmoid()
        z = rows + (a + (1 - a) * g) * (rows @ dw) + s["s"] * w[:, : len(k)] @ v + s["s_b"] * w[:, len(k) :] @ background
        return F.normalize(z, dim=1)

    def loss(p: list[Tensor]) -> Tensor:
        z, far, tau = head(p, x), head(p, background), s["tau_in"].exp()
        losses = []
        for i in range(len(x)):
            below, weights, above = [], [], []
            for j in range(len(x)):
                if i == j:
                    continue
                plus = sum(max(float(a * b), 0.0) for a, b in zip(y[i], y[j], strict=True) if a > 0 and b > 0)
                minus = sum(abs(float(a * b)) for a, b in zip(y[i], y[j], strict=True) if a * b < 0)
                below.append((1 + s["neg"].exp() * minus) * (z[i] @ z[j] / tau).exp())
                weights.append(max(plus - minus, 0.0))
                above.append(z[i] @ z[j] / tau)
            total = torch.stack(below).sum() + sum((z[i] @ m / tau + s["far"]).exp() for m in far)
            if sum(weights) > 0:
                losses.append(sum(w * (total.log() - u) for w, u in zip(weights, above, strict=True)) / sum(weights))
        return torch.stack([torch.as_tensor(value) for value in losses]).mean()

    prototype = y.clamp(min=0).T @ x
    prototype = prototype / prototype.norm(dim=1, keepdim=True)
    p = [prototype, prototype.clone(), torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)]
    for step in range(rates.shape[1]):
        p = [w if w.requires_grad else w.requires_grad_() for w in p]
        slopes = torch.autograd.grad(loss(p), p, create_graph=True)
        scale = (y.shape[1], y.shape[1], 1)
        p = [w - rates[i, step].exp() * scale[i] * slope for i, (w, slope) in enumerate(zip(p, slopes, strict=True))]
    return p


def small_problem() -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    begin = initial_start(MetaConfig(inner_steps=2))
    scalars = {
        name: torch.tensor(float(value) + 0.1 * rng.normal(), dtype=torch.float64) for name, value in begin.scalars.items()
    }
    x = torch.tensor(unit_rows(rng.normal(size=(8, 6)))).double()
    y = torch.tensor([[1, 0], [0.5, 0], [1, -1], [0, 1], [0, 1], [1, 1], [-1, 1], [0, -0.5]], dtype=torch.float64)
    return scalars, torch.full((3, 2), -1.5).double(), x, y, torch.tensor(unit_rows(rng.normal(size=(3, 6)))).double()


def test_inner_loop_and_its_second_order_against_the_hand_written_one() -> None:
    scalars, rates, x, y, background = small_problem()
    leaves = {name: value.requires_grad_() for name, value in scalars.items()}
    rates.requires_grad_()
    got = inner_loop(leaves, rates, x, y, background, 100, np.random.default_rng(0))
    want = by_hand(leaves, rates, x, y, background)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    probe = [torch.tensor(np.random.default_rng(i).normal(size=w.shape)) for i, w in enumerate(want)]
    inputs = [rates, *(leaves[name] for name in ("t", "b", "r", "a", "s", "s_b", "tau_in", "neg", "far"))]
    slopes = [torch.autograd.grad(sum((w * q).sum() for w, q in zip(fast, probe, strict=True)), inputs) for fast in (got, want)]
    for a, b in zip(*slopes, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("queries", [False, True])
def test_outer_gradient_against_finite_differences(queries: bool) -> None:
    rng = np.random.default_rng(1)
    x = unit_rows(np.repeat(rng.normal(size=(5, 6)), 14, 0) + 0.8 * rng.normal(size=(70, 6)))
    notion = Notion("toy", x, [np.arange(14) + 14 * c for c in range(5)])
    config = MetaConfig(inner_steps=2, rows_per_class=3)
    task = sample_task(notion, config, rng, ways=2, shots=2, queries=queries)
    scalars, rates, *_ = small_problem()
    stats = statistics(task.collection, initial_start(config), len(task.collection))
    leaves = {name: value.requires_grad_() for name, value in scalars.items()}
    outer_loss(leaves, rates.requires_grad_(), task, stats, config).backward()  # type: ignore[no-untyped-call]
    step = 1e-5
    for name, leaf in leaves.items():
        ends = [outer_loss({**leaves, name: leaf.detach() + d}, rates, task, stats, config).item() for d in (step, -step)]
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8), name
    for i, k in ((0, 0), (1, 1), (2, 0), (2, 1)):
        bump = torch.zeros_like(rates)
        bump[i, k] = step
        ends = [outer_loss(leaves, rates.detach() + d, task, stats, config).item() for d in (bump, -bump)]
        assert rates.grad is not None
        assert rates.grad[i, k].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_prototypes_and_pairs_against_numpy() -> None:
    _, _, x, y, _ = small_problem()
    want = np.stack([sum(max(weight, 0) * row for weight, row in zip(column, x.numpy(), strict=True)) for column in y.numpy().T])
    np.testing.assert_allclose(prototypes(x, y).numpy(), want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-9)
    together, apart = (m.numpy() for m in pairs(y))
    np.testing.assert_array_equal(np.diag(together), 0)
    assert together[0, 1] == 0.5  # graded
    assert (together[0, 6], apart[0, 6]) == (0, 1)  # a real negative
    assert (together[2, 5], apart[2, 5]) == (0, 1)  # told apart by one concept, together by another
    np.testing.assert_array_equal(apart, apart.T)


def test_contrastive_against_plain_loops() -> None:
    rng = np.random.default_rng(2)
    z, far = unit_rows(rng.normal(size=(6, 4))), rng.normal(size=(6, 2)).astype(np.float32)
    together = np.array(
        [[0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0.5, 2, 0], [0, 0, 0.5, 0, 1, 0], [0, 0, 2, 1, 0, 0], [0] * 6]
    )
    boost = np.abs(rng.normal(size=(6, 6))).astype(np.float32)
    anchors = np.array([True, False, True, True, True, True])
    losses = []
    for i in range(5):
        if anchors[i]:
            total = sum(np.exp(z[i] @ z[j] / 0.2 + boost[i, j]) for j in range(6) if j != i) + np.exp(far[i]).sum()
            terms = [-together[i, j] * (z[i] @ z[j] / 0.2 - np.log(total)) for j in range(6)]
            losses.append(sum(terms) / together[i].sum())
    got = contrastive(
        torch.from_numpy(z), torch.tensor(together).float(), torch.tensor(0.2),
        boost=torch.from_numpy(boost), far=torch.from_numpy(far), anchors=torch.from_numpy(anchors),
    )  # fmt: skip
    assert got.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert contrastive(torch.from_numpy(z), torch.zeros(6, 6), torch.tensor(0.2)).item() == 0


def test_two_adaptations_give_equal_bytes() -> None:
    x, labels = nuisance()
    rows, y = taught(labels, [0, 1, 2], 5)
    heads = [adapt(START, Episode(x[rows], y), statistics(x, START, len(x), 3)) for _ in range(2)]
    assert heads[0].to_bytes() == heads[1].to_bytes()
    assert heads[0].provenance == {"start": START.hash}


def test_taught_concepts_gain_and_untaught_keep() -> None:
    gains = []
    for seed in range(3):
        x, labels = nuisance(seed=seed)
        fed, unfed = list(range(8)), list(range(8, 30))
        rows, y = taught(labels, fed, 5)
        head = adapt(START, Episode(x[rows], y), statistics(x, START, len(x)))
        rest = np.setdiff1d(np.arange(len(x)), rows)
        z, base, kept = head.project(x)[rest], x[rest], labels[rest]
        gains.append([quality(z, kept, group) - quality(base, kept, group) for group in (fed, unfed)])
        assert head.belonging(x)[np.isin(labels, fed)].mean() > head.belonging(x)[np.isin(labels, unfed)].mean() + 0.2
    fed_gain, unfed_gain = np.mean(gains, 0)
    assert fed_gain > 0.1
    assert unfed_gain > -0.02


@pytest.mark.parametrize("shots", [1, 5])
def test_a_single_concept(shots: int) -> None:
    x, labels = nuisance()
    rows, y = taught(labels, [4], shots)
    head = adapt(START, Episode(x[rows], y), statistics(x, START, len(x)))
    rest = np.setdiff1d(np.arange(len(x)), rows)
    target = (labels[rest] == 4).astype(np.float32)[:, None]
    assert np.isfinite(head.project(x)).all()
    assert average_precision(head.project(x)[rest], target) >= average_precision(x[rest], target)
    assert quality(head.project(x)[rest], labels[rest], list(range(30))) > quality(x[rest], labels[rest], list(range(30))) - 0.02


def test_negatives_push_away() -> None:
    x, labels = nuisance()
    rows, y = taught(labels, [0, 1], 4)
    wrong = np.flatnonzero(labels == 2)[:3]
    everything, unsaid = np.concatenate((rows, wrong)), np.concatenate((y, np.zeros((3, 2), np.float32)))
    said = unsaid.copy()
    said[-3:, 0] = -1
    stats = statistics(x, START, len(x))
    near = []
    for judged in (said, unsaid):
        z = adapt(START, Episode(x[everything], judged), stats).project(x)
        near.append(float((z[wrong] @ z[rows[:4]].T).mean()))
    assert near[0] < near[1]


def test_one_thing_in_several_concepts_and_columns_without_positives() -> None:
    x, labels = nuisance()
    rows, y = taught(labels, [0, 1, 2], 4)
    y[:4, 1] = 1  # the first concept's things belong to the second as well
    stats = statistics(x, START, len(x))
    head = adapt(START, Episode(x[rows], y), stats)
    z = head.project(x)
    assert head.concepts == 3
    assert (z[rows[:4]] @ z[rows[4:8]].T).mean() > (z[rows[:4]] @ z[rows[8:]].T).mean()
    padded = np.concatenate((y, -np.eye(len(y), 2, dtype=np.float32)), 1)
    padded[:2, 3:] = 0
    assert adapt(START, Episode(x[rows], padded), stats).concepts == 3


def test_thousands_of_judgements() -> None:
    x, labels = nuisance(classes=120, per_class=50)
    rows, y = taught(labels, list(range(120)), 40)
    begin = time.perf_counter()
    head = adapt(START, Episode(x[rows], y), statistics(x, START, len(x)))
    assert time.perf_counter() - begin < 20
    assert head.concepts == 120
    rest = np.setdiff1d(np.arange(len(x)), rows)
    assert quality(head.project(x)[rest], labels[rest], list(range(120))) > quality(x[rest], labels[rest], list(range(120)))


def test_drawn_rows_are_balanced_and_come_in_pairs() -> None:
    y = np.zeros((3000, 3), np.float32)
    y[:2900, 0] = y[2900:2990, 1] = y[2990:, 2] = 1
    y[2990:2995, 0] = -1
    drawn = draw_rows(y, 300, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn.tolist())) <= 300
    counts = (y[drawn] > 0).sum(0)
    assert counts[0] <= 101
    assert counts[1] == 90
    assert counts[2] == 10
    many = draw_rows(np.eye(1000, dtype=np.float32).repeat(5, 0), 200, np.random.default_rng(0))
    assert len(many) <= 200
    sizes = np.bincount(many // 5)
    assert (sizes[sizes > 0] >= 2).mean() > 0.9


def test_adapt_is_quick() -> None:
    rng = np.random.default_rng(0)
    x = unit_rows(np.repeat(rng.normal(size=(20, 384)), 5, 0) + rng.normal(size=(100, 384)))
    y = np.eye(20, dtype=np.float32).repeat(5, 0)
    stats = Statistics(np.zeros(384, np.float32), unit_rows(rng.normal(size=(225, 384))))
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        adapt(START, Episode(x, y), stats)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.0  # 0.06 s on an idle core; the bound leaves room for a busy machine


def test_the_threads_of_the_process_stay_as_they_were() -> None:
    torch.set_num_threads(2)
    x, labels = nuisance(4, 10)
    rows, y = taught(labels, [0, 1], 3)
    adapt(START, Episode(x[rows], y), statistics(x, START, len(x)))
    assert torch.get_num_threads() == 2


def test_dimensions_must_agree() -> None:
    x, labels = nuisance(4, 10)
    rows, y = taught(labels, [0, 1], 3)
    with pytest.raises(InvalidVector, match="dimension"):
        adapt(START, Episode(x[rows], y), statistics(x[:, :20], START, len(x)))


def test_average_precision_by_hand() -> None:
    z = unit_rows(np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]]))
    y = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
    assert average_precision(z, y) == 0  # R = 1, and the nearest of both is the stranger
    assert average_precision(z, np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)) == 1
    assert np.isnan(average_precision(z, np.eye(4, dtype=np.float32)))


# meta-training


def toy_notions() -> list[Notion]:
    x, labels = nuisance(classes=12, per_class=24, dim=24)
    return [Notion("toy", x, [np.flatnonzero(labels == c) for c in range(12)])]


TOY = MetaConfig(inner_steps=2, outer_steps=8, batch=2, ways_most=4, validate_every=4, learning_rate=0.05)


def test_meta_training_lowers_the_outer_loss_and_repeats_itself() -> None:
    notions = toy_notions()
    seen: list[tuple[str, int, int]] = []
    start = meta_train(notions, TOY, lambda *now: seen.append(now), validation=notions)
    again = meta_train(notions, TOY, validation=notions)
    assert start.hash == again.hash
    assert start.hash != initial_start(TOY).hash
    assert seen == [("meta-train", step, 8) for step in range(1, 9)]
    trained = meta_train(notions, TOY)
    tasks = [sample_task(notions[0], TOY, np.random.default_rng(seed), ways=4, shots=4) for seed in range(40, 46)]
    assert loss_of(trained, tasks) < loss_of(initial_start(TOY), tasks)
    assert [look["step"] for look in start.provenance["validation"]] == [4, 8]
    assert start.provenance["best_step"] in (4, 8)


def loss_of(start: Start, tasks: list[Any]) -> float:
    scalars = {name: torch.tensor(float(value)) for name, value in start.scalars.items()}
    rates = torch.tensor(start.rates)
    stats = [statistics(task.collection, start, len(task.collection)) for task in tasks]
    return sum(outer_loss(scalars, rates, task, s, TOY).item() for task, s in zip(tasks, stats, strict=True))


def test_meta_training_stops_early_and_can_be_cancelled() -> None:
    notions = toy_notions()
    hopeless = replace(TOY, learning_rate=1e-9, patience=1, outer_steps=60, validate_every=2)
    assert len(meta_train(notions, hopeless, validation=notions).provenance["validation"]) <= 4

    def stop(stage: str, done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        meta_train(notions, TOY, stop)
    with pytest.raises(InvalidConfig, match="notion"):
        meta_train([], TOY)
    with pytest.raises(InvalidConfig, match="held-out"):
        score(START, [])
