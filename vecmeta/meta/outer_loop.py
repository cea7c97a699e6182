"""The outer step as learn2learn and others write it, a loop over tasks: what `training.outer_slopes` is measured against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vecmeta.meta.fitting import initial_start
from vecmeta.meta.methods import method_of
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.tasks import Notion, sample_task
from vecmeta.meta.training import outer_loss, outer_slopes, tensors_of, together


class Step:
    """One outer step on the same tasks, in two ways."""

    def __init__(
        self, method: str, notion: Notion, ways: int, shots: int, items: int, per_class: int, tasks: int, device: str = "cpu"
    ) -> None:
        self.config = MetaConfig(rows_per_class=per_class)
        rng = np.random.default_rng(0)
        drawn = [
            sample_task(notion, self.config, rng, ways=ways, shots=shots, kind="concepts", collection=items) for _ in range(tasks)
        ]
        self.method = method_of(method)
        self.tasks = [tensors_of(task, self.config, rng, device=device) for task in drawn]
        self.batch = together(self.tasks)
        self.params = {
            name: torch.tensor(value, device=device) for name, value in initial_start(method, self.config).tensors.items()
        }
        self.threads = torch.get_num_threads()
        self.device = device

    def wait(self) -> None:
        """Until all is computed: a GPU computes while we go on."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def loop(self) -> dict[str, Tensor]:
        """Task after task: clone the start, adapt, backward; gradients add up in the leaves."""
        leaves = {name: value.clone().requires_grad_() for name, value in self.params.items()}
        for support, test in self.tasks:
            clones = {name: leaf.clone() for name, leaf in leaves.items()}
            loss = outer_loss(self.method, clones, support, test, self.config) / len(self.tasks)
            loss.backward()  # type: ignore[no-untyped-call]
        return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}

    def batched(self) -> dict[str, Tensor]:
        """All at once."""
        return outer_slopes(self.method, self.params, self.batch, self.config)[0]

    def apart(self) -> float:
        """The largest difference of the two gradients."""
        one, other = self.loop(), self.batched()
        return max(float((one[name] - other[name]).abs().max()) for name in one)


def toy_step(method: str, dim: int, ways: int, shots: int, items: int, per_class: int, tasks: int, device: str = "cpu") -> Step:
    """On clusters of unit rows, 40 of 30 rows: tasks of that many ways and shots in collections of so many items."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(40, dim)), 30, 0) + 1.5 * rng.normal(size=(1200, dim))
    rows = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    notion = Notion("clusters", rows, [np.arange(30) + 30 * place for place in range(40)])
    return Step(method, notion, ways, shots, items, per_class, tasks, device)
