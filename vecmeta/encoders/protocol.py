"""What an encoder promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from vecmeta.types import Content, Vectors


@runtime_checkable
class Encoder(Protocol):
    """Contents in, unit vectors out.

    ``name`` identifies the weights: a readable name, "@", and the first 12 hex digits of a SHA-256 over them. Equal names promise
    equal vectors (up to the rounding of the machine). ``dim`` is the length of a vector. ``modality`` says which contents it
    takes. Making an encoder must not import torch nor load weights into memory: both happen at the first `encode`.
    """

    @property
    def name(self) -> str:
        """The weights' name and hash."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def modality(self) -> Literal["text", "image", "vector"]:
        """What `encode` takes: str; bytes or Path; sequences of numbers."""

    def encode(self, contents: Sequence[Content]) -> Vectors:
        """(n, dim) float32 unit rows, in the order given.

        Raises:
            UndecodableContent: a content of the wrong type, empty, or damaged; carries its ``position``.
            EncoderUnavailable: weights or package missing.
        """
