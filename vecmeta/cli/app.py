"""What every command shares: the options of `vecmeta.open`, ``--json``, and what becomes of errors.

The shared options may stand before the verb or after it; the nearer one to the end of the line counts. Exit codes:

- 0    done. An adaptation that was kept back or had too few judgements is done as well: nothing failed, and the decision is printed
- 1    a vecmeta error: one line on standard error; with ``--json`` also ``{"error": "not_found", "detail": "…"}`` on standard output
- 2    the command line cannot be understood
- 130  stopped by Ctrl-C; nothing half-written remains
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from vecmeta.errors import Cancelled, InvalidConfig, VecmetaError

if TYPE_CHECKING:
    from vecmeta import Collection, Database

_PANEL = "Database and output"

# None means "not given here", so that silence after the verb does not hide what was said before it.
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR_OR_URL",
        help="Folder of the database, or postgresql+psycopg://… Default: $VECMETA_DATA or ./vecmeta-data.",
        rich_help_panel=_PANEL,
    ),
]
Index = Annotated[
    str | None,
    typer.Option(
        "--index",
        help="faiss, exact (brute force), milvus-lite, or http://host:19530 (Milvus). Default: faiss.",
        rich_help_panel=_PANEL,
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, mps. Default: auto.", rich_help_panel=_PANEL)]
Files = Annotated[
    str | None,
    typer.Option(
        "--files",
        metavar="DIR",
        help="Folder of the index files. Default: $VECMETA_FILES, or the database's folder, or for a URL one in the user's cache.",
        rich_help_panel=_PANEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.", rich_help_panel=_PANEL)]


@dataclass(slots=True)
class Shared:
    """The shared options of one call."""

    data: str = field(default_factory=lambda: os.environ.get("VECMETA_DATA") or "./vecmeta-data")
    index: str = field(default_factory=lambda: os.environ.get("VECMETA_INDEX") or "faiss")
    files: str | None = field(default_factory=lambda: os.environ.get("VECMETA_FILES") or None)
    device: str = "auto"
    json: bool = False

    def take(self, *, data: str | None, index: str | None, files: str | None, device: str | None, json: bool) -> None:
        """Keep what was given, on this side of the verb."""
        self.data = data or self.data
        self.files = files or self.files
        self.index = index or self.index
        self.device = device or self.device
        self.json = json or self.json


def shared(context: typer.Context) -> Shared:
    """The shared options of this call."""
    found: Shared = context.ensure_object(Shared)
    return found


_SHARED: dict[str, tuple[Any, Any]] = {
    "data": (Data, None),
    "index": (Index, None),
    "files": (Files, None),
    "device": (Device, None),
    "json": (Json, False),
}


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """A command that has the shared options as well, and turns vecmeta's errors into one line and an exit code."""

    @functools.wraps(function)
    def run(context: typer.Context, **given: Any) -> None:
        shared(context).take(**{name: given.pop(name) for name in _SHARED})
        try:
            with _warnings_as_lines():
                function(context, **given)
        except (KeyboardInterrupt, Cancelled):
            note("stopped; nothing half-written remains")
            raise typer.Exit(130) from None
        except VecmetaError as error:
            detail = str(error)
            if shared(context).json:
                print_json({"error": error.code, "detail": detail})
            note(f"error: {detail}")
            raise typer.Exit(1) from None

    # Typer reads the signature, so that is where the options are added.
    hints = get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters.values()
    parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _SHARED.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """vecmeta's own warnings are for the user, not for the programmer: without file, line and source."""
    with warnings.catch_warnings():
        python_shows = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category.__module__.partition(".")[0] == "vecmeta":
                note(f"warning: {message}")
            else:
                python_shows(message, category, *place, **more)

        warnings.showwarning = shown
        yield


class GreedyCommand(TyperCommand):
    """A command whose repeatable options take all that follows: ``--up a b c`` is ``--up a --up b --up c``.

    A value that begins with a dash is written ``--up=-x``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values, then parse as usual."""
        repeatable = {name for parameter in self.params if getattr(parameter, "multiple", False) for name in parameter.opts}
        spread: list[str] = []
        current: str | None = None
        for position, argument in enumerate(args):
            if argument == "--":
                spread += args[position:]
                break
            if argument.startswith("-") and argument != "-":
                current = argument if argument in repeatable else None
                if current is None:
                    spread.append(argument)
            elif current is not None:
                spread += [current, argument]
            else:
                spread.append(argument)
        return super().parse_args(ctx, spread)


@contextmanager
def opened(context: typer.Context, bridge: bool = False) -> Iterator[Database]:
    """The database that the shared options name."""
    import vecmeta  # late: --help needs none of it

    options = shared(context)
    with vecmeta.open(options.data, index=options.index, device=options.device, files=options.files, bridge=bridge) as database:
        yield database


@contextmanager
def opened_collection(context: typer.Context, name: str) -> Iterator[Collection]:
    """A collection of the database that the shared options name."""
    with opened(context) as database, database.collection(name) as collection:
        yield collection


def parse_where(text: str | None) -> dict[str, Any] | None:
    """``--where`` as an object.

    Raises:
        typer.BadParameter: no JSON object.
    """
    if text is None:
        return None
    try:
        where = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--where") from None
    if not isinstance(where, dict):
        raise typer.BadParameter(f'a JSON object is needed, like {{"lang": "en"}}, not {text}', param_hint="--where")
    return where


def read_bytes(path: str) -> bytes:
    """The bytes of a file that the command line names.

    Raises:
        InvalidConfig: it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror or error}") from None


def print_json(value: Any) -> None:
    """One JSON document on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
