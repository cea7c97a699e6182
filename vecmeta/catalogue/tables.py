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
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect

from vecmeta.catalogue import escapes

metadata = MetaData()
PLACE = 512  # characters of the address of an index
Big = BigInteger().with_variant(
    Integer, "sqlite"
)  # 64 bits; SQLite gives numbers by itself to Integer alone, which is as wide there


def _ordered(length: int) -> String:
    """A text that is sorted by code points, as SQLite does, whatever the language of the database."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class Free(TypeDecorator[str]):
    """A text of any characters; PostgreSQL's know no NUL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """As it is written."""
        return value if value is None or dialect.name != "postgresql" else escapes.text_in(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """As it was given."""
        return value if value is None or dialect.name != "postgresql" else escapes.text_out(value)


def _owner(primary_key: bool = False) -> Column[int]:
    owner = ForeignKey("collections.id", ondelete="CASCADE")
    return Column("collection", Integer, owner, nullable=False, primary_key=primary_key)


collections = Table(
    "collections",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", _ordered(255), nullable=False, unique=True),
    Column("spec", String(1024), nullable=False),  # what open_encoder() is given: "text", "hf:ORG/MODEL", …
    Column("encoder", String(255), nullable=False),  # the encoder's name with the hash of its weights
    Column("dim", Integer, nullable=False),
    Column("revision", Big, nullable=False, default=0),
    Column("live", Integer, nullable=False, default=0),  # the live head version
    Column("activation", Big),  # the row of `activations` that made it live; what the swap compares and sets
    Column("created", DateTime(timezone=True), nullable=False),
    sqlite_autoincrement=True,
)

items = Table(
    "items",
    metadata,
    Column("key", Big, primary_key=True),  # int64, never reused
    _owner(),
    Column("revision", Big, nullable=False),
    Column("id", _ordered(512), nullable=False),
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
    Column("key", Big, primary_key=True),
    Column("revision", Big, nullable=False),
    Index("tombstones_by_revision", "collection", "revision"),
)

queries = Table(
    "queries",
    metadata,
    Column("id", Integer, primary_key=True),
    _owner(),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of kind and content
    Column("kind", String(8), nullable=False),  # text | image | vector | item
    Column("text", Free),  # the text, or the item's id
    Column("blob", LargeBinary),
    Column("vector", LargeBinary),  # base vector; None for kind "item", whose vector is the item's own
    UniqueConstraint("collection", "digest"),
    sqlite_autoincrement=True,
)

judgements = Table(
    "judgements",
    metadata,
    Column("seq", Big, primary_key=True),  # the log's order
    _owner(),
    Column("item", String(512), nullable=False),
    Column("concept", Free),
    Column("query", Integer, ForeignKey("queries.id")),
    Column("score", Float, nullable=False),
    Column("user", Free),
    Column("time", DateTime(timezone=True), nullable=False),
    Index("judgements_by_collection", "collection", "seq"),
    sqlite_autoincrement=True,
)
judgements_by_item = Index("judgements_by_item", judgements.c.collection, judgements.c.item, judgements.c.seq)  # sixth migration

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
    Column("seq", Big, primary_key=True),
    _owner(),
    Column("version", Integer, nullable=False),
    Column("parent", Big),  # the activation that a rollback returns to; None: version 0
    Column("why", String(16), nullable=False),  # adapt | ahead | activate | rollback
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
    Column("seq", Big, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),  # random, hexadecimal
    _owner(),
    Column("kind", String(16), nullable=False),  # adapt
    Column("params", JSON, nullable=False),  # keyword arguments of the method that the kind names
    Column(
        "state", String(16), nullable=False
    ),  # queued | encoding | adapting | evaluating | building | ready | live | kept | failed | cancelled
    Column("done", Big, nullable=False, default=0),  # of `total`, within the state
    Column("total", Big, nullable=False, default=0),
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
    Column("searches", Big, nullable=False, default=0),
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

# -- third migration: encoders that were fine-tuned -------------------------------------------------------------------------------

encoders = Table(
    "encoders",
    metadata,
    Column("number", Integer, primary_key=True),  # 1, 2, …, never given again; 0 is the collection's own encoder and has no row
    _owner(),
    Column("name", String(255), nullable=False),  # with the hash of its weights
    Column("folder", String(1024), nullable=False),  # its name, among those of the collection's encoders
    Column("about", JSON, nullable=False),  # what was learned from, how, with which scores
    Column("created", DateTime(timezone=True), nullable=False),
    UniqueConstraint("collection", "name"),
    sqlite_autoincrement=True,
)

version_encoders = Table(
    "version_encoders",
    metadata,
    _owner(primary_key=True),
    Column("version", Integer, primary_key=True),  # a version without a row is one of the collection's own encoder
    Column("encoder", Integer, ForeignKey("encoders.number"), nullable=False),
    ForeignKeyConstraint(["collection", "version"], ["versions.collection", "versions.number"], ondelete="CASCADE"),
)

encodings = Table(  # base vectors under encoders other than the collection's own, whose vectors stand with the items
    "encodings",
    metadata,
    Column("key", Big, ForeignKey("items.key", ondelete="CASCADE"), primary_key=True),
    Column("encoder", Integer, ForeignKey("encoders.number", ondelete="CASCADE"), primary_key=True),
    Column("digest", LargeBinary, nullable=False),  # of the content that was encoded: an item with another one is encoded again
    Column("vector", LargeBinary, nullable=False),  # (dim,) float32
)

query_encodings = Table(
    "query_encodings",
    metadata,
    Column("query", Integer, ForeignKey("queries.id", ondelete="CASCADE"), primary_key=True),
    Column("encoder", Integer, ForeignKey("encoders.number", ondelete="CASCADE"), primary_key=True),
    Column("vector", LargeBinary, nullable=False),
)

# -- fourth migration: which database this is ---------------------------------------------------------------------------------------

identity = Table(
    "identity",
    metadata,
    Column("id", String(32), primary_key=True),  # random, hexadecimal: index files lie in a folder of this name
    Column("created", DateTime(timezone=True), nullable=False),
)

# -- fifth migration: indexes outside the processes that use them -----------------------------------------------------------------

indexes = Table(
    "indexes",
    metadata,
    # there; written here before it is made there, and deleted after it is dropped there
    Column("name", String(255), primary_key=True),
    Column("place", String(PLACE), nullable=False),  # the address of the Milvus
    # no foreign key: what a dropped collection leaves is still to be dropped there
    Column("collection", Integer, nullable=False),
    Column("version", Integer),  # None: it is to be dropped
    Column("head", String(96), nullable=False),  # SHA-256 of the head, and the encoder: `vecmeta.serving.fingerprint`
    Column("ready", Boolean, nullable=False, default=False),  # built and checked once; else it is being built, or was broken off
    Column("revision", Big, nullable=False, default=0),  # it holds the writes up to here, and of this one the rows up to `key`
    Column("key", Big, nullable=False, default=0),
    Column("whole", Boolean, nullable=False, default=True),  # all metadata could be said in its language of filters
    Column("ef", Integer),  # how widely it is to be searched, where that is not what the options say
    Column("pace", Float),  # seconds a row that building it took
    Column("holder", String(64)),  # who writes to it, and until when he has said so
    Column("until", DateTime(timezone=True)),
    Column("unused", DateTime(timezone=True)),  # since when nothing needs it; None: something does
    UniqueConstraint("place", "collection", "version"),
)

SECOND = (policies, jobs, keys, splits, outcomes, clicks)
THIRD = (encoders, version_encoders, encodings, query_encodings)
FOURTH = (identity,)
FIFTH = (indexes,)
FIRST = tuple(table for table in metadata.sorted_tables if table not in SECOND + THIRD + FOURTH + FIFTH)
