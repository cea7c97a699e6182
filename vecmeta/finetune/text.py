"""Sentence-embedding models on their way: layers by depth, texts to vectors with gradients, a folder that sentence-transformers loads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vecmeta.encoders.text import TextEncoder
from vecmeta.encoders.weights import quiet, to_device
from vecmeta.finetune.config import FinetuneConfig
from vecmeta.finetune.learner import WEIGHTS, Adapters, Named, by_depth
from vecmeta.types import Keys

_DEPTH = re.compile(r"\.(?:layer|layers|h|block|blocks)\.(\d+)\.")
_EMBEDDING, _TOP = -1, 10**6


class TextLearner:
    """A SentenceTransformer, all of it or LoRA's updates of it."""

    def __init__(self, encoder: TextEncoder, pool: Sequence[Any], config: FinetuneConfig) -> None:
        self._model = encoder.plain()
        self._pool, self._tokens = pool, config.tokens
        self.module: nn.Module = self._model
        self.device = str(self._model.device)
        self._adapters: Adapters | None = None
        if config.mode == "lora":
            self._model.requires_grad_(False)
            linear = [
                name for name, part in self._model.named_modules() if isinstance(part, nn.Linear) and ".pooler." not in name
            ]
            self._adapters = Adapters(self._model, linear, config.rank)
        else:
            for name, value in self._model.named_parameters():
                value.requires_grad_(".pooler." not in name)  # BERT's pooler takes no part in the vectors
        self._start = {name: value.detach().clone() for name, value in self._trainable()} if config.mode == "full" else {}

    def _trainable(self) -> Named:
        if self._adapters is not None:
            return self._adapters.parameters()
        return [(name, value) for name, value in self._model.named_parameters() if ".pooler." not in name]

    def layers(self) -> list[Named]:
        """Embeddings, transformer layers, what comes after them; all of LoRA's updates are one layer."""
        if self._adapters is not None:
            return [self._trainable()]
        return by_depth(self._trainable(), _depth)

    def deviations(self) -> list[tuple[Tensor, Tensor]]:
        """From the pretrained weights."""
        if self._adapters is not None:
            return self._adapters.deviations()
        return [(value, self._start[name]) for name, value in self._trainable() if value.requires_grad]

    def vectors(self, rows: Keys, rng: np.random.Generator | None) -> Tensor:
        """(b, dim) unit rows; dropout is the module's own."""
        texts = [self._pool[row] for row in rows.tolist()]
        longest = self._model.max_seq_length
        try:
            if rng is not None:
                self._model.max_seq_length = min(longest or self._tokens, self._tokens)
            features = self._model.preprocess(texts)
        finally:
            self._model.max_seq_length = longest
        moved = {key: to_device(value, self.device) if torch.is_tensor(value) else value for key, value in features.items()}
        return normalize(self._model(moved)["sentence_embedding"].float(), dim=1)

    def save(self, folder: Path) -> None:
        """In the layout of sentence-transformers; LoRA's updates are merged, which ends the training."""
        if self._adapters is not None:
            self._adapters.merge()
        save_model(self._model, folder)


def write_with_layer(encoder: TextEncoder, folder: Path, weight: Tensor) -> None:
    """The encoder as it is, and after it a linear layer of the given weights (dim, dim)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    model = encoder.plain().cpu()
    modules = [*model]
    if not isinstance(modules[-1], Normalize):
        modules.append(Normalize())  # the layer learned from unit rows
    last = Dense(encoder.dim, encoder.dim, bias=False, activation_function=nn.Identity())
    with torch.no_grad():
        last.linear.weight.copy_(weight)
    prompts = {"prompts": model.prompts, "default_prompt_name": model.default_prompt_name}
    with quiet():
        save_model(SentenceTransformer(modules=[*modules, last, Normalize()], device="cpu", **prompts), folder)


def read_layer(folder: Path) -> Tensor:
    """What `write_with_layer` put last, (dim, dim)."""
    from safetensors.torch import load_file

    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    path = [module["path"] for module in modules if module["type"].rpartition(".")[2] == "Dense"][-1]
    return load_file(folder / path / WEIGHTS)["linear.weight"]


def save_model(model: Any, folder: Path) -> None:
    """A SentenceTransformer in its own layout, weights as safetensors."""
    with quiet():
        model.eval().save(str(folder), create_model_card=False, safe_serialization=True)


def _depth(name: str) -> int:
    found = _DEPTH.search(name)
    if found:
        return int(found[1])
    return _EMBEDDING if "embeddings." in name or ".wte." in name or ".embed" in name else _TOP
