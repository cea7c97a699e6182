"""From judgements to a head: one episode, one method, one start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vecmeta.errors import InvalidConfig, InvalidVector
from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.head import Memory, MemoryHead
from vecmeta.meta.methods import method_of
from vecmeta.meta.slopes import taken_as_they_are
from vecmeta.meta.start import MetaConfig, Start, load_start
from vecmeta.meta.support import support_of
from vecmeta.meta.threads import one_thread


def initial_start(method: str = "maml", config: MetaConfig | None = None) -> Start:
    """A method's start before any meta-training. Raises InvalidConfig for an unknown method."""
    config = config or MetaConfig()
    return Start(method, method_of(method).initial(config), config)


def start_of(method: str, path: Path | None = None) -> Start:
    """A method's start: of the file, or the shipped one, or the initial one of a method that nothing is learned for beforehand.

    Raises InvalidConfig for an unknown method, a file that cannot be read or is for another method; StorageDamaged for a damaged one.
    """
    if path is None and method_of(method).OUTER == "none":
        return initial_start(method)
    start = load_start(path, method)
    check_start(start)
    return start


def check_start(start: Start) -> None:
    """Raises InvalidConfig when a start does not hold what its method reads."""
    wanted = {name: np.shape(value) for name, value in method_of(start.method).initial(start.config).items()}
    found = {name: value.shape for name, value in start.tensors.items()}
    if wanted != found:
        odd = sorted(set(wanted.items()) ^ set(found.items()))
        raise InvalidConfig(f"a start for {start.method!r} does not hold the numbers that the method reads: {odd}")


def fit(start: Start, episode: Episode, stats: Statistics, *, device: str = "cpu", seed: int = 0) -> MemoryHead:
    """Learns from an episode by the start's method; the head of strength 1.

    The same arguments give the same bytes (`MemoryHead.to_bytes`) on the same machine. Columns without a positive are ignored; of an
    episode of more rows than the start's inner_rows so many are drawn, balanced over the concepts.

    Raises InvalidVector when episode and statistics differ in dimension, InvalidConfig when start and method do not fit.
    """
    if episode.x.shape[1] != stats.background.shape[1]:
        raise InvalidVector(
            f"judged rows of dimension {episode.x.shape[1]} in a collection of dimension {stats.background.shape[1]}"
        )
    check_start(start)
    method = method_of(start.method)
    with one_thread(), taken_as_they_are(), torch.no_grad():
        support = support_of(episode, stats, start.config.inner_rows, np.random.default_rng(seed), device)
        params = {name: torch.tensor(value, device=device) for name, value in start.tensors.items()}
        memory = method.memory(params, support, start.config)
    arrays = (None if part is None else part.detach().cpu().numpy() for part in memory)
    return MemoryHead(Memory(*arrays), stats.mean, provenance={"method": start.method, "start": start.hash})
