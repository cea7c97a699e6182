"""Searches, recommendations, embeddings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import ItemId, Listing, Model, Numbers, Picture, Text, TopK, VersionNumber, Where, exactly_one


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
        exactly_one(self, "text", "image", "vector", "id")
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
