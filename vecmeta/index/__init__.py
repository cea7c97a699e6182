"""Vector indexes: `open_index` makes one by name; `vecmeta.index.protocol` says what each of them promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vecmeta.errors import InvalidConfig
from vecmeta.index.protocol import FiledIndex, VectorIndex

__all__ = ["KINDS", "VectorIndex", "open_index"]


def _exact() -> type[FiledIndex]:
    from vecmeta.index.exact import ExactIndex

    return ExactIndex


def _faiss() -> type[FiledIndex]:
    from vecmeta.index.faiss_index import FaissIndex

    return FaissIndex


# Called, not imported: faiss takes a third of a second to load.
KINDS: Mapping[str, Callable[[], type[FiledIndex]]] = {"exact": _exact, "faiss": _faiss}


def open_index(kind: str, dim: int, **options: Any) -> FiledIndex:
    """An empty index of this kind ("exact" or "faiss") for vectors of `dim` numbers.

    Raises InvalidConfig for an unknown kind or option, naming those that exist, and for values out of range.
    """
    if kind not in KINDS:
        raise InvalidConfig(f"unknown index {kind!r}; known are {', '.join(KINDS)}")
    make: Callable[..., FiledIndex] = KINDS[kind]()
    known = [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InvalidConfig(f"unknown option {unknown[0]!r} of index {kind!r}; known are {', '.join(known) or 'none'}")
    return make(dim, **options)
