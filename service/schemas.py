"""What requests and answers look like. Nothing here computes; `/docs` is made from it."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

import vecmeta as vm

MAX_VECTOR = 16_384  # numbers
MAX_TEXT = 1_000_000  # characters, as encoders have it


class Model(BaseModel):
    """Strict, closed and frozen: a name that is not known is an error, and "1" is not 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate is not Unicode text") from None
    return text


def _decoded(value: object) -> object:
    """Base64 in JSON to bytes. Never a path, never an address: what is not base64 is an error."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("a picture is base64 in a text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            "not base64: the bytes of a picture are sent as standard base64; paths and addresses are not opened"
        ) from None


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_unicode)]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_unicode)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_unicode)]
Picture = Annotated[bytes, BeforeValidator(_decoded), Field(json_schema_extra={"format": "base64", "contentEncoding": "base64"})]
Number = Annotated[float, Field(allow_inf_nan=False)]
Numbers = Annotated[list[float], Field(min_length=1, max_length=MAX_VECTOR)]
TopK = Annotated[int, Field(ge=1, le=10_000)]
VersionNumber = Annotated[int, Field(ge=0, lt=2**31)]
Where = Annotated[dict[str, Any], Field(examples=[{"lang": "en", "year": {"$gte": 2020}}])]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Listing = Annotated[list[ItemId], Field(max_length=10_000)]


class ErrorAnswer(BaseModel):
    """Every error has this shape."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "item_not_found", "detail": "collection 'docs' has no item 'a'"}]}
    )
    error: str
    detail: str


# -- collections -------------------------------------------------------------------------------------------------------------------


class NewCollection(Model):
    """A collection to be made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "docs", "encoder": "text"}, {"name": "own", "encoder": "vectors", "dim": 384}]}
    )
    name: Name
    encoder: Annotated[str, StringConstraints(min_length=1, max_length=255)] = "text"
    dim: (
        Annotated[int, Field(ge=1, le=MAX_VECTOR, description="length of own vectors; only with the encoder `vectors`")] | None
    ) = None


class CollectionAnswer(BaseModel):
    """A collection."""

    name: str
    encoder: str
    dim: int
    modality: Literal["text", "image", "vector"] | None
    items: int
    live: Annotated[int, Field(description="the live version; 0 is the untouched encoder")]
    ready: Annotated[bool, Field(description="its index is in memory")]


class CollectionsAnswer(BaseModel):
    """All collections that the key may see."""

    collections: list[str]


class PolicyModel(Model):
    """When a collection adapts by itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"auto_adapt": 20, "debounce": 10.0}]})
    auto_adapt: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    debounce: Annotated[float, Field(ge=0, le=86_400)] = 10.0


# -- items -------------------------------------------------------------------------------------------------------------------------


class ItemBody(Model):
    """An item without its id: exactly one of text, image (base64) and vector."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "How do I get my money back?", "metadata": {"lang": "en"}}]}
    )
    text: Text | None = None
    image: Picture | None = None
    vector: Numbers | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> ItemBody:
        _exactly_one(self, "text", "image", "vector")
        return self


class ItemModel(ItemBody):
    """An item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "a", "text": "How do I get my money back?", "metadata": {"lang": "en", "year": 2026}}]
        }
    )
    id: ItemId


class ItemsBody(Model):
    """Items to be written, all or none; at most as many as `max_batch` says (1,000 unless configured)."""

    items: Annotated[list[ItemModel], Field(min_length=1, max_length=100_000)]


class ItemAnswer(BaseModel):
    """An item as it is stored; own vectors are not handed out, `embed` with version 0 gives them as unit rows."""

    id: str
    text: str | None = None
    image: Annotated[str | None, Field(description="base64")] = None
    metadata: dict[str, Any]


class ItemsAnswer(BaseModel):
    """A page of items by ascending id; `next` is the cursor of the next page, null on the last one."""

    items: list[ItemAnswer]
    next: str | None


class IdsBody(Model):
    """Ids of items."""

    ids: Annotated[Listing, Field(min_length=1)]


class Written(BaseModel):
    """How many items were written or deleted."""

    count: int


class Counted(BaseModel):
    """How many items match."""

    count: int


class CountBody(Model):
    """What to count."""

    where: Where | None = None


class LineResult(BaseModel):
    """What became of one line of a stream; the last line of the answer is a `StreamResult`."""

    line: Annotated[int, Field(description="from 1")]
    id: str | None = None
    status: Literal["written", "refused"]
    error: str | None = None
    detail: str | None = None


# -- search ------------------------------------------------------------------------------------------------------------------------


class Liked(Model):
    """An item that this one query is bent towards (score up to 1) or away from (down to -1)."""

    id: ItemId
    score: Annotated[float, Field(ge=-1, le=1)]


class QueryModel(Model):
    """A query: exactly one of text, image (base64), vector and id (more like this item)."""

    text: Text | None = None
    image: Picture | None = None
    vector: Numbers | None = None
    id: ItemId | None = None

    @model_validator(mode="after")
    def _one(self) -> QueryModel:
        _exactly_one(self, "text", "image", "vector", "id")
        return self


class SearchOptions(Model):
    """What all kinds of search take."""

    k: TopK = 10
    where: Where | None = None
    version: VersionNumber | Literal["live", "base"] = Field(
        "live", description="`live`, `base` (0, the untouched encoder), or a number"
    )
    feedback: Annotated[list[Liked], Field(max_length=1000)] | None = Field(
        None, description="bends this one query; nothing is stored"
    )
    compare: bool = Field(False, description="answer under the base as well, with the changes of rank")
    session: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="who asks: a split shows one user one version"
    )
    content: bool = Field(True, description="hits carry their contents")


class SearchBody(QueryModel, SearchOptions):
    """A search."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "refund", "k": 5, "where": {"year": {"$gte": 2026}}},
                {"id": "a", "k": 3, "compare": True},
                {"text": "refund", "feedback": [{"id": "c", "score": 1.0}, {"id": "b", "score": -1.0}]},
            ]
        }
    )


class SearchManyBody(SearchOptions):
    """Several searches, all answered by one version."""

    queries: Annotated[list[QueryModel], Field(min_length=1, max_length=1000)]


class RecommendBody(Model):
    """Items near the liked ones and away from the others."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"like": ["a"], "unlike": ["b"], "k": 3}]})
    like: Annotated[Listing, Field(min_length=1)]
    unlike: Listing = Field(default_factory=list)
    k: TopK = 10
    where: Where | None = None
    version: VersionNumber | Literal["live", "base"] = "live"
    content: bool = True


class HitModel(BaseModel):
    """One result; the score is a cosine."""

    id: str
    score: float
    metadata: dict[str, Any]
    text: str | None = None
    image: Annotated[str | None, Field(description="base64")] = None
    rank_change: Annotated[
        int | None, Field(description="with compare: places won (+) or lost (-) against the base; null: it was not there")
    ] = None


class Ranking(BaseModel):
    """Hits, best first, all from one version."""

    version: int
    hits: list[HitModel]


class SearchAnswer(Ranking):
    """Hits, best first, all from one version."""

    search: Annotated[str, Field(description="the id of this answer, for clicks")]
    base: Annotated[Ranking | None, Field(description="with compare: the same query under version 0")] = None


class SearchManyAnswer(BaseModel):
    """One ranking for each query."""

    results: list[SearchAnswer]


class EmbedBody(Model):
    """What to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"contents": [{"text": "refund"}, {"id": "a"}], "version": "base"}]}
    )
    contents: Annotated[list[QueryModel], Field(min_length=1, max_length=1000)]
    version: VersionNumber | Literal["live", "base"] = "live"


class EmbedAnswer(BaseModel):
    """Unit rows, one for each content."""

    vectors: list[list[float]]


# -- judgements and adaptation -----------------------------------------------------------------------------------------------------


class JudgementModel(Model):
    """What somebody says about an item: about exactly one of concept and query. +1 belongs or is relevant, -1 does not, 0 takes it back."""

    item: ItemId
    concept: Short | None = None
    query: QueryModel | None = None
    score: Annotated[float, Field(ge=-1, le=1)] = 1.0
    user: Short | None = None

    @model_validator(mode="after")
    def _one(self) -> JudgementModel:
        _exactly_one(self, "concept", "query")
        return self


class FeedbackBody(Model):
    """Judgements to be stored, all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "judgements": [
                        {"item": "a", "concept": "refunds"},
                        {"item": "b", "query": {"text": "send it back"}, "score": -1.0},
                    ],
                    "adapt": True,
                }
            ]
        }
    )
    judgements: Annotated[list[JudgementModel], Field(min_length=1, max_length=100_000)]
    adapt: bool = Field(False, description="start an adaptation as well (needs the scope write)")


class UnderstoodAnswer(BaseModel):
    """What was made of the judgements, and the job that was started."""

    new: int
    duplicate: int
    contradicting: int
    job: str | None = Field(None, description="`adapt`, or the collection's policy, started this job")


class JudgementAnswer(BaseModel):
    """A stored judgement."""

    item: str
    concept: str | None
    query: dict[str, Any] | None
    score: float
    user: str | None
    time: datetime | None


class JudgementsAnswer(BaseModel):
    """The log from `offset` on, oldest first."""

    judgements: list[JudgementAnswer]
    total: int


class ContradictionsAnswer(BaseModel):
    """Where judgements contradict each other, a sentence each."""

    contradictions: list[str]


class AdaptBody(Model):
    """What kind of adaptation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"dry_run": True}]})
    method: Annotated[str, StringConstraints(min_length=1, max_length=32)] = "maml"
    dry_run: bool = Field(False, description="measure and tell the cost; store nothing")
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    activate: bool = Field(
        True, description="false: store and build a candidate that measures better, but leave the live version live"
    )


class ChangeModel(BaseModel):
    """A top list that moved."""

    query: str
    entered: list[str]
    left: list[str]


class ReportModel(BaseModel):
    """The outcome of an adaptation; the names of the metrics are told in the README."""

    decision: Literal["promoted", "kept", "insufficient"]
    version: int | None
    reason: str
    metrics: dict[str, float]
    harmed: float
    changed: list[ChangeModel]
    seconds: dict[str, float]
    dry_run: bool
    notes: list[str]
    contradictions: list[str]
    cost: dict[str, float] = Field(default_factory=dict, description="of a dry run: rows, seconds, bytes of going live")


class JobError(BaseModel):
    """Why a job failed."""

    error: str
    detail: str


class JobModel(BaseModel):
    """Long work."""

    id: str
    collection: str
    kind: str
    params: dict[str, Any]
    state: Literal["queued", "encoding", "adapting", "evaluating", "building", "ready", "live", "kept", "failed", "cancelled"]
    done: int
    total: int
    eta: float | None
    attempts: int
    joined: int
    report: ReportModel | None
    error: JobError | None
    created: datetime
    due: datetime
    started: datetime | None
    finished: datetime | None


class JobsAnswer(BaseModel):
    """Jobs, newest first; `next` is the cursor of the next page."""

    jobs: list[JobModel]
    next: str | None


# -- versions and traffic ----------------------------------------------------------------------------------------------------------


class VersionModel(BaseModel):
    """A version. 0 is the untouched encoder."""

    number: int
    method: str
    live: bool
    decision: Literal["promoted", "kept", "insufficient"]
    reason: str
    created: datetime
    judgements: int
    strength: float
    metrics: dict[str, float]


class VersionsAnswer(BaseModel):
    """All versions, oldest first."""

    versions: list[VersionModel]


class VersionAnswer(VersionModel):
    """A version with its report (null for version 0, which nobody adapted)."""

    report: ReportModel | None


class LiveAnswer(BaseModel):
    """Which version is live now."""

    live: int


class ShareBody(Model):
    """A candidate and its share of the searches that name no version."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 2, "percent": 10}]})
    version: VersionNumber
    percent: Annotated[float, Field(gt=0, le=100)]


class SplitModel(BaseModel):
    """A split that is on."""

    version: int
    percent: float
    started: datetime


class OutcomeModel(BaseModel):
    """What came of a version's answers; rate is clicked / searches with its 95 % interval."""

    version: int
    searches: int
    clicked: int
    clicks: int
    rate: float | None
    low: float | None
    high: float | None
    mean_reciprocal_rank: float | None


class TrafficAnswer(BaseModel):
    """The split, if one is on, and the outcomes by version."""

    split: SplitModel | None
    outcomes: list[OutcomeModel]


class ClickBody(Model):
    """A click, a purchase or the like on an item of an answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"search": "2-9f86d081884c7d65", "item": "a", "rank": 1}]})
    search: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}-[0-9a-f]{16}$")]
    item: ItemId
    rank: Annotated[int, Field(ge=1, le=10_000)] | None = None


class ClickAnswer(BaseModel):
    """Whether the click was new."""

    counted: bool


# -- operations --------------------------------------------------------------------------------------------------------------------


class Health(BaseModel):
    """The process is there."""

    status: Literal["ok"] = "ok"
    version: str = vm.__version__


class Readiness(BaseModel):
    """Whether searches are answered without waiting for an index."""

    ready: bool
    waiting_for: list[str] = Field(default_factory=list, description="collections whose index is being read or built")


def _exactly_one(model: BaseModel, *names: str) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(names)} is needed, not " + (" and ".join(given) if given else "none"))
