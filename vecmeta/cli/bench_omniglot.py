"""The verb that measures few-shot learners on handwritten characters: bench omniglot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vecmeta.cli import render
from vecmeta.cli.app import shared
from vecmeta.cli.figures import measuring, told


@measuring
def bench_omniglot(
    context: typer.Context,
    data_sets: Annotated[Path, typer.Option("--data-sets", metavar="DIR", help="Folder of data sets.")],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME...", help="Only these: maml, fomaml, anil, reptile, protonet. Default: all."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Budget of each training, in seconds of processor time. Default: 100.", show_default=False),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Budget of each training in episodes, instead of seconds.", show_default=False)
    ] = None,
    test_episodes: Annotated[int, typer.Option(min=2, help="Episodes of the test.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of parameters and training episodes.")] = 0,
) -> None:
    """Measure MAML, FOMAML, ANIL, Reptile and ProtoNet on handwritten characters, under one budget."""
    from vecmeta.bench import omniglot

    with render.progress("done") as progress:
        facts = omniglot.run(
            data_sets,
            methods=methods,
            seconds=seconds,
            episodes=episodes,
            test_episodes=test_episodes,
            seed=seed,
            device=shared(context).device,
            progress=progress,
        )
    if told(context, facts):
        return
    rows = [
        (
            run["method"],
            *[f"{run[f'accuracy_{shots}']:.1%} ± {run[f'interval_{shots}']:.1%}" for shots in omniglot.SHOTS],
            f"{run['seconds']:.0f}",
            f"{run['episodes']:,}",
        )
        for run in facts["runs"]
    ]
    render.show("5-way accuracy on characters of alphabets that were not trained on, with 95 % intervals")
    render.show(render.table(("method", "1-shot>", "5-shot>", "seconds>", "episodes seen>"), rows))
