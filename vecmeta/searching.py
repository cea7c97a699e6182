"""Queries in, hits out: every answer comes from one serving, so from one version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic_core import from_json

from vecmeta import intake
from vecmeta.catalogue.items import ItemStore
from vecmeta.catalogue.recent import StoredRow
from vecmeta.errors import InvalidConfig, InvalidJudgement
from vecmeta.index.protocol import Allowed
from vecmeta.meta.feedback import bend
from vecmeta.serving import Serving
from vecmeta.servings import Servings
from vecmeta.spaces import Spaces
from vecmeta.types import Hit, Hits, Id, Query, RawHits, Vector, Vectors, Where
from vecmeta.where import Node, parse


class Found(NamedTuple):
    """What several queries found under one version: rows, those of one query after those of another, each list best first."""

    rows: Sequence[StoredRow | None]  # all of them are there
    scores: Sequence[float]
    ends: Sequence[int]  # of each query's part
    version: int


class Searcher:
    """Searches of one collection."""

    def __init__(self, items: ItemStore, spaces: Spaces, servings: Servings) -> None:
        self._items, self._spaces, self._servings = items, spaces, servings

    def search(
        self,
        queries: Sequence[Query],
        k: int,
        where: Where | None,
        version: int | None,
        feedback: Iterable[tuple[str, float]] | None,
    ) -> Found:
        """See `vecmeta.Collection.search_many`."""
        k, node = intake.top(k), parsed(where)
        asked = [queries] if isinstance(queries, (str, bytes, Path, Id)) else list(queries)
        judged = list(feedback or ())
        encoded: dict[int, Vectors] = {}  # by encoder: a second serving is asked where the first one's index has gone

        def answer(serving: Serving) -> Found:
            base = encoded.get(serving.encoder)
            if base is None:
                base = encoded[serving.encoder] = self._spaces.of(serving.encoder).contents.of_queries(asked)
            z = serving.head.project(base)
            if judged:
                items, scores = self._judged(serving, judged)
                landscape = serving.landscape()
                z = np.stack([bend(row, items, scores, landscape) for row in z]) if len(z) else z
            return self._found(serving, z, k, node, [{q.value} if isinstance(q, Id) else set() for q in asked])

        return self._servings.ask(version, answer)

    def recommend(self, like: Sequence[str], unlike: Sequence[str], k: int, where: Where | None, version: int | None) -> Found:
        """See `vecmeta.Collection.recommend`."""
        k, node = intake.top(k), parsed(where)
        if not like:
            raise InvalidConfig("recommend() needs at least one liked item")

        def answer(serving: Serving) -> Found:
            items, scores = self._judged(serving, [(id, 1.0) for id in like] + [(id, -1.0) for id in unlike])
            return self._found(serving, bend(None, items, scores, serving.landscape())[None], k, node, [{*like, *unlike}])

        return self._servings.ask(version, answer)

    def _found(self, serving: Serving, z: Vectors, k: int, node: Node | None, without: Sequence[set[str]]) -> Found:
        allowed: Allowed = None
        if node is not None:
            # In the language of the index where it has one that says the same, otherwise the items themselves.
            allowed = serving.index.expression(node) or self._items.matching(node, serving.revision)
        extra = max((len(ids) for ids in without), default=0)
        scores, keys = serving.index.search(z, k + extra, allowed=allowed)
        rows = self._items.by_key(keys.ravel().tolist(), serving.revision)
        width, ranked = keys.shape[1], scores.ravel().tolist()
        ends = [width * (query + 1) for query in range(len(keys))]
        if extra or not all(rows):  # no row: deleted since the index was asked
            rows, ranked, ends = _chosen(rows, ranked, ends, without, k)
        return Found(rows, ranked, ends, serving.version)

    def _judged(self, serving: Serving, judged: Sequence[tuple[str, float]]) -> tuple[Vectors, Vector]:
        """Adapted vectors (n, dim) and scores (n,) of liked and disliked items."""
        for pair in judged:
            if (
                not isinstance(pair, (tuple, list))
                or len(pair) != 2
                or not isinstance(pair[1], (int, float))
                or not -1 <= pair[1] <= 1
            ):
                raise InvalidJudgement(f"feedback on a query is a list of (id, score from -1 to 1), not {pair!r}")
        rows = self._spaces.of(serving.encoder).contents.of_items([id for id, _ in judged])
        return serving.head.project(rows), np.array([score for _, score in judged], dtype=np.float32)


def _chosen(
    rows: Sequence[StoredRow | None], scores: Sequence[float], ends: Sequence[int], without: Sequence[set[str]], k: int
) -> tuple[list[StoredRow | None], list[float], list[int]]:
    """Of rows of several queries, one after the other, the first k of each that are there and not among those left out."""
    chosen: list[int] = []
    found: list[int] = []
    for (start, end), left_out in zip(pairwise([0, *ends]), without, strict=True):
        here = (place for place in range(start, end) if (row := rows[place]) and row[0] not in left_out)
        chosen += islice(here, k)
        found.append(len(chosen))
    return [rows[place] for place in chosen], [scores[place] for place in chosen], found


def hits_of(found: Found) -> list[Hits]:
    """Hits of each query.

    All in one go, and tuples as they are made: a thousand hits one by one take as long as a fifth of the walk through the graph.
    """
    ids, documents, contents = _columns(found.rows)
    # Keys come again and again, values seldom: looking for them as well takes half as long again.
    about = from_json(f"[{','.join(documents)}]", cache_strings="keys")
    made = list(map(partial(tuple.__new__, Hit), zip(ids, found.scores, about, contents, strict=True)))
    return [Hits(made[start:end], version=found.version) for start, end in pairwise([0, *found.ends])]


def raw_of(found: Found) -> list[RawHits]:
    """`hits_of` without reading metadata, which takes as long as all the rest of it."""
    ids, documents, contents = _columns(found.rows)
    made = list(zip(ids, found.scores, documents, contents, strict=True))
    return [RawHits(made[start:end], version=found.version) for start, end in pairwise([0, *found.ends])]


def _columns(rows: Sequence[StoredRow | None]) -> tuple[Sequence[str], Sequence[str], Iterable[str | bytes | None]]:
    """Ids, metadata and contents."""
    if not rows:
        return (), (), ()
    ids, documents, texts, blobs = zip(*rows, strict=True)
    return ids, documents, map(_content, texts, blobs) if blobs.count(None) < len(blobs) else texts


def _content(text: str | None, blob: bytes | None) -> str | bytes | None:
    return text if blob is None else blob


def parsed(where: Where | None) -> Node | None:
    """A filter as it is asked of a store or an index; None lets everything through. Raises InvalidFilter."""
    return None if where is None else parse(where)
