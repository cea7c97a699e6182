"""Metadata as Milvus can filter it, and filters as its expressions: exactly the rules of `vecmeta.where`, or not at all.

Milvus's own comparisons of JSON mix types, differ between its versions, and know neither null nor a missing key the way the rules do. So
each item carries its metadata a second time, as facts: texts such as

    lang? lang=sen year? year=n2020 year# tags? tags=snew tags=ssale

for "the key is there", "one of its elements equals the text en (the number 2020)", "one of its elements is a number". Equality, `$in`,
`$exists` and their negations become `array_contains`, which is true or false and nothing between. For `$gt` and its like, `lows` and
`highs` hold the smallest and largest number of each field: one element is above 3 if and only if the largest is.

Names and texts are percent-encoded, so no quoting of Milvus's can change them; what is longer than LONGEST stands there by its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vecmeta.index.protocol import Expression
from vecmeta.where import All, Among, Compare, Exists, Node, Not, Scalar, Some

LONGEST = 200  # bytes of a fact
CAPACITY = 4096  # facts of an item: the longest array that Milvus takes
ASKED = 1000  # facts in an expression; parsing one takes milliseconds for each thousand
JSON_BYTES = 65_000  # of a JSON field; Milvus takes 65,536
EXACT = 2**53  # whole numbers up to here are float64
_ALWAYS, _NEVER = "key >= 0", "key < 0"


@dataclass(frozen=True, slots=True)
class Facts:
    """An item's metadata for filters. ``whole`` False: some of it cannot be said so, and no filter may rely on it."""

    facts: list[str]
    lows: dict[str, float]
    highs: dict[str, float]
    whole: bool


def facts_of(metadata: dict[str, Any]) -> Facts:
    """What is said of an item with this metadata."""
    found: dict[str, None] = {}
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    whole = True
    for field, value in metadata.items():
        if any(0xD800 <= ord(c) < 0xE000 for c in field):
            continue  # no filter can name it
        name = _name(field)
        found[_fact(f"{name}?")] = None
        numbers: list[float] = []
        for element in value if isinstance(value, list) else [value]:
            if isinstance(element, (list, dict)):
                continue
            if isinstance(element, str) and not _sayable(element):
                whole = False
                continue
            if isinstance(element, (int, float)) and not isinstance(element, bool):
                if isinstance(element, int) and abs(element) > EXACT:
                    whole = False
                    continue
                numbers.append(float(element))
            found[_equals(name, element)] = None
        if numbers:
            found[_fact(f"{name}#")] = None
            lows[name], highs[name] = min(numbers), max(numbers)
    fits = len(found) <= CAPACITY and len(json.dumps(lows)) <= JSON_BYTES
    return Facts(list(found), lows, highs, whole) if fits else Facts([], {}, {}, False)


def expression(node: Node) -> Expression | None:
    """A filter in Milvus's language; None where it cannot be said exactly."""
    asked = list(_asked(node))
    if None in asked or sum(n or 0 for n in asked) > ASKED:
        return None
    return Expression(_written(node))


def _asked(node: Node) -> Iterator[int | None]:
    """How many facts each condition asks for; None for one that cannot be said."""
    match node:
        case All(parts) | Some(parts):
            for part in parts:
                yield from _asked(part)
        case Not(part):
            yield from _asked(part)
        case Among(_, values):
            yield len(values) if all(_exact(value) for value in values) else None
        case Compare(_, _, value):
            yield 1 if not isinstance(value, str) and _exact(value) else None  # texts are not kept in order
        case Exists():
            yield 1


def _written(node: Node) -> str:
    match node:
        case All(parts):
            return _joined(" and ", parts, _ALWAYS)
        case Some(parts):
            return _joined(" or ", parts, _NEVER)
        case Not(part):
            return f"(not {_written(part)})"
        case Exists(field):
            return _contains(_fact(f"{_name(field)}?"))
        case Among(field, values):
            return _any_of([_equals(_name(field), value) for value in values])
        case Compare(field, order, value):
            name, side = _name(field), "highs" if order in ("$gt", "$gte") else "lows"
            sign = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}[order]
            # The first half keeps what has no number there out of a comparison, which would not be false but unknown.
            return f'({_contains(_fact(f"{name}#"))} and {side}["{name}"] {sign} {float(value)!r})'


def _joined(word: str, parts: tuple[Node, ...], empty: str) -> str:
    return f"({word.join(_written(part) for part in parts)})" if parts else f"({empty})"


def _any_of(facts: list[str]) -> str:
    if not facts:
        return f"({_NEVER})"
    if len(facts) == 1:
        return _contains(facts[0])
    return f"array_contains_any(facts, [{', '.join(json.dumps(fact) for fact in dict.fromkeys(facts))}])"


def _contains(fact: str) -> str:
    return f'array_contains(facts, "{fact}")'


def _name(field: str) -> str:
    name = _quoted(field)
    return name if len(name) <= LONGEST // 2 else f"%%{hashlib.sha256(name.encode()).hexdigest()}"


def _equals(name: str, value: Scalar) -> str:
    if value is None or isinstance(value, bool):
        return _fact(f"{name}={json.dumps(value)}")
    if isinstance(value, str):
        return _fact(f"{name}=s{_quoted(value)}")
    number = float(value)
    return _fact(f"{name}=n{int(number) if number.is_integer() else repr(number)}")  # 1 and 1.0 are the same, so are 0.0 and -0.0


def _fact(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 66]}%%{hashlib.sha256(text.encode()).hexdigest()}"


def _quoted(text: str) -> str:
    return quote(text, safe=" ,;:()!").replace("~", "%7E")


def _sayable(text: str) -> bool:
    # SQLite takes a text to end at NUL.
    return "\0" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text)


def _exact(value: Scalar) -> bool:
    return not isinstance(value, int) or isinstance(value, bool) or abs(value) <= EXACT
