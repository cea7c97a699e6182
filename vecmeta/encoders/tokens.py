"""How many tokens texts have, and which of them are encoded together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

MOST = 64  # texts at a time
_COUNTED = 512  # texts whose tokens are held in memory at a time


def token_counter(model: Any) -> Callable[[Sequence[str]], list[int]] | None:
    """What counts the tokens that a SentenceTransformer makes of each text, cut at its maximum; None if its tokenizer is not a fast one.

    It works on a copy without padding: the settings of the model's own tokenizer are not touched, which other threads use meanwhile.
    """
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(backend.to_str())
    own.no_padding()
    if model.max_seq_length:
        own.enable_truncation(model.max_seq_length)

    def count(texts: Sequence[str]) -> list[int]:
        parts = (texts[start : start + _COUNTED] for start in range(0, len(texts), _COUNTED))
        return [len(encoding) for part in parts for encoding in own.encode_batch_fast(part)]

    return count


def batches(lengths: Sequence[int], max_tokens: int, budget: int, *, equal: bool = False) -> Iterator[list[int]]:
    """Positions in batches, longest text first, so that little padding is computed and memory stays bounded.

    A batch has at most MOST texts and, padding included, `budget` tokens, or one text. A length is taken for at most `max_tokens`.
    With `equal` all texts of a batch are of one length, so that nothing is padded.
    """
    cut = [max(1, min(length, max_tokens)) for length in lengths]
    order = sorted(range(len(cut)), key=lambda position: -cut[position])
    start = 0
    while start < len(order):
        longest = cut[order[start]]
        batch = order[start : start + max(1, min(MOST, budget // longest))]
        if equal:
            batch = [position for position in batch if cut[position] == longest]
        yield batch
        start += len(batch)
