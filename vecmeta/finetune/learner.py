"""What the training loop asks of a model, and the three that there are: a last layer alone, texts, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vecmeta.encoders.weights import loading
from vecmeta.errors import EncoderUnavailable
from vecmeta.types import Keys, Vectors

Named = list[tuple[str, Tensor]]
WEIGHTS = "model.safetensors"


class Learner(Protocol):
    """A model on its way. ``device`` is where it computes."""

    device: str
    module: nn.Module

    def layers(self) -> list[Named]:
        """Parameters that may learn, by name, from the lowest layer to the highest."""

    def deviations(self) -> list[tuple[Tensor, Tensor]]:
        """What L2-SP pulls back: (weights now, weights at the start)."""

    def vectors(self, rows: Keys, rng: np.random.Generator | None) -> Tensor:
        """(b, dim) unit rows of contents of the pool; with a generator as in training, pictures cut and turned by it."""

    def save(self, folder: Path) -> None:
        """Write the model into a folder."""


class LastLayer:
    """A linear layer over what the frozen encoder makes, beginning as the identity: the feature extraction of both kinds of encoder."""

    def __init__(self, features: Vectors, write: Any) -> None:
        """``features`` (n, dim) of the pool under the untouched encoder; `write(folder, weight)` makes the folder."""
        dim = features.shape[1]
        self.device = "cpu"  # one product of small matrices: nothing is gained elsewhere
        layer = nn.Linear(dim, dim, bias=False)
        self.module: nn.Module = layer
        self._weight: Tensor = layer.weight
        with torch.no_grad():
            self._weight.copy_(torch.eye(dim))
        self._start = torch.eye(dim)
        self._features, self._write = torch.from_numpy(np.array(features, np.float32)), write

    def layers(self) -> list[Named]:
        """One layer."""
        return [[("weight", self._weight)]]

    def deviations(self) -> list[tuple[Tensor, Tensor]]:
        """From the identity."""
        return [(self._weight, self._start)]

    def vectors(self, rows: Keys, rng: np.random.Generator | None) -> Tensor:  # noqa: ARG002  # nothing is random here
        """(b, dim) unit rows."""
        return normalize(self.module(self._features[rows].to(self.device)), dim=1)

    def save(self, folder: Path) -> None:
        """The encoder with this last layer."""
        self._write(folder, self._weight.detach().cpu())


class Adapters:
    """LoRA's updates of the layers of a network, put in by peft and merged in the end."""

    def __init__(self, network: nn.Module, names: Sequence[str], rank: int) -> None:
        """Raises EncoderUnavailable without peft, or when no layer can be updated."""
        if not names:
            raise EncoderUnavailable("this encoder has no linear layer or convolution that LoRA could update; use mode='full'")
        with loading("with LoRA", "run `pip install 'vecmeta[finetune]'`"):
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer

            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(names)), network)
        self._network = network
        self._layers = [(name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer)]

    def parameters(self) -> Named:
        """The updates, by name."""
        return [(name, value) for name, value in self._network.named_parameters() if ".lora_" in name and value.requires_grad]

    def deviations(self) -> list[tuple[Tensor, Tensor]]:
        """What is added to each layer's weights, and nothing: the distance of the merged weights from the pretrained ones."""
        updates = [layer.get_delta_weight("default") for _, layer in self._layers]
        return [(update, torch.zeros_like(update)) for update in updates]

    def merge(self) -> None:
        """Add the updates to the weights, and leave a network as it was before but for those."""
        for name, layer in self._layers:
            layer.merge()
            above, _, last = name.rpartition(".")
            setattr(self._network.get_submodule(above), last, layer.get_base_layer())


def by_depth(names: Sequence[tuple[str, Tensor]], depth_of: Any) -> list[Named]:
    """Parameters in groups of equal depth, the lowest first."""
    depths: dict[int, Named] = {}
    for name, value in names:
        depths.setdefault(depth_of(name), []).append((name, value))
    return [depths[depth] for depth in sorted(depths)]
