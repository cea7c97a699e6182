"""Verbs for collections and their items: create, collections, drop, add, get, delete, items, count."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, opened, opened_collection, parse_where, print_json, shared
from vecmeta.errors import VecmetaError

if TYPE_CHECKING:
    from vecmeta import Collection, Item
    from vecmeta.files import Kind, OwnVector

BATCH = 1024  # items per write: each batch is written whole or not at all

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of items.")]
Where = Annotated[
    str | None, typer.Option("--where", metavar="JSON", help='Only items like {"lang": "en", "year": {"$gte": 2020}}.')
]


def create(
    context: typer.Context,
    name: Name,
    encoder: Annotated[
        str, typer.Option(help="text, text:int8, image, resnet50, hf:ORG/MODEL, or vectors (with --dim).")
    ] = "text",
    dim: Annotated[int | None, typer.Option(help="Length of the vectors, for --encoder vectors.")] = None,
) -> None:
    """Create a collection."""
    with opened(context) as database, database.create(name, encoder=encoder, dim=dim) as made:
        facts = {"name": made.name, "encoder": made.encoder_name, "dim": made.dim}
    if shared(context).json:
        print_json(facts)
    else:
        typer.echo(f"created {name}: encoder {facts['encoder']}, {facts['dim']} dimensions")


def collections(context: typer.Context) -> None:
    """List the collections."""
    facts = []
    with opened(context) as database:
        for name in database.collections():
            with database.collection(name) as c:
                facts.append({"name": name, "encoder": c.encoder_name, "dim": c.dim, "items": c.count(), "live": c.live})
    if shared(context).json:
        print_json(facts)
    elif facts:
        columns = ("name", "encoder", "dim>", "items>", "live version>")
        render.show(render.table(columns, [tuple(fact.values()) for fact in facts]))
    else:
        note("no collections yet; make one with: vecmeta create NAME")


def drop(context: typer.Context, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a collection with all that it holds."""
    with opened(context) as database:
        with database.collection(name) as c:
            count = c.count()
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("nobody there to ask; say --yes to delete without asking", param_hint="--yes")
            typer.confirm(f"Delete {name} with its {count:,} items, judgements and versions?", abort=True, err=True)
        database.drop(name)
    _say(context, {"dropped": name, "items": count}, f"dropped {name} ({count:,} items)")


def add(
    context: typer.Context,
    name: Name,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help=".jsonl, .csv, .tsv, .parquet, a folder of pictures, or - for JSON lines.")
    ],
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    auto_id: Annotated[bool, typer.Option("--auto-id", help="Rows without an id become FILE:1, FILE:2 …")] = False,
    content_column: Annotated[
        str | None, typer.Option(help="Column of the text, picture or vector. Default: the first known name.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Columns to keep as metadata, separated by commas. Default: all others.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Items per write; each is whole or not at all.")] = BATCH,
) -> None:
    """Add or replace items from a file. Contents that have not changed are not encoded again."""
    from vecmeta import files

    columns = files.Columns(
        id=id_column,
        content=content_column,
        metadata=None if metadata is None else tuple(part.strip() for part in metadata.split(",") if part.strip()),
        auto_id=auto_id,
    )
    read = written = 0
    with opened_collection(context, name) as c, render.progress() as progress:

        def encoding(stage: str, done: int, _total: int) -> None:
            progress(stage, read + done, 0)  # how many there will be in all, a stream does not say

        try:
            for rows in _batches(files.read(source, modality(c), columns), batch):
                written += _write(c, rows, encoding)
                read += len(rows)
                progress("written", read, 0)
        except (VecmetaError, KeyboardInterrupt):
            if read:
                note(f"the {read:,} items before that batch are written")
            raise
    _say(context, {"read": read, "written": written}, f"read {read:,} items, wrote {written:,}")


def modality(c: Collection) -> Kind:
    """What a collection's encoder takes; text for an encoder that only its maker has."""
    return c.modality or "text"


def _write(c: Collection, rows: Sequence[Item | OwnVector], progress: Any) -> int:
    from vecmeta.files import OwnVector

    own = [row for row in rows if isinstance(row, OwnVector)]
    if not own:
        return c.add(cast("Sequence[Item]", rows), progress=progress)
    return c.add_vectors([row.id for row in own], [row.vector for row in own], [row.metadata for row in own])


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def get(context: typer.Context, name: Name, ids: Ids) -> None:
    """Show items by id."""
    with opened_collection(context, name) as c:
        _show_items(context, c.get(ids))


def delete(context: typer.Context, name: Name, ids: Ids) -> None:
    """Delete items by id; unknown ids are ignored."""
    with opened_collection(context, name) as c:
        count = c.delete(ids)
    _say(context, {"deleted": count}, f"deleted {count:,}")


def items(
    context: typer.Context,
    name: Name,
    where: Where = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
) -> None:
    """List items in the order of their ids."""
    with opened_collection(context, name) as c:
        found = c.items(where=parse_where(where), after=after, limit=limit)
    _show_items(context, found)
    if len(found) == limit and not shared(context).json:
        note(f"there may be more: --after {found[-1].id}")


def count(context: typer.Context, name: Name, where: Where = None) -> None:
    """Count items."""
    with opened_collection(context, name) as c:
        number = c.count(where=parse_where(where))
    _say(context, {"count": number}, str(number))


def _show_items(context: typer.Context, found: Sequence[Item]) -> None:
    if shared(context).json:
        print_json([render.item_json(item) for item in found])
    else:
        render.show(render.items_table(found))


def _say(context: typer.Context, facts: dict[str, Any], text: str) -> None:
    if shared(context).json:
        print_json(facts)
    else:
        typer.echo(text)
