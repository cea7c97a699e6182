"""How rows come into a graph: how many at a time, and whether in an order that is good for it."""

from __future__ import annotations

import numpy as np

from vecmeta.types import Keys

BRIEF, LONG, CALM = 0.003, 0.25, 0.1  # seconds that linking keeps others out at a time; LONG if nobody came for CALM seconds
LEAST, MOST = 4, 4096  # rows linked at a time
# Fewer than HURRY rows that wait cost a search hardly anything, and LEISURE times as long as a turn took others have the machine to
# themselves: after a swap some hundred rows wait, and p99 was that of the half second in which they were linked without a pause.
HURRY, LEISURE = 1000, 3
ASKED, NEAREST = 64, 10  # rows that are looked at, and how many of those next to each
TOGETHER = 0.25  # of all rows, how far apart in the order of linking neighbours are on average, if less than this; 1/3 at random


def pace(rows: int, seconds: float, aim: float) -> int:
    """How many rows to link next, so that it takes about as long as is aimed at."""
    return int(np.clip(rows * min(aim / max(seconds, 1e-6), 2), LEAST, MOST))


def together(rows: Keys, nearest: Keys, linked: int) -> bool:
    """Whether rows were linked about when their nearest neighbours were, (q,) and (q, k), of so many; that makes for a bad graph.

    A row is linked to the nearest of those that are there. Where whole topics came one after the other, few links lead from one to
    another, and a search that begins in the wrong one stays there.
    """
    apart = np.abs(nearest - rows[:, None])
    others = apart[apart > 0]  # a row is the nearest to itself
    return bool(len(others)) and float(others.mean()) < TOGETHER * linked
