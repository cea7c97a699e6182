"""The verbs that measure speed and size: bench cold, growth, reindex; and bench compare, two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, print_json, shared
from vecmeta.cli.figures import measuring, told, write_json

Dim = Annotated[int, typer.Option(min=2, help="Of how many numbers.")]
Seed = Annotated[int, typer.Option(min=0, help="Of vectors, concepts and adaptations.")]


def bench_compare(
    context: typer.Context,
    before: Annotated[Path, typer.Argument(metavar="BEFORE.json", help="What --out wrote.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER.json", help="What --out wrote later.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the comparison to this file (JSON).")
    ] = None,
) -> None:
    """Two runs of one benchmark side by side; refuses runs of different machines."""
    from vecmeta.bench import compare

    facts = compare.run(before, after)
    if out is not None:
        write_json(out, facts)
    for warning in facts["warnings"]:
        note(f"warning: {warning}")
    if shared(context).json:
        print_json(facts)
        return
    rows = [
        (row["figure"], _number(row["before"]), _number(row["after"]), "" if row["ratio"] is None else f"{row['ratio']:.3f}")
        for row in facts["rows"]
    ]
    title = f"bench {facts['benchmark']} on {facts['machine']}"
    render.show(render.table(("figure", "before>", "after>", "after / before>"), rows, title=title))


@measuring
def bench_cold(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=1, help="How many vectors.")] = 100_000,
    dim: Dim = 384,
    repeats: Annotated[int, typer.Option(min=1, help="Fresh processes for each figure.")] = 5,
    seed: Seed = 0,
    live: Annotated[bool, typer.Option(help="Also after an adaptation.")] = True,
) -> None:
    """What starting costs: the import, the help, and the first search of a collection that was closed, in fresh processes."""
    from vecmeta.bench import cold

    with render.progress("steps") as progress:
        facts = cold.run(count, dim, repeats, seed, live=live, progress=progress)
    if told(context, facts):
        return
    rows = [
        ("python -c pass", f"{facts['python_process']:.3f}"),
        ("import vecmeta, the whole process", f"{facts['import_process']:.3f}"),
        ("vecmeta --help, the whole process", f"{facts['help_process']:.3f}"),
    ]
    for part, words in (("base", ""), ("live", ", adapted")):
        if part in facts:
            found = facts[part]
            rows += [
                (f"import, before the first search{words}", f"{found['import']:.3f}"),
                (f"opening and first search{words}", f"{found['first_search']:.3f}"),
                (f"import, opening and first search{words}", f"{found['with_import']:.3f}"),
                (f"second search{words}", f"{found['second_search']:.5f}"),
            ]
    render.show(render.table(("", "seconds>"), rows, title=f"{count:,} vectors, medians of {repeats} fresh processes"))


@measuring
def bench_growth(
    context: typer.Context,
    sizes: Annotated[
        list[int] | None, typer.Option("--sizes", metavar="N...", help="Default: 1000 10000 100000 1000000.", show_default=False)
    ] = None,
    dim: Dim = 384,
    seed: Seed = 0,
    adapt: Annotated[bool, typer.Option(help="Also adapt, which imports torch.")] = True,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Draw a chart into this folder (PNG; needs the extra bench).")
    ] = None,
) -> None:
    """Time and memory of adding, searching and adapting at several sizes, and the slopes of their growth."""
    from vecmeta.bench import charts, growth

    if plot is not None:
        charts.available()
    with render.progress("sizes") as progress:
        facts = growth.run(sizes or growth.SIZES, dim, seed, adapt=adapt, progress=progress)
    done = told(context, facts)
    if plot is not None:
        from vecmeta.bench import charts_growth

        note(f"drew {charts_growth.draw(facts, plot)}")
    if done:
        return
    shown = {**dict.fromkeys(growth.TIMES, _seconds), **dict.fromkeys(growth.SPACES, _bytes)}
    slopes = facts["slopes"]
    rows = [
        (
            words,
            *[shown[name](one[name]) for one in facts["by_size"].values()],
            *[_slope(slopes[name][part]) for part in ("all", "last")],
        )
        for name, words in {**growth.TIMES, **growth.SPACES}.items()
        if name in slopes
    ]
    steep = slopes["n log n"]
    rows.append(("n log n, for comparison", *["" for _ in facts["by_size"]], _slope(steep["all"]), _slope(steep["last"])))
    columns = ("", *[f"{int(size):,}>" for size in facts["by_size"]], "slope>", "last step>")
    render.show(render.table(columns, rows, title=f"dim {dim}; slopes on log-log axes"))


@measuring
def bench_reindex(
    context: typer.Context,
    count: Annotated[
        int | None, typer.Option(min=1000, help="How many vectors. Default: 100,000; with --study 30,000.", show_default=False)
    ] = None,
    dim: Dim = 384,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Vectors of your own instead; the last 200 are the queries.")
    ] = None,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Adaptations and rebuilds.")] = 3,
    study: Annotated[bool, typer.Option("--study", help="Compare what else could be kept of an index, by FAISS alone.")] = False,
) -> None:
    """From judgements to a served new notion, beside projecting all vectors and building a new graph of them."""
    if study:
        from vecmeta.bench import reindex_study

        with render.progress("runs") as progress:
            facts = reindex_study.run(count or 30_000, dim, vectors, seed, progress)
        if not told(context, {"part": "study", **facts}):
            _show_study(facts)
        return
    from vecmeta.bench import reindex

    with render.progress("runs") as progress:
        facts = reindex.run(count or 100_000, dim, vectors, seed, repeats, progress, shared(context).device)
    if told(context, facts):
        return
    rows = [
        (
            f"adaptation {number}: {one['decision']}, {_index(one)}",
            f"{one['adapt']:.2f}",
            f"{one['rebuild']:.2f}",
            f"{one['rebuild'] / one['adapt']:.1f}",
            f"{one['recall_at_10']:.4f}",
            f"{one['recall_at_10_rebuilt']:.4f}",
        )
        for number, one in enumerate(facts["runs"], 1)
    ]
    figures = (("adapt", ".2f"), ("rebuild", ".2f"), ("ratio", ".1f"), ("recall_at_10", ".4f"), ("recall_at_10_rebuilt", ".4f"))
    medians = ("medians", *[format(facts[name], form) for name, form in figures])
    columns = ("", "adapt, s>", "project and rebuild, s>", "ratio>", "recall@10>", "rebuilt's>")
    render.show(render.table(columns, [*rows, medians], title=f"{facts['settings']['count']:,} vectors, from judgements to swap"))
    render.show("adapt, s: " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in facts["stages"].items()))
    render.show(
        f"indexing and swapping alone: {facts['ratio_indexing']:.1f} times as fast; settled after {facts['settle']:.2f} s more"
    )
    memory = [_bytes(facts[name]) for name in ("memory_filled_bytes", "memory_before_bytes", "peak_memory_bytes")]
    render.show(
        f"peak memory: {memory[0]} filled, {memory[1]} ready to adapt (torch imported), {memory[2]} after the first adaptation"
    )


def _show_study(facts: dict[str, Any]) -> None:
    rows = [
        (
            row["index"],
            row["how"],
            f"{row['seconds']:.3f}",
            render.bytes_text(row["bytes"]),
            *[f"{recall:.3f} / {ms:.2f}" for recall, ms in zip(row["recall_at_10"], row["ms"], strict=True)],
        )
        for row in facts["rows"]
    ]
    columns = ("index", "kept of it", "seconds>", "size>", "narrow: recall@10 / ms>", "middle>", "wide>")
    title = f"{facts['settings']['count']:,} vectors moved by a head that keeps {facts['neighbours_kept']:.0%} of the ten nearest"
    render.show(render.table(columns, rows, title=title))
    widths = {row["index"].split()[0]: ", ".join(map(str, row["breadths"])) for row in facts["rows"]}
    render.show(f"narrow, middle, wide: efSearch {widths['HNSW']}; nprobe {widths['IVF']}")


def _index(one: dict[str, Any]) -> str:
    """How an adaptation was indexed, as its report has it."""
    how = {"kept": "graph kept", "rebuilding": "graph kept until there is a new one", "built": "index built"}.get(
        one["index"], "no index"
    )
    return how if one["recall_sampled"] is None else f"{how}, recall of a sample {one['recall_sampled']:.3f}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


def _bytes(value: float) -> str:
    return f"{value / 1e6:,.1f} MB"


def _slope(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
