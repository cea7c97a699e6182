"""The demonstration: index the documentation of the Python beside us, play a user who marks a few items, show what changed.

Everything goes through the public names of vecmeta. The quality is measured on items that the user did *not* mark: each is a query,
all other items are ranked, and those with the same label are relevant (average precision over the whole ranking).

- **fed**    queries with a label that was taught, over the whole collection
- **unfed**  queries with a label that was not, over the whole collection: what teaching others did to them
- **mixed**  queries of both kinds, half and half, over a pool of the taught labels' items and those of equally many others

A second run finds the encodings, the marks and the version of the first one and only measures again.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vecmeta import pydocs
from vecmeta.evaluate import average_precision
from vecmeta.types import Id, Item, Judgement, Progress, Report, Understood, Vectors, Version

if TYPE_CHECKING:
    from vecmeta import Collection, Database, Hits

COLLECTION = "python-docs"
CONCEPTS = 12  # labels that are taught
SHOTS = 5  # items marked for each
MEMBERS = 20  # a label of fewer items is neither taught nor measured
TOP = 30  # hits of a query that is shown
USER = "demo"
_QUERIES = 500  # of each kind at most: a sample is enough
_BATCH = 256  # items per write: a run that is stopped keeps what it has encoded
_PAGE = 5000


class Quality(NamedTuple):
    """Mean average precision in [0, 1], before (the untouched encoder) and after (the live version)."""

    before: float
    after: float
    queries: int


class Concept(NamedTuple):
    """A label that was taught: its items, how many were marked, and the quality of queries among the others."""

    name: str
    items: int
    marked: int
    quality: Quality


class Shown(NamedTuple):
    """One query and its best hits before and after. ``query`` is an item that nobody marked."""

    query: Item
    label: str
    why: str  # it and no other
    before: Hits
    after: Hits


@dataclass(slots=True)
class Outcome:
    """What a run of the demonstration found."""

    items: int
    encoded: int
    marks: list[Judgement]
    understood: Understood
    report: Report
    reused: bool  # the version is an earlier run's
    live: int
    concepts: list[Concept] = field(default_factory=list)
    untaught: tuple[str, list[str]] | None = None  # a label that is left to teach, and a few of its items
    quality: dict[str, Quality] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run(database: Database, *, limit: int = pydocs.LIMIT, fresh: bool = False, progress: Progress | None = None) -> Outcome:
    """Gather, index, mark, adapt, measure.

    Args:
        database: it gets (or has) the collection "python-docs".
        limit: items to gather.
        fresh: drop an earlier run's collection first.
        progress: called with (stage, done, total); raise vecmeta.Cancelled in it to stop.

    Raises:
        VecmetaError: as `Collection.add`, `feedback` and `adapt` raise.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "gathering"):
        _tell(progress, "gathering", 0)
        gathered = pydocs.gather(limit)
        _tell(progress, "gathering", 1)
    there = COLLECTION in database.collections()
    if there and fresh:
        database.drop(COLLECTION)
    c = database.collection(COLLECTION) if there and not fresh else database.create(COLLECTION, encoder="text")
    encoded = 0
    with _timed(seconds, "encoding"):
        for start in range(0, len(gathered), _BATCH):
            _tell(progress, "encoding", start, len(gathered))
            encoded += _add(c, gathered[start : start + _BATCH])
        _tell(progress, "encoding", len(gathered), len(gathered))
    items = {item.id: item for item in _all_items(c)}
    marks = _marks(c, items)
    with _timed(seconds, "marking"):
        understood = c.feedback(marks)
    with _timed(seconds, "adapting"):
        earlier = c.versions()[-1].number
        reused = earlier > 0 and understood.new == understood.contradicting == 0
        report = c.report(earlier) if reused else c.adapt(progress=progress)
    outcome = Outcome(c.count(), encoded, marks, understood, report, reused, c.live)
    with _timed(seconds, "measuring"):
        _measure(c, items, outcome, progress)
    outcome.versions = c.versions()
    outcome.seconds = {**seconds, "total": sum(seconds.values())}
    return outcome


def _add(c: Collection, batch: Sequence[Item]) -> int:
    """Write a batch; returns how many of it had to be encoded."""
    encoded = 0

    def count(_stage: str, _done: int, total: int) -> None:
        nonlocal encoded
        encoded = total

    c.add(batch, progress=count)
    return encoded


def label(item: Item) -> str:
    """What the demonstration teaches: the module that an item comes from."""
    return str(item.metadata.get("module", ""))


def _marks(c: Collection, items: Mapping[str, Item]) -> list[Judgement]:
    """What the played user marks: a few items of some labels; on a second run exactly the same ones as on the first."""
    before = [j for j in c.judgements() if j.user == USER and j.concept is not None and j.item in items]
    if before:
        return list(dict.fromkeys(before))
    members = _members(items.values())
    taught = sorted(members, key=_drawn)[: min(CONCEPTS, len(members) // 2)]  # some are left to see what teaching does to them
    return [
        Judgement(id, concept=concept, user=USER)
        for concept in sorted(taught)
        for id in sorted(members[concept], key=_drawn)[:SHOTS]
    ]


def _measure(c: Collection, items: Mapping[str, Item], outcome: Outcome, progress: Progress | None) -> None:
    """Fill in the quality, by kind and by concept, and the queries to show."""
    labels = {id: label(item) for id, item in items.items()}
    members = _members(items.values())
    marked = {mark.item for mark in outcome.marks}
    taught = [name for name in dict.fromkeys(mark.concept or "" for mark in outcome.marks) if name in members]
    others = sorted(set(members) - set(taught), key=_drawn)
    beside = others[: len(taught)]
    fed = _sample(id for name in taught for id in members[name] if id not in marked)
    unfed = _sample(id for name in others for id in members[name])
    mixed = [*fed, *_sample(id for name in beside for id in members[name])]
    ids = list(items)
    pool = [id for id in ids if labels[id] in {*taught, *beside}]
    whole, among = {}, {}
    for number, (when, version) in enumerate((("before", 0), ("after", outcome.live))):
        _tell(progress, "measuring", number, 2)
        vectors = dict(zip(ids, c.embed([Id(id) for id in ids], version=version), strict=True))
        whole[when] = _precisions(vectors, labels, list(dict.fromkeys([*fed, *unfed])), ids)
        among[when] = _precisions(vectors, labels, mixed, pool)
    _tell(progress, "measuring", 2, 2)
    outcome.quality = {
        "fed": _quality(whole, fed),
        "unfed": _quality(whole, unfed),
        "mixed": _quality(among, mixed),
    }
    outcome.quality = {kind: quality for kind, quality in outcome.quality.items() if quality.queries}
    if others:
        outcome.untaught = (others[0], sorted(members[others[0]], key=_drawn)[:3])
    for name in taught:
        mine = [id for id in fed if labels[id] == name]
        outcome.concepts.append(Concept(name, len(members[name]), len(marked & set(members[name])), _quality(whole, mine)))
    gains = {id: whole["after"][id] - whole["before"][id] for id in fed}
    for why, id in _to_show(outcome.concepts, labels, gains):
        first, second = (c.search(Id(id), k=TOP, version=version) for version in (0, outcome.live))
        outcome.shown.append(Shown(items[id], labels[id], why, first, second))


def _precisions(
    vectors: Mapping[str, Vectors], labels: Mapping[str, str], asked: Sequence[str], corpus: Sequence[str]
) -> dict[str, float]:
    """Average precision of each query over a ranking of the corpus, of which it is a part."""
    if not asked:
        return {}
    place = {id: row for row, id in enumerate(corpus)}
    names = np.array([labels[id] for id in corpus])
    relevant = np.array([labels[id] for id in asked])[:, None] == names[None, :]
    found = average_precision(
        np.stack([vectors[id] for id in asked]),
        np.stack([vectors[id] for id in corpus]),
        relevant,
        exclude=np.array([place[id] for id in asked]),
    )
    return dict(zip(asked, found.tolist(), strict=True))


def _quality(precisions: Mapping[str, Mapping[str, float]], ids: Sequence[str]) -> Quality:
    before, after = (float(np.mean([precisions[when][id] for id in ids])) if ids else 0.0 for when in ("before", "after"))
    return Quality(before, after, len(ids))


def _to_show(concepts: Sequence[Concept], labels: Mapping[str, str], gains: Mapping[str, float]) -> list[tuple[str, str]]:
    """Not the prettiest ones: of the concepts that gained most, middling and least, the query with the median gain."""
    ordered = sorted((c for c in concepts if c.quality.queries), key=lambda c: c.quality.before - c.quality.after)
    if not ordered:
        return []
    chosen = {"gained most": 0, "is in the middle": len(ordered) // 2, "gained least": len(ordered) - 1}
    shown = []
    for why, place in chosen.items():
        ids = sorted((id for id in gains if labels[id] == ordered[place].name), key=lambda id: gains[id])
        shown.append((why, ids[len(ids) // 2]))
    return shown


def _members(items: Iterable[Item]) -> dict[str, list[str]]:
    """Label -> ids, for the labels that have enough of them."""
    members: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if label(item):
            members[label(item)].append(item.id)
    return {concept: ids for concept, ids in members.items() if len(ids) >= MEMBERS}


def _all_items(c: Collection) -> Iterator[Item]:
    after: str | None = None
    while page := c.items(after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def _sample(ids: Iterator[str]) -> list[str]:
    return sorted(ids, key=_drawn)[:_QUERIES]


def _drawn(text: str) -> str:
    """A draw that comes out the same on every machine: order by a hash."""
    return hashlib.sha256(b"demo " + text.encode()).hexdigest()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - begin


def _tell(progress: Progress | None, stage: str, done: int, total: int = 1) -> None:
    if progress is not None:
        progress(stage, done, total)
