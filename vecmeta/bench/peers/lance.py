"""LanceDB: a table in a folder with an IVF_HNSW_SQ index of one partition, and a bitmap index for each field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vecmeta.bench.peers import EFS, FIELDS, Engine, Equal, Found, Knob
from vecmeta.types import Metadata, Vectors

COLUMNS = ["id", "n", *FIELDS, "_distance"]


class Lance(Engine):
    """Its graph, quantised to a byte a number; the best that it finds may be scored again exactly."""

    stores_metadata = True

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        import lancedb

        self._database = lancedb.connect(folder / "lance")
        self._table: Any = None
        self._dim = dim
        self._knob: Knob = {}

    def add(self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata]) -> None:
        """Columns by Arrow, which is the quickest way in."""
        import pyarrow as pa

        numbers = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self._dim)
        fields = {name: [about[name] for about in metadata] for name in ("n", *FIELDS)}
        rows = pa.table({"id": list(ids), **fields, "vector": numbers})
        if self._table is None:
            self._table = self._database.create_table("bench", rows)
        else:
            self._table.add(rows)

    def finish(self) -> None:
        """Put the pieces together, build the indexes."""
        from lancedb.index import Bitmap, HnswSq

        self._table.optimize()
        self._table.create_index("vector", config=HnswSq(distance_type="dot", num_partitions=1))
        for field in FIELDS:
            self._table.create_index(field, config=Bitmap())

    def plans(self, where: str | None) -> list[list[Knob]]:
        """The graph alone, with its best 2 k scored exactly, and exact search."""
        graph = [[{"ef": ef, "refine_factor": factor} for ef in EFS if ef >= 10 * factor] for factor in (1, 2)]
        return [*graph, [{"exact": True}]]

    def use(self, knob: Knob) -> None:
        """For the searches that follow."""
        self._knob = knob

    def one(self, query: Any, k: int, where: Equal | None) -> Any:
        """A list of rows."""
        return [self._asked(query, k, where).to_list()]

    def many(self, queries: Vectors, k: int, where: Equal | None) -> Any:
        """All queries in one request; its rows say whose they are."""
        found: list[list[dict[str, Any]]] = [[] for _ in queries]
        for row in self._asked(queries, k, where).to_list():
            found[row.get("query_index", 0)].append(row)
        return found

    def read(self, answer: Any) -> Found:
        """Rows without what is no metadata."""
        return [
            [(int(row["id"].removeprefix("item-")), {name: row[name] for name in ("n", *FIELDS)}) for row in rows]
            for rows in answer
        ]

    def _asked(self, query: Any, k: int, where: Equal | None) -> Any:
        asked = self._table.search(query).distance_type("dot").select(COLUMNS).limit(k)
        if where is not None:
            asked = asked.where(f"{where.field} = {where.value!r}", prefilter=True)
        if "exact" in self._knob:
            return asked.bypass_vector_index()
        asked = asked.ef(self._knob["ef"])
        return asked.refine_factor(self._knob["refine_factor"]) if self._knob["refine_factor"] > 1 else asked
