"""The memory head: the little function between an encoder and an index, and the identity that every collection begins with.

The formula (x' is a centred unit row, k and v the memory of the C taught concepts, m the B centroids of the unlabelled collection)::

    x' = norm(x - sigmoid(c) mu)
    w  = softmax([<x', norm(k_c)> / t  for every concept ;  <x', m_j> / t + b - r log B  for every centroid])
    g  = sum of w over the concepts
    z  = norm(x' + (a + (1 - a) g) x' dw + s sum_c w_c v_c + s_b sum_j w_j m_j)

The centroids compete with the concepts for every point, so a point that belongs to something untaught stays where it is.
`centre` and `forward` are written once for two array modules: numpy when a head is used, torch when it is learned. Importing this
module and using a head need no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig, InvalidVector, StorageDamaged
from vecmeta.types import Vector, Vectors

FORMAT = "vecmeta-head-1"
SCALARS = ("c", "t", "b", "r", "a", "s", "s_b")  # what the formula reads: logit, log, -, -, logit, -, -
CHUNK = 2048  # rows per pass: bounds the (rows, C + B) weights to a few MiB


class Fast(NamedTuple):
    """What the inner loop changes: a key and a value per concept, and one linear map."""

    k: Any  # (C, dim)
    v: Any  # (C, dim)
    dw: Any  # (dim, dim)


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


def unit(xp: Any, x: Any) -> Any:
    """Rows divided by their norm; a zero row stays (nearly) zero instead of turning into NaN. (n, dim) -> (n, dim)."""
    return x / xp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)


def centre(xp: Any, scalars: Mapping[str, Any], x: Any, mean: Any) -> Any:
    """Takes a learned share of the collection's mean (dim,) out of the rows: (n, dim) -> (n, dim) unit rows."""
    return unit(xp, x - mean / (1 + xp.exp(-scalars["c"])))


def forward(xp: Any, scalars: Mapping[str, Any], fast: Fast, x: Any, background: Any) -> tuple[Any, Any]:
    """The formula, after centring: (n, dim) -> z (n, dim) unit rows and g (n, 1), for xp = numpy or torch.

    ``scalars`` holds 0-d arrays of xp by the names in SCALARS; ``background`` is (B, dim), centred unit rows, B >= 1.
    """
    t, concepts = xp.exp(scalars["t"]), len(fast.k)
    b = scalars["b"] - scalars["r"] * float(np.log(len(background)))
    logits = xp.concatenate((x @ unit(xp, fast.k).T / t, x @ background.T / t + b), axis=1)  # (n, C + B)
    w = xp.exp(logits - xp.amax(logits, axis=1, keepdims=True))  # (n, C + B)
    w = w / w.sum(1, keepdims=True)  # (n, C + B)
    w_taught, w_background = w[:, :concepts], w[:, concepts:]  # (n, C), (n, B)
    g = w_taught.sum(1, keepdims=True)  # (n, 1)
    a = 1 / (1 + xp.exp(-scalars["a"]))
    moved = (a + (1 - a) * g) * (x @ fast.dw)  # (n, dim)
    pulled = scalars["s"] * (w_taught @ fast.v) + scalars["s_b"] * (w_background @ background)  # (n, dim)
    return unit(xp, x + moved + pulled), g


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
    """What `vecmeta.meta.maml.adapt` returns: the formula with its numbers filled in.

    ``scalars``     0-d float32 by the names in SCALARS.
    ``fast``        k, v (C, dim) and dw (dim, dim), float32; C = 0 is allowed.
    ``background``  (B, dim) float32, centred unit rows, B >= 1.
    ``mean``        (dim,) float32, the collection's mean.
    ``strength``    lambda: `project` gives norm((1 - lambda) x + lambda z); 0 is exactly the identity.
    ``provenance``  free JSON: hashes of the start and of what it learned from.

    Raises InvalidConfig when the shapes do not fit together or the strength lies outside [0, 1].
    """

    scalars: Mapping[str, Any]
    fast: Fast
    background: Vectors
    mean: Vector
    strength: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dim = len(self.mean)
        shapes = {"k": self.fast.k.shape, "v": self.fast.v.shape, "dw": self.fast.dw.shape, "background": self.background.shape}
        c = len(self.fast.k)
        right = {"k": (c, dim), "v": (c, dim), "dw": (dim, dim), "background": (len(self.background), dim)}
        if shapes != right or not len(self.background):
            raise InvalidConfig(f"a memory head of dimension {dim} cannot be made of arrays of the shapes {shapes}")
        missing = [name for name in SCALARS if name not in self.scalars]
        if missing:
            raise InvalidConfig(f"a memory head needs the scalars {', '.join(SCALARS)}; {', '.join(missing)} not given")
        object.__setattr__(self, "strength", _checked_strength(self.strength))
        object.__setattr__(self, "scalars", MappingProxyType({n: np.float32(self.scalars[n]) for n in SCALARS}))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.mean)

    @property
    def concepts(self) -> int:
        """How many concepts and queries it was taught."""
        return len(self.fast.k)

    def project(self, x: Vectors) -> Vectors:
        """(n, dim) float32 unit rows -> (n, dim) float32 unit rows, a new array. Raises InvalidVector for another shape."""
        rows = _checked_rows(x, self.dim)
        out = rows.copy()
        if self.strength == 0:  # exactly the identity, not up to rounding
            return out
        for at in range(0, len(rows), CHUNK):
            part = rows[at : at + CHUNK]
            z = self._forward(part)[0]  # (chunk, dim)
            out[at : at + CHUNK] = z if self.strength == 1 else unit(np, part + self.strength * (z - part))
        return out

    def belonging(self, x: Vectors) -> Vector:
        """g: (n, dim) float32 unit rows -> (n,) float32 in [0, 1], whatever the strength. Raises InvalidVector."""
        rows = _checked_rows(x, self.dim)
        parts = [self._forward(rows[at : at + CHUNK])[1][:, 0] for at in range(0, len(rows), CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _forward(self, x: Vectors) -> tuple[Vectors, Vectors]:
        return forward(np, self.scalars, self.fast, centre(np, self.scalars, x, self.mean), self.background)

    def with_strength(self, strength: float) -> MemoryHead:
        """The same arrays with another strength. Raises InvalidConfig outside [0, 1]."""
        return replace(self, strength=strength)

    def to_bytes(self) -> bytes:
        """Safetensors with the strength and the provenance in its metadata; equal heads give equal bytes."""
        tensors = {f"scalar.{name}": np.asarray(value, np.float32) for name, value in self.scalars.items()}
        tensors |= {"k": self.fast.k, "v": self.fast.v, "dw": self.fast.dw, "background": self.background, "mean": self.mean}
        about = {"format": FORMAT, "kind": "memory", "dim": self.dim, "strength": self.strength}
        return pack(tensors, about | {"provenance": dict(self.provenance)})


def load_head(blob: bytes) -> Head:
    """The head that `to_bytes` wrote. Raises StorageDamaged for anything else, a changed byte included."""
    tensors, about = unpack(blob, FORMAT)
    try:
        if about["kind"] == "identity":
            return IdentityHead(about["dim"])
        return MemoryHead(
            scalars={name: tensors[f"scalar.{name}"] for name in SCALARS},
            fast=Fast(tensors["k"], tensors["v"], tensors["dw"]),
            background=tensors["background"],
            mean=tensors["mean"],
            strength=about["strength"],
            provenance=about["provenance"],
        )
    except (KeyError, InvalidConfig) as error:
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
    if found != digest(tensors, about):
        raise StorageDamaged(f"a {form} file was changed after it was written: its checksum does not match")
    return tensors, about


def digest(tensors: Mapping[str, NDArray[np.float32]], about: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes, values and the JSON object."""
    sha = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(f"{name}{tensors[name].shape}".encode() + tensors[name].tobytes())
    return sha.hexdigest()
