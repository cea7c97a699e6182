"""Where the indexes of a collection's versions are kept: in files of this machine, or in a Milvus that processes share."""

from __future__ import annotations

from vecmeta.shelves.protocol import Shelf

__all__ = ["Shelf"]
