"""Few-shot classification of handwritten characters: MAML, FOMAML, ANIL, Reptile and ProtoNet under one budget.

The data are 242 characters of 8 alphabets, 20 drawings each (a part of Omniglot, Lake et al. 2015), from a folder that holds
`omniglot_small/data.npz`. The papers have 1,623 characters and split them at random; here training, validation and test have different
alphabets and 179, 17 and 46 characters, so the papers' figures are out of reach. As in the papers: 28 x 28 pictures, rotations by 90
degrees as classes of their own in training, 5 ways, 15 queries of each class, 600 test episodes and 95 % confidence intervals over them.

Every method gets the same network, the same budget and the same test episodes. The budget is processor time by default: a second-order
step costs more than others, and that is part of the comparison. Unlike in the papers one training serves both 1-shot and 5-shot: its
episodes have the one and the other in turn, so that a small budget is not halved. ProtoNet trains with 20 ways (Snell et al. 2017).
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.types import Progress

if TYPE_CHECKING:
    from vecmeta.meta.fewshot import Name

# Latin and Greek share letters, so both are on one side; the largest alphabets are trained on.
SPLIT = {
    "train": ("Japanese_(katakana)", "Sanskrit", "Korean", "Latin", "Greek"),
    "validation": ("Tagalog",),
    "test": ("Balinese", "Early_Aramaic"),
}
METHODS: tuple[Name, ...] = ("maml", "fomaml", "anil", "reptile", "protonet")
SHOTS = (1, 5)
WAYS, QUERIES = 5, 15
SIDE = 28
SECONDS = 100.0  # of one training; five of them and the tests take about a quarter of an hour
Images = NDArray[np.float32]


def run(
    data_sets: Path,
    *,
    methods: Sequence[str] | None = None,
    seconds: float | None = None,
    episodes: int | None = None,
    test_episodes: int = 600,
    part: str = "test",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_sets: the folder of data sets.
        methods: which to train; all of METHODS by default.
        seconds: the budget of each training in seconds of processor time, SECONDS by default; or instead
        episodes: the budget of each training in episodes, with which a run can be repeated exactly.
        test_episodes: how many are tested on, with each number of shots.
        part: which alphabets are tested on, "test" or "validation". Settings were chosen on the latter.
        seed: of parameters and training episodes. The test episodes are always the same.
        device: as for `vecmeta.open`.
        progress: called after each update of a training; may raise `vecmeta.Cancelled`.

    Returns:
        {"machine": …, "settings": …, "classes": {part: count}, "runs": [{"method", "accuracy_1", "interval_1", "accuracy_5", …,
        "seconds", "episodes", "losses"}]}. An accuracy is a mean over test episodes, its interval half the width of the 95 % one.

    Raises:
        InvalidConfig: no such data, method or part; both budgets; a number below 1 (2 test episodes).
    """
    if seconds is not None and episodes is not None:
        raise vm.InvalidConfig("give a budget in seconds or in episodes, not both")
    if part not in ("test", "validation"):
        raise vm.InvalidConfig(f"tests are on the part 'test' or 'validation', not {part!r}")
    if test_episodes < 2:
        raise vm.InvalidConfig(f"an interval needs at least 2 test episodes, not {test_episodes}")
    names = list(methods or METHODS)
    if unknown := [name for name in names if name not in METHODS]:
        raise vm.InvalidConfig(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    budget = SECONDS if seconds is None and episodes is None else seconds
    classes = read(data_sets)

    from vecmeta.encoders.weights import torch_device
    from vecmeta.meta import fewshot

    place = torch_device(device)
    train = with_rotations(classes["train"])
    tests = {shots: draw(classes[part], np.random.default_rng(1), test_episodes, WAYS, shots + QUERIES) for shots in SHOTS}
    runs = []
    for name in METHODS:
        if name not in names:
            continue
        rng = np.random.default_rng(seed)
        begin = time.perf_counter()
        learner = fewshot.train(
            name,
            lambda count, ways, pictures, rng=rng: draw(train, rng, count, ways, pictures),  # type: ignore[misc]
            SHOTS,
            ways=WAYS,
            seconds=budget,
            episodes=episodes,
            side=SIDE,
            seed=seed,
            device=place,
            progress=progress,
        )
        facts: dict[str, Any] = {"method": name, "episodes": learner.episodes, "seconds": learner.seconds}
        facts["seconds_on_the_clock"] = round(time.perf_counter() - begin, 1)
        for shots, drawn in tests.items():
            right = learner.accuracies(drawn, shots)
            facts[f"accuracy_{shots}"] = round(float(right.mean()), 4)
            facts[f"interval_{shots}"] = round(float(1.96 * right.std(ddof=1) / len(right) ** 0.5), 4)
        runs.append({**facts, "losses": list(learner.losses)})
    return {
        "machine": machine(place),
        "settings": {"seconds": budget, "episodes": episodes, "test_episodes": test_episodes, "part": part, "seed": seed,
                     "ways": WAYS, "queries": QUERIES, "device": place},
        "classes": {name: len(pictures) for name, pictures in classes.items()},
        "runs": runs,
    }  # fmt: skip


def read(data_sets: Path) -> dict[str, Images]:
    """The characters of each part of the split: (characters, drawers, SIDE, SIDE) float32 in [0, 1], ink 1. Raises InvalidConfig."""
    from PIL import Image

    path = data_sets / "omniglot_small" / "data.npz"
    if not path.is_file():
        raise vm.InvalidConfig(f"no data set 'omniglot_small': there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            packed, labels, alphabets = arrays["image"], arrays["label"], arrays["alphabet"]
            width = int(arrays["shape"][2])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise vm.InvalidConfig(f"{path} is not what is expected, arrays image, label, alphabet and shape: {error}") from error
    paper = np.unpackbits(packed, axis=-1)[..., :width]  # (n, height, width): 1 is paper, 0 is ink
    small = [Image.fromarray(255 * (1 - drawing)).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for drawing in paper]
    pictures = np.stack([np.asarray(picture, np.float32) for picture in small]) / np.float32(255)
    parts = {}
    for part, members in SPLIT.items():
        if missing := set(members) - set(alphabets.tolist()):
            raise vm.InvalidConfig(f"{path} has no alphabet {sorted(missing)[0]!r}")
        rows = [np.flatnonzero(labels == label) for label in np.unique(labels[np.isin(alphabets, members)])]
        drawers = min(len(r) for r in rows)
        if len(rows) < WAYS or drawers < max(SHOTS) + QUERIES:
            raise vm.InvalidConfig(
                f"{path}: {WAYS} ways and {max(SHOTS) + QUERIES} drawings of each are needed; {part} has {len(rows)} and {drawers}"
            )
        parts[part] = np.stack([pictures[r[:drawers]] for r in rows])
    return parts


def with_rotations(classes: Images) -> Images:
    """Every character turned by 0, 90, 180 and 270 degrees, each a class: (c, d, side, side) -> (4 c, d, side, side)."""
    return np.concatenate([np.rot90(classes, turns, axes=(2, 3)) for turns in range(4)])


def draw(classes: Images, rng: np.random.Generator, episodes: int, ways: int, pictures: int) -> Images:
    """Random episodes of different classes and, in each, different drawings: (episodes, ways, pictures, side, side)."""
    chosen = rng.random((episodes, len(classes))).argsort(1)[:, :ways]  # (episodes, ways)
    drawings = rng.random((episodes, ways, classes.shape[1])).argsort(2)[:, :, :pictures]
    return classes[chosen[:, :, None], drawings]
