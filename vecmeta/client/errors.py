"""What goes wrong between a client and a service; what goes wrong in the database is raised as `vecmeta.errors` has it.

VecmetaError
└── ServiceError             the service answers something else than was asked for; ``status`` and ``error`` say what
    ├── Unreachable          nothing answers at the URL, or the connection broke
    ├── Timeout              no answer in time (also a TimeoutError)
    ├── Unauthorized         no API key, or one that is unknown, expired or revoked
    ├── Forbidden            the key's scopes or collections do not reach this far
    ├── TooManyRequests      more than this key may make; ``retry_after`` says when to come back
    ├── Overloaded           too many requests wait already; ``retry_after`` says when to come back
    ├── TooLarge             a request larger than the service takes
    └── InvalidRequest       an option that the service does not take (also an InvalidConfig)
"""

from __future__ import annotations

from collections.abc import Iterator

from vecmeta.errors import InvalidConfig, VecmetaError


class ServiceError(VecmetaError):
    """The service could not be asked, or its answer is an error that vecmeta itself does not know.

    ``status`` is the one of HTTP, None without an answer; ``error`` the name that the service gave; ``retry_after`` seconds, where told.
    """

    def __init__(
        self, message: str, *, status: int | None = None, error: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.error, self.retry_after = status, error or self.code, retry_after


class Unreachable(ServiceError):
    """Nothing answers at the URL, or the connection broke."""


class Timeout(ServiceError, TimeoutError):
    """No answer in time. What was asked for may have been done all the same."""


class Unauthorized(ServiceError):
    """No API key, or one that is unknown, expired or revoked."""


class Forbidden(ServiceError):
    """The key's scopes or collections do not reach this far."""


class TooManyRequests(ServiceError):
    """More requests than this key may make."""


class Overloaded(ServiceError):
    """Too many requests wait already."""


class TooLarge(ServiceError):
    """A request larger than the service takes."""


class InvalidRequest(ServiceError, InvalidConfig):
    """An option that the service does not take."""


def _family(kind: type[VecmetaError]) -> Iterator[type[VecmetaError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ in (VecmetaError.__module__, __name__):
            yield from _family(child)


_KINDS = {kind.code: kind for kind in _family(VecmetaError)}


def named(error: str, detail: str, *, status: int | None = None, retry_after: float | None = None) -> VecmetaError:
    """The error of that name, such as "collection_not_found", with that text; a ServiceError for a name that is not known here."""
    kind = _KINDS.get(error, ServiceError)
    if issubclass(kind, ServiceError):
        return kind(detail, status=status, error=error, retry_after=retry_after)
    return kind(detail)
