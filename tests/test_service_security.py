"""Who may do what: scopes of every route, keys that are hashed, revoked and held to a rate, browsers of other sites."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from inspect import getclosurevars
from pathlib import Path
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.security import REMEMBERED, is_loopback, needs
from tests.service_kit import Service, bearer, good, refused, served
from tests.test_service_routes import SAMPLES

C = "/v1/collections/{name}"
# Routes that need read to be entered and ask for more inside, when they know of which collection the matter is.
CHECKED_INSIDE = {"POST /v1/collections": "admin", "POST /v1/jobs/{job}/cancel": "write"}
ALLOWS = {  # a key's scope: what it may do
    "read": {"read"},
    "feedback": {"read", "feedback"},
    "write": {"read", "write"},
    "admin": {"read", "feedback", "write", "admin"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("security") / "db") as service:
        yield service


@pytest.fixture(autouse=True)
def forgetful(request: pytest.FixtureRequest) -> None:
    """Wrong keys of other tests do not count."""
    if "service" in request.fixturenames:
        request.getfixturevalue("service").app.state.gatekeeper._limiter.storage.reset()


# -- scopes ------------------------------------------------------------------------------------------------------------------------


def scopes_of(dependant: Dependant) -> set[str]:
    """The scopes that a route's dependencies ask for."""
    found = set()
    for part in dependant.dependencies:
        if getattr(part.call, "__qualname__", "") == f"{needs.__name__}.<locals>.caller":
            found.add(getclosurevars(part.call).nonlocals["scope"])  # type: ignore[arg-type]
        found |= scopes_of(part)
    return found


def test_every_route_asks_for_the_scope_of_the_table(service: Service) -> None:
    asked: dict[str, set[str]] = {}
    for included in service.app.routes:
        if not hasattr(included, "original_router"):  # FastAPI's own: the document and the manual
            continue
        prefix = included.include_context.prefix  # type: ignore[attr-defined]
        for route in included.original_router.routes:
            assert isinstance(route, APIRoute)
            path = prefix + route.path_format.replace("/jobs/{id}", "/jobs/{job}").replace("/keys/{id}", "/keys/{key}")
            asked[f"{min(route.methods or ())} {path}"] = scopes_of(route.dependant)
    wanted = {
        route: set() if sample.needs is None else {"read"} if route in CHECKED_INSIDE else {sample.needs}
        for route, sample in SAMPLES.items()
    }
    assert asked == wanted
    assert {route: SAMPLES[route].needs for route in CHECKED_INSIDE} == CHECKED_INSIDE


@pytest.mark.parametrize("scope", ALLOWS)
@pytest.mark.parametrize("route", [route for route, sample in SAMPLES.items() if sample.needs is not None])
def test_a_scope_opens_what_it_allows_and_nothing_else(service: Service, route: str, scope: str) -> None:
    method, path = route.split(" ")
    needed = SAMPLES[route].needs
    job = "0" * 32
    if route in CHECKED_INSIDE and "{job}" in route:  # what is not there is 404 for all
        job = service.db.jobs.submit(service.points()).id
    url = path.format(name="nope", id="i", n=0, job=job, key="0" * 16, sample="python-docs")
    send: dict[str, Any] = {**SAMPLES[route].send}
    if route == "POST /v1/collections":
        send = {"json": {"name": f"made-by-{scope}", "encoder": "vectors", "dim": 2}}
    send["headers"] = {**send.get("headers", {}), **service.key(scope)}
    answer = service.client.request(method, url, **send)
    assert (answer.status_code == 403) == (needed not in ALLOWS[scope]), answer.text


def test_healthz_readyz_and_the_manual_need_no_key(service: Service) -> None:
    nobody = {"Authorization": ""}
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert service.client.get(path, headers=nobody).status_code in (200, 503)
    for path in ("/metrics", "/v1/collections", "/v1/jobs"):
        refused(service.client.get(path, headers=nobody), 401)


# -- keys --------------------------------------------------------------------------------------------------------------------------


def test_keys_are_hashed(service: Service) -> None:
    secret, key = service.db.keys.create("hashed")
    good(service.client.get("/v1/collections", headers=bearer(secret)))
    files = [path.read_bytes() for path in service.db.folder.rglob("*") if path.is_file()]
    assert files
    part = secret.removeprefix(f"vm_{key.id}_").encode()
    assert not any(part in content for content in files)
    digest = hashlib.sha256(secret.encode()).digest()
    assert any(digest in content for content in files)


def test_revoked_and_expired_keys_are_refused_within_two_seconds(service: Service) -> None:
    revoked, key = service.db.keys.create("revoked")
    expired, _ = service.db.keys.create("expired", expires=datetime.now(UTC) + timedelta(seconds=0.3))
    for secret in (revoked, expired):
        good(service.client.get("/v1/collections", headers=bearer(secret)))
    service.db.keys.revoke(key.id)
    assert REMEMBERED <= 2
    time.sleep(REMEMBERED + 0.05)
    for secret in (revoked, expired):
        refused(service.client.get("/v1/collections", headers=bearer(secret)), 401, "unauthorized", "expired or revoked")


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "A", lambda s: s.upper(), lambda s: s[:-1] + "_", lambda s: " " + s[1:]]
)
def test_nearly_right_secrets_are_wrong(service: Service, change: Any) -> None:
    secret, _ = service.db.keys.create("nearly", ["admin"])
    wrong = change(secret if not secret.endswith("_") else secret[:-1] + "-")
    if wrong.strip() != secret:
        refused(service.client.get("/v1/collections", headers=bearer(wrong)), 401)
    for form in (f"bearer {secret}", f"BEARER  {secret}", f"Bearer {secret} "):
        good(service.client.get("/v1/collections", headers={"Authorization": form}))
    for form in (secret, f"Basic {secret}", f"Bearer{secret}", f"Token {secret}"):
        refused(service.client.get("/v1/collections", headers={"Authorization": form}), 401)
    refused(service.client.get(f"/v1/collections?key={secret}&access_token={secret}", headers={"Authorization": ""}), 401)


@pytest.mark.parametrize("path", ["", "/{name}/search"])
def test_too_many_wrong_keys_have_to_wait(tmp_path: Path, path: str) -> None:
    with served(tmp_path / "db") as service:
        url = "/v1/collections" + path.format(name=service.points())
        body = {"name": "one", "encoder": "vectors", "dim": 4} if not path else {"vector": [1.0, 0.0, 0.0, 0.0]}
        assert service.client.post(url, json=body).status_code in (200, 201)
        for n in range(service.app.state.runtime.settings.wrong_keys):
            wrong = bearer(f"vm_{n:016x}_{'x' * 43}")
            refused(service.client.post(url, json=body, headers=wrong), 401)
        answer = service.client.post(url, json=body, headers=bearer("vm_0123456789abcdef_" + "x" * 43))
        refused(answer, 429, "too_many_requests", "too many wrong API keys")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        good(service.client.get("/v1/collections"))  # who is known goes on


def test_429_by_key_and_minute(tmp_path: Path) -> None:
    with served(tmp_path / "db", rate=5) as service:
        first, second = service.key("read"), service.key("read")
        name = service.points()
        for _ in range(3):
            good(service.client.get("/v1/collections", headers=first))
        for k in (1, 0):  # a search that is refused is one request as well
            body = {"vector": [1.0, 0.0, 0.0, 0.0], "k": k}
            answer = service.client.post(f"/v1/collections/{name}/search", json=body, headers=first)
            assert answer.status_code == (200 if k else 422)
        answer = service.client.get("/v1/collections", headers=first)
        refused(answer, 429, "too_many_requests", "5 requests a minute")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        good(service.client.get("/v1/collections", headers=second))
        good(service.client.get("/healthz", headers=first))


# -- without keys ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LOCALHOST", 200), ("127.0.0.1:8000", 200), ("127.8.9.1", 200), ("[::1]:8000", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("192.168.0.1", 403), ("[2001:db8::1]", 403),
        ("127.0.0.1.evil.example", 403),
        ("0.0.0.0", 403), ("[::ffff:192.168.0.1]", 403),
    ],
)  # fmt: skip
def test_without_keys_only_this_machine_under_its_own_name(open_house: Service, host: str, status: int) -> None:
    answer = open_house.client.get("/v1/collections", headers={"Host": host, "Authorization": ""})
    if status == 200:
        good(answer)
    else:
        refused(answer, status, "forbidden", "its own machine")


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("open") / "db", auth=False, base_url="http://localhost") as service:
        yield service


def test_without_keys_other_machines_are_refused(open_house: Service) -> None:
    transport: Any = open_house.client._transport
    before = transport.client
    try:
        for address, status in (("192.168.0.7", 403), ("2001:db8::7", 403), ("127.0.0.1", 200), ("::1", 200)):
            transport.client = address, 50000
            assert open_house.client.get("/v1/collections").status_code == status
    finally:
        transport.client = before


@pytest.mark.parametrize(
    ("address", "own"), [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("", True), ("10.0.0.1", False), ("x", False)]
)
def test_is_loopback(address: str, own: bool) -> None:
    assert is_loopback(address) is own


# -- browsers ----------------------------------------------------------------------------------------------------------------------


ORIGIN = {"Origin": "https://app.example"}
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}


def test_cors_is_off_by_default(service: Service) -> None:
    for answer in (
        service.client.get("/v1/collections", headers=ORIGIN),
        service.client.options("/v1/collections", headers=PREFLIGHT),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    refused(service.client.options("/v1/collections", headers=PREFLIGHT), 405)


def test_cors_for_listed_origins(tmp_path: Path) -> None:
    with served(tmp_path / "db", cors_origins=("https://app.example",)) as service:
        answer = service.client.get("/v1/collections", headers=ORIGIN)
        good(answer)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        preflight = service.client.options("/v1/collections", headers={**PREFLIGHT, "Authorization": ""})
        assert preflight.status_code == 200
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        refusal = service.client.get("/v1/collections", headers={**ORIGIN, "Authorization": ""})
        refused(refusal, 401)
        assert refusal.headers["access-control-allow-origin"] == "https://app.example"  # or the page could not read why
        other = service.client.get("/v1/collections", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-credentials" not in answer.headers


def test_a_key_in_use_is_not_kept_out_by_wrong_ones(tmp_path: Path) -> None:
    with served(tmp_path / "db", wrong_keys=2) as service:
        good(service.client.get("/v1/collections"))
        for n in range(2):
            refused(service.client.get("/v1/collections", headers=bearer(f"vm_{n:016x}_{'x' * 43}")), 401)
        refused(service.client.get("/v1/collections", headers=service.key("read")), 429)  # never seen from here
        time.sleep(REMEMBERED + 0.1)
        good(service.client.get("/v1/collections"))


def test_a_revoked_key_in_use_is_refused_in_time(tmp_path: Path) -> None:
    with served(tmp_path / "db") as service:
        headers, gatekeeper = service.key("read"), service.app.state.gatekeeper
        assert service.client.portal is not None
        good(service.client.get("/v1/collections", headers=headers))
        [key] = [key for key in service.db.keys.list() if key.name == "one more"]
        service.db.keys.revoke(key.id)
        end = time.monotonic() + REMEMBERED + 0.2
        while time.monotonic() < end:
            service.client.portal.call(gatekeeper.known, headers["Authorization"])  # renews, as every search does
            time.sleep(0.05)
        refused(service.client.get("/v1/collections", headers=headers), 401)
