"""What batching of encodings brings and costs: searches by text over HTTP, for sizes of batches and times of waiting for company."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.serve import NAME, load, server, wrk_or_raise
from vecmeta.pydocs import gather

SETTINGS = ((1, 0.0), (8, 0.0), (32, 0.0), (32, 0.002), (32, 0.005), (32, 0.010))  # (encode_batch, encode_wait in seconds)
ITEMS, QUERIES = 300, 500


def run(
    *, connections: tuple[int, ...] = (1, 8, 32), seconds: float = 8, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Searches a second and latency by settings and connections; queries are sentences of Python's own documentation.

    Raises:
        InvalidConfig: no wrk.
    """
    wrk_or_raise()
    tell = progress or (lambda *_: None)
    items = gather(ITEMS + QUERIES)
    bodies = [json.dumps({"text": str(item.content)[:200], "k": 10, "content": False}) for item in items[ITEMS:]]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
        data = Path(folder) / "data"
        with vm.open(data, device="cpu") as db:
            db.create(NAME).add(items[:ITEMS])
            key, _ = db.keys.create("bench")
        for done, (batch, wait) in enumerate(SETTINGS):
            tell(f"batch {batch}, wait {wait * 1e3:g} ms", done, len(SETTINGS))
            with server(data, {"VECMETA_ENCODE_BATCH": str(batch), "VECMETA_ENCODE_WAIT": str(wait)}, workers=0) as url:
                for count in connections:
                    figures = load(f"{url}/v1/collections/{NAME}/search", bodies, key, count, seconds, Path(folder))
                    runs.append({"batch": batch, "wait_ms": wait * 1e3, "connections": count, **figures})
    tell("done", len(SETTINGS), len(SETTINGS))
    return {**machine(), "seconds": seconds, "runs": runs}
