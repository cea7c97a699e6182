"""Encoders so small that fine-tuning them takes a moment, and contents for them: what the tests of fine-tuning share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vecmeta.encoders import image
from vecmeta.encoders.weights import quiet

TOPICS = {
    "food": "bread soup cheese apple rice butter pepper",
    "money": "bank loan credit coin tax price debt",
    "music": "guitar song piano drum concert melody opera",
    "sport": "football tennis goal race coach stadium medal",
    "weather": "rain snow storm wind cloud sun frost",
    "travel": "train ticket hotel airport luggage map passport",
    "animal": "horse sheep tiger bird whale rabbit cow",
    "school": "teacher pupil lesson exam classroom chalk homework",
}
NOISE = ["the", "my", "a", "very", "some", "old", "new", "big", "little", "good", "bad", "one", "two", "first", "last"]


def tiny_text(folder: Path) -> Path:
    """A two-layer BERT of 32 dimensions with random weights, saved by sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # their place changed in version 6
        from sentence_transformers.models import Pooling, Transformer
    bert = folder / "bert"
    words = sorted({word for topic in TOPICS.values() for word in topic.split()} | set(NOISE))
    places = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(places, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(places), initializer_range=0.1, **shape)).save_pretrained(bert)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(bert)
        modules = [Transformer(str(bert), max_seq_length=32), Pooling(32, pooling_mode="mean")]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder / "tiny"), create_model_card=False)
    return folder / "tiny"


def topic_texts(count: int, seed: int = 0, topics: Sequence[str] = tuple(TOPICS)) -> tuple[list[str], list[str]]:
    """`count` texts of each topic, two of its words among three others, and their labels."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for topic in topics:
        for _ in range(count):
            words = [*rng.choice(TOPICS[topic].split(), 2, replace=False), *rng.choice(NOISE, 3)]
            texts.append(" ".join(rng.permutation(words)))
            labels.append(topic)
    return texts, labels


def tiny_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of two blocks and 16 dimensions, made known as "tiny" for as long as the patch lasts; the file of its weights."""
    import torch
    from safetensors.torch import save_file

    monkeypatch.setitem(image.NETWORKS, "tiny", image.Network(16, lambda _sha256: (_network(), _prepared)))
    monkeypatch.setitem(image.LAST, "tiny", "fc")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {name: value for name, value in _network().state_dict().items() if not name.startswith("fc.")}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def _network() -> Any:
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
            self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1))
            self.layer2 = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
            self.fc: nn.Module = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))).mean((2, 3)))
            return out

    return Tiny()


def _prepared(picture: Any) -> Any:
    import torch

    small = picture.resize((32, 32))
    return torch.from_numpy(np.asarray(small, np.float32).copy()).permute(2, 0, 1) / 127.5 - 1


def pictures(count: int, seed: int = 0) -> tuple[list[bytes], list[str]]:
    """`count` pictures each with a patch that is red, green, blue or yellow, on stripes of any grey; and their labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    contents, labels = [], []
    for name, colour in {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "yellow": (220, 220, 40)}.items():
        for _ in range(count):
            turn, width = rng.uniform(0, 3.1), rng.uniform(0.8, 2.0)
            stripes = np.sin((np.cos(turn) * x + np.sin(turn) * y) / width)[:, :, None] * rng.uniform(20, 120)
            pixels = rng.uniform(60, 190) + np.repeat(stripes, 3, 2)
            top, left = rng.integers(0, 20, 2)
            pixels[top : top + 12, left : left + 12] = colour
            buffer = BytesIO()
            Image.fromarray((pixels + rng.normal(0, 12, (32, 32, 3))).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
            contents.append(buffer.getvalue())
            labels.append(name)
    return contents, labels
