"""`vecmeta bench encode`: how fast contents become vectors, and what that costs in quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import shared
from vecmeta.cli.figures import measuring, told


@measuring
def bench_encode(
    context: typer.Context,
    data_sets: Annotated[Path, typer.Option("--data-sets", metavar="DIR", help="Folder of data sets.")],
    texts: Annotated[int, typer.Option(min=0, help="How many texts of mixed lengths; 0 leaves them out.")] = 400,
    pictures: Annotated[int, typer.Option(min=0, help="How many pictures; 0 leaves them out.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over them.")] = 3,
    quality: Annotated[bool, typer.Option(help="Measure what the vectors find, too.")] = True,
) -> None:
    """Texts and pictures a second, and one at a time, beside plain sentence-transformers and plain torch; and what changes in quality."""
    from vecmeta.bench import encode

    device = shared(context).device
    with render.progress("rounds") as progress:
        facts = encode.run(
            data_sets, texts=texts, pictures=pictures, rounds=rounds, quality=quality, device=device, progress=progress
        )
    if told(context, facts):
        return
    for kind in ("texts", "pictures"):
        if kind in facts:
            render.show(_table(kind, facts))


def _table(kind: str, facts: dict[str, Any]) -> Any:
    columns = ["", f"{kind}/s>", "to plain>", "one, ms>", "to plain>", "largest difference>", "least cosine>"]
    measured = any("ndcg" in way for way in facts[kind].values())
    rows = []
    for name, way in facts[kind].items():
        row = [name, f"{way['rate']:.0f}", f"{way['ratio']:.2f}", f"{way['single_ms']:.1f}", f"{way['single_ratio']:.2f}"]
        row += [f"{way['difference']:.1e}", f"{way['cosine']:.4f}"]
        if measured:
            row += [f"{way[key]:.4f} {way[f'{key}_change']:+.4f}" for key in ("map_at_r", "ndcg")]
        rows.append(row)
    title = f"{facts['settings'][kind]} {kind}, medians of {facts['settings']['rounds']} rounds"
    return render.table([*columns, *(["MAP@R>", "nDCG@10>"] if measured else [])], rows, title=title)
