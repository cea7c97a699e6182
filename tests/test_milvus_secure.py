"""A real Milvus that speaks TLS alone and asks who is there: who is let in, and what everybody else is told."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vecmeta as vm
from tests import realmilvus
from tests.conftest import Clusters
from tests.test_milvus import named, shelf, there

pytestmark = pytest.mark.timeout(1200)  # another process that tests may have the one Milvus server first
ROOT_USER = "root:Milvus"  # whom a new server knows
NAMED = "milvus.test"  # in the server's certificate, besides 127.0.0.1
ONE_WAY, MUTUAL = 1, 2  # common.security.tlsMode: the server shows a certificate; the client as well


@dataclass(frozen=True)
class Authority:
    """Who signs certificates: PEM files in a folder."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @classmethod
    def made(cls, folder: Path) -> Authority:
        folder.mkdir()
        authority = cls(folder)
        authority._openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=tests")
        return authority

    def sign(self, name: str, *names: str) -> tuple[Path, Path]:
        """A certificate and its key, for those names."""
        self._openssl(f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={','.join(names)}\n" if names else "")
        self._openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, said: str) -> None:
        subprocess.run(["openssl", *said.split()], cwd=self.folder, check=True, capture_output=True)


@dataclass(frozen=True)
class Secured:
    """A server, by mode of TLS, and what belongs to it."""

    mode: int
    port: int
    ours: Authority
    others: Authority
    client: tuple[Path, Path]

    def index(self, token: str = ROOT_USER, host: str = "127.0.0.1", database: str = "", **options: Any) -> str:
        """The address, with all that it takes to get in unless `options` say otherwise; None leaves one out."""
        cert, key = self.client if self.mode == MUTUAL else (None, None)
        told = {"ca": self.ours.ca, "cert": cert, "key": key, "prefix": "secure", **options}
        said = "&".join(f"{name}={value}" for name, value in told.items() if value is not None)
        return f"https://{token}@{host}:{self.port}/{database}?{said}"


@pytest.fixture(scope="module", params=[ONE_WAY, MUTUAL], ids=["one way", "mutual"])
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    try:
        ours, others = Authority.made(folder / "ours"), Authority.made(folder / "others")
    except FileNotFoundError:
        pytest.skip("openssl is not installed, which makes the certificates (Debian: apt-get install openssl)")
    cert, key = ours.sign("server", f"DNS:{NAMED}", "IP:127.0.0.1")
    client = ours.sign("client")
    settings = {
        "tls_mode": request.param, "server_pem_path": str(cert), "server_key_path": str(key), "ca_pem_path": str(ours.ca),
        "authorization_enabled": True,
    }  # fmt: skip
    with realmilvus.running(folder / "milvus", **settings) as server:
        yield Secured(request.param, int(server.uri.rpartition(":")[2]), ours, others, client)


@pytest.fixture
def opened(tmp_path: Path, clusters: Clusters) -> Iterator[Callable[[str], vm.Collection]]:
    """A collection of a new database with an index at an address; what it made there is dropped in the end."""
    databases = list[vm.Database]()

    def made(index: str) -> vm.Collection:
        databases.append(vm.open(tmp_path / str(len(databases)), index=index, device="cpu"))
        c = databases[-1].create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(
            clusters.ids[:50], clusters.x[:50], [{"n": n} for n in range(50)]
        )  # taken even where the index is out of reach
        assert c.count() == 50
        return c

    yield made
    for db in databases:
        db.drop("c")
        db.close()


def served(c: vm.Collection, clusters: Clusters) -> None:
    """What is asked is answered."""
    assert c.search(clusters.x[3], 1)[0].id == clusters.ids[3]
    assert [hit.id for hit in c.search(clusters.x[3], 5, where={"n": {"$gt": 48}})] == [clusters.ids[49]]
    c.add_vectors(["late"], clusters.x[60:61])
    assert c.search(clusters.x[60], 1)[0].id == "late"


def refused(c: vm.Collection, clusters: Clusters, says: str) -> None:
    """A search is, soon, with a reason and without secrets; and the next one at once."""
    begin = time.monotonic()
    with pytest.raises(vm.IndexUnavailable, match=says) as error:
        c.search(clusters.x[0], 1)
    assert time.monotonic() - begin < 20
    for secret in ("Milvus@", "hush", ROOT_USER):
        assert secret not in str(error.value)


def test_who_has_all_that_it_takes_is_served(
    secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters
) -> None:
    served(opened(secured.index()), clusters)


def test_a_name_in_the_certificate_instead_of_the_host(
    secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters
) -> None:
    served(opened(secured.index(host="localhost", server_name=NAMED)), clusters)
    refused(opened(secured.index(host="localhost")), clusters, "localhost")


def test_a_token_from_the_environment(
    secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECMETA_MILVUS_TOKEN", ROOT_USER)
    served(opened(secured.index().replace(f"{ROOT_USER}@", "")), clusters)


@pytest.mark.parametrize("token", ["root:hush", "nobody:hush", ""])
def test_a_wrong_token(secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters, token: str) -> None:
    index = secured.index(token) if token else secured.index().replace(f"{ROOT_USER}@", "")
    refused(opened(index), clusters, "does not accept the token")


def test_an_authority_that_did_not_sign_it(secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters) -> None:
    refused(opened(secured.index(ca=secured.others.ca)), clusters, "certificates")
    refused(opened(secured.index(ca=secured.others.folder / "none.pem")), clusters, r"none\.pem .* no file that can be read")


def test_without_tls(secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters) -> None:
    refused(opened(secured.index(ca=None, cert=None, key=None).replace("https:", "http:")), clusters, "127.0.0.1")


def test_a_client_without_a_certificate_of_its_own(
    secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters
) -> None:
    c = opened(secured.index(cert=None, key=None))
    if secured.mode == ONE_WAY:
        served(c, clusters)
    else:
        refused(c, clusters, "127.0.0.1")


def test_a_database_of_its_own(secured: Secured, opened: Callable[[str], vm.Collection], clusters: Clusters) -> None:
    plain = opened(secured.index())
    served(plain, clusters)
    link = shelf(plain)._link
    refused(opened(secured.index(database="orders")), clusters, "orders")
    link.call("make a database", lambda client: client.create_database("orders"))
    c = opened(secured.index(database="orders", prefix="shop"))  # the one before has been built there meanwhile
    served(c, clusters)
    assert named(c, 0) in there(c) - there(plain)
    assert named(plain, 0) in there(plain) - there(c)
