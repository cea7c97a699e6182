"""The command line: every verb on a real database, what machines read, exit codes, help."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest

import vecmeta
from vecmeta.cli import main, render
from vecmeta.meta.fitting import initial_start

Run = Callable[..., "Result"]


class Result:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """Standard output, which must be exactly one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `vecmeta …` in this process on a folder of its own; the code must be 0 unless another is expected."""
    monkeypatch.setenv("VECMETA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> Result:
        monkeypatch.setattr(sys, "argv", ["vecmeta", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert stopped.value.code == code, (arguments, out, err)
        return Result(code, out, err)

    return call


@pytest.fixture
def vectors(run: Run, tmp_path: Path) -> Path:
    """A collection "points" of 40 own vectors in two clouds, a on the first axis and b on the second."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(40):
        cloud = "ab"[number % 2]
        vector = random.normal(scale=0.1, size=8) + np.eye(8)[number % 2]
        rows.append({"id": f"{cloud}{number:02}", "vector": vector.round(4).tolist(), "cloud": cloud, "n": number})
    file = tmp_path / "points.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    run("create", "points", "--encoder", "vectors", "--dim", "8")
    assert run("--json", "add", "points", str(file)).json == {"read": 40, "written": 40}
    return file


ONE = json.dumps([1, 0, 0, 0, 0, 0, 0, 0])


# -- collections and items


def test_create_list_and_drop(run: Run) -> None:
    assert run("create", "points", "--encoder", "vectors", "--dim", "8", "--json").json == {
        "name": "points",
        "encoder": "vectors@8",
        "dim": 8,
    }
    assert run("collections", "--json").json == [{"name": "points", "encoder": "vectors@8", "dim": 8, "items": 0, "live": 0}]
    assert "points" in run("collections").out
    assert "--yes" in run("drop", "points", code=2).err
    assert run("drop", "points", "--yes", "--json").json == {"dropped": "points", "items": 0}
    assert run("collections", "--json").json == []
    assert "vecmeta create" in run("collections").err


def test_items_by_id_by_page_and_by_filter(run: Run, vectors: Path) -> None:
    assert run("get", "points", "b01", "a00", "--json").json == [
        {"id": "b01", "content": None, "metadata": {"cloud": "b", "n": 1}},
        {"id": "a00", "content": None, "metadata": {"cloud": "a", "n": 0}},
    ]
    assert [item["id"] for item in run("items", "points", "--limit", "2", "--after", "a02", "--json").json] == ["a04", "a06"]
    assert "--after a02" in run("items", "points", "--limit", "2").err
    assert run("count", "points", "--json").json == {"count": 40}
    assert run("count", "points", "--where", '{"cloud": "a", "n": {"$gte": 30}}').out == "5\n"
    assert run("delete", "points", "a00", "unknown", "--json").json == {"deleted": 1}
    assert "cloud=b n=1" in run("get", "points", "b01").out


def test_add_in_batches_says_what_is_written_when_a_line_is_bad(run: Run, vectors: Path) -> None:
    with vectors.open("a") as stream:
        stream.write('\n{"id": "c", "vector": [1, 2, 3]}\n')
    result = run("add", "points", str(vectors), "--batch", "20", "--json", code=1)
    assert result.json["error"] == "invalid_vector"
    assert "'c'" in result.json["detail"]
    assert "the 40 items before that batch are written" in result.err
    assert "Traceback" not in result.err


def test_add_from_standard_input(run: Run, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b'{"key": "c", "point": [1, 1, 1, 1, 1, 1, 1, 1], "x": 1, "y": 2}\n')

    monkeypatch.setattr("sys.stdin", Stdin)
    options = ("--id-column", "key", "--content-column", "point", "--metadata", "y")
    assert run("add", "points", "-", *options).out == "read 1 items, wrote 1\n"
    assert run("get", "points", "c", "--json").json[0]["metadata"] == {"y": 2}


# -- search


def test_search_by_vector_and_by_item(run: Run, vectors: Path, tmp_path: Path) -> None:
    found = run("search", "points", "--vector", ONE, "-k", "3", "--json").json
    assert found["version"] == 0
    assert [hit["id"][0] for hit in found["hits"]] == ["a", "a", "a"]
    assert found["hits"][0]["score"] > 0.9
    np.save(tmp_path / "v.npy", np.array(json.loads(ONE)))
    (tmp_path / "v.json").write_text(ONE)
    for file in ("v.npy", "v.json"):
        assert run("search", "points", "--vector", str(tmp_path / file), "-k", "3", "--json").json == found
    where = ("--where", '{"cloud": "b"}')
    assert {hit["id"][0] for hit in run("search", "points", "--vector", ONE, *where, "--json").json["hits"]} == {"b"}
    like = run("search", "points", "--like", "b01", "--version", "0", "--json").json["hits"]
    assert "b01" not in [hit["id"] for hit in like]
    assert like[0]["metadata"]["cloud"] == "b"
    between = ("--vector", "[1, 1, 0, 0, 0, 0, 0, 0]", "-k", "5", "--json")
    bent = run("search", "points", *between, "--up", "b01", "--up", "b03", "--down", "a00").json["hits"]
    assert [hit["id"][0] for hit in bent] == ["b"] * 5


def test_results_for_people(run: Run, vectors: Path) -> None:
    result = run("search", "points", "--vector", ONE, "-k", "2")
    assert "cloud=a" in result.out
    assert "answered by version 0" in result.err


def test_recommend(run: Run, vectors: Path) -> None:
    found = run("recommend", "points", "--like", "b01", "b03", "--unlike", "a00", "a02", "-k", "4", "--json").json
    assert [hit["id"][0] for hit in found["hits"]] == ["b"] * 4
    assert run("recommend", "points", code=2).err


def test_embed(run: Run, tmp_path: Path) -> None:
    run("create", "docs")
    embedded = run("embed", "docs", "one", "two", "--json").json
    assert (embedded["version"], embedded["dim"], embedded["count"]) == (0, 384, 2)
    assert run("embed", "docs", "one", "two", "-o", str(tmp_path / "v.npy"), "--json").json["out"].endswith("v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), embedded["vectors"], rtol=1e-5)
    assert len(json.loads(run("embed", "docs", "one").out)) == 384
    assert "give texts" in run("embed", "docs", code=2).err


# -- teaching


def test_teach_adapt_and_go_back(run: Run, vectors: Path, tmp_path: Path) -> None:
    counted = run("feedback", "points", "--concept", "even", *[f"a{n:02}" for n in range(0, 16, 2)], "--json").json
    assert counted == {"new": 8, "duplicate": 0, "contradicting": 0}
    odd = ("--up", *[f"b{n:02}" for n in range(1, 16, 2)], "--down", "a00", "a02")
    assert run("feedback", "points", "--concept", "odd", *odd, "--user", "me", "--json").json["new"] == 10
    assert run("feedback", "points", "--concept", "odd", "--forget", "a02", "--user", "me", "--json").json["contradicting"] == 1
    file = tmp_path / "judgements.csv"
    file.write_text("item,concept,score\na00,even,1\na30,even,1\n")
    assert run("feedback", "points", "--file", str(file), "--json").json == {"new": 1, "duplicate": 1, "contradicting": 0}
    listed = run("judgements", "points", "--json").json
    assert {"item": "b01", "concept": "odd", "query": None, "score": 1.0, "user": "me"} in listed
    assert "even" in run("judgements", "points").out

    dry = run("adapt", "points", "--dry-run", "--json").json
    assert (dry["dry_run"], dry["version"]) == (True, None)
    assert [version["number"] for version in run("versions", "points", "--json").json] == [0]
    report = run("adapt", "points", "--json").json
    assert report["decision"] in ("promoted", "kept")
    assert run("report", "points", str(report["version"]), "--json").json["reason"] == report["reason"]
    assert report["decision"] in run("report", "points", "1").out
    run("activate", "points", "1")
    assert run("search", "points", "--vector", ONE, "--json").json["version"] == 1
    assert run("activate", "points", "0", "--json").json == {"live": 0}
    assert run("rollback", "points", "--json").json == {"live": 1}
    assert "live" in run("versions", "points").out


def test_pairs(run: Run, vectors: Path, tmp_path: Path) -> None:
    pairs = ("--similar", "a00", "a02", "--dissimilar", "b05", "a00", "--similar", "b03", "b01", "--user", "me")
    assert run("feedback", "points", *pairs, "--json").json == {"new": 3, "duplicate": 0, "contradicting": 0}
    listed = run("judgements", "points", "--json").json
    assert {"item": "b03", "concept": None, "query": "<item b01>", "score": 1.0, "user": "me"} in listed
    assert [judgement["score"] for judgement in listed] == [1.0, 1.0, -1.0]
    file = tmp_path / "pairs.csv"
    file.write_text("item,like,score,user\na02,a00,,me\na02,b01,-1,you\na00,a02,-1,you\n")
    assert run("feedback", "points", "--file", str(file), "--json").json == {"new": 1, "duplicate": 1, "contradicting": 1}
    report = run("adapt", "points", "--json").json
    assert report["decision"] == "insufficient"
    assert report["metrics"] == {"contradictions": 1.0}
    assert report["contradictions"][0].startswith("me says that 'a02' is similar to 'a00', you that it is not")
    assert "judgements that contradict each other: 1\n  me says that" in run("adapt", "points").out


def test_methods_and_starts(run: Run, vectors: Path, tmp_path: Path) -> None:
    for letter in "ab":
        run("feedback", "points", "--concept", letter, *[f"{letter}{2 * n + (letter == 'b'):02}" for n in range(8)])
    assert "maml, fomaml, anil" in " ".join(run("adapt", "--help").out.replace("│", " ").split())
    assert "unknown method 'magic'; known: maml" in run("adapt", "points", "--method", "magic", code=1).err
    report = run("adapt", "points", "--method", "rocchio", "--json").json
    assert report["decision"] in ("promoted", "kept")
    assert run("versions", "points", "--json").json[1]["method"] == "rocchio"
    assert "cannot be read" in run("adapt", "points", "--start", str(tmp_path / "none.safetensors"), code=1).err
    initial_start("protonet").save(tmp_path / "mine.safetensors")
    mine = ("adapt", "points", "--start", str(tmp_path / "mine.safetensors"))
    assert "was trained for 'protonet', not for 'maml'" in run(*mine, code=1).err
    assert run(*mine, "--method", "protonet", "--json").json["version"] == 2


def test_too_few_judgements_are_no_failure(run: Run, vectors: Path) -> None:
    assert run("adapt", "points", "--json").json["decision"] == "insufficient"
    assert "insufficient" in run("adapt", "points").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concept", "x"), "name at least one item"),
        (("a00",), "exactly one of --concept, --query and --file"),
        (("--concept", "x", "--query", "y", "a00"), "exactly one of --concept, --query and --file"),
        (("--file", "f.csv", "a00"), "leave out ids"),
        (("--similar", "a00"), "exactly two ids"),
        (("--dissimilar", "a00", "a01", "a02"), "exactly two ids"),
        (("--similar", "a00", "a01", "--concept", "x"), "pairs stand alone"),
    ],
)
def test_feedback_that_is_none(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in " ".join(run("feedback", "points", *arguments, code=2).err.replace("│", " ").split())


# -- texts and pictures


def test_texts_from_file_to_hits(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("id,text,lang\na,How do I get my money back?,en\nb,The train leaves at noon,en\nc,Wo ist mein Koffer?,de\n")
    run("create", "docs")
    assert run("add", "docs", str(file), "--json").json == {"read": 3, "written": 3}
    assert run("search", "docs", "refund", "-k", "1", "--json").json["hits"][0]["content"] == "How do I get my money back?"
    assert "money back" in run("search", "docs", "refund").out
    judged = run("feedback", "docs", "--query", "refund", "--up", "a", "--down", "b", "c", "--json").json
    assert judged["new"] == 3
    assert run("judgements", "docs", "--json").json[0]["query"] == "refund"


def test_pictures_from_folder_to_hits(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    for colour in ("red", "blue"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path / "pictures" / f"{colour}.png")
    run("create", "pictures", "--encoder", "image")
    assert run("add", "pictures", str(tmp_path / "pictures"), "--json").json["read"] == 2
    found = run("search", "pictures", "--image", str(tmp_path / "pictures/red.png"), "--json").json["hits"]
    assert (found[0]["id"], found[0]["metadata"]) == ("red.png", {"folder": "", "file": "red.png"})
    assert found[0]["content"].startswith("<image, ")
    assert "<image, " in run("get", "pictures", "red.png").out


# -- the edges


def test_errors_have_a_name_a_line_and_a_code(run: Run, vectors: Path) -> None:
    result = run("search", "nothing", "text", "--json", code=1)
    assert result.json["error"] == "collection_not_found"
    assert "nothing" in result.json["detail"]
    assert result.err == f"error: {result.json['detail']}\n"
    silent = run("search", "nothing", "text", code=1)
    assert (silent.out, silent.err) == ("", result.err)
    assert run("count", "points", "--where", '{"n": {"$near": 1}}', "--json", code=1).json["error"] == "invalid_filter"
    assert run("get", "points", "zzz", "--json", code=1).json["error"] == "item_not_found"
    assert run("report", "points", "9", "--json", code=1).json["error"] == "version_not_found"
    assert run("search", "points", "text", "--json", code=1).json["error"] == "invalid_input"
    assert run("search", "points", "--vector", "[1, 2]", "--json", code=1).json["error"] == "invalid_vector"
    assert run("search", "points", "--vector", "no.npy", "--json", code=1).json["error"] == "invalid_config"
    assert run("add", "points", "no.jsonl", "--json", code=1).json["error"] == "invalid_input"
    assert run("--index", "nonsense", "collections", "--json", code=1).json["error"] == "invalid_config"


@pytest.mark.parametrize(
    "arguments",
    [
        ("serch", "points"),
        ("search", "points"),
        ("search", "points", "text", "--like", "a"),
        ("search", "points", "text", "--where", "{"),
        ("search", "points", "text", "--where", "[]"),
        ("search", "points", "text", "-k", "many"),
        ("create",),
        ("add", "points", "f.jsonl", "--batch", "0"),
    ],
)
def test_a_command_line_that_is_not_understood(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, code=2).err


def test_shared_options_stand_on_either_side_and_the_later_counts(run: Run, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    run("--data", first, "create", "one", "--encoder", "vectors", "--dim", "2")
    assert [c["name"] for c in run("collections", "--json", "--data", first).json] == ["one"]
    assert run("--data", first, "--json", "collections", "--data", second).json == []
    assert run("collections", "--json").json == []  # VECMETA_DATA


def test_ctrl_c_is_130(run: Run, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vecmeta.Collection, "adapt", interrupted)
    result = run("adapt", "points", code=130)
    assert result.err == "stopped; nothing half-written remains\n"


def test_warnings_are_a_line(run: Run, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OddWarning(UserWarning):
        __module__ = "vecmeta.index"

    def warned(*_: Any, **__: Any) -> int:
        warnings.warn("something was mended", OddWarning, stacklevel=2)
        return 3

    monkeypatch.setattr(vecmeta.Collection, "count", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("count", "points")
    assert (result.out, result.err) == ("3\n", "warning: something was mended\n")


def test_version(run: Run) -> None:
    assert run("--version").out == f"vecmeta {vecmeta.__version__}\n"


VERBS = [
    "demo",
    "create",
    "collections",
    "drop",
    "add",
    "get",
    "delete",
    "items",
    "count",
    "search",
    "recommend",
    "embed",
    "feedback",
    "judgements",
    "adapt",
    "versions",
    "report",
    "activate",
    "rollback",
    "meta-train",
    "bench",
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps(run: Run, verb: str) -> None:
    text = run(verb, "--help").out
    assert f"vecmeta {verb}" in text
    assert verb == "bench" or "--json" in text


def test_every_verb_is_listed(run: Run) -> None:
    text = run("--help").out
    assert all(f" {verb} " in text for verb in VERBS)


def test_help_needs_no_torch_and_no_faiss() -> None:
    code = "import sys, vecmeta.cli; print([m for m in ('torch', 'pyarrow', 'faiss', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert "Start with" in subprocess.run([sys.executable, "-m", "vecmeta"], capture_output=True, text=True, check=False).stdout


def test_pictures_and_long_texts_are_one_line() -> None:
    assert render.content_text(b"x" * 12_345) == "<image, 12 kB>"
    assert render.content_text(b"x" * 999) == "<image, 999 B>"
    assert render.content_text("a\n b " * 100).endswith("…")
    assert render.query_text(vecmeta.Id("a")) == "<item a>"
    assert render.query_text(np.zeros(3, np.float32)) == "<vector, 3 numbers>"
