"""Items, as they are sent and given back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.schemas.common import ItemId, Listing, Model, Numbers, Picture, Text, Where, exactly_one


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
        exactly_one(self, "text", "image", "vector")
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
