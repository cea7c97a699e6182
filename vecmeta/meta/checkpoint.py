"""A training's state on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.meta.head import pack, unpack
from vecmeta.meta.start import write_whole

FORMAT = "vecmeta-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """``digest`` of everything that the training is a function of; arrays by group and name; JSON facts."""

    digest: str
    tensors: Mapping[str, Mapping[str, NDArray[np.float32]]]
    facts: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        flat = {f"{group}/{name}": value for group, values in self.tensors.items() for name, value in values.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, pack(flat, {"format": FORMAT, "digest": self.digest, "facts": dict(self.facts)}))


def load_checkpoint(path: Path, digest: str) -> Checkpoint | None:
    """The checkpoint, or None when there is none.

    Raises InvalidConfig for one of another training, StorageDamaged for a damaged one.
    """
    if not path.exists():
        return None
    flat, about = unpack(path.read_bytes(), FORMAT)
    if about["digest"] != digest:
        raise InvalidConfig(
            f"the checkpoint {path} belongs to a training on other data or with another config; delete it to begin anew"
        )
    tensors: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        tensors.setdefault(group, {})[name] = value
    return Checkpoint(digest, tensors, about["facts"])
