"""Arrays as .npy files, through Python's own files, so that a full disk keeps its errno."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_array(path: Path, parts: Sequence[NDArray[Any]], shape: tuple[int, ...], kind: str = "<f4") -> None:
    """Like np.save of the parts one behind the other, without joining them in memory. They are of the kind given."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, kind).data.cast("B") if part.size else b"")
