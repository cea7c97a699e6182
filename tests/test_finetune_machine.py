"""Fine-tuning on the machine that there is: half precision, and batches that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vecmeta as vm
from tests.conftest import WordCounter
from tests.tinymodels import TOPICS, pictures, tiny_image, tiny_text, topic_texts
from vecmeta.encoders import ImageEncoder, open_encoder
from vecmeta.encoders.memory import halved, out_of_memory
from vecmeta.encoders.parts import encoded
from vecmeta.encoders.protocol import Encoder
from vecmeta.finetune import Examples, FinetuneConfig, finetune, labelled
from vecmeta.finetune.batches import Batches
from vecmeta.finetune.image import ImageLearner
from vecmeta.finetune.learner import Learner
from vecmeta.finetune.text import TextLearner
from vecmeta.finetune.training import Lesson, _Run, half_of
from vecmeta.types import Content, Vectors

pytestmark = pytest.mark.usefixtures("one_thread")

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
QUICK: dict[str, Any] = {"rate": 1e-3, "steps": 12, "measurements": 4, "pairs": 8, "unfreeze": 0.0}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return open_encoder(f"hf:{tiny_text(tmp_path_factory.mktemp('machine') / 'text')}", device="cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    with pytest.MonkeyPatch.context() as patch:
        yield ImageEncoder("tiny", tiny_image(tmp_path_factory.mktemp("machine") / "image", patch), device="cpu")


@pytest.fixture(scope="module")
def examples() -> Examples:
    return labelled(*topic_texts(8, topics=tuple(TOPICS)[:4]))


# ---- precision


def trained(
    encoder: Any, examples: Examples, precision: str
) -> tuple[list[float], dict[str, Any], set[tuple[bool, torch.dtype]]]:
    """Losses of each step, weights after the last one, and what layers computed in: (whether it is depthwise, type)."""
    settings = FinetuneConfig(**{**QUICK, "precision": precision})
    made: Callable[..., Learner] = TextLearner if encoder.modality == "text" else ImageLearner
    learner = made(encoder, examples.contents, settings)
    types: set[tuple[bool, torch.dtype]] = set()
    layers = [m for m in learner.module.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    for layer in layers:
        layer.register_forward_hook(lambda module, _given, made: types.add((getattr(module, "groups", 1) > 1, made.dtype)))
    run = _Run(learner, Lesson(Batches(examples), None, np.empty(0, np.int64), None, len(examples)), settings, None, None)
    losses: list[float] = []
    plain = run._loss

    def told(pairs: int) -> torch.Tensor:
        loss = plain(pairs)
        losses.append(float(loss.detach()))
        return loss

    run._loss = told  # type: ignore[method-assign]
    for _ in range(QUICK["steps"]):
        run.advance()
    return losses, {name: v.detach().clone() for name, v in zip(run.names, run.values, strict=True)}, types


@pytest.mark.parametrize("kind", ["text", "image"])
def test_half_precision_follows_full(kind: str, text: Encoder, image: Encoder, examples: Examples) -> None:
    encoder = text if kind == "text" else image
    given = examples if kind == "text" else labelled(*pictures(8))
    settings = FinetuneConfig(mode="full")
    made: Any = TextLearner if kind == "text" else ImageLearner
    start = {name: v.detach() for layer in made(encoder, given.contents, settings).layers() for name, v in layer}
    losses, weights, types = trained(encoder, given, "fp32")
    half_losses, half_weights, half_types = trained(encoder, given, "bf16")
    assert {computed for _, computed in types} == {torch.float32}
    # gradients of depthwise convolutions are slower in bfloat16
    assert half_types == {(False, torch.bfloat16), *([(True, torch.float32)] if kind == "image" else [])}
    assert losses != half_losses
    np.testing.assert_allclose(half_losses, losses, rtol=0.05, atol=0.02)
    assert {value.dtype for value in half_weights.values()} == {torch.float32}
    # All together: Adam takes steps of one size, and where a gradient is nothing its sign is rounding (an attention's key bias).
    moved, apart = (
        float(torch.stack([(value - other[name]).norm() for name, value in weights.items()]).norm())
        for other in (start, half_weights)
    )
    assert apart < 0.3 * moved


def test_what_is_computed_in() -> None:
    def half(device: str = "cpu", **settings: Any) -> torch.dtype | None:
        return half_of(FinetuneConfig(**settings), device)

    assert half() is None
    assert half(precision="fp32") is None
    assert half(precision="bf16") is torch.bfloat16
    assert half(precision="bf16", mode="lora") is torch.bfloat16
    assert half(precision="bf16", mode="features") is None
    with pytest.raises(vm.InvalidConfig, match="precision is one of auto, fp32, bf16, not 'fp8'"):
        FinetuneConfig(precision="fp8")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_half_precision_goes_on_to_the_same_result(mode: str, text: Encoder, examples: Examples, tmp_path: Path) -> None:
    settings = FinetuneConfig(**{**QUICK, "mode": mode, "precision": "bf16", "transfer": "relations"})
    whole = finetune(text, examples, tmp_path / "whole", settings)

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("fine-tuning") and done == 8:
            raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled):
        finetune(text, examples, tmp_path / "killed", settings, progress=stop)
    resumed = finetune(text, examples, tmp_path / "killed", settings)
    assert resumed["sha256"] == whole["sha256"]
    assert resumed["scores"] == whole["scores"]
    assert whole["computed"] == {"device": "cpu", "type": "bfloat16"}


@ON_GPU
@pytest.mark.parametrize("mode", ["full", "lora", "features"])
def test_on_a_gpu(mode: str, text: Encoder, examples: Examples, tmp_path: Path) -> None:
    encoder = open_encoder(str(text._folder), device="cuda")  # type: ignore[attr-defined]
    facts = finetune(encoder, examples, tmp_path / "ft", FinetuneConfig(**{**QUICK, "mode": mode, "steps": 40}))
    assert facts["computed"]["type"] == ("float32" if mode == "features" else "bfloat16" if _modern() else "float16")
    assert facts["scores"]["finetuned"]["map"] > facts["scores"]["base"]["map"]
    texts = topic_texts(3)[0]
    on_both = [open_encoder(str(tmp_path / "ft"), device=device).encode(texts) for device in ("cpu", "cuda")]
    assert (on_both[0] * on_both[1]).sum(1).min() > 0.99


def _modern() -> bool:
    return torch.cuda.get_device_capability()[0] >= 8


# ---- memory


class Small:
    """An encoder whose memory is full with more than so many contents at a time."""

    def __init__(self, encoder: Encoder, fits: int) -> None:
        self.name, self.dim, self.modality, self._encoder, self._fits = encoder.name, encoder.dim, encoder.modality, encoder, fits
        self.asked: list[int] = []

    def encode(self, contents: Sequence[Content]) -> Vectors:
        self.asked.append(len(contents))
        if len(contents) > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._encoder.encode(contents)


def test_encoding_is_halved() -> None:
    words = [f"red cat {'dog ' * (n % 5)}" for n in range(300)]
    small = Small(WordCounter(), 50)
    told: list[tuple[int, int]] = []
    found = encoded(small, words, "encoding", lambda _, done, total: told.append((done, total)))
    np.testing.assert_array_equal(found, WordCounter().encode(words))
    assert small.asked[:4] == [256, 128, 64, 32]
    assert set(small.asked[4:]) == {32, 300 % 32}  # from then on as much as fits
    assert told[-1] == (300, 300)
    with pytest.raises(vm.EncoderUnavailable, match=r"out of memory: word-counter@1 cannot encode even one content"):
        encoded(Small(WordCounter(), 0), words, "encoding", None)
    assert encoded(Small(WordCounter(), 0), [], "encoding", None).shape == (0, WordCounter.dim)


def test_the_place_of_what_cannot_be_encoded_is_that_among_all() -> None:
    words = [*["red cat"] * 70, "", "blue dog"]
    for fits, at in ((1000, 70), (16, 70)):
        with pytest.raises(vm.UndecodableContent) as caught:
            encoded(Small(WordCounter(), fits), words, "encoding", None)
        assert caught.value.position == at


def test_what_is_a_lack_of_memory() -> None:
    for error in (torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
                  RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")):  # fmt: skip
        assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    def fault(_size: int) -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        halved(fault, 8, 1, "nothing")


def short_of(monkeypatch: pytest.MonkeyPatch, kind: type[Any], measuring: int, training: int = 10_000) -> list[tuple[bool, int]]:
    """A learner's memory is full with more than so many contents at a time; what was asked of it: (learning, contents)."""
    plain, asked = kind.vectors, []

    def vectors(self: Any, rows: Any, rng: Any) -> Any:
        asked.append((rng is not None, len(rows)))
        if len(rows) > (measuring if rng is None else training):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(self, rows, rng)

    monkeypatch.setattr(kind, "vectors", vectors)
    return asked


@pytest.mark.parametrize("kind", ["text", "image"])
def test_measuring_is_halved(
    kind: str, text: Encoder, image: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = text if kind == "text" else image
    given = examples if kind == "text" else labelled(*pictures(12))
    settings = FinetuneConfig(**QUICK)
    plain = finetune(encoder, given, tmp_path / "plain", settings)
    asked = short_of(monkeypatch, TextLearner if kind == "text" else ImageLearner, measuring=7)
    halved = finetune(encoder, given, tmp_path / "halved", settings)
    assert max(count for learning, count in asked if not learning) > 7
    assert 4 in {count for learning, count in asked if not learning}
    for before, after in zip(plain["scores"]["history"], halved["scores"]["history"], strict=True):
        assert after["map"] == pytest.approx(before["map"], abs=0.02)
    assert not halved["notes"] or "out of memory" not in halved["notes"][0]  # batches are what they were
    short_of(monkeypatch, TextLearner if kind == "text" else ImageLearner, measuring=0)
    with pytest.raises(vm.EncoderUnavailable, match="out of memory: not even one content can be measured"):
        finetune(encoder, given, tmp_path / "none", settings)
    assert not (tmp_path / "none").exists()


def test_halved_batches_go_on_to_the_same_result(
    text: Encoder, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was halved before an interruption is not tried again after it."""
    settings = FinetuneConfig(**QUICK)
    asked = short_of(monkeypatch, TextLearner, measuring=10_000, training=10)
    whole = finetune(text, examples, tmp_path / "whole", settings)
    assert "batches were halved to 4 pairs, from 8" in whole["notes"][0]

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("fine-tuning") and done == 8:
            raise vm.Cancelled("enough")

    with pytest.raises(vm.Cancelled):
        finetune(text, examples, tmp_path / "killed", settings, progress=stop)
    asked.clear()
    resumed = finetune(text, examples, tmp_path / "killed", settings)
    assert max(count for learning, count in asked if learning) <= 10
    assert resumed["sha256"] == whole["sha256"]


def test_the_collection_is_encoded_anew_with_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Encoder
) -> None:
    """The exam and the re-encoding halve as well, and what goes live is what it would have been."""
    from vecmeta.encoders.text import TextEncoder

    each, versions = 15, []
    texts, labels = topic_texts(each)
    for fits in (None, 10):
        with pytest.MonkeyPatch.context() as patch, vm.open(tmp_path / f"{fits}", device="cpu") as db:
            collection = db.create("docs", encoder=f"hf:{text._folder}")  # type: ignore[attr-defined]
            collection.add([vm.Item(f"i{n}", x, {"topic": y}) for n, (x, y) in enumerate(zip(texts, labels, strict=True))])
            sizes: list[int] = []
            if fits is not None:
                plain = TextEncoder.encode

                def encode(
                    self: TextEncoder,
                    contents: Sequence[Content],
                    fits: int = fits,
                    plain: Any = plain,
                    sizes: list[int] = sizes,
                ) -> Vectors:
                    if self.name.startswith("tiny-ft"):
                        sizes.append(len(contents))
                        if len(contents) > fits:
                            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                    vectors: Vectors = plain(self, contents)
                    return vectors

                patch.setattr(TextEncoder, "encode", encode)
            config = {"rate": 1e-2, "steps": 40, "pairs": 12, "measurements": 4}
            report = collection.finetune("features", field="topic", config=config)
            assert report.decision == "promoted", report.reason
            versions.append(collection.embed([vm.Id(f"i{n}") for n in range(0, each * 8, 7)]))
            if fits is not None:
                assert max(sizes) > fits
                assert sum(size for size in sizes if size <= fits) >= 2 * each * 8  # for the exam, and for the swap
    np.testing.assert_allclose(versions[0], versions[1], atol=1e-5)
