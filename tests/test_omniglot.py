"""Few-shot learners against finite differences, loops written by hand and numpy; and the benchmark that compares them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import typer
from torch import Tensor
from typer.testing import CliRunner

import vecmeta as vm
from vecmeta.bench import omniglot
from vecmeta.cli.app import GreedyCommand, verb
from vecmeta.cli.bench_omniglot import bench_omniglot
from vecmeta.meta import fewshot, fourconv
from vecmeta.meta.fewshot import RECIPES, Draw, Images, Name, Recipe
from vecmeta.meta.fourconv import Params
from vecmeta.meta.threads import one_thread

DATA = Path(os.environ.get("VECMETA_DATA_SETS", Path(__file__).parent.parent.parent / "shared" / "data"))
WAYS, SHOTS, QUERIES, STEPS, SIDE = 3, 2, 3, 2, 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def tiny(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Params, Params]:
    """A network of two blocks with four channels, whose last layer is not zero, and its log rates for two steps."""
    params = fourconv.initial_params(WAYS, channels=4, blocks=2, side=SIDE, seed=seed, dtype=dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    params |= {name: params[name] + 0.3 * torch.randn(params[name].shape, generator=generator, dtype=dtype) for name in params}
    return params, {name: torch.tensor([-1.5, -2.0], dtype=dtype) for name in params}


def batch(episodes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    pictures = torch.rand(
        episodes, WAYS, SHOTS + QUERIES, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return pictures[:, :, :SHOTS], pictures[:, :, SHOTS:]


def labels(count: int) -> Tensor:
    return torch.arange(WAYS).repeat_interleave(count)


# The same network and inner loop written another way: torch.autograd.grad, batch norm spelled out, one episode at a time.


def features_by_hand(params: Params, images: Tensor) -> Tensor:
    x = images.unsqueeze(1)
    for block in range(2):
        x = F.conv2d(x, params[f"conv{block}.weight"], stride=2, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * params[f"norm{block}.weight"].view(1, -1, 1, 1) + params[f"norm{block}.bias"].view(1, -1, 1, 1)
        x = x.clamp(min=0)
    return x.reshape(len(x), -1)


def by_hand(params: Params, images: Tensor) -> Tensor:
    return F.linear(features_by_hand(params, images), params["head.weight"].T, params["head.bias"])


def adapted_by_hand(params: Params, rates: Params, support: Tensor, steps: int, create_graph: bool) -> Params:
    fast = dict(params)
    for step in range(steps):
        loss = F.cross_entropy(by_hand(fast, support.reshape(-1, SIDE, SIDE)), labels(support.shape[1]))
        slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=create_graph)
        fast = {k: w - rates[k][step].exp() * slope for (k, w), slope in zip(fast.items(), slopes, strict=True)}
    return fast


def outer_by_hand(params: Params, rates: Params, support: Tensor, query: Tensor, create_graph: bool) -> Tensor:
    losses = []
    for s, q in zip(support, query, strict=True):
        fast = adapted_by_hand(params, rates, s, STEPS, create_graph)
        losses.append(F.cross_entropy(by_hand(fast, q.reshape(-1, SIDE, SIDE)), labels(QUERIES)))
    return torch.stack(losses).mean()


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def directional(loss: Callable[[Params, Params], Tensor], params: Params, rates: Params, d: list[Tensor]) -> float:
    """The slope along d by central differences of the fourth order."""

    def at(h: float) -> float:
        moved = [w + h * v for w, v in zip([*params.values(), *rates.values()], d, strict=True)]
        return float(
            loss(
                dict(zip(params, moved[: len(params)], strict=True)), dict(zip(rates, moved[len(params) :], strict=True))
            ).detach()
        )

    h = 1e-5  # small: a ReLU's corner that is stepped over would count
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


@pytest.mark.parametrize("method", ["maml", "anil", "protonet"])
def test_the_outer_gradient_is_that_of_finite_differences(method: Name) -> None:
    params, rates = tiny()
    support, query = batch(2)

    def loss(p: Params, r: Params) -> Tensor:
        return fewshot.outer_loss(method, p, r, support, query, STEPS)

    slopes, value = fewshot.outer_slopes(method, params, rates, support, query, STEPS)
    assert value == pytest.approx(float(loss(params, rates)))
    generator = torch.Generator().manual_seed(9)
    for _ in range(2):
        d = [torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in slopes]
        wanted = directional(loss, params, rates, d)
        assert float(sum((s * v).sum() for s, v in zip(slopes, d, strict=True))) == pytest.approx(wanted, rel=1e-5)


def test_maml_is_the_second_order_loop_written_by_hand() -> None:
    params, rates = tiny()
    support, query = batch(3)
    leaves = {k: w.clone().requires_grad_() for k, w in params.items()}
    log_rates = {k: w.clone().requires_grad_() for k, w in rates.items()}
    wanted = torch.autograd.grad(outer_by_hand(leaves, log_rates, support, query, True), [*leaves.values(), *log_rates.values()])
    slopes, _ = fewshot.outer_slopes("maml", params, rates, support, query, STEPS)
    assert error(torch.cat([s.flatten() for s in slopes]), torch.cat([s.flatten() for s in wanted])) < 1e-9


def test_first_order_takes_the_slope_where_the_inner_loop_ended() -> None:
    params, rates = tiny()
    support, query = batch(3)
    total = {k: torch.zeros_like(w) for k, w in params.items()}
    for s, q in zip(support, query, strict=True):
        leaves = {k: w.clone().requires_grad_() for k, w in params.items()}
        fast = {k: w.detach().requires_grad_() for k, w in adapted_by_hand(leaves, rates, s, STEPS, create_graph=False).items()}
        loss = F.cross_entropy(by_hand(fast, q.reshape(-1, SIDE, SIDE)), labels(QUERIES))
        for k, slope in zip(fast, torch.autograd.grad(loss, list(fast.values())), strict=True):
            total[k] += slope / len(support)
    slopes, _ = fewshot.outer_slopes("fomaml", params, rates, support, query, STEPS)
    second, _ = fewshot.outer_slopes("maml", params, rates, support, query, STEPS)
    for k, slope in zip(total, slopes, strict=False):
        assert error(slope, total[k]) < 1e-9
    assert error(slopes[0], second[0]) > 1e-2  # and that is another slope than the second-order one


def test_anil_leaves_the_body_alone() -> None:
    params, rates = tiny()
    support, query = (part[0] for part in batch(1))
    both = features_by_hand(params, torch.cat((support.reshape(-1, SIDE, SIDE), query.reshape(-1, SIDE, SIDE))))
    weight, bias = params["head.weight"].clone(), params["head.bias"].clone()
    known = both[: WAYS * SHOTS]
    for step in range(STEPS):
        wrong = (torch.softmax(known @ weight + bias, 1) - F.one_hot(labels(SHOTS), WAYS)) / len(known)
        rate = rates["head.weight"][step].exp()
        weight, bias = weight - rate * known.T @ wrong, bias - rate * wrong.sum(0)
    found = fewshot.anil_logits(params, rates, support, query, STEPS)
    torch.testing.assert_close(found, both[WAYS * SHOTS :] @ weight + bias)
    slopes, _ = fewshot.outer_slopes("anil", params, rates, *batch(1), STEPS)
    body = [slope for name, slope in zip(rates, slopes[len(params) :], strict=True) if name not in fourconv.HEAD]
    assert not torch.stack(body).any()


def test_reptile_moves_towards_where_plain_training_ends() -> None:
    params, rates = tiny()
    rates = {k: w[:1] for k, w in rates.items()}
    pictures = torch.cat(batch(2), dim=2)[:, :, :4]  # two steps of two pictures per class
    total = {k: torch.zeros_like(w) for k, w in params.items()}
    for episode in pictures:
        fast = {k: w.clone().requires_grad_() for k, w in params.items()}
        for part in (episode[:, :2], episode[:, 2:]):
            moved = adapted_by_hand(fast, rates, part, 1, create_graph=False)
            fast = {k: w.detach().requires_grad_() for k, w in moved.items()}
        total = {k: v + (fast[k].detach() - params[k]) / 2 for k, v in total.items()}
    slopes = fewshot.reptile_slopes(params, rates, pictures, steps=2)
    for k, slope in zip(params, slopes, strict=True):
        assert error(-slope, total[k]) < 1e-9

    recipe = Recipe(rate=0.2, steps=2, test_steps=2, outer=0.5, batch=2, queries=2)
    drawn = pictures.numpy().astype(np.float32)
    learner = fewshot.train(
        "reptile", lambda *_: drawn, [2], ways=WAYS, episodes=2, recipe=recipe, channels=4, blocks=2, side=SIDE
    )
    begin = fourconv.initial_params(WAYS, channels=4, blocks=2, side=SIDE)
    towards = fewshot.reptile_slopes(begin, fewshot.initial_rates(begin, recipe), torch.from_numpy(drawn), 2)
    for (k, w), slope in zip(begin.items(), towards, strict=True):
        torch.testing.assert_close(learner.params[k], w - 0.5 * slope)


def test_prototypes_are_those_of_numpy() -> None:
    params, _ = tiny()
    support, query = (part[0] for part in batch(1))
    x = features_by_hand(params, torch.cat((support.reshape(-1, SIDE, SIDE), query.reshape(-1, SIDE, SIDE)))).numpy()
    means = np.stack([x[c * SHOTS : (c + 1) * SHOTS].mean(0) for c in range(WAYS)])
    wanted = [[-np.sum((row - mean) ** 2) for mean in means] for row in x[WAYS * SHOTS :]]
    np.testing.assert_allclose(fewshot.proto_logits(params, support, query).numpy(), wanted, rtol=1e-9)


@pytest.mark.parametrize("method", RECIPES)
def test_a_batch_is_its_episodes_one_by_one(method: Name) -> None:
    params, rates = tiny()
    support, query = batch(3)
    together = fewshot.outer_loss(method, params, rates, support, query, STEPS)
    alone = [
        F.cross_entropy(fewshot.logits(method, params, rates, s, q, STEPS), labels(QUERIES))
        for s, q in zip(support, query, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    if method == "reptile":
        at_once = fewshot.reptile_slopes(params, rates, query, STEPS)
        each = [fewshot.reptile_slopes(params, rates, q[None], STEPS) for q in query]
        for k, slope in enumerate(at_once):
            torch.testing.assert_close(slope, torch.stack([e[k] for e in each]).mean(0))


def test_the_network_has_the_papers_shapes() -> None:
    params = fourconv.initial_params(5)
    assert fourconv.embed(params, torch.rand(7, 28, 28)).shape == (7, 256)
    assert fourconv.classify(params, torch.rand(7, 28, 28)).shape == (7, 5)
    assert params["conv3.weight"].shape == (64, 64, 3, 3)
    with pytest.raises(vm.InvalidConfig, match="at least 1"):
        fourconv.initial_params(0)


# learning


def toy_classes(count: int, seed: int) -> Images:
    """Random pictures, each with 20 noisy drawings: (count, 20, 8, 8)."""
    rng = np.random.default_rng(seed)
    ideal = (rng.random((count, 1, SIDE, SIDE)) < 0.4).astype(np.float32)
    return np.asarray(ideal + 0.7 * rng.standard_normal((count, 20, SIDE, SIDE)), np.float32)


def toy_draw(seed: int = 0) -> Draw:
    classes, rng = toy_classes(40, 0), np.random.default_rng(seed)
    return lambda episodes, ways, pictures: omniglot.draw(classes, rng, episodes, ways, pictures)


def short(method: Name, episodes: int, **more: Any) -> fewshot.Learner:
    recipe = replace(RECIPES[method], batch=4, ways=None)
    return fewshot.train(
        method, toy_draw(), (1, 3), ways=3, episodes=episodes, recipe=recipe, channels=16, blocks=2, side=SIDE, **more
    )


@pytest.mark.parametrize("method", RECIPES)
def test_a_short_training_beats_chance(method: Name) -> None:
    learner = short(method, 120)
    test = omniglot.draw(toy_classes(20, 1), np.random.default_rng(2), 60, 3, 8)
    right = learner.accuracies(test, 3)
    assert right.shape == (60,)
    assert right.mean() > 1 / 3 + 0.2
    assert learner.episodes == 120
    assert len(learner.losses) == (0 if method == "reptile" else 20)


@pytest.mark.parametrize("method", ["maml", "reptile"])
def test_the_same_seed_gives_the_same_learner(method: Name) -> None:
    one, two, other = (short(method, 8, seed=seed).params for seed in (0, 0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["conv0.weight"], other["conv0.weight"])


def test_training_can_be_stopped_and_is_told_about() -> None:
    told: list[tuple[str, int, int]] = []

    def progress(*news: Any) -> None:
        told.append(news)
        if len(told) == 2:
            raise vm.Cancelled

    threads = torch.get_num_threads()
    with pytest.raises(vm.Cancelled):
        short("anil", 12, progress=progress)
    assert told == [("anil", 4, 12), ("anil", 8, 12)]
    assert torch.get_num_threads() == threads


def test_a_budget_in_seconds_is_kept() -> None:
    recipe = replace(RECIPES["protonet"], batch=1, ways=None)
    learner = fewshot.train("protonet", toy_draw(), [1], ways=3, seconds=0.2, recipe=recipe, channels=4, blocks=2, side=SIDE)
    assert learner.seconds >= 0.2
    assert learner.episodes >= 1  # the first update also loads what torch.func needs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sgd", "episodes": 1}, "no method 'sgd'"),
        ({"method": "maml"}, "a budget"),
        ({"method": "maml", "episodes": 1, "seconds": 1.0}, "a budget"),
        ({"method": "maml", "episodes": 0}, "above 0"),
        ({"method": "maml", "episodes": 1, "shots": [0]}, "above 0"),
    ],
)
def test_what_cannot_be_trained_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=message):
        fewshot.train(draw=toy_draw(), **{"shots": [1], **arguments})


def test_a_test_needs_queries() -> None:
    learner = short("protonet", 4)
    with pytest.raises(vm.InvalidConfig, match="leave none to ask with"):
        learner.accuracies(omniglot.draw(toy_classes(5, 0), np.random.default_rng(0), 2, 3, 3), 3)


# the benchmark


def made_up(folder: Path, characters: int = 6, alphabets: list[str] | None = None) -> Path:
    """A folder like the real one: in every drawing a line of ink at the height of its character."""
    names = [name for part in omniglot.SPLIT.values() for name in part] if alphabets is None else alphabets
    drawings = np.ones((len(names), characters, 20, 105, 105), np.uint8)
    for character in range(characters):
        drawings[:, character, :, 10 + 15 * character : 14 + 15 * character] = 0
    label = [f"{name}/{character}" for name in names for character in range(characters) for _ in range(20)]
    (folder / "omniglot_small").mkdir()
    np.savez(
        folder / "omniglot_small" / "data.npz",
        image=np.packbits(drawings.reshape(-1, 105, 105), axis=-1),
        label=np.array(label),
        alphabet=np.array([text.partition("/")[0] for text in label]),
        shape=np.array([len(label), 105, 105]),
    )
    return folder


def test_the_split_has_disjoint_alphabets() -> None:
    members = [set(part) for part in omniglot.SPLIT.values()]
    assert sum(map(len, members)) == len(set().union(*members)) == 8


def test_pictures_are_small_and_ink_is_one(tmp_path: Path) -> None:
    parts = omniglot.read(made_up(tmp_path))
    assert {part: pictures.shape for part, pictures in parts.items()} == {
        "train": (30, 20, 28, 28), "validation": (6, 20, 28, 28), "test": (12, 20, 28, 28)
    }  # fmt: skip
    first = parts["test"][0, 0]
    assert first.dtype == np.float32
    assert first[3, 14] > 0.7  # the line of the first character is at the height 12 of 105
    assert first[14, 14] < 0.01
    turned = omniglot.with_rotations(parts["test"])
    assert turned.shape == (48, 20, 28, 28)
    np.testing.assert_array_equal(turned[12, 0], np.rot90(first))


def test_episodes_have_different_classes_and_drawings() -> None:
    classes = np.arange(7 * 20, dtype=np.float32).reshape(7, 20, 1, 1)
    drawn = omniglot.draw(classes, np.random.default_rng(0), 50, 5, 20)
    assert drawn.shape == (50, 5, 20, 1, 1)
    for episode in drawn[..., 0, 0]:
        assert len(np.unique(episode)) == 100
        assert len(np.unique(episode // 20)) == 5
        assert (episode // 20 == episode[:, :1] // 20).all()


def test_the_benchmark_runs_and_repeats(tmp_path: Path) -> None:
    folder = made_up(tmp_path)
    told: list[str] = []
    facts, again = (
        omniglot.run(folder, methods=["protonet", "anil"], episodes=2, test_episodes=2, device="cpu",
                     progress=lambda stage, done, total: told.append(stage))
        for _ in range(2)
    )  # fmt: skip
    assert [run["method"] for run in facts["runs"]] == ["anil", "protonet"]  # the order is the table's
    assert set(told) == {"anil", "protonet"}
    assert facts["classes"] == {"train": 30, "validation": 6, "test": 12}
    for run, other in zip(facts["runs"], again["runs"], strict=True):
        assert run["accuracy_1"] == other["accuracy_1"]
        assert run["losses"] == other["losses"]
        assert 0 <= run["interval_5"] < 1


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    program = typer.Typer()
    program.command(cls=GreedyCommand)(verb(bench_omniglot))
    arguments = ["--data-sets", str(made_up(tmp_path)), "--method", "protonet", "anil", "--episodes", "2", "--test-episodes", "2"]
    done = CliRunner().invoke(program, [*arguments, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert [word for line in done.stdout.splitlines() for word in line.split()[:1] if word in omniglot.METHODS] == [
        "anil",
        "protonet",
    ]
    done = CliRunner().invoke(program, [*arguments, "--device", "cpu", "--json"])
    assert json.loads(done.stdout)["settings"]["episodes"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 1.0, "episodes": 1}, "not both"),
        ({"methods": ["maml", "lstm"]}, "no method 'lstm'"),
        ({"part": "train"}, "not 'train'"),
        ({"test_episodes": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=message):
        omniglot.run(tmp_path, **arguments)


def test_missing_data_are_named(tmp_path: Path) -> None:
    path = tmp_path / "omniglot_small" / "data.npz"
    with pytest.raises(vm.InvalidConfig, match=str(path)):
        omniglot.run(tmp_path)
    made_up(tmp_path, alphabets=["Latin"])
    with pytest.raises(vm.InvalidConfig, match=f"{path} has no alphabet"):
        omniglot.run(tmp_path)
    path.write_bytes(b"no archive")
    with pytest.raises(vm.InvalidConfig, match=f"{path} is not what is expected"):
        omniglot.run(tmp_path)


def test_too_few_characters_are_named(tmp_path: Path) -> None:
    with pytest.raises(vm.InvalidConfig, match="5 ways and 20 drawings of each are needed; validation has 4 and 20"):
        omniglot.run(made_up(tmp_path, characters=4))


@pytest.mark.quality
@pytest.mark.skipif(not (DATA / "omniglot_small").is_dir(), reason=f"no data sets in {DATA} (set VECMETA_DATA_SETS)")
def test_real_characters_are_learned_in_five_hundred_episodes() -> None:
    """Measured: ANIL .736 and .840, ProtoNet .775 and .883. A number of episodes and not of seconds, so that load changes nothing."""
    facts = omniglot.run(DATA, methods=["anil", "protonet"], episodes=500, test_episodes=200, device="cpu")
    assert facts["classes"] == {"train": 179, "validation": 17, "test": 46}
    for run in facts["runs"]:
        assert run["accuracy_1"] > 0.7
        assert run["accuracy_5"] > 0.81
