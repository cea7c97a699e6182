"""MAML with a memory head: the inner loop that learns from judgements, and the outer loop that learned where it begins.

Finn et al. 2017 (MAML: gradients through the gradient steps), Snell et al. 2017 (prototypes), Khosla et al. 2020 (the supervised
contrastive loss), Li et al. 2017 (Meta-SGD: learned rates).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.errors import InvalidConfig, InvalidVector
from vecmeta.evaluate import map_at_r
from vecmeta.meta.episodes import Episode, Notion, Statistics, Task, sample_task, statistics
from vecmeta.meta.head import Fast, MemoryHead, centre, forward, unit
from vecmeta.meta.start import INITIAL, MetaConfig, Start, initial_start
from vecmeta.types import Progress

FAR_MOST = 64  # centroids that stand in the denominators of the inner loss: enough of them to hold against a single concept
VALIDATION_TASKS = 4  # per held-out notion


def pairs(y: Tensor) -> tuple[Tensor, Tensor]:
    """How much two rows belong together, and how much they are known not to: y (N, C) -> (N, N), (N, N), both >= 0.

    A pair that is told apart by one concept is never a positive by another that weighs no more.
    """
    positive, negative = y.clamp(min=0), (-y).clamp(min=0)
    apart = positive @ negative.T  # (N, N)
    apart = apart + apart.T
    together = (positive @ positive.T - apart).clamp(min=0)
    return together - torch.diag(together.diagonal()), apart


def prototypes(x: Tensor, y: Tensor) -> Tensor:
    """The direction of each concept's positives (Snell et al. 2017): x (N, dim), y (N, C) -> (C, dim) unit rows."""
    rows: Tensor = unit(torch, y.clamp(min=0).T @ x)
    return rows


def contrastive(
    z: Tensor,
    together: Tensor,
    tau: Tensor,
    *,
    boost: Tensor | None = None,
    far: Tensor | None = None,
    anchors: Tensor | None = None,
) -> Tensor:
    """The supervised contrastive loss (Khosla et al. 2020) with graded pairs: z (N, dim) unit rows, together (N, N) >= 0 -> ().

    ``boost`` (N, N) is added to the logits in the denominators only (real negatives count for more there); ``far`` (N, B) are
    further logits in the denominators, of rows that are nobody's positives; ``anchors`` (N,) picks the rows that are averaged over.
    Rows without a positive are no anchors; without any anchor the loss is zero.
    """
    logits = z @ z.T / tau  # (N, N)
    against = logits if boost is None else logits + boost
    against = against.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    if far is not None:
        against = torch.cat((against, far), dim=1)  # (N, N + B)
    weight = together.sum(1)  # (N,)
    loss = (together * (against.logsumexp(1, keepdim=True) - logits)).sum(1) / weight.clamp(min=1e-9)  # (N,)
    asks = weight > 0 if anchors is None else (weight > 0) & anchors
    return torch.where(asks, loss, 0.0).sum() / asks.sum().clamp(min=1)


def inner_loss(fast: Fast, scalars: Mapping[str, Tensor], x: Tensor, y: Tensor, background: Tensor) -> Tensor:
    """What the inner loop lowers: x (N, dim) centred rows, y (N, C), background (B, dim) -> ()."""
    tau = scalars["tau_in"].exp()
    everything = torch.cat((x, background[:: -(-len(background) // FAR_MOST)]))  # (N + B', dim)
    z = forward(torch, scalars, fast, everything, background)[0]
    z, z_far = z[: len(x)], z[len(x) :]
    together, apart = pairs(y)
    return contrastive(z, together, tau, boost=torch.log1p(scalars["neg"].exp() * apart), far=z @ z_far.T / tau + scalars["far"])


def inner_loop(
    scalars: Mapping[str, Tensor],
    rates: Tensor,
    x: Tensor,
    y: Tensor,
    background: Tensor,
    rows_most: int,
    rng: np.random.Generator,
) -> Fast:
    """A gradient step per column of rates (3, K), from the prototypes and no map; differentiable in scalars and rates.

    x (N, dim) centred rows, y (N, C) with a positive in every column, background (B, dim). The gradients of k and v are per
    concept, that is times C, so that a rate means the same for one concept and for a hundred.
    """
    k = prototypes(x, y)
    fast = Fast(k, k.clone(), x.new_zeros(x.shape[1], x.shape[1]))
    scale = (float(y.shape[1]), float(y.shape[1]), 1.0)
    for step in range(rates.shape[1]):
        drawn = (
            torch.as_tensor(draw_rows(y.detach().cpu().numpy(), rows_most, rng), device=x.device)
            if len(x) > rows_most
            else slice(None)
        )
        slopes = torch.func.grad(inner_loss)(fast, scalars, x[drawn], y[drawn], background)
        fast = Fast(*(w - rates[i, step].exp() * scale[i] * slope for i, (w, slope) in enumerate(zip(fast, slopes, strict=True))))
    return fast


def draw_rows(y: NDArray[np.float32], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most so many rows, balanced over the concepts, and never one positive of a concept alone: y (N, C) -> rows, ascending."""
    quota = max(4, most // y.shape[1])
    drawn: set[int] = set()
    for concept in rng.permutation(y.shape[1]):
        for judged in (np.flatnonzero(y[:, concept] > 0), np.flatnonzero(y[:, concept] < 0)):
            drawn.update(rng.permutation(judged)[:quota].tolist())
        if len(drawn) >= most:
            break
    return np.array(sorted(drawn)[:], np.int64) if len(drawn) <= most else np.sort(rng.permutation(sorted(drawn))[:most])


def adapt(start: Start, episode: Episode, stats: Statistics, *, device: str = "cpu", seed: int = 0) -> MemoryHead:
    """Learns from an episode in a few gradient steps from the start; the head of strength 1.

    The same arguments give the same bytes (`MemoryHead.to_bytes`) on the same machine. Columns without a positive are ignored.
    An episode of more rows than the start's inner_rows is drawn from in every step, balanced over the concepts.

    Raises InvalidVector when episode and statistics differ in dimension.
    """
    if episode.x.shape[1] != stats.background.shape[1]:
        raise InvalidVector(
            f"judged rows of dimension {episode.x.shape[1]} in a collection of dimension {stats.background.shape[1]}"
        )
    with one_thread(), torch.no_grad():  # torch.func.grad takes its gradients all the same
        scalars = {name: torch.from_numpy(value).to(device) for name, value in start.scalars.items()}
        y = torch.from_numpy(episode.y[:, (episode.y > 0).any(0)]).to(device)
        x = centre(torch, scalars, torch.from_numpy(episode.x).to(device), torch.from_numpy(stats.mean).to(device))
        background, rates = torch.from_numpy(stats.background).to(device), torch.tensor(start.rates, device=device)
        fast = inner_loop(scalars, rates, x, y, background, start.config.inner_rows, np.random.default_rng(seed))
    return MemoryHead(
        start.formula(), Fast(*(w.cpu().numpy() for w in fast)), stats.background, stats.mean, provenance={"start": start.hash}
    )


def outer_loss(scalars: Mapping[str, Tensor], rates: Tensor, task: Task, stats: Statistics, config: MetaConfig) -> Tensor:
    """What meta-training lowers: adapts to the task's support, then the loss on its taught, untaught and mixed rows.

    Differentiable in scalars and rates, through the inner loop. The background is taken as it is given.
    """
    like = scalars["c"]
    mean, background = torch.as_tensor(stats.mean).to(like), torch.as_tensor(stats.background).to(like)
    x, y = torch.as_tensor(task.support.x).to(like), torch.as_tensor(task.support.y).to(like)
    learned = inner_loop(
        scalars, rates, centre(torch, scalars, x, mean), y, background, config.inner_rows, np.random.default_rng(config.seed)
    )
    test = centre(torch, scalars, torch.as_tensor(task.x).to(like), mean)  # (Q, dim)
    z = forward(torch, scalars, learned, test, background)[0]  # (Q, dim)
    labels, anchors = torch.as_tensor(task.y).to(like), torch.as_tensor(task.anchors)
    together, tau = pairs(labels)[0], scalars["tau_out"].exp()
    taught = (labels[:, : task.fed] > 0).any(1)  # (Q,)
    loss = contrastive(z, together, tau, anchors=anchors)
    for rows, weight in ((taught, 1.0), (~taught, config.unfed_weight)):
        if rows.any():
            loss = loss + weight * contrastive(z[rows], together[rows][:, rows], tau, anchors=anchors[rows])
    return loss


@dataclass(frozen=True)
class Scores:
    """mAP@R gained over the centred base vectors by taught, mixed and untaught rows; means over tasks."""

    fed: float
    mixed: float
    unfed: float

    @property
    def value(self) -> float:
        """What the best start is chosen by: the untaught count three times where they lose."""
        return self.fed + self.mixed + self.unfed + 2 * min(self.unfed, 0.0)


def score(start: Start, tasks: Sequence[Task]) -> Scores:
    """What adapting gains on some tasks. Raises InvalidConfig without tasks."""
    if not tasks:
        raise InvalidConfig("nothing to score a start on: give at least one held-out notion")
    gains = []
    for task in tasks:
        stats = statistics(task.collection, start, len(task.collection))
        after = adapt(start, task.support, stats).project(task.x)
        before = centre(np, start.scalars, task.x, stats.mean)
        fed = (task.y[:, : task.fed] > 0).any(1)
        gains.append(
            [average_precision(after[s], task.y[s]) - average_precision(before[s], task.y[s]) for s in (fed, fed | True, ~fed)]
        )
    return Scores(*(float(gain) for gain in np.nanmean(gains, 0)))


def average_precision(z: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """mAP@R of every row that shares a column with another, by cosine: z (n, dim) unit rows, y (n, C). NaN without such rows."""
    found = map_at_r(z, z, (y @ y.T) > 0, exclude=np.arange(len(z)))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def meta_train(
    notions: Sequence[Notion],
    config: MetaConfig | None = None,
    progress: Progress | None = None,
    *,
    validation: Sequence[Notion] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Start:
    """Learns a start on random tasks of the notions, by gradients through the inner loop (second order).

    Every ``validate_every`` updates the start is scored on fixed tasks of the ``validation`` notions; the best is returned, and
    ``patience`` looks without a better one end the training. Without validation notions the last start is returned. The same
    arguments give the same start on the same machine. ``progress("meta-train", done, outer_steps)`` is called after each update
    and may raise `vecmeta.Cancelled`. The losses, the scores and ``provenance`` go into the start's provenance.

    Raises InvalidConfig without notions.
    """
    config = config or MetaConfig()
    if not notions:
        raise InvalidConfig("meta-training needs at least one notion")
    rng, held_out_rng = np.random.default_rng(config.seed), np.random.default_rng(config.seed + 1)
    held_out = [task for notion in validation for task in validation_tasks(notion, config, held_out_rng)]
    begin = initial_start(config)
    leaves = {name: torch.tensor(float(begin.scalars[name]), requires_grad=True) for name in INITIAL}
    rates = torch.tensor(begin.rates, requires_grad=True)
    optimiser = torch.optim.Adam([*leaves.values(), rates], config.learning_rate)
    losses: list[float] = []
    looks: list[dict[str, float]] = []
    best, best_value, best_step = begin, -np.inf, 0
    with one_thread():
        for step in range(1, config.outer_steps + 1):
            current = _frozen(leaves, rates, config)
            optimiser.param_groups[0]["lr"] = config.learning_rate * (0.55 + 0.45 * np.cos(np.pi * step / config.outer_steps))
            optimiser.zero_grad()
            total = 0.0
            for _ in range(config.batch):
                task = sample_task(notions[int(rng.integers(len(notions)))], config, rng)
                stats = statistics(task.collection, current, len(task.collection))
                loss = outer_loss(leaves, rates, task, stats, config) / config.batch
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            torch.nn.utils.clip_grad_norm_([*leaves.values(), rates], 1.0)
            optimiser.step()
            losses.append(total)
            if held_out and (step % config.validate_every == 0 or step == config.outer_steps):
                current = _frozen(leaves, rates, config)
                scores = score(current, held_out)
                looks.append({"step": step, "fed": scores.fed, "mixed": scores.mixed, "unfed": scores.unfed})
                if scores.value > best_value:
                    best, best_value, best_step = current, scores.value, step
            if progress is not None:
                progress("meta-train", step, config.outer_steps)
            if held_out and step - best_step >= config.patience * config.validate_every:
                break
    if not held_out:
        best, best_step = _frozen(leaves, rates, config), config.outer_steps
    every = max(1, len(losses) // 20)
    record = {
        "trained_on": [notion.name for notion in notions],
        "validated_on": [notion.name for notion in validation],
        "best_step": best_step,
        "outer_loss": [round(float(np.mean(losses[at : at + every])), 4) for at in range(0, len(losses), every)],
        "validation": [{name: round(value, 4) for name, value in look.items()} for look in looks],
    }
    return Start(best.scalars, best.rates, config, {**(provenance or {}), **record})


def validation_tasks(notion: Notion, config: MetaConfig, rng: np.random.Generator) -> list[Task]:
    """Fixed tasks of one held-out notion: 5 shots, up to half of its classes taught."""
    ways = min(config.ways_most, len(notion.classes) // 2)
    return [sample_task(notion, config, rng, ways=ways, shots=5, queries=False) for _ in range(VALIDATION_TASKS)]


def _frozen(leaves: Mapping[str, Tensor], rates: Tensor, config: MetaConfig) -> Start:
    return Start({name: leaf.detach().numpy().copy() for name, leaf in leaves.items()}, rates.detach().numpy(), config)


_threads = threading.Lock()
_inside = 0  # how many are in `one_thread` now
_outside = 1  # the number of threads to go back to


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors of an episode are tiny: threads cost more than they bring, and one thread always adds in the same order.

    The setting belongs partly to the calling thread and partly to the process, so two adaptations side by side must not take the
    other's 1 for what was there before.
    """
    global _inside, _outside  # noqa: PLW0603  # it is the process's setting
    with _threads:
        if _inside == 0:
            _outside = torch.get_num_threads()
        _inside += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _threads:
            _inside -= 1
        torch.set_num_threads(_outside)
