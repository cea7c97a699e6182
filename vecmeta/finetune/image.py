"""Networks for pictures on their way: layers by depth, pictures cut and turned, a folder that torchvision or timm loads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from vecmeta.encoders.image import DECODERS, LAST, ImageEncoder
from vecmeta.encoders.pictures import open_picture
from vecmeta.encoders.weights import to_device
from vecmeta.finetune.config import FinetuneConfig
from vecmeta.finetune.learner import WEIGHTS, Adapters, Named, by_depth
from vecmeta.threads import helpers
from vecmeta.types import Keys

KEPT = 2**30  # bytes of prepared pictures; one of 224 x 224 pixels has 600 kB
SMALLEST = 0.6  # share of a picture's sides that a cut keeps at least
_BLOCK = re.compile(r"^(?:layer|blocks\.)(\d+)\.")
_TOP = 10**6


class ImageLearner:
    """A network without its classifier, all of it or LoRA's updates of it.

    Batch normalisations keep the statistics they came with: batches are small, and pictures of a few classes are no sample of the world.
    """

    def __init__(self, encoder: ImageEncoder, pool: Sequence[Any], config: FinetuneConfig) -> None:
        network, prepare, self.device = encoder.plain()
        self._network = network.to(memory_format=torch.channels_last)
        if self.device == "cpu":
            _depthwise_in_float32(network)
        self._pictures, self._encoder, self._side = _Prepared(pool, prepare), encoder, config.side
        self.module: nn.Module = _StillNorms(network)
        self._adapters: Adapters | None = None
        last = f"{LAST[encoder.architecture]}."
        if config.mode == "lora":
            names = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d) and part.groups == 1]
            self._adapters = Adapters(network, names, config.rank)
        else:
            for name, value in network.named_parameters():
                value.requires_grad_(not name.startswith(last))
        self._start = {name: value.detach().clone() for name, value in self._trainable()} if config.mode == "full" else {}

    def _trainable(self) -> Named:
        if self._adapters is not None:
            return self._adapters.parameters()
        last = f"{LAST[self._encoder.architecture]}."
        return [(name, value) for name, value in self._network.named_parameters() if not name.startswith(last)]

    def layers(self) -> list[Named]:
        """Stem, blocks, what comes after them; all of LoRA's updates are one layer."""
        return [self._trainable()] if self._adapters is not None else by_depth(self._trainable(), _depth)

    def deviations(self) -> list[tuple[Tensor, Tensor]]:
        """From the pretrained weights."""
        if self._adapters is not None:
            return self._adapters.deviations()
        return [(value, self._start[name]) for name, value in self._trainable() if value.requires_grad]

    def vectors(self, rows: Keys, rng: np.random.Generator | None) -> Tensor:
        """(b, dim) unit rows; with a generator of pictures cut to a part of them and half of them turned left to right."""
        images = self._pictures.of(rows.tolist())
        if rng is not None:
            images = [_varied(image, rng, self._side) for image in images]
        pixels = torch.stack(images).contiguous(memory_format=torch.channels_last)  # (b, 3, h, w)
        return normalize(self._network(to_device(pixels, self.device)).float(), dim=1)

    def save(self, folder: Path) -> None:
        """The whole state dict; LoRA's updates are merged, which ends the training."""
        if self._adapters is not None:
            self._adapters.merge()
        _write(self._network, folder, self._encoder)


def write_with_layer(encoder: ImageEncoder, folder: Path, weight: Tensor) -> None:
    """The network as it is, with a linear layer of the given weights (dim, dim) in the place of its classifier."""
    network, _, _ = encoder.plain()
    layer = getattr(network, LAST[encoder.architecture])
    with torch.no_grad():  # what learned came after the layer that was there, which is the identity or an earlier fine-tuning
        before = layer.weight if isinstance(layer, nn.Linear) else torch.eye(len(weight), device=weight.device)
        combined = weight.to(before.device) @ before
    _write(network, folder, encoder, combined)


def read_layer(folder: Path, architecture: str) -> Tensor:
    """What `write_with_layer` put in the place of the classifier, (dim, dim)."""
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)[f"{LAST[architecture]}.weight"]


def _write(network: Any, folder: Path, encoder: ImageEncoder, last: Tensor | None = None) -> None:
    """With a last layer in any case, the identity if nothing else, so that one way to load it fits all."""
    from safetensors.torch import save_file

    name = LAST[encoder.architecture]
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if last is not None or f"{name}.weight" not in state:
        state[f"{name}.weight"] = torch.eye(encoder.dim) if last is None else last.detach().cpu().contiguous()
    state.setdefault(f"{name}.bias", torch.zeros(encoder.dim))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / WEIGHTS)


class _Prepared:
    """Pictures of the pool as the network takes them, (3, h, w) each, decoded once as far as they fit into KEPT."""

    def __init__(self, pool: Sequence[Any], prepare: Callable[[Any], Tensor]) -> None:
        self._pool, self._prepare = pool, prepare
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0

    def of(self, rows: Sequence[int]) -> list[Tensor]:
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        with helpers(DECODERS, "vecmeta-decode") as decoders:
            made = dict(zip(missing, decoders.map(self._decoded, missing), strict=True))
        found = [made[row] if row in made else self._kept[row] for row in rows]
        for row, image in made.items():  # the first ones stay: rows are drawn at random, so none is asked for sooner than another
            if self._bytes + image.nbytes <= KEPT:
                self._kept[row] = image
                self._bytes += image.nbytes
        return found

    def _decoded(self, row: int) -> Tensor:
        return self._prepare(open_picture(self._pool[row], row))


class _StillNorms(nn.Module):
    """Keeps batch normalisations in evaluation mode whatever mode the rest is in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> _StillNorms:
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self


def _depthwise_in_float32(network: nn.Module) -> None:
    """Keep depthwise convolutions out of autocast: oneDNN's gradients of those take longer in bfloat16 than in float32.

    A step of EfficientNet-Lite0 with 48 pictures of 112 x 112, two cores: .61 s in bfloat16, .54 s in float32, .37 s in this mixture.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            part.forward = partial(_in_float32, part.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        return forward(x)
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())


def _varied(image: Tensor, rng: np.random.Generator, side: int | None) -> Tensor:
    """A square part of a prepared picture (3, h, w), turned left to right half the time, at the size it had or at `side`."""
    _, height, width = image.shape
    share = rng.uniform(SMALLEST, 1)
    h, w = max(1, round(share * height)), max(1, round(share * width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = image[:, top : top + h, left : left + w]
    if rng.random() < 0.5:
        part = part.flip(2)
    size = (height, width) if side is None else (side, side)
    return interpolate(part[None], size, mode="bilinear", antialias=True, align_corners=False)[0]


def _depth(name: str) -> int:
    found = _BLOCK.match(name)
    if found:
        return int(found[1])
    return -1 if name.startswith(("conv_stem", "conv1", "bn1")) else _TOP
