"""First-order MAML (Finn et al. 2017, section 5.2): the same head and inner loop; the start is trained as if the steps were given."""

from __future__ import annotations

from vecmeta.meta.head import Memory
from vecmeta.meta.methods import maml
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support

BATCHED, OUTER = True, "gradient"
initial = maml.initial


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    return maml.inner_loop(start, support, maml.FAST, first_order=True)
