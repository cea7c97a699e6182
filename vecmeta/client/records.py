"""Between vecmeta's records and the JSON that a service takes and gives."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from vecmeta import intake
from vecmeta.encoders.vectors import unit_rows
from vecmeta.errors import InvalidItem, InvalidJudgement, InvalidVector, ItemNotFound
from vecmeta.types import Hit, Hits, Id, Item, Job, Judgement, Outcome, Query, Report, Split, Vectors, Version

T = TypeVar("T")
MOST = 256  # items or queries of one request
MOST_BYTES = 8 * 2**20  # of one request, about; a single item may be larger
NUMBER_BYTES = 22  # of a number as JSON, at most but for rare ones


class RemoteHits(Hits):
    """Hits of a service. ``search`` is the id of the answer, for `traffic.clicked`; None where the service gives none."""

    def __init__(self, hits: Iterable[Hit] = (), *, version: int = 0, search: str | None = None) -> None:
        super().__init__(hits, version=version)
        self.search = search


def batches(rows: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
    """Rows that come with their bytes, as many together as one request holds."""
    batch: list[T] = []
    held = 0
    for row, size in rows:
        if batch and (len(batch) == MOST or held + size > MOST_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(row)
        held += size
    if batch:
        yield batch


# -- what is sent ------------------------------------------------------------------------------------------------------------------


def sent_items(items: Iterable[Item]) -> tuple[int, Iterator[tuple[dict[str, Any], int]]]:
    """How many they are, and each with its bytes. All are checked at once, but for files, which are read as they are drawn.

    Raises:
        InvalidItem: names the first that cannot be sent.
    """
    given = list(items)
    files = {place: item.content for place, item in enumerate(given) if isinstance(item, Item) and isinstance(item.content, Path)}
    drafts = intake.drafts([Item(item.id, "", item.metadata) if n in files else item for n, item in enumerate(given)])

    def rows() -> Iterator[tuple[dict[str, Any], int]]:
        for place, draft in enumerate(drafts):
            content = intake.picture(files[place], f"item {draft.id!r}") if place in files else draft.content
            row: dict[str, Any] = {"id": draft.id, **_content(content), "metadata": orjson.Fragment(draft.metadata)}
            yield row, len(draft.metadata) + _bytes(content)

    return len(drafts), rows()


def sent_vectors(
    ids: Sequence[str], vectors: Any, metadata: Sequence[Mapping[str, Any]] | None, dim: int
) -> tuple[int, Iterator[tuple[dict[str, Any], int]]]:
    """`sent_items` for own vectors (n, dim). Raises InvalidItem, InvalidVector that names the first that cannot be sent."""
    names, matrix = intake.matrix(ids, vectors, metadata, dim)
    for start in range(0, len(names), MOST):
        _check_vectors(matrix[start : start + MOST], names[start : start + MOST], dim)
    about = (
        ["{}"] * len(names) if metadata is None else [intake.metadata_json(m, n) for m, n in zip(metadata, names, strict=True)]
    )
    rows = (
        ({"id": name, "vector": vector, "metadata": orjson.Fragment(m)}, len(m) + size)
        for name, (vector, size), m in zip(names, map(_vector, matrix), about, strict=True)
    )
    return len(names), rows


def sent_query(query: Query, collection: str, dim: int, what: str = "the query") -> tuple[dict[str, Any], int]:
    """A query with its bytes. Raises InvalidItem (a file that cannot be read), InvalidVector, ItemNotFound."""
    if isinstance(query, Id):
        real_ids([query.value], collection)
        return {"id": query.value}, len(query.value)
    if isinstance(query, (str, bytes, bytearray, memoryview, Path)):
        content = query if isinstance(query, str) else intake.picture(query, what)
        return _content(content), _bytes(content)
    vector = np.asarray(query)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise InvalidVector(
            f"a query is a text, a picture (bytes or Path), a vecmeta.Id or an array of {dim} numbers, "
            f"not a {type(query).__name__} of shape {vector.shape}"
        )
    unit_rows(vector[None], dim, what="query")
    sent, size = _vector(vector)
    return {"vector": sent}, size


def sent_judgement(judgement: Judgement, place: int, collection: str, dim: int) -> tuple[dict[str, Any], int]:
    """A judgement with its bytes. Raises InvalidJudgement, and what `sent_query` raises."""
    if not isinstance(judgement, Judgement):
        raise InvalidJudgement(f"judgement {place} of the batch is a {type(judgement).__name__}, not a vecmeta.Judgement")
    real_ids([judgement.item], collection)
    row: dict[str, Any] = {"item": judgement.item, "score": float(judgement.score)}
    size = len(judgement.item)
    if judgement.query is None:
        row["concept"] = judgement.concept
    else:
        row["query"], more = sent_query(judgement.query, collection, dim, "the query of a judgement")
        size += more
    if judgement.user is not None:
        row["user"] = judgement.user
    return row, size


def sent_bends(feedback: Iterable[tuple[str, float]] | None, collection: str) -> list[dict[str, Any]] | None:
    """The feedback of one query. Raises InvalidJudgement, ItemNotFound."""
    pairs = list(feedback or ())
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not _score(pair[1]):
            raise InvalidJudgement(f"feedback on a query is a list of (id, score from -1 to 1), not {pair!r}")
    real_ids([id for id, _ in pairs], collection)
    return [{"id": id, "score": float(score)} for id, score in pairs] or None


def real_ids(ids: Sequence[str], collection: str) -> None:
    """Raises ItemNotFound for the first text that no item can have as its id, as the database does."""
    for id in ids:
        if not possible(id):
            raise ItemNotFound(f"collection {collection!r} has no item {id!r}")


def possible(id: str) -> bool:
    """Whether an item may have this id."""
    try:
        intake.distinct([id])
    except InvalidItem:
        return False
    return True


def _check_vectors(part: Any, names: Sequence[str], dim: int) -> None:
    try:
        unit_rows(part, dim)
    except InvalidVector:
        for name, row in zip(names, part, strict=True):  # one by one, to say whose it is
            try:
                unit_rows(row[None], dim)
            except InvalidVector as error:
                raise InvalidVector(f"item {name!r}: {error}") from None
        raise


def _score(value: object) -> bool:
    return isinstance(value, (int, float)) and -1 <= value <= 1


def _content(content: str | bytes) -> dict[str, str]:
    return {"text": content} if isinstance(content, str) else {"image": base64.b64encode(content).decode()}


def _bytes(content: str | bytes) -> int:
    return len(content) if isinstance(content, str) else 4 * len(content) // 3


def packed(vector: NDArray[np.float32]) -> str:
    """A float32 vector (dim,) as base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _vector(row: NDArray[Any]) -> tuple[str | NDArray[np.float64], int]:
    """A vector as it is sent, with its bytes: float32 as base64, everything else as numbers. It arrives to the last bit."""
    if row.dtype == np.float32:
        sent = packed(row)
        return sent, len(sent)
    return np.ascontiguousarray(row, np.float64), NUMBER_BYTES * len(row)


# -- what comes back ---------------------------------------------------------------------------------------------------------------


def hits_of(answer: Mapping[str, Any]) -> RemoteHits:
    """The hits of a ranking."""
    hits = (Hit(hit["id"], hit["score"], hit["metadata"], content_of(hit)) for hit in answer["hits"])
    return RemoteHits(hits, version=answer["version"], search=answer.get("search"))


def item_of(about: Mapping[str, Any]) -> Item:
    """An item."""
    return Item(about["id"], content_of(about), about["metadata"])


def content_of(about: Mapping[str, Any]) -> str | bytes | None:
    """The text or picture of an item, a hit or a query."""
    if about.get("text") is not None:
        return str(about["text"])
    return None if about.get("image") is None else base64.b64decode(about["image"])


def judgement_of(about: Mapping[str, Any]) -> Judgement:
    """A stored judgement."""
    query: Query | None = None
    if (asked := about["query"]) is not None:
        if asked.get("id") is not None:
            query = Id(asked["id"])
        elif asked.get("vector") is not None:
            query = np.array(asked["vector"], np.float32)
        else:
            query = content_of(asked)
    return Judgement(about["item"], about["concept"], query, about["score"], about["user"], moment_of(about["time"]))


def vectors_of(rows: Sequence[Sequence[float]], dim: int) -> Vectors:
    """(n, dim) rows."""
    return np.array(rows, np.float32).reshape(-1, dim)


def version_of(about: Mapping[str, Any]) -> Version:
    """A version."""
    fields = {name: about[name] for name in Version.__slots__ if name in about}
    return Version(**{**fields, "created": datetime.fromisoformat(about["created"])})


def split_of(about: Mapping[str, Any] | None) -> Split | None:
    """A split, if one is on."""
    return None if about is None else Split(about["version"], about["percent"], datetime.fromisoformat(about["started"]))


def outcome_of(about: Mapping[str, Any]) -> Outcome:
    """The outcome of a version."""
    return Outcome(**{name: about[name] for name in Outcome.__slots__})


def job_of(about: Mapping[str, Any]) -> Job:
    """A job."""
    fields = {name: about[name] for name in Job.__slots__}
    times = {name: moment_of(about[name]) for name in ("created", "due", "started", "finished")}
    error = None if about["error"] is None else (about["error"]["error"], about["error"]["detail"])
    report = None if about["report"] is None else report_of(about["report"])
    return Job(**{**fields, **times, "error": error, "report": report})


def report_of(about: Mapping[str, Any]) -> Report:
    """A report; what a newer service tells besides is left out."""
    return Report.from_dict({name: about[name] for name in Report.__slots__ if name in about})


def moment_of(text: str | None) -> datetime | None:
    """A moment, if there is one."""
    return None if text is None else datetime.fromisoformat(text)
