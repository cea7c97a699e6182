"""Whatever is sent, the service answers with the right error of the one shape, and goes on serving."""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.service_kit import DIM, Running, Service, answer_of, good, packed, png, refused, rest, served, started
from tests.test_service_routes import LINES, good_lines

V = [1.0, 0.0, 0.0, 0.0]
JSON = {"content-type": "application/json"}
BODIES: dict[str, tuple[str, Any]] = {  # every route that takes JSON, with every text that may be in it as @
    "POST /v1/collections": ("", {"name": "@", "encoder": "@", "dim": 3}),
    "PUT …/items": ("/items", {"items": [{"id": "@", "text": "@", "metadata": {"@": "@"}}]}),
    "PUT …/items/{id}": ("/items/a", {"text": "@", "metadata": {"@": ["@"]}}),
    "POST …/items/get": ("/items/get", {"ids": ["@"]}),
    "POST …/items/delete": ("/items/delete", {"ids": ["@"]}),
    "POST …/items/count": ("/items/count", {"where": {"@": "@"}}),
    "POST …/search": (
        "/search",
        {"text": "@", "id": "@", "image": "@", "session": "@", "where": {"@": {"$in": ["@"]}}, "version": "@"},
    ),
    "POST …/search/many": ("/search/many", {"queries": [{"id": "@"}]}),
    "POST …/recommend": ("/recommend", {"like": ["@"], "unlike": ["@"]}),
    "POST …/embed": ("/embed", {"contents": [{"text": "@"}]}),
    "POST …/feedback": ("/feedback", {"judgements": [{"item": "@", "concept": "@", "user": "@", "query": {"text": "@"}}]}),
    "POST …/adapt": ("/adapt", {"method": "@"}),
    "POST …/clicks": ("/clicks", {"search": "@", "item": "@"}),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("bad") / "db", max_body=8_000_000, max_line=1_000_000) as service:
        yield service


@pytest.fixture(scope="module")
def points(service: Service) -> str:
    return service.points()


@pytest.fixture(autouse=True)
def well(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the service answers a good request."""
    yield
    body = {"vector": V, "k": 1}
    if "service" in request.fixturenames and "points" in request.fixturenames:
        service, points = request.getfixturevalue("service"), request.getfixturevalue("points")
        assert good(service.client.post(f"/v1/collections/{points}/search", json=body))["hits"][0]["id"] == "i00"
        assert service.db.collection(points).count() == 12
    if "running" in request.fixturenames:
        running = request.getfixturevalue("running")
        assert good(running.ask("POST", "/v1/collections/points/search", body))["hits"][0]["id"] == "i00"


def url(name: str, rest: str = "") -> str:
    return f"/v1/collections/{name}{rest}"


def ask(service: Service, points: str, route: str, body: bytes, headers: dict[str, str] = JSON) -> Any:
    method = route.partition(" ")[0]
    path = BODIES[route][0]
    at = url(points, path) if path else "/v1/collections"
    return service.client.request(method, at, content=body, headers=headers)


# -- JSON --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"null", b"[]", b'"text"', b"{}x", b"{'name': 'x'}", b'{"a": }', b"\xff\xfe{\x00}\x00", b'{"name": "\xe9"}',
        b'{"name": "\xed\xa0\x80"}', b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 01}', b'{"a": 1' + b"0" * 100_000 + b"}", b'{"a": 1e400}', b"\x00", b"\xef\xbb\xbf{}",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_no_json_or_of_another_shape(service: Service, points: str, route: str, body: bytes) -> None:
    refused(ask(service, points, route, body), 422, "invalid_request")


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("bad", ['"\\ud800"', '"\\udfff and more"', '"\\udc00\\ud800"', '"\ud800"'], ids=ascii)
def test_lone_surrogates_in_every_text(service: Service, points: str, route: str, bad: str) -> None:
    whole = json.dumps(BODIES[route][1])
    at = -1
    count = whole.count('"@"')
    for _ in range(count):  # each by itself
        at = whole.index('"@"', at + 1)
        one = whole[:at].replace('"@"', '"i00"') + bad + whole[at + 3 :].replace('"@"', '"i00"')
        refused(ask(service, points, route, one.encode("utf-8", "surrogatepass")), 422, "invalid_request")
    assert count


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml", "multipart/form-data", "\x7f"]
)
@pytest.mark.parametrize("route", BODIES)
def test_another_kind_of_content(service: Service, points: str, route: str, kind: str) -> None:
    refused(ask(service, points, route, b'{"vector": [1, 0, 0, 0]}', {"content-type": kind}), 422, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        b'{"vector": [NaN, 0, 0, 0]}', b'{"vector": [1e400, 0, 0, 0]}', b'{"vector": [-1e400, 0, 0, 0]}',
        b'{"vector": ["1", 0, 0, 0]}', b'{"vector": [true, 0, 0, 0]}', b'{"vector": [null, 0, 0, 0]}', b'{"vector": [[1], 0, 0, 0]}',
        b'{"vector": {"0": 1}}', b'{"vector": []}', b'{"vector": "AAAA"}', b'{"vector": [1, 0, 0, 1' + b"0" * 400 + b"]}",
        b'{"vector": [' + b"1," * 999_999 + b"1]}", b'{"vector": ""}', b'{"vector": "/etc/passwd"}', b'{"vector": "file:///AAAA"}',
        b'{"vector": "%s"}' % packed(1, 0, float("nan"), 0), b'{"vector": "%s"}' % packed(0, 0, 0, 0),
        b'{"vector": "%s"}' % packed(1, 0, 0), b'{"vector": "%s"}' % packed(*[1.0] * 100_000), b'{"vector": ["%s"]}' % packed(1, 0, 0, 0),
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_vectors_that_are_none(service: Service, points: str, body: bytes) -> None:
    for method, path in (("POST", "/search"), ("PUT", "/items/new")):
        refused(service.client.request(method, url(points, path), content=body, headers=JSON), 422)
    query = b'{"judgements": [{"item": "i00", "query": ' + body + b"}]}"
    refused(service.client.post(url(points, "/feedback"), content=query, headers=JSON), 422)
    (line,) = good_lines(service.client.post(url(points, "/items/stream"), content=body[:-1] + b', "id": "new"}', headers=LINES))
    assert line["status"] == "refused"


def test_the_last_of_a_key_that_comes_twice_counts(service: Service, points: str) -> None:
    body = b'{"id": "gone", "id": "i00", "k": 99999999, "k": 1}'
    found = good(service.client.post(url(points, "/search"), content=body, headers=JSON))
    assert [hit["id"] for hit in found["hits"]] == ["i01"]


@pytest.mark.parametrize("number", [-1, 0, 2**31, 2**63, 2**64, 10**30, 1.5, True, "1", None])
@pytest.mark.parametrize("field", ["k", "version"])
def test_numbers_out_of_range(service: Service, points: str, field: str, number: Any) -> None:
    body = json.dumps({"vector": V, field: number}).encode()
    answer = service.client.post(url(points, "/search"), content=body, headers=JSON)
    if field == "version" and number == 0:
        good(answer)
    else:
        refused(answer, 422, "invalid_request")


@pytest.mark.parametrize("n", [2**31, 2**63, 10**30, -1])
def test_numbers_out_of_range_in_paths(service: Service, points: str, n: int) -> None:
    refused(service.client.get(url(points, f"/versions/{n}")), 422, "invalid_request")
    refused(service.client.post(url(points, f"/versions/{n}/activate")), 422, "invalid_request")
    refused(service.client.get(url(points, "/judgements"), params={"offset": n}), 422, "invalid_request")
    refused(service.client.put(url(points, "/policy"), json={"auto_adapt": n}), 422, "invalid_request")


# -- filters and metadata ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [40, 300, 1000])
def test_deep_filters_and_metadata(service: Service, points: str, depth: int) -> None:
    where = '{"$not": ' * depth + "{}" + "}" * depth
    metadata = '{"a": ' * depth + "1" + "}" * depth
    lists = '{"a": ' + "[" * depth + "]" * depth + "}"
    for path in ("/search", "/recommend", "/items/count"):
        what = {"/search": '"id": "i00", ', "/recommend": '"like": ["i00"], '}.get(path, "")
        for filter in (where, lists, '{"a": ' * depth + "1" + "}" * depth):
            body = f'{{{what}"where": {filter}}}'.encode()
            refused(service.client.post(url(points, path), content=body, headers=JSON), 422)
    refused(service.client.get(url(points, "/items"), params={"where": where}), 422)
    for about in (metadata, lists):
        if depth == 40:
            continue  # that much metadata may have
        body = f'{{"vector": [1, 0, 0, 0], "metadata": {about}}}'.encode()
        refused(service.client.put(url(points, "/items/new"), content=body, headers=JSON), 422)
        (line,) = good_lines(
            service.client.post(url(points, "/items/stream"), content=b'{"id": "new", ' + body[1:], headers=LINES)
        )
        assert line["status"] == "refused"


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({"half": "' OR 1=1 --"}, 0),
        ({"half') OR 1=1 --": 1}, 0),
        ({"half": {"$in": ["'; DROP TABLE items; --", "first"]}}, 6),
        ({"half": "%"}, 0),
        ({"half": ".*"}, 0),
        ({"half": "fir_t"}, 0),
        ({"half": "f*"}, 0),
        ({"n": 2**63}, 0),
        ({"n": {"$lt": 10**30}}, 12),
        ({"n": {"$gte": -(10**300)}}, 12),
        ({"$": 1}, None),
        ({"$where": "sleep(10)"}, None),
        ({"half": {"$regex": "(a+)+$"}}, None),
        ({"": 1}, None),
        ({'"': 1}, None),
        ({"a\\": 1}, None),
        ({"a\0": 1}, None),
        ({"half": {}}, None),
        ({"half": {"$in": "first"}}, None),
        ({"half": {"$in": [{}]}}, None),
        ({"half": [1]}, None),
        ({"$or": []}, None),
        ({"$or": [{"n": i} for i in range(1001)]}, None),
        ({"n": {"$in": list(range(10_001))}}, None),
        ({"n": {"$gt": None}}, None),
        ({"n.__class__": 1}, 0),
        ({"[0]": 1}, 0),
        ({"$.n": 1}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_filters_that_want_more(service: Service, points: str, where: dict[str, Any], count: int | None) -> None:
    answer = service.client.post(url(points, "/items/count"), content=json.dumps({"where": where}), headers=JSON)
    if count is None:
        refused(answer, 422, "invalid_filter")
    else:
        assert good(answer) == {"count": count}
    listed = service.client.get(url(points, "/items"), params={"where": json.dumps(where)[:20_000]})
    found = service.client.post(url(points, "/search"), content=json.dumps({"vector": V, "k": 50, "where": where}), headers=JSON)
    for answer, rows in ((listed, "items"), (found, "hits")):
        if count is None:
            refused(answer, 422)
        else:
            assert len(good(answer)[rows]) == count


# -- names and ids -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["..", "../..", "%2e%2e%2f", "..%2f..%2fetc%2fpasswd", "a%00b", "%ff", "a b", "-", "a" * 64, "ä", "%F0%9F%92%A9",
    "a%5cb", "a;b", "%0d%0aX: y"]
)  # fmt: skip
def test_names_that_climb(service: Service, points: str, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/search"), ("GET", "/items/a"), ("GET", "/content/a")):
        answer = service.client.request(method, url(name, path), json={"vector": V} if method == "POST" else None)
        if answer.url.path == "/":  # where the client itself climbed to: the console
            continue
        assert answer.status_code in (404, 405, 422), answer.text
        refused(answer, answer.status_code)
        assert "x" not in answer.headers
    for bad in (name, "../x", "a/b", "x\0"):
        refused(
            service.client.post("/v1/collections", json={"name": bad, "encoder": "vectors", "dim": 2}), 422, "invalid_request"
        )


@pytest.mark.parametrize("id", ["../../etc/passwd", "a\0b", "\0", "a" * 513, "' OR 1=1 --", "\r\nX: y", "\u202e", "\uffff"])
def test_ids_that_climb(service: Service, points: str, id: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in id.encode())
    for method, path in (("GET", "/items/"), ("DELETE", "/items/"), ("GET", "/content/")):
        answer = service.client.request(method, url(points, path) + quoted)
        refused(answer, 422 if len(id) > 512 else 404)
        assert "x" not in answer.headers
    refused(service.client.post(url(points, "/search"), json={"id": id}), 422 if len(id) > 512 else 404)
    refused(service.client.post(url(points, "/recommend"), json={"like": [id]}), 422 if len(id) > 512 else 404)
    refused(
        service.client.post(url(points, "/feedback"), json={"judgements": [{"item": id, "concept": "c"}]}),
        422 if len(id) > 512 else 404,
    )
    assert service.client.get(url(points, "/items"), params={"after": id}).status_code == (422 if len(id) > 512 else 200)
    if "\0" in id or len(id) > 512:
        refused(service.client.put(url(points, "/items/") + quoted, json={"vector": V}), 422)
        refused(service.client.put(url(points, "/items"), json={"items": [{"id": id, "vector": V}]}), 422)
        refused(service.client.post(url(points, "/clicks"), json={"search": "0-0123456789abcdef", "item": id}), 422)
    else:  # a strange id is an id
        assert good(service.client.put(url(points, "/items/") + quoted, json={"vector": V})) == {"count": 1}
        assert good(service.client.get(url(points, "/items/") + quoted))["id"] == id
        good(service.client.delete(url(points, "/items/") + quoted), 204)


def test_numbers_that_are_too_large_for_most_come_back_as_they_were(service: Service, points: str) -> None:
    line = b'{"id": "large", "vector": [1e39, 0, 0, 0], "metadata": {"n": 1' + b"0" * 30 + b"}}"
    (told,) = good_lines(service.client.post(url(points, "/items/stream"), content=line, headers=LINES))
    assert told["status"] == "written"
    assert good(service.client.get(url(points, "/items/large")))["metadata"] == {"n": 10**30}
    found = good(service.client.post(url(points, "/search"), content=b'{"vector": [1e39, 0, 0, 0], "k": 1}', headers=JSON))
    assert found["hits"][0]["metadata"] == {"n": 10**30}
    assert found["hits"][0]["score"] == pytest.approx(1)
    good(service.client.delete(url(points, "/items/large")), 204)


def test_bytes_in_addresses_that_are_no_text(service: Service, points: str) -> None:
    for id in ("%ff", "%ed%a0%80", "%c0%af"):
        assert service.client.get(url(points, f"/items/{id}")).status_code in (404, 422)
        assert service.client.put(url(points, f"/items/{id}"), json={"vector": V}).status_code in (200, 422)
        service.client.delete(url(points, f"/items/{id}"))
        assert service.client.get(url(points, f"/items?after={id}")).status_code in (200, 422)
        refused(service.client.get(url(points, f"/items?where={id}")), 422)
        assert service.client.get(f"/v1/jobs?collection={id}").status_code in (404, 422)


@pytest.mark.parametrize(
    "encoder", ["hf:evil/model", "/etc", "./model", "file:///etc", "https://evil.example/m", "Text", "text\0", "onnx", "vectors "]
)
def test_encoders_that_are_not_offered(service: Service, points: str, encoder: str) -> None:
    for body in ({"name": "x", "encoder": encoder}, {"name": "x", "encoder": encoder, "dim": 3}):
        refused(service.client.post("/v1/collections", json=body), 422, "invalid_config", "not offered here")


FORM = "multipart/form-data; boundary=x"


# -- pictures ----------------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, real: bool) -> bytes:
    """A grey PNG that says it is that large; if `real`, all of its pixels are there, a thousandth of their size."""
    rows = b""
    if real:
        packer = zlib.compressobj(9)
        row = b"\0" * (width // 8 + 2)
        rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def pictures(service: Service) -> str:
    good(service.client.post("/v1/collections", json={"name": "pictures", "encoder": "image"}), 201)
    good(service.client.put(url("pictures", "/items/red"), json={"image": base64.b64encode(png()).decode()}))
    return "pictures"


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (bomb(20_000, 10_000, False), "pixels"),
        (bomb(9_000, 9_000, False), "9000 x 9000 pixels"),
        (bomb(2**31 - 1, 2**31 - 1, False), "pixels"),
        (bomb(12_000, 12_000, True), "pixels"),
        (png()[:60], "picture"),
        (b"", "empty"),
        (b"GIF89a" + b"\xff" * 100, "picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture"),
        (b"\0" * 100_000, "picture"),
    ],
    ids=["200 megapixels", "header", "largest", "bomb", "cut", "empty", "gif", "eps", "svg", "zeros"],
)
def test_pictures_that_are_none(service: Service, points: str, pictures: str, picture: bytes, said: str) -> None:
    sent = base64.b64encode(picture).decode()
    begin = time.monotonic()
    refused(service.client.put(url(pictures, "/items/x"), json={"image": sent}), 422, "undecodable_content", said)
    refused(service.client.post(url(pictures, "/search"), json={"image": sent}), 422, "undecodable_content", said)
    files = {"file": ("x.png", picture)}
    refused(service.client.post(url(pictures, "/items/upload"), data={"id": "x"}, files=files), 422, "undecodable_content", said)
    refused(service.client.post(url(pictures, "/search/upload"), files=files), 422, "undecodable_content", said)
    assert time.monotonic() - begin < 5
    assert service.db.collection(pictures).count() == 1


@pytest.mark.parametrize(
    "sent", ["é", "====", "AAA", "A" * 1001, "AA==AA==", "data:image/png;base64,AAAA", "AA\nAA", "-_-_", " AAAA", "\0", "AA A"]
)
def test_malformed_base64(service: Service, points: str, pictures: str, sent: str) -> None:
    refused(service.client.put(url(pictures, "/items/x"), json={"image": sent}), 422, "invalid_request", "base64")
    refused(service.client.post(url(pictures, "/search"), json={"image": sent}), 422, "invalid_request", "base64")


def test_paths_and_addresses_are_never_opened(service: Service, points: str, pictures: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # whoever opens it waits there, and is seen
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for sent in (
            str(pipe),
            f"file://{pipe}",
            f"http://127.0.0.1:{port}/a.png",
            f"//127.0.0.1:{port}/a.png",
            f"ftp://127.0.0.1:{port}",
        ):
            for asked in (sent, base64.b64encode(sent.encode()).decode()):
                refused(service.client.put(url(pictures, "/items/x"), json={"image": asked}), 422)
                refused(service.client.post(url(pictures, "/search"), json={"image": asked}), 422)
                judgement = {"item": "red", "query": {"image": asked}}
                refused(service.client.post(url(pictures, "/feedback"), json={"judgements": [judgement]}), 422)
            refused(service.client.post(url(pictures, "/search/upload"), files={"file": ("x.png", sent.encode())}), 422)
            refused(service.client.post(url(pictures, "/search/upload"), data={"file": sent}), 422, "invalid_request")
            refused(service.client.post(url(pictures, "/adapt"), json={"start": sent}), 422, "invalid_request")
        with pytest.raises(BlockingIOError):
            listener.accept()
    with pytest.raises(OSError) as error:  # noqa: PT011  # its number is looked at
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    assert error.value.errno == errno.ENXIO  # nobody reads


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"nonsense", FORM),
        (b"--x\r\n", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc', FORM),
        (b"--x\r\n\r\n\r\n--x--\r\n", FORM),
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=" + "x" * 500),
        (b"file=abc", "application/x-www-form-urlencoded"),
        (b"&" * 5000, "application/x-www-form-urlencoded"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 2000 + b"--x--\r\n", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="id"\r\n\r\n' + b"a" * 2_000_000 + b"\r\n--x--\r\n", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="id"\r\n\r\n\xed\xa0\x80\r\n--x--\r\n', FORM),
        (b"{}", "application/json"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/items/upload", "/search/upload"])
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Starlette leaves the file of a form cut short to the collector
def test_forms_that_are_none(service: Service, points: str, pictures: str, path: str, body: bytes, kind: str) -> None:
    refused(service.client.post(url(pictures, path), content=body, headers={"content-type": kind}), 422, "invalid_request")


# -- sockets -----------------------------------------------------------------------------------------------------------------------

MAX_BODY = 1_000_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("sockets") / "db", max_body=MAX_BODY, body_timeout=1.0, max_line=100_000) as running:
        good(running.ask("POST", "/v1/collections", {"name": "points", "encoder": "vectors", "dim": DIM}), 201)
        items = [{"id": "i00", "vector": V}, {"id": "i01", "vector": [0.0, 1.0, 0.0, 0.0]}]
        good(running.ask("PUT", "/v1/collections/points/items", {"items": items}))
        yield running


def head(running: Running, path: str = "/v1/collections/points/search", method: str = "POST", **headers: str) -> bytes:
    told = {"Host": "127.0.0.1", "Authorization": f"Bearer {running.secret}", "Content_Type": "application/json", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def test_408_a_body_that_does_not_come(running: Running) -> None:
    begin = time.monotonic()
    answer = answer_of(running.raw(head(running, Content_Length="100") + b'{"vec'))
    refused(answer, 408, "timeout")
    assert answer.headers["connection"] == "close"
    assert 0.9 < time.monotonic() - begin < 4


@pytest.mark.parametrize("path", ["/v1/collections/points/search", "/v1/collections/points/items/stream"])
def test_408_a_body_that_drips(running: Running, path: str) -> None:
    """A byte now and then, always before the time is over, would hold a connection for ever."""
    kind = "application/x-ndjson" if "stream" in path else "application/json"
    with running.connected() as connection:
        connection.sendall(head(running, path, Content_Length="100000", Content_Type=kind))
        begin = time.monotonic()
        connection.settimeout(0.1)
        got = b""
        while time.monotonic() - begin < 10 and not got:
            try:
                connection.sendall(b" ")
                got = connection.recv(2**16)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        connection.settimeout(5)
        got += rest(connection)
    refused(answer_of(got), 408, "timeout")
    assert time.monotonic() - begin < 5


def test_413_with_and_without_a_length(running: Running) -> None:
    refused(answer_of(running.raw(head(running, Content_Length=str(MAX_BODY + 1), Connection="close"))), 413, "too_large")
    pieces = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    whole = head(running, Transfer_Encoding="chunked", Connection="close") + pieces * 20 + b"0\r\n\r\n"
    refused(answer_of(running.raw(whole)), 413, "too_large")
    before = running.memory()
    endless = head(running, Content_Length=str(10**15), Connection="close") + b"x" * 50_000_000
    with running.connected() as connection:
        try:
            connection.sendall(endless)
        except OSError:
            pass
        else:
            refused(answer_of(rest(connection)), 413)
    assert running.memory() - before < 40_000_000


@pytest.mark.parametrize("shape", ["many", "one endless", "endless address", "trailers", "endless trailer", "endless piece"])
def test_floods_of_headers(running: Running, shape: str) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    pieces = b"POST /v1/collections HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    begin, flood = {
        "many": (first, b"X-Flood: y\r\n" * 5000),
        "one endless": (first + b"X-Flood: ", b"y" * 60_000),
        "endless address": (b"GET /", b"y" * 60_000),
        "trailers": (pieces + b"1\r\nx\r\n0\r\n", b"X-Flood: y\r\n" * 5000),
        "endless trailer": (pieces + b"1\r\nx\r\n0\r\nX-Flood: ", b"y" * 60_000),
        "endless piece": (pieces + b"1;", b"y" * 60_000),
    }[shape]
    before = running.memory()
    with running.connected() as connection:
        connection.sendall(begin)
        sent, cut = 0, False
        while sent < 100_000_000 and not cut:
            try:
                connection.sendall(flood)
                sent += len(flood)
            except OSError:
                cut = True
    assert cut
    assert running.memory() - before < 20_000_000


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"get /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n12345",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: x\n\nGET",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET http://other.example/v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n",
        b"\r\n" * 1000,
        b"\0" * 1000,
    ],
    ids=lambda sent: repr(sent[:60]),
)
def test_what_is_no_http(running: Running, sent: bytes) -> None:
    with running.connected(5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        got = rest(connection)
    assert got.count(b"HTTP/1.1 ") <= 1, got
    if got:
        refused(answer_of(got), answer_of(got).status_code)
        assert 400 <= answer_of(got).status_code < 500


def test_an_address_is_decoded_once(running: Running) -> None:
    good(running.ask("PUT", "/v1/collections/points/items/%252e%252e%252Fa", {"vector": V}))
    assert good(running.ask("GET", "/v1/collections/points/items/%252e%252e%252Fa"))["id"] == "%2e%2e%2Fa"
    for path in ("%2e%2e%2Fa", "../a", "x/../%252e%252e%252Fa"):
        refused(running.ask("GET", f"/v1/collections/points/items/{path}"), 404, "item_not_found")
    good(running.ask("DELETE", "/v1/collections/points/items/%252e%252e%252Fa"), 204)


def test_half_closed_and_broken_off_connections(running: Running) -> None:
    whole = head(running, Content_Length="25") + b'{"vector": [1,0,0,0]}    '
    for size in (0, 1, 30, len(whole) - 30, len(whole) - 1, len(whole)):
        for how in (socket.SHUT_WR, socket.SHUT_RDWR, None):
            with running.connected(5) as connection:
                connection.sendall(whole[:size])
                if how is not None:
                    connection.shutdown(how)
                if how == socket.SHUT_WR:
                    assert b"HTTP/1.1 5" not in rest(connection)
    with running.connected() as connection:
        connection.sendall(whole)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset


def test_500_idle_connections(running: Running) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(running.connected()) for _ in range(500)]
        for connection in idle[::2]:
            connection.sendall(b"POST /v1/collections HTTP/1.1\r\nHost: x\r\n")
        begin = time.monotonic()
        for _ in range(5):
            assert good(running.ask("GET", "/healthz"))["status"] == "ok"
        assert time.monotonic() - begin < 5


def test_a_stream_of_lines_that_never_ends_a_line(running: Running) -> None:
    before = running.memory()
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    stream = head(
        running,
        "/v1/collections/points/items/stream",
        Transfer_Encoding="chunked",
        Content_Type="application/x-ndjson",
        Connection="close",
    )
    with running.connected() as connection:
        connection.sendall(stream)
        try:
            for _ in range(500):
                connection.sendall(piece)
        except OSError:
            pass
        else:
            (told,) = (orjson.loads(line) for line in answer_of(rest(connection)).content.splitlines())
            assert told["error"] == "too_large"
    assert running.memory() - before < 20_000_000


def test_nothing_of_all_this_was_a_mistake_of_ours(running: Running) -> None:
    assert [line for line in running.lines() if line["event"] == "internal" or line.get("status", 0) >= 500] == []
