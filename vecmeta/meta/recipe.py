"""A whole meta-training: notions in; a start, its scores and a record of both out; what ``vecmeta meta-train`` calls.

From Python, with vectors of one's own and what is known of them::

    from vecmeta.meta.recipe import make_start
    from vecmeta.meta.sets import notions_of, set_from_metadata

    notions = notions_of(set_from_metadata("mine", vectors, metadata))  # or read_set(Path("faq.parquet"))
    made = make_start(notions, Path("mine.safetensors"))

or `vecmeta.meta.clusters.notions_from_clusters("mine", vectors)` where nothing is known of them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.errors import InvalidConfig
from vecmeta.meta.methods import NAMES, method_of
from vecmeta.meta.start import MetaConfig, Start, write_whole
from vecmeta.meta.tasks import Notion
from vecmeta.types import Progress

HELD_OUT = 5  # one notion of so many is held out where nothing else is given to choose by
LEAST_NOTIONS = 3  # with fewer, none is


def make_start(
    notions: Sequence[Notion],
    out: Path,
    config: MetaConfig | None = None,
    *,
    method: str = "maml",
    validation: Sequence[Notion] | None = None,
    resume: bool = True,
    provenance: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Meta-trains a method's start, chooses the best step by held-out notions, and writes it to ``out`` with a .json beside it.

    The state is kept in ``out`` + ".checkpoint" meanwhile, and an interrupted training goes on from there, to the same file ``out``
    byte for byte (with a GPU as ``device``, to rounding); ``resume=False`` begins anew. ``validation=None`` holds out a fifth of the
    notions, see `held_out`; an empty list holds out none, and the last step is taken. ``provenance`` goes into both files,
    ``seconds`` (with "training") into the .json alone.

    Returns what the .json says, and "out": the file's name.

    Raises:
        InvalidConfig: no notion, an unknown method or one that has no start, a checkpoint of another training, an ``out`` that cannot
            be written.
        StorageDamaged: a damaged checkpoint.
    """
    config = config or MetaConfig()
    check_request(method, out)
    if not notions:
        raise InvalidConfig("meta-training needs at least one notion")
    from vecmeta.meta.training import meta_train

    begin = time.perf_counter()
    if validation is None:
        train, chosen_by, why = held_out(notions, config.seed)
    else:
        train, chosen_by, why = list(notions), list(validation), "given"
    checkpoint = checkpoint_of(out)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    resumed = checkpoint.exists()
    before = _before(method, config, chosen_by, progress)
    facts = {**(provenance or {}), "validation_notions": why, "before": before, "versions": versions()}
    try:
        start = meta_train(
            train, config, progress, method=method, validation=chosen_by, provenance=facts, checkpoint=checkpoint, device=device
        )
        start.save(out)
        checkpoint.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidConfig(f"{Path(error.filename or out).name} cannot be read or written: {error.strerror or error}") from error
    spent = {**(seconds or {}), "training": round(time.perf_counter() - begin, 1)}
    return {"out": out.name, **_readable(out, {"scores": _scores(start), "seconds": spent, "resumed": resumed})}


def check_request(method: str, out: Path) -> None:
    """What can be known before any data are read. Raises InvalidConfig for a method without a start, or a file that cannot be written."""
    if method_of(method).OUTER == "none":
        able = ", ".join(name for name in NAMES if method_of(name).OUTER != "none")
        raise InvalidConfig(f"the method {method!r} has no start to train; these have: {able}")
    if out.is_dir() or out.suffix == ".json":
        raise InvalidConfig(f"{out} is no name for a start: give a file, such as start.safetensors; a .json is written beside it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InvalidConfig(f"{out} cannot be written: {error.strerror or error}") from error


def checkpoint_of(out: Path) -> Path:
    """Where the state of an unfinished training lies."""
    return out.with_name(f"{out.name}.checkpoint")


def held_out(notions: Sequence[Notion], seed: int) -> tuple[list[Notion], list[Notion], str]:
    """About a fifth of the notions to choose by, drawn by the seed, at least one of three; the others first; and why, in words."""
    if len(notions) < LEAST_NOTIONS:
        return list(notions), [], f"none: {len(notions)} of them are too few to hold one out"
    count = max(1, round(len(notions) / HELD_OUT))
    drawn = set(np.random.default_rng(seed).permutation(len(notions))[:count].tolist())
    out = [notion for place, notion in enumerate(notions) if place in drawn]
    return [notion for place, notion in enumerate(notions) if place not in drawn], out, f"held out by seed {seed}"


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    found = {}
    for name in ("vecmeta", "torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from its sources, not installed
            found[name] = "unknown"
    return found


def _before(method: str, config: MetaConfig, validation: Sequence[Notion], progress: Progress | None) -> dict[str, float] | None:
    """What the untrained start gains on the held-out notions."""
    from vecmeta.meta.fitting import initial_start
    from vecmeta.meta.training import score, validation_tasks

    if not validation:
        return None
    if progress is not None:
        progress("score before training", 0, 1)
    found = score(initial_start(method, config), [task for notion in validation for task in validation_tasks(notion, config)])
    if progress is not None:
        progress("score before training", 1, 1)
    return {name: round(value, 4) for name, value in asdict(found).items()}


def _scores(start: Start) -> dict[str, Any]:
    looks, best = start.provenance["validation"], start.provenance["best_step"]
    after = next(
        ({name: value for name, value in look.items() if name != "step"} for look in looks if look["step"] == best), None
    )
    return {"best_step": best, "before": start.provenance["before"], "after": after}


def _readable(out: Path, more: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to the .json what may differ from run to run, and so has no place in the start itself."""
    path = out.with_suffix(".json")
    about: dict[str, Any] = {**json.loads(path.read_bytes()), **more}
    write_whole(path, (json.dumps(about, indent=2) + "\n").encode())
    return about
