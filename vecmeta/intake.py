"""What users hand in, checked and made ready to be written: names, ids, metadata, contents."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecmeta.errors import InvalidConfig, InvalidItem, InvalidVector
from vecmeta.types import Item

MAX_ID = 512  # characters
MAX_METADATA = 1_000_000  # characters of JSON
MAX_BLOB = 100_000_000  # bytes of one picture
MAX_K = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=dict)  # dict: any other mapping
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Draft:
    """An item ready to be written but for its vector."""

    id: str
    metadata: str
    digest: bytes
    text: str | None
    blob: bytes | None

    @property
    def content(self) -> str | bytes:
        """What the encoder is given."""
        return self.blob if self.blob is not None else self.text or ""


def collection_name(name: object) -> str:
    """The name itself. Raises InvalidConfig: a name is also part of URLs, aliases and file names."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidConfig(
            f"{name!r} is no name for a collection: 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


def top(k: object, name: str = "k") -> int:
    """The number of hits or items asked for. Raises InvalidConfig."""
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= int(k) <= MAX_K:
        raise InvalidConfig(f"{name} is a whole number from 1 to {MAX_K}, not {k!r}")
    return int(k)


def whole(number: object, name: str, least: int) -> int:
    """A whole number that is not too small. Raises InvalidConfig."""
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 2**63:
        raise InvalidConfig(f"{name} is a whole number from {least} on, not {number!r}")
    return number


def listed(ids: Sequence[str]) -> list[str]:
    """The ids as a list. Raises InvalidConfig for a single text or what is no text."""
    if isinstance(ids, str):
        raise InvalidConfig(f"ids are a list of texts, not the text {ids!r}; give [{ids!r}]")
    found = list(ids)
    for id in found:
        if not isinstance(id, str):
            raise InvalidConfig(f"an id is a text, not {id!r}")
    return found


def version_number(version: object) -> int | None:
    """The number of a version; None is the live one. Raises InvalidConfig."""
    if version is None:
        return None
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**31:
        raise InvalidConfig(f"a version is a whole number, 0 for the untouched encoder, not {version!r}")
    return version


def strength(value: object) -> float | None:
    """How far vectors are moved; None lets an adaptation choose. Raises InvalidConfig."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise InvalidConfig(f"a strength is a number above 0 and up to 1, not {value!r}")
    return value


def start_file(value: object) -> str | Path | None:
    """The file of a meta-learned start; None is the shipped one. Raises InvalidConfig."""
    if value is not None and not isinstance(value, (str, Path)):
        raise InvalidConfig(f"a start is the path of a file, not {value!r}")
    return value


def matrix(ids: Sequence[str], vectors: ArrayLike, metadata: Sequence[object] | None, dim: int) -> tuple[list[str], NDArray[Any]]:
    """The ids of own vectors and the vectors, one row each; the rows themselves are not looked at. Raises InvalidItem, InvalidVector."""
    names = distinct(ids)
    rows = np.asarray(vectors)
    if rows.ndim != 2 or len(rows) != len(names):
        raise InvalidVector(f"{len(names)} ids need vectors of the shape ({len(names)}, {dim}), not {rows.shape}")
    if metadata is not None and len(metadata) != len(names):
        raise InvalidItem(f"{len(names)} ids need as many metadata objects, not {len(metadata)}")
    return names, rows


def drafts(items: Iterable[Item]) -> list[Draft]:
    """Check a batch of items. Raises InvalidItem that names the first offending item."""
    batch = list(items)
    for position, item in enumerate(batch):
        if not isinstance(item, Item):
            raise InvalidItem(f"item {position} of the batch is a {type(item).__name__}, not a vecmeta.Item")
    distinct([item.id for item in batch])
    return [_draft(item) for item in batch]


def distinct(ids: Sequence[object]) -> list[str]:
    """The ids of a batch, each checked. Raises InvalidItem for a bad one or one that comes twice."""
    seen: set[str] = set()
    for position, id in enumerate(ids):
        if not isinstance(id, str) or not id or len(id) > MAX_ID or "\0" in id or _SURROGATES.search(id):
            raise InvalidItem(
                f"item {position} of the batch has the id {_show(id)}; an id is a text of 1 to {MAX_ID} characters without NUL"
            )
        if id in seen:
            raise InvalidItem(f"id {id!r} stands twice in one batch (the second time at position {position})")
        seen.add(id)
    return [str(id) for id in ids]


def metadata_json(metadata: object, id: str) -> str:
    """The JSON text of an item's metadata. Raises InvalidItem that names the item and the place in its metadata."""
    if not isinstance(metadata, Mapping):
        raise InvalidItem(f"item {id!r}: metadata is a JSON object such as {{'lang': 'en'}}, not {_show(metadata)}")
    _check_json(metadata, f"item {id!r}: metadata", 0)
    text = _JSON.encode(metadata)
    if len(text) > MAX_METADATA:
        raise InvalidItem(f"item {id!r}: metadata has {len(text):,} characters of JSON; at most {MAX_METADATA:,}")
    if _SURROGATES.search(text):
        raise InvalidItem(f"item {id!r}: metadata holds a lone surrogate, which is not Unicode text")
    return text


def _check_json(value: Any, where: str, depth: int) -> None:
    if depth > 64:
        raise InvalidItem(f"{where} is nested deeper than 64 levels")
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if math.isfinite(value):
            return
        raise InvalidItem(f"{where} holds {value!r}, which JSON does not know")
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise InvalidItem(f"{where} has the key {_show(key)}; keys are texts")
            _check_json(part, f"{where}[{key!r}]" if depth < 4 else where, depth + 1)
        return
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_json(part, where, depth + 1)
        return
    raise InvalidItem(f"{where} holds {_show(value)} of type {type(value).__name__}, which is not JSON")


def _draft(item: Item) -> Draft:
    metadata = metadata_json(item.metadata, item.id)
    content = item.content
    if content is None:
        raise InvalidItem(f"item {item.id!r} has no content; own vectors go in with add_vectors()")
    if isinstance(content, str):
        if _SURROGATES.search(content):
            raise InvalidItem(f"item {item.id!r}: the text holds a lone surrogate, which is not Unicode text")
        return Draft(item.id, metadata, hashlib.sha256(b"t" + content.encode()).digest(), content, None)
    blob = picture(content, f"item {item.id!r}")
    return Draft(item.id, metadata, hashlib.sha256(b"b" + blob).digest(), None, blob)


def picture(content: object, what: str) -> bytes:
    """The bytes of a picture given as bytes or as the path of a file. Raises InvalidItem."""
    if isinstance(content, Path):
        try:
            if content.stat().st_size > MAX_BLOB:
                raise InvalidItem(f"{what}: the file {content} is larger than {MAX_BLOB:,} bytes")
            return content.read_bytes()
        except OSError as error:
            raise InvalidItem(f"{what}: cannot read the file {content}: {error.strerror}") from error
    if isinstance(content, (bytes, bytearray, memoryview)):
        if len(content) > MAX_BLOB:
            raise InvalidItem(f"{what}: {len(content):,} bytes; at most {MAX_BLOB:,}")
        return bytes(content)
    raise InvalidItem(f"{what}: content is a text, bytes or a Path, not {_show(content)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
