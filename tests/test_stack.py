"""What runs the whole together: the compose file, the image, and the same processes started by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import vecmeta as vm
from deploy import sizing
from service.settings import Settings
from tests.conftest import Clusters
from tests.postgres import missing
from tests.service_kit import Running, free_port, good, until

ROOT = Path(__file__).parent.parent
SECRETS = ("POSTGRES_PASSWORD", "MILVUS_PASSWORD", "MINIO_PASSWORD")
SMALL = Clusters(concepts=12, members=12, dim=24, seed=5)


def compose() -> list[str]:
    """The command that reads compose files, the plugin or the program of its own; skips the test without one."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("neither `docker compose` nor `docker-compose` is installed (Debian: apt-get install docker-compose)")


def config(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    command = [*compose(), "-f", str(tmp_path / "docker-compose.yml"), "config"]
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **environment}, cwd=tmp_path)


def test_compose_reads_it(tmp_path: Path) -> None:
    done = config(tmp_path, **dict.fromkeys(SECRETS, "s3cret"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert set(yaml.safe_load(done.stdout)["services"]) >= {"api", "postgres", "milvus", "etcd", "minio"}


@pytest.mark.parametrize("lacking", SECRETS)
def test_without_a_password_nothing_starts(tmp_path: Path, lacking: str) -> None:
    for value in ({}, {lacking: ""}):
        done = config(tmp_path, **{name: "s3cret" for name in SECRETS if name != lacking}, **value)
        assert done.returncode != 0
        assert "see .env.example" in done.stderr


def described() -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return told


def test_every_service_is_pinned_limited_watched_and_has_few_rights() -> None:
    services = described()["services"]
    assert set(services) == {"api", "worker-gpu", "postgres", "milvus", "etcd", "minio"}
    for name, one in services.items():
        tag = one["image"].rpartition(":")[2]
        assert re.search(r"\d+[.-]\d+", tag), f"{name} is not pinned: {one['image']}"
        assert one["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in one, name
        assert one["restart"] == "unless-stopped", name
        assert one.get("read_only") is (None if name == "milvus" else True), name
        assert "inside" in one["networks"], name
        assert ("ports" in one) == (name == "api"), name  # the engines are nobody's business
    assert services["api"]["user"] == services["worker-gpu"]["user"] == "10001:10001"
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert described()["networks"]["inside"] == {"internal": True}
    mounted = {volume.split(":")[0] for one in services.values() for volume in one["volumes"]}
    assert mounted == set(described()["volumes"])


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == set(SECRETS)
    assert not re.search(r"\$\{\w*(PASSWORD|SECRET|TOKEN|KEY)\w*(:-|-|\})", text)
    example = (ROOT / ".env.example").read_text("utf-8")
    for name in SECRETS:
        assert re.search(rf"^{name}=$", example, re.MULTILINE)
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        assert f"# {name}={default}\n" in example, name


def test_what_it_sets_can_be_set() -> None:
    known = {f"VECMETA_{name.upper()}" for name in Settings.model_fields} | {"VECMETA_MILVUS_TOKEN"}
    for name in ("api", "worker-gpu"):
        given = {key for key in described()["services"][name]["environment"] if key.startswith("VECMETA_")}
        assert given <= known
    image = (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"(VECMETA_\w+)=", image)) <= known


def test_the_image_has_what_it_takes() -> None:
    image = (ROOT / "Dockerfile").read_text("utf-8")
    sources = [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.MULTILINE) for name in line.split()]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert sources
    for name in sources:
        assert (ROOT / name).exists(), name
        assert name in kept, name
    assert re.search(r"^USER 10001", image, re.MULTILINE)
    extras = re.search(r'"\.\[(.+)\]"', image)
    assert extras is not None
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra


def test_the_sizes_on_paper_are_what_the_arithmetic_gives() -> None:
    assert sizing.table() in (ROOT / "deploy" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["milvus.yaml", "postgres.yaml", "vecmeta.yaml"])
def test_what_is_deployed_can_be_read(name: str) -> None:
    documents = [one for one in yaml.safe_load_all((ROOT / "deploy" / name).read_text("utf-8")) if one]
    assert documents
    text = (ROOT / "deploy" / name).read_text("utf-8")
    assert not re.search(r"(?i)(password|secret_?access_?key|token):\s*['\"]?\w+", text)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, as which the server runs."""
    with tempfile.TemporaryDirectory(prefix="vecmeta-stack-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_the_stack_runs_by_hand(open_folder: Path, tmp_path: Path) -> None:
    why = missing()
    if why is not None:
        pytest.skip(why)
    port = free_port()
    command = [sys.executable, "-m", "tests.stack", "--folder", str(open_folder), "--port", str(port), "--index", "faiss"]
    environment = {**os.environ, "VECMETA_WORKERS": "0", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as stack:
        try:
            assert stack.stdout is not None
            told = json.loads(stack.stdout.readline())
            assert told["service"] == f"http://127.0.0.1:{port}"
            with vm.open(told["VECMETA_DATA"], device="cpu", files=told["VECMETA_FILES"]) as db:
                secret, _ = db.keys.create("tests", ["admin"])
            replica = Running(stack, port, secret, tmp_path, tmp_path)  # type: ignore[arg-type]
            good(replica.ask("POST", "/v1/collections", {"name": "c", "encoder": "vectors", "dim": SMALL.dim}), 201)
            items = [{"id": id, "vector": x.tolist()} for id, x in zip(SMALL.ids, SMALL.x, strict=True)]
            good(replica.ask("PUT", "/v1/collections/c/items", {"items": items}))
            found = good(replica.ask("POST", "/v1/collections/c/search", {"vector": SMALL.x[3].tolist(), "k": 1}))
            assert found["hits"][0]["id"] == SMALL.ids[3]
        finally:
            stack.send_signal(signal.SIGTERM)
            assert stack.wait(60) == 0
    with pytest.raises(vm.StorageUnavailable):  # all of it has ended
        vm.open(told["VECMETA_DATA"], files=tmp_path)
    until((open_folder / "postgres" / "data" / "PG_VERSION").exists)  # and what it held is there
