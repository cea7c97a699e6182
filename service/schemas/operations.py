"""Alive, ready."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

import vecmeta as vm


class Health(BaseModel):
    """The process is there."""

    status: Literal["ok"] = "ok"
    version: str = vm.__version__


class Readiness(BaseModel):
    """Whether searches are answered without waiting for an index."""

    ready: bool
    waiting_for: list[str] = Field(default_factory=list, description="collections whose index is being read or built")
