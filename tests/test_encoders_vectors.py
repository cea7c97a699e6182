"""Own vectors: what is accepted, what is refused and how it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vecmeta.encoders import open_encoder
from vecmeta.encoders.parts import AT_ONCE, encoded
from vecmeta.encoders.vectors import VectorEncoder, unit_rows
from vecmeta.errors import InvalidConfig, InvalidVector

NAN, INF = float("nan"), float("inf")


@given(arrays(np.float64, (3, 4), elements=st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-300)))
@settings(max_examples=60, deadline=None)
def test_rows_have_length_one_and_keep_their_direction(rows: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    rows[:, 0] = np.where(np.abs(rows).max(axis=1) == 0, 1.0, rows[:, 0])
    units = unit_rows(rows, 4)
    np.testing.assert_allclose(np.linalg.norm(units.astype(np.float64), axis=1), 1, atol=1e-6)
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)
    np.testing.assert_allclose(units, scaled / np.linalg.norm(scaled, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint8, np.int64, np.bool_, ">f4"]
)
def test_every_real_type(dtype: Any) -> None:
    units = unit_rows(np.array([[3, 4], [0, 1]]).astype(dtype), 2)
    assert units.dtype == np.float32
    assert units.flags.c_contiguous
    np.testing.assert_allclose(units[1], [0, 1])


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-38, 1e-45])
def test_huge_and_tiny_float32(scale: float) -> None:
    np.testing.assert_allclose(unit_rows(np.full((2, 4), scale, np.float32), 4), 0.5)


def test_extreme_rows_do_not_disturb_their_neighbours() -> None:
    rows = np.array([[3.0, 4.0], [1e300, 1e300], [1e-300, 0], [5e-324, 0]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(unit_rows(rows, 2), [[0.6, 0.8], [half, half], [1, 0], [1, 0]], rtol=1e-6)


def test_the_argument_is_left_as_it_is() -> None:
    for dtype in (np.float32, np.float64):
        rows = np.array([[3, 4], [1, 0]], dtype)
        rows.flags.writeable = False
        kept = rows.copy()
        units = unit_rows(rows, 2)
        np.testing.assert_array_equal(rows, kept)
        assert not np.shares_memory(units, rows)


def test_what_counts_as_an_array() -> None:
    import torch

    expected = np.array([[0.6, 0.8], [1, 0]], np.float32)
    backwards = np.array([[3, 1], [4, 0]], np.float32).T  # Fortran order
    alike: list[Any] = [[[3, 4], [1, 0]], ([3, 4], np.array([1.0, 0.0])), backwards, torch.tensor([[3.0, 4.0], [1.0, 0.0]])]
    for rows in alike:
        np.testing.assert_allclose(unit_rows(rows, 2), expected, rtol=1e-6)


def test_none_at_all() -> None:
    empties: list[Any] = [[], np.empty((0, 3)), np.empty((0,))]
    for empty in empties:
        assert unit_rows(empty, 3).shape == (0, 3)


def test_several_blocks() -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 384)).astype(np.float32)
    np.testing.assert_allclose(unit_rows(rows, 384), rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)
    rows[4321, 5] = np.nan
    with pytest.raises(InvalidVector, match="vector 4321 holds NaN"):
        unit_rows(rows, 384)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 2, 3], [1, 2]], "vector 1 has 2 dimensions, not 3"),
        (np.ones((2, 5)), "vector 0 has 5 dimensions, not 3"),
        ([[1, 2, 3], [1, 2, NAN]], "vector 1 holds NaN"),
        ([[1, 2, INF]], "vector 0 holds infinity"),
        ([[1, 2, 3], [INF, NAN, 0]], "vector 1 holds NaN"),
        ([[1, 2, 3], [0, 0, 0], [NAN, 0, 0]], "vector 1 is zero"),
        (np.ones(3), r"\(n, 3\) array, not one of shape \(3,\)"),
        ([1, 2, 3], r"\(n, 3\) array"),
        (np.ones((1, 1, 3)), r"not one of shape \(1, 1, 3\)"),
        (1.5, r"\(n, 3\) array"),
        ("text", "not str"),
        (b"bytes", "not bytes"),
        (["text", "text"], "vector 0 must be 3 real numbers, not str"),
        ([[1, 2, 3], None], "vector 1 must be 3 real numbers, not NoneType"),
        ([[1, 2, 3], [1, "a", 3]], "vector 1 must be 3 real numbers"),
        ([[1, 2, 3], [[1], [2, 3]]], "vector 1 cannot be read"),
        ([[1, 2, 3], [[1, 2, 3]]], "vector 1 must be one-dimensional"),
        (np.ones((2, 3), complex), "real numbers, not of complex128"),
        (np.array([["a", "b", "c"]]), "real numbers"),
        (None, "real numbers"),
    ],
)
def test_what_is_refused(rows: Any, message: str) -> None:
    with pytest.raises(InvalidVector, match=message):
        unit_rows(rows, 3)


def test_another_word_for_a_row() -> None:
    with pytest.raises(InvalidVector, match="query 0 has 2 dimensions, not 3"):
        unit_rows([[1, 2]], 3, what="query")


def test_the_encoder_is_unit_rows_with_a_name() -> None:
    encoder = open_encoder("vectors", dim=2)
    assert (encoder.name, encoder.dim, encoder.modality) == ("vectors@2", 2, "vector")
    rows: list[Any] = [np.array([3, 4]), [0, 2]]
    np.testing.assert_allclose(encoder.encode(rows), np.array([[0.6, 0.8], [0, 1]]), rtol=1e-6)
    with pytest.raises(InvalidVector, match="vector 1 must be 2 real numbers, not str"):
        encoder.encode([rows[1], "text"])


@pytest.mark.parametrize("dim", [0, -1, 2.0, True, "3"])
def test_a_dimension_that_is_none(dim: Any) -> None:
    with pytest.raises(InvalidConfig, match="positive whole number"):
        VectorEncoder(dim)


def test_many_contents_are_encoded_a_part_at_a_time() -> None:
    encoder = VectorEncoder(2)
    rows: list[Any] = [np.array([n + 1.0, 1.0]) for n in range(2 * AT_ONCE + 1)]
    seen: list[tuple[str, int, int]] = []
    found = encoded(encoder, rows, "evaluating", lambda *step: seen.append(step))
    np.testing.assert_array_equal(found, encoder.encode(rows))
    assert seen == [("evaluating", done, len(rows)) for done in (AT_ONCE, 2 * AT_ONCE, len(rows))]
    assert encoded(encoder, [], "evaluating", None).shape == (0, 2)
