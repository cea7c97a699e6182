"""The methods of adaptation, by name. Each is one module: numbers to meta-learn, and how an episode fills a memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from vecmeta.errors import InvalidConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vecmeta.meta.head import Memory
    from vecmeta.meta.start import MetaConfig
    from vecmeta.meta.support import Params, Support

# The default first. Naming them needs no torch.
NAMES = ("maml", "fomaml", "anil", "reptile", "protonet", "ridge", "logistic", "cnp", "metric", "linear", "rocchio")


class Method(Protocol):
    """What a method's module has."""

    BATCHED: bool  # whether `memory` may run under torch.func.vmap and be differentiated through
    OUTER: str  # how its start is meta-trained: "gradient", "reptile" or "none" (it has no start)

    def initial(self, config: MetaConfig) -> Mapping[str, NDArray[np.float32]]:
        """What meta-training begins with; empty when there is nothing to meta-learn."""

    def memory(self, start: Params, support: Support, config: MetaConfig) -> Memory:
        """Learn from one episode: torch in, torch out, differentiable in the start."""


def checked(name: object) -> str:
    """The name itself. Raises InvalidConfig that lists the methods."""
    if not isinstance(name, str) or name not in NAMES:
        raise InvalidConfig(f"unknown method {name!r}; known: {', '.join(NAMES)}")
    return name


def method_of(name: str) -> Method:
    """The method of that name. Raises InvalidConfig."""
    from vecmeta.meta.methods import anil, cnp, fomaml, linear, logistic, maml, metric, protonet, reptile, ridge, rocchio

    known: dict[str, Method] = {
        "maml": maml,
        "fomaml": fomaml,
        "anil": anil,
        "reptile": reptile,
        "protonet": protonet,
        "ridge": ridge,
        "logistic": logistic,
        "cnp": cnp,
        "metric": metric,
        "linear": linear,
        "rocchio": rocchio,
    }
    return known[checked(name)]
