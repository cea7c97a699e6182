"""Times as rows hold them: UTC, which SQLite gives back without saying so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def aware(stored: datetime) -> datetime: ...
@overload
def aware(stored: None) -> None: ...
@overload
def aware(stored: datetime | None) -> datetime | None: ...
def aware(stored: datetime | None) -> datetime | None:
    """A stored time with its zone."""
    if stored is None:
        return None
    return stored.replace(tzinfo=UTC) if stored.tzinfo is None else stored.astimezone(UTC)
