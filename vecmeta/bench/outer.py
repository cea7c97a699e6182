"""One outer step of meta-training, all tasks at once by vmap, against a loop over tasks: the same gradient, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from vecmeta.adaptation import torch_device
from vecmeta.bench.machine import machine
from vecmeta.meta.outer_loop import Step, toy_step

# dim, ways, shots, unlabelled items, test rows per class
SIZES = ((384, 5, 1, 400, 8), (384, 5, 5, 400, 8), (64, 5, 5, 400, 8), (384, 20, 5, 1200, 8))
METHODS = ("maml", "anil", "protonet")


def run(tasks: int = 32, repeats: int = 5, device: str = "auto") -> dict[str, Any]:
    """Medians of seconds, and their ratio; alternating, so that both meet the same machine. Asserts that the gradients agree.

    `device` is as for `vecmeta.open`.
    """
    rows = []
    threads = 1
    where = torch_device(device)
    for dim, ways, shots, items, per_class in SIZES:
        for method in METHODS:
            step: Step = toy_step(method, dim, ways, shots, items, per_class, tasks, where)
            threads = step.threads
            apart = step.apart()
            if apart > 1e-3:
                raise AssertionError(f"the batched step of {method} gives another gradient: {apart}")
            loop, batched = [], []
            for _ in range(repeats):
                loop.append(_seconds(step.loop, step.wait))
                batched.append(_seconds(step.batched, step.wait))
            slow, quick = statistics.median(loop), statistics.median(batched)
            size = {"dim": dim, "ways": ways, "shots": shots, "items": items}
            rows.append(
                {
                    "method": method,
                    **size,
                    "loop": slow,
                    "batched": quick,
                    "ratio": slow / quick,
                    "apart": apart,
                }
            )
    return {"machine": machine(device), "tasks": tasks, "repeats": repeats, "threads": threads, "device": where, "rows": rows}


def _seconds(work: Callable[[], Any], wait: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin
