"""The service keeps what its OpenAPI document promises: schemathesis makes requests from it, good and bad ones, and follows its links."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import schemathesis
from schemathesis.core.result import Ok
from schemathesis.engine import events, from_schema

from tests.service_kit import Running, started

EVERY_CHECK = {
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance", "missing_required_header", "unsupported_method",
    "allow_header_conformance", "use_after_free", "ensure_resource_availability", "ignored_auth", "object_level_authorization",
}  # fmt: skip
TAKEN = ["2xx", "401", "403", "404", "409"]


# Paths that are also those of an item of that name, with other methods: `Allow` tells them all, which a document cannot say.
OVERLAPPING = [f"/v1/collections/{{name}}/items/{name}" for name in ("count", "delete", "get", "stream", "upload")]
NAMING_ITEMS = [
    "embed",
    "search",
    "search_many",
    "recommend",
    "give_feedback",
    "get_items",
    "activate_version",
    "get_version",
    "share_traffic",
    "roll_back",
]


def config(running: Running, examples: int, chains: int, coverage: bool = True) -> schemathesis.Config:
    """All checks, the same requests each time.

    Args:
        examples: requests for each operation.
        chains: of requests that follow links.
        coverage: also what is systematically at the edges of the schema.
    """
    fuzzing = {"max-examples": examples, "deterministic": True, "no-shrink": True, "database": "none"}
    return schemathesis.Config.from_dict(
        {
            "base-url": f"http://127.0.0.1:{running.port}",
            "seed": 1,
            "workers": 1,
            "request-timeout": 30,
            "continue-on-failure": True,
            "auth": {"openapi": {"API key": {"bearer": running.secret}}},
            "generation": fuzzing,
            "phases": {
                "coverage": {"enabled": coverage},
                "stateful": {"max-steps": 8, "generation": {**fuzzing, "max-examples": chains}},
            },
            "checks": {
                # A request that the schema allows may still mean nothing here: a vector of another dimension than the collection's, a
                # filter with unknown operators, an encoder that is not offered. JSON Schema cannot say that; 422 with its reason does.
                "positive_data_acceptance": {"expected-statuses": [*TAKEN, "413", "415", "422"]},
            },
            "operations": [
                *({"include-path": path, "checks": {"allow_header_conformance": {"enabled": False}}} for path in OVERLAPPING),
                # A collection that was just made has not the items and versions that a request names: 404 speaks of those.
                {"include-operation-id": NAMING_ITEMS, "checks": {"ensure_resource_availability": {"enabled": False}}},
                # Each line has a result of its own: bad ones are told in the answer, which is 200.
                {"include-operation-id": "stream_items", "checks": {"negative_data_rejection": {"enabled": False}}},
            ],
        }
    )


@schemathesis.serializer("application/x-ndjson")
def _lines(context: schemathesis.SerializationContext, value: Any) -> Any:
    """The schema is a text of lines already."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else orjson.dumps(value)


@schemathesis.deserializer("application/x-ndjson")
def _first_line(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """The schema describes one line."""
    return orjson.loads(response.content.split(b"\n")[0] or b'{"line": 1, "status": "written"}')


class Run:
    """What one run of the engine saw."""

    def __init__(self, config: schemathesis.Config) -> None:
        begin = time.monotonic()
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.checks: Counter[str] = Counter()
        self.links: Counter[str] = Counter()
        self.succeeded: set[str] = set()  # operations with an answer that is no error
        self.failures: dict[tuple[str | None, str], str] = {}
        self.errors: list[str] = []
        schema = schemathesis.openapi.from_url(f"{config.projects.get_default().base_url}/openapi.json", config=config)
        self.operations = {operation.ok().label for operation in schema.get_all_operations() if isinstance(operation, Ok)}
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                self._scenario(event)
            elif isinstance(event, events.NonFatalError | events.FatalError):
                self.errors.append(str(getattr(event, "value", None) or getattr(event, "exception", None)))
        self.seconds = time.monotonic() - begin

    def _scenario(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        for node in recorder.cases.values():
            if node.transition is not None:
                self.links[node.transition.id] += 1
        for id, interaction in recorder.interactions.items():
            self.requests[event.phase.value] += 1
            if interaction.response is not None:
                if interaction.response.status_code == 400:  # no HTTP, such as a content-length of "))": no route has seen it
                    assert orjson.loads(interaction.response.content)["error"] == "bad_request"
                    continue
                self.statuses[interaction.response.status_code] += 1
                if interaction.response.status_code < 300 and id in recorder.cases:
                    self.succeeded.add(recorder.cases[id].value.operation.label)
            for check in recorder.checks.get(id, []):
                self.checks[check.name] += 1
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    self.failures.setdefault(
                        (failure.operation, failure.title), f"{failure.message[:600]}\n{check.failure_info.code_sample[:600]}"
                    )

    def __str__(self) -> str:
        said = [f"{operation}: {title}\n{text}" for (operation, title), text in self.failures.items()]
        return f"{len(said)} failures, {self.requests} in {self.seconds:.0f} s, {self.statuses}, {self.errors}\n\n" + "\n\n".join(
            said
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("schema") / "db", encoders=["vectors", "text"], workers=1, wrong_keys=10_000) as running:
        yield running


def checked(run: Run, running: Running) -> None:
    assert not run.failures, str(run)
    assert not run.errors, run.errors
    assert set(run.checks) == EVERY_CHECK
    assert [line for line in running.lines() if line["event"] == "internal" or line.get("status", 0) >= 500] == []


def followed(run: Run, running: Running, kinds: int) -> Counter[str]:
    """The links that a run followed, and further ones if these are of too few kinds: what answers hold decides, and so chance."""
    links = Counter(run.links)
    for _ in range(3):
        if len(links) < kinds:
            more = Run(config(running, examples=4, chains=150, coverage=False))
            checked(more, running)
            links += more.links
    return links


def test_the_service_keeps_its_schema(running: Running) -> None:
    run = Run(config(running, examples=4, chains=30, coverage=False))
    checked(run, running)
    assert run.requests.total() >= 150
    assert len(followed(run, running, 5)) >= 5, run.links
    assert len(run.succeeded) >= 20, run.succeeded


@pytest.mark.quality
def test_the_service_keeps_its_schema_over_many_requests(running: Running) -> None:
    run = Run(config(running, examples=40, chains=150))
    print(run, run.checks, run.links.most_common(), run.operations - run.succeeded, sep="\n")
    checked(run, running)
    assert run.requests.total() >= 2000
    assert len(followed(run, running, 8)) >= 8, run.links  # as a rule 14 to 19 at once; 4 were seen
