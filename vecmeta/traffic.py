"""A candidate on real searches: a share of them, the same for each user, and what came of its answers beside the live version's."""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections.abc import Mapping
from statistics import NormalDist

from vecmeta import intake
from vecmeta.catalogue.traffic import Tally, TrafficStore
from vecmeta.errors import InvalidConfig, InvalidJudgement
from vecmeta.servings import Servings
from vecmeta.types import Outcome, Split

RENEWED_AFTER = 1.0  # seconds after which a split that another process made or stopped is known here
MAX_SEARCH = 64  # characters of a search's id
_Z = NormalDist().inv_cdf(0.975)


class Traffic:
    """Splits and outcomes of one collection; made by `Collection.traffic`. Safe to use from several threads.

    Every method raises the StorageError family when the database fails.
    """

    def __init__(self, store: TrafficStore, servings: Servings) -> None:
        self._store, self._servings = store, servings
        self._known: tuple[float, Split | None] = (-math.inf, None)  # until when this is taken for true
        self._renewing = threading.Lock()

    def split(self) -> Split | None:
        """The split that is on. It ends with `stop`, and when its candidate goes live or is removed."""
        return self._renewed()

    def share(self, version: int, percent: float) -> Split:
        """Let a version answer a share of the searches that name none, instead of the live one; replaces the split before.

        Its index is opened first, so that no search waits for it. Another share for the same version keeps its users: who saw it at 5 %
        sees it at 20 %.

        Raises:
            VersionNotFound.
            InvalidConfig: the percentage is not above 0 and up to 100, or the version is live.
        """
        number = _version(version)
        if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 < percent <= 100:
            raise InvalidConfig(f"a share is a percentage above 0 and up to 100, not {percent!r}")
        self._servings.current(number)
        split = self._store.share(number, float(percent))
        self._renewed()
        return split

    def stop(self) -> None:
        """End the split: the live version answers everything. Does nothing without one."""
        self._store.stop()
        self._renewed()

    def choose(self, session: str | None = None) -> int | None:
        """The version that a search which names none is to ask: the candidate of the split, or None for the live one.

        One session always gets the same as long as the split lasts; without one it is drawn anew each time. Costs microseconds: what
        another process starts or stops is seen within a second. A split that another process started begins here once a thread has
        opened the candidate's index, so that no search waits for it. Raises InvalidConfig for a session that is no text.
        """
        if session is not None and not isinstance(session, str):
            raise InvalidConfig(f"a session is a text or None, not {session!r}")
        until, split = self._known
        if time.monotonic() >= until:
            split = self._renewed()
        if split is None or split.version == self._servings.answering:
            return None  # it has gone live meanwhile
        if session is None:
            drawn = random.random()
        else:
            text = f"{split.started.isoformat()} {session}".encode("utf-8", "surrogatepass")
            drawn = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()) / 2**56
        return split.version if drawn * 100 < split.percent and self._servings.at_hand(split.version) else None

    def searched(self, counts: Mapping[int, int]) -> None:
        """Add to the numbers of answers, by version. Raises InvalidConfig."""
        checked = {_version(version): count for version, count in counts.items()}
        for count in checked.values():
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
                raise InvalidConfig(f"a number of answers is a whole number from 0, not {count!r}")
        self._store.searched(checked)

    def clicked(self, search: str, version: int, item: str, rank: int | None = None) -> bool:
        """Store that an item of an answer was clicked; False when that was known. The item may have been deleted since.

        Args:
            search: the id of the answer, 1 to 64 characters.
            version: that answered.
            item: its id.
            rank: where it stood, from 1.

        Raises:
            InvalidJudgement, InvalidConfig (the version): names what cannot be taken.
        """
        number = _version(version)
        _text(search, "the id of a search", MAX_SEARCH)
        _text(item, "the id of an item", intake.MAX_ID)
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank < 2**31):
            raise InvalidJudgement(f"a rank is a whole number from 1, or None, not {rank!r}")
        return self._store.clicked(search, number, item, rank)

    def outcomes(self) -> list[Outcome]:
        """What came of the answers of each version that was counted, by version ascending."""
        return [_outcome(version, tally) for version, tally in self._store.tallies().items()]

    def _renewed(self) -> Split | None:
        # Read and kept under one lock: an older answer of the database must not replace a newer one.
        with self._renewing:
            split = self._store.split()
            self._known = time.monotonic() + RENEWED_AFTER, split
        return split


def wilson(hits: int, tries: int) -> tuple[float, float]:
    """The 95 % interval of a proportion, for tries > 0 (Wilson 1927, without continuity correction)."""
    centre = hits + _Z**2 / 2
    spread = _Z * math.sqrt(hits * (tries - hits) / tries + _Z**2 / 4)
    low, high = (centre - spread) / (tries + _Z**2), (centre + spread) / (tries + _Z**2)
    return max(min(low, hits / tries), 0.0), min(max(high, hits / tries), 1.0)  # against rounding


def _outcome(version: int, tally: Tally) -> Outcome:
    rate = low = high = None
    if tally.searches:
        # Clicks are stored at once, answers counted now and then: for a moment there can be more of the former.
        clicked = min(tally.clicked, tally.searches)
        rate, (low, high) = clicked / tally.searches, wilson(clicked, tally.searches)
    return Outcome(version, tally.searches, tally.clicked, tally.clicks, rate, low, high, tally.mean_reciprocal_rank)


def _version(version: object) -> int:
    number = intake.version_number(version)
    if number is None:
        raise InvalidConfig("the number of a version is needed, not None")
    return number


def _text(value: object, what: str, most: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= most or "\0" in value or not _encodes(value):
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        raise InvalidJudgement(f"{what} is a text of 1 to {most} characters without NUL, not {shown}")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
