"""API keys: make, list, revoke. All of it needs an admin key of the whole database."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path

from service.deps import Admin, FastRoute, Service
from service.errors import outcomes
from service.schemas.console import KeyCreated, KeyModel, KeysAnswer, NewKey

router = APIRouter(prefix="/keys", tags=["keys"], route_class=FastRoute)
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="the key", examples=["0" * 16])]


@router.get("", responses=outcomes(taken=False))
async def list_keys(_: Admin, service: Service) -> KeysAnswer:
    """All keys, without their secrets."""
    return KeysAnswer(keys=[KeyModel(**asdict(key)) for key in await service.run(service.db.keys.list)])


@router.post("", status_code=201, responses=outcomes())
async def create_key(body: NewKey, _: Admin, service: Service) -> KeyCreated:
    """Make a key. The secret is told this once; the database keeps its hash."""
    secret, key = await service.run(service.db.keys.create, body.name, body.scopes, body.collections, body.expires)
    return KeyCreated(**asdict(key), secret=secret)


@router.delete("/{id}", responses=outcomes(404))
async def revoke_key(id: KeyId, _: Admin, service: Service) -> KeyModel:
    """Revoke a key for good; within two seconds it opens nothing any more."""
    return KeyModel(**asdict(await service.run(service.db.keys.revoke, id)))
