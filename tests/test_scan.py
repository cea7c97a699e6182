"""Exact search in numpy against sorting all scores."""

from __future__ import annotations

import numpy as np
import pytest

from vecmeta.index import scan
from vecmeta.index.scan import merged, top_k
from vecmeta.types import Keys, Mask, Vectors


def rows_of(n: int, dim: int, seed: int = 0) -> Vectors:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def expected(queries: Vectors, rows: Vectors, k: int, mask: Mask | None) -> Vectors:
    scores = np.asarray(queries @ rows.T, np.float32)
    if mask is not None:
        scores = scores[:, mask]
    return -np.sort(-scores, axis=1)[:, :k]


@pytest.mark.parametrize("share", [None, 0.02, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    ("queries", "n", "k"), [(1, 1, 1), (1, 3000, 10), (7, 40, 40), (7, 3001, 10), (40, 2500, 1), (5, 2047, 60)]
)
def test_the_best_are_those_of_sorting(queries: int, n: int, k: int, share: float | None) -> None:
    rows, asked = rows_of(n, 24), rows_of(queries, 24, 1)
    mask = None if share is None else np.random.default_rng(2).random(n) < share
    if mask is not None and not mask.any():
        mask[0] = True
    k = k if mask is None else min(k, int(mask.sum()))
    scores, found = top_k(asked, rows, k, mask)
    np.testing.assert_allclose(scores, expected(asked, rows, k, mask), atol=1e-6)
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", asked, rows[found]), scores, atol=1e-6)
    assert all(len(set(places)) == k for places in found.tolist())
    assert mask is None or mask[found].all()


def odd(rows: Vectors) -> Vectors:
    """The same numbers at an address that is no multiple of four, as in a mapped file."""
    memory = np.empty(rows.nbytes + 2, np.uint8)[2:]
    memory[:] = rows.view(np.uint8).ravel()
    moved: Vectors = memory.view(np.float32).reshape(rows.shape)
    assert not moved.flags.aligned
    return moved


@pytest.mark.parametrize("share", [None, 0.1, 0.8])
@pytest.mark.parametrize("queries", [1, 20])
def test_rows_at_odd_addresses_are_scored_as_others_are(queries: int, share: float | None) -> None:
    rows, asked = rows_of(5000, 24), rows_of(queries, 24, 1)
    mask = None if share is None else np.random.default_rng(2).random(len(rows)) < share
    scores, found = top_k(asked, odd(rows), 10, mask)
    np.testing.assert_array_equal(found, top_k(asked, rows, 10, mask)[1])
    np.testing.assert_allclose(scores, expected(asked, rows, 10, mask), atol=1e-6)


def test_many_equal_scores_leave_none_out() -> None:
    rows = np.tile(rows_of(3, 8), (700, 1))
    scores, found = top_k(rows[:3], rows, 200)
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    assert all(len(set(places)) == 200 for places in found.tolist())


@pytest.mark.parametrize(
    "rows", [np.tile(rows_of(1, 8), (5000, 1)), np.tile(rows_of(100, 8), (50, 1))], ids=["all equal", "copies"]
)
@pytest.mark.parametrize("first", [0, 4000])
def test_equal_scores_and_rows_that_do_not_count(rows: Vectors, first: int) -> None:
    """A filter that lets through what came late alone leaves nothing of the first rows, which are scored all the same."""
    mask = np.arange(len(rows)) >= first
    mask[: len(rows) // 2] |= np.arange(len(rows) // 2) % 2 == 0  # half of all at least, so that all are scored in a row
    asked = rows_of(20, 8, 1)
    scores, found = top_k(asked, rows, 10, mask)
    np.testing.assert_allclose(scores, expected(asked, rows, 10, mask), atol=1e-6)
    assert mask[found].all()
    assert all(len(set(places)) == 10 for places in found.tolist())


@pytest.mark.parametrize("share", [None, 0.02, 0.8])
@pytest.mark.parametrize(("held", "tall"), [(10_000, 16_384), (2000, 70), (1, 1)])
def test_more_scores_than_fit_are_made_in_turns(
    held: int, tall: int, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, asked = rows_of(1003, 8), rows_of(9, 8, 1)
    mask = None if share is None else np.random.default_rng(2).random(len(rows)) < share
    monkeypatch.setattr(scan, "SCORES", held)
    monkeypatch.setattr(scan, "TALL", tall)
    made: list[int] = []
    plain = scan._scores

    def counted(queries: Vectors, rows: Vectors, at: Keys | None) -> Vectors:
        scores = plain(queries, rows, at)
        made.append(scores.size)
        return scores

    monkeypatch.setattr(scan, "_scores", counted)
    for k in (1, 15):
        scores, found = top_k(asked, rows, k, mask)
        np.testing.assert_allclose(scores, expected(asked, rows, k, mask), atol=1e-6)
        np.testing.assert_allclose(np.einsum("qd,qkd->qk", asked, rows[found]), scores, atol=1e-6)
        assert mask is None or mask[found].all()
    assert max(made) <= held
    assert top_k(asked[:0], rows, 3, mask)[1].shape == (0, 3)


def test_rows_that_count_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copied, take = list[int](), np.take

    def counted(rows: Vectors, places: Vectors, **given: object) -> Vectors:
        copied.append(len(places))
        return take(rows, places, **given)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(np, "take", counted)
    rows = rows_of(100_000, 8)
    top_k(rows_of(100, 8, 1), rows, 10, np.arange(len(rows)) % 10 == 0)
    assert sum(copied) == 10_000


def test_parts_are_merged_best_first() -> None:
    parts = [(np.array([[0.9, 0.1]], np.float32), np.array([[4, 2]])), (np.array([[0.5]], np.float32), np.array([[7]]))]
    scores, rows = merged(parts, 2)
    assert rows.tolist() == [[4, 7]]
    np.testing.assert_allclose(scores, [[0.9, 0.5]])
