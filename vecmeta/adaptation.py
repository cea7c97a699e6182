"""One adaptation from end to end: judgements -> episode -> measured candidate -> index -> swap -> report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from vecmeta import intake
from vecmeta.catalogue.versions import VersionStore
from vecmeta.errors import InvalidConfig
from vecmeta.evaluate import Gate
from vecmeta.judged import Taught, lesson
from vecmeta.meta import sentinel
from vecmeta.meta.episodes import Episode, Statistics
from vecmeta.meta.fitting import fit, start_of
from vecmeta.meta.head import Head, MemoryHead
from vecmeta.meta.methods import checked
from vecmeta.meta.projecting import projector
from vecmeta.meta.start import Start
from vecmeta.preview import cost
from vecmeta.promotion import Candidate, Clock, heard, publish
from vecmeta.servings import Servings
from vecmeta.spaces import Space
from vecmeta.threads import single_blas
from vecmeta.trial import STRENGTHS, Background, best_strength, drift, judge, measure
from vecmeta.types import Decision, Progress, Report


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asked for. Raises InvalidConfig."""

    method: str
    dry_run: bool
    strength: float | None
    seed: int
    start: str | Path | None = None  # a file; None: the shipped start of the method
    activate: bool = True  # go live if promoted
    bridge: bool | None = None  # before the index is built; None: as the database was opened

    def __post_init__(self) -> None:
        if self.bridge is not None and not isinstance(self.bridge, bool):
            raise InvalidConfig(f"bridge is True, False or None, not {self.bridge!r}")
        checked(self.method)
        intake.start_file(self.start)
        intake.strength(self.strength)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidConfig(f"a seed is a whole number from 0, not {self.seed!r}")


def adapt(
    space: Space,
    versions: VersionStore,
    servings: Servings,
    device: str,
    wish: Wish,
    progress: Progress | None,
) -> Report:
    """See `vecmeta.Collection.adapt`. The head is learned for the encoder of the live version, whose `space` it is."""
    clock = Clock(progress)
    with clock.stage("reading"):
        start = start_of(wish.method, None if wish.start is None else Path(wish.start))
        told = heard(space, versions, wish.dry_run)
        taught, said, figures = told.taught, dict(told.said), dict(told.counted)
        if told.lacking is not None:
            return told.insufficient(told.lacking, clock)
        sample = space.sampler.sample(wish.seed)
        stats = sample.stats
        if stats is None:  # all items that were judged have just been deleted
            return told.insufficient("the collection is empty", clock)
        labelled = {name for name, is_item in zip(taught.rows, taught.is_item.tolist(), strict=True) if is_item}
        free = [row for row, id in enumerate(sample.ids) if id not in labelled]
        background = Background(sample.vectors[free], tuple(sample.ids[row] for row in free))
    # BLAS on one thread: having computed on two, its second one looks for more work for some 20 ms, in the way of what comes next.
    with clock.stage("adapting"), single_blas():
        where = torch_device(device)

        def learn(episode: Episode) -> MemoryHead:
            return fit(start, episode, stats, device=where, seed=wish.seed)

        everything = lesson(taught, taught.y)
        head: Head = learn(everything)
        if "familiar" in start.provenance:
            figures["shift"], note = sentinel.shift(start.provenance["familiar"], everything, stats)
            said["notes"] = () if note is None else (note,)
        # a start's record says nothing of judgements that are unlike all it was measured on
        record = start.record if not said.get("notes") else 0.0
    with clock.stage("evaluating"), single_blas():
        gate = Gate()
        strengths = STRENGTHS if wish.strength is None else (float(wish.strength),)
        best = best_strength(measure(taught, background, learn, wish.seed, strengths), gate)
        head = head.with_strength(best.strength)
        drifted = drift(head, background, wish.seed)
        promote, reason, metrics = judge(gate, best, drifted, wish.seed, record)
    decision: Decision = "promoted" if promote else "kept"
    report = Report(decision, None, reason, {**metrics, **figures}, drifted.harmed, drifted.changed, **said)
    if wish.dry_run:
        return replace(report, cost=cost(space.items, servings, projector(head, where)), seconds=clock.total())
    row = {"method": wish.method, "strength": best.strength, "judgements": taught.count}
    made_of = _made_of(wish, start, taught, stats)
    candidate = Candidate(made_of, head, row, report, projector(head, where), space.number)
    return publish(candidate, versions, servings, told.expected, clock, activate=wish.activate, bridge=wish.bridge)


def _made_of(wish: Wish, start: Start, taught: Taught, stats: Statistics) -> str:
    """The hash of everything that a version is a function of."""
    made_of = hashlib.sha256(json.dumps([wish.method, wish.seed, wish.strength, start.hash, taught.digest()]).encode())
    for array in (stats.mean, stats.background, stats.counts):
        made_of.update(array.tobytes())
    return made_of.hexdigest()


def torch_device(device: str) -> str:
    """What torch calls `device`; "auto" is a GPU where there is one, but not Apple's, which lacks some of the operations. Imports torch.

    Raises EncoderUnavailable: this machine has no such device.
    """
    import torch

    from vecmeta.encoders import weights

    if device != "auto":
        return weights.torch_device(device)
    return "cuda" if torch.cuda.is_available() else "cpu"
