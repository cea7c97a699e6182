"""`vecmeta bench relevance`: relevance feedback on retrieval collections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import shared
from vecmeta.cli.figures import measuring, told


@measuring
def bench_relevance(
    context: typer.Context,
    data_sets: Annotated[Path, typer.Option("--data-sets", metavar="DIR", help="Folder of data sets.")],
    set_names: Annotated[list[str] | None, typer.Option("--set", metavar="NAME...", help="Only these. Default: all.")] = None,
    splits: Annotated[int, typer.Option(min=0, help="Repetitions of the collection-level part; 0 leaves it out.")] = 3,
) -> None:
    """Measure relevance feedback on retrieval sets: bending a query, and adapting the collection."""
    from vecmeta.bench import relevance

    with render.progress("runs") as progress:
        facts = relevance.run(data_sets, sets=set_names, splits=splits, device=shared(context).device, progress=progress)
    if told(context, facts):
        return
    for name, found in facts["bend"].items():
        _show_bend(name, found)
        if facts["adapt"][name]:
            _show_adapt(name, facts["adapt"][name])


def _show_bend(name: str, found: dict[str, Any]) -> None:
    rows = [
        (method, f"{m['ndcg']:.4f}", f"{m['map']:.4f}", f"{m['worse']:.0%}", f"{m['ms']:.2f}")
        for method, m in sorted(found["methods"].items(), key=lambda pair: pair[1]["ndcg"])
    ]
    render.show(f"{name}: {found['queries']} queries, 10 documents judged ({found['liked']:.1f} relevant), the rest ranked")
    render.show(render.table(("method", "nDCG@10>", "MAP>", "worse>", "ms>"), rows))
    for metric, title in (("ndcg", "nDCG@10"), ("map", "MAP")):
        ours, extra = found[f"{metric}_gain"], found["negatives"][f"{metric}_gain"]
        render.show(
            f"{title}: ours minus tuned Rocchio {ours['mean']:+.4f} (95 % {ours['low']:+.4f} to {ours['high']:+.4f}); "
            f"with minus without negatives {extra['mean']:+.4f} (95 % {extra['low']:+.4f} to {extra['high']:+.4f})"
        )


def _show_adapt(name: str, runs: list[dict[str, Any]]) -> None:
    rows = [
        (
            run["split"],
            run["judgements"],
            run["decision"],
            f"{run['strength']:.2f}",
            f"{run['ndcg_before']:.4f}",
            f"{run['ndcg_after']:.4f}",
            f"{run['ndcg_candidate']:.4f}",
        )
        for run in runs
    ]
    render.show(f"{name}: half of the queries teach the collection, nDCG@10 of the others")
    render.show(render.table(("split>", "judgements>", "decision", "strength>", "before>", "after>", "candidate>"), rows))
