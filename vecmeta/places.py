"""Where a database is: a folder, or a URL with a folder for the index files beside it."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from vecmeta.catalogue.catalogue import Catalogue
from vecmeta.errors import InvalidConfig, StorageError, StorageReadOnly

DRIVER = "postgresql+psycopg"


def located(url: str, files: str | os.PathLike[str] | None) -> tuple[Catalogue, Path]:
    """The catalogue, opened, and the folder of the index files, made if it is not there.

    Raises:
        InvalidConfig: a URL of another kind.
        The StorageError family, see `vecmeta.open`.
    """
    if "://" not in url:
        folder = made(Path(url).expanduser())
        return Catalogue(folder / "vecmeta.db"), folder if files is None else made(Path(files).expanduser())
    catalogue = Catalogue(parsed(url))
    try:
        return catalogue, made(_cache() / catalogue.identity if files is None else Path(files).expanduser())
    except BaseException:
        catalogue.close()
        raise


def parsed(url: str) -> URL:
    """A URL of a PostgreSQL database. Raises InvalidConfig, without the password in its words."""
    known = f"a folder, or {DRIVER}://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidConfig(f"this is no URL of a database; right would be {known}") from None
    if found.drivername in ("postgresql", "postgres"):  # as libpq and most platforms write it
        found = found.set(drivername=DRIVER)
    if found.drivername != DRIVER:
        raise InvalidConfig(f"{found.drivername}:// is not a database that vecmeta knows; right would be {known}")
    return found


def shown(url: str) -> str:
    """A folder or URL for people, without a password."""
    return parsed(url).render_as_string(hide_password=True) if "://" in url else url


def made(folder: Path) -> Path:
    """A folder that can be written, made if it is not there. Raises StorageReadOnly, StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise StorageReadOnly(f"the folder {folder} cannot be made: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"the folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise StorageReadOnly(f"the folder {folder} cannot be written by this user")
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecmeta"
