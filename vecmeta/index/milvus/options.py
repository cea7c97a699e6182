"""How to reach Milvus and what to ask of it, read from the `index` that a database is opened with.

    milvus-lite                                      in the database's own folder, for one process
    http://host:19530                                a server
    https://host:19530/orders?ca=ca.pem&ef=512       TLS, the database "orders", a wider search

Behind "?" stand options, as in a URL: the fields of `MilvusOptions` by name. A token or password is better kept out of command lines and
logs: the environment variable VECMETA_MILVUS_TOKEN holds a token, or user:password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints
from urllib.parse import parse_qsl, unquote, urlsplit

from vecmeta.errors import InvalidConfig

LITE = "milvus-lite"
TOKEN = "VECMETA_MILVUS_TOKEN"
Kind = Literal["hnsw", "flat", "ivf_flat", "ivf_sq8", "autoindex"]
Consistency = Literal["session", "strong", "bounded", "eventually"]


@dataclass(frozen=True, slots=True)
class MilvusOptions:
    """What is asked of a Milvus.

    Raises InvalidConfig for values out of range.
    """

    uri: str  # a server's, or the path of a milvus-lite file
    place: str  # the same without secrets: what the catalogue knows it by
    token: str = field(default="", repr=False)  # or user:password
    database: str = ""  # Milvus's own; "": its default
    ca: str = ""  # PEM file of the authority that signed the server's certificate; cert and key: of a client's, for mutual TLS
    cert: str = ""
    key: str = ""
    server_name: str = ""  # in the server's certificate, where it is not the host
    prefix: str = "vecmeta"  # of the names of collections and aliases, for databases that share a Milvus
    kind: Kind = "hnsw"  # of index
    m: int = 16  # links per row and level of HNSW
    ef_construction: int = 200  # how widely its graph is searched for the neighbours of a new row
    ef: int = 256  # how widely for a query; raised for filters and large k
    nlist: int = 1024  # cells of IVF, and how many of them are searched
    nprobe: int = 64
    consistency: Consistency = "session"  # what was written by this process, or is known to be there, is found
    timeout: float = 30.0  # seconds of one call
    ray: str = ""  # "local", or the address of a Ray cluster: it does the re-embedding; see `vecmeta.shelves.spread`
    grace: float = 300.0  # seconds that a version's collection stays after nothing needs it

    def __post_init__(self) -> None:
        for name, low, high in [
            ("m", 2, 2048), ("ef_construction", 1, 32768), ("ef", 1, 32768), ("nlist", 1, 65536), ("nprobe", 1, 65536),
            ("timeout", 0.1, 3600), ("grace", 0, 604_800),
        ]:  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidConfig(f"{name} of a Milvus index lies from {low} to {high}, not {value!r}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.prefix):
            raise InvalidConfig(
                f"prefix is up to 64 letters, digits and '_' that begin with a letter or '_', not {self.prefix!r}"
            )
        if bool(self.cert) != bool(self.key):
            raise InvalidConfig("cert and key of a client belong together: give both or none")
        if self.cert and not self.ca:  # Milvus's client would leave them out without a word
            raise InvalidConfig("cert and key of a client need ca as well: the authority that signed the server's certificate")

    @property
    def lite(self) -> bool:
        """Whether it is milvus-lite, inside this process."""
        return self.place == LITE

    @property
    def shown(self) -> str:
        """For messages: no secrets."""
        return self.place

    def index_params(self) -> dict[str, Any]:
        """What the index is made with."""
        hnsw, ivf = {"M": self.m, "efConstruction": self.ef_construction}, {"nlist": self.nlist}
        return {"hnsw": hnsw, "ivf_flat": ivf, "ivf_sq8": ivf}.get(self.kind, {})

    def search_params(self, k: int, ef: int) -> dict[str, Any]:
        """What it is searched with: `ef` rows looked at, at least k."""
        if self.kind == "hnsw":
            return {"ef": min(max(ef, k), 32768)}
        return {"nprobe": min(self.nprobe * max(ef // self.ef, 1), self.nlist)} if self.kind.startswith("ivf") else {}


def is_milvus(index: str) -> bool:
    """Whether an `index` of `vecmeta.open` means a Milvus."""
    return index.partition("?")[0] == LITE or "://" in index


def parse(index: str, folder: Path, environ: Mapping[str, str] = os.environ) -> MilvusOptions:
    """The options that an `index` stands for; milvus-lite keeps its file in `folder`.

    Raises:
        InvalidConfig: not an address, an unknown option, a value that cannot be used; a secret is never repeated.
    """
    if index.partition("?")[0] == LITE:
        query, found = index.partition("?")[2], MilvusOptions(str(folder / "milvus.db"), LITE, kind="flat")
    else:
        url = urlsplit(index)
        try:
            host, port = url.hostname, url.port or 19530
        except ValueError:
            host, port = None, 0
        if url.scheme not in ("http", "https") or not host:
            raise InvalidConfig(
                f"index {masked(index)!r} is no address of a Milvus: http://host:19530 or https://host:19530/database"
            )
        database = unquote(url.path.strip("/"))
        shown = f"[{host}]" if ":" in host else host
        uri = f"{url.scheme}://{shown}:{port}"
        given = ":".join(unquote(part) for part in (url.username, url.password) if part is not None)
        token = given or environ.get(TOKEN, "")
        query, found = url.query, MilvusOptions(uri, f"{uri}/{database}" if database else uri, token, database)
    return replace(found, **_options(query, index))


def _options(query: str, index: str) -> dict[str, Any]:
    types = {
        f.name: get_type_hints(MilvusOptions)[f.name] for f in fields(MilvusOptions) if f.name not in ("uri", "place", "database")
    }
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in types:
            raise InvalidConfig(f"unknown option {name!r} of index {masked(index)!r}; known are {', '.join(types)}")
        found[name] = _value(name, value, types[name])
    return found


def _value(name: str, value: str, kind: Any) -> Any:
    choices = get_args(kind)
    try:
        if choices and value not in choices:
            raise ValueError
        return value if choices else kind(value)
    except ValueError:
        right = f"one of {', '.join(choices)}" if choices else {int: "a whole number", float: "a number"}[kind]
        raise InvalidConfig(f"{name} of a Milvus index is {right}, not {value!r}") from None


def masked(index: str) -> str:
    """An `index` without what is secret in it, to be shown."""
    hidden = re.sub(r"(?<=://)[^/@]*@", "***@", index)
    return re.sub(r"(?<=[?&]token=)[^&]*", "***", hidden)
