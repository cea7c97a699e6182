"""Collections: make, list, look, drop; when they adapt by themselves."""

from __future__ import annotations

from fastapi import APIRouter

import vecmeta as vm
from service.deps import Admin, CollectionName, FastRoute, Named, Reader, Service
from service.errors import Refused, outcomes
from service.links import CREATED
from service.schemas.collections import CollectionAnswer, CollectionsAnswer, NewCollection, PolicyModel
from service.security import check
from vecmeta import Collection, Key

router = APIRouter(prefix="/collections", tags=["collections"], route_class=FastRoute)


@router.post("", status_code=201, responses={**outcomes(409), **CREATED})
async def create_collection(body: NewCollection, service: Service, key: Reader) -> CollectionAnswer:
    """Make a collection. Needs the scope admin."""
    check(key, "admin", body.name)
    allowed = service.settings.encoders
    if body.encoder not in allowed:
        # A caller who could name any model could make this service download it, and with a path open any file.
        raise vm.InvalidConfig(
            f"the encoder {body.encoder!r} is not offered here; offered: {', '.join(allowed)} (VECMETA_ENCODERS)"
        )
    try:
        collection = await service.run(service.db.create, body.name, body.encoder, dim=body.dim)
    except vm.EncoderUnavailable as error:
        raise Refused(422, "encoder_unavailable", str(error)) from error
    await service.run(service.opened, collection)
    return await service.run(described, collection)


@router.get("", responses=outcomes(taken=False))
async def list_collections(service: Service, key: Reader) -> CollectionsAnswer:
    """The names of all collections that the key may see."""
    return CollectionsAnswer(collections=visible(await service.run(service.db.collections), key))


@router.get("/{name}", responses=outcomes(404, 409))
async def get_collection(_: Reader, collection: Named, service: Service) -> CollectionAnswer:
    """One collection."""
    return await service.run(described, collection)


@router.delete("/{name}", status_code=204, responses=outcomes(404))
async def drop_collection(_: Admin, name: CollectionName, service: Service) -> None:
    """Delete a collection with its items, judgements, versions and jobs; also one whose encoder is not there any more."""
    await service.drop(name)


@router.get("/{name}/policy", responses=outcomes(404, 409))
async def get_policy(_: Reader, collection: Named, service: Service) -> PolicyModel:
    """When the collection adapts by itself."""
    policy = await service.run(lambda: collection.policy)
    return PolicyModel(auto_adapt=policy.auto_adapt, debounce=float(policy.debounce))


@router.put("/{name}/policy", responses=outcomes(404, 409))
async def set_policy(body: PolicyModel, _: Admin, collection: Named, service: Service) -> PolicyModel:
    """Let it adapt by itself after so many new judgements, once none came for `debounce` seconds; `auto_adapt` null: never."""
    await service.run(collection.set_policy, vm.Policy(body.auto_adapt, body.debounce))
    return body


def visible(names: list[str], key: Key | None) -> list[str]:
    """Those that a key may see."""
    bound = None if key is None else key.collections
    return [name for name in names if bound is None or name in bound]


def described(collection: Collection) -> CollectionAnswer:
    """A collection as an answer."""
    return CollectionAnswer(
        name=collection.name,
        encoder=collection.encoder_name,
        dim=collection.dim,
        modality=collection.modality,
        items=collection.count(),
        live=collection.live,
        ready=collection.ready,
    )
