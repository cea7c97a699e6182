"""The frozen records that go in and come out, and the names of array shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, InvalidJudgement

T = TypeVar("T")
Vectors: TypeAlias = NDArray[np.float32]  # (n, dim)
Vector: TypeAlias = NDArray[np.float32]  # (dim,)
Keys: TypeAlias = NDArray[np.int64]  # (n,)
Mask: TypeAlias = NDArray[np.bool_]  # (n,)
Described: TypeAlias = Sequence[tuple[str, str]]  # (n,) id and metadata, as JSON, of items
Content: TypeAlias = str | bytes | Path  # a text, or a picture as bytes or as the path of a file
Metadata: TypeAlias = Mapping[str, Any]  # what json.dumps takes, with string keys
Where: TypeAlias = Mapping[str, Any]  # the filter language of `vecmeta.where`
Progress: TypeAlias = Callable[[str, int, int], None]  # (stage, done, total); raise vecmeta.Cancelled to stop
Decision: TypeAlias = Literal["promoted", "kept", "insufficient"]
Indexing: TypeAlias = Literal["", "kept", "rebuilding", "built"]
JobState: TypeAlias = Literal[
    "queued", "encoding", "adapting", "evaluating", "building", "ready", "live", "kept", "failed", "cancelled"
]
Scope: TypeAlias = Literal["read", "feedback", "write", "admin"]


@dataclass(frozen=True, slots=True)
class Id:
    """A query that is an item of the collection: ``c.search(vm.Id("a"))``."""

    value: str


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A text or picture together with its (dim,) base vector under an encoder of the collection, see `Collection.encoded`.

    It is encoded again where it meets a version of another encoder.
    """

    content: Content
    encoder: int
    vector: Vector


Query: TypeAlias = str | bytes | Path | Id | Encoded | NDArray[Any] | Sequence[float]  # the last two: an own vector


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be found.

    ``content`` is a text (str) or a picture (bytes, or a Path whose bytes are read and kept); None for own vectors.
    ``metadata`` is a JSON object.
    """

    id: str
    content: Content | None = None
    metadata: Metadata = field(default_factory=dict)


class Hit(NamedTuple):
    """One result. ``score`` is the cosine, in [-1, 1], between query and item under the version that answered."""

    id: str
    score: float
    metadata: dict[str, Any]
    content: str | bytes | None


RawHit: TypeAlias = tuple[str, float, str, str | bytes | None]  # as Hit, with the JSON that metadata is stored as


class _Ranked(list[T]):
    def __init__(self, hits: Iterable[T] = (), *, version: int = 0) -> None:
        super().__init__(hits)
        self.version = version


class Hits(_Ranked[Hit]):
    """The hits of one query, best first, all from one head version: ``hits.version``."""


class RawHits(_Ranked[RawHit]):
    """`Hits` for whoever passes them on: (id, score, metadata as JSON, content)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What somebody says about one item: it belongs to a concept, or it is (not) relevant to a query.

    Exactly one of ``concept`` and ``query`` is given. ``score`` lies in [-1, 1]: +1 belongs or is relevant, -1 does not, 0 takes
    an earlier judgement back. The latest judgement about the same item and concept (or query) counts. ``time`` is the log's.
    """

    item: str
    concept: str | None = None
    query: Query | None = None
    score: float = 1.0
    user: str | None = None
    time: datetime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if (self.concept is None) == (self.query is None):
            raise InvalidJudgement(f"a judgement on item {self.item!r} needs exactly one of concept and query")
        if self.concept is not None and (not isinstance(self.concept, str) or not self.concept.strip()):
            raise InvalidJudgement(f"the concept of a judgement on item {self.item!r} must be a text, not {self.concept!r}")
        for name, text in (("concept", self.concept), ("user", self.user)):
            if text is not None and (
                not isinstance(text, str) or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text))
            ):
                raise InvalidJudgement(f"the {name} of a judgement on item {self.item!r} must be Unicode text, not {text!r}")
        if isinstance(self.score, bool) or not isinstance(self.score, (int, float)) or not -1 <= self.score <= 1:
            raise InvalidJudgement(f"score {self.score!r} of a judgement on item {self.item!r} is not a number from -1 to 1")


def similar(a: str, b: str, score: float = 1.0, user: str | None = None) -> Judgement:
    """That two items are alike, as a judgement on one with the other as its query; `score` in [0, 1], 0 takes an earlier word back.

    The order of the two does not matter. Raises InvalidJudgement.
    """
    if not isinstance(score, bool) and isinstance(score, (int, float)) and score < 0:
        raise InvalidJudgement(f"score {score!r} of two similar items, {a!r} and {b!r}, is below 0: use dissimilar()")
    return _pair(a, b, score, user)


def dissimilar(a: str, b: str, score: float = -1.0, user: str | None = None) -> Judgement:
    """That two items are not alike; `score` in [-1, 0], else as `similar`. Raises InvalidJudgement."""
    if not isinstance(score, bool) and isinstance(score, (int, float)) and score > 0:
        raise InvalidJudgement(f"score {score!r} of two dissimilar items, {a!r} and {b!r}, is above 0: use similar()")
    return _pair(a, b, score, user)


def _pair(a: str, b: str, score: float, user: str | None) -> Judgement:
    for id in (a, b):
        if not isinstance(id, str):
            raise InvalidJudgement(f"two items are named by their ids, texts, not by {id!r}")
    if a == b:
        raise InvalidJudgement(f"a pair is made of two different items, not of {a!r} twice")
    first, second = sorted((a, b))  # always the same way round, so that the latest word counts whichever is named first
    return Judgement(second, query=Id(first), score=score, user=user)


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Which items match: a mark for every slot.

    ``keys``   (slots,) ascending, not to be written to: the items' keys. A deleted item may keep its slot, with False.
    ``mask``   (slots,), the caller's own.
    ``stamp``  of the keys: the same number, the same array.
    ``base``   of their order: under the same number, an earlier array of keys is the beginning of a later one.
    """

    keys: Keys
    mask: Mask
    stamp: int
    base: int


@dataclass(frozen=True, slots=True)
class Understood:
    """What `Collection.feedback` made of a batch: counts of judgements that were new, repeated, or changed an earlier one."""

    new: int
    duplicate: int
    contradicting: int


@dataclass(frozen=True, slots=True)
class Version:
    """A version as the catalogue knows it: a head over an encoder. Number 0 is the untouched encoder; ``encoder`` has its weights' hash."""

    number: int
    method: str
    live: bool
    decision: Decision
    reason: str
    created: datetime
    judgements: int
    strength: float
    metrics: Mapping[str, float]
    encoder: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """How one query's top list moved between the base and a candidate: items that entered, items that left."""

    query: str
    entered: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of an adaptation.

    ``decision``  "promoted" (live now, unless it was asked to wait; or would be, in a dry run), "kept" (stored, not live) or
                  "insufficient" (nothing stored).
    ``version``   its number; None when nothing was stored (insufficient, dry run).
    ``metrics``   what held-out rankings showed, for "fed" (what was taught) and "unfed" (concepts held out whole): ``fed_rank_base`` and
                  ``fed_rank``, geometric means of the ranks of held-out items, from 1; ``fed_gain`` with its 90 % interval
                  ``fed_gain_low`` to ``fed_gain_high``, in halvings of the rank; ``fed_worse``, the share of rankings that got worse;
                  ``fed_tests``, their number; and ``neighbours_kept``, the mean share of an unlabelled item's ten nearest that stay.
                  Also ``contradictions``, their number, and where the start knows what it was trained on ``shift``: how unlike that the
                  judgements are, 1 being the limit of what was usual.
    ``harmed``    share of sampled unlabelled items whose neighbourhood was torn, in [0, 1].
    ``changed``   the top lists that moved most.
    ``seconds``   by stage, and "total"; parts of a stage as "building: insert", where an index in a Milvus was built.
    ``notes``     what is worth knowing besides, in sentences; so far what the judgements have that the start never saw.
    ``contradictions``  where judgements contradict each other, a sentence each, at most 20; they are learned from all the same.
    ``indexing``  how its index was made: "kept", the graph that was there under the new vectors; "rebuilding", the same, but the metric
                  ``recall``, the share of the exact ten nearest that it finds, lies below .98 and a new one is made in the background;
                  "built" where there was no graph to keep; "" when nothing was indexed.
    ``cost``      of a dry run, estimates for building what was measured: ``rows`` to re-embed, ``bytes`` of index files, ``seconds``.
    """

    decision: Decision
    version: int | None
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    harmed: float = 0.0
    changed: tuple[Change, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    dry_run: bool = False
    notes: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    indexing: Indexing = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        lists = {"notes": list(self.notes), "contradictions": list(self.contradictions)}
        return {**asdict(self), "changed": [asdict(change) for change in self.changed], **lists}

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Report:
        """The reverse of `to_dict`; of reports that were stored by earlier versions too, which lack some fields."""
        changed = tuple(Change(c["query"], tuple(c["entered"]), tuple(c["left"])) for c in about["changed"])
        lists = {name: tuple(about.get(name, ())) for name in ("notes", "contradictions")}
        return cls(**{**about, "changed": changed, **lists})


@dataclass(frozen=True, slots=True)
class Job:
    """Long work on a collection, as `Database.jobs` knows it.

    ``state``     queued, encoding, adapting, evaluating, building, ready (about to go live), and at the end one of live, kept (stored or
                  measured, and not live: also a dry run, and too few judgements), failed, cancelled.
    ``done``, ``total``  progress within the state; total 0: not known.
    ``eta``       seconds to its end, told from the last job of its kind on this collection; None without one.
    ``attempts``  how often a worker has taken it: more than 1 after a worker died with it; one that stopped in order does not count.
    ``joined``    later requests that wanted the same while it was queued and are served by it.
    ``report``    of a finished adaptation.
    ``error``     of a failed job, as ("storage_full", "what happened").
    """

    id: str
    collection: str
    kind: str
    params: Mapping[str, Any]
    state: JobState
    done: int
    total: int
    eta: float | None
    attempts: int
    joined: int
    report: Report | None
    error: tuple[str, str] | None
    created: datetime
    due: datetime
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class Policy:
    """When a collection adapts by itself: after `auto_adapt` new judgements (None: never), once none came for `debounce` seconds."""

    auto_adapt: int | None = None
    debounce: float = 10.0

    def __post_init__(self) -> None:
        n, s = self.auto_adapt, self.debounce
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 1_000_000):
            raise InvalidConfig(f"auto_adapt is a number of judgements from 1 to 1,000,000, or None, not {n!r}")
        if isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 <= s <= 86_400:
            raise InvalidConfig(f"debounce is a number of seconds from 0 to 86,400, not {s!r}")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. ``collections`` None: all of them. Times are UTC; ``used`` is right to a minute."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    collections: tuple[str, ...] | None
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None

    def allows(self, scope: Scope, collection: str | None = None) -> bool:
        """Whether its scopes and collections allow something: admin allows all, write and feedback allow reading too.

        Without a collection it is about the database as a whole, which a key of some collections may only read.
        """
        if not (self.scopes if scope == "read" else {scope, "admin"}.intersection(self.scopes)):
            return False
        if self.collections is None:
            return True
        return scope == "read" if collection is None else collection in self.collections


@dataclass(frozen=True, slots=True)
class Split:
    """A share of the searches that name no version, in percent, which a candidate answers instead of the live version."""

    version: int
    percent: float
    started: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a version's answers.

    ``searches``  answers that were counted.
    ``clicked``   how many of them were followed by a click at least.
    ``clicks``    clicks in all; the same item of the same answer counts once.
    ``rate``      clicked / searches, with its 95 % interval ``low`` to ``high`` (Wilson 1927); None without searches.
    ``mean_reciprocal_rank``  mean over clicked answers of 1 / rank of the highest item clicked; None when no rank was told.
    """

    version: int
    searches: int
    clicked: int
    clicks: int
    rate: float | None
    low: float | None
    high: float | None
    mean_reciprocal_rank: float | None
