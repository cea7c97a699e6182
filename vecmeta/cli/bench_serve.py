"""The verbs that measure the service: bench serve, bench encoding, bench mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.figures import measuring, told


@measuring
def bench_serve(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=100, help="How many vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=2, help="Of how many numbers.")] = 384,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Vectors of your own instead; the last 1,000 are the queries.")
    ] = None,
    connections: Annotated[int, typer.Option(min=1)] = 32,
    seconds: Annotated[float, typer.Option(min=1)] = 30,
    k: Annotated[int, typer.Option("-k", min=1)] = 10,
    chroma: Annotated[str | None, typer.Option(metavar="EXECUTABLE", help="Measure `chroma run` as well.")] = None,
) -> None:
    """Searches by vector over HTTP, beside the index alone and beside Chroma's own server (needs wrk)."""
    from vecmeta.bench import serve

    with render.progress("steps") as progress:
        facts = serve.run(
            count=count, dim=dim, vectors=vectors, connections=connections, seconds=seconds, k=k, chroma=chroma, progress=progress
        )
    if told(context, facts):
        return
    rows = [
        (name, f"{facts[key]['per_second']:,.0f}", *[f"{facts[key][p]:.2f}" for p in ("p50", "p95", "p99")], facts[key]["failed"])
        for key, name in {
            "index": f"index in process, {facts['index']['threads']} threads",
            "vecmeta": "vecmeta",
            "vecmeta_listed": "vecmeta, vectors as lists of numbers",
            "chroma": "chroma",
        }.items()
        if key in facts
    ]
    render.show(render.table(("", "searches/s>", "p50 ms>", "p95 ms>", "p99 ms>", "failed>"), rows))
    share, listed = facts["of_index"], facts["of_index_listed"]
    render.show(f"vecmeta serves {share:.0%} of what the index does in process, {listed:.0%} where vectors are lists of numbers")


@measuring
def bench_encoding(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(min=1, help="Of each run.")] = 8,
) -> None:
    """Searches by text over HTTP: what batching their encodings brings and costs (needs wrk)."""
    from vecmeta.bench import encoding

    with render.progress("settings") as progress:
        facts = encoding.run(seconds=seconds, progress=progress)
    if told(context, facts):
        return
    rows = [
        (
            run["connections"],
            run["batch"],
            f"{run['wait_ms']:g}",
            f"{run['per_second']:.0f}",
            f"{run['p50']:.1f}",
            f"{run['p99']:.1f}",
        )
        for run in sorted(facts["runs"], key=lambda run: run["connections"])
    ]
    columns = ("connections>", "largest batch>", "wait ms>", "searches/s>", "p50 ms>", "p99 ms>")
    render.show(render.table(columns, rows))


@measuring
def bench_mixed(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=100, help="How many vectors.")] = 20_000,
    dim: Annotated[int, typer.Option(min=2, help="Of how many numbers.")] = 384,
    seconds: Annotated[float, typer.Option(min=1)] = 60,
    adaptations: Annotated[int, typer.Option(min=0)] = 10,
) -> None:
    """32 clients that search, 4 that add, 2 that judge, while adaptations run: errors, mixed versions, latency beside idle (needs wrk)."""
    from vecmeta.bench import mixed

    with render.progress("steps") as progress:
        facts = mixed.run(count=count, dim=dim, seconds=seconds, adaptations=adaptations, progress=progress)
    if told(context, facts):
        return
    names = {"searches_alone": "searches alone", "searches": "searches", "adds": "adds", "judgements": "judgements"}
    rows = [_row(name, facts[key]) for key, name in names.items()]
    render.show(render.table(("", "requests>", "errors>", "p50 ms>", "p99 ms>"), rows))
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in facts["adaptations"].items())
    render.show(f"adaptations: {outcomes or 'none'}; {facts['adaptations_under_load']} ended while searches were measured")
    render.show(f"versions that answered: {', '.join(map(str, facts['versions']))}")
    render.show(f"p99 of searches is {facts['p99_to_idle']:.2f} times its idle value")
    render.show(f"{facts['answers_of_mixed_versions']} of {facts['answers_checked']:,} checked answers mix versions")
    for error in facts["errors"]:
        render.show(f"error: {error}")


def _row(name: str, figures: dict[str, Any]) -> tuple[object, ...]:
    return name, f"{figures['requests']:,}", figures["errors"], f"{figures['p50']:.2f}", f"{figures['p99']:.2f}"
