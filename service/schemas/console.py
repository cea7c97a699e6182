"""Views of a collection as a whole, samples, and API keys: what the console shows besides."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from service.schemas.collections import CollectionAnswer
from service.schemas.common import Model, Name
from service.schemas.items import ItemAnswer
from service.schemas.teach import JobModel, JudgementAnswer
from service.schemas.versions import VersionModel

Scope = Literal["read", "feedback", "write", "admin"]


class ValueModel(BaseModel):
    """A usual value of a field."""

    value: str | float | bool
    count: int


class FieldModel(BaseModel):
    """A metadata field."""

    name: str
    items: int
    kinds: list[Literal["text", "number", "boolean", "list", "object", "null"]]
    values: list[ValueModel]
    distinct: int
    low: float | None
    high: float | None


class FieldsAnswer(BaseModel):
    """The metadata fields of a collection, told from `read` items, all or drawn at random."""

    fields: list[FieldModel]
    read: int


class OverviewAnswer(BaseModel):
    """A collection as a view of it begins, and the names of all that the key may see."""

    collections: list[str]
    collection: CollectionAnswer
    versions: list[VersionModel]
    fields: list[FieldModel]
    judgements: Annotated[
        list[JudgementAnswer],
        Field(description="the last ones of the log; a query that is a picture or a vector is told by a `digest`"),
    ]
    total: Annotated[int, Field(description="judgements in the log")]
    contradictions: list[str]
    job: Annotated[JobModel | None, Field(description="the newest one of the collection")]


class MapAnswer(BaseModel):
    """Items as points of a plane: their two principal axes, turned towards version 0's; column by column."""

    version: int
    total: Annotated[int, Field(description="items of the collection, of which the map may have a part, drawn at random")]
    ids: list[str]
    x: list[float]
    y: list[float]
    values: Annotated[list[Any], Field(description="each item's value of the field that was asked for; null where it has none")]


class SuggestionModel(BaseModel):
    """An item whose label would tell much."""

    item: ItemAnswer
    why: str
    concepts: list[str]


class SuggestionsAnswer(BaseModel):
    """What to label next, most telling first; looked for among `read` items, all or drawn at random."""

    suggestions: list[SuggestionModel]
    read: int


class LessonModel(BaseModel):
    """A notion that a sample can be taught: the field that it is by, and the items to mark for each concept."""

    name: str
    concepts: dict[str, list[str]]


class SampleAnswer(BaseModel):
    """A sample collection to write: a name for it, its encoder, its items, what to ask and what to teach it."""

    name: str
    encoder: str
    items: list[ItemAnswer]
    queries: list[str]
    lessons: list[LessonModel]


class NewKey(Model):
    """A key to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "search page", "scopes": ["read", "feedback"]}]})
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)]
    collections: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None
    expires: Annotated[AwareDatetime, Field(strict=False)] | None = None


class KeyModel(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    collections: list[str] | None
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None


class KeyCreated(KeyModel):
    """A new key with its secret, which cannot be had again."""

    secret: str


class KeysAnswer(BaseModel):
    """All keys, oldest first; those that expired or were revoked too."""

    keys: list[KeyModel]
