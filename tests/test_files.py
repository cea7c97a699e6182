"""Readers: each format, what becomes of the columns, and errors that name file and line."""

from __future__ import annotations

import gzip
import io
import json
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecmeta.errors import InvalidInput, InvalidItem, InvalidJudgement, InvalidVector
from vecmeta.files import Columns, OwnVector, read, read_judgements
from vecmeta.types import Id, Item, Judgement, dissimilar, similar


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def png(colour: str = "red") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


# -- JSON lines


def test_json_lines_become_items(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl",
        '{"id": "a", "text": "Grüße 👋", "lang": "de", "tags": ["x", {"y": null}]}\n\n{"id": 7, "body": "b"}\n',
    )
    assert list(read(file)) == [Item("a", "Grüße 👋", {"lang": "de", "tags": ["x", {"y": None}]}), Item("7", "b", {})]


def test_the_first_known_content_column_counts_and_the_others_are_metadata(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"id": "a", "title": "T", "body": "B", "text": null}')
    assert list(read(file)) == [Item("a", "B", {"title": "T", "text": None})]


def test_columns_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"key": "a", "text": "t", "summary": "s", "year": 1, "x": 2}')
    columns = Columns(id="key", content="summary", metadata=("year", "text"))
    assert list(read(file, columns=columns)) == [Item("a", "s", {"year": 1, "text": "t"})]


def test_a_metadata_object_is_merged_and_wins(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"id": "a", "text": "t", "year": 1, "x": 2, "metadata": {"year": 3}}')
    assert list(read(file)) == [Item("a", "t", {"year": 3, "x": 2})]
    csv = write(tmp_path / "a.csv", 'id,text,metadata\na,t,"{""year"": 3}"\nb,t,plain\nc,t,4\n')
    assert [item.metadata for item in read(csv)] == [{"year": 3}, {"metadata": "plain"}, {"metadata": 4}]


def test_row_numbers_are_ids_when_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": "two", "id": "own"}\n{"text": "three"}\n')
    assert [row.id for row in read(file, columns=Columns(auto_id=True))] == ["a.jsonl:1", "own", "a.jsonl:3"]


def test_a_byte_order_mark_and_windows_line_ends_are_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "t"}\r\n{"id": "b", "text": "u"}\r\n')
    assert [row.id for row in read(file)] == ["a", "b"]


def test_gzip(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        stream.write('{"id": "a", "text": "t"}\n')
    assert list(read(tmp_path / "a.jsonl.gz")) == [Item("a", "t", {})]
    (tmp_path / "b.jsonl.gz").write_bytes((tmp_path / "a.jsonl.gz").read_bytes()[:-9])
    with pytest.raises(InvalidInput, match=r"b\.jsonl\.gz: cannot be read"):
        list(read(tmp_path / "b.jsonl.gz"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b'{"text": "t"}\n{"text":')

    monkeypatch.setattr("sys.stdin", Stdin)
    rows = read("-", columns=Columns(auto_id=True))
    assert next(rows) == Item("stdin:1", "t", {})
    with pytest.raises(InvalidItem, match="standard input line 2: not JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "text": ', "a.jsonl line 3: not JSON"),
        ("[1, 2]", r"line 3: a JSON object is needed, not \[1, 2\]"),
        ('{"text": "t"}', "line 3: no id in column 'id' .*--id-column.*--auto-id"),
        ('{"id": "", "text": "t"}', "line 3: no id in column 'id'"),
        ('{"id": {"a": 1}, "text": "t"}', "line 3: no id in column 'id'"),
        (
            '{"id": "b", "words": "t"}',
            "line 3: no text in 'content' or 'text' or 'body' or 'title'; its columns are 'id', 'words'",
        ),
        ('{"id": "b", "text": ["t"]}', r"line 3: column 'text' holds \['t'\], not a text"),
        ('{"id": "b\x00", "text": "t"}', "line 3: not JSON"),
        ("[" * 100_000, "line 3: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = write(tmp_path / "a.jsonl", '{"id": "a", "text": "t"}\n\n' + line + "\n")
    rows = read(file)
    assert next(rows).id == "a"
    with pytest.raises(InvalidItem, match=message):
        next(rows)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "a", "text": "t"}\n{"id": "\xff"}\n')
    with pytest.raises(InvalidItem, match=r"a\.jsonl line 2: not UTF-8 at byte 8"):
        list(read(tmp_path / "a.jsonl"))


def test_reading_is_lazy(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"id": "a", "text": "t"}\n' * 10 + "broken")
    assert len(list(islice(read(file), 10))) == 10


# -- CSV


def test_csv_cells_have_the_types_that_json_would_give_them(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.csv", "id,text,year,price,ok,zip,big,none,word\n007,42,2020,-1.5e3,true,01234,123456789012345678,,null\n"
    )
    metadata = {"year": 2020, "price": -1500.0, "ok": True, "zip": "01234", "big": "123456789012345678", "word": "null"}
    assert list(read(file)) == [Item("007", "42", metadata)]


def test_csv_quotes_newlines_and_nul(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'id,text\na,"two\nlines, ""quoted"""\nb,n\x00l\n')
    assert list(read(file)) == [Item("a", 'two\nlines, "quoted"', {}), Item("b", "n\x00l", {})]


def test_tab_separated(tmp_path: Path) -> None:
    assert list(read(write(tmp_path / "a.tsv", "id\ttext\na\tb, c\n"))) == [Item("a", "b, c", {})]


def test_a_long_cell_is_no_error(tmp_path: Path) -> None:
    (item,) = read(write(tmp_path / "a.csv", f"id,text\na,{'x' * 200_000}\n"))
    assert isinstance(item, Item)
    assert len(str(item.content)) == 200_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id,text\na,"x\ny"\nb,c,d\n', "a.csv line 4: 3 cells, but the header names 2 columns"),
        ('id,text\na,b\nb,"never closed\n', "a.csv line 3: not CSV"),
        ("id,text,text\na,b,c\n", "a.csv line 1: two columns have the same name"),
        ("key,text\na,b\n", "a.csv line 2: no id in column 'id' .columns: 'key', 'text'"),
        ("id,text\na,\n", "a.csv line 2: no text in"),
    ],
)
def test_a_bad_csv_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidItem, match=message):
        list(read(write(tmp_path / "a.csv", text)))


def test_an_empty_file_has_no_items(tmp_path: Path) -> None:
    assert list(read(write(tmp_path / "a.csv", ""))) == list(read(write(tmp_path / "a.jsonl", ""))) == []


# -- Parquet


def test_parquet_texts_and_metadata(tmp_path: Path) -> None:
    file = parquet(
        tmp_path / "a.parquet",
        {
            "id": [1, 2],
            "text": ["one", "two"],
            "when": [datetime(2024, 1, 2, 3), None],
            "score": [float("nan"), 0.5],
            "price": [Decimal("1.50"), None],
            "nested": [{"a": [1, 2]}, {"a": []}],
        },
    )
    assert list(read(file)) == [
        Item("1", "one", {"when": "2024-01-02T03:00:00", "price": 1.5, "nested": {"a": [1, 2]}}),
        Item("2", "two", {"score": 0.5, "nested": {"a": []}}),
    ]


def test_parquet_pictures(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png())
    file = parquet(
        tmp_path / "a.parquet", {"id": ["a", "b"], "image": [{"bytes": png(), "path": "x"}, {"bytes": None, "path": "p.png"}]}
    )
    assert list(read(file, "image")) == [Item("a", png(), {}), Item("b", tmp_path / "p.png", {})]
    assert list(read(parquet(tmp_path / "b.parquet", {"id": ["a"], "jpeg": [png()]}), "image")) == [Item("a", png(), {})]


def test_parquet_own_vectors(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", {"id": ["a", "b"], "vector": [[0.5, 1.0], [2.0, 3.0]], "text": ["s", "t"]})
    a, b = read(file, "vector")
    assert isinstance(a, OwnVector)
    assert isinstance(b, OwnVector)
    assert (a.id, a.metadata, b.metadata) == ("a", {"text": "s"}, {"text": "t"})
    assert a.vector.dtype == np.float32
    np.testing.assert_array_equal([a.vector, b.vector], [[0.5, 1.0], [2.0, 3.0]])


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", {"id": ["a", None], "text": ["t", "u"]})
    with pytest.raises(InvalidItem, match=r"a\.parquet row 2: no id"):
        list(read(file))
    file = parquet(tmp_path / "b.parquet", {"id": ["a"], "text": ["t"], "blob": [b"\x00"]})
    with pytest.raises(InvalidItem, match=r"b\.parquet row 1: metadata cannot hold bytes; choose .* --metadata"):
        list(read(file))
    with pytest.raises(InvalidInput, match=r"c\.parquet: cannot be read as Parquet"):
        list(read(write(tmp_path / "c.parquet", "no parquet")))


# -- own vectors


def test_vectors_in_json_and_csv(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"id": "a", "embedding": [1, 2.5], "x": 1}')
    csv = write(tmp_path / "a.csv", 'id,x,vector\na,1,"[1, 2.5]"\n')
    for (row,) in (read(file, "vector"), read(csv, "vector")):
        assert isinstance(row, OwnVector)
        assert (row.id, row.vector.tolist(), row.metadata) == ("a", [1.0, 2.5], {"x": 1})


@pytest.mark.parametrize("value", ['"abc"', "[]", "[[1]]", "3", '["1"]', "[true]", "[null]", '{"a": 1}'])
def test_what_is_no_vector_is_named(tmp_path: Path, value: str) -> None:
    file = write(tmp_path / "a.jsonl", f'{{"id": "a", "vector": {value}}}')
    with pytest.raises(InvalidVector, match=r"a\.jsonl line 1: column 'vector' holds .*, not a list of numbers"):
        list(read(file, "vector"))


# -- pictures


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for name in ("b/y/2.png", "a/1.PNG", ".hidden/3.png", "a/.4.png", "5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    write(tmp_path / "a/notes.txt", "no picture")
    assert list(read(tmp_path, "image")) == [
        Item("5.png", tmp_path / "5.png", {"folder": "", "file": "5.png"}),
        Item("a/1.PNG", tmp_path / "a/1.PNG", {"folder": "a", "file": "1.PNG"}),
        Item("b/y/2.png", tmp_path / "b/y/2.png", {"folder": "b/y", "file": "2.png"}),
    ]
    with pytest.raises(InvalidInput, match="only pictures are read from folders"):
        list(read(tmp_path, "text"))


def test_pictures_by_path_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png())
    file = write(tmp_path / "a.jsonl", '{"id": "a", "image": "p.png", "x": 1}\n{"id": "b", "image": "q.png"}\n')
    rows = read(file, "image")
    assert next(rows) == Item("a", tmp_path / "p.png", {"x": 1})
    with pytest.raises(InvalidItem, match=r"a\.jsonl line 2: column 'image' names 'q\.png', and there is no such file"):
        next(rows)


# -- what cannot be read at all


def test_files_that_are_not_there_or_not_known(tmp_path: Path) -> None:
    for name in ("no.jsonl", "no.csv", "no.parquet", "no"):
        with pytest.raises(InvalidInput, match="no such file"):
            list(read(tmp_path / name))
    with pytest.raises(InvalidInput, match=r"a\.xlsx: not a format that is known: \.jsonl"):
        list(read(write(tmp_path / "a.xlsx", "x")))
    with pytest.raises(InvalidItem, match="no column 'year' for the metadata"):
        list(read(write(tmp_path / "a.jsonl", '{"id": "a", "text": "t"}'), columns=Columns(metadata=("year",))))


# -- judgements


def test_judgements(tmp_path: Path) -> None:
    lines = [
        {"item": "a", "concept": "refunds"},
        {"item": 2, "query": "lost", "score": -1, "user": "u", "concept": None},
        {"item": "c", "query": {"id": "a"}, "score": 0.5},
        {"item": "a", "like": 3, "user": "u"},
        {"item": "a", "like": "b", "score": -1},
    ]
    expected = [
        Judgement("a", concept="refunds"),
        Judgement("2", query="lost", score=-1, user="u"),
        Judgement("c", query=Id("a"), score=0.5),
        similar("a", "3", user="u"),
        dissimilar("a", "b"),
    ]
    assert list(read_judgements(write(tmp_path / "j.jsonl", "\n".join(map(json.dumps, lines))))) == expected
    csv = write(tmp_path / "j.csv", "item,concept,query,score,user\na,refunds,,,\n2,,lost,-1,u\n")
    assert list(read_judgements(csv)) == expected[:2]
    csv = write(tmp_path / "pairs.csv", "item,like,score,user\na,3,,u\na,b,-1,\n")
    assert list(read_judgements(csv)) == expected[3:]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"item": "a"}', "line 1: .* exactly one of concept and query"),
        ('{"concept": "x"}', "line 1: a judgement needs the id of an item"),
        ('{"item": "a", "concept": "x", "score": 2}', "line 1: score 2"),
        ('{"item": "a", "concept": "x", "score": "1"}', "line 1: score '1'"),
        ('{"item": "a", "konzept": "x"}', "line 1: unknown column 'konzept'; known are item, concept, query, score, user"),
        ('{"item": "a", "query": {"text": "x"}}', "line 1: a query is a text or"),
        ('{"item": "a", "like": "a"}', "line 1: a pair is made of two different items"),
        ('{"item": "a", "like": "b", "concept": "x"}', "line 1: .* exactly one of concept, query and like"),
        ('{"item": "a", "like": ["b"]}', "line 1: a judgement needs the id of an item in the column 'like'"),
        ('{"item": "a", "like": "b", "score": "no"}', "line 1: score 'no'"),
    ],
)
def test_a_bad_judgement_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InvalidJudgement, match=message):
        list(read_judgements(write(tmp_path / "j.jsonl", line)))
