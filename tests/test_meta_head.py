"""The heads: identity, formula, strength, bytes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from vecmeta.errors import InvalidConfig, InvalidVector, StorageDamaged
from vecmeta.meta.head import SCALARS, Fast, Head, IdentityHead, MemoryHead, centre, forward, load_head, unit
from vecmeta.types import Vectors

DIM, CONCEPTS, CENTROIDS = 12, 3, 5


def rows(n: int, seed: int = 0, dim: int = DIM) -> Vectors:
    return np.asarray(unit(np, np.random.default_rng(seed).normal(size=(n, dim))), np.float32)


@pytest.fixture
def head() -> MemoryHead:
    rng = np.random.default_rng(1)
    scalars = {name: np.float32(value) for name, value in zip(SCALARS, (0.2, -2.0, 0.3, 0.1, -0.5, 0.9, 0.4), strict=True)}
    fast = Fast(rows(CONCEPTS, 2) * np.float32(1.3), rows(CONCEPTS, 3), rng.normal(0, 0.1, (DIM, DIM)).astype(np.float32))
    return MemoryHead(scalars, fast, rows(CENTROIDS, 4), rows(1, 5)[0] * np.float32(0.4), provenance={"start": "abc"})


def test_identity_returns_the_rows() -> None:
    x, head = rows(7), IdentityHead(DIM)
    assert head.project(x).dtype == np.float32
    np.testing.assert_array_equal(head.project(x), x)
    np.testing.assert_array_equal(head.belonging(x), np.zeros(7))
    assert head.strength == head.with_strength(0.5).strength == 0


def test_strength_zero_is_exactly_the_identity(head: MemoryHead) -> None:
    x = rows(9)
    np.testing.assert_array_equal(head.with_strength(0).project(x), x)


def test_formula_in_plain_loops(head: MemoryHead) -> None:
    x = rows(6, 9)
    s = {name: float(value) for name, value in head.scalars.items()}
    k, v, dw = (np.asarray(w, np.float64) for w in head.fast)
    out, belongs = [], []
    for row in x.astype(np.float64):
        p = row - head.mean / (1 + np.exp(-s["c"]))
        p = p / np.linalg.norm(p)
        near = [np.exp(p @ key / np.linalg.norm(key) / np.exp(s["t"])) for key in k]
        far = [np.exp(p @ m / np.exp(s["t"]) + s["b"] - s["r"] * np.log(CENTROIDS)) for m in head.background.astype(np.float64)]
        total, a = sum(near) + sum(far), 1 / (1 + np.exp(-s["a"]))
        g = sum(near) / total
        z = p + (a + (1 - a) * g) * (p @ dw)
        z = z + s["s"] * sum(n / total * value for n, value in zip(near, v, strict=True))
        z = z + s["s_b"] * sum(f / total * m for f, m in zip(far, head.background, strict=True))
        out.append(z / np.linalg.norm(z))
        belongs.append(g)
    np.testing.assert_allclose(head.project(x), out, atol=1e-5)
    np.testing.assert_allclose(head.belonging(x), belongs, atol=1e-5)
    blended = 0.7 * x + 0.3 * np.array(out)
    np.testing.assert_allclose(
        head.with_strength(0.3).project(x), blended / np.linalg.norm(blended, axis=1, keepdims=True), atol=1e-5
    )


def test_torch_and_numpy_agree(head: MemoryHead) -> None:
    x = rows(6, 9)
    scalars = {name: torch.tensor(float(value)) for name, value in head.scalars.items()}
    fast = Fast(*(torch.from_numpy(w) for w in head.fast))
    z, g = forward(
        torch,
        scalars,
        fast,
        centre(torch, scalars, torch.from_numpy(x), torch.from_numpy(head.mean)),
        torch.from_numpy(head.background),
    )
    np.testing.assert_allclose(z.numpy(), head.project(x), atol=1e-6)
    np.testing.assert_allclose(g.numpy()[:, 0], head.belonging(x), atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_unit_float32_rows_of_any_number(head: MemoryHead, strength: float) -> None:
    for n in (0, 1, 5000):  # more than two chunks
        z = head.with_strength(strength).project(rows(n))
        assert z.shape == (n, DIM)
        assert z.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
        assert head.belonging(rows(n)).shape == (n,)


def test_chunks_change_nothing_and_the_argument_stays(head: MemoryHead) -> None:
    x = rows(3000)
    before = x.copy()
    np.testing.assert_allclose(head.project(x)[2500:2501], head.project(x[2500:2501]), atol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_a_head_without_concepts(head: MemoryHead) -> None:
    none = np.zeros((0, DIM), np.float32)
    empty = MemoryHead(head.scalars, Fast(none, none, head.fast.dw), head.background, head.mean)
    np.testing.assert_array_equal(empty.belonging(rows(4)), np.zeros(4))
    assert np.isfinite(empty.project(rows(4))).all()


def test_bytes_round_trip(head: MemoryHead) -> None:
    for one in (head, head.with_strength(0.3), IdentityHead(DIM)):
        again = load_head(one.to_bytes())
        assert isinstance(again, Head)
        assert (type(again), again.dim, again.strength) == (type(one), one.dim, one.strength)
        assert again.to_bytes() == one.to_bytes()
        np.testing.assert_array_equal(again.project(rows(4)), one.project(rows(4)))
    loaded = load_head(head.to_bytes())
    assert isinstance(loaded, MemoryHead)
    assert loaded.provenance == {"start": "abc"}
    assert loaded.concepts == CONCEPTS


def test_every_changed_byte_is_noticed(head: MemoryHead) -> None:
    blob = head.to_bytes()
    for at in [*range(0, 60, 7), len(blob) // 2, len(blob) - 1]:
        damaged = bytearray(blob)
        damaged[at] ^= 1
        with pytest.raises(StorageDamaged):
            load_head(bytes(damaged))
    for wrong in (b"", b"no safetensors at all", blob[:-5], blob.replace(b'\\"strength\\": 1.0', b'\\"strength\\": 0.5')):
        with pytest.raises(StorageDamaged):
            load_head(wrong)


def test_bad_arguments(head: MemoryHead) -> None:
    for one in (head, IdentityHead(DIM)):
        for strength in (-0.1, 1.1, float("nan"), True, "1"):
            with pytest.raises(InvalidConfig, match="strength"):
                one.with_strength(strength)  # type: ignore[arg-type]
        for x in (rows(3, dim=DIM + 1), rows(1)[0]):
            with pytest.raises(InvalidVector, match=str(DIM)):
                one.project(x)
            with pytest.raises(InvalidVector):
                one.belonging(x)
    with pytest.raises(InvalidConfig):
        IdentityHead(0)
    with pytest.raises(InvalidConfig, match="shapes"):
        MemoryHead(head.scalars, head.fast, head.background[:0], head.mean)
    with pytest.raises(InvalidConfig, match="s_b"):
        MemoryHead({name: head.scalars[name] for name in SCALARS[:-1]}, head.fast, head.background, head.mean)


def test_using_a_head_needs_no_torch(head: MemoryHead) -> None:
    script = (
        "import importlib.machinery, sys, types\n"
        "import vecmeta.errors\n"
        "import vecmeta.meta.head as h, numpy as np\n"
        "head = h.load_head(sys.stdin.buffer.read())\n"
        "head.project(np.eye(head.dim, dtype=np.float32))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], input=head.to_bytes(), check=True, timeout=60)
