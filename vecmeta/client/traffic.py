"""A candidate on the real searches of a service, and what came of its answers."""

from __future__ import annotations

from typing import Any

from vecmeta import intake
from vecmeta.client.link import Link, Steps
from vecmeta.client.records import outcome_of, possible, split_of
from vecmeta.client.verbs import Awaiting, Blocking, Speaker, verb
from vecmeta.errors import InvalidConfig, InvalidJudgement
from vecmeta.types import Outcome, Split


class TrafficVerbs(Speaker):
    """The verbs of `RemoteTraffic` and `AsyncRemoteTraffic`, those of `Collection.traffic` but for what a service does by itself."""

    def __init__(self, link: Link, http: Any, path: str) -> None:
        super().__init__(link, http)
        self._path = path

    @verb
    def split(self) -> Steps[Split | None]:
        """The split that is on. It ends with `stop`, and when its candidate goes live or is removed."""
        return split_of((yield from self._link.ask("GET", f"{self._path}/traffic"))["split"])

    @verb
    def share(self, version: int, percent: float) -> Steps[Split]:
        """Let a version answer a share of the searches that name none, instead of the live one; replaces the split before.

        Another share for the same version keeps its users: who saw it at 5 % sees it at 20 %.

        Raises:
            VersionNotFound.
            InvalidConfig: the percentage is not above 0 and up to 100, or the version is live.
        """
        body = {"version": _number(version), "percent": percent}
        split = split_of((yield from self._link.ask("PUT", f"{self._path}/traffic", body)))
        assert split is not None
        return split

    @verb
    def stop(self) -> Steps[None]:
        """End the split: the live version answers everything. Does nothing without one."""
        yield from self._link.ask("DELETE", f"{self._path}/traffic")

    @verb
    def clicked(self, search: str, version: int, item: str, rank: int | None = None) -> Steps[bool]:
        """Store that an item of an answer was clicked; False when that was known. The item may have been deleted since.

        Args:
            search: the id of the answer: `hits.search`.
            version: that answered: `hits.version`.
            item: its id.
            rank: where it stood, from 1.

        Raises:
            InvalidJudgement, InvalidConfig: names what cannot be taken.
        """
        number = _number(version)
        if not isinstance(search, str) or search.partition("-")[0] != str(number):
            raise InvalidConfig(f"the search {search!r} is not one that version {number} answered")
        if not isinstance(item, str) or not possible(item):
            raise InvalidJudgement(
                f"the id of an item is a text of 1 to {intake.MAX_ID} characters without NUL, not {item!r:.80}"
            )
        body = {"search": search, "item": item, "rank": rank}
        return bool((yield from self._link.ask("POST", f"{self._path}/clicks", body))["counted"])

    @verb
    def outcomes(self) -> Steps[list[Outcome]]:
        """What came of the answers of each version that was counted, by version ascending."""
        return [outcome_of(outcome) for outcome in (yield from self._link.ask("GET", f"{self._path}/traffic"))["outcomes"]]


class RemoteTraffic(TrafficVerbs, Blocking):
    """The traffic of a collection on a service; `RemoteCollection.traffic`."""


class AsyncRemoteTraffic(TrafficVerbs, Awaiting):
    """The traffic of a collection on a service; `AsyncRemoteCollection.traffic`."""


def _number(version: object) -> int:
    number = intake.version_number(version)
    if number is None:
        raise InvalidConfig("the number of a version is needed, not None")
    return number
