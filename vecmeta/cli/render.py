"""How results look: tables on a terminal, plain JSON values for machines, progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vecmeta.cli.app import note

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from vecmeta import Hit, Item, Judgement, Report, Version
    from vecmeta.types import Progress

_PLAIN_SECONDS = 5.0  # how often progress is told where nobody watches


def console() -> Console:
    """Standard output; as wide as it needs where it is no terminal, so that nothing is cut in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=False)


def show(*renderables: RenderableType) -> None:
    """Print on standard output."""
    from rich.text import Text

    out = console()
    for given in renderables:
        renderable = Text(given) if isinstance(given, str) else given
        out.print(renderable, soft_wrap=isinstance(renderable, Text))  # a command that is shown can be copied in one piece


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> RenderableType:
    """A table; columns whose name ends in ">" are right-aligned. Title and cells are texts, not markup, unless they are rich objects."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    named = None if title is None else Text(title, style="bold")  # not markup: ":label:" is a column, not an emoji
    made = Table(title=named, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        made.add_column(column.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*[Text(cell) if isinstance(cell, str) else cell if isinstance(cell, Text) else str(cell) for cell in row])
    return made


def bytes_text(count: int) -> str:
    """``12 kB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.0f} {unit}"
    return f"{count} B"


def content_text(content: object, limit: int = 100) -> str:
    """A content in one line; pictures as ``<image, 12 kB>``."""
    if content is None:
        return ""
    if isinstance(content, bytes):
        return f"<image, {bytes_text(len(content))}>"
    text = " ".join(str(content).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def content_json(content: object) -> object:
    """A text as it is, a picture as ``<image, 12 kB>``: the way to get at its bytes is the library."""
    return content_text(content) if isinstance(content, bytes) else content


def metadata_text(metadata: Mapping[str, Any], limit: int = 80) -> str:
    """``lang=en year=2020``."""
    text = " ".join(f"{key}={value}" for key, value in metadata.items())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def hit_json(hit: Hit) -> dict[str, Any]:
    """A hit as a JSON object."""
    return {
        "id": hit.id,
        "score": round(float(hit.score), 6),
        "metadata": dict(hit.metadata),
        "content": content_json(hit.content),
    }


def item_json(item: Item) -> dict[str, Any]:
    """An item as a JSON object."""
    return {"id": item.id, "content": content_json(item.content), "metadata": dict(item.metadata)}


def hits_table(hits: Sequence[Hit], title: str | None = None) -> RenderableType:
    """Rank, score, id, content, metadata."""
    rows = [
        (rank, f"{hit.score:.3f}", hit.id, content_text(hit.content), metadata_text(hit.metadata))
        for rank, hit in enumerate(hits, 1)
    ]
    return table(("#>", "score>", "id", "content", "metadata"), rows, title)


def items_table(items: Sequence[Item]) -> RenderableType:
    """Id, content, metadata."""
    return table(
        ("id", "content", "metadata"), [(item.id, content_text(item.content), metadata_text(item.metadata)) for item in items]
    )


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement as a JSON object."""
    return {
        "item": judgement.item,
        "concept": judgement.concept,
        "query": None if judgement.query is None else query_text(judgement.query),
        "score": judgement.score,
        "user": judgement.user,
    }


def query_text(query: object) -> str:
    """A query of any kind in one line."""
    value = getattr(query, "value", None)
    if isinstance(value, str):
        return f"<item {value}>"
    if isinstance(query, (str, bytes)):
        return content_text(query)
    shape = getattr(query, "shape", None)
    return f"<vector, {shape[-1]} numbers>" if shape else str(query)


def version_json(version: Version) -> dict[str, Any]:
    """A version as a JSON object."""
    return {
        "number": version.number,
        "method": version.method,
        "live": version.live,
        "decision": version.decision,
        "reason": version.reason,
        "created": version.created.isoformat(),
        "judgements": version.judgements,
        "strength": version.strength,
        "metrics": dict(version.metrics),
        "encoder": version.encoder,
    }


def versions_table(versions: Sequence[Version], title: str | None = None) -> RenderableType:
    """Number, whether it is live, how it was made, and why it was decided so."""
    rows = [
        (
            version.number,
            "live" if version.live else "",
            version.method,
            version.decision,
            version.judgements,
            _when(version.created),
            version.reason,
        )
        for version in versions
    ]
    return table(("version>", "", "method", "decision", "judgements>", "created", "reason"), rows, title)


def _when(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def report_json(report: Report) -> dict[str, Any]:
    """A report as a JSON object."""
    return {
        "decision": report.decision,
        "version": report.version,
        "reason": report.reason,
        "metrics": dict(report.metrics),
        "harmed": report.harmed,
        "changed": [asdict(change) for change in report.changed],
        "seconds": dict(report.seconds),
        "dry_run": report.dry_run,
        "notes": list(report.notes),
        "contradictions": list(report.contradictions),
        "cost": dict(report.cost),
    }


def report_parts(report: Report, *, changes: bool = True) -> Iterator[RenderableType]:
    """What was decided and why, in figures; with the top lists that moved most."""
    from rich.text import Text

    number = "nothing stored" if report.version is None else f"version {report.version}"
    dry = "dry run, would be " if report.dry_run else ""
    style = {"promoted": "bold green", "kept": "bold yellow", "insufficient": "bold yellow"}[report.decision]
    yield Text.assemble((f"{dry}{report.decision}", style), f" ({number}): {report.reason}")
    measured = [(name, f"{value:.3f}") for name, value in report.metrics.items() if name not in ("contradictions", "shift")]
    if measured:
        yield table(("held-out measure", "value>"), measured)
        yield Text(f"neighbourhoods torn among items nobody labelled: {report.harmed:.1%}")
    if report.changed and changes:
        rows = [(query_text(c.query), _few(c.entered), _few(c.left)) for c in report.changed[:5]]
        yield table(("top lists that moved most", "entered", "left"), rows)
    for remark in report.notes:
        yield Text(f"note: {remark}", style="yellow")
    if report.contradictions:
        count = int(report.metrics["contradictions"])
        some = f", the first {len(report.contradictions)} of them" if count > len(report.contradictions) else ""
        yield Text(f"judgements that contradict each other: {count:,}{some}", style="yellow")
        for sentence in report.contradictions:
            yield Text(f"  {sentence}")
    if report.cost:
        size, seconds = bytes_text(int(report.cost["bytes"])), report.cost["seconds"]
        yield Text(f"to build it: {int(report.cost['rows']):,} items re-embedded, {size} of index files, about {seconds:.1f} s")
    if report.seconds:
        yield Text("seconds: " + ", ".join(f"{stage} {value:.2f}" for stage, value in report.seconds.items()), style="dim")


def _few(ids: Sequence[str], most: int = 4) -> str:
    more = f", and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


@contextmanager
def progress(unit: str = "items") -> Iterator[Progress]:
    """A `vecmeta.types.Progress` that draws bars on a terminal and tells a line now and then elsewhere; on standard error."""
    if not sys.stderr.isatty():
        yield _plain_progress(unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} {unit}/s")

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(compact=True))
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield advance


@contextmanager
def renewed_progress() -> Iterator[Progress]:
    """As `progress`, but what follows a stage's name ("meta-train: loss 11.56") renews its bar instead of adding one."""
    if not sys.stderr.isatty():
        with progress("done") as plain:
            yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Description(TextColumn):
        def render(self, task: Any) -> Text:  # not markup: a file's name may hold brackets
            return Text(f"{task.description:<12}")

    bars: dict[str, Any] = {}
    columns = (Description(""), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True)) as drawn:

        def advance(stage: str, done: int, total: int) -> None:
            name = stage.partition(": ")[0]
            if name not in bars:
                bars[name] = drawn.add_task(stage, total=total or None)
            drawn.update(bars[name], description=stage, completed=done, total=total or None)

        yield advance


def _plain_progress(unit: str) -> Progress:
    last = time.monotonic()

    def advance(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_SECONDS:
            last = time.monotonic()
            note(f"{stage}: {done:,}{f' of {total:,}' if total else ''} {unit}")

    return advance
