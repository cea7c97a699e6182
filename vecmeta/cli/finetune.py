"""The verb that fine-tunes an encoder: finetune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, opened_collection, print_json, shared
from vecmeta.errors import Cancelled

if TYPE_CHECKING:
    from vecmeta import Collection, Report
    from vecmeta.finetune import Examples, Mode

_AFTER = "After an interruption"


def finetune(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="Labelled .jsonl .csv .tsv .parquet files, or folders of pictures, FOLDER/LABEL/picture.jpg."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="With files: where the encoder is written, a folder.")
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection", metavar="NAME", help="Learn from a collection, and bring the encoder into it if it is better."
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option("--field", metavar="KEY", help="With --collection: learn from this metadata field, not from judgements."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="With files: the encoder to begin from, as for create.")] = "text",
    mode: Annotated[
        str | None,
        typer.Option(
            help="features: a new last layer; lora: low-rank updates; full: all layers. Default: full.", show_default=False
        ),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer",
            metavar="KIND...",
            help="parameters: pulled to the pretrained ones; relations: those of the untouched encoder are kept; representation: two "
            "distributions are drawn together; instances: source examples like the target are learned from too.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source", metavar="FILE...", help="Labelled examples of another domain, for instances and representation."
        ),
    ] = None,
    source_collection: Annotated[
        str | None,
        typer.Option(
            "--source-collection",
            metavar="NAME[:FIELD]",
            help="With --collection: the same from another collection, its judgements or a metadata field.",
        ),
    ] = None,
    unlabelled: Annotated[
        list[str] | None, typer.Option("--unlabelled", metavar="FILE...", help="With files: contents whose labels do not matter.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label-column", metavar="NAME", help="Of the labels. Default: label, class, …")
    ] = None,
    content: Annotated[
        str | None, typer.Option("--content-column", metavar="NAME", help="Of the contents. Default: as for add.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Most steps. Default: by the examples.", show_default=False)] = None,
    rate: Annotated[
        float | None, typer.Option(help="Highest learning rate. Default: by mode and contents.", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option(help="What an early stop watches: map or ndcg.")] = "map",
    precision: Annotated[
        str, typer.Option(help="What networks compute in: auto (half precision on a GPU), fp32, bf16 (anywhere).")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the batches, new weights.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --collection: train and measure, bring nothing into the collection.")
    ] = False,
) -> None:
    """Fine-tune an encoder where adapting its output is not enough: on labelled files, or on a collection.

    Ctrl-C keeps a checkpoint; the same command goes on from there, to the same result.
    """
    if (collection is None) == (not sources):
        raise typer.BadParameter("give either labelled files or --collection", param_hint="FILE")
    if collection is None and out is None:
        raise typer.BadParameter("where is the encoder to be written? --out DIR", param_hint="--out")
    odd: dict[str, object] = {"--out": out, "--unlabelled": unlabelled, "--label-column": label, "--content-column": content}
    if collection is not None and (given := [name for name, value in odd.items() if value]):
        raise typer.BadParameter("is for files, not for a collection", param_hint=given[0])
    odd = {"--field": field, "--source-collection": source_collection, "--dry-run": dry_run}
    if collection is None and (given := [name for name, value in odd.items() if value]):
        raise typer.BadParameter("is for --collection", param_hint=given[0])
    if source and source_collection:
        raise typer.BadParameter("give one of --source and --source-collection", param_hint="--source")
    wish = {"steps": steps, "rate": rate, "metric": metric, "precision": precision}
    settings = {name: value for name, value in wish.items() if value is not None}
    try:
        if collection is not None:
            with opened_collection(context, collection) as c, render.renewed_progress() as progress:
                report = c.finetune(
                    cast("Mode | None", mode),
                    transfer=tuple(transfer or ()),
                    field=field,
                    source=_source(c, source) if source else source_collection,
                    config=settings,
                    dry_run=dry_run,
                    seed=seed,
                    progress=progress,
                )
            _show_report(context, report)
            return
        facts = _from_files(
            context, list(sources or ()), cast(Path, out), encoder, (label, content), (source or [], unlabelled or []),
            {**settings, "transfer": tuple(transfer or ()), "seed": seed, **({} if mode is None else {"mode": mode})},
        )  # fmt: skip
    except (KeyboardInterrupt, Cancelled):
        note("stopped; the same command goes on from the checkpoint")
        raise typer.Exit(130) from None
    if shared(context).json:
        print_json({"out": str(out), **facts})
    else:
        _show(cast(Path, out), facts)


def _source(collection: Collection, files: list[str]) -> Examples:
    from vecmeta.errors import InvalidConfig
    from vecmeta.finetune import read_examples

    if collection.modality not in ("text", "image"):
        raise InvalidConfig(f"the collection {collection.name!r} holds neither texts nor pictures")
    return read_examples(files, collection.modality)


def _from_files(
    context: typer.Context, sources: list[str], out: Path, encoder: str, columns: tuple[str | None, str | None],
    more: tuple[list[str], list[str]], settings: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    from vecmeta.encoders import open_encoder
    from vecmeta.finetune import FinetuneConfig, read_contents, read_examples
    from vecmeta.finetune import finetune as train

    config = FinetuneConfig(**settings)
    parent = open_encoder(encoder, device=shared(context).device)
    label, content = columns
    examples = read_examples(sources, parent, label=label, content=content)
    other = read_examples(more[0], parent, label=label, content=content) if more[0] else None
    free = read_contents(more[1], parent, content=content) if more[1] else []
    for why, count in examples.about["left_out"].items():
        note(f"left out: {count} {why}")
    with render.renewed_progress() as progress:
        return train(parent, examples, out, config, source=other, unlabelled=free, progress=progress)


def _show_report(context: typer.Context, report: Report) -> None:
    if shared(context).json:
        print_json(render.report_json(report))
    else:
        render.show(*render.report_parts(report))


def _show(out: Path, facts: dict[str, Any]) -> None:
    from rich.text import Text

    scores, data = facts["scores"], facts["data"]
    render.show(Text(f"{out}: {facts['name']}, from {facts['parent']}", style="bold"))
    render.show(f"{data['examples']:,} examples of {data['classes']} classes, {data['held_out']:,} of them held out")
    if "base" in scores:
        rows = [
            (name, f"{scores['base'][key]:.3f}", f"{scores['finetuned'][key]:.3f}")
            for key, name in (("map", "MAP@R"), ("ndcg", "nDCG@10"))
        ]
        render.show(render.table(("held-out examples", "before>", "after>"), rows))
    render.show(f"the best of {scores['steps']} steps: {scores['best_step']}; {facts['seconds']:.0f} seconds")
    for line in facts["notes"]:
        render.show(line)
    render.show(Text(f"open it with encoder={str(out)!r}", style="dim"))
