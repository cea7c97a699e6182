"""Encoding as one would write it without vecmeta, by the same weights: what the encoders are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vecmeta.encoders.image import ImageEncoder
from vecmeta.encoders.pictures import open_picture
from vecmeta.encoders.text import TextEncoder
from vecmeta.encoders.vectors import unit_rows
from vecmeta.types import Vectors

BATCH = 32  # the default of sentence-transformers


class PlainText:
    """``SentenceTransformer.encode`` in batches of 32, by the model of a `TextEncoder`."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.name, self.dim, self._model = f"plain {encoder.name}", encoder.dim, encoder.plain()

    def encode(self, texts: Sequence[Any]) -> Vectors:
        """(n, dim) float32 unit rows of n texts."""
        return unit_rows(self._model.encode(list(texts), batch_size=BATCH, show_progress_bar=False), self.dim)


class PlainImages:
    """Pictures decoded and prepared one by one, in batches of 32, by the network of an `ImageEncoder` as it is."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.name, self.dim = f"plain {encoder.name}", encoder.dim
        self._network, self._prepare, self._device = encoder.plain()

    def encode(self, pictures: Sequence[Any]) -> Vectors:
        """(n, dim) float32 unit rows of n pictures."""
        import torch

        parts = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack([self._prepare(open_picture(picture, 0)) for picture in pictures[start : start + BATCH]])
            with torch.inference_mode():
                parts.append(self._network(pixels.to(self._device)).cpu().numpy())
        return unit_rows(np.concatenate(parts), self.dim)
