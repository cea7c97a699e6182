"""`vecmeta …`: the library from the command line. What all commands share is told in `vecmeta.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

from vecmeta.cli import (
    bench,
    bench_encode,
    bench_finetune,
    bench_milvus,
    bench_omniglot,
    bench_relevance,
    bench_search,
    bench_serve,
    bench_speed,
    data,
    finetune,
    lab,
    look,
    meta_train,
    move,
    serve,
    teach,
)
from vecmeta.cli.app import Data, Device, Files, GreedyCommand, Index, Json, shared, verb

program = typer.Typer(
    name="vecmeta",
    help="A vector database whose notion of similarity can be taught.",
    epilog="Start with: vecmeta demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is for a bug report, and plain text is what can be pasted
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from vecmeta import __version__

        typer.echo(f"vecmeta {__version__}")
        raise typer.Exit


@program.callback()
def _program(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version of vecmeta.")
    ] = False,
    data: Data = None,
    index: Index = None,
    files: Files = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Options before the verb."""
    shared(context).take(data=data, index=index, files=files, device=device, json=json)


for _panel, _group in {
    "First steps": (lab.demo,),
    "Collections and items": (
        data.create,
        data.collections,
        data.drop,
        data.add,
        data.get,
        data.delete,
        data.items,
        data.count,
        move.export,
        move.import_,
    ),
    "Search": (look.search, look.recommend, look.embed),
    "Teach": (
        teach.feedback,
        teach.judgements,
        teach.adapt,
        teach.versions,
        teach.report,
        teach.activate,
        teach.rollback,
    ),
    "Serve": (serve.serve, serve.worker),
    "Research": (meta_train.meta_train, finetune.finetune),
}.items():
    for _command in _group:
        _greedy = (
            GreedyCommand if _command in (look.recommend, teach.feedback, meta_train.meta_train, finetune.finetune) else None
        )
        program.command(_command.__name__.strip("_").replace("_", "-"), cls=_greedy, rich_help_panel=_panel)(verb(_command))

_bench = typer.Typer(help="Measure on your own machine.", no_args_is_help=True)
for _measure in (
    bench.bench_adapt,
    bench.bench_teach,
    bench_relevance.bench_relevance,
    bench.bench_outer,
    bench.bench_add,
    bench_encode.bench_encode,
    bench_finetune.bench_finetune,
    bench_omniglot.bench_omniglot,
    bench_search.bench_search,
    bench_serve.bench_serve,
    bench_serve.bench_encoding,
    bench_serve.bench_mixed,
    bench_speed.bench_cold,
    bench_speed.bench_growth,
    bench_speed.bench_reindex,
    bench_speed.bench_compare,
    bench_milvus.bench_milvus,
):
    _bench.command(_measure.__name__.removeprefix("bench_"), cls=GreedyCommand)(verb(_measure))

program.add_typer(_bench, name="bench", rich_help_panel="Research")

_keys = typer.Typer(help="API keys of the service.", no_args_is_help=True)
for _deed in (serve.keys_create, serve.keys_list, serve.keys_revoke):
    _keys.command(_deed.__name__.removeprefix("keys_"))(verb(_deed))

program.add_typer(_keys, name="keys", rich_help_panel="Serve")


def main() -> None:
    """The entry point of ``vecmeta`` and ``python -m vecmeta``."""
    program()
