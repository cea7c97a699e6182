"""Running it: alive, ready, measured, logged without content, stopped in good order, traced."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

import vecmeta as vm
from service.app import create_app
from service.run import serve
from service.settings import Settings
from tests.conftest import Clusters
from tests.service_kit import DIM, ROOT, SMALL, Running, Service, alive, fill, free_port, good, refused, served, started, until
from tests.test_jobs import run_due
from vecmeta.catalogue.jobs import RUNNING
from vecmeta.index.faiss_index import FaissIndex

V = [1.0, 0.0, 0.0, 0.0]
LARGE = Clusters(concepts=20, members=40, dim=48, seed=3)  # an adaptation takes a second or more


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("operations") / "db") as service:
        yield service


# -- alive, ready, measured --------------------------------------------------------------------------------------------------------


def test_healthz_needs_no_key(service: Service) -> None:
    answer = service.client.get("/healthz", headers={"Authorization": ""})
    assert good(answer) == {"status": "ok", "version": vm.__version__}


@pytest.mark.parametrize(("most", "copied"), [(0, False), (10_500 * 4 * 4 - 1, False), (10_500 * 4 * 4, True)])
def test_an_index_is_copied_into_memory_up_to_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, copied: bool
) -> None:
    x = np.random.default_rng(0).normal(size=(10_500, 4))
    with vm.open(tmp_path / "db", device="cpu") as db:
        c = db.create("many", encoder="vectors", dim=4)
        c.add_vectors([str(n) for n in range(len(x))], x)
        c.settle()
    owned: list[object] = []
    own = FaissIndex.own

    def noted(index: FaissIndex) -> None:
        own(index)
        owned.append(index)

    monkeypatch.setattr(FaissIndex, "own", noted)
    with served(tmp_path / "db", copied=most) as service:
        until(lambda: service.client.get("/readyz").status_code == 200)
        assert bool(owned) == copied
        found = good(service.client.post("/v1/collections/many/search", json={"vector": x[7].tolist(), "k": 1}))
        assert [hit["id"] for hit in found["hits"]] == ["7"]


def test_readyz_503_while_an_index_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vm.open(tmp_path / "db", device="cpu") as db:
        fill(db, "first")
        fill(db, "second")
    go_on, settle = threading.Event(), vm.Collection.settle

    def slow(collection: vm.Collection) -> None:
        if collection.name == "second":
            assert go_on.wait(20)
        settle(collection)

    monkeypatch.setattr(vm.Collection, "settle", slow)
    with served(tmp_path / "db") as service:
        until(lambda: good(service.client.get("/readyz"), 503)["waiting_for"] == ["second"])
        assert good(service.client.get("/readyz", headers={"Authorization": ""}), 503)["ready"] is False
        assert good(service.client.get("/healthz"))["status"] == "ok"
        found = good(service.client.post("/v1/collections/second/search", json={"vector": V, "k": 1}))  # answered all the same
        assert [hit["id"] for hit in found["hits"]] == ["i00"]
        go_on.set()
        until(lambda: service.client.get("/readyz").status_code == 200)
        assert good(service.client.get("/readyz")) == {"ready": True, "waiting_for": []}
        good(service.client.post("/v1/collections", json={"name": "third", "encoder": "vectors", "dim": 3}), 201)
        assert good(service.client.get("/readyz"))["ready"] is True


def test_it_stays_ready_while_another_version_goes_live_elsewhere(service: Service) -> None:
    name = service.judged()
    until(lambda: service.client.get("/readyz").status_code == 200)
    with vm.open(service.db.url, device="cpu") as elsewhere:
        assert elsewhere.collection(name).adapt().version == 1
    assert good(service.client.get("/readyz"))["ready"] is True
    answer = good(service.client.post(f"/v1/collections/{name}/search", json={"id": SMALL.ids[0]}))
    assert answer["version"] in (0, 1)


def measured(service: Service) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_are_right_after_known_requests(service: Service) -> None:
    before = measured(service)
    name = service.points()
    for _ in range(3):
        good(service.client.post(f"/v1/collections/{name}/search", json={"vector": V}))
    refused(service.client.post(f"/v1/collections/{name}/search", json={"vector": [1.0]}), 422)
    refused(service.client.get(f"/v1/collections/{name}/items/secret-id"), 404)
    job = service.db.jobs.submit(name)
    after = measured(service)

    def more(metric: str, **labels: str) -> float:
        key = metric, tuple(sorted(labels.items()))
        return after.get(key, 0.0) - before.get(key, 0.0)

    (search,) = {dict(labels)["route"] for _, labels in after if dict(labels).get("route", "").endswith("/search")}
    assert more("vecmeta_request_seconds_count", method="POST", route=search, status="200") == 3
    assert more("vecmeta_request_seconds_count", method="POST", route=search, status="422") == 1
    assert more("vecmeta_request_seconds_bucket", method="POST", route=search, status="200", le="+Inf") == 3
    assert 0 < more("vecmeta_request_seconds_sum", method="POST", route=search, status="200") < 10
    assert more("vecmeta_items", collection=name) == 12
    assert more("vecmeta_index_bytes", collection=name) == 12 * DIM * 4
    assert after["vecmeta_live_version", (("collection", name),)] == 0
    assert more("vecmeta_jobs", kind="adapt", state="queued") == 1
    assert more("vecmeta_batched", work="search", what="requests") >= 3
    assert "secret-id" not in service.client.get("/metrics").text
    service.db.jobs.cancel(job.id)


def test_request_ids_are_echoed_or_made(service: Service) -> None:
    assert service.client.get("/healthz", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    refusal = service.client.get("/v1/collections/nope", headers={"X-Request-Id": "my-id.2"})
    assert refusal.headers["x-request-id"] == "my-id.2"
    made = {service.client.get("/healthz").headers["x-request-id"] for _ in range(50)}
    assert len(made) == 50
    for bad in ("x" * 65, "a b", 'a"b', "a\tb", "ä".encode()):
        sent = {"X-Request-Id": bad}
        answer = service.client.get("/healthz", headers=sent)  # type: ignore[arg-type]
        assert len(answer.headers["x-request-id"]) == 16


def test_a_mistake_of_ours_is_500_of_the_one_shape(
    service: Service, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(self: vm.Collection) -> list[vm.Version]:
        raise ZeroDivisionError("what a user stored")

    name = service.points()
    monkeypatch.setattr(vm.Collection, "versions", broken)
    answer = service.client.get(f"/v1/collections/{name}/versions")
    refused(answer, 500, "internal")
    assert answer.headers["x-request-id"]
    assert "what a user stored" not in answer.text


# -- as a process ------------------------------------------------------------------------------------------------------------------


def test_logs_are_json_lines_without_content(tmp_path: Path) -> None:
    secrets = [
        "S3cretText",
        "s3cret-id",
        "s3cretKey",
        "S3cretQuery",
        "S3cretConcept",
        "S3cretUser",
        "S3cretSession",
        "s3cretfilter",
    ]
    with started(tmp_path / "db") as running:
        ask = running.ask
        good(ask("POST", "/v1/collections", {"name": "docs"}), 201)
        base = "/v1/collections/docs"
        item = {"id": "s3cret-id", "text": "S3cretText one", "metadata": {"s3cretKey": "S3cretText"}}
        good(ask("PUT", f"{base}/items", {"items": [item]}))
        good(ask("GET", f"{base}/items/s3cret-id"))
        good(
            ask(
                "POST",
                f"{base}/search",
                {"text": "S3cretQuery", "session": "S3cretSession", "where": {"s3cretKey": "s3cretfilter"}},
            )
        )
        said = {"item": "s3cret-id", "concept": "S3cretConcept", "user": "S3cretUser"}
        good(ask("POST", f"{base}/feedback", {"judgements": [said]}))
        lines = b'{"id": "s3cret-id-2", "text": "S3cretText"}\n{"id": "s3cret-id-3", "S3cretText": 1}\nS3cretText'
        assert ask("POST", f"{base}/items/stream", lines, {"Content-Type": "application/x-ndjson"}).status_code == 200
        for method, path, body, status in (
            ("GET", f"{base}/items/s3cret-id-gone", None, 404),
            ("GET", f"{base}/items?where=S3cretText", None, 422),
            ("POST", f"{base}/search", {"text": "S3cretQuery", "S3cretText": 1}, 422),
            ("POST", f"{base}/search", {"text": "S3cretQuery", "where": {"s3cretKey": {"$S3cretText": 1}}}, 422),
            ("POST", f"{base}/search", b"S3cretText", 422),
            ("GET", "/v1/S3cretText", None, 404),
            ("S3CRETTEXT", "/v1/S3cretText", None, 400),
        ):
            refused(ask(method, path, body), status)
        wrong = "vm_0123456789abcdef_" + "S3cretText" + "x" * 33
        refused(ask("GET", base, headers={"Authorization": f"Bearer {wrong}"}), 401)
        running.raw(b"S3cretText nonsense\r\n\r\n")
        key = running.secret
        assert running.stop() == 0
        logged = running.lines()
    requests = [line for line in logged if line["event"] == "request"]
    assert len(requests) >= 13
    assert {"id", "method", "route", "status", "ms", "key", "level", "timestamp"} <= set(requests[0])
    assert {line["status"] for line in requests} >= {200, 201, 401, 404, 422}
    written = running.log.read_text() + (tmp_path / "db.err").read_text()
    for secret in [*secrets, key, key.split("_", 2)[2]]:
        assert secret.lower() not in written.lower(), secret


def large(running: Running) -> str:
    """A collection whose adaptation takes a while."""
    with vm.open(running.folder, device="cpu") as db:
        collection = db.create("large", encoder="vectors", dim=LARGE.dim)
        collection.add_vectors(LARGE.ids, LARGE.x)
        collection.feedback(LARGE.judgements(range(16), 12))
    answer = running.ask("POST", "/v1/collections/large/adapt", {})
    job: str = good(answer, 202)["id"]
    return job


def state(folder: Path, job: str) -> vm.Job:
    with vm.open(folder, device="cpu") as db:
        return db.jobs.get(job)


@pytest.mark.parametrize("grace", [20.0, 0.0], ids=["time to end", "no time"])
def test_sigterm_during_a_search_and_an_adaptation(tmp_path: Path, grace: float) -> None:
    with started(tmp_path / "db", workers=1, grace=grace) as running:
        (worker,) = running.workers()
        job = large(running)
        statuses: list[int] = []

        def search() -> None:
            body = {"vector": LARGE.x[0].tolist(), "k": 50}
            while True:
                try:
                    statuses.append(running.ask("POST", "/v1/collections/large/search", body).status_code)
                except ConnectionRefusedError:
                    return
                except (ConnectionResetError, AssertionError):
                    statuses.append(0)  # accepted by the system, and never seen by the service

        searcher = threading.Thread(target=search)
        with vm.open(running.folder, device="cpu") as db:
            until(lambda: db.jobs.get(job).state in RUNNING, 30)
            searcher.start()
            until(lambda: len(statuses) > 3)
            code = running.stop()
        searcher.join(30)
        assert not searcher.is_alive()
        assert code == 0
        assert not alive(worker)
        ended = state(running.folder, job)
        assert ended.state in (("live", "kept") if grace else ("queued", "live", "kept"))
        assert set(statuses[:-2]) == {200}  # whatever was begun was answered; the last may have come too late
        assert "Error" not in (tmp_path / "db.err").read_text()
    if ended.state == "queued":
        with vm.open(running.folder, device="cpu") as db:  # what was put back is done by the next worker
            assert [one.id for one in run_due(db)] == [job]
            assert db.jobs.get(job).state in ("live", "kept")


def test_sigterm_ends_streams_of_events(tmp_path: Path) -> None:
    with started(tmp_path / "db", grace=15.0) as running:
        with vm.open(running.folder, device="cpu") as db:
            fill(db, "points")
            job = db.jobs.submit("points").id
        got: list[bytes] = []
        head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.secret}\r\n\r\n"
        watcher = threading.Thread(target=lambda: got.append(running.raw(head.encode())))
        watcher.start()
        time.sleep(0.5)
        begin = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begin < 5
        watcher.join(5)
        assert b"event: progress" in got[0]


def test_a_worker_that_dies_is_started_again_and_goes_with_a_killed_service(tmp_path: Path) -> None:
    with started(tmp_path / "db", workers=1) as running:
        (first,) = running.workers()
        os.kill(first, signal.SIGKILL)
        until(lambda: bool(running.children()) and running.children() != [first], 10)
        assert [line["event"] for line in running.lines() if line["event"] == "worker_died"] == ["worker_died"]
        (worker,) = running.workers()
        job = large(running)
        with vm.open(running.folder, device="cpu") as db:
            until(lambda: db.jobs.get(job).state in RUNNING, 30)
        running.process.kill()
        running.process.wait()
        until(lambda: not alive(worker), 20)
        assert state(running.folder, job).state in ("queued", "live", "kept")


def test_sigint_is_no_failure_either(tmp_path: Path) -> None:
    with started(tmp_path / "db") as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0


def test_a_taken_port_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = f"from service.run import serve; serve(port={port}, data={str(tmp_path / 'db')!r}, device='cpu', workers=0)"
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "address already in use" in ended.stderr


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("0.0.0.0", {"auth": False}, "--host 127.0.0.1, not 0.0.0.0"),
        ("::", {"auth": False}, "--host 127.0.0.1, not ::"),
        ("192.168.0.1", {"auth": False}, "not 192.168.0.1"),
        ("example.com", {"auth": False}, "not example.com"),
        ("127.0.0.1", {"workers": -1}, "workers"),
        ("127.0.0.1", {"search_threads": 0}, "search_threads"),
        ("127.0.0.1", {"max_body": "much"}, "max_body"),
    ],
)
def test_serve_refuses_what_cannot_be(tmp_path: Path, host: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(vm.InvalidConfig, match=said):
        serve(host, free_port(), data=str(tmp_path / "db"), **options)
    assert not (tmp_path / "db").exists()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VECMETA_ENCODERS", "text, vectors")
    monkeypatch.setenv("VECMETA_CORS_ORIGINS", "https://a.example,https://b.example")
    monkeypatch.setenv("VECMETA_MAX_BODY", "4096")
    monkeypatch.setenv("VECMETA_AUTH", "false")
    settings = Settings(data=str(tmp_path))
    assert settings.encoders == ("text", "vectors")
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert (settings.max_body, settings.auth) == (4096, False)


# -- tracing -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def receiver() -> Iterator[tuple[int, list[ExportTraceServiceRequest]]]:
    """An OTLP/HTTP collector."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_spans_are_sent_and_hold_no_content(tmp_path: Path) -> None:
    with receiver() as (port, got):
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}/"}
        with started(tmp_path / "db", env=env) as running:
            good(running.ask("POST", "/v1/collections", {"name": "points", "encoder": "vectors", "dim": DIM}), 201)
            good(running.ask("PUT", "/v1/collections/points/items", {"items": [{"id": "s3cret-id", "vector": V}]}))
            good(running.ask("POST", "/v1/collections/points/search", {"vector": V, "session": "s3cret-session"}))
            good(running.ask("GET", "/v1/collections/points/items/s3cret-id"))
            good(running.ask("GET", "/v1/collections/points/items?where=%7B%22s3cret%22%3A1%7D"))
            good(running.ask("GET", "/healthz"))
            assert running.stop() == 0  # what was not sent yet is sent now
    resources = [resource for one in got for resource in one.resource_spans]
    names = {a.value.string_value for resource in resources for a in resource.resource.attributes if a.key == "service.name"}
    assert names == {"vecmeta"}
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert len(spans) == 6
    assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in spans)
    statuses = [
        a.value.int_value for span in spans for a in span.attributes if a.key in ("http.status_code", "http.response.status_code")
    ]
    assert sorted(statuses) == [200] * 5 + [201]
    assert {span.name for span in spans} >= {"GET /healthz"}
    assert sum(span.name.endswith("/items/{id:any}") for span in spans) == 1
    whole = "".join(str(one) for one in got)
    assert running.secret not in whole
    assert "s3cret" not in whole


def test_without_an_endpoint_nothing_is_traced(tmp_path: Path) -> None:
    app = create_app(Settings(data=str(tmp_path / "db"), device="cpu", workers=0))
    assert not hasattr(app.state, "tracing")
    app.state.runtime.db.close()


def test_the_document_is_open_and_whole(service: Service) -> None:
    told = json.loads(service.client.get("/openapi.json", headers={"Authorization": ""}).text)
    assert told["info"]["version"] == vm.__version__
    assert service.client.get("/docs").status_code == 200


def test_the_manual_needs_no_other_site(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        page = service.client.get("/docs").text
        sources = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert sources
        for source in sources:
            assert source.startswith("/static-offline-docs/")
            assert service.client.get(source).status_code == 200
