"""A vector database whose notion of similarity can be taught.

import vecmeta as vm

with vm.open("./vecmeta-data") as db:
    docs = db.create("docs", encoder="text")
    docs.add([vm.Item(id="a", content="How do I get my money back?")])
    docs.search("refund")
    docs.feedback([vm.Judgement(item="a", concept="refunds")])
    docs.adapt()
"""

from vecmeta.collection import Collection
from vecmeta.database import Database, open
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
    UndecodableContent,
    VecmetaError,
    VersionNotFound,
)
from vecmeta.types import (
    Change,
    Hit,
    Hits,
    Id,
    Item,
    Job,
    Judgement,
    Key,
    Outcome,
    Policy,
    Report,
    Split,
    Understood,
    Version,
    dissimilar,
    similar,
)

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "Change",
    "Collection",
    "CollectionNotFound",
    "Conflict",
    "Database",
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
    "Report",
    "Split",
    "StorageBusy",
    "StorageDamaged",
    "StorageError",
    "StorageFull",
    "StorageReadOnly",
    "UndecodableContent",
    "Understood",
    "VecmetaError",
    "Version",
    "VersionNotFound",
    "dissimilar",
    "open",
    "similar",
]
