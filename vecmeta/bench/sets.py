"""The labelled sets of the benchmark, and why the shipped starts have never seen them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import vecmeta as vm
from vecmeta.encoders import open_encoder
from vecmeta.encoders.protocol import Encoder
from vecmeta.meta.sets import notions_of, read_set
from vecmeta.meta.tasks import Notion
from vecmeta.types import Progress

UNSEEN_SET, UNSEEN_NOTION = "unseen data set", "unseen notion of a seen set"

# name:column -> what was held out. The shipped starts were trained on TRAINED (and on clusters of the same rows), chosen by VALIDATED.
HELD_OUT = {
    "clinc150:label": UNSEEN_SET,
    "clinc150:domain": UNSEEN_SET,
    "trec:label": UNSEEN_SET,
    "debian:works_with": UNSEEN_SET,
    "debian:use": UNSEEN_SET,
    "debian:field": UNSEEN_SET,
    "caltech101:label": UNSEEN_SET,
    "caltech101:super": UNSEEN_SET,
    "emoji:label": UNSEEN_SET,
    "emoji:category": UNSEEN_SET,
    "cifar10:label": UNSEEN_SET,
    "tiny_imagenet:lex": UNSEEN_NOTION,
    "wordnet:pos": UNSEEN_NOTION,
    "newsgroups_mini:coarse": UNSEEN_NOTION,
}
TRAINED = {
    "wordnet": ("label", "hypernym", "topic"),
    "newsgroups_mini": ("label",),
    "medquad": ("label", "semtypes"),
    "product_reviews": ("product",),
    "fortunes": ("label",),
    "tiny_imagenet": ("label", "super"),
}
VALIDATED = {"medquad": ("source",), "snips": ("label",), "tweet_stance": ("target",)}
LIMIT = 4000  # rows of a set
MORE = {"debian": 12_000}  # sets of which most rows have no label of the kind
NO_LABEL = ("", "oos", "none")  # out of scope: no concept at all


@dataclass(frozen=True, eq=False)
class Source:
    """A held-out notion and its vectors."""

    name: str
    split: str
    notion: Notion


def open_sources(
    data_sets: Path, names: Sequence[str] | None, cache: Path | None, device: str, progress: Progress | None
) -> list[Source]:
    """Read and encode sets. Raises InvalidConfig for a name that is not in HELD_OUT, or a set that is not there."""
    wanted = list(names or HELD_OUT)
    for name in wanted:
        if name not in HELD_OUT:
            raise vm.InvalidConfig(f"no held-out set {name!r}; there are {', '.join(HELD_OUT)}")
    encoders: dict[str, Encoder] = {}

    def encoder_for(kind: str) -> Encoder:
        return encoders.setdefault(kind, open_encoder(kind, device=device))

    sources = []
    for folder in dict.fromkeys(name.partition(":")[0] for name in wanted):
        path = data_sets / folder / "data.parquet"
        found = read_set(path, encoder_for, MORE.get(folder, LIMIT), cache_dir=cache, progress=progress)
        found = replace(found, labels={name: [_telling(value) for value in values] for name, values in found.labels.items()})
        columns = [name.partition(":")[2] for name in wanted if name.partition(":")[0] == folder]
        sources += [Source(n.name, HELD_OUT[n.name], n) for n in notions_of(found, columns)]
    return sources


def _telling(label: Any) -> Any:
    """Out of scope is no class of its own."""
    return None if label in NO_LABEL else label
