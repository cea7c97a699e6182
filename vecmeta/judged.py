"""What was judged, put together for learning, and where it contradicts itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecmeta.catalogue.judgements import AskedQuery, Word, vector_of
from vecmeta.catalogue.views import ItemVectors, Log
from vecmeta.meta.episodes import Episode
from vecmeta.types import Keys, Vectors

SHOWN = 20  # contradictions that a report spells out
_BLOCK = 1 << 22  # pairs of things looked at at a time


@dataclass(frozen=True, eq=False)
class Taught:
    """The judgements that count, resolved against the items that are there.

    ``x``        (N, dim) base vectors of judged items and of queries.
    ``y``        (N, C) float32 in [-1, 1]; 0 is unknown. A query has y = 1 in its own column.
    ``rows``     N names: the item's id, or the query's text.
    ``is_item``  (N,) bool.
    ``columns``  C names of concepts and queries.
    ``asked``    (C,) the row of the column's own query; -1 for a concept. It is an item where items were called similar or dissimilar.
    ``queries``  N rows of the log's queries, see `Log.asked`; -1 for an item. Not told by everybody.
    """

    x: Vectors
    y: NDArray[np.float32]
    rows: tuple[str, ...]
    is_item: NDArray[np.bool_]
    columns: tuple[str, ...]
    asked: Keys
    queries: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many judgements there are; that a query suits itself is none."""
        return int((self.y != 0).sum()) - int((self.asked >= 0).sum())

    def found(self) -> NDArray[np.bool_]:
        """(N, C) which rows belong to a concept or are relevant to a query, the query itself left out."""
        positive = self.y > 0
        queries = np.flatnonzero(self.asked >= 0)
        positive[self.asked[queries], queries] = False
        return positive

    def digest(self) -> str:
        """SHA-256 of everything that the head learns from."""
        names = json.dumps([self.rows, self.columns, self.asked.tolist()], ensure_ascii=False)
        return hashlib.sha256(names.encode() + self.x.tobytes() + self.y.tobytes()).hexdigest()


def resolve(items: ItemVectors, log: Log) -> Taught:
    """The judgements that count, as rows and columns. Those about items that are gone are left out."""
    opinions, asked = log.opinions(), log.asked()
    like = {number: query.text or "" for number, query in asked.items() if query.kind == "item"}
    there = items.base_vectors(list(dict.fromkeys([o.item for o in opinions] + list(like.values()))))
    rows: dict[tuple[str, object], int] = {}
    vectors: list[Vectors] = []

    def row(kind: str, key: object, vector: Vectors) -> int:
        if (kind, key) not in rows:
            rows[kind, key] = len(vectors)
            vectors.append(vector)
        return rows[kind, key]

    columns: dict[tuple[str, object], int] = {}
    own: list[int] = []  # the row of each column's own query, -1 for a concept
    names: list[str] = []
    cells: list[tuple[int, int, float]] = []
    for opinion in opinions:
        if opinion.item not in there:
            continue
        asks = -1
        if opinion.query is not None:
            query = asked[opinion.query]
            if query.kind == "item":
                if query.text not in there or query.text == opinion.item:  # that an item is (not) like itself says nothing
                    continue
                asks = row("item", query.text, there[query.text])
            else:
                asks = row("query", opinion.query, vector_of(query.vector or b""))
        about = ("concept", opinion.concept) if opinion.query is None else ("query", opinion.query)
        if about not in columns:
            columns[about] = len(own)
            own.append(asks)
            names.append(opinion.concept if opinion.concept is not None else _title(asked[opinion.query or 0]))
            if asks >= 0:
                cells.append((asks, columns[about], 1.0))
        cells.append((row("item", opinion.item, there[opinion.item]), columns[about], opinion.score))
    y = np.zeros((len(vectors), len(own)), dtype=np.float32)
    for r, c, score in cells:
        y[r, c] = score
    taught = np.asarray((y > 0).any(axis=0))  # a concept of which only is said what does not belong teaches nothing
    titles = {place: str(key) if kind == "item" else _title(asked[key]) for (kind, key), place in rows.items()}  # type: ignore[index]
    return Taught(
        x=np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
        y=y[:, taught],
        rows=tuple(str(titles[place]) for place in range(len(vectors))),
        is_item=np.array([kind == "item" for kind, _ in rows], dtype=bool),
        columns=tuple(name for name, used in zip(names, taught.tolist(), strict=True) if used),
        asked=np.array(own, dtype=np.int64)[taught],
        queries=tuple(-1 if kind == "item" else int(str(key)) for kind, key in rows),
    )


def _title(query: AskedQuery) -> str:
    return query.text if query.text is not None else f"<{query.kind}>"


def clumps(taught: Taught, y: NDArray[np.float32]) -> list[tuple[Keys, NDArray[np.bool_]]]:
    """Pairs of similar items that hang together, like a concept without a name: the columns of each such clump, and (N,) its items."""
    positive = y > 0
    queries = np.flatnonzero(taught.asked >= 0)
    pairs = queries[taught.is_item[taught.asked[queries]] & (positive[:, queries].sum(0) > 1)]
    clump = np.arange(len(y))  # of each row, named by one of its rows
    for column in pairs:
        joined = np.unique(clump[positive[:, column]])
        clump[np.isin(clump, joined)] = joined[0]
    columns: dict[int, list[int]] = {}
    for column in pairs:
        columns.setdefault(int(clump[taught.asked[column]]), []).append(int(column))
    return [(np.array(found), np.equal(clump, name)) for name, found in columns.items()]


def lesson(taught: Taught, y: NDArray[np.float32]) -> Episode:
    """What is learned from the judgements y (N, C) that are left of `taught`.

    Pairs of similar items that hang together become one concept, or part of the one concept that some of them belong to, unless that
    would put together what is told apart. Two items that are told apart are no concept of their own, or every method would gather what
    lies around one of them: each becomes a negative of whatever the other belongs to. Where neither belongs to anything there is nothing
    to keep them from.
    """
    given, y = y, y.copy()
    queries = np.flatnonzero(taught.asked >= 0)
    pairs = queries[taught.is_item[taught.asked[queries]]]
    apart = [
        (int(taught.asked[c]), int(b), int(c)) for c in pairs for b in np.flatnonzero(given[:, c] < 0) if given[:, c].max() > 0
    ]
    y[:, pairs] = y[:, pairs].clip(min=0)
    for columns, items in clumps(taught, y):
        touched = np.flatnonzero((y[items] > 0).any(0) & (taught.asked < 0))
        into = int(touched[0] if len(touched) else columns[0])
        members = items | (y[:, into] > 0)
        odd = (y[items, into] < 0).any() or any(members[a] and members[b] for a, b, _ in apart)
        if len(touched) < 2 and not odd:
            own = taught.asked[columns], columns
            y[own] = 0
            y[own] = y[:, columns].max(0)  # how alike it is to one is how much it belongs, to the one that asks as to the others
            joined = np.where(y[:, into] > 0, y[:, into], y[:, columns].max(1)) if len(touched) else y[:, columns].max(1)
            y[:, columns] = 0
            y[items, into] = joined[items]
    y[:, pairs[(y[:, pairs] > 0).sum(0) < 2]] = 0
    positive = y > 0
    for a, b, column in apart:
        score = given[b, column]
        if (positive[a] & positive[b]).any():  # put together by something else: as it was said
            y[a, column], y[b, column] = 1, score
        else:
            y[b, positive[a]] = np.minimum(y[b, positive[a]], score)
            y[a, positive[b]] = np.minimum(y[a, positive[b]], score)
    if not (y > 0).any():
        y = given
    used, full = (y != 0).any(1), (y > 0).any(0)
    return Episode(taught.x[used], y[used][:, full])


# -- contradictions ----------------------------------------------------------------------------------------------------------


def contradictions(items: ItemVectors, log: Log, taught: Taught, most: int = SHOWN) -> tuple[list[str], int]:
    """At most so many sentences that each name one contradiction, and how many contradictions there are.

    Users contradict each other when their latest words on the same item and concept or query differ in sign. Concepts and queries
    contradict each other when one puts two things together and another tells them apart, as `vecmeta.meta.losses.pairs` has it.
    """
    sentences: list[str] = []
    count = 0
    for found in (_between_users(items, log), _between_columns(taught)):
        for sentence in found:
            count += 1
            if len(sentences) < most:
                sentences.append(sentence)
    return sentences, count


def _between_users(items: ItemVectors, log: Log) -> Iterator[str]:
    disputed = [words for words in log.words() if min(w.score for w in words) < 0 < max(w.score for w in words)]
    there = items.base_vectors(list(dict.fromkeys(words[0].item for words in disputed))) if disputed else {}
    asked = log.asked() if disputed else {}
    for words in disputed:
        last = words[-1]
        query = None if last.query is None else asked[last.query]
        if last.item not in there:
            continue
        if query is None:
            yes, no = f"{last.item!r} belongs to the concept {last.concept!r}", "it does not"
        elif query.kind == "item":
            yes, no = f"{last.item!r} is similar to {query.text!r}", "it is not"
        else:
            yes, no = f"{last.item!r} suits the query {_title(query)!r}", "it does not"
        latest = {np.sign(word.score): word for word in words}  # of each side its latest
        verdict = f"{_who(last)}'s{', which takes it back' if last.score == 0 else ''}"
        yield f"{_who(latest[1.0])} says that {yes}, {_who(latest[-1.0])} that {no}; the latest word of all counts, {verdict}"


def _who(word: Word) -> str:
    return "somebody" if word.user is None else word.user


def _between_columns(taught: Taught) -> Iterator[str]:
    """One sentence for each two rows that a column puts together and another tells apart."""
    positive = (taught.y > 0).astype(np.float32)
    told: set[tuple[int, int]] = set()
    for column in np.flatnonzero((taught.y < 0).any(axis=0)):
        inside, outside = np.flatnonzero(positive[:, column]), np.flatnonzero(taught.y[:, column] < 0)
        step = max(1, _BLOCK // len(outside))
        for begin in range(0, len(inside), step):
            part = inside[begin : begin + step]
            for i, j in zip(*np.nonzero(positive[part] @ positive[outside].T), strict=True):  # columns that hold both
                a, b = int(part[i]), int(outside[j])
                if (min(a, b), max(a, b)) in told:
                    continue
                told.add((min(a, b), max(a, b)))
                together = int(np.flatnonzero(positive[a] * positive[b])[0])
                names = f"{taught.rows[a]!r} and {taught.rows[b]!r}"
                yield f"{names} are put together by {_label(taught, together)} and told apart by {_label(taught, int(column))}"


def _label(taught: Taught, column: int) -> str:
    asked = int(taught.asked[column])
    if asked < 0:
        return f"the concept {taught.columns[column]!r}"
    return f"the pairs of {taught.rows[asked]!r}" if taught.is_item[asked] else f"the query {taught.columns[column]!r}"
