"""Everything vecmeta raises on purpose.

VecmetaError
├── NotFound                 a name that does not exist
│   ├── CollectionNotFound
│   ├── ItemNotFound
│   ├── VersionNotFound
│   ├── JobNotFound
│   └── KeyNotFound
├── AlreadyExists            a name that is taken
├── InvalidInput             what was given cannot be used; says what was given and what would be right (a ValueError)
│   ├── InvalidItem          an item's id, content or metadata
│   ├── InvalidVector        wrong dimension or type, NaN, infinity, the zero vector
│   ├── InvalidFilter        `where`
│   ├── InvalidJudgement     feedback
│   └── InvalidConfig        an option, a method, a strength, a file given as a setting
├── EncoderError             an encoder cannot be used
│   ├── EncoderMismatch      the collection was filled by other weights
│   ├── EncoderUnavailable   weights or package missing; says how to get them
│   └── UndecodableContent   a text or picture that the encoder cannot read
├── StorageError             the place where things are kept
│   ├── StorageReadOnly      the folder or database cannot be written
│   ├── StorageFull          no space left while writing
│   ├── StorageBusy          another process held the write lock for too long
│   ├── StorageUnavailable   the database server does not answer
│   └── StorageDamaged       the truth itself cannot be read
├── IndexUnavailable         a vector index cannot be opened or asked
├── Conflict                 somebody else changed the same thing first; try again
└── Cancelled                raised by a progress callback to stop long work; nothing half-written remains

Domain errors know nothing of HTTP or SQL: those layers translate to and from them, each in one place.
"""

from __future__ import annotations

import re


class VecmetaError(Exception):
    """Root of all errors that vecmeta raises on purpose. ``code`` names it for machines: "collection_not_found"."""

    code = "vecmeta_error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


class NotFound(VecmetaError, LookupError):
    """A name that does not exist."""


class CollectionNotFound(NotFound):
    """No collection of that name."""


class ItemNotFound(NotFound):
    """No item of that id."""


class VersionNotFound(NotFound):
    """No head version of that number."""


class JobNotFound(NotFound):
    """No job of that id."""


class KeyNotFound(NotFound):
    """No API key of that id."""


class AlreadyExists(VecmetaError):
    """A name that is taken."""


class InvalidInput(VecmetaError, ValueError):
    """What was given cannot be used."""


class InvalidItem(InvalidInput):
    """An item's id, content or metadata cannot be stored."""


class InvalidVector(InvalidInput):
    """A vector of the wrong shape or type, or with NaN, infinity or no direction."""


class InvalidFilter(InvalidInput):
    """A `where` that does not parse."""


class InvalidJudgement(InvalidInput):
    """Feedback that cannot be understood."""


class InvalidConfig(InvalidInput):
    """An option out of its range."""


class EncoderError(VecmetaError):
    """An encoder cannot be used."""


class EncoderMismatch(EncoderError):
    """The collection was filled by an encoder of another name or other weights."""


class EncoderUnavailable(EncoderError):
    """The weights or the package of an encoder are missing."""


class UndecodableContent(EncoderError, ValueError):
    """A text or picture that the encoder cannot read.

    ``position`` is the place of the offending content in the batch it came in.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class StorageError(VecmetaError):
    """The database or its folder cannot be used."""


class StorageReadOnly(StorageError):
    """The folder or database cannot be written."""


class StorageFull(StorageError):
    """No space left on the device while writing."""


class StorageBusy(StorageError):
    """Another process held the write lock for too long."""


class StorageUnavailable(StorageError):
    """The database server cannot be reached; it is being stopped, started, or is somewhere else."""


class StorageDamaged(StorageError):
    """The database is not one of vecmeta's, or is damaged."""


class IndexUnavailable(VecmetaError):
    """A vector index cannot be opened or asked."""


class Conflict(VecmetaError):
    """Somebody else changed the same thing first."""


class Cancelled(VecmetaError):
    """Raise it from a progress callback to stop long work."""
