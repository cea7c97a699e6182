"""A service as a database: collections by name, the verbs of `vecmeta.Database`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx

from vecmeta import intake
from vecmeta.client.collection import AsyncRemoteCollection, RemoteCollection
from vecmeta.client.jobs import AsyncRemoteJobs, RemoteJobs, known
from vecmeta.client.link import Link, Steps
from vecmeta.client.verbs import Awaiting, Blocking, Speaker, verb
from vecmeta.errors import InvalidConfig

C = TypeVar("C")  # RemoteCollection or AsyncRemoteCollection


class ClientVerbs(Speaker, Generic[C]):
    """The verbs of `Client` and `AsyncClient`."""

    @verb
    def create(self, name: str, encoder: str = "text", *, dim: int | None = None) -> Steps[C]:
        """A new collection.

        Args:
            name: 1 to 63 letters, digits, '.', '_' and '-'.
            encoder: "text", "image", "resnet18", "resnet50", "vectors" (own vectors, with dim=), or what else the service offers.
            dim: length of own vectors.

        Raises:
            AlreadyExists, InvalidConfig, EncoderUnavailable.
        """
        if not isinstance(encoder, str):
            raise InvalidConfig(f"a service takes the name of an encoder, such as 'text', not a {type(encoder).__name__}")
        body = {"name": intake.collection_name(name), "encoder": encoder, "dim": dim}
        # Not asked again when the answer was lost: the second answer would be that the name is taken.
        return self._opened((yield from self._link.ask("POST", "/collections", body, again=False)))

    @verb
    def collection(self, name: str) -> Steps[C]:
        """An existing collection. Raises CollectionNotFound."""
        return self._opened((yield from self._link.ask("GET", f"/collections/{known(name)}")))

    @verb
    def collections(self) -> Steps[list[str]]:
        """The names of all collections that the key may see, sorted."""
        return list((yield from self._link.ask("GET", "/collections"))["collections"])

    @verb
    def drop(self, name: str) -> Steps[None]:
        """Delete a collection with its items, judgements and versions. Raises CollectionNotFound."""
        yield from self._link.ask("DELETE", f"/collections/{known(name)}", again=False)

    def _opened(self, about: Mapping[str, Any]) -> C:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<vecmeta.client.{type(self).__name__} {self._link.shown!r}>"


class Client(ClientVerbs[RemoteCollection], Blocking):
    """A database that a service holds (`vecmeta serve`), with the verbs of `vecmeta.Database`.

    A context manager; safe to use from several threads.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Asks nothing yet.

        Args:
            url: such as "http://127.0.0.1:8000".
            key: an API key (`vecmeta keys create`); None for a service without keys.
            timeout: seconds that one request may take.
            retries: how often a request is sent again when the connection failed or the service is busy; it waits longer each time, or
                as long as the service says. What must not happen twice is sent again only if it was certainly not begun.
            transport: of httpx: a Unix socket, a proxy, other certificates.

        Raises:
            InvalidConfig: what cannot be a URL, a key, a timeout or a number of retries.
        """
        super().__init__(Link(url, key, timeout, retries), httpx.Client(transport=transport))
        self.jobs = RemoteJobs(self._link, self._http)

    def _opened(self, about: Mapping[str, Any]) -> RemoteCollection:
        return RemoteCollection(self._link, self._http, about)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._http.close()


class AsyncClient(ClientVerbs[AsyncRemoteCollection], Awaiting):
    """`Client` with verbs that are awaited: ``docs = await client.collection("docs")``, ``await docs.search("refund")``."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See `Client`."""
        super().__init__(Link(url, key, timeout, retries), httpx.AsyncClient(transport=transport))
        self.jobs = AsyncRemoteJobs(self._link, self._http)

    def _opened(self, about: Mapping[str, Any]) -> AsyncRemoteCollection:
        return AsyncRemoteCollection(self._link, self._http, about)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; idempotent."""
        await self._http.aclose()
