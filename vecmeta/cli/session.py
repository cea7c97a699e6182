"""`vecmeta search --interactive`: hits in a table, keys that mark them, an adaptation, and before and after in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vecmeta.cli import render
from vecmeta.errors import NotFound, VecmetaError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vecmeta import Collection, Hits
    from vecmeta.types import Progress, Query, Where

KEYS = "↑↓ move   + fits   - does not   0 take back   m more like this   / another query   a adapt   b roll back   q quit"
UP, DOWN = ("k", "\x1b[A", "\x1bOA"), ("j", "\x1b[B", "\x1bOB")
QUIT = ("q", "\x1b", "\x04", "")  # also the end of what was typed
_SIGNS = {1.0: ("+", "bold green"), -1.0: ("-", "bold red")}


@dataclass(slots=True)
class Session:
    """What is on the screen; `press` is all that a user can do to it."""

    collection: Collection
    query: Query
    k: int = 10
    where: Where | None = None
    cursor: int = 0
    marks: dict[str, float] = field(default_factory=dict)  # of this query
    hits: Hits | None = None
    before: Hits | None = None  # what came up before the last adaptation
    said: str = ""

    def __post_init__(self) -> None:
        self.search()

    def search(self, query: Query | None = None) -> None:
        """Ask again, or ask for something else. Raises what `Collection.search` raises."""
        found = self.collection.search(self.query if query is None else query, self.k, where=self.where)
        if query is not None:
            self.query, self.marks, self.before, self.cursor = query, {}, None, 0
        self.hits = found
        self.cursor = min(self.cursor, max(0, len(found) - 1))

    def press(self, key: str, ask: Callable[[str], str], progress: Callable[[], AbstractContextManager[Progress]]) -> bool:
        """Do what a key says; False ends the session. What goes wrong is told and changes nothing."""
        if key in QUIT:
            return False
        self.said = ""
        try:
            self._do(key, ask, progress)
        except VecmetaError as error:
            self.said = f"error: {error}"
        return True

    def _do(self, key: str, ask: Callable[[str], str], progress: Callable[[], AbstractContextManager[Progress]]) -> None:
        from vecmeta import Id

        assert self.hits is not None
        here = self.hits[self.cursor] if self.hits else None
        if key in UP:
            self.cursor = max(0, self.cursor - 1)
        elif key in DOWN:
            self.cursor = min(max(0, len(self.hits) - 1), self.cursor + 1)
        elif key in ("+", "-", "0", "=") and here is not None:
            self._mark(here.id, {"+": 1.0, "=": 1.0, "-": -1.0, "0": 0.0}[key])
        elif key == "m" and here is not None:
            self.search(Id(here.id))
        elif key == "/":
            text = ask("query: ").strip()
            if text:
                self.search(text)
        elif key == "a":
            self._adapt(progress)
        elif key == "b":
            self._back()
        else:
            self.said = f"{key!r} is no key here"

    def _mark(self, id: str, score: float) -> None:
        from vecmeta import Judgement

        self.collection.feedback([Judgement(id, query=self.query, score=score)])
        self.marks[id] = score
        assert self.hits is not None
        self.cursor = min(self.cursor + 1, len(self.hits) - 1)

    def _adapt(self, progress: Callable[[], AbstractContextManager[Progress]]) -> None:
        with progress() as told:
            report = self.collection.adapt(progress=told)
        self.said = f"{report.decision}: {report.reason}"
        if report.decision == "promoted":
            before = self.hits
            self.search()
            self.before = before

    def _back(self) -> None:
        try:
            version = self.collection.rollback()
        except NotFound:
            self.said = "nothing to go back to"
            return
        self.search()
        self.before, self.said = None, f"version {version} is live again"

    # -- how it looks ------------------------------------------------------------------------------------------------------------

    def parts(self) -> Iterator[RenderableType]:
        """The screen, top to bottom."""
        from rich.text import Text

        assert self.hits is not None
        asked = self.query if isinstance(self.query, str) else f"more like {getattr(self.query, 'value', 'this')}"
        yield Text(f"{asked}   version {self.hits.version}", style="bold")
        columns = ("", "#>", "mark", *(("was>",) if self.before else ()), "score>", "id", "content", "metadata")
        yield render.table(columns, [self._row(place) for place in range(len(self.hits))])
        if self.before:
            now = {hit.id for hit in self.hits}
            left = [hit.id for hit in self.before if hit.id not in now]
            yield Text(f"left: {', '.join(left)}" if left else "the same hits as before", style="dim")
        yield Text(self.said, style="yellow" if self.said.startswith("error") else "cyan")
        yield Text(KEYS, style="dim")

    def _row(self, place: int) -> list[Any]:
        from rich.text import Text

        assert self.hits is not None
        hit = self.hits[place]
        here = "bold reverse" if place == self.cursor else ""
        sign, style = _SIGNS.get(self.marks.get(hit.id, 0.0), ("", ""))
        was = [self._was(hit.id, place)] if self.before else []
        told = (render.content_text(hit.content, 60), render.metadata_text(hit.metadata, 40))
        return [
            Text("▶" if here else ""), str(place + 1), Text(sign, style=style), *was, f"{hit.score:.3f}", Text(hit.id, style=here), *told,
        ]  # fmt: skip

    def _was(self, id: str, place: int) -> Any:
        """The places that a hit won or lost."""
        from rich.text import Text

        ranks = {hit.id: rank for rank, hit in enumerate(self.before or ())}
        if id not in ranks:
            return Text("new", style="bold blue")
        change = ranks[id] - place
        return Text(
            "=" if not change else f"{'▲' if change > 0 else '▼'}{abs(change)}",
            style="green" if change > 0 else "red" if change else "dim",
        )


def run(session: Session, key: Callable[[], str], ask: Callable[[str], str], clear: Callable[[], None]) -> None:
    """Show, wait for a key, do it, until the user has had enough."""
    while True:
        clear()
        render.show(*session.parts())
        if not session.press(key(), ask, render.progress):
            return
