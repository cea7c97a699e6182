"""Times as rows hold them: UTC, which SQLite gives back without saying so."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """This moment, as it is written."""
    return datetime.now(UTC)


def aware(stored: datetime | None) -> datetime | None:
    """A stored time with its zone."""
    return None if stored is None else stored.replace(tzinfo=UTC)
