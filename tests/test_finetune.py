"""Fine-tuning of encoders: every mode and transfer on tiny models, resuming, what comes out, bad input."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tinymodels import NOISE, TOPICS, pictures, tiny_image, tiny_text, topic_texts
from vecmeta.encoders import ImageEncoder, open_encoder
from vecmeta.encoders.pictures import open_picture
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import (
    AlreadyExists,
    Cancelled,
    EncoderMismatch,
    EncoderUnavailable,
    InvalidConfig,
    InvalidInput,
    UndecodableContent,
)
from vecmeta.evaluate import map_at_r
from vecmeta.finetune import (
    MODES,
    Examples,
    FinetuneConfig,
    checkpoint_of,
    finetune,
    labelled,
    read_contents,
    read_examples,
    training,
)
from vecmeta.finetune.batches import Batches
from vecmeta.finetune.examples import stratified
from vecmeta.finetune.likeness import importance
from vecmeta.finetune.measuring import Exam
from vecmeta.meta.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

RATES = {"features": 1e-2, "lora": 1e-2, "full": 3e-3}
TAUGHT = tuple(TOPICS)[:4]


def config(mode: str, **more: Any) -> FinetuneConfig:
    return FinetuneConfig(**{"mode": mode, "rate": RATES[mode], "steps": 20, "measurements": 2, "pairs": 8, **more})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def text(place: Path) -> Encoder:
    return open_encoder(f"hf:{tiny_text(place / 'text')}", device="cpu")


@pytest.fixture(scope="module")
def image(place: Path) -> Iterator[Encoder]:
    with pytest.MonkeyPatch.context() as patch:
        yield ImageEncoder("tiny", tiny_image(place / "image", patch), device="cpu")


@pytest.fixture(scope="module")
def examples() -> Examples:
    return labelled(*topic_texts(8, topics=TAUGHT))


@pytest.fixture(scope="module")
def tuned(text: Encoder, examples: Examples, place: Path) -> Callable[[str], Path]:
    """A mode to the folder of what it made of the texts, each made once, by the first test that asks."""

    @cache
    def made(mode: str) -> Path:
        finetune(text, examples, place / mode, config(mode, steps=40, pairs=16, measurements=4))
        return place / mode

    return made


@pytest.fixture(scope="module")
def tuned_image(image: Encoder, place: Path) -> Callable[[str], Path]:
    """`tuned`, of pictures."""

    @cache
    def made(mode: str) -> Path:
        finetune(image, labelled(*pictures(8)), place / f"image-{mode}", config(mode, steps=30, pairs=12, holdout=0.25))
        return place / f"image-{mode}"

    return made


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "vecmeta.json").read_text())
    return found


def quality(encoder: Encoder, contents: list[Any], labels: list[str]) -> float:
    z, y = encoder.encode(contents), np.array(labels)
    return float(map_at_r(z, z, y[:, None] == y[None, :], exclude=np.arange(len(y))).mean())


# ---- modes


@pytest.mark.parametrize("mode", RATES)
def test_texts_are_found_better_than_before(mode: str, text: Encoder, tuned: Callable[[str], Path]) -> None:
    facts, encoder = facts_of(tuned(mode)), open_encoder(str(tuned(mode)), device="cpu")
    unseen = topic_texts(20, seed=1, topics=TAUGHT)
    assert quality(encoder, *unseen) > quality(text, *unseen) + 0.02
    assert facts["scores"]["finetuned"]["map"] > facts["scores"]["base"]["map"]
    assert facts["parent"] == text.name
    assert encoder.name == facts["name"]
    assert encoder.name.startswith("tiny-ft@")


@pytest.mark.parametrize("mode", RATES)
def test_pictures_are_found_better_than_before(mode: str, image: Encoder, tuned_image: Callable[[str], Path]) -> None:
    unseen = pictures(15, seed=1)
    assert quality(open_encoder(str(tuned_image(mode)), device="cpu"), *unseen) > quality(image, *unseen) + 0.01


@pytest.mark.parametrize("mode", RATES)
def test_sentence_transformers_loads_what_was_made(mode: str, tuned: Callable[[str], Path]) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tuned(mode)), device="cpu", local_files_only=True)
    texts = topic_texts(2)[0]
    theirs = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(theirs, open_encoder(str(tuned(mode)), device="cpu").encode(texts), atol=1e-5)


def test_features_leave_the_encoder_as_it_was(place: Path, tuned: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file

    made = load_file(tuned("features") / "model.safetensors")
    start = load_file(place / "text" / "tiny" / "model.safetensors")
    assert all((made[name] == value).all() for name, value in start.items())


def test_lora_changes_weights_by_low_ranks_alone(place: Path, tuned: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file

    made = load_file(tuned("lora") / "model.safetensors")
    start = load_file(place / "text" / "tiny" / "model.safetensors")
    assert made.keys() == start.keys()  # merged: nothing of peft is left
    moved = {name: made[name] - value for name, value in start.items() if not (made[name] == value).all()}
    assert moved
    for change in moved.values():
        singular = np.linalg.svd(change.numpy(), compute_uv=False)
        assert change.ndim == 2
        assert singular[8:].max(initial=0) < 1e-5 * singular[0]


def test_lower_layers_learn_later_and_more_slowly(text: Encoder, examples: Examples) -> None:
    from vecmeta.finetune.text import TextLearner
    from vecmeta.finetune.training import Lesson, _Run

    settings = config("full", unfreeze=0.5, layer_decay=0.5)
    learner = TextLearner(text, examples.contents, settings)  # type: ignore[arg-type]
    run = _Run(learner, Lesson(Batches(examples), None, np.empty(0, np.int64), None, 32), settings, None, None)
    assert [len(layer) > 0 for layer in run.layers] == [True] * 3  # embeddings, two layers
    learning = []
    for step in range(20):
        run.state.step = step
        run._schedule()
        learning.append([all(value.requires_grad for _, value in layer) for layer in run.layers])
    assert learning[0] == [False, False, True]
    assert learning[4] == [False, True, True]
    assert learning[10] == [True, True, True]
    rates = [group["lr"] for group in run.optimizer.param_groups]
    np.testing.assert_allclose(np.divide(rates[1:], rates[:-1]), 2.0)


def test_torchvision_loads_what_was_made(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(resnet18(weights=None).state_dict(), tmp_path / "mine.pth")
    encoder = open_encoder(f"resnet18:{tmp_path / 'mine.pth'}", device="cpu")
    contents, labels = pictures(3)
    finetune(encoder, labelled(contents[:6], labels[:6]), tmp_path / "ft", config("features", holdout=0.0))
    network = resnet18(num_classes=512)
    network.load_state_dict(load_file(tmp_path / "ft" / "model.safetensors"))
    _, prepare, _ = encoder.plain()  # type: ignore[attr-defined]
    with torch.inference_mode():
        z = network.eval()(prepare(open_picture(contents[0], 0))[None])[0].numpy()
    tuned = open_encoder(str(tmp_path / "ft"), device="cpu")
    np.testing.assert_allclose(z / np.linalg.norm(z), tuned.encode(contents[:1])[0], atol=1e-4)
    assert np.abs(tuned.encode(contents[:1]) - encoder.encode(contents[:1])).max() > 1e-3


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_torchvision_loads_all_layers(architecture: str, mode: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(models.get_model(architecture, weights=None).state_dict(), tmp_path / "mine.pth")
    encoder = open_encoder(f"{architecture}:{tmp_path / 'mine.pth'}", device="cpu")
    facts = finetune(encoder, labelled(pictures(1)[0] * 2, list("abcdabcd")), tmp_path / "ft", tiny_steps(mode))
    width = encoder.dim
    assert facts["load"].startswith(f"torchvision.models.{architecture}(num_classes={width})")
    network = models.get_model(architecture, num_classes=width)
    network.load_state_dict(load_file(tmp_path / "ft" / "model.safetensors"))
    agrees(network, encoder, tmp_path / "ft")


def tiny_steps(mode: str) -> FinetuneConfig:
    return config(mode, steps=2, pairs=2, side=32, holdout=0.0, unfreeze=0.0)


def agrees(network: Any, parent: Any, folder: Path) -> None:
    """A network of another library makes the vectors that the folder's encoder makes, and the parent does not."""
    import torch

    contents = pictures(1)[0][:2]
    _, prepare, _ = parent.plain()
    pixels = torch.stack([prepare(open_picture(content, 0)) for content in contents])
    with torch.inference_mode():
        theirs = torch.nn.functional.normalize(network.eval()(pixels)).numpy()
    tuned = open_encoder(str(folder), device="cpu").encode(contents)
    np.testing.assert_allclose(theirs, tuned, atol=2e-4)
    assert np.abs(parent.encode(contents) - tuned).max() > 1e-3


@pytest.mark.parametrize("mode", RATES)
def test_timm_loads_what_was_made(mode: str, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import load_file

    encoder = open_encoder("image", device="cpu")
    facts = finetune(encoder, labelled(pictures(1)[0] * 2, list("abcdabcd")), tmp_path / "ft", tiny_steps(mode))
    assert facts["load"].startswith("timm.create_model('tf_efficientnet_lite0', num_classes=1280)")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1280)
    network.load_state_dict(load_file(tmp_path / "ft" / "model.safetensors"))
    agrees(network, encoder, tmp_path / "ft")


def test_what_was_fine_tuned_can_be_fine_tuned_again(tuned_image: Callable[[str], Path], tmp_path: Path) -> None:
    contents, labels = pictures(4, seed=3)
    first = open_encoder(str(tuned_image("features")), device="cpu")
    for mode in ("features", "full"):
        settings = config(mode, steps=4, holdout=0.0, rate=1e-3 if mode == "features" else 1e-4)
        facts = finetune(first, labelled(contents, labels), tmp_path / mode, settings)
        again = open_encoder(str(tmp_path / mode), device="cpu")
        assert facts["name"] == again.name
        assert facts["parent"] == first.name
        cosines = (again.encode(contents) * first.encode(contents)).sum(1)
        assert 0.5 < cosines.min() < 0.9999999, mode  # not far from where it began, and not there


# ---- four kinds of transfer


def test_parameters_are_pulled_to_the_pretrained_ones(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    distances = {}
    for mode in RATES:
        for weight in (0.0, 10.0):
            settings = config(mode, transfer="parameters", l2_sp=weight, holdout=0.0, unfreeze=0.0)
            distances[weight] = _distance(text, finetune_to(text, examples, tmp_path / f"{mode}{weight}", settings))
        assert distances[10.0] < 0.7 * distances[0.0], mode


def _distance(before: Encoder, after: Encoder) -> float:
    """Between the vectors of texts of all topics."""
    texts = topic_texts(5, seed=5)[0]
    return float(np.linalg.norm(before.encode(texts) - after.encode(texts)))


def finetune_to(encoder: Encoder, examples: Examples, out: Path, settings: FinetuneConfig, **more: Any) -> Encoder:
    finetune(encoder, examples, out, settings, **more)
    return open_encoder(str(out), device="cpu")


def test_l2_sp_is_the_papers_formula() -> None:
    import torch

    from vecmeta.finetune.losses import l2_sp

    now, start = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    assert float(l2_sp([(now, start), (now, now)])) == pytest.approx(0.5 * (1 + 4))


def test_relations_among_unlabelled_items_are_kept(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    others = tuple(TOPICS)[4:]
    unlabelled = topic_texts(12, seed=7, topics=others)[0]
    probes = topic_texts(8, seed=8, topics=others)[0]

    def torn(encoder: Encoder) -> float:
        a, b = (np.linalg.norm(z[:, None] - z[None, :], axis=2) for z in (text.encode(probes), encoder.encode(probes)))
        return float(np.abs(a / a.mean() - b / b.mean()).mean())

    free = finetune_to(text, examples, tmp_path / "free", config("full", holdout=0.0, steps=30))
    settings = config("full", holdout=0.0, steps=30, transfer="relations", relation_weight=30.0)
    kept = finetune_to(text, examples, tmp_path / "kept", settings, unlabelled=unlabelled)
    assert torn(kept) < 0.7 * torn(free)


def test_relational_distillation_is_the_papers_formula() -> None:
    import torch

    from vecmeta.finetune.losses import relational

    rng = np.random.default_rng(0)
    z, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 4)))

    def huber(a: float, b: float) -> float:
        return 0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5

    def distances(x: Any) -> Any:
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / (d.sum() / 20)

    def cosine(x: Any, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / norms) if norms > 0 else 0.0

    distance = np.mean([huber(a, b) for a, b in zip(distances(z).ravel(), distances(t).ravel(), strict=True)])
    places = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    angle = np.mean([huber(cosine(z, *p), cosine(t, *p)) for p in places])
    assert float(relational(torch.tensor(z), torch.tensor(t))) == pytest.approx(distance + 2 * angle, rel=1e-4)


def test_instances_like_the_target_are_learned_from_more() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(2, 60, 8)) + np.array([[[2.0] + [0] * 7], [[-2.0] + [0] * 7]])
    target = rng.normal(size=(40, 8)) + np.array([2.0] + [0] * 7)
    weights = importance(np.concatenate((near, far)), target)
    assert weights.mean() == pytest.approx(1)
    assert weights[:60].mean() > 5 * weights[60:].mean()
    # and those of no weight are not drawn
    source = labelled([f"{n}" for n in range(120)], [str(n % 6) for n in range(120)])
    batches = Batches(source, weights)
    drawn = np.concatenate([batches.batch((0, step), 8).rows for step in range(30)])
    assert (drawn < 60).mean() > 0.8


def test_source_examples_help_where_they_look_like_the_target(text: Encoder, tmp_path: Path) -> None:
    few = labelled(*topic_texts(2, topics=TAUGHT))
    source = labelled(*topic_texts(10, seed=3, topics=TAUGHT))
    unseen = topic_texts(20, seed=1, topics=TAUGHT)
    alone = finetune_to(text, few, tmp_path / "alone", config("full", holdout=0.0))
    settings = config("full", holdout=0.0, transfer="instances")
    helped = finetune_to(text, few, tmp_path / "helped", settings, source=source)
    assert quality(helped, *unseen) > quality(alone, *unseen) + 0.02


def test_representation_draws_two_distributions_together(text: Encoder, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts, labels = topic_texts(8, topics=TAUGHT)
    upper = [f"{t} {' '.join(rng.choice(NOISE[:3], 8))}" for t in topic_texts(8, seed=9, topics=TAUGHT)[0]]  # another style

    def apart(encoder: Encoder) -> float:
        a, b = (np.cov(encoder.encode(part).T) for part in (texts, upper))
        return float(np.linalg.norm(a - b))

    free = finetune_to(text, labelled(texts, labels), tmp_path / "free", config("full", holdout=0.0))
    settings = config("full", holdout=0.0, transfer="representation", coral=1000.0)
    drawn = finetune_to(text, labelled(texts, labels), tmp_path / "drawn", settings, unlabelled=upper)
    assert apart(drawn) < 0.8 * apart(free)


# ---- the training


def test_checkpoints_take_a_tenth_of_the_time_at_most(
    text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    def slowly(self: Checkpoint, _path: Path) -> None:
        saved.append(self.facts["state"]["step"])
        time.sleep(0.5)

    monkeypatch.setattr(Checkpoint, "save", slowly)
    begin = time.perf_counter()
    finetune(text, examples, tmp_path / "out", config("features", steps=60, measurements=30, patience=30))
    took = time.perf_counter() - begin
    assert saved[0] == 2  # the first measurement is kept, and the last
    assert saved[-1] == 60
    assert len(saved) <= 2 + (took - 0.5 * len(saved)) / 4.5


@pytest.mark.parametrize("mode", RATES)
def test_a_killed_training_goes_on_to_the_same_result(
    mode: str, text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVING", np.inf)  # a checkpoint after every measurement
    settings = config(mode, steps=12, measurements=4, transfer="relations")
    whole = finetune(text, examples, tmp_path / "whole", settings)

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("fine-tuning") and done == 8:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        finetune(text, examples, tmp_path / "killed", settings, progress=stop)
    assert not (tmp_path / "killed").exists()
    assert checkpoint_of(tmp_path / "killed").exists()
    steps = []
    resumed = finetune(
        text, examples, tmp_path / "killed", settings, progress=lambda stage, done, total: steps.append((stage, done))
    )
    assert min(done for stage, done in steps if stage.startswith("fine-tuning")) == 7  # from the last measurement on
    assert resumed["sha256"] == whole["sha256"]
    assert resumed["scores"] == whole["scores"]
    assert not checkpoint_of(tmp_path / "killed").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "whole"]
    again = finetune(text, examples, tmp_path / "killed", settings)  # is there already: read, not made
    assert again == resumed


@pytest.mark.parametrize(("measured", "best"), [([0.5, 0.9, 1.0, 1.0, 1.0], 12), ([0.5, 1.0, 0.9, 0.9, 0.9], 3), ([1.0] * 5, 0)])
def test_of_equally_good_weights_the_later_ones_are_kept_but_for_the_untouched_encoder(
    measured: list[float], best: int, text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(measured)
    monkeypatch.setattr(Exam, "__call__", lambda *_: {"map": next(found), "ndcg": 0.0})
    facts = finetune(text, examples, tmp_path / "ft", config("features", steps=12, measurements=4, patience=9))
    assert [entry["map"] for entry in facts["scores"]["history"]] == measured
    assert facts["scores"]["best_step"] == best


def test_a_checkpoint_of_another_training_is_refused(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("fine-tuning") and done == 11:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        finetune(text, examples, tmp_path / "ft", config("features"), progress=stop)
    with pytest.raises(InvalidConfig, match="another config"):
        finetune(text, examples, tmp_path / "ft", config("features", seed=1))


def test_another_seed_gives_another_encoder(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    names = {finetune(text, examples, tmp_path / str(seed), config("features", seed=seed))["name"] for seed in (0, 1)}
    assert len(names) == 2


def test_it_stops_when_held_out_examples_are_found_no_better(text: Encoder, tmp_path: Path) -> None:
    texts, labels = topic_texts(8, topics=TAUGHT)
    wrong = [str(label) for label in np.random.default_rng(0).permutation(labels)]
    facts = finetune(text, labelled(texts, wrong), tmp_path / "ft", config("features", steps=400, measurements=40, patience=3))
    scores = facts["scores"]
    assert scores["steps"] < 400
    assert scores["finetuned"]["map"] == max(entry["map"] for entry in scores["history"])
    assert len([entry for entry in scores["history"] if entry["step"] > scores["best_step"]]) == 3


def test_a_batch_that_does_not_fit_is_halved(
    text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vecmeta.finetune.learner import LastLayer

    plain = LastLayer.vectors

    def small_memory(self: LastLayer, rows: Any, rng: Any) -> Any:
        if rng is not None and len(rows) > 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return plain(self, rows, rng)

    monkeypatch.setattr(LastLayer, "vectors", small_memory)
    facts = finetune(text, examples, tmp_path / "ft", config("features", pairs=16))
    assert facts["scores"]["steps"] == 20
    assert facts["notes"][0] == "out of memory: batches were halved to 4 pairs, from 16"
    monkeypatch.setattr(LastLayer, "vectors", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises((EncoderUnavailable, MemoryError)):
        finetune(text, examples, tmp_path / "none", config("features", holdout=0.0))
    assert not (tmp_path / "none").exists()


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vecmeta.finetune.learner import LastLayer

    monkeypatch.setattr(LastLayer, "layers", lambda self: (_ for _ in ()).throw(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        finetune(text, examples, tmp_path / "ft", config("features"))


def test_the_callers_random_numbers_are_left_alone(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    finetune(text, examples, tmp_path / "ft", config("full", steps=2, holdout=0.0))
    assert (torch.rand(3) == expected).all()


# ---- examples


def test_the_split_is_stratified() -> None:
    labels = ["a"] * 50 + ["b"] * 10 + ["c"] * 3 + ["d"] * 2 + ["e"]
    examples = labelled([str(n) for n in range(len(labels))], labels)
    split = stratified(examples, 0.2, seed=0)
    out = [int(split.held_out[rows].sum()) for rows in examples.members]
    assert out == [10, 2, 1, 0, 0]
    assert [len(rows) for rows in split.learned.members] == [40, 8, 2, 2, 1]
    assert not np.array_equal(split.held_out, stratified(examples, 0.2, seed=1).held_out)


def test_no_batch_tells_apart_what_belongs_together() -> None:
    rng = np.random.default_rng(0)
    labels = [[str(c) for c in rng.choice(6, 2, replace=False)] for _ in range(60)]  # two classes each
    examples = labelled([str(n) for n in range(60)], labels)
    batches = Batches(examples)
    for step in range(50):
        batch = batches.batch((0, step), 8)
        for part in batch.rounds:
            anchors, positives = ([set(labels[row]) for row in batch.rows[rows]] for rows in (part.anchors, part.positives))
            for i, a in enumerate(anchors):
                assert a & positives[i]
                assert not any(a & p & {c} for j, p in enumerate(positives) for c in a & positives[i] if j != i)


def test_files_and_folders_are_read(text: Encoder, image: Encoder, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, labels = topic_texts(2, topics=TAUGHT)
    rows = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)] + [{"text": " ", "label": "food"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows[:-1]) + ",food\n")
    pq.write_table(pa.table({"text": [r["text"] for r in rows], "label": [r["label"] for r in rows]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        found = read_examples([tmp_path / name], text)
        assert found.contents == tuple(texts)
        assert found.classes == tuple(sorted(TAUGHT))
        assert found.about["left_out"] == {"empty": 1}
        assert found.about["files"][0]["name"] == name
    assert read_contents([tmp_path / "a.jsonl"], text) == texts
    contents, colours = pictures(2)
    for n, (content, colour) in enumerate(zip(contents, colours, strict=True)):
        (tmp_path / "pictures" / colour).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / colour / f"{n}.png").write_bytes(content)
    (tmp_path / "pictures" / "red" / "broken.png").write_bytes(contents[0][:100])
    (tmp_path / "pictures" / "blue" / "text.jpg").write_text("no picture")
    found = read_examples([tmp_path / "pictures"], image)
    assert found.classes == ("blue", "green", "red", "yellow")
    assert len(found) == 8
    assert found.about["left_out"] == {"undecodable": 2}


# ---- bad input


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (["a"] * 4, "all 4 labelled items are of one class, 'a'"),
        (["a", "b", "c", "d"], "none of the 4 classes has two items"),
        ([None, "", None, None], "no labels to learn from"),
        (["a", "b"], "4 contents need as many labels, not 2"),
        (["a", "a", "b", None], "only the class 'a' has two items"),
    ],
)
def test_labels_that_teach_nothing(labels: list[Any], complaint: str, text: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        finetune(text, labelled(["one", "two", "three", "four"], labels), tmp_path / "ft", config("features"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mode": "some"}, "mode 'some' is none of features, lora, full"),
        ({"transfer": ("love",)}, "transfer 'love' is none of representation"),
        ({"rate": 0.0}, "rate is a number from"),
        ({"steps": 0}, "steps is a whole number from 1"),
        ({"pairs": 1}, "pairs is a whole number from 2"),
        ({"holdout": 0.9}, "holdout is a number from 0 to 0.5"),
        ({"metric": "loss"}, "'map' or 'ndcg'"),
        ({"seed": -1}, "seed is a whole number"),
        ({"precision": "fp16"}, "precision is one of auto, fp32, bf16"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        FinetuneConfig(**settings)


def test_transfers_that_lack_what_they_need(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    for transfer, wanted in (("instances", "source examples"), ("representation", "source examples or unlabelled")):
        with pytest.raises(InvalidConfig, match=wanted):
            finetune(text, examples, tmp_path / "ft", config("features", transfer=transfer))


def test_encoders_without_weights_to_train(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no weights"):
        finetune(open_encoder("vectors", dim=3), examples, tmp_path / "ft")
    with pytest.raises(InvalidConfig, match="whole numbers"):
        finetune(open_encoder("text:int8", device="cpu"), examples, tmp_path / "ft")
    pictured = labelled(pictures(2)[0], list("aabbccdd"))
    with pytest.raises(InvalidConfig, match="takes texts"):
        finetune(text, pictured, tmp_path / "ft")
    with pytest.raises(InvalidConfig, match="source example 0 is a bytes, and tiny@"):
        finetune(text, examples, tmp_path / "ft", config("full", transfer="instances"), source=pictured)
    with pytest.raises(InvalidConfig, match=r"base holds a vector of each content, \(32, 32\), not \(1, 32\)"):
        finetune(text, examples, tmp_path / "ft", config("full"), base=np.zeros((1, 32), np.float32))


@pytest.mark.parametrize("mode", RATES)
def test_texts_that_are_none_are_an_error_that_says_which(mode: str, text: Encoder, tmp_path: Path) -> None:
    for content, complaint in ((" ", "empty"), ("\ud800", "lone surrogate")):
        with pytest.raises(UndecodableContent, match=f"example 2: text 2 .*{complaint}") as caught:
            finetune(text, labelled(["a", "b", content, "c"], list("xxyy")), tmp_path / "ft", config(mode))
        assert caught.value.position == 2
    assert not list(tmp_path.iterdir())


def test_known_vectors_are_not_made_again(
    text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("features", transfer="relations")
    whole = finetune(text, examples, tmp_path / "whole", settings)
    base = text.encode(examples.contents)
    monkeypatch.setattr(type(text), "encode", lambda *_: (_ for _ in ()).throw(AssertionError("was encoded")))
    assert finetune(text, examples, tmp_path / "known", settings, base=base)["sha256"] == whole["sha256"]


def test_few_examples_are_not_measured_all_the_time(text: Encoder, tmp_path: Path) -> None:
    many = labelled(*topic_texts(25))
    facts = finetune(text, many, tmp_path / "ft", config("features", steps=60, measurements=12, pairs=4, patience=100))
    assert [entry["step"] for entry in facts["scores"]["history"]] == [
        0,
        25,
        50,
        60,
    ]  # 200 are measured, 8 learned from at a time


def test_pictures_are_decoded_once(image: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vecmeta.finetune import image as pictures_on_their_way

    contents, labels = pictures(6)
    plain, decoded = open_picture, list[int]()

    def counted(content: Any, row: int) -> Any:
        decoded.append(row)
        return plain(content, row)

    monkeypatch.setattr(pictures_on_their_way, "open_picture", counted)
    finetune(image, labelled(contents, labels), tmp_path / "all", config("full"))
    assert sorted(decoded) == list(range(24))
    monkeypatch.setattr(pictures_on_their_way, "KEPT", 10 * 3 * 32 * 32 * 4)  # ten pictures
    before = (tmp_path / "all" / "model.safetensors").read_bytes()
    decoded.clear()
    finetune(image, labelled(contents, labels), tmp_path / "some", config("full"))
    assert (tmp_path / "some" / "model.safetensors").read_bytes() == before
    assert sum(decoded.count(row) == 1 for row in range(24)) >= 10
    assert len(decoded) > 24


def test_empty_and_foreign_files(text: Encoder, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": "", "label": "a"}\n{"text": " ", "label": "b"}\n')
    with pytest.raises(InvalidConfig, match="nothing to learn from: 2 empty"):
        read_examples([tmp_path / "empty.jsonl"], text)
    (tmp_path / "other.jsonl").write_text('{"text": "one", "kind": "b"}\n')
    with pytest.raises(InvalidInput, match="no label in 'label' or"):
        read_examples([tmp_path / "other.jsonl"], text)
    with pytest.raises(InvalidInput, match="no text in 'sentence'"):
        read_examples([tmp_path / "other.jsonl"], text, content="sentence", label="kind")
    with pytest.raises(InvalidInput, match="no such file"):
        read_examples([tmp_path / "none.jsonl"], text)
    with pytest.raises(InvalidInput, match="is a folder"):
        read_examples([tmp_path], text)


def test_a_place_that_is_taken(text: Encoder, examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "ft").mkdir()
    with pytest.raises(AlreadyExists, match="is there already"):
        finetune(text, examples, tmp_path / "ft", config("features"))


def test_a_folder_whose_weights_are_not_its_own(
    place: Path, tuned: Callable[[str], Path], tuned_image: Callable[[str], Path], tmp_path: Path
) -> None:
    for folder in (tuned("full"), tuned_image("full")):
        shutil.copytree(folder, tmp_path / folder.name)
    shutil.copy(place / "text" / "tiny" / "model.safetensors", tmp_path / "full")
    with pytest.raises(EncoderMismatch, match="are not those that were written"):
        open_encoder(str(tmp_path / "full"), device="cpu")
    facts = json.loads((tmp_path / "image-full" / "vecmeta.json").read_text())
    facts["architecture"] = "resnet18"  # weights of another architecture
    (tmp_path / "image-full" / "vecmeta.json").write_text(json.dumps(facts))
    with pytest.raises(EncoderUnavailable, match="does not hold the weights of resnet18"):
        open_encoder(str(tmp_path / "image-full"), device="cpu").encode(pictures(1)[0])
    (tmp_path / "image-full" / "vecmeta.json").write_text("{}")
    with pytest.raises(EncoderUnavailable, match="damaged"):
        open_encoder(str(tmp_path / "image-full"), device="cpu")
    with pytest.raises(EncoderUnavailable, match="there is no folder"):
        open_encoder(str(tmp_path / "nowhere"), device="cpu")


def test_a_folder_keeps_its_name_wherever_it_lies(tuned: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tuned("features"), tmp_path / "elsewhere")
    assert open_encoder(str(tmp_path / "elsewhere")).name == open_encoder(str(tuned("features"))).name
    assert open_encoder(f"hf:{tmp_path / 'elsewhere'}").name == open_encoder(str(tuned("features"))).name


def test_the_rate_suits_the_encoder_where_none_is_given() -> None:
    rates = {(mode, kind): FinetuneConfig(mode=mode).rated(kind).rate for mode in MODES for kind in ("text", "image")}
    assert rates[("lora", "image")] < rates[("lora", "text")] == rates[("features", "image")]  # type: ignore[operator]
    assert rates[("full", "image")] == rates[("full", "text")] == FinetuneConfig(mode="full").top_rate
    assert FinetuneConfig(mode="lora", rate=0.5).rated("image").rate == 0.5


def test_the_rate_that_was_used_is_recorded(image: Encoder, tmp_path: Path) -> None:
    facts = finetune(image, labelled(*pictures(2)), tmp_path / "ft", FinetuneConfig(mode="lora", steps=1, pairs=4, holdout=0.0))
    assert facts["config"]["rate"] == FinetuneConfig(mode="lora").rated("image").rate


def test_weights_and_scores_are_recorded(tuned: Callable[[str], Path]) -> None:
    facts = facts_of(tuned("full"))
    assert facts["data"]["examples"] == 32
    assert facts["data"]["classes"] == 4
    assert facts["config"] == {**facts["config"], "mode": "full", "steps": 40}
    assert facts["sha256"].startswith(facts["name"].partition("@")[2])
    assert FinetuneConfig(**facts["config"]) == replace(FinetuneConfig(**facts["config"]))
