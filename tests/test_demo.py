"""The corpus that is everywhere, and the demonstration from end to end with the real encoder."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from vecmeta import demo, pydocs
from vecmeta.cli import lab, main
from vecmeta.types import Item


@pytest.fixture(scope="module")
def corpus() -> list[Item]:
    return pydocs.gather()


# -- one source file

SOURCE = '''
"""A module."""

def kept(a: int, /, b: str = "x", *args, key=None, **more) -> None:
    """Do something that is
    worth describing.

    At length.
    """

def terse(): "Too short."
def silent(): pass
def _private(): """Nobody is to see this function, whatever it says."""

class Thing:
    """Represents a thing, in so many words as it takes."""
    def __init__(self, size: int = 3): """Make a thing of the size that was asked for."""
    async def move(self, to): """Move the thing to another place, slowly."""

class _Hidden:
    """Nobody is to see this class, whatever it says."""
    def shown(self): """Nobody is to see this either, whatever it says."""
'''


def test_functions_classes_and_methods_of_a_source() -> None:
    found = pydocs.items_of_source(SOURCE, "pack.age")
    meta = {"module": "pack.age", "package": "pack"}
    assert found == [
        Item(
            "pack.age.kept",
            "kept(a, /, b='x', *args, key=None, **more)\nDo something that is worth describing.",
            {**meta, "kind": "function"},
        ),
        Item("pack.age.Thing", "Thing(size=3)\nRepresents a thing, in so many words as it takes.", {**meta, "kind": "class"}),
        Item("pack.age.Thing.move", "move(to)\nMove the thing to another place, slowly.", {**meta, "kind": "method"}),
    ]


def test_long_signatures_and_documents_are_cut() -> None:
    arguments = ", ".join(f"argument_{n}=None" for n in range(40))
    (item,) = pydocs.items_of_source(f'def f({arguments}):\n    """{"word " * 500}"""', "m")
    signature, _, doc = str(item.content).partition("\n")
    assert len(signature) <= pydocs.SIGNATURE_CHARS + 3
    assert len(doc) <= pydocs.DOC_CHARS[1]
    assert doc.endswith("…")


def test_other_peoples_warnings_stay_theirs() -> None:
    assert pydocs.items_of_source("x = '\\d'\n", "m") == []


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("json/__init__.py", "json"),
        ("sklearn/metrics/_ranking.py", "sklearn.metrics"),
        ("torch/_refs/linalg.py", None),
        ("numpy/tests/helper.py", None),
        ("scipy/optimize/test_util.py", None),
        ("pkg/_vendor/x.py", None),
        ("pkg/vendored/x.py", None),
    ],
)
def test_the_module_that_a_file_speaks_for(file: str, label: str | None) -> None:
    assert pydocs._label(Path(file)) == label


# -- the corpus


def test_the_corpus_is_large_balanced_and_teachable(corpus: list[Item]) -> None:
    assert 2500 <= len(corpus) <= pydocs.LIMIT == lab.LIMIT
    modules = Counter(item.metadata["module"] for item in corpus)
    assert max(modules.values()) <= pydocs.PER_MODULE
    assert max(Counter(item.metadata["package"] for item in corpus).values()) <= pydocs.PER_PACKAGE
    assert sum(count >= demo.MEMBERS for count in modules.values()) >= 2 * demo.CONCEPTS
    assert {item.metadata["kind"] for item in corpus} == {"function", "class", "method"}


def test_ids_and_documents_are_unique_and_nothing_is_private(corpus: list[Item]) -> None:
    assert len({item.id for item in corpus}) == len(corpus)
    assert len({str(item.content).partition("\n")[2].lower() for item in corpus}) == len(corpus)
    for item in corpus:
        assert not any(part.startswith("_") for part in item.id.split("."))
        assert not {"tests", "test"} & set(item.metadata["module"].split("."))
        assert item.id.startswith(item.metadata["module"] + ".")
        assert str(item.content).startswith(item.id.rpartition(".")[2])


def test_gathering_is_repeatable_and_a_small_limit_is_a_beginning(corpus: list[Item]) -> None:
    assert pydocs.gather(400) == corpus[:400]


def test_nothing_is_imported_to_be_read(corpus: list[Item]) -> None:
    assert any(item.metadata["module"] == "turtle" for item in corpus)
    assert "turtle" not in sys.modules


# -- from end to end


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, corpus: list[Item]) -> Any:
    monkeypatch.setenv("VECMETA_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(pydocs, "gather", lambda limit: corpus[:limit])  # it has been read already

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vecmeta", "demo", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert stopped.value.code == 0, err
        return out

    return call


def test_the_demonstration_twice(run: Any) -> None:
    first = json.loads(run("--items", "300", "--json"))
    assert set(first) == {
        *("items", "encoded", "concepts", "judgements", "report", "reused_version", "live", "map", "shown", "versions", "seconds")
    }
    assert (first["items"], first["encoded"], first["reused_version"]) == (300, 300, False)
    marks = demo.SHOTS * len(first["concepts"])
    assert first["judgements"] == {"new": marks, "duplicate": 0, "contradicting": 0}
    assert marks > 0
    assert first["report"]["decision"] in ("promoted", "kept")
    assert first["live"] == (1 if first["report"]["decision"] == "promoted" else 0)
    assert set(first["map"]) == {"fed", "unfed", "mixed"}
    assert all(0 <= quality[when] <= 1 for quality in first["map"].values() for when in ("before", "after"))
    assert all(shown["before"] and shown["after"] for shown in first["shown"])
    assert {"gathering", "encoding", "adapting", "measuring", "total"} <= set(first["seconds"])

    second = json.loads(run("--items", "300", "--json"))
    for outcome in (first, second):
        outcome["report"].pop("seconds")
    assert (second["encoded"], second["reused_version"]) == (0, True)
    assert second["judgements"] == {"new": 0, "duplicate": marks, "contradicting": 0}
    for same in ("items", "concepts", "live", "map", "shown", "report"):
        assert second[same] == first[same]
    assert len(second["versions"]) == len(first["versions"])

    text = run("--items", "300")
    assert "Quality on items that nobody marked" in text
    assert "vecmeta --data" in text
    assert 'search python-docs "' in text


def test_too_few_items_to_teach_are_no_failure(run: Any) -> None:
    outcome = json.loads(run("--items", "5", "--json"))
    assert (outcome["items"], outcome["report"]["decision"]) == (5, "insufficient")
    assert json.loads(run("--items", "6", "--fresh", "--json"))["encoded"] == 6


def test_the_shown_queries_are_nobodys_favourites() -> None:
    def concept(name: str, gain: float) -> demo.Concept:
        return demo.Concept(name, 20, 5, demo.Quality(0.5, 0.5 + gain, 3))

    gains = {f"{name}{n}": n / 10 for name in "abc" for n in (1, 2, 3)}
    shown = demo._to_show([concept("a", 0.1), concept("b", 0.3), concept("c", -0.1)], {id: id[0] for id in gains}, gains)
    assert shown == [("gained most", "b2"), ("is in the middle", "a2"), ("gained least", "c2")]
