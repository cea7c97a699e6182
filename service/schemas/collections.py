"""Collections, and when they adapt by themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.schemas.common import MAX_VECTOR, Model, Name


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
