"""What several schemas are made of."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

MAX_VECTOR = 16_384  # numbers
_MAX_PACKED = -(-4 * MAX_VECTOR // 3) * 4  # characters
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


def unpacked(value: str) -> NDArray[np.float32]:
    """The numbers of a packed vector. Raises ValueError."""
    if len(value) > _MAX_PACKED:  # before it is decoded
        raise ValueError(f"a vector has at most {MAX_VECTOR:,} numbers")
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
    except ValueError:
        raise ValueError("not a vector: a list of numbers, or little-endian 32-bit floats as standard base64") from None


def _listed(value: object) -> object:
    return unpacked(value).tolist() if isinstance(value, str) else value


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_unicode)]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_unicode)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_unicode)]
Picture = Annotated[bytes, BeforeValidator(_decoded), Field(json_schema_extra={"format": "base64", "contentEncoding": "base64"})]
Number = Annotated[float, Field(allow_inf_nan=False)]
_Listed = Annotated[list[float], Field(min_length=1, max_length=MAX_VECTOR)]
_Packed = Annotated[
    str,
    Field(
        min_length=8, max_length=_MAX_PACKED, json_schema_extra={"contentEncoding": "base64"},
        description="little-endian 32-bit floats as base64: half the bytes, and read in a fraction of the time",
    ),
]  # fmt: skip
Numbers = Annotated[_Listed, BeforeValidator(_listed, json_schema_input_type=_Listed | _Packed)]
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


def exactly_one(model: BaseModel, *names: str) -> None:
    """For a validator. Raises ValueError."""
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(names)} is needed, not " + (" and ".join(given) if given else "none"))
