"""Meta-training: what a method begins with, learned on tasks of labelled sets. One outer step takes a whole batch of tasks at once.

Finn et al. 2017 for the gradient through what the method does, Nichol et al. 2018 for Reptile's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.errors import InvalidConfig
from vecmeta.evaluate import map_at_r_by_labels
from vecmeta.meta.checkpoint import Checkpoint, load_checkpoint
from vecmeta.meta.fitting import fit, initial_start
from vecmeta.meta.head import centre, forward
from vecmeta.meta.isometry import condensed, widened
from vecmeta.meta.losses import contrastive, pairs
from vecmeta.meta.methods import Method, method_of
from vecmeta.meta.sentinel import familiar
from vecmeta.meta.start import MetaConfig, Start
from vecmeta.meta.support import Params, Support, padded, stacked, support_of
from vecmeta.meta.tasks import Notion, Task, sample_task
from vecmeta.meta.threads import one_thread
from vecmeta.types import Progress

VALIDATION_SHOTS = (1, 2, 5, 10)  # a task each, per held-out notion
REPTILE_STEPS, REPTILE_RATE = 3, 0.02


class Test(NamedTuple):
    """What is asked after an episode, Q rows of K columns; a batch has a leading dimension."""

    x: Tensor  # (Q, dim) unit rows
    y: Tensor  # (Q, K) 1 or 0
    rows: Tensor  # (Q,) 1 or 0: not padding
    taught: Tensor  # (Q,) 1 or 0
    anchors: Tensor  # (Q,) 1 or 0: rows that ask


@dataclass(frozen=True)
class Scores:
    """mAP@R gained over the base vectors by taught, mixed and untaught rows; means over tasks."""

    fed: float
    mixed: float
    unfed: float

    @property
    def value(self) -> float:
        """What the best start is chosen by: the untaught count three times where they lose."""
        return self.fed + self.mixed + self.unfed + 2 * min(self.unfed, 0.0)


def tensors_of(
    task: Task, config: MetaConfig, rng: np.random.Generator, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Support, Test]:
    """A task as tensors."""
    arrays = (task.x, task.y, np.ones(len(task.x)), task.taught, task.anchors)
    test = Test(*(torch.as_tensor(np.asarray(a, np.float32), dtype=dtype, device=device) for a in arrays))
    return support_of(task.support, task.statistics, config.inner_rows, rng, device, dtype), test


def together(tasks: Sequence[tuple[Support, Test]]) -> tuple[Support, Test]:
    """A batch of tasks of one dimension, padded to one shape."""
    tests = [test for _, test in tasks]
    q, k = (max(test.y.shape[axis] for test in tests) for axis in (0, 1))
    sizes = {"y": (q, k)}
    stack = (torch.stack([padded(getattr(test, name), sizes.get(name, (q,))) for test in tests]) for name in Test._fields)
    return stacked([support for support, _ in tasks]), Test(*stack)


def outer_loss(method: Method, params: Params, support: Support, test: Test, config: MetaConfig) -> Tensor:
    """What meta-training lowers: learns from the support, then the loss on the test's taught, untaught and mixed rows. -> ()

    Differentiable in the params, through all that the method does. The collection's clusters are taken as they are given.
    """
    memory, mean = widened(method.memory(params, support, config), support.mean, test.x.shape[1])
    z = forward(torch, memory, centre(torch, test.x, mean, memory.share))[0]  # (Q, dim)
    alike, tau = pairs(test.y)[0], params["tau_out"].exp()
    there, taught, anchors = test.rows > 0, test.taught > 0, test.anchors > 0
    loss = contrastive(z, alike, tau, anchors=anchors, rows=there)
    loss = loss + contrastive(z, alike, tau, anchors=anchors & taught, rows=there & taught)
    return loss + config.unfed_weight * contrastive(z, alike, tau, anchors=anchors & ~taught, rows=there & ~taught)


def outer_slopes(
    method: Method, params: Params, batch: tuple[Support, Test], config: MetaConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradient of the batch's mean outer loss, and that loss: all tasks at once, by vmap."""
    batch = _condensed(*batch)

    def loss_of(given: Params, support: Support, test: Test) -> Tensor:
        return outer_loss(method, given, support, test, config)

    if method.OUTER == "reptile":
        return _reptile(loss_of, params, batch)

    def mean(given: Params) -> Tensor:
        losses: Tensor = torch.func.vmap(loss_of, in_dims=(None, 0, 0))(given, *batch)
        return losses.mean()

    slopes, loss = torch.func.grad_and_value(mean)(dict(params))
    return slopes, loss


def _condensed(support: Support, test: Test) -> tuple[Support, Test]:
    """The same batch with rows of fewer numbers, fewest where it is learned from; `outer_loss` brings what was learned to the test."""
    x, background, mean, asked = condensed([support.x, support.background, support.mean[:, None], test.x], last=1)
    return support._replace(x=x, background=background, mean=mean[:, 0]), test._replace(x=asked)


def _reptile(loss_of: Any, params: Params, batch: tuple[Support, Test]) -> tuple[dict[str, Tensor], Tensor]:
    """From where a few steps of descent on each task lead, the direction back: the slope that Reptile descends."""
    step = torch.func.vmap(torch.func.grad_and_value(loss_of), in_dims=(0, 0, 0))
    tasks = len(batch[0].rows)
    there = {name: value.expand(tasks, *value.shape) for name, value in params.items()}
    first = None
    for _ in range(REPTILE_STEPS):
        slopes, losses = step(there, *batch)
        first = losses.mean() if first is None else first
        there = {name: value - REPTILE_RATE * slopes[name].clamp(-1, 1) for name, value in there.items()}
    back = {name: (value - there[name].mean(0)) / (REPTILE_RATE * REPTILE_STEPS) for name, value in params.items()}
    return back, first if first is not None else torch.zeros(())


def score(start: Start, tasks: Sequence[Task], device: str = "cpu") -> Scores:
    """What adapting gains on some tasks. Raises InvalidConfig without tasks."""
    if not tasks:
        raise InvalidConfig("nothing to score a start on: give at least one held-out notion")
    return Scores(*(float(gain) for gain in np.nanmean(gains_of(start, tasks, device), 0)))


def gains_of(start: Start, tasks: Sequence[Task], device: str = "cpu") -> NDArray[np.float64]:
    """What adapting gains on each task: (tasks, 3) mAP@R of taught, mixed and untaught rows."""
    gains = []
    for task in tasks:
        after = fit(start, task.support, task.statistics, device=device).project(task.x)
        fed = task.taught
        gains.append(
            [average_precision(after[s], task.y[s]) - average_precision(task.x[s], task.y[s]) for s in (fed, fed | True, ~fed)]
        )
    return np.array(gains)


def average_precision(z: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """mAP@R of every row that shares a column with another, by cosine: z (n, dim) unit rows, y (n, C). NaN without such rows."""
    found = map_at_r_by_labels(z, y)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def meta_train(
    notions: Sequence[Notion],
    config: MetaConfig | None = None,
    progress: Progress | None = None,
    *,
    method: str = "maml",
    validation: Sequence[Notion] = (),
    provenance: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> Start:
    """Learns a method's start on random tasks of the notions.

    Every ``validate_every`` updates the start is scored on fixed tasks of the ``validation`` notions; the best is returned, and
    ``patience`` looks without a better one end the training. Without validation notions the last start is returned. The same
    arguments give the same start on the same machine (with a GPU as ``device``, to rounding). With a ``checkpoint`` file, its state is
    written there at every look, and a training that was interrupted goes on from it to the same result; who saves the start deletes it.
    ``progress(stage, done, total)`` is called with the stages "tasks" and "meta-train", with the loss and the validation gain in the
    latter's name, and may raise `vecmeta.Cancelled`. Losses, scores and ``provenance`` go into the start's provenance, with what the
    supports looked like.

    Raises InvalidConfig without notions, for a method that has no start, or for a checkpoint of another training.
    """
    config = config or MetaConfig()
    learner = method_of(method)
    if not notions:
        raise InvalidConfig("meta-training needs at least one notion")
    if learner.OUTER == "none":
        raise InvalidConfig(f"{method!r} begins with nothing that could be meta-trained")
    rng = np.random.default_rng(config.seed)
    with one_thread():
        held_out = [task for notion in validation for task in validation_tasks(notion, config)]
        pool, known = _pool(notions, config, rng, progress, device)
        state = _State(method, config, _digest(method, config, notions, validation), device)
        if checkpoint is not None:
            state.restore(checkpoint)
        while state.step < config.outer_steps and not (held_out and state.waited >= config.patience):
            state.update(learner, [pool[i] for i in _drawn(pool, config, np.random.default_rng([config.seed, state.step]))])
            gain = ""
            if state.step % config.validate_every == 0 or state.step == config.outer_steps:
                if held_out:
                    state.look(score(state.start(), held_out, device))
                if checkpoint is not None:
                    state.save(checkpoint)
            if state.looks:
                gain = f", validation {state.looks[-1]['mixed']:+.3f}"
            if progress is not None:
                progress(f"meta-train: loss {np.mean(state.losses[-20:]):.2f}{gain}", state.step, config.outer_steps)
    best = state.best if held_out else state.start()
    record: dict[str, Any] = {
        "trained_on": [notion.name for notion in notions],
        "validated_on": [notion.name for notion in validation],
        "best_step": state.best_step if held_out else state.step,
        "outer_loss": _thinned(state.losses),
        "validation": [{name: round(value, 4) for name, value in look.items()} for look in state.looks],
        "familiar": known,
    }
    if held_out:
        mixed = gains_of(best, held_out, device)[:, 1]
        record["record"] = {"tasks": len(mixed), "mean": float(mixed.mean()), "sd": float(mixed.std(ddof=1))}
    return Start(method, best.tensors, config, {**(provenance or {}), **record})


def validation_tasks(notion: Notion, config: MetaConfig) -> list[Task]:
    """Fixed tasks of one held-out notion: up to half of its classes taught, with few and with many shots."""
    ways = min(config.ways_most, len(notion.classes) // 2)
    rng = np.random.default_rng(config.seed + 1)
    return [sample_task(notion, config, rng, ways=ways, shots=shots, kind="concepts") for shots in VALIDATION_SHOTS]


class _State:
    """A training on its way."""

    def __init__(self, method: str, config: MetaConfig, digest: str, device: str) -> None:
        self.config, self.digest, self.device = config, digest, device
        self.method = method
        begin = initial_start(method, config)
        self.leaves = {name: torch.tensor(value, requires_grad=True) for name, value in begin.tensors.items()}
        self.optimiser = torch.optim.Adam(list(self.leaves.values()), config.learning_rate)
        self.step, self.losses, self.looks = 0, list[float](), list[dict[str, float]]()
        self.best, self.best_step, self.best_value, self.waited = begin, 0, -np.inf, 0

    def start(self) -> Start:
        """As it is now."""
        return Start(self.method, {name: leaf.detach().numpy().copy() for name, leaf in self.leaves.items()}, self.config)

    def update(self, learner: Method, tasks: Sequence[tuple[Support, Test]]) -> None:
        """One outer step."""
        rate = self.config.learning_rate * (0.55 + 0.45 * np.cos(np.pi * (self.step + 1) / self.config.outer_steps))
        self.optimiser.param_groups[0]["lr"] = rate
        params = {name: leaf.detach().to(self.device) for name, leaf in self.leaves.items()}
        slopes, loss = outer_slopes(learner, params, together(tasks), self.config)
        for name, leaf in self.leaves.items():
            leaf.grad = slopes[name].detach().to(leaf.device)
        torch.nn.utils.clip_grad_norm_(list(self.leaves.values()), 1.0)
        self.optimiser.step()
        self.losses.append(float(loss))
        self.step += 1

    def look(self, scores: Scores) -> None:
        """Remember the scores, and the start when it is the best so far."""
        self.looks.append({"step": self.step, **asdict(scores)})
        self.waited += 1
        if scores.value > self.best_value:
            self.best, self.best_step, self.best_value, self.waited = self.start(), self.step, scores.value, 0

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        moments = {name: self.optimiser.state[leaf] for name, leaf in self.leaves.items()}
        tensors = {"now": {name: leaf.detach().numpy() for name, leaf in self.leaves.items()}, "best": dict(self.best.tensors)}
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[key] = {name: moment[key].numpy() for name, moment in moments.items()}
        facts = {
            "step": self.step,
            "losses": self.losses,
            "looks": self.looks,
            "best_step": self.best_step,
            "waited": self.waited,
        }
        Checkpoint(self.digest, tensors, {**facts, "best_value": float(self.best_value)}).save(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        found = load_checkpoint(path, self.digest)
        if found is None:
            return
        for name, leaf in self.leaves.items():
            leaf.data = torch.tensor(found.tensors["now"][name])
            moments = {key: torch.tensor(found.tensors[key][name]) for key in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[leaf] = {"step": torch.tensor(float(found.facts["step"])), **moments}
        facts = found.facts
        self.step, self.losses, self.looks = facts["step"], facts["losses"], facts["looks"]
        self.best = Start(self.method, found.tensors["best"], self.config)
        self.best_step, self.best_value, self.waited = facts["best_step"], facts["best_value"], facts["waited"]


def _pool(
    notions: Sequence[Notion], config: MetaConfig, rng: np.random.Generator, progress: Progress | None, device: str
) -> tuple[list[tuple[Support, Test]], dict[str, Any]]:
    """The tasks that are practised on, and what their supports look like."""
    tasks = []
    for place in range(config.tasks):
        tasks.append(sample_task(notions[int(rng.integers(len(notions)))], config, rng))
        if progress is not None:
            progress("tasks", place + 1, config.tasks)
    known = familiar([(task.support, task.statistics) for task in tasks])
    return [tensors_of(task, config, rng, device=device) for task in tasks], known


def _drawn(pool: Sequence[tuple[Support, Test]], config: MetaConfig, rng: np.random.Generator) -> list[int]:
    """A batch of tasks, all of the dimension of the first."""
    first = int(rng.integers(len(pool)))
    mates = [i for i, (support, _) in enumerate(pool) if len(support.mean) == len(pool[first][0].mean)]
    return [first, *(int(i) for i in rng.choice(mates, config.batch - 1))]


def _digest(method: str, config: MetaConfig, notions: Sequence[Notion], validation: Sequence[Notion]) -> str:
    named = [[[notion.name, [len(rows) for rows in notion.classes]] for notion in part] for part in (notions, validation)]
    sha = hashlib.sha256(json.dumps([method, asdict(config), named]).encode())
    for notion in (*notions, *validation):
        sha.update(notion.x.tobytes() + b"".join(rows.tobytes() for rows in notion.classes))
    return sha.hexdigest()


def _thinned(losses: Sequence[float]) -> list[float]:
    every = max(1, len(losses) // 20)
    return [round(float(np.mean(losses[at : at + every])), 4) for at in range(0, len(losses), every)]
