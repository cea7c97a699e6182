"""Transfer learning of an encoder, for where adapting its output is not enough: examples in, a folder with a fine-tuned encoder out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vecmeta.finetune.config import MODES, TRANSFERS, FinetuneConfig, Mode
from vecmeta.finetune.examples import Examples, labelled
from vecmeta.finetune.reading import read_contents, read_examples

if TYPE_CHECKING:
    from vecmeta.finetune.recipe import checkpoint_of, finetune, last_layer

__all__ = [
    "MODES", "TRANSFERS", "Examples", "FinetuneConfig", "Mode", "checkpoint_of", "finetune", "labelled", "last_layer", "read_contents",
    "read_examples",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What trains brings torch, which checking a request does without."""
    if name in ("checkpoint_of", "finetune", "last_layer"):
        from vecmeta.finetune import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
