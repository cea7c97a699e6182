"""Five learners of few-shot classification over one network: MAML, FOMAML, ANIL, Reptile and prototypical networks.

Finn et al. 2017 (MAML, and its first-order form), Raghu et al. 2020 (ANIL), Nichol et al. 2018 (Reptile), Snell et al. 2017
(ProtoNet), Antoniou et al. 2019 (MAML++: an inner rate per layer and step, learned with the rest).

An episode is a support set (ways, shots, side, side) and a query set (ways, queries, side, side); the class of a picture is its first
index, so there are no arrays of labels. Batches have the episodes as one more axis in front. Batch norm sees an episode's support and
query in one pass where the same weights look at both (ANIL, ProtoNet), else in two (as in the papers of MAML and Reptile).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from vecmeta.errors import InvalidConfig
from vecmeta.meta.fourconv import HEAD, Params, classify, embed, head, initial_params
from vecmeta.meta.threads import one_thread
from vecmeta.types import Progress

Name: TypeAlias = Literal["maml", "fomaml", "anil", "reptile", "protonet"]
Images: TypeAlias = NDArray[np.float32]
Draw: TypeAlias = Callable[[int, int, int], Images]  # (episodes, ways, pictures) -> (episodes, ways, pictures, side, side)

CHUNK = 10  # test episodes at a time


@dataclass(frozen=True)
class Recipe:
    """How one method is trained.

    ``rate``        the inner rate it begins with; MAML, FOMAML and ANIL learn it from there on, per parameter tensor and step.
    ``steps``       inner steps in training; ``test_steps`` in testing (the last learned rate is repeated).
    ``outer``       the outer rate: of Adam, falling to zero as a cosine; Reptile's own is plain and falls as a line.
    ``batch``       episodes per update; ``queries`` query pictures per class in training, fewer than in testing to be quick.
    ``ways``        classes of a training episode, where they differ from those of testing: Snell et al. train with more.
    """

    rate: float
    steps: int
    test_steps: int
    outer: float
    batch: int
    queries: int
    ways: int | None = None


# Chosen on the validation alphabet of `vecmeta.bench.omniglot` in four rotations, by single trainings of 15 to 30 seconds.
RECIPES: dict[Name, Recipe] = {
    "maml": Recipe(rate=0.4, steps=1, test_steps=1, outer=3e-3, batch=4, queries=5),
    "fomaml": Recipe(rate=0.4, steps=1, test_steps=1, outer=3e-3, batch=4, queries=5),
    "anil": Recipe(rate=0.1, steps=5, test_steps=5, outer=3e-3, batch=2, queries=5),
    "reptile": Recipe(rate=0.3, steps=5, test_steps=10, outer=1.0, batch=2, queries=9),
    "protonet": Recipe(rate=1.0, steps=0, test_steps=0, outer=3e-3, batch=1, queries=5, ways=20),
}
LEARNS_RATES = ("maml", "fomaml", "anil")


def labels_of(pictures: Tensor) -> Tensor:
    """The classes of an episode's pictures (ways, n, side, side), flattened: (ways * n,) int64."""
    return torch.arange(pictures.shape[0], device=pictures.device).repeat_interleave(pictures.shape[1])


def entropy(params: Params, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross entropy of the whole network: images (n, side, side), labels (n,) -> ()."""
    return F.cross_entropy(classify(params, images), labels)


def inner_loop(loss: Callable[[Params], Tensor], fast: Params, rates: Params, steps: int, *, first_order: bool = False) -> Params:
    """So many gradient steps on ``fast``, each with the log rates (steps,) of its tensor; differentiable in fast and rates.

    Beyond the last rate, it is repeated. ``first_order`` takes the slopes as constants (Finn et al. 2017, section 5.2).
    """
    for step in range(steps):
        slopes = grad(loss)(fast)
        if first_order:
            slopes = {name: slope.detach() for name, slope in slopes.items()}
        fast = {name: w - rates[name][min(step, len(rates[name]) - 1)].exp() * slopes[name] for name, w in fast.items()}
    return fast


def maml_logits(params: Params, rates: Params, support: Tensor, query: Tensor, steps: int, first_order: bool = False) -> Tensor:
    """Adapts every layer to the support (ways, shots, …), then classifies the query (ways, n, …) -> (ways * n, ways)."""
    loss = partial(entropy, images=support.flatten(0, 1), labels=labels_of(support))
    adapted = inner_loop(loss, params, rates, steps, first_order=first_order)
    return classify(adapted, query.flatten(0, 1))


def anil_logits(params: Params, rates: Params, support: Tensor, query: Tensor, steps: int) -> Tensor:
    """Adapts the last layer alone; shapes as in `maml_logits`. The body sees support and query in one pass."""
    features, asked, labels = *embed_both(params, support, query), labels_of(support)
    last = {name: params[name] for name in HEAD}
    return head(inner_loop(lambda w: F.cross_entropy(head(w, features), labels), last, rates, steps), asked)


def proto_logits(params: Params, support: Tensor, query: Tensor) -> Tensor:
    """Minus the squared distance to the mean of each class's support; shapes as in `maml_logits`."""
    features, asked = embed_both(params, support, query)
    prototypes = features.reshape(*support.shape[:2], -1).mean(1)  # (ways, features)
    distances: Tensor = (asked[:, None] - prototypes).square().sum(2)
    return -distances


def embed_both(params: Params, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """The features of support and query from one pass, so that both are normalised by the same statistics."""
    both = embed(params, torch.cat((support.flatten(0, 1), query.flatten(0, 1))))
    asked = query.shape[0] * query.shape[1]
    return both[:-asked], both[-asked:]


def logits(method: Name, params: Params, rates: Params, support: Tensor, query: Tensor, steps: int) -> Tensor:
    """What a method says of one episode's query: (ways * n, ways)."""
    if method == "protonet":
        return proto_logits(params, support, query)
    if method == "anil":
        return anil_logits(params, rates, support, query, steps)
    return maml_logits(params, rates, support, query, steps, first_order=method != "maml")


def outer_loss(method: Name, params: Params, rates: Params, support: Tensor, query: Tensor, steps: int) -> Tensor:
    """The mean cross entropy of the queries of a batch of episodes (t, ways, n, side, side) -> ()."""

    def one(support: Tensor, query: Tensor) -> Tensor:
        return F.cross_entropy(logits(method, params, rates, support, query, steps), labels_of(query))

    losses: Tensor = vmap(one)(support, query)
    return losses.mean()


def outer_slopes(
    method: Name, params: Params, rates: Params, support: Tensor, query: Tensor, steps: int
) -> tuple[list[Tensor], float]:
    """The outer loss and its slopes: those of the parameters in order, then those of the rates."""

    def loss_of(learned: tuple[Params, Params]) -> Tensor:
        return outer_loss(method, *learned, support, query, steps)

    (by_params, by_rates), loss = grad_and_value(loss_of)((params, rates))
    return [*by_params.values(), *by_rates.values()], float(loss)


def reptile_slopes(params: Params, rates: Params, pictures: Tensor, steps: int) -> list[Tensor]:
    """The start minus where plain training leads from it, the mean over episodes: the "gradient" of Nichol et al. 2018.

    pictures (t, ways, n, side, side): every inner step takes the next n / steps pictures of each class. A descent step with the
    outer rate e is then params + e (mean of reached - params), theirs.
    """

    def one(pictures: Tensor) -> Params:
        fast = params
        for part in pictures.chunk(steps, dim=1):
            fast = inner_loop(partial(entropy, images=part.flatten(0, 1), labels=labels_of(part)), fast, rates, 1)
        return fast

    with torch.no_grad():  # torch.func.grad takes the inner gradients all the same
        return [params[name] - reached.mean(0) for name, reached in vmap(one)(pictures).items()]


@dataclass(frozen=True, eq=False)
class Learner:
    """A trained method: its parameters and log inner rates, and what training took.

    ``episodes`` seen in training; ``seconds`` on the clock that the budget was measured with; ``losses``, twenty means over training,
    of the outer loss (empty for Reptile, which has none).
    """

    method: Name
    recipe: Recipe
    params: Params
    rates: Params
    episodes: int
    seconds: float
    losses: tuple[float, ...]

    def accuracies(self, episodes: Images, shots: int) -> NDArray[np.float64]:
        """The share of queries that are classified rightly, per episode; the first ``shots`` pictures of a class are the support.

        episodes (t, ways, shots + queries, side, side) float32 -> (t,). Raises InvalidConfig when there are no queries.
        """
        if episodes.shape[2] <= shots:
            raise InvalidConfig(f"{episodes.shape[2]} pictures of a class leave none to ask with after {shots} shots")

        def one(support: Tensor, query: Tensor) -> Tensor:
            found = logits(self.method, self.params, self.rates, support, query, self.recipe.test_steps).argmax(1)
            return (found == labels_of(query)).float().mean()

        like = self.params["head.bias"]
        with one_thread(), torch.no_grad():  # torch.func.grad takes its gradients all the same
            parts = [torch.from_numpy(episodes[at : at + CHUNK]).to(like) for at in range(0, len(episodes), CHUNK)]
            found = [vmap(one)(part[:, :, :shots], part[:, :, shots:]) for part in parts]
        return np.asarray(torch.cat(found).cpu().numpy(), np.float64)


def train(
    method: Name,
    draw: Draw,
    shots: Sequence[int],
    *,
    ways: int = 5,
    seconds: float | None = None,
    episodes: int | None = None,
    recipe: Recipe | None = None,
    channels: int = 64,
    blocks: int = 4,
    side: int = 28,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Learner:
    """Trains one method until a budget is spent, on episodes of ``ways`` classes; their shots are those of ``shots`` in turn.

    The budget is a number of ``episodes`` or of ``seconds``, one of the two. Seconds are those of the processor (on an accelerator:
    of the clock), so that programs next door do not change what a method gets. ``draw(episodes, ways, pictures)`` gives training episodes.
    With a budget in episodes, the same arguments give the same learner on the same machine. ``progress`` is called after every
    update, in seconds or episodes, and may raise `vecmeta.Cancelled`.

    Raises InvalidConfig for an unknown method, without exactly one budget, or when a number is below 1.
    """
    if method not in RECIPES:
        raise InvalidConfig(f"no method {method!r}; there are {', '.join(RECIPES)}")
    if (seconds is None) == (episodes is None):
        raise InvalidConfig("training needs a budget: either seconds or episodes")
    budget = float(seconds if seconds is not None else episodes or 0)
    if not shots or min(shots) < 1 or not budget > 0:
        raise InvalidConfig(f"shots and the budget are above 0, not {list(shots)} and {budget:g}")
    recipe = recipe or RECIPES[method]
    params = initial_params(ways, channels=channels, blocks=blocks, side=side, seed=seed, device=device)
    rates = initial_rates(params, recipe)
    leaves = [*params.values(), *(rates.values() if method in LEARNS_RATES else ())]
    optimiser: torch.optim.Optimizer = (torch.optim.SGD if method == "reptile" else torch.optim.Adam)(leaves, lr=recipe.outer)
    clock = time.thread_time if torch.device(device).type == "cpu" else time.perf_counter
    begin, seen, updates, losses = clock(), 0, 0, list[float]()
    with one_thread():
        while (spent := clock() - begin if episodes is None else float(seen)) < budget:
            # Adam's rate falls as a cosine, Reptile's as a line, as in its paper; both to zero.
            left = 1 - spent / budget if method == "reptile" else 0.5 + 0.5 * math.cos(math.pi * spent / budget)
            optimiser.param_groups[0]["lr"] = recipe.outer * left
            now = shots[updates % len(shots)]
            pictures = torch.from_numpy(draw(recipe.batch, recipe.ways or ways, now + recipe.queries)).to(device)
            if method == "reptile":
                slopes = reptile_slopes(params, rates, pictures, recipe.steps)
            else:
                slopes, loss = outer_slopes(method, params, rates, pictures[:, :, :now], pictures[:, :, now:], recipe.steps)
                losses.append(loss)
            for leaf, slope in zip(leaves, slopes, strict=False):  # Reptile and ProtoNet learn no rates
                leaf.grad = slope
            optimiser.step()
            seen, updates = seen + recipe.batch, updates + 1
            if progress is not None:
                done = seen if episodes is not None else int(clock() - begin)
                progress(method, min(done, math.ceil(budget)), math.ceil(budget))
    means = tuple(round(float(np.mean(part)), 4) for part in np.array_split(losses, 20) if len(part))
    return Learner(method, recipe, params, rates, seen, round(clock() - begin, 1), means)


def initial_rates(params: Params, recipe: Recipe) -> Params:
    """The logarithms of the inner rates, for every parameter tensor one per step: (max(1, steps),)."""
    return {name: value.new_full((max(1, recipe.steps),), math.log(recipe.rate)) for name, value in params.items()}
