"""Verbs that ask: search, recommend, embed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, opened_collection, parse_where, print_json, read_bytes, shared
from vecmeta.cli.data import Name, Where
from vecmeta.errors import InvalidVector

if TYPE_CHECKING:
    from vecmeta import Hits
    from vecmeta.types import Content, Query, Vector, Vectors

TopK = Annotated[int, typer.Option("-k", "--top", help="How many hits.")]
VersionNumber = Annotated[
    int | None, typer.Option("--version", help="Head version; 0 is the untouched encoder. Default: the live one.")
]


def search(
    context: typer.Context,
    name: Name,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to look for.", show_default=False)] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="Look for what is like this picture.")] = None,
    like: Annotated[str | None, typer.Option(metavar="ID", help="Look for what is like this item.")] = None,
    vector: Annotated[
        str | None, typer.Option(metavar="FILE|JSON", help="Look for what is near this vector: .npy, .json, or [0.1, …].")
    ] = None,
    k: TopK = 10,
    where: Where = None,
    version: VersionNumber = None,
    up: Annotated[
        list[str] | None, typer.Option("--up", metavar="ID", help="Bend this one search towards an item; repeat for more.")
    ] = None,
    down: Annotated[
        list[str] | None, typer.Option("--down", metavar="ID", help="Bend this one search away from an item.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Mark hits with + and -, adapt with a, and see before and after in place.")
    ] = False,
) -> None:
    """Search by text, picture, item or vector."""
    query = _query(text, image, like, vector)
    if interactive:
        _interactive(context, name, query, k, where, bool(version is not None or up or down))
        return
    condition = parse_where(where)
    bend = [(id, 1.0) for id in up or []] + [(id, -1.0) for id in down or []]
    with opened_collection(context, name) as c:
        _show_hits(context, c.search(query, k=k, where=condition, version=version, feedback=bend or None))


def _interactive(context: typer.Context, name: str, query: Query, k: int, where: str | None, more: bool) -> None:
    if more or shared(context).json:
        raise typer.BadParameter("goes without --version, --up, --down and --json", param_hint="--interactive")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("needs a terminal", param_hint="--interactive")
    from vecmeta.cli import session

    with opened_collection(context, name) as c:
        session.run(session.Session(c, query, k, parse_where(where)), typer.getchar, input, render.console().clear)


def recommend(
    context: typer.Context,
    name: Name,
    like: Annotated[list[str] | None, typer.Option("--like", metavar="ID...", help="Items to be like.")] = None,
    unlike: Annotated[list[str] | None, typer.Option("--unlike", metavar="ID...", help="Items not to be like.")] = None,
    k: TopK = 10,
    where: Where = None,
) -> None:
    """Find items that are like some and unlike others."""
    if not like:
        raise typer.BadParameter("at least one id is needed", param_hint="--like")
    with opened_collection(context, name) as c:
        _show_hits(context, c.recommend(like=like, unlike=unlike or [], k=k, where=parse_where(where)))


def embed(
    context: typer.Context,
    name: Name,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; - reads one per line.", show_default=False)
    ] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", metavar="FILE", help="A picture; repeat for more.")] = None,
    version: VersionNumber = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE.npy", help="Write an (n, dim) float32 array.")] = None,
) -> None:
    """Print the vectors of texts or pictures, one JSON list a line, or write them to a .npy file."""
    contents: list[Content] = [*(image or [])]
    for text in texts or []:
        contents += sys.stdin.read().splitlines() if text == "-" else [text]
    if not contents:
        raise typer.BadParameter("give texts, or pictures with --image", param_hint="TEXT")
    with opened_collection(context, name) as c:
        vectors = c.embed(contents, version=version)
        number = c.live if version is None else version
    if out is not None:
        _write_npy(vectors, out)
        note(f"wrote {vectors.shape[0]} x {vectors.shape[1]} to {out}")
    if shared(context).json:
        facts: dict[str, Any] = {"version": number, "dim": int(vectors.shape[1]), "count": len(vectors)}
        print_json({**facts, "out": out} if out is not None else {**facts, "vectors": vectors.tolist()})
    elif out is None:
        for row in vectors.tolist():
            print_json(row)


def _query(text: str | None, image: str | None, like: str | None, vector: str | None) -> Query:
    if sum(option is not None for option in (text, image, like, vector)) != 1:
        raise typer.BadParameter("give exactly one of TEXT, --image, --like and --vector", param_hint="TEXT")
    if text is not None:
        return text
    if image is not None:
        return read_bytes(image)
    if like is not None:
        from vecmeta import Id

        return Id(like)
    return _vector(str(vector))


def _vector(given: str) -> Vector:
    """(dim,) float32 from a .npy or .json file, or from JSON as it is."""
    import numpy as np

    # Read first: what cannot be read is a ValueError too, and says why itself.
    data = given.encode() if given.lstrip().startswith("[") else read_bytes(given)
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False) if given.endswith(".npy") else json.loads(data)
        array = np.asarray(loaded, dtype=np.float32)
    except (ValueError, TypeError, EOFError) as error:
        raise InvalidVector(f"--vector {given}: {error}") from None
    array = array[0] if array.ndim == 2 and len(array) == 1 else array
    if array.ndim != 1:
        raise InvalidVector(f"--vector {given}: one vector is needed, not an array of shape {array.shape}")
    return array


def _write_npy(vectors: Vectors, out: str) -> None:
    """To a temporary name, then renamed: a file is there whole or not at all."""
    import os

    import numpy as np

    from vecmeta.errors import InvalidConfig

    part = Path(f"{out}.part{os.getpid()}")
    try:
        with part.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        part.replace(out)
    except OSError as error:
        raise InvalidConfig(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _show_hits(context: typer.Context, hits: Hits) -> None:
    if shared(context).json:
        print_json({"version": hits.version, "hits": [render.hit_json(hit) for hit in hits]})
    elif hits:
        render.show(render.hits_table(hits))
        note(f"answered by version {hits.version}")
    else:
        note(f"no hits (version {hits.version})")
