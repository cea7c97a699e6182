"""Examples from labelled files and folders of pictures, for fine-tuning without a collection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vecmeta.encoders.pictures import open_picture
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import InvalidConfig
from vecmeta.files.items import Kind
from vecmeta.files.labelled import read_labelled
from vecmeta.finetune.examples import Examples, labelled
from vecmeta.types import Content


def read_examples(
    sources: Sequence[str | Path], encoder: Encoder | Kind, *, label: str | None = None, content: str | None = None
) -> Examples:
    """Examples from JSON lines, CSV, TSV, Parquet, or folders of pictures, FOLDER/LABEL/picture.jpg, for an encoder of "text" or "image".

    Empty texts and pictures that cannot be decoded are left out; ``about`` counts them.

    Raises:
        InvalidConfig: the encoder takes neither texts nor pictures, or there is nothing to learn from.
        InvalidInput: no such file, a format that is not known, no such column; InvalidItem: a row that cannot be read.
    """
    found = read_labelled(sources, _kind(encoder), label=label, content=content, usable=lambda picture: open_picture(picture, 0))
    about = {"files": [_fact(Path(source)) for source in sources], "label": label, "left_out": dict(found.left_out)}
    if not found.contents:
        left = ", ".join(f"{count} {why}" for why, count in found.left_out.items()) or "they are empty"
        raise InvalidConfig(f"{', '.join(map(str, sources))} hold nothing to learn from: {left}")
    return labelled(found.contents, found.labels, about)


def read_contents(sources: Sequence[str | Path], encoder: Encoder | Kind, *, content: str | None = None) -> list[Content]:
    """Contents alone, whatever their labels; as `read_examples`."""
    usable = lambda picture: open_picture(picture, 0)  # noqa: E731
    return read_labelled(sources, _kind(encoder), content=content, usable=usable, unlabelled=True).contents


def _kind(encoder: Encoder | Kind) -> Kind:
    if isinstance(encoder, str):
        return encoder
    if encoder.modality == "vector":
        raise InvalidConfig("own vectors have no encoder that could be fine-tuned; give an encoder of texts or pictures")
    return encoder.modality


def _fact(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {"name": path.name}
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
