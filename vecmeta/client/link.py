"""Requests to a service and what its answers mean: retries, errors, JSON. Does no input or output itself.

Every verb of the client is a generator, written once: it yields requests to be sent and seconds to be slept, and is sent responses.
`vecmeta.client.verbs` runs it, blocking or awaiting.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from typing import Any, TypeAlias, TypeVar

import httpx
import orjson

import vecmeta as vm
from vecmeta.client.errors import InvalidRequest, ServiceError, Timeout, Unreachable, named

T = TypeVar("T")
Steps: TypeAlias = Generator[httpx.Request | float, httpx.Response | None, T]  # requests and pauses out, responses in

FIRST_PAUSE = 0.25  # seconds before the first retry; doubled for each further one
LONGEST_PAUSE = 60.0  # seconds; a service that asks for more patience is an error at once
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  # asking again cannot do a thing twice
_NOT_BEGUN = ("too_many_requests", "overloaded")
_HOPELESS = ("timeout", "encoder_unavailable", "storage_read_only")  # asking again would only cost more
_GATEWAYS = (502, 503, 504)  # a proxy in front says these as well


class Link:
    """Where the service is, who asks, and how patiently."""

    def __init__(self, url: str, key: str | None, timeout: float, retries: int) -> None:
        self._base, self.shown = _base(url)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise vm.InvalidConfig(f"timeout is a number of seconds above 0, not {timeout!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise vm.InvalidConfig(f"retries are a whole number from 0, not {retries!r}")
        self._timeout, self._retries = httpx.Timeout(timeout).as_dict(), retries
        self._headers = {"Accept": "application/json", "User-Agent": f"vecmeta/{vm.__version__}"}
        if key is not None:
            if not isinstance(key, str) or not key.isascii() or not key.isprintable() or not key.strip():
                raise vm.InvalidConfig("the API key is not one: a text such as vm_…, made by `vecmeta keys create`")
            self._headers["Authorization"] = f"Bearer {key.strip()}"

    def ask(
        self, method: str, path: str, body: object = None, *, params: Mapping[str, str | int] | None = None, again: bool = True
    ) -> Steps[Any]:
        """The JSON of the answer.

        Args:
            path: after /v1, made of what needs no escaping.
            body: what orjson takes; None: no body.
            again: whether doing it twice is as good as once. If not it is asked again only when it was certainly not begun.

        Raises:
            The error that the service names; ServiceError and its kin.
        """
        headers, content = dict(self._headers), None
        if body is not None:
            content, headers["Content-Type"] = encoded(body), "application/json"
        try:
            url = httpx.URL(f"{self._base}/v1{path}", params=params or {})
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"this cannot be sent: {error}", error="invalid_request") from None
        for attempt in range(self._retries + 1):
            request = httpx.Request(method, url, headers=headers, content=content, extensions={"timeout": self._timeout})
            failure: vm.VecmetaError
            cause: httpx.HTTPError | None = None
            told: float | None = None
            try:
                response = yield request
            except httpx.HTTPError as error:
                failure, cause = self._broken(error), error
                may_retry = isinstance(error, _NEVER_SENT) or (again and not isinstance(failure, Timeout))
            else:
                assert response is not None
                if response.is_success:
                    return self._read(response)
                told = _told(response)
                failure = self._refused(response, told)
                may_retry = _may_retry(response.status_code, failure, again)
            if not may_retry or attempt == self._retries or (told or 0) > LONGEST_PAUSE:
                raise failure from cause
            spread = FIRST_PAUSE * 2**attempt
            yield random.uniform(0.5 * spread, spread) if told is None else told + random.uniform(0, spread)
        raise AssertionError("the last attempt returns or raises")

    def _broken(self, error: httpx.HTTPError) -> ServiceError:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, _NEVER_SENT):
            return Timeout(f"{self.shown} did not answer within {self._timeout['read']:g} s ({type(error).__name__})")
        if isinstance(error, _NEVER_SENT):
            return Unreachable(f"no vecmeta service can be reached at {self.shown}: {why}; is `vecmeta serve` running there?")
        return Unreachable(f"the connection to {self.shown} broke: {why}")

    def _refused(self, response: httpx.Response, retry_after: float | None) -> vm.VecmetaError:
        status = response.status_code
        try:
            about = orjson.loads(response.content)
            error, detail = str(about["error"]), str(about["detail"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return ServiceError(
                f"{self.shown} answered {status} {response.reason_phrase}, not as a vecmeta service does; is it one?",
                status=status, error="http_error", retry_after=retry_after,
            )  # fmt: skip
        return named(error, detail, status=status, retry_after=retry_after)

    def _read(self, response: httpx.Response) -> Any:
        if response.status_code == 204:
            return None
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            status = response.status_code
            raise ServiceError(f"{self.shown} answered {status} with no JSON; is it a vecmeta service?", status=status) from error


def encoded(body: object) -> bytes:
    """JSON, arrays as lists. Raises InvalidRequest for what JSON does not know."""
    try:
        return orjson.dumps(body, default=dict, option=orjson.OPT_SERIALIZE_NUMPY)  # dict: any other mapping
    except TypeError as error:
        raise InvalidRequest(f"this cannot be sent as JSON: {error}", error="invalid_request") from None


def _told(response: httpx.Response) -> float | None:
    """Seconds to wait, if the service says so; a date, which proxies may send, is not read."""
    wait = response.headers.get("retry-after", "")
    return float(wait) if wait.isascii() and wait.isdecimal() else None


def _may_retry(status: int, failure: vm.VecmetaError, again: bool) -> bool:
    name = failure.error if isinstance(failure, ServiceError) else failure.code
    if status == 429 or name in _NOT_BEGUN:
        return True
    return again and status in _GATEWAYS and name not in _HOPELESS


def _base(url: str) -> tuple[str, str]:
    """The URL to build upon, and as messages show it: without a password."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise vm.InvalidConfig(f"{url!r} is not a URL such as http://127.0.0.1:8000: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host or not 0 < (parsed.port or 80) < 65_536:
        raise vm.InvalidConfig(f"{url!r} is not the URL of a service, such as http://127.0.0.1:8000")
    if parsed.query or parsed.fragment:
        raise vm.InvalidConfig(f"{url!r}: the URL of a service has no ? and no #")
    plain = str(parsed).rstrip("/").removesuffix("/v1")
    return plain, str(parsed.copy_with(username=None, password=None)).rstrip("/").removesuffix("/v1")
