"""All items under a new head: read, project, index. The graph of the live version is kept where there is one, under the new vectors.

A head near the identity leaves a graph whose links still lead the right way, and replacing vectors takes a fiftieth of the time that
linking them does. How much it costs in recall is measured on a sample; where it is too much the graph is made anew, beside the searches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from vecmeta.catalogue.items import Page
from vecmeta.catalogue.views import ItemVectors
from vecmeta.evaluate import recall
from vecmeta.index.protocol import VectorIndex
from vecmeta.meta.head import Projector
from vecmeta.threads import helpers, single_blas
from vecmeta.types import Indexing, Keys, Progress, Vectors

FLOOR = 0.98  # of the exact best 10, below which a graph is made anew
SAMPLE = 64  # items that ask: .003 of standard error at a recall of .99
K = 10
AHEAD = 10  # pages that are read before the first of them is done, or two per thread if that is more: 3 MB each at dim 384


@dataclass(frozen=True, slots=True)
class Reindexed:
    """An index of all items, current up to `revision`; how it was made, and the recall@10 that was measured, None without a graph."""

    index: VectorIndex
    revision: int
    how: Indexing
    recall: float | None
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, where that was measured


def reindexed(
    items: ItemVectors, head: Projector, source: VectorIndex | None, empty: Callable[[], VectorIndex], progress: Progress | None
) -> Reindexed:
    """Of all items under a head, with the graph of `source` if there is one, otherwise into an `empty` one. Leaves `source` as it is.

    Memory is constant but for the index itself. What `progress` raises ends it.
    """
    seen, done = [np.empty(0, np.int64)], 0
    with ThreadPoolExecutor(1, "vecmeta-fork") as aside, items.changes(0) as changes:
        # What is written meanwhile may be in the copy and not among these changes, or the other way round: it is after their revision.
        forking = aside.submit(lambda: None if source is None else source.fork())
        total, pages = changes.changed(), projected(head, changes.pages)
        begun = list(islice(pages, 1))
        fork = forking.result()
        index = empty() if fork is None else fork
        for page in chain(begun, pages):
            index.fill(page.keys, page.vectors)
            seen.append(page.keys)
            done += len(page.keys)
            if progress is not None:
                progress("building", done, total)
    if fork is None:
        return Reindexed(index, changes.revision, "built", None)
    if len(index) > done:  # the graph has some that were deleted since it was brought up to date, or added since these were read
        index.remove(np.setdiff1d(index.keys(), np.concatenate(seen)))
    measured = recall_of(index)
    if measured < FLOOR:
        index.wear()
    return Reindexed(index, changes.revision, "kept" if measured >= FLOOR else "rebuilding", measured)


def projected(head: Projector, pages: Iterable[Page]) -> Iterator[Page]:
    """Pages under a head, in their order, projected by other threads while this one reads on."""

    def alone(base: Vectors) -> Vectors:
        with single_blas():
            return head.project(base)

    with helpers(head.threads, "vecmeta-project") as pool:
        ahead: deque[tuple[Page, Future[Vectors]]] = deque()
        try:
            for page in pages:
                ahead.append((page, pool.submit(alone, page.vectors)))
                if len(ahead) > max(AHEAD, 2 * head.threads):
                    first, z = ahead.popleft()
                    yield first._replace(vectors=z.result())
            while ahead:
                first, z = ahead.popleft()
                yield first._replace(vectors=z.result())
        finally:
            for _, z in ahead:
                z.cancel()


def recall_of(index: VectorIndex, seed: int = 0) -> float:
    """The share of the exact K nearest that the index finds for items of its own, themselves left out; 1.0 with fewer than two items."""
    keys = index.keys()
    if len(keys) < 2:
        return 1.0
    asking = np.sort(np.random.default_rng(seed).choice(keys, min(SAMPLE, len(keys)), replace=False))
    queries = index.vectors(asking)
    found, true = (search(queries, K + 1)[1] for search in (index.search, index.exact))
    return agreement(found, true, asking)


def agreement(found: Keys, true: Keys, asking: Keys) -> float:
    """The share of the K true nearest of each item that were found: (q, K + 1), (q, K + 1) and the (q,) items, themselves left out."""
    return float(np.mean([recall(_without(f, key), _without(t, key)) for f, t, key in zip(found, true, asking, strict=True)]))


def _without(found: Keys, key: int) -> Keys:
    """The first K of a ranking without the item that asked: (1, k)."""
    others: Keys = found[found != key][None, :K]
    return others
