"""Large pages change how fast memory is read, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from vecmeta.index import graph, pages
from vecmeta.index.faiss_index import FaissIndex
from vecmeta.index.pages import PAGE, PIECE, enlarge, pieces


def test_pieces_are_whole_pages_inside() -> None:
    for size in (100, PAGE, 3 * PAGE + 17, 2 * PIECE + 5 * PAGE):
        memory = np.arange(size, dtype=np.uint8)
        start, end = memory.ctypes.data, memory.ctypes.data + size
        found = pieces(memory)
        assert sum(length for _, length in found) >= size - 2 * PAGE
        at = None
        for address, length in found:
            assert start <= address
            assert address + length <= end
            assert address % PAGE == length % PAGE == 0
            assert 0 < length <= PIECE
            assert at is None or address == at
            at = address + length


def test_what_is_there_stays() -> None:
    memory = np.random.default_rng(0).integers(0, 256, 9 * PAGE, dtype=np.uint8)
    before = memory.copy()
    for piece in pieces(memory):
        enlarge(*piece)
    assert (memory == before).all()
    enlarge(0, PAGE)  # nobody's memory: the system says no, and nothing happens


def test_a_graph_is_put_there_once_and_again_when_it_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 4096)
    monkeypatch.setattr(pages, "PIECE", 16 * 4096)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(graph, "enlarge", lambda *piece: asked.append(piece))
    x = np.random.default_rng(0).normal(size=(6000, 64)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = FaissIndex(64, hnsw_from=1000)
    index.add(np.arange(2000), x[:2000])
    assert not asked
    index.settle()
    assert sum(length for _, length in asked) > 0.9 * 2000 * (64 + 32) * 4
    count = len(asked)
    index.settle()
    assert len(asked) == count
    index.add(np.arange(2000, 6000), x[2000:])  # more than memory that was doubled has room for
    index.settle()
    assert len(asked) > count
    assert (index.search(x[:50], 1)[1][:, 0] == np.arange(50)).all()
