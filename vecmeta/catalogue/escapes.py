r"""Texts for a database whose texts cannot hold NUL: NUL becomes U+0001 U+0001, and U+0001 becomes U+0001 U+0002.

The order of texts stays what it was, so that they can be compared as they are written. Documents are JSON texts as `json.dumps` makes
them with ``ensure_ascii=False``: control characters stand there as ``\u0000``, and a backslash of the text itself as ``\\``.
"""

from __future__ import annotations

import re

_JSON_IN = re.compile(r"\\(?:u000([01])|.)", re.DOTALL)
_JSON_OUT = re.compile(r"\\(?:u0001\\u000([12])|.)", re.DOTALL)


def text_in(text: str) -> str:
    """As it is written."""
    if "\0" not in text and "\x01" not in text:
        return text
    return text.replace("\x01", "\x01\x02").replace("\0", "\x01\x01")


def text_out(text: str) -> str:
    """As it was given."""
    return text if "\x01" not in text else re.sub("\x01([\x01\x02])", lambda found: chr(ord(found[1]) - 1), text)


def json_in(text: str) -> str:
    """A document as it is written."""
    if r"\u000" not in text:
        return text
    return _JSON_IN.sub(lambda found: found[0] if found[1] is None else rf"\u0001\u000{int(found[1]) + 1}", text)


def json_out(text: str) -> str:
    """A document as it was given."""
    if r"\u0001" not in text:
        return text
    return _JSON_OUT.sub(lambda found: found[0] if found[1] is None else rf"\u000{int(found[1]) - 1}", text)
