"""Many contents to vectors, a part at a time, with progress between the parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vecmeta.encoders.protocol import Encoder
from vecmeta.types import Content, Progress, Vectors

AT_ONCE = 256  # contents


def encoded(encoder: Encoder, contents: Sequence[Content], stage: str, progress: Progress | None) -> Vectors:
    """(n, dim) float32 unit rows; what `progress` raises ends it. Raises UndecodableContent with the place in its part."""
    parts = [np.empty((0, encoder.dim), np.float32)]
    for start in range(0, len(contents), AT_ONCE):
        if progress is not None:
            progress(stage, start, len(contents))
        parts.append(encoder.encode(contents[start : start + AT_ONCE]))
    return np.concatenate(parts)
