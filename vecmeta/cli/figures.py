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
    whole = {"benchmark": context.info_name, **facts}
    out: Path | None = context.meta.get(_KEY)
    if out is not None:
        write_json(out, whole)
    if shared(context).json:
        print_json(whole)
        return True
    return False


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """All figures of a benchmark as a file. Raises InvalidConfig when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be written: {error.strerror}") from error
