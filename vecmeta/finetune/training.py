"""The training loop: steps, measurements on held-out examples, an early stop, checkpoints that it goes on from to the same result.

The loss is sentence-transformers' own, its trainer is not used: it stops early by a loss or by what its evaluators log, its checkpoints
resume to another result once dropout was drawn, it knows no halving of a batch that does not fit, and pictures not at all. This loop is
for texts, pictures and a last layer alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vecmeta.encoders.memory import halved
from vecmeta.encoders.weights import half_precision
from vecmeta.finetune.batches import Batches
from vecmeta.finetune.config import FinetuneConfig
from vecmeta.finetune.learner import Learner
from vecmeta.finetune.losses import coral, l2_sp, ranking_loss, relational, task_loss
from vecmeta.finetune.measuring import Exam
from vecmeta.meta.checkpoint import Checkpoint, load_checkpoint
from vecmeta.types import Keys, Progress, Vectors

WARMUP, LOWEST = 0.1, 0.05  # share of the steps in which the rate rises; what is left of it in the end
CLIP = 1.0  # norm of a gradient
LEAST_PAIRS = 2
SAVING = 0.1  # of the time, at most, goes into checkpoints: a network, its best weights and two moments of each weight


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a training is given: batches of the target and of source examples (None: none), and rows of the pool that have no label.

    ``teacher`` (n, dim) are the pool's vectors under the untouched encoder, of which relations are kept.
    """

    target: Batches
    source: Batches | None
    unlabelled: Keys
    teacher: Vectors | None
    examples: int  # how many are learned from


@dataclass
class State:
    """How far a training is; all but the weights, as JSON."""

    step: int = 0
    pairs: int = 0
    best: float = -math.inf
    best_step: int = 0
    since: int = 0  # measurements without a gain
    done: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    learner: Learner, lesson: Lesson, config: FinetuneConfig, measure: Exam | None, checkpoint: Path, digest: str,
    progress: Progress | None,
) -> State:  # fmt: skip
    """Train, and leave the learner with the weights that measured best on held-out examples; without a `measure` with the last ones.

    Raises:
        EncoderUnavailable: not even the smallest batch fits into memory.
        InvalidConfig: the checkpoint is another training's.
    """
    run = _Run(learner, lesson, config, measure, progress)
    kept = load_checkpoint(checkpoint, digest)
    if kept is not None:
        run.restore(kept)
    elif measure is not None:
        run.look()  # the start is a candidate too: what never gets better stays as it was
    while not run.state.done:
        run.advance()
        if run.state.step % run.every == 0 or run.state.step >= run.steps:
            run.look()
            run.save(checkpoint, digest)
    run.take_best()
    return run.state


class _Run:
    def __init__(
        self, learner: Learner, lesson: Lesson, config: FinetuneConfig, measure: Exam | None, progress: Progress | None
    ) -> None:
        self.learner, self.lesson, self.config, self.measure, self.progress = learner, lesson, config, measure, progress
        self.state = State(pairs=config.pairs)
        self.steps = config.steps_for(lesson.examples)
        # No more contents are encoded to measure than to learn, where there are few steps.
        least = 1 if measure is None else len(measure.rows) // (2 * config.pairs)
        self.every = max(1, math.ceil(self.steps / config.measurements), least)
        self.layers = learner.layers()
        self.names = [name for layer in self.layers for name, _ in layer]
        self.values = [value for layer in self.layers for _, value in layer]
        top = len(self.layers) - 1
        self.rates = [config.top_rate * config.layer_decay ** (top - depth) for depth in range(len(self.layers))]
        groups = [{"params": [value for _, value in layer], "lr": 0.0} for layer in self.layers]
        # No decay towards zero: what pulls at pretrained weights is L2-SP, when it is asked for.
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.loss = ranking_loss(config.scale)
        self.half = half_of(config, learner.device)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.half is torch.float16)
        self.best: list[Tensor] = [value.detach().clone() for value in self.values]
        self._saved, self._saving = -math.inf, 0.0  # when a checkpoint was written, and how long that took

    # -- a step

    def advance(self) -> None:
        """One step, with half the pairs if the batch does not fit into memory, from then on."""
        complaint = (
            f"{LEAST_PAIRS} pairs in a batch are too many on {self.learner.device}; use mode='features' or 'lora', fewer tokens, or a "
            "smaller side"
        )
        _, self.state.pairs = halved(self._step, self.state.pairs, LEAST_PAIRS, complaint)
        self.state.step += 1
        if self.progress is not None:
            best = f": {self.config.metric} {self.state.best:.3f}" if self.state.history else ""
            self.progress(f"fine-tuning{best}", self.state.step, self.steps)

    def _step(self, pairs: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # of a step that did not fit into memory
        self._schedule()
        self.learner.module.train()
        with seeded(self.config.seed, self.state.step, self.learner.device):
            loss = self._loss(pairs)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.values, CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _schedule(self) -> None:
        """Rates of this step, and which layers learn at all."""
        step, config = self.state.step, self.config
        begun = (step + 1) / max(1.0, WARMUP * self.steps)
        fallen = LOWEST + (1 - LOWEST) * (1 + math.cos(math.pi * step / self.steps)) / 2
        for depth, (group, rate) in enumerate(zip(self.optimizer.param_groups, self.rates, strict=True)):
            group["lr"] = rate * min(1.0, begun) * fallen
            thaws = config.unfreeze * self.steps * (len(self.layers) - 1 - depth) / max(1, len(self.layers))
            for value in group["params"]:
                value.requires_grad_(step >= thaws)

    def _loss(self, pairs: int) -> Tensor:
        config, lesson = self.config, self.lesson
        seed = (config.seed, self.state.step)
        rng = np.random.default_rng((*seed, 1))
        batch = lesson.target.batch((*seed, 0), pairs)
        z = self._vectors(batch.rows, rng)
        loss = task_loss(self.loss, z, batch.rounds)
        source = None
        if lesson.source is not None:
            more = lesson.source.batch((*seed, 2), pairs)
            source = self._vectors(more.rows, rng)
            if "instances" in config.transfer:
                loss = loss + task_loss(self.loss, source, more.rounds)
        rows, kept = batch.rows, z
        if len(lesson.unlabelled) and {"relations", "representation"} & set(config.transfer):
            free = np.random.default_rng((*seed, 3))
            rows = free.choice(lesson.unlabelled, min(len(lesson.unlabelled), 2 * pairs), replace=False)
            kept = self._vectors(rows, rng)
        if "relations" in config.transfer and lesson.teacher is not None:
            teacher = torch.from_numpy(np.array(lesson.teacher[rows])).to(z.device)
            loss = loss + config.relation_weight * relational(kept, teacher)
        if "representation" in config.transfer:
            pair = (z, kept) if source is None else (source, torch.cat((z, kept)) if kept is not z else z)
            loss = loss + config.coral * coral(*pair)
        if "parameters" in config.transfer:
            loss = loss + config.l2_sp * l2_sp(self.learner.deviations())
        return loss

    def _vectors(self, rows: Keys, rng: np.random.Generator) -> Tensor:
        """(b, dim) unit rows in float32, by a network that may compute in half precision; losses do not."""
        with self._autocast():
            return self.learner.vectors(rows, rng).float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.learner.device).type, dtype=self.half, enabled=self.half is not None)

    # -- measurements

    def look(self) -> None:
        """Measure on held-out examples, and keep the weights if they are the best so far."""
        state = self.state
        if self.measure is not None:
            self.learner.module.eval()
            with torch.inference_mode(), self._autocast():
                found = self.measure(self.learner)
            state.history.append({"step": state.step, **found})
            value = found[self.config.metric]
            # Few held-out examples soon cannot tell any more. Of weights that measure the same those that learned longer are taken, but
            # the untouched ones before all others.
            if value > state.best or (value == state.best and state.best_step > 0):
                state.best, state.best_step, state.since = value, state.step, 0
                self._keep()
            else:
                state.since += 1
        else:
            state.best_step = state.step
            self._keep()
        # while layers are still thawing it is too early to give up
        thawed = state.step >= (self.config.unfreeze * self.steps if self.config.mode == "full" else 0)
        state.done = state.step >= self.steps or (thawed and state.since >= self.config.patience)

    def _keep(self) -> None:
        with torch.no_grad():
            for kept, value in zip(self.best, self.values, strict=True):
                kept.copy_(value)

    def take_best(self) -> None:
        """Give the learner the weights that were kept."""
        with torch.no_grad():
            for kept, value in zip(self.best, self.values, strict=True):
                value.copy_(kept)
        self.learner.module.eval()

    # -- checkpoints

    def save(self, path: Path, digest: str) -> None:
        """Write a checkpoint, unless the last one is so young that writing takes more than its share of the time."""
        begin = time.perf_counter()
        if not self.state.done and begin - self._saved < self._saving / SAVING:
            return
        self.checkpoint(digest).save(path)
        self._saved = time.perf_counter()
        self._saving = self._saved - begin

    def checkpoint(self, digest: str) -> Checkpoint:
        """All that the rest of the training is a function of."""
        tensors: dict[str, dict[str, NDArray[np.float32]]] = {
            "now": _arrays(self.names, self.values), "best": _arrays(self.names, self.best)
        }  # fmt: skip
        for name, value in zip(self.names, self.values, strict=True):
            for key, held in self.optimizer.state.get(value, {}).items():
                tensors.setdefault(f"adam {key}", {})[name] = np.asarray(held.detach().cpu().numpy(), np.float32)
        facts = {**vars(self.state), "best": None if math.isinf(self.state.best) else self.state.best}
        return Checkpoint(digest, tensors, {"state": facts, "scaler": self.scaler.state_dict()})

    def restore(self, kept: Checkpoint) -> None:
        """Go on from a checkpoint."""
        facts = dict(kept.facts["state"])
        self.state = State(**{**facts, "best": -math.inf if facts["best"] is None else facts["best"]})
        if kept.facts["scaler"]:  # empty where nothing is scaled
            self.scaler.load_state_dict(kept.facts["scaler"])
        with torch.no_grad():
            for name, value, best in zip(self.names, self.values, self.best, strict=True):
                value.copy_(torch.from_numpy(kept.tensors["now"][name]))
                best.copy_(torch.from_numpy(kept.tensors["best"][name]))
                moments = {
                    group.removeprefix("adam "): torch.from_numpy(tensors[name])
                    for group, tensors in kept.tensors.items()
                    if group.startswith("adam ") and name in tensors
                }
                if moments:
                    on = {key: held if key == "step" else held.to(value.device) for key, held in moments.items()}
                    self.optimizer.state[value] = on


def half_of(config: FinetuneConfig, device: str) -> torch.dtype | None:
    """What the network computes in on `device` by autocast, None is float32; weights, gradients and losses stay in float32.

    Scores and weights follow those of float32 to rounding. In "features" only one small product is learned, which gains nothing.
    """
    if config.precision == "fp32" or config.mode == "features":
        return None
    if config.precision == "bf16":
        return torch.bfloat16
    half: torch.dtype | None = half_precision(device)
    return half


def _arrays(names: Sequence[str], values: Sequence[Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: value.detach().float().cpu().numpy() for name, value in zip(names, values, strict=True)}


@contextmanager
def seeded(seed: int, step: int, device: str) -> Iterator[None]:
    """Dropout and whatever else torch draws is a function of the seed and the step; the caller's generators are left as they were."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1))
        yield
