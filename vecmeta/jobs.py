"""Long work that outlives the one who asked for it: submitted here, done by a `vecmeta.worker.Worker` of any process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vecmeta import intake
from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.catalogue.jobs import FINISHED, LONGEST_DEBOUNCE
from vecmeta.errors import InvalidConfig
from vecmeta.finetune.config import FinetuneConfig, collections_transfers, named_source
from vecmeta.meta.methods import NAMES, checked
from vecmeta.types import Job, JobState

MAX_DELAY = 30 * 86_400.0  # seconds
_ADAPT: dict[str, Any] = {  # what an adaptation can be asked for, and what silence means
    "method": NAMES[0], "dry_run": False, "strength": None, "seed": 0, "start": None, "activate": True, "bridge": None,
}  # fmt: skip
_FINETUNE: dict[str, Any] = {  # likewise a fine-tuning
    "mode": FinetuneConfig().mode, "transfer": [], "field": None, "source": None, "method": NAMES[0], "config": {}, "dry_run": False,
    "seed": 0, "activate": True,
}  # fmt: skip
KINDS = {"adapt": _ADAPT, "finetune": _FINETUNE}


class Jobs:
    """The jobs of a database; `Database.jobs`. Raises the StorageError family when the database fails."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.store = catalogue.jobs()

    def submit(self, collection: str, kind: str = "adapt", params: Mapping[str, Any] | None = None, *, delay: float = 0.0) -> Job:
        """Ask for work on a collection; returns the job, which may be one that was queued already and wants the same.

        Args:
            kind: "adapt" or "finetune".
            params: of `Collection.adapt`: method, dry_run, strength, seed, start, activate, bridge; or of `Collection.finetune`: mode,
                transfer, field, source (a name), method, config, dry_run, seed, activate.
            delay: seconds to wait before it starts; a job that is waiting already waits on from now. Without a delay it is due at once.

        Raises:
            CollectionNotFound, InvalidConfig.
        """
        wish = _params(kind, {} if params is None else params)
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay <= MAX_DELAY:
            raise InvalidConfig(f"a delay is a number of seconds from 0 to {MAX_DELAY:,.0f}, not {delay!r}")
        if wish.get("source") is not None:
            self._catalogue.collection(named_source(wish["source"])[0])  # raises here, and not hours later
        return self.store.submit(self._catalogue.collection(collection).id, kind, wish, delay, partial(_meant, kind))

    def feedback_given(self, collection: str) -> Job | None:
        """Tell that judgements came in: submits an adaptation if the collection's policy wants one now, and returns it.

        It starts once no more feedback came for `Policy.debounce` seconds, at the latest after ten times that.

        Raises:
            CollectionNotFound.
        """
        id = self._catalogue.collection(collection).id
        told = self.store.unheard(id)
        if told is None:
            return None
        policy, unheard = told
        if policy.auto_adapt is None or unheard < policy.auto_adapt:
            return None
        return self.store.submit(id, "adapt", {}, policy.debounce, partial(_meant, "adapt"), LONGEST_DEBOUNCE * policy.debounce)

    def get(self, id: str) -> Job:
        """One job. Raises JobNotFound."""
        return self.store.get(_id(id))

    def list(
        self,
        collection: str | None = None,
        *,
        states: Iterable[JobState] | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first: of one collection, in some states, and older than the job `before`.

        Raises:
            CollectionNotFound, JobNotFound (no `before`), InvalidConfig.
        """
        wanted = None if states is None else intake.listed(states if isinstance(states, str) else [*states])
        for state in wanted or ():
            if state not in get_args(JobState):
                raise InvalidConfig(f"unknown state {state!r} of jobs; known: {', '.join(get_args(JobState))}")
        owner = None if collection is None else self._catalogue.collection(collection).id
        return self.store.list(owner, wanted, intake.top(limit, "limit"), None if before is None else _id(before))

    def cancel(self, id: str) -> Job:
        """Cancel a job: at once if it is queued; if it runs, its worker stops soon and leaves nothing; if it is finished, it stays so.

        Raises:
            JobNotFound.
        """
        return self.store.cancel(_id(id))

    def counts(self) -> dict[tuple[str, str], int]:
        """How many jobs there are, by (kind, state)."""
        return self.store.counts()

    def wait(self, id: str, timeout: float = math.inf) -> Job:
        """The job once it is finished, or as it is after `timeout` seconds. Raises JobNotFound, also if the collection is dropped."""
        end, pause = time.monotonic() + timeout, 0.05
        while True:
            job = self.get(id)
            left = end - time.monotonic()
            if job.state in FINISHED or left <= 0:
                return job
            time.sleep(min(pause, left))
            pause = min(0.25, pause * 1.2)


def _meant(kind: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Params with what was left to silence: two requests are the same if these are."""
    return {**KINDS[kind], **params}


def _params(kind: object, params: object) -> dict[str, Any]:
    """What a job is asked for, as JSON can hold it. Raises InvalidConfig."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidConfig(f"unknown kind {kind!r} of job; known: {', '.join(KINDS)}")
    if not isinstance(params, Mapping):
        raise InvalidConfig(f"the params of a job are an object such as {{'method': 'maml'}}, not {params!r}")
    wish = dict(params)
    unknown = [name for name in wish if name not in KINDS[kind]]
    if unknown:
        what = "an adaptation" if kind == "adapt" else "a fine-tuning"
        raise InvalidConfig(f"{what} has no setting {unknown[0]!r}; known: {', '.join(KINDS[kind])}")
    if "method" in wish:
        checked(wish["method"])
    for name in ("dry_run", "activate"):
        if not isinstance(wish.get(name, True), bool):
            raise InvalidConfig(f"{name} is true or false, not {wish[name]!r}")
    if not isinstance(wish.get("bridge"), bool | None):
        raise InvalidConfig(f"bridge is true, false or null, not {wish['bridge']!r}")
    if kind == "finetune":
        _finetuning(wish)
    intake.strength(wish.get("strength"))
    seed, start = wish.get("seed", 0), intake.start_file(wish.get("start"))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidConfig(f"a seed is a whole number from 0 to 2**63 - 1, not {seed!r}")
    if start is not None:
        wish["start"] = str(Path(start).absolute())  # the worker may stand in another folder
    return wish


def _finetuning(wish: dict[str, Any]) -> None:
    """Check what a fine-tuning alone has, and bring it into a form that JSON can hold. Raises InvalidConfig."""
    config = wish.get("config", {})
    if not isinstance(config, Mapping):
        raise InvalidConfig(f"config is an object of settings such as {{'rate': 1e-4}}, not {config!r}")
    source = wish.get("source")
    if source is not None:
        named_source(source)
    collections_transfers(wish.get("transfer", ()), source)
    for name in config:
        if name in KINDS["finetune"] or name not in FinetuneConfig.__dataclass_fields__:
            raise InvalidConfig(f"a fine-tuning has no setting {name!r}")
    mode = {"mode": wish["mode"]} if wish.get("mode") is not None else {}
    FinetuneConfig(**{**config, **mode, "transfer": wish.get("transfer", ())})
    if wish.get("field") is not None and (not isinstance(wish["field"], str) or not wish["field"]):
        raise InvalidConfig(f"field is the name of a metadata field, not {wish['field']!r}")
    if "transfer" in wish:
        wish["transfer"] = [wish["transfer"]] if isinstance(wish["transfer"], str) else list(wish["transfer"])


def _id(id: object) -> str:
    if not isinstance(id, str):
        raise InvalidConfig(f"the id of a job is a text of 32 hexadecimal digits, not {id!r}")
    return id
