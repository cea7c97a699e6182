"""Verbs for moving collections between databases: export, import."""

from __future__ import annotations

from typing import Annotated

import typer

from vecmeta.cli import render
from vecmeta.cli.app import opened, print_json, shared

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="Of Parquet and safetensors files.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="COLLECTION...", help="Which ones. Default: all.")]


def export(context: typer.Context, folder: Folder, names: Names = None) -> None:
    """Write collections with their judgements and versions into a new folder; `vecmeta import` reads it into any database."""
    with opened(context) as database, render.progress() as progress:
        found = database.export_to(folder, names or None, progress=progress)
    _tell(context, found, f"exported to {folder}")


def import_(
    context: typer.Context,
    folder: Folder,
    names: Names = None,
    other: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Another name, for one collection.")] = None,
) -> None:
    """Read collections from a folder that `vecmeta export` wrote; each is there at once or not at all."""
    if other is not None and (names is None or len(names) != 1):
        raise typer.BadParameter("it is for one collection: name which", param_hint="--as")
    rename = {} if other is None or names is None else {names[0]: other}
    with opened(context) as database, render.progress() as progress:
        found = database.import_from(folder, names or None, rename=rename, progress=progress)
    _tell(context, found, f"imported from {folder}")


def _tell(context: typer.Context, found: dict[str, int], done: str) -> None:
    if shared(context).json:
        print_json(found)
        return
    for name, count in found.items():
        typer.echo(f"{name}: {count:,} items {done}")
