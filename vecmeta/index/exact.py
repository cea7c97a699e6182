"""Brute force: the oracle that other indexes are held to, and quick enough for small collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vecmeta.index.base import KeyedIndex
from vecmeta.index.blocks import Blocks
from vecmeta.index.stores import Store


class ExactIndex(KeyedIndex):
    """Exact cosine search; `vecmeta.open(…, index="exact")`. InvalidConfig for a dim below 1."""

    kind = "exact"

    def reach(self, good: Callable[[], bool], steps: int) -> bool:  # noqa: ARG002
        """False: all is searched that there is."""
        return False

    def in_topics(self) -> bool:
        """False: nothing came into a structure."""
        return False

    def own(self) -> None:
        """Nothing: it is read from its files, not mapped."""

    def _make(self) -> Store:
        return Blocks(self.dim)

    def _settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _read(cls, folder: Path, dim: int, settings: Mapping[str, Any]) -> Store:  # noqa: ARG003
        return Blocks.read(folder, dim)
