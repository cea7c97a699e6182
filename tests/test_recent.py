"""Rows kept in memory are never older than what a search knows of."""

from __future__ import annotations

import sqlite3
import threading

import numpy as np
import pytest

import vecmeta as vm
from tests.conftest import Clusters
from vecmeta.catalogue import recent
from vecmeta.errors import StorageError


@pytest.fixture
def own(db: vm.Database, clusters: Clusters) -> vm.Collection:
    c = db.create("own", encoder="vectors", dim=clusters.x.shape[1])
    c.add_vectors(clusters.ids, clusters.x, [{"n": n} for n in range(len(clusters.ids))])
    return c


def test_what_was_found_is_found_again_without_reading(
    own: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = own.search(clusters.x[0], 5)
    monkeypatch.setattr(recent.RecentRows, "_read", lambda *_: pytest.fail("read again"))
    assert own.search(clusters.x[0], 5) == first


def test_hits_are_the_callers_own(own: vm.Collection, clusters: Clusters) -> None:
    own.add_vectors(["nested"], clusters.x[:1], [{"list": [1]}])
    hit = next(hit for hit in own.search(clusters.x[0], 5) if hit.id == "nested")
    hit.metadata["list"].append(2)
    hit.metadata["n"] = "changed"
    again = next(hit for hit in own.search(clusters.x[0], 5) if hit.id == "nested")
    assert again.metadata == {"list": [1]}


def test_writes_and_deletes_are_seen_at_once(own: vm.Collection, db: vm.Database, clusters: Clusters) -> None:
    id = clusters.ids[0]
    with vm.open(db.url, device="cpu") as elsewhere:  # another connection, as another process would have it
        other = elsewhere.collection("own")
        for round in range(5):
            assert own.search(clusters.x[0], 1)[0].id == id
            (other if round % 2 else own).add_vectors([id], clusters.x[:1], [{"round": round}])
            assert own.search(clusters.x[0], 1)[0].metadata == {"round": round}
        other.delete([id])
        assert id not in {hit.id for hit in own.search(clusters.x[0], 5)}


def test_a_write_between_reading_and_keeping_is_not_lost(
    own: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = recent.RecentRows._read
    arrived, go_on = threading.Event(), threading.Event()

    def slow(self: recent.RecentRows, keys: list[int]) -> object:
        found = read(self, keys)
        if threading.current_thread() is not threading.main_thread():
            arrived.set()
            assert go_on.wait(10)
        return found

    monkeypatch.setattr(recent.RecentRows, "_read", slow)
    early = threading.Thread(target=own.search, args=(clusters.x[0], 1))
    early.start()
    assert arrived.wait(10)
    own.add_vectors(clusters.ids[:1], clusters.x[:1], [{"new": True}])
    assert own.search(clusters.x[3], 1)  # the rows are of the new revision now; the first thread still holds the old one
    go_on.set()
    early.join(10)
    assert own.search(clusters.x[0], 1)[0].metadata == {"new": True}


def test_memory_is_bounded(own: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "KEPT", 20)
    for row in clusters.x[:60]:
        assert len(own.search(row, 7)) == 7
    assert len(own._items._recent._rows) <= 20
    own.add_vectors(["long"], clusters.x[:1], [{"text": "x" * 5000}])
    own.search(clusters.x[0], 3)
    assert all(row[0] != "long" for row in own._items._recent._rows.values())


def test_memory_is_bounded_by_what_rows_hold(own: vm.Collection, clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST", 5000)
    kept = own._items._recent
    for turn in range(3):
        own.add_vectors(clusters.ids[:60], clusters.x[:60], [{"text": "x" * (100 + turn)}] * 60)
        for row in clusters.x[:60]:
            assert len(own.search(row, 7)) == 7
        own.delete(clusters.ids[turn * 9 : turn * 9 + 9])
        own.search_many(list(clusters.x[:2]), 2)
        lengths = [len(about) + len(text or "") for _, about, text, _ in kept._rows.values()]
        assert 2000 < sum(lengths) == kept._length <= 5000


def test_numbers_of_any_length_survive(own: vm.Collection, clusters: Clusters) -> None:
    metadata = {"int": 123456789012345678901234567890, "float": 0.1, "text": "\u00e4"}
    own.add_vectors(["n"], np.eye(len(clusters.x[0]))[:1], [metadata])
    assert own.search(vm.Id("n"), 1)
    assert own.get(["n"])[0].metadata == metadata
    assert next(hit for hit in own.search(np.eye(len(clusters.x[0]))[0], 2) if hit.id == "n").metadata == metadata


def test_errors_of_a_glance_are_translated(
    own: vm.Collection, db: vm.Database, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own._versions._engine
    monkeypatch.setitem(engine._compiled, own._versions._state, "SELECT nonsense FROM nowhere")
    with pytest.raises(StorageError, match="no such table") as caught:
        own.search(clusters.x[0], 1)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
