"""Searches in process at equal recall, beside raw FAISS, Chroma, LanceDB and qdrant-client's local mode; with filters and without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.peers import FIELDS, OURS, Equal, Knob, chosen, described, matching, version_of
from vecmeta.bench.peers.worker import Worker
from vecmeta.bench.vectors import clustered, nearest, read
from vecmeta.types import Keys, Vectors

K = 10
HELD_OUT = 1_000  # rows that are not stored: queries to measure with, and others to choose knobs with
BLOCK = 100  # queries in a batch, all under the same filter
TUNING = 400  # of them at most for choosing knobs, and at least half as many
PART = 0.4  # of the time of a measurement, for one while knobs are chosen
FEW = 20  # queries in a batch while knobs are chosen, so that a slow engine can be broken off
TIMED = 50  # queries that tell how quick a way to search is
LESS = 0.0005  # recall that a peer may have less than ours when its knob is chosen
SETTINGS: dict[str, str | None] = {"no filter": None, "1 %": "shelf", "10 %": "decile", "50 %": "half"}
NOTES = (
    "every engine may use all cores, has a process of its own, and is measured while the others wait",
    f"a peer's knob is the smallest one whose recall@{K} on other queries reaches the target, or ours less {LESS:g} where that is less; "
    "of several ways to search the quickest one that does; ours is not tuned",
    "hits come with ids and metadata; raw FAISS gives ids alone, and its filters are made ready beforehand; numpy as well, in no order, "
    "which is no engine but what a matrix product over the rows of a filter takes that is known beforehand",
    "qdrant-client's local mode is exact and in memory; what takes too long is measured with fewer queries (asked) and smaller batches",
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries of a file with their filters and their true neighbours."""

    file: Path
    rows: range
    truth: dict[str, Keys]  # by setting: (queries, k)

    def value(self, setting: str, row: int) -> list[Any]:
        """Field and value of the filter of a row: a block of queries has the same."""
        field = SETTINGS[setting]
        return [None, None] if field is None else [field, described((row // BLOCK) % FIELDS[field])[field]]

    def singles(self, setting: str) -> list[list[Any]]:
        """One query at a time, the blocks in turn, so that a filter is seldom the one before it."""
        order = sorted(self.rows, key=lambda row: (row % BLOCK, row // BLOCK))
        return [[row, *self.value(setting, row)] for row in order]

    def batches(self, setting: str, size: int = BLOCK) -> list[list[Any]]:
        """A block at a time, or in parts of this size."""
        parts = [
            range(block + first, min(block + first + size, block + BLOCK))
            for block in range(self.rows.start, self.rows.stop, BLOCK)
            for first in range(0, BLOCK, size)
        ]
        return [[list(part), *self.value(setting, part.start)] for part in parts]

    def recall(self, setting: str, rows: Sequence[int], found: Sequence[Sequence[int]]) -> float:
        """Of the true neighbours of these rows."""
        true = self.truth[setting]
        shares = [
            len({*numbers} & {*true[row - self.rows[0]].tolist()}) / true.shape[1]
            for row, numbers in zip(rows, found, strict=False)
        ]
        return float(np.mean(shares))


@dataclass(frozen=True, slots=True)
class Choice:
    """How an engine searches in a setting: one query at a time, and batches."""

    one: Knob
    many: Knob
    target: float
    reached: bool
    p50: float  # seconds, as it was when the knob was chosen


@dataclass(slots=True)
class Runner:
    """One engine with what it is asked."""

    worker: Worker
    tuning: Asked
    test: Asked
    budget: float  # seconds of one measurement

    def tune(self, setting: str, target: float) -> Choice:
        """The smallest knob of every way that reaches the target, and of those the quickest, for one and for many."""
        tried = [self._smallest(setting, ladder, target) for ladder in self.plans(setting)]
        reach = [t for t in tried if t[1] >= target]
        if not reach:
            knob, _, p50 = max(tried, key=lambda t: t[1])
            return Choice(knob, knob, target, False, p50)
        one = many = min(reach, key=lambda t: t[2])
        if len(reach) > 1:
            many = min(reach, key=lambda t: self._many(setting, t[0], self._size(t[2]), self.tuning, PART)["seconds"])
        return Choice(one[0], many[0], target, True, many[2])

    def plans(self, setting: str) -> list[list[Knob]]:
        """The engine's ways to search."""
        found: list[list[Knob]] = self.worker.ask("plans", where=SETTINGS[setting])["plans"]
        return found

    def recall(self, setting: str, knob: Knob) -> float:
        """On the tuning queries."""
        return float(self._many(setting, knob, FEW, self.tuning, PART)["recall"])

    def _smallest(self, setting: str, ladder: list[Knob], target: float) -> tuple[Knob, float, float]:
        """The knob, its recall, its median seconds; recall grows along the ladder. The last knob when none reaches the target."""
        low, high, recalls = 0, len(ladder) - 1, dict[int, float]()
        while low < high:
            middle = (low + high) // 2
            recalls[middle] = self.recall(setting, ladder[middle])
            low, high = (low, middle) if recalls[middle] >= target else (middle + 1, high)
        recall, seconds = self._one(setting, ladder[low], self.tuning, TIMED)
        if len(ladder) > 1:  # else it is exact, or vecmeta's; one query at a time can be broken off sooner
            recall = recalls[low] if low in recalls else self.recall(setting, ladder[low])
        return ladder[low], recall, float(np.median(seconds))

    def measure(self, setting: str, choice: Choice) -> dict[str, float]:
        """One round."""
        recall, seconds = self._one(setting, choice.one, self.test)
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        many = self._many(setting, choice.many, self._size(choice.p50), self.test)
        return {
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "per_second": 1 / many["seconds"],
            "recall": recall,
            "batch_recall": many["recall"],
            "asked": len(seconds),
            "batch": self._size(choice.p50),
        }

    def _size(self, p50: float) -> int:
        """Of a batch that may be expected to end in time."""
        return max(1, min(BLOCK, int(self.budget / p50)))

    def _one(self, setting: str, knob: Knob, asked: Asked, most: int | None = None) -> tuple[float, list[float]]:
        singles = asked.singles(setting)[:most]
        reply = self.worker.ask("one", queries=str(asked.file), k=K, asked=singles, knob=knob, seconds=self.budget)
        return asked.recall(setting, [row for row, *_ in singles], reply["found"]), reply["seconds"]

    def _many(self, setting: str, knob: Knob, size: int, asked: Asked, part: float = 1) -> dict[str, float]:
        """Seconds of a query, recall."""
        batches = asked.batches(setting, size)
        reply = self.worker.ask("many", queries=str(asked.file), k=K, asked=batches, knob=knob, seconds=part * self.budget)
        each = [seconds / len(rows) for seconds, (rows, *_) in zip(reply["seconds"], batches, strict=False)]
        rows = [row for rows, *_ in batches for row in rows]
        found = [numbers for answer in reply["found"] for numbers in answer]
        return {"seconds": float(np.median(each)), "recall": asked.recall(setting, rows, found)}


def run(
    *, count: int = 100_000, dim: int = 384, vectors: Path | None = None, peers: Sequence[str] | None = None, recall: float = 0.98,
    queries: int = 300, rounds: int = 3, seed: int = 0, adapted: bool = True, budget: float = 5, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fill every engine with the same vectors and metadata, choose the peers' knobs, then measure in rounds, one engine after the other.

    Args:
        count, dim: of made-up clustered vectors.
        vectors: a .npy file of (n, dim) vectors instead; its last 1,000 rows are the queries.
        peers: of `vecmeta.bench.peers.PEERS`; None: those that are installed.
        recall: recall@10 that the peers' knobs are chosen for.
        queries: to measure with, a multiple of 100 up to 800; up to 400 others are for choosing knobs.
        adapted: measure vecmeta a second time, once an adaptation has gone live.
        budget: seconds at most of one measurement of one engine.

    Returns:
        ``engines``: version, seconds to add and to finish, memory; ``rows``: for every setting and engine the medians over rounds of
        p50_ms and p99_ms (one query at a time), per_second (batches of 100), the recall reached, the knobs; ``ratios`` of ours to each.

    Raises:
        InvalidConfig: a number out of its range, a file that is none of vectors, a peer that is unknown or not installed.
    """
    names = chosen(peers)
    if queries % BLOCK or not BLOCK <= queries <= HELD_OUT - TUNING // 2:
        raise vm.InvalidConfig(f"queries is a multiple of {BLOCK} from {BLOCK} to {HELD_OUT - TUNING // 2}, not {queries}")
    if not 0 < recall <= 1 or rounds < 1 or budget <= 0 or dim < 1:
        raise vm.InvalidConfig(f"recall lies in (0, 1], rounds and dim are 1 or more, not {recall}, {rounds} and {dim}")
    if vectors is None and count < K * max(FIELDS.values()):
        raise vm.InvalidConfig(
            f"count is {K * max(FIELDS.values()):,} or more, so that every filter matches {K} items, not {count}"
        )
    rows = clustered(count + HELD_OUT, dim, seed) if vectors is None else read(vectors, HELD_OUT + K * max(FIELDS.values()) - 1)
    engines = [*(OURS if adapted else OURS[:1]), *names]
    steps = len(engines) + len(SETTINGS) * (1 + rounds)
    tell, done = progress or (lambda *_: None), 0
    facts: dict[str, Any] = {
        **machine(),
        "settings": {
            "count": len(rows) - HELD_OUT,
            "dim": rows.shape[1],
            "vectors": None if vectors is None else vectors.name,
            "k": K,
            "recall": recall,
            "queries": queries,
            "rounds": rounds,
            "seed": seed,
        },
        "notes": list(NOTES),
        "engines": {},
    }
    measured: dict[tuple[str, str], list[dict[str, float]]] = {}
    choices: dict[tuple[str, str], Choice] = {}
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        np.save(folder / "stored.npy", rows[:-HELD_OUT])
        np.save(folder / "queries.npy", rows[-HELD_OUT:])
        del rows
        runners: dict[str, Runner] = {}
        plain: tuple[Asked, Asked] | None = None
        for name in engines:
            tell(f"filling {name}", done, steps)
            worker = Worker(name, folder / name, facts["settings"]["dim"], seed)
            stack.callback(worker.close)
            facts["engines"][name] = {"version": version_of(name), **worker.ask("fill", rows=str(folder / "stored.npy"))}
            if plain is None:
                plain = _asked(folder / "queries.npy", folder / "stored.npy", folder / "queries.npy", queries)
            asked = plain if name != OURS[1] else _of_space(worker, folder, queries)
            runners[name] = Runner(worker, *asked, budget)
            done += 1
        for setting in SETTINGS:
            tell(f"knobs, {setting}", done, steps)
            own = runners[OURS[0]].recall(setting, runners[OURS[0]].plans(setting)[0][0])
            for name, runner in runners.items():
                choices[setting, name] = runner.tune(setting, 0.0 if name in OURS else min(recall, own - LESS))
            done += 1
        for number in range(rounds):
            for setting in SETTINGS:
                tell(f"round {number + 1}, {setting}", done, steps)
                for name, runner in runners.items():
                    measured.setdefault((setting, name), []).append(runner.measure(setting, choices[setting, name]))
                done += 1
    tell("done", steps, steps)
    facts["rows"] = [
        {
            "setting": setting,
            "engine": name,
            **{figure: float(np.median([one[figure] for one in found])) for figure in found[0]},
            "knob": choices[setting, name].one,
            "batch_knob": choices[setting, name].many,
            "target": None if name in OURS else choices[setting, name].target,
            "reached": choices[setting, name].reached,
        }
        for (setting, name), found in measured.items()
    ]
    facts["ratios"] = ratios(facts["rows"])
    return facts


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours divided by each peer's, by setting: p50 and p99 of one query (less is better), the rate of batches (more is better)."""
    return [
        {
            "setting": ours["setting"],
            "engine": ours["engine"],
            "peer": peer["engine"],
            "p50": ours["p50_ms"] / peer["p50_ms"],
            "p99": ours["p99_ms"] / peer["p99_ms"],
            "rate": ours["per_second"] / peer["per_second"],
        }
        for ours in rows
        if ours["engine"] in OURS
        for peer in rows
        if peer["engine"] not in OURS and peer["setting"] == ours["setting"]
    ]


def _asked(file: Path, stored: Path, queries: Path, count: int) -> tuple[Asked, Asked]:
    """Tuning queries and test queries of a file, with exact neighbours by stored vectors and queries as the engine compares them."""
    rows, sought = np.load(stored, mmap_mode="r"), np.load(queries)
    parts = range(count, min(count + TUNING, HELD_OUT)), range(count)
    tuning, test = (Asked(file, part, {}) for part in parts)
    for asked in (tuning, test):
        for setting in SETTINGS:
            asked.truth[setting] = np.concatenate([
                _true(sought[asked.rows[start : start + BLOCK]], rows, asked.value(setting, asked.rows[start]))
                for start in range(0, len(asked.rows), BLOCK)
            ])  # fmt: skip
    return tuning, test


def _true(queries: Vectors, rows: Vectors, where: list[Any]) -> Keys:
    field, value = where
    if field is None:
        return nearest(queries, rows, K)
    those = matching(Equal(field, value), len(rows))
    found: Keys = those[nearest(queries, rows[those], K)]
    return found


def _of_space(worker: Worker, folder: Path, count: int) -> tuple[Asked, Asked]:
    """What is near once the vectors have been moved."""
    for name in ("stored", "queries"):
        worker.ask("space", given=str(folder / f"{name}.npy"), out=str(folder / f"moved-{name}.npy"))
    return _asked(folder / "queries.npy", folder / "moved-stored.npy", folder / "moved-queries.npy", count)
