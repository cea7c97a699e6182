"""Texts without NUL: there and back again, and in the same order."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vecmeta.catalogue import escapes

TEXTS = st.text(st.sampled_from("\0\x01\x02\x03a\\u0\n"), max_size=12)
DOCUMENTS = st.recursive(TEXTS, lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=3), max_leaves=6)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(a=TEXTS, b=TEXTS)
def test_texts(a: str, b: str) -> None:
    written = escapes.text_in(a)
    assert "\0" not in written
    assert escapes.text_out(written) == a
    assert (written < escapes.text_in(b)) == (a < b)
    assert (written == escapes.text_in(b)) == (a == b)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(document=DOCUMENTS)
def test_documents(document: Any) -> None:
    text = json.dumps(document, ensure_ascii=False)
    written = escapes.json_in(text)
    assert escapes.json_out(written) == text
    assert json.loads(written) == deep(document)


def deep(value: Any) -> Any:
    """Each text of a document as `text_in` writes it."""
    if isinstance(value, str):
        return escapes.text_in(value)
    if isinstance(value, list):
        return [deep(part) for part in value]
    return {deep(key): deep(part) for key, part in value.items()}


def test_what_needs_nothing_stays_as_it_is() -> None:
    assert escapes.text_in("plain") == escapes.text_out("plain") == "plain"
    assert escapes.json_in('{"a": "\\\\u0000"}') == '{"a": "\\\\u0000"}'  # a backslash and five characters
    assert escapes.json_in('"\\u0000\\u0001"') == '"\\u0001\\u0001\\u0001\\u0002"'
