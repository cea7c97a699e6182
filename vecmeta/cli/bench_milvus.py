"""The verb that measures an index in a Milvus: bench milvus."""

from __future__ import annotations

from typing import Annotated

import typer

from vecmeta.cli import render
from vecmeta.cli.app import shared
from vecmeta.cli.figures import measuring, told


@measuring
def bench_milvus(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=0, help="Vectors to re-embed; 0 leaves this out.")] = 100_000,
    swap_count: Annotated[
        int, typer.Option(min=0, help="Vectors of the collection that is searched; 0 leaves this out.")
    ] = 20_000,
    dim: Annotated[int, typer.Option(min=2, help="Of how many numbers.")] = 384,
    swaps: Annotated[int, typer.Option(min=1, help="Adaptations while it is searched.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="That search.")] = 4,
    inside: Annotated[
        bool, typer.Option("--inside", help="Adapt in the process that searches, and not in a worker of its own.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of vectors, concepts and adaptations.")] = 0,
) -> None:
    """Re-embedding into a Milvus by stage, and searches while versions are swapped; --index says which Milvus."""
    from vecmeta.bench import milvus

    with render.progress("steps") as progress:
        facts = milvus.run(
            shared(context).index, count=count, swap_count=swap_count, dim=dim, swaps=swaps, threads=threads, inside=inside,
            seed=seed, progress=progress,
        )  # fmt: skip
    if told(context, facts):
        return
    if "reembed" in facts:
        found = facts["reembed"]
        rows = [(f"building: {name}", f"{seconds:.2f} s") for name, seconds in found["stages"].items()]
        rows += [
            ("building, all of it", f"{found['seconds'].get('building', 0):.2f} s"),
            ("Milvus's own part of it", "" if found["milvus_share"] is None else f"{found['milvus_share']:.0%}"),
            ("recall@10", "" if found["recall"] is None else f"{found['recall']:.3f}"),
            (
                "memory of this process, before and at its largest",
                " ".join(f"{found[f'memory_{m}'] / 2**20:.0f} MB" for m in ("before", "peak")),
            ),
        ]
        render.show(render.table(("", "took>"), rows, title=f"re-embedding {found['count']:,} vectors"))
    if "swap" in facts:
        found = facts["swap"]
        latencies = [(when, *(f"{found[when].get(p, 0):.1f}" for p in ("p50", "p99"))) for when in ("before", "while", "after")]
        title = (
            f"{found['searches']:,} searches, {found['swaps']} swaps: {found['errors']} errors, {found['mixed']} mixed answers"
        )
        render.show(render.table(("", "p50 ms>", "p99 ms>"), latencies, title=title))
        rows = [(name, f"{seconds:.2f} s") for name, seconds in found["stages"].items()]
        rows.append(("from asked to live", f"{found['seconds_of_a_swap']:.2f} s"))
        render.show(render.table(("stage of an adaptation, median", "took>"), rows))
