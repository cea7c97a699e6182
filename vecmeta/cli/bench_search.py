"""`vecmeta bench search`: searches in process at equal recall, beside other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note
from vecmeta.cli.figures import measuring, told

AIMS = {"p50": ("chroma", 1 / 3), "p99": ("chroma", 1 / 3), "rate": ("faiss", 0.85)}


@measuring
def bench_search(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=1000, help="How many vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=2, help="Of how many numbers.")] = 384,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Vectors of your own instead; the last 1,000 are the queries.")
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peers", metavar="NAME...", help="Of faiss, numpy, chroma, lancedb, qdrant. Default: those that are installed."
        ),
    ] = None,
    recall: Annotated[float, typer.Option(min=0.01, max=1, help="Recall@10 that the peers are tuned for.")] = 0.98,
    queries: Annotated[int, typer.Option(min=100, max=800, help="Queries to measure with, in hundreds.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over them.")] = 3,
    adapted: Annotated[bool, typer.Option(help="Measure vecmeta after an adaptation, too.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the vectors and the adaptation.")] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Draw a chart into this folder (PNG; needs the extra bench).")
    ] = None,
) -> None:
    """One query at a time and batches of 100, with filters and without, beside FAISS, Chroma, LanceDB and qdrant-client."""
    from vecmeta.bench import charts, charts_search, search

    if plot is not None:
        charts.available()
    with render.progress("steps") as progress:
        facts = search.run(
            count=count,
            dim=dim,
            vectors=vectors,
            peers=peers,
            recall=recall,
            queries=queries,
            rounds=rounds,
            seed=seed,
            adapted=adapted,
            progress=progress,
        )
    if plot is not None:
        note(f"drew {charts_search.draw(facts, plot)}")
    if told(context, facts):
        return
    asked = facts["settings"]
    what = "clustered vectors" if asked["vectors"] is None else f"vectors of {asked['vectors']}"
    render.show(
        f"{asked['count']:,} {what} of dimension {asked['dim']}, k = {asked['k']}, seed {asked['seed']}, {facts['cores']} cores"
    )
    for setting in search.SETTINGS:
        render.show(_table(facts, setting))
    render.show(_engines(facts))
    if facts["ratios"]:
        render.show(_ratios(facts))
    for remark in facts["notes"]:
        render.show(f"note: {remark}")


def _table(facts: dict[str, Any], setting: str) -> Any:
    rows = [
        (
            row["engine"],
            f"{row['p50_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['per_second']:,.0f}",
            f"{row['recall']:.4f}",
            f"{row['batch_recall']:.4f}",
            _knob(row["knob"])
            if row["knob"] == row["batch_knob"]
            else f"{_knob(row['knob'])}; batches {_knob(row['batch_knob'])}",
            f"{row['asked']:.0f}",
            f"{row['batch']:.0f}",
            "" if row["reached"] else "below the target",
        )
        for row in facts["rows"]
        if row["setting"] == setting
    ]
    columns = ("", "p50 ms>", "p99 ms>", "batches, queries/s>", "recall>", "of batches>", "knob", "asked>", "batch>", "")
    title = "no filter" if setting == "no filter" else f"a filter that {setting} match"
    return render.table(columns, rows, title=title)


def _engines(facts: dict[str, Any]) -> Any:
    rows = [
        (
            name,
            found["version"],
            f"{found['add_seconds']:.1f}",
            f"{found['finish_seconds']:.1f}",
            render.bytes_text(found["memory_bytes"]),
            render.bytes_text(found["peak_memory_bytes"]),
        )
        for name, found in facts["engines"].items()
    ]
    return render.table(
        ("", "version", "add s>", "then build s>", "memory>", "peak>"), rows, title="filling, in batches of 5,000"
    )


def _ratios(facts: dict[str, Any]) -> Any:
    """Ours to each peer's; to those that an aim names, with the aim."""
    rows = [
        (
            ratio["engine"],
            ratio["setting"],
            ratio["peer"],
            *[f"{ratio[figure]:.2f}{_aim(figure, ratio['peer'])}" for figure in ("p50", "p99", "rate")],
        )
        for ratio in facts["ratios"]
    ]
    columns = ("", "filter", "peer", "p50>", "p99>", "batches>")
    return render.table(columns, rows, title="ours divided by the peer's: time of one query, queries/s in batches")


def _aim(figure: str, peer: str) -> str:
    wanted, aim = AIMS[figure]
    return f" (aim {'at least' if figure == 'rate' else 'at most'} {aim:.2f})" if peer == wanted else ""


def _knob(knob: dict[str, Any]) -> str:
    return ", ".join(name if value is True else f"{name} {value}" for name, value in knob.items())
