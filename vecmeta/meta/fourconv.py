"""The network of the few-shot papers, as a function of its parameters: four convolutions for small pictures.

Finn et al. 2017, the variant for Omniglot: 3 x 3 convolutions with stride 2 and no pooling, batch norm, ReLU, then one linear layer.
Batch norm takes its statistics from the pictures of the call, as in that paper: what a picture becomes depends on the others that it
is asked with (the papers call this transductive), and there are no running means to carry about.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vecmeta.errors import InvalidConfig

Params: TypeAlias = dict[str, Tensor]

HEAD = ("head.weight", "head.bias")  # the last layer, all that ANIL adapts
EPSILON = 1e-5  # keeps batch norm from dividing by zero


def initial_params(
    ways: int,
    *,
    channels: int = 64,
    blocks: int = 4,
    side: int = 28,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Params:
    """New parameters: He's normal convolutions, batch norm as the identity, a last layer of zeros.

    ``conv{i}.weight`` (channels, 1 or channels, 3, 3); ``norm{i}.weight`` and ``norm{i}.bias`` (channels,); ``head.weight``
    (features, ways) and ``head.bias`` (ways,). Pictures are (side, side); every block halves them, rounding up. The same seed gives
    the same numbers on every device.

    Raises InvalidConfig when a size is below 1.
    """
    if min(ways, channels, blocks, side) < 1:
        raise InvalidConfig(f"ways, channels, blocks and side are at least 1, not {ways}, {channels}, {blocks} and {side}")
    generator = torch.Generator().manual_seed(seed)
    params: Params = {}
    for block in range(blocks):
        inputs = 1 if block == 0 else channels
        weight = torch.randn(channels, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        params |= {f"conv{block}.weight": weight, f"norm{block}.weight": torch.ones(channels)}
        params[f"norm{block}.bias"] = torch.zeros(channels)
        side = (side + 1) // 2
    params |= {"head.weight": torch.zeros(channels * side * side, ways), "head.bias": torch.zeros(ways)}
    return {name: value.to(device, dtype) for name, value in params.items()}


def embed(params: Params, images: Tensor) -> Tensor:
    """Everything but the last layer: images (n, side, side) -> (n, features)."""
    x = images[:, None]  # (n, 1, side, side); every block: (n, channels, half the side, half the side)
    for block in range(sum(name.startswith("conv") for name in params)):
        x = F.conv2d(x, params[f"conv{block}.weight"], stride=2, padding=1)
        x = batch_norm(x, params[f"norm{block}.weight"], params[f"norm{block}.bias"]).relu()
    return x.flatten(1)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalises every channel by the statistics of the batch: x (n, channels, height, width), weight and bias (channels,).

    Written out, because torch 2.14 takes a wrong second derivative of its own when grad goes over a vmap: MAML's outer gradient
    was off by 6 % on the tests' small network.
    """
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)  # (1, channels, 1, 1)
    scale = weight[:, None, None] * (variance + EPSILON).rsqrt()
    return (x - mean) * scale + bias[:, None, None]


def head(params: Params, features: Tensor) -> Tensor:
    """The last layer: features (n, features) -> logits (n, ways)."""
    return features @ params["head.weight"] + params["head.bias"]


def classify(params: Params, images: Tensor) -> Tensor:
    """The whole network: images (n, side, side) -> logits (n, ways)."""
    return head(params, embed(params, images))
