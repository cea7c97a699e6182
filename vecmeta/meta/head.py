"""The memory head: the little function between an encoder and an index, and the identity that every collection begins with.

The formula, for a unit row x, the collection's mean mu, and a memory of M slots (k_j, b_j, v_j)::

    x' = norm(x - c mu)
    w  = softmax_j(<x', k_j> + b_j)
    z  = norm(x' + x' A + sum_j w_j v_j)
    g  = sum_j w_j taught_j                                # how much x belongs to what was taught

It is one layer of attention over a key-value memory (Sukhbaatar et al. 2015). Some slots are concepts that were taught, the others the
centroids of the unlabelled collection, which compete with the concepts for every point, so a point that belongs to something untaught
stays where it is. What fills the slots is a method's affair (`vecmeta.meta.methods`); some fill only the linear map A.
`centre` and `forward` are written once for two array modules: numpy when a head is used, torch when it is learned. Importing this
module and using a head need no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, InvalidVector, StorageDamaged
from vecmeta.threads import CORES, single_blas
from vecmeta.types import Vector, Vectors

FORMAT = "vecmeta-head-2"
FEW = 512  # rows
CHUNK = 2048  # rows per pass: bounds the (rows, M) weights to a few MiB


class Memory(NamedTuple):
    """What a method fills in; arrays of numpy or torch, float32. M >= 1."""

    keys: Any  # (M, dim), divided by the temperature already
    bias: Any  # (M,)
    values: Any  # (M, dim)
    taught: Any  # (M,) in [0, 1]: how much of a slot is a taught concept
    share: Any  # (): how much of the collection's mean is taken out of every row, in [0, 1]
    map: Any = None  # (dim, dim), A; None is zero


class Projector(NamedTuple):
    """A way to project many rows: (n, dim) -> (n, dim), and how many threads may do so at once with a gain."""

    project: Callable[[Vectors], Vectors]
    threads: int = CORES


@runtime_checkable
class Head(Protocol):
    """A head version. Rows in, rows out; never changes its arguments; the same for items and queries."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def strength(self) -> float:
        """In [0, 1]: 0 leaves every vector as it is, 1 is all that was learned."""

    def project(self, x: Vectors) -> Vectors:
        """(n, dim) float32 unit rows -> (n, dim) float32 unit rows. Raises InvalidVector for another shape."""

    def belonging(self, x: Vectors) -> Vector:
        """(n, dim) float32 unit rows -> (n,) float32 in [0, 1]: how much each belongs to what was taught."""

    def with_strength(self, strength: float) -> Head:
        """The same head with another strength. Raises InvalidConfig outside [0, 1]."""

    def to_bytes(self) -> bytes:
        """Safetensors; equal heads give equal bytes."""


def norm(xp: Any, x: Any) -> Any:
    """Of each row, and never zero: (n, dim) -> (n, 1)."""
    return xp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)


def unit(xp: Any, x: Any) -> Any:
    """Rows divided by their norm; a zero row stays (nearly) zero instead of turning into NaN. (n, dim) -> (n, dim)."""
    return x / norm(xp, x)


def centre(xp: Any, x: Any, mean: Any, share: Any) -> Any:
    """Takes a share () of the collection's mean (dim,) out of the rows: (n, dim) -> (n, dim) unit rows."""
    return unit(xp, x - share * mean)


def softmax(xp: Any, logits: Any) -> Any:
    """Over the last axis: (n, m) -> (n, m)."""
    w = xp.exp(logits - xp.amax(logits, axis=-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


def forward(xp: Any, memory: Memory, x: Any) -> tuple[Any, Any]:
    """The formula, after centring: (n, dim) -> z (n, dim) unit rows and g (n,), for xp = numpy or torch."""
    w = softmax(xp, x @ memory.keys.T + memory.bias)  # (n, M)
    z = x + w @ memory.values  # (n, dim)
    if memory.map is not None:
        z = z + x @ memory.map
    return unit(xp, z), w @ memory.taught


def _checked_strength(strength: float) -> float:
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
        raise InvalidConfig(f"a strength is a number from 0 to 1, not {strength!r}")
    return float(strength)


def _checked_rows(x: Vectors, dim: int) -> Vectors:
    rows = np.asarray(x, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise InvalidVector(f"this head takes rows of shape (n, {dim}), not {rows.shape}")
    return rows


@dataclass(frozen=True)
class IdentityHead:
    """Version 0: every vector as the encoder gave it."""

    dim: int

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise InvalidConfig(f"a head needs a dimension of at least 1, not {self.dim}")

    @property
    def strength(self) -> float:
        """Always 0."""
        return 0.0

    def project(self, x: Vectors) -> Vectors:
        """The rows, untouched: (n, dim) float32 -> (n, dim) float32, not copied. Raises InvalidVector for another shape."""
        return _checked_rows(x, self.dim)

    def belonging(self, x: Vectors) -> Vector:
        """(n,) float32 zeros: nothing was taught."""
        return np.zeros(len(_checked_rows(x, self.dim)), np.float32)

    def with_strength(self, strength: float) -> IdentityHead:
        """Itself, at any strength in [0, 1]; raises InvalidConfig outside."""
        _checked_strength(strength)
        return self

    def to_bytes(self) -> bytes:
        """Safetensors without tensors."""
        return pack({}, {"format": FORMAT, "kind": "identity", "dim": self.dim})


@dataclass(frozen=True, eq=False)
class MemoryHead:
    """What `vecmeta.meta.fitting.fit` returns: the formula with its numbers filled in.

    ``memory``      float32 arrays, see `Memory`.
    ``mean``        (dim,) float32, the collection's mean.
    ``strength``    lambda: `project` gives norm((1 - lambda) x + lambda z); 0 is exactly the identity.
    ``provenance``  free JSON: the method, hashes of the start and of what it learned from.

    Raises InvalidConfig when the shapes do not fit together, a number is not finite or the strength lies outside [0, 1].
    """

    memory: Memory
    mean: Vector
    strength: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dim, slots = len(self.mean), len(self.memory.keys)
        right: dict[str, tuple[int, ...]] = {"keys": (slots, dim), "bias": (slots,), "values": (slots, dim), "taught": (slots,)}
        right |= {"share": (), "mean": (dim,)}
        if self.memory.map is not None:
            right["map"] = (dim, dim)
        arrays = {name: np.asarray(self.mean if name == "mean" else getattr(self.memory, name), np.float32) for name in right}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != right or not slots:
            raise InvalidConfig(f"a memory head of dimension {dim} cannot be made of arrays of the shapes {shapes}")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise InvalidConfig(f"a memory head's {name} holds NaN or infinity")
        # BLAS turns the keys around at every product otherwise, which for 4 rows takes ten times as long as the product, and for 32 half.
        arrays["keys"] = np.asfortranarray(arrays["keys"])
        object.__setattr__(self, "mean", arrays.pop("mean"))
        object.__setattr__(self, "memory", Memory(**arrays))
        object.__setattr__(self, "strength", _checked_strength(self.strength))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.mean)

    def project(self, x: Vectors) -> Vectors:
        """(n, dim) float32 unit rows -> (n, dim) float32 unit rows, a new array. Raises InvalidVector for another shape."""
        rows = _checked_rows(x, self.dim)
        out = rows.copy()
        if self.strength == 0:  # exactly the identity, not up to rounding
            return out
        # A few rows on one thread: BLAS's others look out for more work, for some milliseconds, in the way of the search that follows.
        with single_blas() if len(rows) <= FEW else nullcontext():
            for at in range(0, len(rows), CHUNK):
                part = rows[at : at + CHUNK]
                z = self._forward(part)[0]  # (chunk, dim)
                out[at : at + CHUNK] = z if self.strength == 1 else unit(np, part + np.float32(self.strength) * (z - part))
        return out

    def belonging(self, x: Vectors) -> Vector:
        """g: (n, dim) float32 unit rows -> (n,) float32 in [0, 1], whatever the strength. Raises InvalidVector."""
        rows = _checked_rows(x, self.dim)
        parts = [self._forward(rows[at : at + CHUNK])[1] for at in range(0, len(rows), CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _forward(self, x: Vectors) -> tuple[Vectors, Vector]:
        return forward(np, self.memory, centre(np, x, self.mean, self.memory.share))

    def with_strength(self, strength: float) -> MemoryHead:
        """The same arrays with another strength. Raises InvalidConfig outside [0, 1]."""
        return replace(self, strength=strength)

    def to_bytes(self) -> bytes:
        """Safetensors with the strength and the provenance in its metadata; equal heads give equal bytes."""
        tensors = {name: array for name, array in self.memory._asdict().items() if array is not None}
        about = {"format": FORMAT, "kind": "memory", "dim": self.dim, "strength": self.strength}
        return pack({**tensors, "mean": self.mean}, about | {"provenance": dict(self.provenance)})


def load_head(blob: bytes) -> Head:
    """The head that `to_bytes` wrote. Raises StorageDamaged for anything else, a changed byte included."""
    tensors, about = unpack(blob, FORMAT)
    try:
        if about["kind"] == "identity":
            return IdentityHead(about["dim"])
        mean = tensors.pop("mean")
        return MemoryHead(Memory(**tensors), mean, about["strength"], about["provenance"])
    except (KeyError, TypeError, InvalidConfig) as error:
        raise StorageDamaged(f"a stored head is incomplete: {error}") from error


def pack(tensors: Mapping[str, NDArray[np.float32]], about: Mapping[str, Any]) -> bytes:
    """Float32 arrays and a JSON object as safetensors, with a checksum over both; equal input gives equal bytes."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(value, np.float32, order="C") for name, value in tensors.items()}
    # one metadata entry, because safetensors writes several in no fixed order
    stamped = {**about, "sha256": digest(arrays, about)}
    return bytes(save(arrays, metadata={"vecmeta": json.dumps(stamped, sort_keys=True)}))


def unpack(blob: bytes, form: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """The reverse of `pack`. Raises StorageDamaged unless the blob is whole, unchanged and of the given format."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(blob)
        size = int.from_bytes(blob[:8], "little")
        about = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["vecmeta"])
        found = about.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageDamaged(f"{len(blob)} bytes are no {form} file: {error}") from error
    if about.get("format") != form:
        raise StorageDamaged(f"a file of the format {about.get('format')!r} where {form!r} was expected")
    if found != digest(tensors, about) or any(value.dtype != np.float32 for value in tensors.values()):
        raise StorageDamaged(f"a {form} file was changed after it was written: its checksum does not match")
    return tensors, about


def digest(tensors: Mapping[str, NDArray[np.float32]], about: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes, values and the JSON object."""
    sha = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(f"{name}{tensors[name].shape}".encode() + tensors[name].tobytes())
    return sha.hexdigest()
