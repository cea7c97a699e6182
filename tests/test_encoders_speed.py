"""What makes encoding fast changes no more than it says: batches, packed and int8 layers, folded normalisations, half precision."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import threading
from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from vecmeta.encoders import ImageEncoder, TextEncoder, open_encoder
from vecmeta.encoders.image import default_image_encoder
from vecmeta.encoders.layers import exchanged, fold_norms, pack_linears, packed_linear, quantise_linears
from vecmeta.encoders.plain import PlainImages, PlainText
from vecmeta.encoders.tokens import batches, token_counter
from vecmeta.encoders.unpadded import unpad_bert
from vecmeta.encoders.weights import half_precision, inference
from vecmeta.errors import EncoderUnavailable, UndecodableContent
from vecmeta.types import Vectors

WORDS = [
    "refund",
    "my",
    "kettle",
    "because",
    "the",
    "orchestra",
    "tuned",
    "its",
    "violins",
    "before",
    "dawn",
    "naïve",
    "日本",
    "🙂",
]
TEXTS = [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(1 + i * i % 97)) for i in range(30)] + ["word " * 400]


def pictures(count: int) -> list[bytes]:
    made = []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
        buffer = BytesIO()
        Image.fromarray(noise).resize((60 + seed, 50), Image.Resampling.BICUBIC).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return cast(TextEncoder, open_encoder("text", device="cpu"))


@pytest.fixture(scope="module")
def int8() -> TextEncoder:
    encoder = cast(TextEncoder, open_encoder("text:int8"))
    try:
        encoder.encode(["some text"])
    except EncoderUnavailable as error:  # an older processor
        pytest.skip(str(error))
    return encoder


@pytest.fixture(scope="module")
def plain(text: TextEncoder) -> PlainText:
    return PlainText(text)


@pytest.fixture(scope="module")
def image() -> ImageEncoder:
    return cast(ImageEncoder, open_encoder("image", device="cpu"))


# ---- batches


def test_batches_of_equal_lengths() -> None:
    lengths = [5, 300, 7, 5, 256, 7, 5, 0, 1] * 30
    made = list(batches(lengths, 256, 1024, equal=True))
    assert sorted(place for batch in made for place in batch) == list(range(len(lengths)))
    for batch in made:
        cut = {max(1, min(lengths[place], 256)) for place in batch}
        assert len(cut) == 1
        assert len(batch) <= 64
        assert len(batch) * cut.pop() <= 1024
    assert [len(batch) for batch in made if lengths[batch[0]] < 2] == [60]  # 0 and 1 are one length to the model, 300 and 256 too
    assert len([batch for batch in made if lengths[batch[0]] >= 256]) == 15


def test_tokens_are_counted_as_the_model_makes_them(text: TextEncoder) -> None:
    model = text.model()
    count = token_counter(model)
    assert count is not None
    before = model.tokenizer.backend_tokenizer.padding, model.tokenizer.backend_tokenizer.truncation
    counted = count(TEXTS)
    assert (model.tokenizer.backend_tokenizer.padding, model.tokenizer.backend_tokenizer.truncation) == before
    assert counted == [int(model.preprocess([one])["attention_mask"].sum()) for one in TEXTS]
    assert counted[-1] == 256
    assert token_counter(SimpleNamespace(tokenizer=None)) is None


# ---- linear layers


def test_vectors_are_those_of_plain_sentence_transformers(text: TextEncoder, plain: PlainText) -> None:
    assert plain.dim == 384
    vectors = text.encode(TEXTS)
    np.testing.assert_allclose(vectors, plain.encode(TEXTS), atol=2e-6)
    for place in (0, 9, 30):
        np.testing.assert_allclose(text.encode([TEXTS[place]])[0], vectors[place], atol=2e-6)


class Two(torch.nn.Module):
    """Two linear layers; `outer` may look at the weights of the first."""

    def __init__(self, looks: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.looks = torch.nn.Linear(32, 48), torch.nn.Linear(48, 16, bias=False), looks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.looks:
            x = x.to(self.first.weight.dtype)
        return cast(torch.Tensor, self.second(torch.nn.functional.gelu(self.first(x))))


def probe_of(model: torch.nn.Module, rows: torch.Tensor) -> Any:
    def probe() -> Vectors:
        with torch.inference_mode():
            return cast(Vectors, model(rows).numpy())

    return probe


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")  # type: ignore[no-untyped-call]
def test_packed_layers_compute_the_same() -> None:
    torch.manual_seed(0)
    model, rows = Two(), torch.randn(3, 5, 32)
    probe = probe_of(model, rows)
    before = probe()
    assert pack_linears(model, probe)
    assert not any(type(module) is torch.nn.Linear for module in model.modules())
    np.testing.assert_allclose(probe(), before, atol=1e-5)


def test_a_model_that_packed_layers_do_not_suit_stays_as_it_was() -> None:
    looking = Two(looks=True)
    first, second = looking.first, looking.second
    assert not pack_linears(looking, probe_of(looking, torch.randn(4, 32)))
    assert (looking.first, looking.second) == (first, second)
    changing, answers = Two(), iter([np.zeros(3, np.float32), np.full(3, 0.01, np.float32)])
    first, second = changing.first, changing.second
    assert not pack_linears(changing, lambda: next(answers))
    assert (changing.first, changing.second) == (first, second)


def test_int8_layers_are_near_and_each_row_is_its_own() -> None:
    torch.manual_seed(0)
    model, rows = Two(), torch.randn(2, 20, 32) * torch.logspace(-3, 3, 20)[:, None]
    rows[0, 3], rows[1, 4] = 0, 7.5  # rows without a range
    with torch.inference_mode():
        exact = model.first(rows)
        try:
            quantise_linears(model)
        except RuntimeError as error:
            pytest.skip(str(error))
        found = model.first(rows)
        assert found.shape == (2, 20, 48)
        scale = exact.abs().amax(-1, keepdim=True)
        assert ((found - exact).abs() / scale).max() < 0.03
        for row in range(20):
            assert torch.equal(model.first(rows[:1, row : row + 1])[0, 0], found[0, row])


# ---- without padding


def bert(attention: str = "sdpa", **options: Any) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
    model = BertModel(BertConfig(**size, attn_implementation=attention, **options)).eval()
    for parameter in model.parameters():  # as made, all attention is the same
        torch.nn.init.normal_(parameter, std=0.3)
    return model


MASKS = {
    "none": None,
    "nothing padded": [[1] * 7] * 5,
    "to the right": [[1] * length + [0] * (7 - length) for length in (7, 7, 4, 4, 1)],
    "to the left": [[0] * (7 - length) + [1] * length for length in (2, 7, 1, 5, 5)],
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_bert_without_padding_computes_the_same(attention: str, mask: str) -> None:
    model, tokens = bert(attention), torch.randint(0, 50, (5, 7))
    given = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    with torch.inference_mode():
        before = model(tokens, attention_mask=given).last_hidden_state
        unpad_bert(torch.nn.Sequential(model), packed_linear)
        after = model(tokens, attention_mask=given).last_hidden_state
    assert after.shape == before.shape == (5, 7, 32)
    seen = torch.ones(5, 7, dtype=torch.bool) if given is None else given.bool()
    assert torch.allclose(after[seen], before[seen], atol=1e-5)
    assert not after[~seen].any()


def test_models_that_have_no_such_bert_stay_as_they_were() -> None:
    for model in (Two(), bert(is_decoder=True)):
        children = list(model.children())
        with pytest.raises(TypeError, match="without a BERT"):
            unpad_bert(model, packed_linear)
        assert list(model.children()) == children
    model, answers = bert(), iter([np.zeros(3, np.float32), np.full(3, 0.01, np.float32)])
    encoder = model.encoder
    assert not exchanged(lambda: unpad_bert(model, packed_linear), lambda: next(answers))
    assert model.encoder is encoder
    del model.encoder.layer[1].attention.self.key  # made otherwise
    assert not exchanged(lambda: unpad_bert(model, packed_linear), lambda: np.zeros(3, np.float32))
    assert model.encoder is encoder


def test_the_default_encoders_do_without_padding(text: TextEncoder, int8: TextEncoder) -> None:
    for encoder in (text, int8):
        assert [type(module).__name__ for module in encoder.model().modules()].count("Unpadded") == 1
        assert not encoder._model.get().equal
    assert not any(type(module).__name__ == "Unpadded" for module in text.plain().modules())


def test_int8_of_another_kind_of_model_is_encoded_by_length(int8: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Any:
        raise TypeError("no BERT")

    monkeypatch.setattr("vecmeta.encoders.text.unpad_bert", none)
    other = cast(TextEncoder, open_encoder("text:int8"))
    together = other.encode(TEXTS)
    assert other._model.get().equal
    assert (together * int8.encode(TEXTS)).sum(1).min() > 0.98
    np.testing.assert_allclose(other.encode(TEXTS[4:5])[0], together[4], atol=1e-6)


# ---- text:int8


def test_int8_is_an_encoder_of_its_own(text: TextEncoder, int8: TextEncoder) -> None:
    assert int8.name == text.name.replace("@", "-int8@")
    assert (int8.dim, int8.modality) == (384, "text")
    vectors, exact = int8.encode(TEXTS), text.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosines = (vectors * exact).sum(1)
    assert cosines.min() > 0.98
    assert cosines.max() < 0.99999  # it does compute in whole numbers


def test_int8_is_the_same_alone_and_in_company(int8: TextEncoder) -> None:
    together = int8.encode(TEXTS)
    np.testing.assert_array_equal(int8.encode(TEXTS), together)
    np.testing.assert_allclose(int8.encode(TEXTS[::-1])[::-1], together, atol=1e-6)
    for place in (0, 4, 17, 30):
        np.testing.assert_allclose(int8.encode([TEXTS[place]])[0], together[place], atol=1e-6)


def test_int8_is_the_processors() -> None:
    with pytest.raises(EncoderUnavailable, match=r"int8@\w+ computes on the processor, not on 'cuda'"):
        open_encoder("text:int8", device="cuda").encode(["hello"])


def test_int8_products_that_are_not_exact_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch.ops.onednn.qlinear_pointwise

    def saturating(*arguments: Any) -> torch.Tensor:
        return cast(torch.Tensor, multiply(*arguments)).clamp(max=40)

    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", saturating)
    with pytest.raises(
        EncoderUnavailable, match=r"all-MiniLM-L6-v2-int8@.*not exact; use the encoder of all-MiniLM-L6-v2 itself"
    ):
        open_encoder("text:int8").encode(["hello"])


# ---- pictures


def test_pictures_are_those_of_the_plain_network(image: ImageEncoder) -> None:
    given = pictures(7)
    vectors = image.encode(given)
    np.testing.assert_allclose(vectors, PlainImages(image).encode(given), atol=1e-5)
    network = image.model()[0]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_resnets_fold_too() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network, x = resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64)
    probe = probe_of(network, x)
    before = probe()
    assert fold_norms(network, probe)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    np.testing.assert_allclose(probe(), before, atol=1e-4)


class Misleading(torch.nn.Module):
    """A convolution and a normalisation that are named one after the other, and computed the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
        self.norm.running_mean = torch.rand(3) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.conv(self.norm(x)))


def test_a_network_that_cannot_be_folded_stays_as_it_was() -> None:
    torch.manual_seed(0)
    network = Misleading().eval()
    conv, norm = network.conv, network.norm
    probe = probe_of(network, torch.randn(1, 3, 4, 4))
    before = probe()
    assert not fold_norms(network, probe)
    assert (network.conv, network.norm) == (conv, norm)
    np.testing.assert_array_equal(probe(), before)


def test_a_bad_picture_ends_the_decoding(image: ImageEncoder) -> None:
    given: list[bytes] = pictures(12)
    given[9], given[11] = b"no picture", b""
    threads = threading.active_count()
    with pytest.raises(UndecodableContent) as caught:
        image.encode(given)
    assert caught.value.position == 9
    caught.value.__traceback__ = None
    del caught
    assert threading.active_count() == threads


# ---- half precision, as on a GPU


def test_processors_compute_in_float32() -> None:
    assert half_precision("cpu") is None
    assert half_precision("mps") is None
    with inference("cpu", None):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
        assert torch.is_inference_mode_enabled()
    with inference("cpu", torch.bfloat16):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spec", "half", "least"),
    [("text", torch.bfloat16, 0.999), ("image", torch.bfloat16, 0.98), ("image", torch.float16, 0.9999)],
)
def test_half_precision_is_near(
    spec: str, half: torch.dtype, least: float, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    contents: list[Any] = TEXTS if spec == "text" else pictures(6)
    exact = request.getfixturevalue(spec)
    expected = exact.encode(contents)
    monkeypatch.setattr(f"vecmeta.encoders.{spec}.half_precision", lambda device, **_: half)
    rounding = open_encoder(spec, device="cpu")
    assert rounding.name == exact.name
    vectors = rounding.encode(contents)
    assert vectors.dtype == np.float32
    cosines = (vectors * expected).sum(1)
    assert cosines.min() > least
    assert np.abs(vectors - expected).max() > 1e-5  # it was in use
    np.testing.assert_allclose(rounding.encode(contents[::-1])[::-1], vectors, atol=1e-2)


def test_numbers_too_large_for_half_precision_are_computed_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ImageEncoder("efficientnet-lite0", default_image_encoder("cpu")._weights, device="cpu")
    network, prepare, device = encoder.model()
    monkeypatch.setattr(encoder, "model", lambda: (lambda pixels: network(pixels * 1e5), prepare, device))
    expected = encoder.encode(pictures(5))
    monkeypatch.setattr("vecmeta.encoders.image.half_precision", lambda device, **_: torch.float16)
    np.testing.assert_allclose(encoder.encode(pictures(5)), expected, atol=1e-6)
