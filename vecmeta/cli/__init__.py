"""`vecmeta …`: the library from the command line. What all commands share is told in `vecmeta.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

from vecmeta.cli import data, lab, look, teach
from vecmeta.cli.app import Data, Device, GreedyCommand, Index, Json, shared, verb

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
    device: Device = None,
    json: Json = False,
) -> None:
    """Options before the verb."""
    shared(context).take(data=data, index=index, device=device, json=json)


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
    "Research": (lab.meta_train,),
}.items():
    for _command in _group:
        _greedy = GreedyCommand if _command in (look.recommend, teach.feedback, lab.meta_train) else None
        program.command(_command.__name__.replace("_", "-"), cls=_greedy, rich_help_panel=_panel)(verb(_command))

_bench = typer.Typer(help="Measure on your own machine.", no_args_is_help=True)
_bench.command("adapt", cls=GreedyCommand)(verb(lab.bench_adapt))
_bench.command("add", cls=GreedyCommand)(verb(lab.bench_add))


@_bench.callback()
def _bench_group() -> None:
    """A group although it has but one command so far."""


program.add_typer(_bench, name="bench", rich_help_panel="Research")


def main() -> None:
    """The entry point of ``vecmeta`` and ``python -m vecmeta``."""
    program()
