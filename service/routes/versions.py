"""Versions: look, activate, go back; and how real searches take a candidate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path

import vecmeta as vm
from service.convert import report_model
from service.deps import Admin, FastRoute, Named, Reader, Service, Teacher
from service.errors import outcomes
from service.links import VERSIONS
from service.schemas.versions import (
    ClickAnswer,
    ClickBody,
    LiveAnswer,
    OutcomeModel,
    ShareBody,
    SplitModel,
    TrafficAnswer,
    VersionAnswer,
    VersionModel,
    VersionsAnswer,
)
from vecmeta import Collection, Version

router = APIRouter(prefix="/collections/{name}", tags=["versions"], route_class=FastRoute)
Number = Annotated[int, Path(ge=0, lt=2**31, description="the version; 0 is the untouched encoder", examples=[1])]


@router.get("/versions", responses={**outcomes(404, 409), **VERSIONS})
async def list_versions(_: Reader, collection: Named, service: Service) -> VersionsAnswer:
    """All versions, oldest first."""
    return VersionsAnswer(versions=[version_model(version) for version in await service.run(collection.versions)])


@router.get("/versions/{n}", responses=outcomes(404, 409))
async def get_version(n: Number, _: Reader, collection: Named, service: Service) -> VersionAnswer:
    """One version with its report: metrics, intervals, harm, and the top lists that moved most."""
    return await service.run(_one, collection, n)


@router.post("/versions/{n}/activate", responses=outcomes(404, 409))
async def activate_version(n: Number, _: Admin, collection: Named, service: Service) -> LiveAnswer:
    """Make a version live, also one that was kept back. Its index is ready before the swap: no search waits."""
    await service.run(collection.activate, n)
    return LiveAnswer(live=n)


@router.post("/rollback", responses=outcomes(404, 409))
async def roll_back(_: Admin, collection: Named, service: Service) -> LiveAnswer:
    """Make live what was live before; repeated, it goes further back. 404 when version 0 is live since ever."""
    return LiveAnswer(live=await service.run(collection.rollback))


@router.get("/traffic", responses=outcomes(404, 409))
async def get_traffic(_: Reader, collection: Named, service: Service) -> TrafficAnswer:
    """The split, if one is on, and what came of each version's answers: searches, clicks, rates with intervals."""
    return await service.run(_traffic, collection, service.tell_searched)


@router.put("/traffic", responses=outcomes(404, 409))
async def share_traffic(body: ShareBody, _: Admin, collection: Named, service: Service) -> SplitModel:
    """Let a candidate answer a share of the searches that name no version; the same user (`session`) always sees the same."""
    return SplitModel(**asdict(await service.run(collection.traffic.share, body.version, body.percent)))


@router.delete("/traffic", status_code=204, responses=outcomes(404, 409))
async def stop_traffic(_: Admin, collection: Named, service: Service) -> None:
    """End the split: the live version answers everything. The outcomes stay."""
    await service.run(collection.traffic.stop)


@router.post("/clicks", responses=outcomes(404, 409))
async def click(body: ClickBody, _: Teacher, collection: Named, service: Service) -> ClickAnswer:
    """Tell that an item of an answer was clicked (or bought, or played). The same item of the same answer counts once."""
    version = int(body.search.partition("-")[0])
    if version >= 2**31:
        raise vm.InvalidConfig("the search id is not one that this service gave")
    return ClickAnswer(counted=await service.run(collection.traffic.clicked, body.search, version, body.item, body.rank))


def version_model(version: Version) -> VersionModel:
    """A version as an answer."""
    return VersionModel(**_fields(version))


def _fields(version: Version) -> dict[str, object]:
    return {**asdict(version), "metrics": dict(version.metrics)}


def _one(collection: Collection, number: int) -> VersionAnswer:
    version = next((version for version in collection.versions() if version.number == number), None)
    report = None if number == 0 else report_model(collection.report(number))  # raises VersionNotFound
    assert version is not None
    return VersionAnswer(**_fields(version), report=report)


def _traffic(collection: Collection, tell: object) -> TrafficAnswer:
    assert callable(tell)
    tell()
    split = collection.traffic.split()
    return TrafficAnswer(
        split=None if split is None else SplitModel(**asdict(split)),
        outcomes=[OutcomeModel(**asdict(outcome)) for outcome in collection.traffic.outcomes()],
    )
