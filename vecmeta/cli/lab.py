"""Verbs that show and measure: demo, bench."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import opened, print_json, shared

LIMIT = 3000  # as in vecmeta.pydocs, which --help does not need

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vecmeta.demo import Outcome, Shown


def demo(
    context: typer.Context,
    items: Annotated[int, typer.Option("--items", min=1, help="How many functions and classes to index.")] = LIMIT,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo first.")] = False,
) -> None:
    """Index the Python documentation on this machine, teach it a notion of similarity, show before and after."""
    from vecmeta import demo as demonstration

    with opened(context) as database, render.progress() as progress:
        outcome = demonstration.run(database, limit=items, fresh=fresh, progress=progress)
    if shared(context).json:
        print_json(_demo_json(outcome))
    else:
        render.show(*_demo_parts(outcome, shared(context).data))


def _demo_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "items": outcome.items,
        "encoded": outcome.encoded,
        "concepts": [
            {"name": c.name, "items": c.items, "marked": c.marked, "map": c.quality._asdict()} for c in outcome.concepts
        ],
        "judgements": {
            "new": outcome.understood.new,
            "duplicate": outcome.understood.duplicate,
            "contradicting": outcome.understood.contradicting,
        },
        "report": render.report_json(outcome.report),
        "reused_version": outcome.reused,
        "live": outcome.live,
        "map": {kind: quality._asdict() for kind, quality in outcome.quality.items()},
        "shown": [
            {
                "query": render.item_json(shown.query),
                "label": shown.label,
                "why": shown.why,
                "before": [render.hit_json(hit) for hit in shown.before],
                "after": [render.hit_json(hit) for hit in shown.after],
            }
            for shown in outcome.shown
        ],
        "versions": [render.version_json(version) for version in outcome.versions],
        "seconds": outcome.seconds,
    }


def _demo_parts(outcome: Outcome, data: str) -> list[RenderableType]:
    from rich.text import Text

    again = "the same ones as in an earlier run" if outcome.understood.new == 0 else "a few for each of some modules"
    later = "a version of an earlier run, nothing new to learn; then it was " if outcome.reused else ""
    parts: list[RenderableType] = [
        Text(f"{outcome.items:,} documented functions and classes of this Python; {outcome.encoded:,} encoded now."),
        Text(f"A user marked {len(outcome.marks)} of them, {again}. Adapting:\n"),
        *([Text(later, style="dim")] if later else []),
        *render.report_parts(outcome.report, changes=False),
        Text(""),
        _concepts_table(outcome),
        Text(
            "Hits before (the untouched encoder) and after; ● is an item of the query's module. No query was marked, and none was"
        ),
        Text("picked for its looks: of three modules, each time the query with the median gain."),
        *[part for shown in outcome.shown for part in _shown_parts(shown)],
        _quality_table(outcome),
        render.versions_table(outcome.versions, "Versions"),
        Text("seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in outcome.seconds.items()), style="dim"),
        Text("\nNow you:", style="bold"),
    ]
    # A URL may hold a password, and comes from the environment as a rule.
    where = "" if data == "./vecmeta-data" or "://" in data else f"--data {shlex.quote(data)} "
    # `make demo` runs the program of a virtual environment that is not activated: what is printed should work when it is copied.
    program = (
        "vecmeta" if shutil.which("vecmeta") or not Path(sys.argv[0]).exists() else shlex.quote(os.path.relpath(sys.argv[0]))
    )
    commands = ['search python-docs "read a compressed archive"', 'search python-docs "read a compressed archive" --version 0']
    if outcome.untaught is not None:
        name, ids = outcome.untaught
        commands += [f"feedback python-docs --concept {name} {' '.join(ids)}", "adapt python-docs"]
    commands += ["versions python-docs", "rollback python-docs"]
    parts += [Text(f"  {program} {where}{command}") for command in commands]
    return parts


def _concepts_table(outcome: Outcome) -> RenderableType:
    rows = [
        (
            c.name,
            c.items,
            c.marked,
            f"{c.quality.before:.3f}",
            f"{c.quality.after:.3f}",
            f"{c.quality.after - c.quality.before:+.3f}",
        )
        for c in sorted(outcome.concepts, key=lambda c: c.quality.before - c.quality.after)
    ]
    columns = ("module", "items>", "marked>", "mAP before>", "after>", "change>")
    return render.table(columns, rows, "What was taught, measured on the items that were not marked")


def _shown_parts(shown: Shown) -> list[RenderableType]:
    from rich.text import Text

    def cell(hits: Any, rank: int) -> Text:
        if rank >= len(hits):
            return Text("")
        right = hits[rank].metadata.get("module") == shown.label
        return Text(f"{'●' if right else ' '} {hits[rank].id}", style="green" if right else "dim")

    def strip(hits: Any) -> Text:
        right = [hit.metadata.get("module") == shown.label for hit in hits]
        return Text("".join("●" if r else "·" for r in right) + f" {sum(right)} of {len(right)}", style="bold")

    rows: list[tuple[object, ...]] = [(rank + 1, cell(shown.before, rank), cell(shown.after, rank)) for rank in range(5)]
    rows.append(("", strip(shown.before), strip(shown.after)))
    signature, _, doc = str(shown.query.content).partition("\n")
    return [
        Text(f"\n{render.content_text(signature, 60)}  {render.content_text(doc, 90)}", style="bold"),
        Text(f"{shown.label}, the module that {shown.why}", style="dim"),
        render.table(("#>", "before", "after"), rows),
    ]


def _quality_table(outcome: Outcome) -> RenderableType:
    meaning = {
        "fed": "modules that were taught",
        "unfed": "modules that were not",
        "mixed": "both, told from each other",
    }
    rows = [
        (kind, meaning[kind], q.queries, f"{q.before:.3f}", f"{q.after:.3f}", f"{q.after - q.before:+.3f}")
        for kind, q in outcome.quality.items()
    ]
    columns = ("queries", "unmarked items of", "number>", "mAP before>", "after>", "change>")
    return render.table(columns, rows, "Quality on items that nobody marked")
