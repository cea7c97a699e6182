"""One collection in a Milvus, as a table: its columns, its index, and the calls that are made of it.

Columns: `key` and `vector`; `item` and `metadata` for people who look in; `facts`, `lows` and `highs` for filters.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vecmeta.errors import IndexUnavailable
from vecmeta.index.milvus.facts import CAPACITY, LONGEST
from vecmeta.index.milvus.link import PATIENCE, WORKING_PATIENCE, Link, Unloaded
from vecmeta.index.protocol import IndexGone
from vecmeta.types import Keys, Vectors

if TYPE_CHECKING:
    from pymilvus import MilvusClient

T = TypeVar("T")
STRONG = "Strong"  # after everything that anybody wrote before
LOADED, LOADING = "Loaded", "Loading"
LOADS = 20  # times that a server is told to load a collection; one that was started anew may have forgotten it


class Table:
    """See the module. Every method raises IndexUnavailable, or IndexGone when the collection is not there (any more)."""

    def __init__(self, link: Link, name: str, dim: int) -> None:
        self.name, self.dim = name, dim
        self.patience = PATIENCE  # seconds that a call goes on trying
        self._link, self._options = link, link.options
        self._level, self._timeout = link.options.consistency.title(), link.options.timeout
        self._flat = link.options.lite and link.options.kind == "flat"  # searched so without an index

    # -- the collection ------------------------------------------------------------------------------------------------------

    def create(self, about: str = "") -> None:
        """The collection, without an index; nothing when it is there."""

        def make(client: MilvusClient) -> None:
            from pymilvus import DataType

            if client.has_collection(self.name, timeout=self._timeout):
                return
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=about)
            schema.add_field("key", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
            schema.add_field("item", DataType.VARCHAR, max_length=4096)
            schema.add_field("metadata", DataType.JSON)
            schema.add_field(
                "facts", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=CAPACITY, max_length=LONGEST + 20
            )
            schema.add_field("lows", DataType.JSON)
            schema.add_field("highs", DataType.JSON)
            client.create_collection(self.name, schema=schema, consistency_level=self._level, timeout=self._timeout)

        self._call("create a collection", make, WORKING_PATIENCE)

    def there(self) -> bool:
        """Whether the collection is."""
        return bool(self._call("look for a collection", lambda c: c.has_collection(self.name, timeout=self._timeout)))

    def open(self, go_on: Callable[[], None]) -> None:
        """Make the index and wait for it, load and wait for that. Does what is not done yet; `go_on` is called now and then."""
        options = self._options

        def indexed(client: MilvusClient) -> None:
            if "vector" not in client.list_indexes(self.name, timeout=self._timeout):
                params = client.prepare_index_params()
                params.add_index("vector", index_type=options.kind.upper(), metric_type="COSINE", params=options.index_params())
                client.create_index(self.name, params, timeout=self._timeout, sync=False)

        if not self._flat:
            self._call("make an index", indexed, WORKING_PATIENCE)
        self.await_index(go_on)
        self._load_wholly(go_on)

    def _load_wholly(self, go_on: Callable[[], None]) -> None:
        self._load()
        loads, pause = 1, 0.05
        while (state := self._state()) != LOADED:
            if state != LOADING:
                if loads == LOADS:
                    raise IndexUnavailable(f"Milvus does not load {self.name}, which it was told to do {LOADS} times")
                self._load()
                loads, pause = loads + 1, min(2 * pause, 1.0)
            go_on()
            time.sleep(pause)

    def _load(self) -> None:
        self._link.call(
            "load a collection", lambda c: c.load_collection(self.name, timeout=self._timeout, _async=True), WORKING_PATIENCE
        )

    def await_index(self, go_on: Callable[[], None]) -> None:
        """Wait until all that was flushed is in the index."""
        pause = 0.02
        while not self._flat:
            go_on()
            about = self._call("ask for an index", self._index, WORKING_PATIENCE) or {}
            state = str(about.get("state", "Finished"))
            if state == "Failed":
                raise IndexUnavailable(
                    f"Milvus could not make the index of {self.name}: {about.get('index_state_fail_reason', '')}"
                )
            # pending_index_rows is not to be relied on: a 2.3 server told 74,096 of 74,096 of an index that was finished.
            if state == "Finished" and int(about.get("indexed_rows", 0)) >= int(about.get("total_rows", 0)):
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def _index(self, client: MilvusClient) -> dict[str, Any] | None:
        about: dict[str, Any] | None = client.describe_index(self.name, "vector", timeout=self._timeout)
        return about

    def loaded(self) -> bool:
        """Whether it can be searched."""
        return self._state() == LOADED

    def _state(self) -> str:
        state = self._call("ask for a collection's state", lambda c: c.get_load_state(self.name, timeout=self._timeout))
        return str(state["state"])

    def flush(self) -> None:
        """Close what is growing, so that it is indexed."""
        self._call("flush", lambda c: c.flush(self.name, timeout=max(self._timeout, 600)), WORKING_PATIENCE)

    def drop(self) -> None:
        """Delete the collection; nothing when it is not there."""
        with contextlib.suppress(IndexGone):
            self._call("drop a collection", lambda c: c.drop_collection(self.name, timeout=self._timeout))

    # -- rows ----------------------------------------------------------------------------------------------------------------

    def write(self, rows: list[dict[str, Any]], new: bool) -> None:
        """Insert, where all are new, otherwise replace."""
        if new:
            self._call("insert", lambda c: c.insert(self.name, rows, timeout=self._timeout))
        else:
            self._call("upsert", lambda c: c.upsert(self.name, rows, timeout=self._timeout))

    def delete(self, keys: list[int]) -> None:
        """By key."""
        self._call("delete", lambda c: c.delete(self.name, ids=keys, timeout=self._timeout))

    def search(self, queries: Vectors, k: int, text: str, params: dict[str, Any]) -> list[tuple[Sequence[int], Sequence[float]]]:
        """Of each query up to k keys and cosines, best first, of rows that match a filter ("": all)."""
        asked = {"metric_type": "COSINE", "params": params}

        def ask(client: MilvusClient) -> list[tuple[Sequence[int], Sequence[float]]]:
            found = client.search(
                self.name, data=list(queries), filter=text, limit=k, search_params=asked, output_fields=["key"],
                consistency_level=self._level, timeout=self._timeout,
            )  # fmt: skip
            return [(hits.ids, hits.distances) for hits in found]

        return self._call("search", ask)

    def count(self, text: str = "", level: str | None = None) -> int:
        """Rows that match a filter."""
        level = level or self._level
        rows = self._call("count", lambda c: self._queried(c, text, ["count(*)"], level))
        return int(rows[0]["count(*)"])

    def vectors(self, keys: list[int]) -> dict[int, Vectors]:
        """Those of known keys, (dim,) each."""
        rows = self._call(
            "read vectors", lambda c: self._queried(c, f"key in {keys}", ["key", "vector"], self._level, limit=len(keys))
        )
        return {row["key"]: np.asarray(row["vector"], np.float32) for row in rows}

    def keys(self, text: str = "") -> Keys:
        """Of all rows that match a filter, ascending."""

        def read(client: MilvusClient) -> list[int]:
            iterator = client.query_iterator(
                self.name, batch_size=10_000, filter=text, output_fields=["key"], timeout=self._timeout
            )
            try:
                found: list[int] = []
                while rows := iterator.next():  # one batch may be short in the middle
                    found += [row["key"] for row in rows]
                return sorted(found)
            finally:
                iterator.close()

        return np.array(self._call("read keys", read), np.int64)

    def _queried(self, client: MilvusClient, text: str, columns: list[str], level: str, **more: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = client.query(
            self.name, filter=text, output_fields=columns, consistency_level=level, timeout=self._timeout, **more
        )
        return rows

    def _call(self, doing: str, function: Callable[[MilvusClient], T], patience: float | None = None) -> T:
        patience = self.patience if patience is None else patience
        try:
            return self._link.call(doing, function, patience)
        except Unloaded:
            until = time.monotonic() + patience
            self._load()
            while time.monotonic() < until and not self.loaded():
                time.sleep(0.05)
            return self._link.call(doing, function, patience)
