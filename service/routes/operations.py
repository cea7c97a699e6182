"""For those who run it: is it alive, is it ready, what does it do."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.deps import FastRoute, Reader, Service, json_response
from service.errors import outcomes
from service.schemas.operations import Health, Readiness

router = APIRouter(tags=["operations"])
guarded = APIRouter(tags=["operations"], route_class=FastRoute)


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get(
    "/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "An index is being read or built"}}
)
async def readyz(service: Service) -> Response:
    """Whether every search is answered at once; 503 while an index is read or built."""
    waiting = await service.run(service.waiting_for)
    return json_response({"ready": not waiting, "waiting_for": waiting}, 503 if waiting else 200)


@guarded.get("/metrics", responses={**outcomes(taken=False), 200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(request: Request, service: Service, _: Reader) -> Response:
    """For Prometheus: latency by route, jobs, sizes. Names of collections are in it, so it needs a key with the scope read."""
    text = await service.run(generate_latest, request.app.state.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
