"""Almost no inner loop (Raghu et al. 2020): the concepts' keys and values stay as they begin, the inner loop sets the dials alone."""

from __future__ import annotations

from vecmeta.meta.head import Memory
from vecmeta.meta.methods import maml
from vecmeta.meta.start import MetaConfig
from vecmeta.meta.support import Params, Support

BATCHED, OUTER = True, "gradient"
initial = maml.initial


def memory(start: Params, support: Support, config: MetaConfig) -> Memory:
    """See `Method`."""
    return maml.inner_loop(start, support, ("bias", "scale", "common"))
