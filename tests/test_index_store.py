"""Saved indexes: whole or not there, through damage, full disks, crashes and other processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecmeta.errors import InvalidConfig, StorageError, StorageFull, StorageReadOnly
from vecmeta.index import open_index, store
from vecmeta.index.protocol import FiledIndex
from vecmeta.index.store import IndexDamagedWarning, load, save

DIM = 8
OPTIONS: dict[str, dict[str, Any]] = {"exact": {}, "faiss": {"hnsw_from": 0}}


@pytest.fixture(params=OPTIONS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filled(kind: str, n: int = 300, seed: int = 0) -> FiledIndex:
    x = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    index = open_index(kind, DIM, **OPTIONS[kind])
    index.add(np.arange(n), x / np.linalg.norm(x, axis=1, keepdims=True))
    return index


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def revision(folder: Path) -> int | None:
    found = load(folder)
    return found[1].revision if found else None


def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    folder, index = tmp_path / "a" / "b", filled(kind)
    assert load(folder) is None
    index.remove(np.arange(10))
    save(index, folder, 7, head="abc", items=3)
    found = load(folder)
    assert found
    again, manifest = found
    assert (manifest.kind, manifest.dim, manifest.count, manifest.revision) == (kind, DIM, 290, 7)
    assert manifest.extra == {"head": "abc", "items": 3}
    np.testing.assert_array_equal(again.keys(), index.keys())
    np.testing.assert_array_equal(again.vectors(again.keys()), index.vectors(index.keys()))
    assert not any(path.suffix in {".pkl", ".pickle"} for path in only(folder).iterdir())
    with pytest.raises(InvalidConfig, match="revision"):
        save(index, folder, -1)


def test_the_newest_stays_and_older_ones_go(tmp_path: Path) -> None:
    index = filled("exact")
    for number in (9, 10, 10):
        save(index, tmp_path, number)
        assert revision(tmp_path) == number
        only(tmp_path)
    save(index, tmp_path, 3)  # older than what is there: not for this call to delete the newer
    assert revision(tmp_path) == 10


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def manifest_says(**changed: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(store._sealed(json.loads(path.read_text())["manifest"] | changed))

    return damage


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("keys.npy", flip),
    ("VECTORS", flip),
    ("VECTORS", lambda path: os.truncate(path, path.stat().st_size // 2)),
    ("VECTORS", lambda path: os.truncate(path, 0)),
    ("VECTORS", Path.unlink),
    ("index.json", Path.unlink),
    ("manifest.json", Path.unlink),
    ("manifest.json", lambda path: path.write_bytes(b"\xff\x00garbage")),
    ("manifest.json", lambda path: path.write_text("[]")),
    ("manifest.json", lambda path: path.write_text("{}")),
    ("manifest.json", manifest_says(kind="annoy")),
    ("manifest.json", manifest_says(dim=DIM + 1)),
    ("manifest.json", manifest_says(format=99)),
    ("manifest.json", flip),
    ("manifest.json", lambda path: path.write_text(path.read_text().replace('"revision": 2', '"revision": 3'))),
    ("manifest.json", manifest_says(files=[])),
    ("manifest.json", manifest_says(surprise=1)),
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_a_damaged_one_is_deleted_with_a_warning_and_the_next_is_used(kind: str, number: int, tmp_path: Path) -> None:
    name, damage = DAMAGE[number]
    save(filled(kind), tmp_path, 1)
    older = only(tmp_path)
    older.rename(tmp_path.with_name("aside"))  # as if a crash had kept the next save from deleting it
    save(filled(kind), tmp_path, 2)
    newest = only(tmp_path)
    tmp_path.with_name("aside").rename(older)
    damage(newest / name.replace("VECTORS", "vectors.npy" if kind == "exact" else "graph.faiss"))
    with pytest.warns(IndexDamagedWarning, match="deleted the damaged index"):
        assert revision(tmp_path) == 1
    assert not newest.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert revision(tmp_path) == 1


def test_nothing_is_left_when_all_are_damaged(kind: str, tmp_path: Path) -> None:
    save(filled(kind), tmp_path, 2)
    flip(only(tmp_path) / "keys.npy")
    with pytest.warns(IndexDamagedWarning):
        assert load(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageReadOnly),
        (errno.EACCES, StorageReadOnly),
        (errno.EIO, StorageError),
    ],
)
@pytest.mark.parametrize("where", ["write", "sync", "rename"])
def test_a_failed_save_leaves_what_was_there(
    kind: str, number: int, error: type[StorageError], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(filled(kind), tmp_path, 1)
    index = filled(kind, seed=1)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    if where == "write":
        monkeypatch.setattr(index, "dump", fail)
    elif where == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(error, match="cannot save the index") as caught:
        save(index, tmp_path, 2)
    assert type(caught.value) is error
    monkeypatch.undo()
    assert only(tmp_path).name.startswith("r1-")
    assert revision(tmp_path) == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_index_store import filled
from vecmeta.errors import StorageFull
from vecmeta.index.store import load, save
folder, kind = Path(sys.argv[1]), sys.argv[2]
save(filled(kind), folder, 1)
big = filled(kind, 20_000 if kind == "exact" else 3000)
for limit in (0, 100, 30_000, 90_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(big, folder, 2)
    except StorageFull:
        pass
    else:
        raise SystemExit("the limit was not met")
    (path,) = folder.iterdir()
    assert load(folder)[1].revision == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
save(big, folder, 2)
assert load(folder)[1].revision == 2
"""


def test_a_disk_that_is_full_for_real(kind: str, tmp_path: Path) -> None:
    run(FULL_DISK, tmp_path, kind, Path(__file__).parent)


def run(code: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_faiss_keeps_the_reason_why_a_write_failed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, opened = filled("faiss"), Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(self, mode, *args, **kwargs)
        if self.name == "graph.faiss" and "w" in mode:

            class Full:
                def __enter__(self) -> Full:
                    return self

                def __exit__(self, *reason: object) -> None:
                    file.close()

                def write(self, data: bytes) -> int:
                    raise OSError(number, os.strerror(number))

            return Full()
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageFull if number == errno.ENOSPC else StorageError, match=os.strerror(number)):
        save(index, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled("exact")

    def interrupt(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "dump", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(index, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_crashed_processes_left_is_swept_after_an_hour(tmp_path: Path) -> None:
    save(filled("exact"), tmp_path, 1)
    for name in (".tmp-old", ".gone-old", ".tmp-new", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    for name in (".tmp-old", ".gone-old", "notes"):
        os.utime(tmp_path / name, (time.time() - 4000, time.time() - 4000))
    assert revision(tmp_path) == 1
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("r1-")}
    assert left == {".tmp-new", "notes"}


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot load the index"):
        load(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot save the index"):
        save(filled("exact"), tmp_path / "file", 1)


def test_one_that_another_process_deletes_under_our_eyes_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(filled("exact"), tmp_path, 1)
    checksum = store._checksum

    def beaten(path: Path) -> tuple[int, int]:
        if path.parent.name.startswith("r1-"):
            monkeypatch.setattr(store, "_checksum", checksum)
            save(filled("exact"), tmp_path, 2)
        return checksum(path)

    monkeypatch.setattr(store, "_checksum", beaten)
    assert revision(tmp_path) == 2


WORKER = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
sys.path.insert(0, sys.argv[3])
from test_index_store import filled
from vecmeta.index.store import load, save
folder, kind = Path(sys.argv[1]), sys.argv[2]
index, last = filled(kind), -1
for number in range(60):
    save(index, folder, number)
    found = load(folder)
    assert found is not None and found[1].revision >= max(last, number), (found, last, number)
    assert len(found[0]) == 300
    last = found[1].revision
"""


def test_two_processes_save_and_load_side_by_side(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path), kind, str(Path(__file__).parent)]
    workers = [subprocess.Popen(command, cwd=Path(__file__).parents[1]) for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert revision(tmp_path) == 59
    only(tmp_path)


def test_a_save_that_comes_too_late_leaves_the_newer_one_alone(tmp_path: Path) -> None:
    save(filled("exact"), tmp_path, 5)
    save(filled("exact"), tmp_path, 3)
    assert revision(tmp_path) == 5
    only(tmp_path)
