"""Judgements, adaptation and versions of a collection on a service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from vecmeta import intake
from vecmeta.catalogue.jobs import FINISHED
from vecmeta.client.errors import ServiceError, named
from vecmeta.client.jobs import cancelled, submitted, watched
from vecmeta.client.link import Steps
from vecmeta.client.records import batches, judgement_of, report_of, sent_judgement, version_of
from vecmeta.client.verbs import Speaker, fact, verb
from vecmeta.errors import Cancelled, CollectionNotFound, InvalidConfig, JobNotFound, VecmetaError, VersionNotFound
from vecmeta.finetune.config import Mode
from vecmeta.types import Job, Judgement, Policy, Progress, Report, Understood, Version

PAGE = 500  # judgements of one answer


class TeachingVerbs(Speaker):
    """What a collection is, and the verbs that teach it."""

    def __init__(self, link: Any, http: Any, about: Mapping[str, Any]) -> None:
        super().__init__(link, http)
        self._about = about

    @property
    def name(self) -> str:
        """Its name in the database."""
        return str(self._about["name"])

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return int(self._about["dim"])

    @property
    def encoder_name(self) -> str:
        """The encoder, with the hash of its weights."""
        return str(self._about["encoder"])

    @property
    def modality(self) -> Literal["text", "image", "vector"] | None:
        """What it takes as contents; None when its encoder is an object that the service does not have."""
        modality: Literal["text", "image", "vector"] | None = self._about["modality"]
        return modality

    @fact
    def live(self) -> Steps[int]:
        """The number of the live version; 0 is the untouched encoder."""
        return int((yield from self._ask("GET"))["live"])

    @fact
    def ready(self) -> Steps[bool]:
        """Whether the live version's index is in the service's memory and complete, so that a search need not wait for it."""
        return bool((yield from self._ask("GET"))["ready"])

    @fact
    def policy(self) -> Steps[Policy]:
        """When it adapts by itself; see `set_policy`."""
        about = yield from self._ask("GET", "/policy")
        return Policy(about["auto_adapt"], about["debounce"])

    @verb
    def set_policy(self, policy: Policy) -> Steps[None]:
        """Say when it adapts by itself, which the service then does. Raises InvalidConfig."""
        if not isinstance(policy, Policy):
            raise InvalidConfig(f"a policy is a vecmeta.Policy, not {policy!r}")
        yield from self._ask("PUT", "/policy", {"auto_adapt": policy.auto_adapt, "debounce": policy.debounce})

    # -- judgements ----------------------------------------------------------------------------------------------------------

    @verb
    def feedback(self, judgements: Iterable[Judgement]) -> Steps[Understood]:
        """Store judgements; says how many were new, repeated, or changed an earlier one.

        All or none of what one request holds: up to 256 judgements or 8 MB.

        Raises:
            InvalidJudgement: not a judgement, or a query of the wrong kind.
            ItemNotFound: names the first item that is not there.
        """
        rows = [sent_judgement(judgement, n, self.name, self.dim) for n, judgement in enumerate(judgements)]
        new = duplicate = contradicting = 0
        for batch in batches(rows):
            told = yield from self._ask("POST", "/feedback", {"judgements": batch})
            new, duplicate, contradicting = (
                new + told["new"],
                duplicate + told["duplicate"],
                contradicting + told["contradicting"],
            )
        return Understood(new, duplicate, contradicting)

    @verb
    def judgements(self, offset: int = 0, limit: int | None = None) -> Steps[list[Judgement]]:
        """The log, oldest first, without its first `offset` judgements; at most `limit` of it. Raises InvalidConfig."""
        start = intake.whole(offset, "offset", 0)
        most = None if limit is None else intake.whole(limit, "limit", 1)
        log: list[Judgement] = []
        while True:
            size = PAGE if most is None else min(PAGE, most - len(log))
            page = yield from self._ask("GET", "/judgements", params={"offset": start + len(log), "limit": size})
            log += map(judgement_of, page["judgements"])
            if len(page["judgements"]) < PAGE or len(log) == most:
                return log

    @verb
    def judgement_count(self) -> Steps[int]:
        """How long the log is."""
        return int((yield from self._ask("GET", "/judgements", params={"limit": 1}))["total"])

    @verb
    def contradictions(self, limit: int = 100) -> Steps[list[str]]:
        """Where the judgements that count contradict each other, at most `limit` sentences. Raises InvalidConfig."""
        told = yield from self._ask("GET", "/contradictions", params={"limit": intake.top(limit, "limit")})
        return list(told["contradictions"])

    # -- adaptation ----------------------------------------------------------------------------------------------------------

    @verb
    def adapt(
        self,
        method: str = "maml",
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        strength: float | None = None,
        seed: int = 0,
        activate: bool = True,
        bridge: bool | None = None,
    ) -> Steps[Report]:
        """Learn a head from all judgements, measure it on held-out ones, and make it live if it is better.

        The service does it, as a job; this waits for it. Ctrl-C, and a task that is cancelled, cancel the job. If the service cannot be
        reached any more the job goes on: the error's note names it.

        Args:
            method: "maml", the memory head with its inner loop, or another one of `vecmeta.meta.methods.NAMES`.
            dry_run: measure and report, also what building it would cost; store nothing.
            progress: called with (stage, done, total), the stages being the states of a job; raise vecmeta.Cancelled in it to cancel.
            strength: in (0, 1], how far vectors are moved; None chooses it on held-out judgements.
            seed: of folds and samples.
            activate: False stores what would be promoted, with its index built, and leaves going live to `activate`.
            bridge: True makes it live before its index is built; until then the old one answers for it, as `vecmeta.Collection.adapt` says.
                None is what the service was started with.

        Returns:
            What was decided and why; see `vecmeta.Report`.

        Raises:
            InvalidConfig: unknown method, strength outside its range.
            Cancelled: somebody cancelled the job.
            StorageFull and others: why the job failed; the live version is untouched.
        """
        wish = {"method": method, "dry_run": dry_run, "strength": strength, "seed": seed, "activate": activate, "bridge": bridge}
        return (yield from self._reported("adapt", wish, progress))

    @verb
    def finetune(
        self,
        mode: Mode | None = None,
        *,
        transfer: str | Sequence[str] = (),
        field: str | None = None,
        source: str | None = None,
        method: str = "maml",
        config: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        seed: int = 0,
        activate: bool = True,
    ) -> Steps[Report]:
        """Fine-tune the encoder where adapting its output is not enough; as `vecmeta.Collection.finetune`, and waited for as `adapt` is.

        Raises:
            InvalidConfig: own vectors, settings out of range, nothing to learn from.
            Cancelled: somebody cancelled the job.
            StorageFull and others: why the job failed; the live version is untouched.
        """
        kinds = [transfer] if isinstance(transfer, str) else list(transfer)
        wish: dict[str, Any] = {"transfer": kinds, "method": method, "dry_run": dry_run, "seed": seed, "activate": activate}
        given = {"mode": mode, "field": field, "source": source, "config": None if config is None else dict(config)}
        wish |= {name: value for name, value in given.items() if value is not None}
        return (yield from self._reported("finetune", wish, progress))

    def _reported(self, kind: str, wish: Mapping[str, Any], progress: Progress | None) -> Steps[Report]:
        """Ask for a job, and wait for its report."""
        job = yield from submitted(self._link, self.name, wish, kind)
        before: object = None

        def told(job: Job) -> None:
            nonlocal before
            now = job.state, job.done, job.total
            if progress is not None and job.state not in FINISHED and now != before:
                before = now
                progress(*now)

        try:
            job = yield from watched(self._link, job.id, told=told)
        except JobNotFound:
            raise CollectionNotFound(f"the collection {self.name!r} has been dropped") from None
        except ServiceError as error:
            error.add_note(f"the job goes on: client.jobs.wait({job.id!r}) waits for it, client.jobs.cancel({job.id!r}) stops it")
            raise
        except GeneratorExit:
            raise
        except BaseException:
            with suppress(VecmetaError):
                yield from cancelled(self._link, job.id)
            raise
        if job.error is not None:
            raise named(*job.error)
        if job.report is None:
            raise Cancelled(
                f"the {'fine-tuning' if kind == 'finetune' else 'adaptation'} of {self.name!r} was cancelled (job {job.id})"
            )
        if job.state == "live":
            yield from self._awaited(job.report.version)
        return job.report

    # -- versions ------------------------------------------------------------------------------------------------------------

    @verb
    def versions(self) -> Steps[list[Version]]:
        """All versions, oldest first; number 0 is the untouched encoder."""
        return [version_of(about) for about in (yield from self._ask("GET", "/versions"))["versions"]]

    @verb
    def activate(self, version: int) -> Steps[None]:
        """Make a version live, also one that was kept back; 0 is the untouched encoder. Raises VersionNotFound."""
        number = intake.version_number(version)
        if number is None:
            raise InvalidConfig("activate() needs the number of a version")
        yield from self._ask("POST", f"/versions/{number}/activate")

    @verb
    def rollback(self) -> Steps[int]:
        """Make live what was live before, and return its number; repeated, it goes further back. Raises VersionNotFound at the end."""
        # Not asked again when the answer was lost: it might go back twice.
        return int((yield from self._ask("POST", "/rollback", again=False))["live"])

    @verb
    def report(self, version: int) -> Steps[Report]:
        """The report of a stored version. Raises VersionNotFound (also for version 0, which nobody adapted)."""
        number = intake.version_number(version)
        about = (yield from self._ask("GET", f"/versions/{number}"))["report"] if number else None
        if about is None:
            raise VersionNotFound(f"{self.name!r} has no report of version {version}")
        return report_of(about)

    # ------------------------------------------------------------------------------------------------------------------------

    def _awaited(self, version: int | None) -> Steps[None]:
        # A service whose worker made a version live answers under the one before until it has opened it. Whoever waited for the
        # adaptation expects the new one: what names a version waits for it.
        with suppress(VecmetaError):
            yield from self._ask("POST", "/embed", {"contents": [{"vector": [1.0] * self.dim}], "version": version})

    def _ask(
        self,
        method: str,
        path: str = "",
        body: object = None,
        *,
        params: Mapping[str, str | int] | None = None,
        again: bool = True,
    ) -> Steps[Any]:
        return self._link.ask(method, f"/collections/{self.name}{path}", body, params=params, again=again)
