"""What a GPU computes beside what the processor does; each of these tests says that it was skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vecmeta as vm
from tests.metatoys import CONFIG, judged, nuisance, params64, toy_notion
from tests.test_reindex import head_of
from vecmeta.adaptation import torch_device
from vecmeta.bench.machine import machine
from vecmeta.encoders import open_encoder
from vecmeta.meta.episodes import Episode, statistics
from vecmeta.meta.fitting import fit, start_of
from vecmeta.meta.methods import NAMES, method_of
from vecmeta.meta.outer_loop import toy_step
from vecmeta.meta.projecting import projector
from vecmeta.meta.recipe import make_start
from vecmeta.meta.start import MetaConfig, load_start
from vecmeta.meta.training import meta_train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def test_auto_is_the_gpu() -> None:
    assert [torch_device(device) for device in ("auto", "cpu", "cuda", "cuda:0")] == ["cuda", "cpu", "cuda", "cuda:0"]
    assert machine("auto")["gpu"] == torch.cuda.get_device_name()
    assert machine("cuda")["machine"] != machine()["machine"]


@pytest.mark.parametrize("linear", [False, True])
def test_projecting_is_as_exact_as_on_the_processor(linear: bool) -> None:
    rows = np.random.default_rng(4).standard_normal((3000, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    head = head_of(0.7, linear)
    np.testing.assert_allclose(projector(head, "cuda").project(rows), head.project(rows), atol=2e-6)


@pytest.mark.parametrize("method", NAMES)
def test_every_method_learns_the_same_head(method: str) -> None:
    x, labels = nuisance()
    rows, y = judged(labels, range(8), 4)
    stats = statistics(x, len(x))
    heads = [fit(start_of(method), Episode(x[rows], y), stats, device=device) for device in ("cpu", "cuda")]
    here, there = (head.project(x) for head in heads)
    assert (here * there).sum(1).min() > 0.999
    assert np.abs(here - x).max() > 1e-3  # it does something


@pytest.mark.parametrize("method", ["maml", "anil", "protonet"])
def test_an_outer_step_is_the_same(method: str) -> None:
    sizes: dict[str, Any] = {"dim": 16, "ways": 3, "shots": 2, "items": 60, "per_class": 4, "tasks": 3}
    here, there = (toy_step(method, **sizes, device=device) for device in ("cpu", "cuda"))
    assert there.apart() < 1e-3
    slopes = there.batched()
    for name, slope in here.batched().items():
        np.testing.assert_allclose(slopes[name].cpu().numpy(), slope.numpy(), atol=2e-3, rtol=2e-3)


def test_meta_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = MetaConfig(tasks=12, batch=4, outer_steps=12, validate_every=4)
    notions = [toy_notion(f"toy {seed}", seed=seed) for seed in range(4)]

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("meta-train") and done == 9:
            raise vm.Cancelled("enough")

    whole = make_start(notions, tmp_path / "whole.safetensors", config, device="cuda")
    with pytest.raises(vm.Cancelled):
        make_start(notions, tmp_path / "cut.safetensors", config, device="cuda", progress=stop)
    again = make_start(notions, tmp_path / "cut.safetensors", config, device="cuda")
    assert (again["resumed"], again["scores"]["best_step"]) == (True, whole["scores"]["best_step"])
    one, other = (load_start(tmp_path / f"{name}.safetensors", "maml").tensors for name in ("whole", "cut"))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=1e-3)
    here = meta_train(notions, config, validation=[])
    there = meta_train(notions, config, validation=[], device="cuda")
    for name, value in here.tensors.items():
        np.testing.assert_allclose(there.tensors[name], value, atol=2e-2)


def test_double_precision_agrees_to_its_rounding() -> None:
    """The methods themselves, without float32's rounding: what is left would be a difference in what is computed."""
    from tests.metatoys import support64

    for name in ("maml", "protonet", "ridge", "cnp"):
        support, params = support64(), params64(name)
        here = method_of(name).memory(params, support, CONFIG)
        there = method_of(name).memory(
            {key: value.cuda() for key, value in params.items()}, type(support)(*(part.cuda() for part in support)), CONFIG
        )
        for mine, theirs in zip(here, there, strict=True):
            if mine is not None:
                np.testing.assert_allclose(theirs.detach().cpu().numpy(), mine.detach().numpy(), atol=1e-8)


def test_a_collection_is_taught_on_it(tmp_path: Path) -> None:
    x, labels = nuisance(classes=12, per_class=60)
    found = {}
    for device in ("cpu", "cuda"):
        with vm.open(tmp_path / device, device=device) as db:
            c = db.create("c", encoder="vectors", dim=x.shape[1])
            c.add_vectors([f"{row}" for row in range(len(x))], x)
            rows, _ = judged(labels, range(8), 6)
            c.feedback([vm.Judgement(f"{row}", concept=f"concept {labels[row]}") for row in rows])
            assert c.adapt().decision == "promoted"
            found[device] = [[hit.id for hit in hits] for hits in c.search_many(list(x[:100]), 5)]
    same = np.mean([one == other for one, other in zip(found["cpu"], found["cuda"], strict=True)])
    assert same > 0.95


def test_the_default_text_encoder_is_near() -> None:
    texts = ["a red car", "how do I reset my password?", "the cat sat on the mat " * 30, "Wien"] * 20
    here, there = (open_encoder("text", device=device).encode(texts) for device in ("cpu", "cuda"))
    assert there.dtype == np.float32
    assert (here * there).sum(1).min() > 0.999


def test_the_default_image_encoder_is_near() -> None:
    from tests.tinymodels import pictures

    here, there = (open_encoder("image", device=device).encode(pictures(18)[0]) for device in ("cpu", "cuda"))
    assert (here * there).sum(1).min() > 0.9999
