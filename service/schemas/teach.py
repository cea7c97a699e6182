"""Judgements, adaptations, jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import ItemId, Model, Short, exactly_one
from service.schemas.search import QueryModel


class JudgementModel(Model):
    """What somebody says about an item: about exactly one of concept and query. +1 belongs or is relevant, -1 does not, 0 takes it back."""

    item: ItemId
    concept: Short | None = None
    query: QueryModel | None = None
    score: Annotated[float, Field(ge=-1, le=1)] = 1.0
    user: Short | None = None

    @model_validator(mode="after")
    def _one(self) -> JudgementModel:
        exactly_one(self, "concept", "query")
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
    bridge: bool | None = Field(
        None,
        description="true: live before its index is built; until then the old one answers for it, with exact scores of an oversampled "
        "list; null: as the service was started (`VECMETA_BRIDGE`)",
    )


class FinetuneBody(Model):
    """What kind of fine-tuning."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"dry_run": True}, {"mode": "lora", "transfer": ["relations"]}]})
    mode: Literal["features", "lora", "full"] = "full"
    transfer: Annotated[
        list[Literal["representation", "parameters", "instances", "relations"]], Field(default_factory=list, max_length=4)
    ]
    field: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        None, description="learn from this metadata field instead of from the judgements"
    )
    source: Annotated[str, StringConstraints(min_length=1, max_length=319)] | None = Field(
        None,
        description="for the transfers `instances` and `representation`: NAME of a collection, whose judgements are learned from too, or "
        "NAME:FIELD with a metadata field of it; the key has to reach it as well",
    )
    method: Annotated[str, StringConstraints(min_length=1, max_length=32)] = Field("maml", description="of the head on top")
    config: dict[str, int | float | str | None] = Field(
        default_factory=dict, description="further settings, such as `rate` and `steps`"
    )
    dry_run: bool = Field(False, description="train and measure; nothing becomes a version")
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
