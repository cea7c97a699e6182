"""What can be set from outside: environment variables VECMETA_…, or the options of `vecmeta serve`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 2**20


class Settings(BaseSettings):
    """Read once by `service.app.create_app`. Lists are written with commas: VECMETA_ENCODERS=text,vectors."""

    model_config = SettingsConfigDict(env_prefix="VECMETA_", frozen=True, extra="ignore")

    data: str = "./vecmeta-data"  # the folder of the database, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE
    index: str = "faiss"
    files: str | None = None  # the folder of the index files; None: as for `vecmeta.open`
    device: str = "auto"
    bridge: bool = False  # versions go live before their indexes are built, see `vecmeta.open`; a request can say otherwise

    auth: bool = True  # False: no API keys, and only requests from this machine are answered
    encoders: Annotated[tuple[str, ...], NoDecode] = (  # that callers may name
        "text", "text:int8", "image", "resnet18", "resnet50", "vectors",
    )  # fmt: skip
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()  # none: browsers of other sites get nothing

    rate: Annotated[int, Field(ge=0)] = 0  # requests a minute and key; 0: as many as come
    wrong_keys: Annotated[int, Field(ge=1)] = 60  # secrets a minute that one address may get wrong before it has to wait
    max_body: Annotated[int, Field(ge=1024)] = 64 * MIB  # bytes of a request, except streams of items
    max_line: Annotated[int, Field(ge=1024)] = 16 * MIB  # bytes of one line of a stream of items
    max_batch: Annotated[int, Field(ge=1, le=100_000)] = 1000  # items or judgements of one request
    body_timeout: Annotated[float, Field(gt=0)] = 20.0  # seconds for a body to come, besides one second for each 256 bytes of it
    timeout: Annotated[float, Field(gt=0)] = 60.0  # seconds for an answer, except jobs and streams

    workers: Annotated[int, Field(ge=0, le=64)] = 1  # processes that run jobs; 0: `vecmeta worker` does, elsewhere
    lease: Annotated[float, Field(ge=0.5, le=3600)] = 15.0  # seconds of a worker's silence after which others take its job over
    copied: Annotated[int, Field(ge=0)] = 4096 * MIB  # bytes of vectors up to which an index is copied out of its mapped file
    search_threads: Annotated[int, Field(ge=1, le=256)] = 2
    search_batch: Annotated[int, Field(ge=1, le=1024)] = 64  # queries that are searched together at most
    encode_batch: Annotated[int, Field(ge=1, le=1024)] = 32  # texts or pictures that are encoded together at most
    encode_wait: Annotated[float, Field(ge=0, le=1)] = 0.0  # seconds the first of a batch waits for others
    waiting: Annotated[int, Field(ge=1)] = 2000  # requests that may wait for their turn; more are told to come back
    grace: Annotated[float, Field(ge=0)] = 10.0  # seconds that running jobs and requests have to end when the service stops

    otel_endpoint: str | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")

    @field_validator("encoders", "cors_origins", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
