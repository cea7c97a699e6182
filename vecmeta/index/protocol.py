"""What a vector index promises; every backend bends to it.

Invariants, the same for every backend:

- One index holds the adapted vectors of one head version. Rows are unit length, so the score is the cosine: in [-1, 1], larger is nearer.
- Keys are int64 >= 0, given by the catalogue and never reused; an index neither makes nor changes them.
- ``add`` replaces the vectors of keys it knows. The last of equal keys in one call wins.
- ``remove`` ignores unknown keys.
- Scores are those of the given vectors to within 1e-5. An approximate index may miss some of the best, never some of the number.
- ``search`` returns min(k, number of matching items) columns, best first, never padding. Ties may come in any order.
  With ``allowed`` only those keys match; unknown keys in it are ignored, and the k best *matching* items come back, however few match.
- A filter comes as the (n,) keys, as marks on all keys, see `vecmeta.types.Matching`, or as what `expression` of the same index made.
- k is 1 or more (InvalidConfig); vectors are (n, dim) float32, finite and of length 1 to within 1e-3 (InvalidVector); keys are (n,)
  int64 (InvalidInput). A call that raises one of these has changed nothing.
- What was added is found at once, whatever is ``pending``; ``settle`` makes the searches quick again.
- Reads may run side by side with each other and with one writer; the index locks what it must.
- What is given is not changed and not kept: arrays are copied where they outlive the call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NewType, Protocol, Self, TypeAlias

from vecmeta.errors import IndexUnavailable
from vecmeta.types import Keys, Matching, Vectors
from vecmeta.where import Node

Expression = NewType("Expression", str)
Allowed: TypeAlias = Keys | Matching | Expression | None


class IndexGone(IndexUnavailable):
    """Somebody removed from outside what an index lives in; opened again, it is built again."""

    code = IndexUnavailable.code


class VectorIndex(Protocol):
    """Cosine search over keyed unit vectors. See the module for the invariants."""

    kind: str  # the name that `open_index` knows it by
    dim: int

    def __len__(self) -> int: ...

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Add or replace. keys (n,) int64; vectors (n, dim) float32 unit rows."""

    def remove(self, keys: Keys) -> int:
        """Remove; returns how many of the keys were there."""

    def expression(self, node: Node) -> Expression | None:
        """A filter in the index's own language, where it says exactly the same; None: give keys."""

    def search(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """The k nearest of each of the (q, dim) unit queries: scores (q, m) float32 and keys (q, m) int64, m <= k."""

    def exact(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """`search` without missing any, by scoring every vector."""

    @property
    def linked(self) -> int:
        """Vectors in the structure that speeds searches up, those of deleted ones included; 0 without one."""

    @property
    def pending(self) -> int:
        """Vectors that `settle` has to do something about."""

    def reach(self, good: Callable[[], bool], steps: int) -> bool:
        """Search up to so many steps more widely, as far as `good` asks for; False, and as before, where that is not far enough."""

    def in_topics(self) -> bool:
        """Whether what is alike came together into the structure, which is bad for it: making it anew would mend that."""

    def settle(self, go_on: Callable[[], None] = ...) -> int:
        """Do it, beside searches and writes; returns how many. `go_on` is called now and then and may raise to end it."""

    def wear(self) -> None:
        """Have `settle` make anew whatever speeds up searches."""

    def own(self) -> None:
        """Leave files that are mapped into memory for a copy of its own, where searches are quicker, and which is this process's alone."""

    def fork(self) -> Self | None:
        """A copy of keys and structure for other vectors, which `fill` puts in; None where that is no gain."""

    def fill(self, keys: Keys, vectors: Vectors) -> None:
        """`add`, but keys that are there keep their place in the structure. Before anybody reads what `fork` gave."""

    def vectors(self, keys: Keys) -> Vectors:
        """The (n, dim) stored vectors of known keys, each number to within 2e-6; KeyError names the first unknown one."""

    def keys(self) -> Keys:
        """All keys, ascending, (n,) int64."""

    def close(self) -> None:
        """Free what it holds; idempotent."""


class FiledIndex(VectorIndex, Protocol):
    """One in the memory of this process that can be kept in files."""

    def dump(self, folder: Path) -> None:
        """Write all of it into an existing empty folder (no pickle). `index.store` makes that atomic and checks it."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `dump` wrote."""
