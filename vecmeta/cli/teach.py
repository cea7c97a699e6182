"""Verbs that teach: feedback, judgements, adapt, versions, report, activate, rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vecmeta.cli import render
from vecmeta.cli.app import opened_collection, print_json, shared
from vecmeta.cli.data import Name
from vecmeta.meta.methods import NAMES

if TYPE_CHECKING:
    from vecmeta import Judgement

Number = Annotated[int, typer.Argument(metavar="VERSION", help="Number of a head version.")]


def feedback(
    context: typer.Context,
    name: Name,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Items that belong.", show_default=False)] = None,
    concept: Annotated[str | None, typer.Option(help="The concept that they belong to.")] = None,
    query: Annotated[str | None, typer.Option(help="The query that they are relevant to.")] = None,
    up: Annotated[list[str] | None, typer.Option("--up", metavar="ID...", help="Items that belong.")] = None,
    down: Annotated[list[str] | None, typer.Option("--down", metavar="ID...", help="Items that do not.")] = None,
    forget: Annotated[list[str] | None, typer.Option("--forget", metavar="ID...", help="Take earlier judgements back.")] = None,
    similar: Annotated[list[str] | None, typer.Option("--similar", metavar="A B", help="Two items that are alike.")] = None,
    dissimilar: Annotated[list[str] | None, typer.Option("--dissimilar", metavar="A B", help="Two that are not.")] = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Columns item; concept, query or like (another item); score, user; - for JSON lines."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Who says so.")] = None,
) -> None:
    """Say which items belong to a concept, are relevant to a query, or are alike. Nothing changes until `vecmeta adapt`."""
    scores = [(id, 1.0) for id in [*(ids or []), *(up or [])]]
    scores += [(id, -1.0) for id in down or []] + [(id, 0.0) for id in forget or []]
    if similar or dissimilar:
        if scores or concept or query or file:
            raise typer.BadParameter("pairs stand alone; leave out ids, --concept, --query and --file", param_hint="--similar")
        given = _pairs(similar or [], dissimilar or [], user)
    else:
        given = _judgements(scores, concept, query, file, user)
    with opened_collection(context, name) as c:
        understood = c.feedback(given)
    if shared(context).json:
        facts = {"new": understood.new, "duplicate": understood.duplicate, "contradicting": understood.contradicting}
        print_json(facts)
    else:
        typer.echo(
            f"{understood.new} new judgements, {understood.duplicate} known already, "
            f"{understood.contradicting} changed an earlier one; teach them with: vecmeta adapt {name}"
        )


def _judgements(
    scores: list[tuple[str, float]], concept: str | None, query: str | None, file: str | None, user: str | None
) -> list[Judgement]:
    from vecmeta import Judgement
    from vecmeta.files import read_judgements

    if file is not None:
        if scores or concept or query:
            raise typer.BadParameter("a file says everything itself; leave out ids, --concept and --query", param_hint="--file")
        return list(read_judgements(file))
    if (concept is None) == (query is None):
        raise typer.BadParameter("give exactly one of --concept, --query and --file, or pairs", param_hint="--concept")
    if not scores:
        raise typer.BadParameter("name at least one item", param_hint="ID")
    return [Judgement(id, concept=concept, query=query, score=score, user=user) for id, score in scores]


def _pairs(alike: list[str], unlike: list[str], user: str | None) -> list[Judgement]:
    """Repeated options arrive as one list, two ids each."""
    from vecmeta import dissimilar, similar

    for option, given in (("--similar", alike), ("--dissimilar", unlike)):
        if len(given) % 2:
            raise typer.BadParameter(f"takes exactly two ids each time, not {' '.join(given)}", param_hint=option)
    return [similar(a, b, user=user) for a, b in zip(alike[::2], alike[1::2], strict=True)] + [
        dissimilar(a, b, user=user) for a, b in zip(unlike[::2], unlike[1::2], strict=True)
    ]


def judgements(context: typer.Context, name: Name) -> None:
    """List the judgements that count."""
    with opened_collection(context, name) as c:
        found = [render.judgement_json(judgement) for judgement in c.judgements()]
    if shared(context).json:
        print_json(found)
    else:
        rows = [(j["item"], j["concept"] or "", j["query"] or "", f"{j['score']:+g}", j["user"] or "") for j in found]
        render.show(render.table(("item", "concept", "query", "score>", "user"), rows))


def adapt(
    context: typer.Context,
    name: Name,
    method: Annotated[str, typer.Option(help=f"How to learn from the judgements: {', '.join(NAMES)}.")] = NAMES[0],
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A start of your own, see meta-train. Default: the shipped one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, store nothing.")] = False,
    bridge: Annotated[
        bool, typer.Option("--bridge", help="Go live before the index is built; for who searches meanwhile the old one answers.")
    ] = False,
) -> None:
    """Learn a new notion of similarity from the judgements; it goes live only if it measures better."""
    with opened_collection(context, name) as c, render.progress() as progress:
        report = c.adapt(method, dry_run=dry_run, progress=progress, start=start, bridge=bridge)
    if shared(context).json:
        print_json(render.report_json(report))
    else:
        render.show(*render.report_parts(report))


def versions(context: typer.Context, name: Name) -> None:
    """List the head versions; number 0 is the untouched encoder."""
    with opened_collection(context, name) as c:
        found = c.versions()
    if shared(context).json:
        print_json([render.version_json(version) for version in found])
    else:
        render.show(render.versions_table(found))


def report(context: typer.Context, name: Name, number: Number) -> None:
    """Show how a version came to be, and what it was measured at."""
    with opened_collection(context, name) as c:
        found = c.report(number)
    if shared(context).json:
        print_json(render.report_json(found))
    else:
        render.show(*render.report_parts(found))


def activate(context: typer.Context, name: Name, number: Number) -> None:
    """Make a version the live one; 0 goes back to the untouched encoder."""
    with opened_collection(context, name) as c:
        c.activate(number)
    _say_live(context, number)


def rollback(context: typer.Context, name: Name) -> None:
    """Go back to the version that was live before."""
    with opened_collection(context, name) as c:
        number = c.rollback()
    _say_live(context, number)


def _say_live(context: typer.Context, number: int) -> None:
    if shared(context).json:
        print_json({"live": number})
    else:
        typer.echo(f"version {number} is live")
