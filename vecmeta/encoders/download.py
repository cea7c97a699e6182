"""torchvision's published weights: from torch's cache of downloads, or fetched into it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from vecmeta.encoders.model_folder import offline
from vecmeta.errors import EncoderUnavailable

_SOURCE = "https://download.pytorch.org/models/"
_TIMEOUT = 20  # seconds without a byte


def torchvision_weights(file: str, spec: str) -> Path:
    """The path of one of torchvision's weight files, downloaded if it is not in torch's cache (TORCH_HOME, XDG_CACHE_HOME).

    Raises:
        EncoderUnavailable: it is not there and cannot be downloaded; says what to do.
    """
    cache = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    path = Path(cache, "hub", "checkpoints", file).expanduser()
    if path.is_file():
        return path
    cause = "HF_HUB_OFFLINE forbids a download"
    if not offline():
        try:
            _fetch(_SOURCE + file, path)
            return path
        except (OSError, HTTPException) as error:
            cause = f"the download failed ({error})"
    raise EncoderUnavailable(
        f"the weights of {spec!r} are not here, and {cause}. Download {_SOURCE}{file} elsewhere and put it at {path}, "
        f"or give its place: '{spec.partition(':')[0]}:/path/to/{file}'"
    )


def _fetch(url: str, target: Path) -> None:
    """Download to a temporary file, check it against the digits of SHA-256 in its name, and move it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            shutil.copyfileobj(answer, file)
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not target.stem.endswith(f"-{digest[:8]}"):
            raise OSError(f"what came from {url} has SHA-256 {digest[:8]}..., not the one in its name")
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
