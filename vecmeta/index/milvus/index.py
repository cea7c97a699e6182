"""A VectorIndex that lives in one Milvus collection: `key` and `vector`, and for people and filters `item`, `metadata`, `facts`, `lows`, `highs`.

What is written is found by the next search of this process (consistency "session"); `refresh` makes what others wrote be found too.
Milvus answers with cosines of its own; an approximate index that comes up short of rows is asked again with a wider search.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vecmeta.errors import IndexUnavailable, InvalidConfig
from vecmeta.index.checks import check_keys, check_rows, pairs
from vecmeta.index.milvus.facts import CAPACITY, JSON_BYTES, LONGEST, Expression, expression, facts_of
from vecmeta.index.milvus.link import PATIENCE, WORKING_PATIENCE, Link, Missing
from vecmeta.index.scan import merged, top_k
from vecmeta.types import Described, Keys, Matching, Vectors
from vecmeta.where import Node

if TYPE_CHECKING:
    from pymilvus import MilvusClient

WRITTEN = 2000  # rows in one insert
READ = 4000  # rows in one answer of vectors
DELETED = 8000  # keys in one deletion, and in one filter by keys
MOST = 16_384  # hits that Milvus gives for one query
ANSWERED = 100_000  # hits in one answer
WIDER = 4  # times as wide a search with a filter: the best that match may lie far from each other in the graph
FLUSH_FROM = 2000  # rows written since the last flush that make one worth it


class MilvusIndex:
    """See `vecmeta.index.protocol`; made empty by `create`, or of a collection that is there.

    Every method raises IndexUnavailable, or Missing when somebody dropped the collection.
    """

    kind = "milvus"
    describes = True

    def __init__(self, link: Link, name: str, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or not 2 <= dim <= 32768:
            raise InvalidConfig(f"vectors in Milvus have 2 to 32768 numbers, not {dim!r}")
        self.name, self.dim = name, dim
        self.whole = True  # all metadata could be said in facts: filters may be Milvus's own
        self._link, self._options = link, link.options
        self._unflushed = 0
        self._closed = False

    # -- the collection ------------------------------------------------------------------------------------------------------

    def create(self, about: str = "") -> None:
        """The collection, without an index; nothing when it is there."""

        def make(client: MilvusClient) -> None:
            from pymilvus import DataType

            if client.has_collection(self.name, timeout=self._options.timeout):
                return
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=about)
            schema.add_field("key", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
            schema.add_field("item", DataType.VARCHAR, max_length=4096)
            schema.add_field("metadata", DataType.JSON)
            schema.add_field("facts", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=CAPACITY, max_length=LONGEST + 20)
            schema.add_field("lows", DataType.JSON)
            schema.add_field("highs", DataType.JSON)
            client.create_collection(
                self.name, schema=schema, consistency_level=self._options.consistency.title(), timeout=self._options.timeout
            )

        self._call("create a collection", make, WORKING_PATIENCE)

    def there(self) -> bool:
        """Whether the collection is."""
        return self._call("look for a collection", lambda c: bool(c.has_collection(self.name, timeout=self._options.timeout)))

    def open(self, go_on: Callable[[], None] = lambda: None) -> None:
        """Flush, index, load, and wait until all of it is done: it can be searched, and quickly. Does what is not done yet."""
        options = self._options
        if self._unflushed >= FLUSH_FROM:
            self._flush()

        def indexed(client: MilvusClient) -> None:
            if "vector" not in client.list_indexes(self.name):
                params = client.prepare_index_params()
                params.add_index("vector", index_type=options.kind.upper(), metric_type="COSINE", params=options.index_params())
                client.create_index(self.name, params, timeout=options.timeout, sync=False)

        if not (options.lite and options.kind == "flat"):  # which is how it searches anyway
            self._call("make an index", indexed, WORKING_PATIENCE)
            self._await_index(go_on)
        self._call("load a collection", lambda c: c.load_collection(self.name, timeout=max(options.timeout, 600)), WORKING_PATIENCE)
        go_on()
        if not self.loaded():
            raise IndexUnavailable(f"the Milvus collection {self.name} is not loaded after loading it")

    def loaded(self) -> bool:
        """Whether it can be searched."""
        state = self._call("ask for a collection's state", lambda c: c.get_load_state(self.name, timeout=self._options.timeout))
        return str(state["state"]) == "Loaded"

    def drop(self) -> None:
        """Delete the collection; nothing when it is not there."""
        try:
            self._call("drop a collection", lambda c: c.drop_collection(self.name, timeout=self._options.timeout))
        except Missing:
            pass

    # -- writing -------------------------------------------------------------------------------------------------------------

    def add(self, keys: Keys, vectors: Vectors, about: Described | None = None, *, new: bool = False) -> None:
        """See the protocol. `about` (n,): id and metadata, as JSON, of each item. `new`: no key is there yet, which is quicker.

        When it is broken off, some may have been written; the same again puts that right.
        """
        before = len(keys)
        keys, vectors = pairs(keys, vectors, self.dim)
        if about is not None and len(keys) < before:
            raise InvalidConfig("keys that are described must differ")
        self._alive()
        for start in range(0, len(keys), WRITTEN):
            part = slice(start, start + WRITTEN)
            rows = [
                self._row(*row)
                for row in zip(
                    keys[part].tolist(), vectors[part], [("", "{}")] * len(keys[part]) if about is None else about[part], strict=True
                )
            ]
            if new:
                self._call("insert", lambda c, rows=rows: c.insert(self.name, rows, timeout=self._options.timeout), WORKING_PATIENCE)
            else:
                self._call("upsert", lambda c, rows=rows: c.upsert(self.name, rows, timeout=self._options.timeout))
            self._unflushed += len(rows)

    def fill(self, keys: Keys, vectors: Vectors, about: Described | None = None) -> None:
        """`add`: nothing here keeps a structure for other vectors."""
        self.add(keys, vectors, about)

    def remove(self, keys: Keys) -> int:
        """See the protocol."""
        keys = np.unique(check_keys(keys))
        self._alive()
        removed = 0
        for start in range(0, len(keys), DELETED):
            part = keys[start : start + DELETED].tolist()
            there = self._count(f"key in {part}")
            if there:
                self._call("delete", lambda c, part=part: c.delete(self.name, ids=part, timeout=self._options.timeout))
            removed += there
        self._unflushed += removed
        return removed

    # -- searching -----------------------------------------------------------------------------------------------------------

    def expression(self, node: Node) -> Expression | None:
        """A filter in Milvus's language; None where it cannot be said exactly, and keys are to be given instead."""
        return expression(node) if self.whole else None

    def search(self, queries: Vectors, k: int, *, allowed: Keys | Matching | Expression | None = None) -> tuple[Vectors, Keys]:
        """See the protocol."""
        queries, k = self._checked(queries, k)
        if isinstance(allowed, str):
            return self._best(queries, k, allowed, self._options.ef * WIDER)
        if allowed is None:
            return self._best(queries, k, "", self._options.ef)
        keys = _wanted(allowed)
        # The best of each part of the keys, and of those the best: as exact as one filter of all of them.
        parts = [
            self._best(queries, k, f"key in {keys[start : start + DELETED].tolist()}", self._options.ef * WIDER)
            for start in range(0, len(keys), DELETED)
        ]
        if not parts:
            return _nothing(len(queries))
        return merged(parts, min(k, sum(scores.shape[1] for scores, _ in parts)))

    def exact(self, queries: Vectors, k: int, *, allowed: Keys | Matching | Expression | None = None) -> tuple[Vectors, Keys]:
        """`search` by fetching and scoring every vector: for checks, not for users."""
        queries, k = self._checked(queries, k)
        filters = [allowed] if isinstance(allowed, str) else [""]
        if allowed is not None and not isinstance(allowed, str):
            keys = _wanted(allowed)
            filters = [f"key in {keys[start : start + DELETED].tolist()}" for start in range(0, len(keys), DELETED)]
        best = _nothing(len(queries))
        for text in filters:
            for keys, vectors in self._pages(text):
                scores, rows = top_k(queries, vectors, min(k, len(keys)))
                both = (best, (scores, keys[rows]))
                best = merged(both, min(k, sum(part.shape[1] for part, _ in both)))
        return np.clip(best[0], -1, 1), best[1]

    def _best(self, queries: Vectors, k: int, text: str, ef: int) -> tuple[Vectors, Keys]:
        """The k best under a filter, for as many queries at once as one answer holds."""
        if not len(queries):
            return np.empty((0, min(k, self._count(text))), np.float32), np.empty((0, min(k, self._count(text))), np.int64)
        if k > MOST:
            k = min(k, self._count(text))
            if k > MOST:
                return self.exact(queries, k, allowed=Expression(text) if text else None)
        if not k:
            return _nothing(len(queries))
        at_once, found = max(1, min(1000, ANSWERED // k)), list[tuple[Vectors, Keys]]()
        for start in range(0, len(queries), at_once):
            found.append(self._answer(queries[start : start + at_once], k, text, ef))
            k = found[-1][0].shape[1] or k
        m = min(scores.shape[1] for scores, _ in found)
        return np.concatenate([scores[:, :m] for scores, _ in found]), np.concatenate([keys[:, :m] for _, keys in found])

    def _answer(self, queries: Vectors, k: int, text: str, ef: int) -> tuple[Vectors, Keys]:
        while True:
            rows = self._call("search", lambda c: self._asked(c, queries, k, text, ef))
            lengths = {len(keys) for keys, _ in rows}
            if lengths != {k}:
                most = min(k, self._count(text))
                if min(lengths) < most and self._options.index_params() and ef < 32768:
                    ef = min(ef * WIDER, 32768)  # it missed some of the number, which it must not
                    continue
                if min(lengths) < most:
                    return self.exact(queries, k, allowed=Expression(text) if text else None)
                k = most
            scores = np.array([s[:k] for _, s in rows], np.float32).reshape(len(queries), k)
            keys = np.array([i[:k] for i, _ in rows], np.int64).reshape(len(queries), k)
            return np.clip(scores, -1, 1, out=scores), keys  # rounding must not leave the cosine's range

    def _asked(self, client: MilvusClient, queries: Vectors, k: int, text: str, ef: int) -> list[tuple[Sequence[int], Sequence[float]]]:
        params = {"metric_type": "COSINE", "params": self._options.search_params(k, ef)}
        found = client.search(
            self.name, data=list(queries), filter=text, limit=k, search_params=params, output_fields=["key"],
            consistency_level=self._options.consistency.title(), timeout=self._options.timeout,
        )  # fmt: skip
        return [(hits.ids, hits.distances) for hits in found]

    # -- reading -------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._count("")

    def vectors(self, keys: Keys) -> Vectors:
        """See the protocol."""
        keys = check_keys(keys)
        out = np.empty((len(keys), self.dim), np.float32)
        for start in range(0, len(keys), READ):
            part = keys[start : start + READ]
            found = dict(self._rows(f"key in {np.unique(part).tolist()}", "vector", READ))
            for row, key in enumerate(part.tolist()):
                if key not in found:
                    raise KeyError(key)
                out[start + row] = found[key]
        return out

    def keys(self) -> Keys:
        """See the protocol."""
        return np.array(self._call("read keys", lambda c: self._iterated(c, "")), np.int64)

    def _iterated(self, client: MilvusClient, text: str) -> list[int]:
        iterator = client.query_iterator(
            self.name, batch_size=10_000, filter=text, output_fields=["key"], timeout=self._options.timeout,
            consistency_level=self._options.consistency.title(),
        )  # fmt: skip
        try:
            found: list[int] = []
            while rows := iterator.next():  # a batch may be short in the middle
                found += [row["key"] for row in rows]
            return sorted(found)
        finally:
            iterator.close()

    def _pages(self, text: str) -> Iterator[tuple[Keys, Vectors]]:
        keys = np.array(self._call("read keys", lambda c: self._iterated(c, text)), np.int64)
        for start in range(0, len(keys), READ):
            yield keys[start : start + READ], self.vectors(keys[start : start + READ])

    def _rows(self, text: str, field: str, limit: int) -> Iterator[tuple[int, Any]]:
        rows = self._call(
            "read vectors",
            lambda c: c.query(
                self.name, filter=text, output_fields=["key", field], limit=limit, timeout=self._options.timeout,
                consistency_level=self._options.consistency.title(),
            ),
        )  # fmt: skip
        for row in rows:
            yield row["key"], row[field]

    # -- bringing up to date -------------------------------------------------------------------------------------------------

    @property
    def linked(self) -> int:
        """Always 0: Milvus keeps its own books."""
        return 0

    @property
    def pending(self) -> int:
        """Rows written since the last flush, where they are so many that flushing makes searches quicker."""
        return self._unflushed if self._unflushed >= FLUSH_FROM else 0

    def settle(self, go_on: Callable[[], None] = lambda: None) -> int:
        """Flush what is pending and wait for its index."""
        done = self.pending
        if done:
            self._flush()
            if not (self._options.lite and self._options.kind == "flat"):
                self._await_index(go_on)
        return done

    def wear(self) -> None:
        """Nothing: Milvus decides when to make an index anew."""

    def fork(self) -> Self | None:
        """None: Milvus builds faster than it could copy."""
        return None

    def refresh(self) -> int:
        """How many rows there are, counted after everything that was written by anybody before this call; searches know it from then on."""
        return self._count("", "Strong")

    def close(self) -> None:
        """The collection stays, and so does the connection, which is the database's."""
        self._closed = True

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _call(self, doing: str, function: Callable[[MilvusClient], Any], patience: float = PATIENCE) -> Any:
        self._alive()
        return self._link.call(doing, function, patience)

    def _alive(self) -> None:
        if self._closed:
            raise IndexUnavailable(f"the {self.kind} index cannot be used: it is closed")

    def _row(self, key: int, vector: Vectors, about: tuple[str, str]) -> dict[str, Any]:
        metadata = json.loads(about[1])
        facts = facts_of(metadata)
        self.whole = self.whole and facts.whole
        return {
            "key": key, "vector": vector, "item": about[0], "metadata": metadata if len(about[1].encode()) <= JSON_BYTES else {},
            "facts": facts.facts, "lows": facts.lows, "highs": facts.highs,
        }  # fmt: skip

    def _count(self, text: str, consistency: str | None = None) -> int:
        level = consistency or self._options.consistency.title()
        rows = self._call(
            "count",
            lambda c: c.query(
                self.name, filter=text, output_fields=["count(*)"], consistency_level=level, timeout=self._options.timeout
            ),
        )
        return int(rows[0]["count(*)"])

    def _checked(self, queries: Vectors, k: int) -> tuple[Vectors, int]:
        self._alive()
        queries = check_rows(queries, self.dim)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidConfig(f"k must be a whole number from 1 up, not {k!r}")
        return queries, int(k)

    def _flush(self) -> None:
        unflushed = self._unflushed
        self._call("flush", lambda c: c.flush(self.name, timeout=max(self._options.timeout, 600)), WORKING_PATIENCE)
        self._unflushed -= unflushed

    def _await_index(self, go_on: Callable[[], None]) -> None:
        pause = 0.02
        while True:
            go_on()
            about = self._call("ask for an index", lambda c: c.describe_index(self.name, "vector"), WORKING_PATIENCE)
            if about is None or str(about.get("state", "Finished")) == "Finished" and not int(about.get("pending_index_rows", 0)):
                return
            if str(about["state"]) == "Failed":
                raise IndexUnavailable(f"Milvus could not make the index of {self.name}: {about.get('index_state_fail_reason', '')}")
            time.sleep(pause)
            pause = min(2 * pause, 0.5)


def _wanted(allowed: Keys | Matching) -> Keys:
    keys: Keys = allowed.keys[allowed.mask] if isinstance(allowed, Matching) else np.unique(check_keys(allowed))
    return keys


def _nothing(queries: int) -> tuple[Vectors, Keys]:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)
