"""Moving a collection: what arrives is what left, whichever databases lie between, and nothing half-way ever does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import vecmeta as vm
from tests.conftest import Clusters, WordCounter
from tests.test_finetuning import QUICK, filled
from tests.tinymodels import tiny_text
from vecmeta.catalogue.tables import metadata
from vecmeta.catalogue.transfer import PARTS, TUNED
from vecmeta.cli import program
from vecmeta.moving import saving, sheets

ODD = {"none": None, "big": 10**30, "float": 1e22, "whole": 1.0, "nul": "a\0b\x01", "nested": {"a": [1, "ü", {}]}, "": 0}
SMALL = Clusters(concepts=12, members=12, dim=24, seed=5)
OUTSIDE = "../../elsewhere"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vm.Database]:
    """Two collections, one of them adapted twice and rolled back, with feedback of every kind."""
    with vm.open(tmp_path_factory.mktemp("home"), device="cpu") as db:
        words = db.create("words", encoder=WordCounter())
        words.add([vm.Item("a", "red cat", ODD), vm.Item("Ü 2", "green\0dog", {}), vm.Item("gone", "blue", {})])
        words.feedback(
            [
                vm.Judgement("a", concept="ca\0ts", user="me"),
                vm.Judgement("a", query="red", score=0.5),
                vm.Judgement("Ü 2", query="red", score=-1),
                vm.similar("a", "Ü 2"),
            ]
        )
        words.delete(["gone"])
        words.set_policy(vm.Policy(auto_adapt=7, debounce=3.5))
        own = db.create("own", encoder="vectors", dim=SMALL.dim)
        own.add_vectors(SMALL.ids, SMALL.x, [{"label": int(label)} for label in SMALL.label])
        own.feedback(SMALL.judgements(range(4), 4))
        for seed in (0, 1):
            own.activate(own.adapt(seed=seed, activate=False).version or 0)
        own.rollback()
        own.traffic.searched({1: 5, 2: 3})
        own.traffic.clicked("one", 1, SMALL.ids[0], 2)
        yield db


@pytest.fixture(scope="module")
def exported(home: vm.Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    assert home.export_to(folder) == {"own": len(SMALL.ids), "words": 2}
    return folder


def told(db: vm.Database, name: str) -> dict[str, Any]:
    """All that can be seen of a collection."""
    c = db.collection(name)
    rng = np.random.default_rng(3)
    asked = rng.normal(size=(4, c.dim))
    words = name == "words"  # whose encoder its maker alone has
    return {
        "items": c.items(limit=1000),
        "versions": c.versions(),
        "reports": [c.report(v.number) for v in c.versions() if v.number],
        "judgements": [(j.item, j.concept, str(j.query), j.score, j.user, j.time) for j in c.judgements()],
        "policy": c.policy,
        "outcomes": c.traffic.outcomes(),
        "about": (c.name, c.dim, c.encoder_name, c.row.spec, c.row.created),
        "hits": [
            [(hit.id, round(hit.score, 5)) for hit in hits]
            for version in (None, 0, *(v.number for v in c.versions()))
            for hits in ([] if words else c.search_many(list(asked), 8, version=version))
        ],
        "live": c.live,
    }


def test_the_round_trip(home: vm.Database, exported: Path, tmp_path: Path, postgres_url: str) -> None:
    with vm.open(postgres_url, device="cpu") as far, vm.open(tmp_path / "back", device="cpu") as back:
        assert far.import_from(exported) == {"own": len(SMALL.ids), "words": 2}
        assert far.export_to(tmp_path / "again") == {"own": len(SMALL.ids), "words": 2}
        assert back.import_from(tmp_path / "again") == {"own": len(SMALL.ids), "words": 2}
        for name in ("own", "words"):
            assert told(far, name) == told(home, name)
            assert told(back, name) == told(home, name)
        for db in (far, back):
            own = db.collection("own")
            assert (own.live, own.rollback()) == (1, 0)  # the way back goes on where it was
            again = own.adapt(dry_run=True)
            assert again.metrics == home.collection("own").adapt(dry_run=True).metrics
            own.add_vectors(["late"], SMALL.x[:1])
            assert {hit.id for hit in own.search(SMALL.x[0], 2)} == {"late", SMALL.ids[0]}
            words = db.collection("words", encoder=WordCounter())
            assert words.search("cat", 1)[0].metadata == ODD


def test_a_part_of_it_and_another_name(exported: Path, tmp_path: Path) -> None:
    with vm.open(tmp_path, device="cpu") as db:
        assert db.import_from(exported, ["own"], rename={"own": "mine"}) == {"mine": len(SMALL.ids)}
        assert db.collections() == ["mine"]
        with pytest.raises(vm.AlreadyExists, match="a collection 'mine' already"):
            db.import_from(exported, ["own"], rename={"own": "mine"})
        with pytest.raises(vm.CollectionNotFound, match="no collection 'ours'; it has: own, words"):
            db.import_from(exported, ["ours"])
        with pytest.raises(vm.InvalidConfig, match="both become 'x'"):
            db.import_from(exported, rename={"own": "x", "words": "x"})
        with pytest.raises(vm.InvalidConfig, match="no name for a collection"):
            db.import_from(exported, rename={"own": "../x"})
        assert db.collections() == ["mine"]


def test_every_table_moves_or_is_known_to_stay() -> None:
    stay = {"jobs", "keys", "splits", "identity", "tombstones", "indexes"}  # of the database or of the moment
    moved = {"collections", "items", "encodings"} | {table.name for table in (*PARTS, *TUNED)}
    assert set(metadata.tables) == stay | moved


# -- fine-tuned encoders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[vm.Database]:
    """A collection whose encoder was fine-tuned, adapted on top of that, and judged by a text."""
    top = tmp_path_factory.mktemp("tuned")
    with vm.open(top / "db", device="cpu") as db:
        docs = filled(db, tiny_text(top / "model"))
        report = docs.finetune("features", field="topic", config=QUICK)
        assert report.decision == "promoted", report.reason
        docs.feedback([vm.Judgement("i0", query="bread and a song"), vm.Judgement("i30", query="bread and a song", score=-1)])
        docs.feedback([vm.Judgement(f"i{n}", concept=f"topic {n // 25}") for n in range(0, 200, 4)])
        docs.activate(docs.adapt(strength=0.5, activate=False).version or 0)
        assert docs.live == 2
        docs.add([vm.Item("changed", "an old guitar")])
        docs.activate(0)
        docs.add([vm.Item("changed", "a new tiger")])  # what the fine-tuned encoder made of it does not count any more
        yield db


def of_tuned(db: vm.Database, name: str = "docs") -> dict[str, Any]:
    """All that can be seen of that collection, by whichever of its encoders."""
    c = db.collection(name)
    queries: list[Any] = ["guitar and rain", "a big bank", vm.Id("i7")]
    return {
        "items": c.items(limit=1000),
        "versions": c.versions(),
        "reports": [c.report(version.number) for version in c.versions() if version.number],
        "judgements": [(j.item, j.concept, str(j.query), j.score, j.time) for j in c.judgements()],
        "hits": [
            [(hit.id, round(hit.score, 5)) for hit in hits]
            for version in (None, *(version.number for version in c.versions()))
            for hits in c.search_many(queries, 8, version=version)
        ],
        "live": c.live,
    }


def known_vectors(c: vm.Collection) -> tuple[int, int]:
    """Of how many items and judged queries the vectors by the fine-tuned encoder are there, without encoding any."""
    number = c._versions.encoder(1)
    store = c._spaces.store
    return len(store.encoded(number, c._items.keys().tolist())), len(store.queries(number))


def test_fine_tuned_encoders_move_with_their_vectors(tuned: vm.Database, tmp_path: Path, postgres_url: str) -> None:
    assert known_vectors(tuned.collection("docs")) == (200, 1)
    tuned.export_to(tmp_path / "out", ["docs"])
    with vm.open(postgres_url, device="cpu", files=tmp_path / "files") as far, vm.open(tmp_path / "back", device="cpu") as back:
        far.create("other", encoder="vectors", dim=2)  # so that numbers differ
        assert far.import_from(tmp_path / "out") == {"docs": 201}
        assert known_vectors(far.collection("docs")) == (200, 1)
        far.export_to(tmp_path / "again", ["docs"])
        assert back.import_from(tmp_path / "again", rename={"docs": "mine"}) == {"mine": 201}
        assert known_vectors(back.collection("mine")) == (200, 1)
        wanted = of_tuned(tuned)
        assert wanted["versions"][1].encoder != wanted["versions"][0].encoder
        assert of_tuned(far) == wanted
        assert of_tuned(back, "mine") == wanted
        mine = back.collection("mine")
        assert (mine.rollback(), mine.rollback()) == (2, 1)
        mine.add([vm.Item("late", "tennis and football")])
        assert "late" in {hit.id for hit in mine.search("tennis and football", 3)}
        back.drop("mine")
        assert list((tmp_path / "back" / "encoders").iterdir()) == []


def test_an_export_without_an_encoders_folder_is_refused(tuned: vm.Database, tmp_path: Path) -> None:
    (home,) = (tuned.folder / "encoders").iterdir()
    away = home.rename(tmp_path / "away")
    try:
        with pytest.raises(vm.EncoderUnavailable, match="is missing; restore that folder, then export"):
            tuned.export_to(tmp_path / "out")
    finally:
        away.rename(home)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("how", ["a byte", "gone", "outside", "another", "reference", "no folder"])
def test_a_damaged_or_forged_encoder_changes_nothing(tuned: vm.Database, tmp_path: Path, how: str) -> None:
    tuned.export_to(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    one = about["collections"]["docs"]
    weights = next(path for path in one["files"] if path.endswith(".safetensors") and "/encoders/" in path)
    if how in ("a byte", "gone"):
        blob = bytearray((tmp_path / "out" / weights).read_bytes())
        (tmp_path / "out" / weights).unlink()
        if how == "a byte":
            blob[-1] ^= 1
            (tmp_path / "out" / weights).write_bytes(blob)
    else:
        if how in ("outside", "no folder"):
            one["encoders"] = [OUTSIDE if how == "outside" else "nothing"]
            (tmp_path / "out" / "manifest.json").write_text(json.dumps(about))
        path = tmp_path / "out" / "docs" / ("encodings.parquet" if how == "reference" else "encoders.parquet")
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[0] |= {"id": "nobody"} if how == "reference" else {"folder": OUTSIDE} if how in ("outside", "another") else {}
        pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
        sealed_again(tmp_path / "out")
    with vm.open(tmp_path / "db", device="cpu") as db:
        with pytest.raises(vm.StorageDamaged):
            db.import_from(tmp_path / "out")
        assert db.collections() == []
        assert not any((tmp_path / "db" / "encoders").glob("*"))
        assert not (tmp_path / "db" / "encoders" / OUTSIDE).exists()


def test_exports_of_before_can_be_read(exported: Path, tmp_path: Path) -> None:
    """Format 1, which knew nothing of fine-tuned encoders."""
    shutil.copytree(exported, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    about["format"] = 1
    for one in about["collections"].values():
        del one["encoders"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(about))
    with vm.open(tmp_path / "db", device="cpu") as db:
        assert db.import_from(tmp_path / "out") == {"own": len(SMALL.ids), "words": 2}


def test_others_can_read_it(exported: Path) -> None:
    table = pq.read_table(exported / "own" / "items-00000.parquet")
    assert table.column("id").to_pylist() == SMALL.ids
    assert np.allclose(np.stack(table.column("vector").to_numpy()), SMALL.x, atol=1e-6)
    assert [json.loads(about)["label"] for about in table.column("metadata").to_pylist()] == SMALL.label.tolist()


def test_many_parts_and_an_empty_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PART", 50)
    seen: list[tuple[str, int, int]] = []
    with vm.open(tmp_path / "a", device="cpu") as db, vm.open(tmp_path / "b", device="cpu") as other:
        db.create("empty", encoder="vectors", dim=3)
        c = db.create("c", encoder="vectors", dim=SMALL.dim)
        c.add_vectors(SMALL.ids, SMALL.x)
        db.export_to(tmp_path / "out", progress=lambda *told: seen.append(told))
        assert [path.name for path in sorted((tmp_path / "out" / "c").glob("items*"))] == [
            f"items-0000{n}.parquet" for n in range(3)
        ]
        assert seen == [("items", n, 144) for n in (50, 100, 144)]
        assert other.import_from(tmp_path / "out") == {"c": 144, "empty": 0}
        assert told(other, "c") == told(db, "c")
        assert other.collection("empty").search([1, 0, 0], 3) == []


def damaged(folder: Path, how: str) -> None:
    path = folder / "own" / "items-00000.parquet"
    if how == "a byte":
        blob = bytearray(path.read_bytes())
        blob[len(blob) // 2] ^= 1
        path.write_bytes(blob)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif how == "gone":
        (folder / "own" / "heads" / "v1.safetensors").unlink()
    elif how == "manifest":
        (folder / "manifest.json").write_text("{")
    elif how == "outside":
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace("own/clicks.parquet", "../../etc/passwd"))


@pytest.mark.parametrize("how", ["a byte", "cut", "gone", "manifest", "outside"])
def test_a_damaged_export_changes_nothing(exported: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(exported, tmp_path / "out")
    damaged(tmp_path / "out", how)
    with vm.open(tmp_path / "db", device="cpu") as db:
        with pytest.raises(vm.StorageDamaged):
            db.import_from(tmp_path / "out")
        assert db.collections() == []


def sealed_again(folder: Path) -> None:
    """As somebody would who changes files on purpose."""
    about = json.loads((folder / "manifest.json").read_text())
    for one in about["collections"].values():
        for path in one["files"]:
            seal = sheets.sealed(folder / path)
            one["files"][path] = {"bytes": seal.bytes, "sha256": seal.sha256}
    (folder / "manifest.json").write_text(json.dumps(about))


@pytest.mark.parametrize("what", ["long", "nan", "metadata", "id", "head", "count", "reference"])
def test_a_forged_export_changes_nothing(exported: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "out"
    shutil.copytree(exported, folder)
    path = folder / "own" / ("judgements.parquet" if what == "reference" else "items-00000.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    if what in ("long", "nan"):
        rows[5]["vector"] = [3.0 if what == "long" else float("nan")] * SMALL.dim
    elif what == "metadata":
        rows[5]["metadata"] = "[]"
    elif what == "id":
        rows[5]["id"] = ""
    elif what == "reference":
        rows[3] |= {"query": 77, "concept": None}
    elif what == "count":
        rows.pop()
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    if what == "head":
        (folder / "own" / "heads" / "v2.safetensors").write_bytes(b"no head")
    sealed_again(folder)
    with vm.open(tmp_path / "db", device="cpu") as db:
        with pytest.raises((vm.StorageDamaged, vm.InvalidItem)):
            db.import_from(folder)
        assert db.collections() == []


def test_what_is_no_export(exported: Path, tmp_path: Path, home: vm.Database) -> None:
    with vm.open(tmp_path / "db", device="cpu") as db:
        with pytest.raises(vm.InvalidInput, match=r"has no manifest\.json"):
            db.import_from(tmp_path)
        later = shutil.copytree(exported, tmp_path / "later") / "manifest.json"
        later.write_text(later.read_text().replace('"format": 2', '"format": 3'))
        with pytest.raises(vm.InvalidInput, match="format 3"):
            db.import_from(tmp_path / "later")
        assert db.collections() == []
    with pytest.raises(vm.AlreadyExists, match="is there already"):
        home.export_to(exported)
    with pytest.raises(vm.CollectionNotFound):
        home.export_to(tmp_path / "none", ["missing"])
    (tmp_path / "file").write_text("")
    with pytest.raises(vm.StorageError):
        home.export_to(tmp_path / "file" / "out")


def test_a_cancelled_move_leaves_nothing(home: vm.Database, exported: Path, tmp_path: Path) -> None:
    def cancel(stage: str, done: int, total: int) -> None:
        if stage == "items":
            raise vm.Cancelled

    with pytest.raises(vm.Cancelled):
        home.export_to(tmp_path / "out", progress=cancel)
    assert list(tmp_path.iterdir()) == []
    with vm.open(tmp_path / "db", device="cpu") as db:
        with pytest.raises(vm.Cancelled):
            db.import_from(exported, progress=cancel)
        assert db.collections() == []


def test_the_commands(home: vm.Database, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(program, [*words, "--device", "cpu"])

    done = run("export", str(tmp_path / "out"), "own", "--data", home.url)
    assert (done.exit_code, done.stdout) == (0, f"own: 144 items exported to {tmp_path / 'out'}\n")
    done = run("import", str(tmp_path / "out"), "own", "--as", "mine", "--data", str(tmp_path / "db"), "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"mine": 144})
    done = run("import", str(tmp_path / "out"), "--as", "mine", "--data", str(tmp_path / "db"))
    assert done.exit_code == 2
    done = run("import", str(tmp_path / "nothing"), "--data", str(tmp_path / "db"))
    assert done.exit_code == 1
    assert "is not a folder that" in done.stderr
