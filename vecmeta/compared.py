"""How held-out judgements are ranked by the untouched encoder, by a head on it, by a fine-tuned encoder, and by a head on that.

An exam is one split, see `vecmeta.folds.exam`: neither the encoder nor the heads have seen what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from vecmeta.catalogue.items import ItemStore
from vecmeta.encoders.parts import encoded
from vecmeta.encoders.protocol import Encoder
from vecmeta.evaluate import Gate
from vecmeta.folds import Fold
from vecmeta.judged import Taught, lesson
from vecmeta.labels import contents_of
from vecmeta.meta.episodes import Episode, Statistics, statistics
from vecmeta.meta.fitting import fit
from vecmeta.meta.head import Head, IdentityHead, MemoryHead
from vecmeta.meta.start import Start
from vecmeta.spaces import Space
from vecmeta.trial import STRENGTHS, Background, Measured, best_strength, drift, judge, measure, quality
from vecmeta.types import Content, Vectors

UNLABELLED = 1500  # items that nobody labelled: distractors of the exam, what relations are kept of, the statistics of a head
LEAST_FREE = 20  # fewer cannot tell what becomes of them


@dataclass(frozen=True, eq=False)
class Free:
    """Items that nobody labelled: base vectors (m, dim), ids, contents; and how many items there are in all."""

    x: Vectors
    ids: tuple[str, ...]
    contents: list[Content]
    count: int
    foreign: bool  # False: nearly everything is labelled, and labelled items stand for the collection


def unlabelled(own: Space, labelled: set[str], seed: int) -> Free:
    """UNLABELLED items that are none of the labelled ones; where there are hardly any, some of all items."""
    sample = own.sampler.sample(seed)
    rows = [row for row, id in enumerate(sample.ids) if id not in labelled]
    foreign = len(rows) >= LEAST_FREE
    if not foreign:
        rows = list(range(len(sample.ids)))
    rows = sorted(np.random.default_rng(seed).permutation(rows)[:UNLABELLED].tolist())
    ids = tuple(sample.ids[row] for row in rows)
    assert isinstance(own.items, ItemStore)
    found = own.items.get(ids)
    there = [place for place, id in enumerate(ids) if id in found]
    contents = [cast(Content, found[ids[place]].content) for place in there]
    x, ids = sample.vectors[[rows[place] for place in there]], tuple(ids[place] for place in there)
    return Free(x, ids, contents, sample.count, foreign)


@dataclass(frozen=True, eq=False)
class Compared:
    """How held-out judgements are ranked: by a head on the untouched encoder (None: not measured), the fine-tuned encoder, both."""

    adapt: Measured | None
    encoder: Measured
    both: list[Measured]

    def parts(self) -> dict[str, float]:
        """What each part brought, for the metrics."""
        found = {}
        for name, measured in (("adapt", self.adapt), ("encoder", self.encoder)):
            for part in ("fed", "unfed"):
                if measured is not None and len(measured.gain(part)):
                    found[f"{part}_gain_{name}"] = float(measured.gain(part).mean())
        return found

    def told(self, best: Measured) -> tuple[str, ...]:
        """The same in words."""
        if self.adapt is None:
            return ()
        times = [f"{2 ** float(m.gain('fed').mean()):.2f}" for m in (self.adapt, self.encoder, best)]
        return (
            f"what each part brings held-out items nearer to the top: a head on the untouched encoder {times[0]} times, the fine-tuned "
            f"encoder alone {times[1]} times, both {times[2]} times",
        )


@dataclass(frozen=True, eq=False)
class Examiner:
    """What heads are learned with."""

    start: Start
    free: Free
    device: str
    seed: int

    def exam(self, before: Taught, after: Taught, after_free: Vectors, parts: Sequence[Fold], *, heads: bool) -> Compared:
        """Rank what is held out; `after` are the judgements and `after_free` the unlabelled items under the fine-tuned encoder."""
        base = self._ranked(before, self.free.x, parts, None, (0.0,))[0]
        tuned = self._ranked(after, after_free, parts, None, (0.0,))[0]
        groups = {part: np.concatenate([f.groups for f in parts if f.part == part] or [np.empty(0, np.int64)]) for part in tuned}

        def measured(strength: float, found: dict[str, Any]) -> Measured:
            return Measured(strength, base, found, groups)

        alone = measured(0.0, tuned)
        if not heads:
            return Compared(None, alone, [alone])
        left = parts[0].y
        old, new = (self._learned(lesson(t, left), self._stats(x)) for t, x in ((before, self.free.x), (after, after_free)))
        adapted = [
            measured(s, f) for s, f in zip(STRENGTHS, self._ranked(before, self.free.x, parts, old, STRENGTHS), strict=True)
        ]
        both = [measured(s, f) for s, f in zip(STRENGTHS, self._ranked(after, after_free, parts, new, STRENGTHS), strict=True)]
        return Compared(best_strength(adapted, Gate()), alone, [*both, alone])

    def _ranked(
        self, taught: Taught, free: Vectors, parts: Sequence[Fold], head: Head | None, strengths: Sequence[float]
    ) -> list[dict[str, Any]]:
        # among those that nobody labelled; labelled ones would count as irrelevant here where they belong to what is asked for
        everything = np.concatenate((taught.x, free if self.free.foreign else free[:0]))
        found = []
        for strength in strengths:
            z = everything if head is None else head.with_strength(strength).project(everything)
            ranked: dict[str, Any] = {"fed": np.empty(0), "unfed": np.empty(0)}
            for fold in parts:
                ranked[fold.part] = quality(z, fold, ~(fold.y != 0).any(1) & taught.is_item)
            found.append(ranked)
        return found

    def head(self, under: Taught, free: Vectors) -> MemoryHead:
        """From all judgements, on the fine-tuned encoder."""
        return self._learned(lesson(under, under.y), self._stats(free))

    def head_of_log(self, own: Space, taught: Taught, lacking: str | None, encoder: Encoder, free: Vectors, gate: Gate) -> Head:
        """From the judgements, which the encoder did not learn from, if it passes the gate of adaptations; otherwise none."""
        if lacking is not None:
            return IdentityHead(encoder.dim)
        under = replace(taught, x=encoded(encoder, contents_of(own, taught), "evaluating", None))
        background, stats = Background(free, self.free.ids), self._stats(free)
        best = best_strength(measure(under, background, lambda e: self._learned(e, stats), self.seed), gate)
        head = self._learned(lesson(under, under.y), stats).with_strength(best.strength)
        passed, _, _ = judge(gate, best, drift(head, background, self.seed), self.seed, self.start.record)
        return head if passed else head.with_strength(0.0)

    def _learned(self, episode: Episode, stats: Statistics) -> MemoryHead:
        return fit(self.start, episode, stats, device=self.device, seed=self.seed)

    def _stats(self, free: Vectors) -> Statistics:
        return statistics(free, self.free.count, self.seed)
