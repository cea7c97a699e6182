"""A map: vectors laid into a plane, and planes of several versions turned so that their points can be compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.insight.rows import Matrix

Plane = NDArray[np.float64]


def plane(x: Matrix) -> Plane:
    """(n, 2) coordinates of (n, dim) rows along their two principal axes, centred (PCA; Pearson 1901).

    The sign of an axis is set by its largest loading, so that the same rows always give the same picture. Fewer than two directions of
    variance leave zeros.
    """
    if not len(x):
        return np.zeros((0, 2))
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    two = axes[:, ::-1][:, :2]
    two = two * np.where(two[np.abs(two).argmax(0), np.arange(two.shape[1])] < 0, -1.0, 1.0)
    points = centred @ two
    return points if points.shape[1] == 2 else np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def aligned(points: Plane, reference: Plane) -> Plane:
    """(n, 2) points turned and mirrored to lie nearest a reference of the same rows (orthogonal Procrustes; Schönemann 1966).

    Nothing is stretched: a version that draws things together shows it.
    """
    u, _, vt = np.linalg.svd(points.T @ reference)
    return np.asarray(points @ (u @ vt))
