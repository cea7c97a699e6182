"""Many contents to vectors, a part at a time, with progress between the parts; of what does not fit into memory fewer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from vecmeta.encoders.memory import halved
from vecmeta.encoders.protocol import Encoder
from vecmeta.errors import UndecodableContent
from vecmeta.types import Content, Progress, Vectors

AT_ONCE = 256  # contents


def encoded(encoder: Encoder, contents: Sequence[Content], stage: str, progress: Progress | None) -> Vectors:
    """(n, dim) float32 unit rows; what `progress` raises ends it. Raises as `in_parts`."""
    parts = [np.empty((0, encoder.dim), np.float32)]
    done = 0
    for part in in_parts(encoder, contents, AT_ONCE):
        done += len(part)
        if progress is not None:
            progress(stage, done, len(contents))
        parts.append(part)
    return np.concatenate(parts)


def in_parts(encoder: Encoder, contents: Sequence[Content], at_once: int) -> Iterator[Vectors]:
    """What the encoder makes of `at_once` contents after the other; of half as many from where they did not fit into memory.

    Raises:
        UndecodableContent: carries the `position` among all contents.
        EncoderUnavailable: not even one content fits into memory.
    """
    complaint = f"{encoder.name} cannot encode even one content on this device; use another device or a smaller encoder"
    start = 0
    while start < len(contents) or not start:
        try:
            vectors, at_once = halved(partial(_part, encoder, contents, start), at_once, 1, complaint)
        except UndecodableContent as error:
            if not start or error.position is None:
                raise
            raise UndecodableContent(f"of the contents from {start:,} on: {error}", start + error.position) from error
        yield vectors
        start += max(at_once, 1)


def _part(encoder: Encoder, contents: Sequence[Content], start: int, count: int) -> Vectors:
    return encoder.encode(contents[start : start + count])
