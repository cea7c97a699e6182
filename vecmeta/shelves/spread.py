"""The same chunks as a Ray Data job: many workers read, project and write to Milvus, on one machine or on a cluster (extra `ray`).

The driver cuts the collection's keys into chunks. A task opens the catalogue for itself, reads one chunk's base vectors, projects them
and upserts them, so a task that Ray starts again does no harm. What was written or deleted meanwhile comes after, from the change log.
Nothing but key ranges, one head and addresses travels through Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vecmeta.catalogue.catalogue import CollectionRow, open_catalogue
from vecmeta.catalogue.items import ItemStore
from vecmeta.errors import IndexUnavailable
from vecmeta.index.milvus.index import MilvusIndex
from vecmeta.index.milvus.link import WORKING_PATIENCE, Link
from vecmeta.index.milvus.options import MilvusOptions
from vecmeta.meta.head import IdentityHead, load_head

CHUNK = 20_000  # rows of a task: seconds of work, 30 MB of vectors at dim 384
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker has to know, whatever its chunk."""

    catalogue: str  # where it is: a file that every worker sees, or the URL of a server
    collection: CollectionRow
    head: bytes | None  # None: the identity
    options: MilvusOptions
    name: str  # of the Milvus collection

    def write(self, low: int, high: int) -> int:
        """Project and upsert the items whose keys lie from `low` up to `high`; returns how many there were."""
        head = IdentityHead(self.collection.dim) if self.head is None else load_head(self.head)
        link = Link(self.options)
        catalogue = open_catalogue(self.catalogue)
        try:
            index = MilvusIndex(link, self.name, self.collection.dim)
            index.table.patience = WORKING_PATIENCE
            done = 0
            for page in catalogue.items(self.collection).between(low, high):
                index.add(page.keys, head.project(page.vectors), page.about)
                done += len(page.keys)
            if not index.whole:  # the driver has to know: filters may not rely on it
                return -done - 1
            return done
        finally:
            catalogue.close()
            link.close()


def spread(task: Task, items: ItemStore, address: str) -> Iterator[tuple[int, bool]]:
    """Run it: rows written by each chunk as it ends, and whether all of its metadata could be said in facts.

    `address` is "local" (Ray processes of this machine, started and ended here), or a cluster's, as `ray.init` takes it.
    Raises IndexUnavailable: without Ray, or when a chunk failed for good.
    """
    try:
        import ray
    except ImportError:
        raise IndexUnavailable("the option ray= needs the package ray: pip install 'vecmeta[ray]'") from None
    keys = items.keys()
    bounds = [{"low": int(keys[n]), "high": int(keys[min(n + CHUNK, len(keys)) - 1])} for n in range(0, len(keys), CHUNK)]
    started = not ray.is_initialized()
    if started:
        how: dict[str, Any] = (
            {"num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False} if address == LOCAL else {"address": address}
        )
        for last in (address != LOCAL, True):
            try:
                ray.init(log_to_driver=False, configure_logging=False, **how)
                break
            except Exception:  # a bare one when its processes take more than 30 s to start, as on a busy machine
                ray.shutdown()
                if last:
                    raise
    try:
        data = ray.data.from_items(bounds, override_num_blocks=max(1, len(bounds)))
        results = data.map(lambda chunk: {"written": task.write(chunk["low"], chunk["high"])})
        for row in results.iter_rows():
            written = int(row["written"])
            yield (written, True) if written >= 0 else (-written - 1, False)
    except ray.exceptions.RayError as error:
        raise IndexUnavailable(f"a chunk of the Ray job failed: {' '.join(str(error).split())[-400:]}") from error
    finally:
        if started:
            ray.shutdown()
