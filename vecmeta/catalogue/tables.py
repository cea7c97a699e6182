"""The tables: the only truth. Index files are derived from them.

``revision`` counts the writes of one collection. Every row that a write touches carries the write's number, and a deleted item leaves a
tombstone with it, so an index that is current up to revision r asks for what came after r and is current again.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()


def _owner(primary_key: bool = False) -> Column[int]:
    owner = ForeignKey("collections.id", ondelete="CASCADE")
    return Column("collection", Integer, owner, nullable=False, primary_key=primary_key)


collections = Table(
    "collections",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("spec", String(1024), nullable=False),  # what open_encoder() is given: "text", "hf:ORG/MODEL", …
    Column("encoder", String(255), nullable=False),  # the encoder's name with the hash of its weights
    Column("dim", Integer, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
    Column("live", Integer, nullable=False, default=0),  # the live head version
    Column("activation", Integer),  # the row of `activations` that made it live; what the swap compares and sets
    Column("created", DateTime(timezone=True), nullable=False),
    sqlite_autoincrement=True,
)

items = Table(
    "items",
    metadata,
    Column("key", Integer, primary_key=True),  # int64, never reused
    _owner(),
    Column("revision", Integer, nullable=False),
    Column("id", String(512), nullable=False),
    Column(
        "vector", LargeBinary, nullable=False
    ),  # (dim,) float32, little endian, unit length; before the content: read most often
    Column("metadata", Text, nullable=False),  # a JSON object
    Column("digest", LargeBinary),  # SHA-256 of the content; equal digests are not encoded again
    Column("text", Text),
    Column("blob", LargeBinary),
    UniqueConstraint("collection", "id"),
    Index("items_by_revision", "collection", "revision", "key"),
    sqlite_autoincrement=True,
)

tombstones = Table(
    "tombstones",
    metadata,
    _owner(primary_key=True),
    Column("key", Integer, primary_key=True),
    Column("revision", Integer, nullable=False),
    Index("tombstones_by_revision", "collection", "revision"),
)

queries = Table(
    "queries",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner(),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of kind and content
    Column("kind", String(8), nullable=False),  # text | image | vector | item
    Column("text", Text),  # the text, or the item's id
    Column("blob", LargeBinary),
    Column("vector", LargeBinary),  # base vector; None for kind "item", whose vector is the item's own
    UniqueConstraint("collection", "digest"),
    sqlite_autoincrement=True,
)

judgements = Table(
    "judgements",
    metadata,
    Column("seq", Integer, primary_key=True),  # the log's order
    _owner(),
    Column("item", String(512), nullable=False),
    Column("concept", Text),
    Column("query", Integer, ForeignKey("queries.id")),
    Column("score", Float, nullable=False),
    Column("user", Text),
    Column("time", DateTime(timezone=True), nullable=False),
    Index("judgements_by_collection", "collection", "seq"),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    _owner(primary_key=True),
    Column("number", Integer, primary_key=True),  # 1, 2, …; 0 is the untouched encoder and has no row
    Column("method", String(32), nullable=False),
    Column("inputs", String(64), nullable=False),  # hash of all that the head is a function of
    Column("head", LargeBinary, nullable=False),  # safetensors
    Column("strength", Float, nullable=False),
    Column("judgements", Integer, nullable=False),  # how many counted
    Column("decision", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("report", JSON, nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
    UniqueConstraint("collection", "inputs"),
)

activations = Table(
    "activations",
    metadata,
    Column("seq", Integer, primary_key=True),
    _owner(),
    Column("version", Integer, nullable=False),
    Column("parent", Integer),  # the activation that a rollback returns to; None: version 0
    Column("why", String(16), nullable=False),  # adapt | activate | rollback
    Column("time", DateTime(timezone=True), nullable=False),
    ForeignKeyConstraint(["parent"], ["activations.seq"]),
    Index("activations_by_collection", "collection", "seq"),
    sqlite_autoincrement=True,
)

# -- second migration: what a service needs ------------------------------------------------------------------------------------

policies = Table(
    "policies",
    metadata,
    _owner(primary_key=True),
    Column("auto_adapt", Integer),  # adapt after so many new judgements; None: never by itself
    Column("debounce", Float, nullable=False),  # seconds without further feedback before it starts
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),  # random, hexadecimal
    _owner(),
    Column("kind", String(16), nullable=False),  # adapt
    Column("params", JSON, nullable=False),  # keyword arguments of the method that the kind names
    Column(
        "state", String(16), nullable=False
    ),  # queued | encoding | adapting | evaluating | building | ready | live | kept | failed | cancelled
    Column("done", Integer, nullable=False, default=0),  # of `total`, within the state
    Column("total", Integer, nullable=False, default=0),
    Column("cancel", Boolean, nullable=False, default=False),  # somebody asked for it to stop
    Column("attempts", Integer, nullable=False, default=0),  # how often a worker has taken it
    Column("joined", Integer, nullable=False, default=0),  # later requests that it serves as well
    Column("worker", String(64)),  # who runs it
    Column("heartbeat", DateTime(timezone=True)),  # the worker's last sign of life
    Column("judgements", Integer),  # length of the judgement log when it was taken
    Column("report", JSON),
    Column("error", JSON),  # {"error": "storage_full", "detail": "…"}
    Column("due", DateTime(timezone=True), nullable=False),  # not before
    Column("created", DateTime(timezone=True), nullable=False),
    Column("started", DateTime(timezone=True)),
    Column("finished", DateTime(timezone=True)),
    Index("jobs_by_collection", "collection", "seq"),
    Index("jobs_by_state", "state", "due"),
    sqlite_autoincrement=True,
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),  # random, hexadecimal; the readable part of the secret
    Column("name", String(255), nullable=False),
    Column("hash", LargeBinary, nullable=False),  # SHA-256 of the secret, which has 256 random bits and is not stored
    Column("scopes", JSON, nullable=False),  # of read, feedback, write, admin
    Column("collections", JSON),  # names; None: all
    Column("created", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True)),
    Column("revoked", DateTime(timezone=True)),
    Column("used", DateTime(timezone=True)),  # about when it was used last
)

splits = Table(
    "splits",
    metadata,
    _owner(primary_key=True),
    Column("version", Integer, nullable=False),  # the candidate
    Column("percent", Float, nullable=False),  # of searches that do not name a version
    Column("started", DateTime(timezone=True), nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    _owner(primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("searches", Integer, nullable=False, default=0),
)

clicks = Table(
    "clicks",
    metadata,
    _owner(primary_key=True),
    Column("search", String(64), primary_key=True),  # the id that the search's answer carried
    Column("item", String(512), primary_key=True),
    Column("version", Integer, nullable=False),  # that answered
    Column("rank", Integer),  # from 1, where the item stood
    Column("time", DateTime(timezone=True), nullable=False),
    Index("clicks_by_version", "collection", "version"),
)

# -- third migration: indexes outside the processes that use them -----------------------------------------------------------------

indexes = Table(
    "indexes",
    metadata,
    Column(
        "name", String(255), primary_key=True
    ),  # there; written here before it is made there, and deleted after it is dropped there
    Column("place", String(512), nullable=False),  # the address of the Milvus
    Column(
        "collection", Integer, nullable=False
    ),  # no foreign key: what a dropped collection leaves is still to be dropped there
    Column("version", Integer),  # None: it is to be dropped
    Column("head", String(64), nullable=False),  # SHA-256 of the head
    Column("ready", Boolean, nullable=False, default=False),  # built and checked once; else it is being built, or was broken off
    Column(
        "revision", Integer, nullable=False, default=0
    ),  # it holds the writes up to here, and of this one the rows up to `key`
    Column("key", BigInteger, nullable=False, default=0),
    Column("whole", Boolean, nullable=False, default=True),  # all metadata could be said in its language of filters
    Column("ef", Integer),  # how widely it is to be searched, where that is not what the options say
    Column("pace", Float),  # seconds a row that building it took
    Column("holder", String(64)),  # who writes to it, and until when he has said so
    Column("until", Float),  # seconds since 1970
    Column("unused", Float),  # since when nothing needs it; None: something does
    UniqueConstraint("place", "collection", "version"),
)

SECOND = (policies, jobs, keys, splits, outcomes, clicks)
THIRD = (indexes,)
FIRST = tuple(table for table in metadata.sorted_tables if table not in (*SECOND, *THIRD))
