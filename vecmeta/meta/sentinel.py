"""The shift sentinel: does what a user gave look like anything that the start was trained on?

A handful of numbers describe judgements and collection, none of which depends on the dimension; those of the training tasks are kept with
the start as a mean and a covariance, and a new episode's Mahalanobis distance is compared with the largest that was usual in training
(Lee et al. 2018, for the distance as a detector of what is unlike the training data).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.head import centre, unit

FEATURES = {
    "concepts": "the number of concepts",
    "shots": "the number of judgements per concept",
    "negatives": "the share of negative judgements",
    "tightness": "how alike the items of one concept are",
    "margin": "how much nearer items lie to their own concept than to another",
    "clusters": "how near concepts lie to clusters of the collection",
    "mean": "how alike all items of the collection are",
    "spread": "how many directions the collection spreads over",
}
USUAL = 0.995  # quantile of the training tasks' distances
SLACK = 1.25


def features(episode: Episode, stats: Statistics) -> NDArray[np.float64]:
    """(8,) in the order of FEATURES."""
    y = episode.y[:, (episode.y > 0).any(0)]
    x = centre(np, episode.x, stats.mean, 1.0)
    positive = np.clip(y, 0, None)
    number = positive.sum(0)  # (C,)
    sums = positive.T @ x  # (C, dim)
    dots, squares = x @ sums.T, (sums * sums).sum(1)
    rest = (dots - positive) / np.sqrt(np.clip(squares - 2 * positive * dots + positive**2, 1e-6, None))  # (N, C) itself left out
    background = centre(np, stats.background, stats.mean, 1.0)
    near = (unit(np, sums) @ background.T).max(1)  # (C,)
    told = (positive > 0) & (number - positive > 1e-3)  # rows that have a mate
    own = np.where(told, rest, np.nan)
    others = np.where(positive > 0, -1.0, x @ unit(np, sums).T)
    elsewhere = np.maximum(others.max(1), np.median(x @ background.T, axis=1))  # (N,)
    apart = background - background.mean(0)  # (B, dim)
    total = float((apart * apart).sum())  # of the squared singular values, as the next line is of their squares
    squares_of = float(((apart.T @ apart) ** 2).sum())
    return np.array(
        [
            np.log(y.shape[1]),
            np.log(number.mean() + 1e-6),
            (y < 0).sum() / (y != 0).sum(),
            np.nanmean(own) if told.any() else np.nan,
            np.nanmean(own - elsewhere[:, None]) if told.any() else np.nan,
            near.mean(),
            float(np.linalg.norm(stats.mean)),
            np.log(total**2 / squares_of) if total > 1e-6 else 0.0,
        ]
    )


def familiar(examples: Sequence[tuple[Episode, Statistics]]) -> dict[str, Any]:
    """What is kept with a start: mean, covariance and limit over the training's episodes; JSON."""
    seen = np.stack([features(episode, stats) for episode, stats in examples])  # (tasks, 8)
    known = ~np.isnan(seen)
    mean = np.where(known, seen, 0).sum(0) / known.sum(0).clip(1)
    filled = np.where(known, seen, mean)
    covariance = np.cov(filled.T, bias=True) + np.diag(filled.var(0) * 0.05 + 1e-4)
    about = {"mean": mean.round(6).tolist(), "covariance": covariance.round(8).tolist()}
    distances = [_distance(about, row)[0] for row in seen]
    # few tasks, or tasks all alike, tell of no limit: it is never below one standard deviation
    return {**about, "limit": round(max(float(np.quantile(distances, USUAL)), 1.0), 4), "tasks": len(seen)}


def shift(known: Mapping[str, Any], episode: Episode, stats: Statistics) -> tuple[float, str | None]:
    """How unlike an episode is, 1 being the limit of what was usual, and beyond it a sentence that says in what."""
    distance, parts = _distance(known, features(episode, stats))
    ratio = distance / (SLACK * known["limit"])
    if ratio <= 1:
        return ratio, None
    odd = list(FEATURES.values())[int(np.argmax(parts))]
    return ratio, f"these judgements look unlike what the start was trained on, most of all {odd}; trust the measured gain alone"


def _distance(known: Mapping[str, Any], row: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Mahalanobis, and the standardised deviations; what is not known of an episode is taken to be usual."""
    away = row - np.array(known["mean"])
    away[np.isnan(away)] = 0
    plenty = [list(FEATURES).index(name) for name in ("concepts", "shots")]
    away[plenty] = np.minimum(away[plenty], 0)  # more to learn from is no reason for distrust
    covariance = np.array(known["covariance"])
    return float(np.sqrt(max(away @ np.linalg.solve(covariance, away), 0.0))), np.abs(away) / np.sqrt(np.diag(covariance))
