"""A database that a service holds, with the verbs of one in a folder.

from vecmeta.client import Client

db = Client("http://127.0.0.1:8000", key="vm_…")      # instead of vm.open("./my-data")
docs = db.collection("docs")
docs.search("refund")
"""

from vecmeta.client.collection import AsyncRemoteCollection, RemoteCollection
from vecmeta.client.database import AsyncClient, Client
from vecmeta.client.errors import (
    Forbidden,
    InvalidRequest,
    Overloaded,
    ServiceError,
    Timeout,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from vecmeta.client.jobs import AsyncRemoteJobs, RemoteJobs
from vecmeta.client.records import RemoteHits
from vecmeta.client.traffic import AsyncRemoteTraffic, RemoteTraffic

__all__ = [
    "AsyncClient",
    "AsyncRemoteCollection",
    "AsyncRemoteJobs",
    "AsyncRemoteTraffic",
    "Client",
    "Forbidden",
    "InvalidRequest",
    "Overloaded",
    "RemoteCollection",
    "RemoteHits",
    "RemoteJobs",
    "RemoteTraffic",
    "ServiceError",
    "Timeout",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
]
