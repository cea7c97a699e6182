"""A vector database whose notion of similarity can be taught.

import vecmeta as vm

with vm.open("./vecmeta-data") as db:
    docs = db.create("docs", encoder="text")
    docs.add([vm.Item(id="a", content="How do I get my money back?")])
    docs.search("refund")
    docs.feedback([vm.Judgement(item="a", concept="refunds")])
    docs.adapt()
"""

import importlib
import typing

from vecmeta.errors import (
    AlreadyExists,
    Cancelled,
    CollectionNotFound,
    Conflict,
    EncoderError,
    EncoderMismatch,
    EncoderUnavailable,
    IndexUnavailable,
    InvalidConfig,
    InvalidFilter,
    InvalidInput,
    InvalidItem,
    InvalidJudgement,
    InvalidVector,
    ItemNotFound,
    JobNotFound,
    KeyNotFound,
    NotFound,
    StorageBusy,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    UndecodableContent,
    VecmetaError,
    VersionNotFound,
)
from vecmeta.types import (
    Change,
    Encoded,
    Hit,
    Hits,
    Id,
    Item,
    Job,
    Judgement,
    Key,
    Outcome,
    Policy,
    RawHits,
    Report,
    Split,
    Understood,
    Version,
    dissimilar,
    similar,
)

if typing.TYPE_CHECKING:
    from vecmeta.collection import Collection
    from vecmeta.database import Database, open

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "Change",
    "Collection",
    "CollectionNotFound",
    "Conflict",
    "Database",
    "Encoded",
    "EncoderError",
    "EncoderMismatch",
    "EncoderUnavailable",
    "Hit",
    "Hits",
    "Id",
    "IndexUnavailable",
    "InvalidConfig",
    "InvalidFilter",
    "InvalidInput",
    "InvalidItem",
    "InvalidJudgement",
    "InvalidVector",
    "Item",
    "ItemNotFound",
    "Job",
    "JobNotFound",
    "Judgement",
    "Key",
    "KeyNotFound",
    "NotFound",
    "Outcome",
    "Policy",
    "RawHits",
    "Report",
    "Split",
    "StorageBusy",
    "StorageDamaged",
    "StorageError",
    "StorageFull",
    "StorageReadOnly",
    "StorageUnavailable",
    "UndecodableContent",
    "Understood",
    "VecmetaError",
    "Version",
    "VersionNotFound",
    "dissimilar",
    "open",
    "similar",
]

# What brings the database's libraries, when it is first asked for: `import vecmeta` and `vecmeta --help` do without.
_LATE = {"Collection": "vecmeta.collection", "Database": "vecmeta.database", "open": "vecmeta.database"}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
