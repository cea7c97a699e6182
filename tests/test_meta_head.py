"""The heads: identity, formula, strength, bytes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.metatoys import unit_rows
from vecmeta.errors import InvalidConfig, InvalidVector, StorageDamaged
from vecmeta.meta.head import (
    CHUNK,
    FORMAT,
    Head,
    IdentityHead,
    Memory,
    MemoryHead,
    centre,
    forward,
    load_head,
    pack,
    softmax,
    unit,
)
from vecmeta.types import Vectors

DIM, SLOTS = 12, 7


def rows(n: int, seed: int = 0, dim: int = DIM) -> Vectors:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, dim)))


def made(dim: int = DIM, slots: int = SLOTS, with_map: bool = True) -> MemoryHead:
    rng = np.random.default_rng(1)
    memory = Memory(
        keys=rng.normal(0, 3, (slots, dim)).astype(np.float32),
        bias=rng.normal(size=slots).astype(np.float32),
        values=rng.normal(size=(slots, dim)).astype(np.float32),
        taught=np.linspace(0, 1, slots, dtype=np.float32),
        share=np.asarray(0.6, np.float32),
        map=rng.normal(0, 0.2, (dim, dim)).astype(np.float32) if with_map else None,
    )
    return MemoryHead(memory, rows(1, 5, dim)[0] * np.float32(0.4), provenance={"start": "abc"})


@pytest.fixture(params=[True, False], ids=["map", "no map"])
def head(request: pytest.FixtureRequest) -> MemoryHead:
    return made(with_map=request.param)


def test_identity_returns_the_rows() -> None:
    x, head = rows(7), IdentityHead(DIM)
    assert head.project(x).dtype == np.float32
    np.testing.assert_array_equal(head.project(x), x)
    np.testing.assert_array_equal(head.belonging(x), np.zeros(7))
    assert head.belonging(x).dtype == np.float32
    assert head.strength == head.with_strength(0.5).strength == 0


def test_strength_zero_is_exactly_the_identity(head: MemoryHead) -> None:
    x = rows(9)
    out = head.with_strength(0).project(x)
    np.testing.assert_array_equal(out, x)
    assert not np.shares_memory(out, x)


def test_formula_in_plain_loops(head: MemoryHead) -> None:
    x = rows(6, 9)
    m = [np.asarray(part, np.float64) for part in head.memory[:5]]
    out: list[Any] = []
    belongs: list[Any] = []
    for row in x.astype(np.float64):
        p = row - m[4] * head.mean
        p = p / np.linalg.norm(p)
        weights = [np.exp(sum(p[d] * key[d] for d in range(DIM)) + bias) for key, bias in zip(m[0], m[1], strict=True)]
        z = p.copy()
        for weight, value in zip(weights, m[2], strict=True):
            z = z + weight / sum(weights) * value
        if head.memory.map is not None:
            z = z + np.array([sum(p[i] * float(head.memory.map[i, j]) for i in range(DIM)) for j in range(DIM)])
        out.append(z / np.linalg.norm(z))
        belongs.append(sum(weight / sum(weights) * taught for weight, taught in zip(weights, m[3], strict=True)))
    np.testing.assert_allclose(head.project(x), np.array(out), atol=1e-5)
    np.testing.assert_allclose(head.belonging(x), np.array(belongs), atol=1e-5)
    blended = 0.7 * x + 0.3 * np.array(out)
    blended /= np.linalg.norm(blended, axis=1, keepdims=True)
    np.testing.assert_allclose(head.with_strength(0.3).project(x), blended, atol=1e-5)
    np.testing.assert_array_equal(head.with_strength(0.3).belonging(x), head.belonging(x))


def test_torch_and_numpy_agree(head: MemoryHead) -> None:
    x = rows(6, 9)
    memory = Memory(*(None if part is None else torch.from_numpy(part) for part in head.memory))
    z, g = forward(torch, memory, centre(torch, torch.from_numpy(x), torch.from_numpy(head.mean), memory.share))
    np.testing.assert_allclose(z.numpy(), head.project(x), atol=1e-6)
    np.testing.assert_allclose(g.numpy(), head.belonging(x), atol=1e-6)


def test_softmax_and_unit_do_not_overflow_nor_divide_by_zero() -> None:
    logits = np.array([[1e4, 0, -1e9], [-1e9, -1e9, -1e9]], np.float32)
    np.testing.assert_allclose(softmax(np, logits), np.array([[1, 0, 0], [1 / 3] * 3]), atol=1e-7)
    np.testing.assert_array_equal(unit(np, np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_unit_float32_rows_of_any_number(head: MemoryHead, strength: float) -> None:
    for n in (0, 1, CHUNK, 2 * CHUNK + 1):
        z = head.with_strength(strength).project(rows(n))
        assert z.shape == (n, DIM)
        assert z.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
        g = head.belonging(rows(n))
        assert g.shape == (n,)
        assert g.dtype == np.float32
        assert ((g >= 0) & (g <= 1)).all()


def test_chunks_change_nothing_and_the_argument_stays(head: MemoryHead) -> None:
    x = rows(3000)
    before = x.copy()
    z, g = head.project(x), head.belonging(x)
    for at in (0, CHUNK - 1, CHUNK, 2999):
        np.testing.assert_allclose(z[at : at + 1], head.project(x[at : at + 1]), atol=1e-6)
        np.testing.assert_allclose(g[at : at + 1], head.belonging(x[at : at + 1]), atol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_doubles_and_lists_are_taken_as_float32(head: MemoryHead) -> None:
    x = rows(3)
    np.testing.assert_array_equal(head.project(x.astype(np.float64)), head.project(x))
    np.testing.assert_array_equal(head.project(x.tolist()), head.project(x))


def test_bytes_round_trip(head: MemoryHead) -> None:
    for one in (head, head.with_strength(0.3), IdentityHead(DIM)):
        again = load_head(one.to_bytes())
        assert isinstance(again, Head)
        assert (type(again), again.dim, again.strength) == (type(one), one.dim, one.strength)
        assert again.to_bytes() == one.to_bytes()
        np.testing.assert_array_equal(again.project(rows(4)), one.project(rows(4)))
        np.testing.assert_array_equal(again.belonging(rows(4)), one.belonging(rows(4)))
    loaded = load_head(head.to_bytes())
    assert isinstance(loaded, MemoryHead)
    assert loaded.provenance == {"start": "abc"}
    assert (loaded.memory.map is None) == (head.memory.map is None)
    assert head.with_strength(0.3).to_bytes() != head.to_bytes()


def test_every_changed_byte_is_noticed() -> None:
    blob = made(dim=2, slots=2).to_bytes()
    for at in range(len(blob)):
        for bit in range(8):
            damaged = bytearray(blob)
            damaged[at] ^= 1 << bit
            with pytest.raises(StorageDamaged):
                load_head(bytes(damaged))
    # another type of the same size, read from the same bytes
    for wrong in (b"", b"no safetensors at all", blob[:-5], blob + b"\0", blob.replace(b'"F32"', b'"I32"', 1)):
        with pytest.raises(StorageDamaged):
            load_head(wrong)


def test_a_whole_file_that_is_no_head_is_damaged() -> None:
    for tensors, about, message in (
        ({}, {"format": "vecmeta-start-2"}, "format"),
        ({}, {"format": FORMAT}, "incomplete"),
        ({}, {"format": FORMAT, "kind": "identity", "dim": 0}, "incomplete"),
        ({"mean": np.zeros(3, np.float32)}, {"format": FORMAT, "kind": "memory"}, "incomplete"),
    ):
        with pytest.raises(StorageDamaged, match=message):
            load_head(pack(tensors, about))
    from safetensors.numpy import save

    for metadata in (None, {"other": "1"}, {"vecmeta": "[]"}, {"vecmeta": "not json"}, {"vecmeta": "{}"}):
        with pytest.raises(StorageDamaged):
            load_head(save({"mean": np.zeros(3, np.float32)}, metadata=metadata))


def test_bad_arguments(head: MemoryHead) -> None:
    for one in (head, IdentityHead(DIM)):
        for strength in (-0.1, 1.1, float("nan"), True, "1", None):
            with pytest.raises(InvalidConfig, match="strength"):
                one.with_strength(strength)  # type: ignore[arg-type]
        for x in (rows(3, dim=DIM + 1), rows(1)[0]):
            with pytest.raises(InvalidVector, match=str(DIM)):
                one.project(x)
            with pytest.raises(InvalidVector, match=str(DIM)):
                one.belonging(x)
    with pytest.raises(InvalidConfig):
        IdentityHead(0)


@pytest.mark.parametrize("name", [*Memory._fields, "mean"])
def test_shapes_and_numbers_of_every_array_are_checked(name: str) -> None:
    head = made()

    def altered(value: Any) -> MemoryHead:
        return replace(head, mean=value) if name == "mean" else replace(head, memory=head.memory._replace(**{name: value}))

    value = head.mean if name == "mean" else getattr(head.memory, name)
    with pytest.raises(InvalidConfig, match="shapes"):
        altered(np.stack((value, value)))
    with pytest.raises(InvalidConfig, match=f"{name} holds NaN"):
        altered(np.full_like(value, np.nan))
    with pytest.raises(InvalidConfig, match=f"{name} holds NaN"):
        altered(np.full_like(value, np.inf))
    doubled = altered(value.astype(np.float64))
    assert (doubled.mean if name == "mean" else getattr(doubled.memory, name)).dtype == np.float32
    assert doubled.to_bytes() == head.to_bytes()


def test_a_memory_has_slots() -> None:
    none = np.zeros((0, DIM), np.float32)
    with pytest.raises(InvalidConfig, match="shapes"):
        MemoryHead(Memory(none, none[:, 0], none, none[:, 0], np.float32(0)), np.zeros(DIM, np.float32))


def test_using_a_head_needs_no_torch(head: MemoryHead) -> None:
    script = (
        "import sys\n"
        "import vecmeta.meta.head as h, numpy as np\n"
        "from vecmeta.meta.methods import NAMES, checked\n"
        "head = h.load_head(sys.stdin.buffer.read())\n"
        "head.project(np.eye(head.dim, dtype=np.float32))\n"
        "head.belonging(np.eye(head.dim, dtype=np.float32))\n"
        "checked(NAMES[0])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], input=head.to_bytes(), check=True, timeout=60)
