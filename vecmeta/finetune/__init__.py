"""Transfer learning of an encoder, for where adapting its output is not enough: examples in, a folder with a fine-tuned encoder out.

Importing this imports torch.
"""

from vecmeta.finetune.config import MODES, TRANSFERS, FinetuneConfig, Mode
from vecmeta.finetune.examples import Examples, labelled
from vecmeta.finetune.reading import read_contents, read_examples
from vecmeta.finetune.recipe import checkpoint_of, finetune

__all__ = [
    "MODES",
    "TRANSFERS",
    "Examples",
    "FinetuneConfig",
    "Mode",
    "checkpoint_of",
    "finetune",
    "labelled",
    "read_contents",
    "read_examples",
]
