"""A VectorIndex that lives in one collection of a Milvus; `vecmeta.index.milvus.table` says what stands there.

What is written is found by the next search of this process (consistency "session"); `refresh` makes what others wrote be found too. An
approximate index that comes up short of rows is asked again, more widely. One promise of the protocol Milvus cannot keep: while an item
is replaced, a search beside it may find neither its old nor its new vector, for it is deleted and inserted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from vecmeta.errors import IndexUnavailable, InvalidConfig
from vecmeta.index.checks import check_keys, check_rows, pairs
from vecmeta.index.milvus.facts import JSON_BYTES, expression, facts_of
from vecmeta.index.milvus.link import Link
from vecmeta.index.milvus.table import STRONG, Table
from vecmeta.index.protocol import Allowed, Expression
from vecmeta.index.scan import merged, top_k
from vecmeta.types import Described, Keys, Matching, Vectors
from vecmeta.where import Node

WRITTEN = 2000  # rows in one insert
READ = 4000  # rows in one answer of vectors
AT_ONCE = 8000  # keys in one deletion, and in one filter by keys
MOST = 16_384  # hits that Milvus gives for one query
ANSWERED = 100_000  # hits in one answer
WIDER = 4  # times as wide a search with a filter: the best that match may lie far from each other in the graph
WIDEST = 32_768  # that Milvus takes
FLUSH_FROM = 2000  # rows written since the last flush that make one worth it in milvus-lite, whose searches they slow down
SEALED_FROM = 100_000  # and in a server, which seals segments by itself: small ones cost it an index each, and merging


class MilvusIndex:
    """See `vecmeta.index.protocol`. Of a collection that is there, or that `table.create` and `open` are to make.

    Every method raises IndexUnavailable, or IndexGone when somebody dropped the collection.
    """

    kind = "milvus"

    def __init__(self, link: Link, name: str, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or not 2 <= dim <= 32_768:
            raise InvalidConfig(f"vectors in Milvus have 2 to 32768 numbers, not {dim!r}")
        self.name, self.dim = name, dim
        self.whole = True  # all metadata could be said in facts: filters may be Milvus's own
        self.ef = link.options.ef  # how widely it is searched
        self._table, self._options = Table(link, name, dim), link.options
        self._unflushed = 0
        self._closed = False

    @property
    def table(self) -> Table:
        """What it lives in. Raises IndexUnavailable when it is closed."""
        if self._closed:
            raise IndexUnavailable(f"the {self.kind} index cannot be used: it is closed")
        return self._table

    def open(self, go_on: Callable[[], None] = lambda: None) -> None:
        """Flush, index, load, and wait until all of it is done: it can be searched, and quickly."""
        if self._unflushed >= FLUSH_FROM:
            self._flush()
        self.table.open(go_on)

    # -- writing -------------------------------------------------------------------------------------------------------------

    def add(self, keys: Keys, vectors: Vectors, about: Described | None = None, *, new: bool = False) -> None:
        """See the protocol. `about` (n,): id and metadata of each item; keys must then differ. `new`: none is there yet, which is quicker.

        When it is broken off, some may have been written; the same again puts that right.
        """
        before = len(keys)
        keys, vectors = pairs(keys, vectors, self.dim)
        if about is not None and len(keys) < before:
            raise InvalidConfig("keys of items that are described must differ")
        table, described = self.table, [("", "{}")] * len(keys) if about is None else about
        for start in range(0, len(keys), WRITTEN):
            part = slice(start, start + WRITTEN)
            rows = [self._row(*row) for row in zip(keys[part].tolist(), vectors[part], described[part], strict=True)]
            table.write(rows, new)
            self._unflushed += len(rows)

    def fill(self, keys: Keys, vectors: Vectors) -> None:
        """`add`: nothing here keeps a structure for other vectors."""
        self.add(keys, vectors)

    def remove(self, keys: Keys) -> int:
        """See the protocol."""
        keys = np.unique(check_keys(keys))
        table, removed = self.table, 0
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE].tolist()
            there = table.count(f"key in {part}")
            if there:
                table.delete(part)
            removed += there
        if removed:
            self.refresh()  # the server does not say when it deleted, so consistency "session" would not wait for it
        self._unflushed += removed
        return removed

    # -- searching -----------------------------------------------------------------------------------------------------------

    def expression(self, node: Node) -> Expression | None:
        """A filter in Milvus's language; None where it cannot be said exactly, and keys are to be given instead."""
        return expression(node) if self.whole else None

    def search(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """See the protocol."""
        queries, k = self._checked(queries, k)
        if allowed is None:
            return self._best(queries, k, "", self.ef)
        # The best of each part of many keys, and of those the best: as exact as one filter of all of them.
        return _joined(len(queries), k, (self._best(queries, k, text, self.ef * WIDER) for text in _filters(allowed)))

    def exact(self, queries: Vectors, k: int, *, allowed: Allowed = None) -> tuple[Vectors, Keys]:
        """`search` by fetching and scoring every vector: for checks."""
        queries, k = self._checked(queries, k)

        def parts() -> Iterator[tuple[Vectors, Keys]]:
            for text in _filters(allowed):
                all_keys = self.table.keys(text)
                for start in range(0, len(all_keys), READ):
                    keys = all_keys[start : start + READ]
                    scores, rows = top_k(queries, self.vectors(keys), min(k, len(keys)))
                    yield scores, keys[rows]

        scores, keys = _joined(len(queries), k, parts())
        return np.clip(scores, -1, 1), keys

    def _best(self, queries: Vectors, k: int, text: str, ef: int) -> tuple[Vectors, Keys]:
        """The k best under a filter, for as many queries at once as one answer holds."""
        if k > MOST or not len(queries):
            k = min(k, self.table.count(text))
        if k > MOST:
            return self.exact(queries, k, allowed=Expression(text) if text else None)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        found, step = list[tuple[Vectors, Keys]](), max(1, min(1000, ANSWERED // k))
        for start in range(0, len(queries), step):
            found.append(self._answer(queries[start : start + step], k, text, ef))
        m = min(scores.shape[1] for scores, _ in found)
        return np.concatenate([scores[:, :m] for scores, _ in found]), np.concatenate([keys[:, :m] for _, keys in found])

    def _answer(self, queries: Vectors, k: int, text: str, ef: int) -> tuple[Vectors, Keys]:
        rows = self.table.search(queries, k, text, self._options.search_params(k, ef))
        least = min(len(keys) for keys, _ in rows)
        if least < k:
            most = min(k, self.table.count(text))
            if least < most:  # it missed some of the number, which it must not
                if self._options.search_params(k, ef) and ef < WIDEST:
                    return self._answer(queries, k, text, min(ef * WIDER, WIDEST))
                return self.exact(queries, k, allowed=Expression(text) if text else None)
            k = most
        scores = np.array([distances[:k] for _, distances in rows], np.float32).reshape(len(queries), k)
        keys = np.array([found[:k] for found, _ in rows], np.int64).reshape(len(queries), k)
        return np.clip(scores, -1, 1, out=scores), keys  # rounding must not leave the cosine's range

    # -- reading -------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.table.count()

    def vectors(self, keys: Keys) -> Vectors:
        """See the protocol."""
        keys = check_keys(keys)
        out = np.empty((len(keys), self.dim), np.float32)
        for start in range(0, len(keys), READ):
            part = keys[start : start + READ]
            found = self.table.vectors(np.unique(part).tolist())
            for row, key in enumerate(part.tolist(), start):
                if key not in found:
                    raise KeyError(key)
                out[row] = found[key]
        return out

    def keys(self) -> Keys:
        """See the protocol."""
        return self.table.keys()

    # -- bringing up to date -------------------------------------------------------------------------------------------------

    @property
    def linked(self) -> int:
        """Always 0: Milvus keeps its own books."""
        return 0

    @property
    def pending(self) -> int:
        """Rows written since the last flush, where they are so many that flushing makes searches quicker."""
        return self._unflushed if self._unflushed >= (FLUSH_FROM if self._options.lite else SEALED_FROM) else 0

    def reach(self, good: Callable[[], bool], steps: int) -> bool:  # noqa: ARG002
        """False: how widely it searches is its own affair."""
        return False

    def in_topics(self) -> bool:
        """False: in which order it links is its own affair."""
        return False

    def settle(self, go_on: Callable[[], None] = lambda: None) -> int:
        """Flush what is pending and wait for its index."""
        done = self.pending
        if done:
            self._flush()
            self.table.await_index(go_on)
        return done

    def wear(self) -> None:
        """Nothing: Milvus decides when to make an index anew."""

    def own(self) -> None:
        """Nothing: it is in another process's memory."""

    def fork(self) -> Self | None:
        """None: Milvus builds faster than it could copy."""
        return None

    def widened(self) -> bool:
        """Search twice as widely from now on; False where this kind of index knows no width."""
        self.ef *= 2
        return bool(self._options.search_params(1, self.ef))

    def refresh(self) -> int:
        """How many rows there are after all that anybody wrote before this call; searches know it from then on."""
        return self.table.count(level=STRONG)

    def close(self) -> None:
        """The collection stays, and so does the connection, which is the database's."""
        self._closed = True

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _row(self, key: int, vector: Vectors, about: tuple[str, str]) -> dict[str, Any]:
        metadata = json.loads(about[1])
        facts = facts_of(metadata)
        self.whole = self.whole and facts.whole
        return {
            "key": key, "vector": vector, "item": about[0], "metadata": metadata if len(about[1].encode()) <= JSON_BYTES else {},
            "facts": facts.facts, "lows": facts.lows, "highs": facts.highs,
        }  # fmt: skip

    def _checked(self, queries: Vectors, k: int) -> tuple[Vectors, int]:
        queries = check_rows(queries, self.dim)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidConfig(f"k must be a whole number from 1 up, not {k!r}")
        return queries, int(k)

    def _flush(self) -> None:
        unflushed = self._unflushed
        self.table.flush()
        self._unflushed -= unflushed


def _filters(allowed: Allowed) -> list[str]:
    """In Milvus's language, no row in two of them."""
    if allowed is None or isinstance(allowed, str):
        return [allowed or ""]
    keys = allowed.keys[allowed.mask] if isinstance(allowed, Matching) else np.unique(check_keys(allowed))
    return [f"key in {keys[start : start + AT_ONCE].tolist()}" for start in range(0, len(keys), AT_ONCE)]


def _joined(queries: int, k: int, parts: Iterator[tuple[Vectors, Keys]]) -> tuple[Vectors, Keys]:
    """The k best of parts that share no row."""
    best = np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)
    for part in parts:
        best = merged([best, part], min(k, best[0].shape[1] + part[0].shape[1]))
    return best
