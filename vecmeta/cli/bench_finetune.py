"""The verb that measures fine-tuning: bench finetune."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, shared
from vecmeta.cli.figures import earlier, kept, measuring, told

SIGNED = "{:+.3f}".format


@measuring
def bench_finetune(
    context: typer.Context,
    data_sets: Annotated[Path, typer.Option("--data-sets", metavar="DIR", help="Folder of data sets.")],
    set_names: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME:COLUMN...", help="Only these. Default: two of texts, two of pictures."),
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", metavar="NAME...", help="Only these. Default: adapt and every training.")
    ] = None,
    shots: Annotated[
        list[int] | None, typer.Option("--shots", metavar="N...", help="Labelled items of a class; 0: all. Default: 5 20 0.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of a training. Default: by the labels.", show_default=False)
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(min=32, help="Pictures are learned from at this size. Default: the encoder's.", show_default=False),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="What networks learn in: auto, fp32, bf16. Default: auto.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Draw a chart into this folder (PNG; needs the extra bench).")
    ] = None,
) -> None:
    """Compare adapting with fine-tuning: quality of held-out items and held-out classes, against seconds.

    It takes hours without a GPU. With --out, what was measured is kept as it goes: the same command goes on from there.
    """
    from vecmeta.bench import charts, charts_finetune, finetune

    if plot is not None:
        charts.available()
    given = {"steps": steps, "side": side, "precision": precision}
    with render.renewed_progress() as progress:
        facts = finetune.run(
            data_sets,
            sets=set_names,
            methods=methods,
            shots=shots or finetune.SHOTS,
            seeds=seeds,
            settings={name: value for name, value in given.items() if value is not None},
            device=shared(context).device,
            earlier=earlier(context),
            keep=partial(kept, context),
            progress=progress,
        )
    done = told(context, facts)
    if plot is not None:
        note(f"drew {charts_finetune.draw(facts, plot / 'finetune.png')}")
    if done:
        return
    for few in dict.fromkeys(row["shots"] for row in facts["means"]):
        render.show(_table(facts, few))
    render.show(_means(facts))


def _means(facts: dict[str, Any]) -> Any:
    rows = [
        (
            str(row["shots"] or "all"),
            row["method"],
            *(f"{SIGNED(row[f'{part}_gain'])}" for part in ("fed", "mixed", "unfed")),
            "" if "mixed_gain_with_head" not in row else SIGNED(row["mixed_gain_with_head"]),
            f"{row['seconds']:.1f}",
        )
        for row in facts["means"]
    ]
    columns = ("labels per class", "method", "fed>", "mixed>", "unfed>", "mixed, head on top>", "seconds>")
    return render.table(columns, rows, title="means over the sets: change of MAP@R")


def _table(facts: dict[str, Any], shots: int) -> Any:
    rows = []
    for row in facts["rows"]:
        if row["shots"] != shots:
            continue
        parts = [f"{row[f'{part}_base']:.3f} {SIGNED(row[f'{part}_gain'])}" for part in ("fed", "mixed", "unfed")]
        head = "" if "mixed_gain_with_head" not in row else SIGNED(row["mixed_gain_with_head"])
        worse = f"{row['unfed_worse_02']:.0%}"
        rows.append((row["set"], f"{row['labels']:,.0f}", row["method"], *parts, head, worse, f"{row['seconds']:.1f}"))
    columns = ("set", "labels>", "method", "fed>", "mixed>", "unfed>", "mixed, head on top>", "unfed worse by .02>", "seconds>")
    title = f"{shots or 'all'} labelled items per class: MAP@R of the untouched encoder and the change"
    return render.table(columns, rows, title=title)
