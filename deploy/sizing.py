"""Sizes on paper: what a collection takes in PostgreSQL and Milvus, and how long a re-embedding does. `python -m deploy.sizing`."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

GB = 1e9

# Measured on two cores (see deploy/README.md), 100,000 vectors of dimension 384.
PAGE_ROOM = 8192 - 24  # bytes of a page of PostgreSQL that rows may take
ROW = 24 + 4 + 60  # bytes of a row besides vector and metadata: head, pointer, numbers, id, lengths
INDEXES = 115  # bytes of a row in the three indexes: by key, by id, by revision
BLOAT = 1.2  # until autovacuum has come by
READ = 100_000  # rows a second and stream, from a cursor of the server's
INSERT = 40_000  # rows a second and client, into Milvus
BUILD = 1_900  # rows a second and core: HNSW, M 16, efConstruction 200. Milvus seals segments of a gigabyte: it does not slow down with N
LINKS = 141  # bytes of a row's links at M 16
SPARE = 1.15  # times what a query node holds: growing segments, deleted rows, the process itself
NODE = 48.0  # GB of a 64-GB machine that segments may take


@dataclass(frozen=True, slots=True)
class Size:
    """What so many vectors take; bytes in GB, times in minutes."""

    count: int
    vectors: float
    postgres: float
    objects: float
    memory: float
    swapping: float
    nodes: int
    cores: int
    read: float
    insert: float
    build: float


def size(count: int, dim: int, metadata: int, cores: int, streams: int) -> Size:
    """Of so many vectors with so many bytes of metadata, built on so many cores from so many streams."""
    vector = 4 * dim
    rows_of_page = max(1, PAGE_ROOM // (ROW + vector + metadata))
    memory = count * (vector + LINKS) * SPARE / GB
    return Size(
        count=count,
        vectors=count * vector / GB,
        postgres=count * (8192 / rows_of_page + INDEXES) * BLOAT / GB,
        objects=2 * count * (vector + vector + LINKS) / GB,  # rows and index, of the live version and the one before it
        memory=memory,
        swapping=2 * memory,
        nodes=math.ceil(2 * memory / NODE),
        cores=cores,
        read=count / READ / streams / 60,
        insert=count / INSERT / streams / 60,
        build=count / BUILD / cores / 60,
    )


PLANS = ((10_000_000, 16, 2), (100_000_000, 64, 8), (1_000_000_000, 256, 32))  # vectors, cores that build, streams


def table(dim: int = 384, metadata: int = 200) -> str:
    """As Markdown."""
    head = [
        "vectors", "base vectors GB", "PostgreSQL disk GB", "object store GB", "query memory GB", "… during a swap", "64-GB nodes",
        "cores that build", "read min", "insert min", "build min",
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for count, cores, streams in PLANS:
        s = size(count, dim, metadata, cores, streams)
        gigabytes = [f"{value:,.0f}" for value in (s.vectors, s.postgres, s.objects, s.memory, s.swapping)]
        minutes = [f"{value:,.1f}" for value in (s.read, s.insert, s.build)]
        lines.append(f"| {' | '.join([f'{count // 1_000_000:,} M', *gigabytes, str(s.nodes), str(cores), *minutes])} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table for a dimension and so many bytes of metadata."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sizing")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--metadata", type=int, default=200)
    given = parser.parse_args()
    print(table(given.dim, given.metadata))


if __name__ == "__main__":
    main()
