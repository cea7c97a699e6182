"""Verbs that measure: bench adapt, teach, outer, add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, shared
from vecmeta.cli.figures import measuring, told

DataSets = Annotated[Path, typer.Option("--data-sets", metavar="DIR", help="Folder of data sets.")]
PERCENT = "{:.1%}".format
SIGNED = "{:+.3f}".format


@measuring
def bench_adapt(
    context: typer.Context,
    data_sets: DataSets,
    set_names: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME:COLUMN...", help="Only these. Default: all held-out ones.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", metavar="NAME...", help="Only these. Default: all methods.")
    ] = None,
    shots: Annotated[
        list[int] | None, typer.Option("--shots", metavar="N...", help="Judged items per concept. Default: 1 2 5 10.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 5,
    gate: Annotated[
        bool, typer.Option("--gate", help="Also put candidates of right, half wrong and random labels on trial.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Draw charts into this folder (PNG; needs the extra bench).")
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Keep encodings here for the next time.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", metavar="FILE", help="A start of your own for the first of the methods.")
    ] = None,
) -> None:
    """Compare the methods on labelled sets that no start was trained on: method x shots x data set."""
    from vecmeta.bench import adapt, charts

    if plot is not None:
        charts.available()
    with render.progress("runs") as progress:
        facts = adapt.run(
            data_sets,
            sets=set_names,
            methods=methods,
            shots=shots or adapt.SHOTS,
            seeds=seeds,
            with_gate=gate,
            cache=cache,
            start=start,
            device=shared(context).device,
            progress=progress,
        )
    done = told(context, facts)
    drawn = charts.draw(facts, plot) if plot is not None else []
    for path in drawn:
        note(f"drew {path}")
    if done:
        return
    for few in facts["settings"]["shots"]:
        render.show(_means_table(facts, few))
    render.show(_sets_table(facts, facts["settings"]["shots"][-2 if len(facts["settings"]["shots"]) > 2 else -1]))
    first = next(iter(facts["starts"]))
    for n in facts["negatives"]:
        render.show(
            f"{first}, {n['shots']} judged items and as many hard negatives per concept: mixed {SIGNED(n['with'])}; the same items "
            f"without the negatives {SIGNED(n['without'])}; difference {n['difference']:+.4f} ±{n['half']:.4f}"
        )
    if gate:
        render.show(_gate_table(facts["gate"]))


def _gate_table(found: dict[str, Any]) -> Any:
    def share(counted: dict[str, Any], name: str) -> str:
        return f"{PERCENT(counted[f'{name}_kept'])} of {counted[name]}" if counted[name] else "none"

    rows = [
        (name, str(g["runs"]), str(g["insufficient"]), *(share(g, part) for part in ("harmful", "clearly_harmful", "helpful")))
        for name, g in [*found["methods"].items(), ("all", found)]
    ]
    title = (
        "The gate: candidates kept back, of those that lower mixed quality, lower it by more than .005, raise it by more than .02"
    )
    return render.table(("method", "trials>", "too few>", "lower>", "by .005>", "raise by .02>"), rows, title=title)


def _means_table(facts: dict[str, Any], shots: int) -> Any:
    rows = [
        (
            m["method"],
            *(f"{m[f'{part}_base'] + m[f'{part}_gain']:.3f}" for part in ("fed", "mixed", "unfed")),
            SIGNED(m["fed_gain"]),
            f"{SIGNED(m['mixed_gain'])} ±{m['mixed_half']:.3f}",
            SIGNED(m["unfed_gain"]),
            PERCENT(m["fed_worse"]),
            PERCENT(m["fed_worse_02"]),
            PERCENT(m["unfed_worse_02"]),
            SIGNED(m["mixed_least"]),
            f"{m['seconds']:.3f}",
        )
        for m in facts["means"]
        if m["shots"] == shots
    ]
    columns = ("method", "fed>", "mixed>", "unfed>", "change: fed>", "mixed>", "unfed>", "fed worse>", "by .02>", "unfed by .02>")
    title = f"{shots} judged items per concept, means over {len(facts['split'])} held-out notions"
    return render.table((*columns, "worst set>", "seconds>"), rows, title=title)


def _sets_table(facts: dict[str, Any], shots: int) -> Any:
    """The first method, set by set."""
    first = next(iter(facts["starts"]))
    rows = [
        (
            r["set"],
            facts["split"][r["set"]],
            *(
                f"{r[f'{part}_base']:.3f} {SIGNED(r[f'{part}_gain'])} ±{r[f'{part}_half']:.3f}"
                for part in ("fed", "mixed", "unfed")
            ),
            PERCENT(r["fed_worse"]),
        )
        for r in facts["rows"]
        if r["shots"] == shots and r["method"] == first
    ]
    title = f"{first}, {shots} judged items per concept: MAP@R of the untouched encoder and the change"
    return render.table(("set:notion", "held out as", "fed>", "mixed>", "unfed>", "fed worse>"), rows, title=title)


@measuring
def bench_outer(
    context: typer.Context,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks per outer step.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 5,
) -> None:
    """Time one outer step of meta-training: all tasks at once, against a loop over tasks."""
    from vecmeta.bench import outer

    facts = outer.run(tasks, repeats, shared(context).device)
    if told(context, facts):
        return
    rows = [
        (
            r["method"],
            str(r["dim"]),
            f"{r['ways']} x {r['shots']}",
            f"{r['loop']:.3f}",
            f"{r['batched']:.3f}",
            f"{r['ratio']:.1f}",
        )
        for r in facts["rows"]
    ]
    title = f"one outer step over {tasks} tasks, medians of {repeats}, {facts['threads']} threads, {facts['device']}"
    render.show(render.table(("method", "dim>", "ways x shots>", "loop, s>", "batched, s>", "ratio>"), rows, title=title))


@measuring
def bench_teach(
    context: typer.Context,
    data_sets: Annotated[Path, typer.Option("--data-sets", metavar="DIR", help="Folder of data sets.")],
    set_names: Annotated[list[str] | None, typer.Option("--set", metavar="NAME...", help="Only these. Default: all.")] = None,
    concepts: Annotated[int, typer.Option(min=2, help="Concepts taught.")] = 15,
    shots: Annotated[int, typer.Option(min=1, help="Items marked for each.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
) -> None:
    """Teach whole collections through the public interface, from feedback to swap, and measure before and after."""
    from vecmeta.bench import teach

    with render.progress("runs") as progress:
        facts = teach.run(
            data_sets,
            sets=set_names,
            concepts=concepts,
            shots=shots,
            seeds=seeds,
            device=shared(context).device,
            progress=progress,
        )
    if told(context, facts):
        return
    for name, means in facts["means"].items():
        rows = [
            (part, f"{means[f'{part}_before']:.3f}", f"{means[f'{part}_after']:.3f}", f"{means[f'{part}_gain_relative']:+.1%}")
            for part in teach.PARTS
        ]
        render.show(f"{name}: {concepts} concepts taught with {shots} items each, means of {seeds} seeds")
        render.show(render.table(("queries", "mAP before>", "after>", "change>"), rows))
        render.show(
            f"taught queries made worse: {means['fed_worse']:.1%}; untaught made worse by more than .02: "
            f"{means['unfed_worse_by_02']:.1%}; adapt, re-embed, re-index and swap: {means['seconds']:.2f} s"
        )


@measuring
def bench_add(
    context: typer.Context,
    count: Annotated[int, typer.Option(min=1, help="Vectors to add.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1, help="Their length.")] = 384,
    batch: Annotated[int, typer.Option(min=1, help="Items of a call where they come in batches.")] = 1_000,
    peers: Annotated[list[str] | None, typer.Option("--peers", metavar="NAME...", help="Beside vecmeta: chroma.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the vectors.")] = 0,
) -> None:
    """Measure adding own vectors in one call and in batches, changing and deleting them: time, memory, recall."""
    from vecmeta.bench import add

    with render.progress("steps") as progress:
        facts = add.run(count, dim, seed, batch, peers or (), progress)
    if told(context, facts):
        return
    both = {"vecmeta": {"whole": facts, "streamed": facts["streamed"]}, **facts["peers"]}
    title = f"{count:,} vectors of dimension {dim} with metadata, {facts['cores']} cores; written, and the last one found"
    columns = ("", "", "seconds>", "items/s>", "recall@10>", "settled after s>", "recall@10>", "peak memory>")
    rows = [
        (
            name,
            words.format(batch=batch),
            f"{part['seconds']:.2f}",
            f"{part['per_second']:,}",
            f"{part['recall_at_10']:.4f}",
            "" if part["settled_seconds"] is None else f"{part['settled_seconds']:.2f}",
            f"{part['recall_at_10_settled']:.4f}",
            render.bytes_text(part["peak_memory_bytes"] if key == "whole" else part["memory"][-1]["peak_memory_bytes"]),
        )
        for name, found in both.items()
        for key, words in (("whole", "one call"), ("streamed", "batches of {batch}"))
        for part in (found[key],)
    ]
    render.show(render.table(columns, rows, title=title))
    changes = {name: found["streamed"]["changes"] for name, found in both.items()}
    rows = [
        (
            name,
            *[f"{found[kind]['per_second']:,} ({found[kind]['of_adding']:.2f})" for kind in ("upserts", "metadata", "deletes")],
        )
        for name, found in changes.items()
    ]
    title = f"changes of {changes['vecmeta']['count']:,} items in batches of {batch}: items/s (of the adding rate)"
    render.show(render.table(("", "new vectors>", "new metadata>", "deletes>"), rows, title=title))
    for name, found in both.items():
        marks = found["streamed"]["memory"]
        beyond = ", ".join(f"{render.bytes_text(max(0, m['beyond_vectors_bytes']))} at {m['count']:,}" for m in marks)
        render.show(f"{name}, in batches: peak memory beyond what was there at the start and the vectors: {beyond}")
