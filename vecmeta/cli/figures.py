"""What the commands that measure share: ``--out FILE``, and their figures as JSON with the name of the benchmark."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vecmeta.cli.app import print_json, shared
from vecmeta.errors import InvalidConfig
from vecmeta.meta.start import write_whole

_KEY = "vecmeta.cli.figures"  # in the context of the call
_OUT = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also write all figures to this file (JSON).")]


def measuring(function: Callable[..., None]) -> Callable[..., None]:
    """A command that has ``--out`` as well; it hands its figures to `told` before it shows them."""

    @functools.wraps(function)
    def run(context: typer.Context, *, out: Path | None, **given: Any) -> None:
        if out is not None and out.is_dir():  # before an hour of measuring
            raise InvalidConfig(f"--out {out} is a folder; the name of a file is needed")
        context.meta[_KEY] = out
        function(context, **given)

    # Typer reads the signature, so that is where the option is added.
    hints = get_type_hints(function, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    parameters.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OUT))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def told(context: typer.Context, facts: dict[str, Any]) -> bool:
    """Write the figures to ``--out``; with ``--json`` print them. Returns whether that was all that was wanted. Raises InvalidConfig."""
    kept(context, facts)
    if shared(context).json:
        print_json({"benchmark": context.info_name, **facts})
        return True
    return False


def earlier(context: typer.Context) -> dict[str, Any] | None:
    """What ``--out`` holds already of this benchmark, None if there is no such file. Raises InvalidConfig for one that holds others."""
    out: Path | None = context.meta[_KEY]
    if out is None or not out.exists():
        return None
    try:
        facts = json.loads(out.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"--out {out} is there and cannot be read: {error}; give another file") from error
    if not isinstance(facts, dict) or facts.get("benchmark") != context.info_name:
        raise InvalidConfig(f"--out {out} is there and holds no figures of this benchmark; give another file")
    return facts


def kept(context: typer.Context, facts: dict[str, Any]) -> None:
    """Write the figures so far to ``--out``, if that was given. Raises InvalidConfig."""
    out: Path | None = context.meta[_KEY]
    if out is not None:
        write_json(out, {"benchmark": context.info_name, **facts})


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """All figures of a benchmark as a file, whole or not at all. Raises InvalidConfig when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(facts, indent=1) + "\n").encode())
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be written: {error.strerror}") from error
