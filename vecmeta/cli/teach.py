"""Verbs that teach: feedback, judgements, adapt, versions, report, activate, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vecmeta.cli import render
from vecmeta.cli.app import opened_collection, print_json, shared
from vecmeta.cli.data import Name

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
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Columns item, concept or query, score, user; - for JSON lines.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Who says so.")] = None,
) -> None:
    """Say which items belong to a concept, or are relevant to a query. Nothing changes until `vecmeta adapt`."""
    given = _judgements(ids or [], concept, query, up or [], down or [], forget or [], file, user)
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
    ids: list[str],
    concept: str | None,
    query: str | None,
    up: list[str],
    down: list[str],
    forget: list[str],
    file: str | None,
    user: str | None,
) -> list[Judgement]:
    from vecmeta import Judgement
    from vecmeta.files import read_judgements

    if file is not None:
        if ids or concept or query or up or down or forget:
            raise typer.BadParameter("a file says everything itself; leave out ids, --concept and --query", param_hint="--file")
        return list(read_judgements(file))
    if (concept is None) == (query is None):
        raise typer.BadParameter("give exactly one of --concept, --query and --file", param_hint="--concept")
    scores = [(id, 1.0) for id in [*ids, *up]] + [(id, -1.0) for id in down] + [(id, 0.0) for id in forget]
    if not scores:
        raise typer.BadParameter("name at least one item", param_hint="ID")
    return [Judgement(id, concept=concept, query=query, score=score, user=user) for id, score in scores]


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
    method: Annotated[str, typer.Option(help="How to learn from the judgements.")] = "maml",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, store nothing.")] = False,
) -> None:
    """Learn a new notion of similarity from the judgements; it goes live only if it measures better."""
    with opened_collection(context, name) as c, render.progress() as progress:
        report = c.adapt(method, dry_run=dry_run, progress=progress)
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
