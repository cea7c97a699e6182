"""Versions and traffic."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.schemas.common import ItemId, Model, VersionNumber
from service.schemas.teach import ReportModel


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
    encoder: str = Field(description="the encoder that it is of, with the hash of its weights")


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
