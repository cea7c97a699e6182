"""Query-time feedback: bend one query towards what was liked and, gently, away from what was not (Rocchio 1971).

    q' = norm(1.0 q + 0.75 mean(liked) - 0.15 mean(disliked))        each mean weighted by the scores given

Hard negatives at full weight are the harm that measurements show: a disliked item is usually near the liked ones.
"""

from __future__ import annotations

import numpy as np

from vecmeta.types import Vector, Vectors

ALPHA, BETA, GAMMA = 1.0, 0.75, 0.15


def bend(query: Vector | None, items: Vectors, scores: Vector) -> Vector:
    """The bent query.

    Args:
        query: (dim,) unit vector; None when there are only items to go by (a recommendation).
        items: (n, dim) unit rows.
        scores: (n,) in [-1, 1]; > 0 liked, < 0 disliked, 0 ignored.

    Returns:
        (dim,) float32 unit vector; the query itself when nothing is left of the sum.
    """
    total = np.zeros(items.shape[1]) if query is None else ALPHA * query.astype(np.float64)
    for weight, share in ((BETA, np.clip(scores, 0, None)), (-GAMMA, np.clip(-scores, 0, None))):
        if share.sum() > 0:
            total += weight * (share @ items) / share.sum()
    length = np.linalg.norm(total)
    if length < 1e-9:
        return items[int(np.argmax(scores))] if query is None else query
    return np.asarray(total / length, dtype=np.float32)
