"""Labels of stored items, and the contents behind them: from judgements or a metadata field to what an encoder can learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vecmeta.catalogue.items import ItemStore
from vecmeta.errors import EncoderUnavailable, InvalidConfig
from vecmeta.finetune import Examples, labelled
from vecmeta.finetune.examples import checked
from vecmeta.judged import Taught, resolve
from vecmeta.spaces import Space, content_of
from vecmeta.types import Content, Item

PAGE = 1000  # items read at a time
EXAMINED = 3000  # labelled items that take part in an exam; the others are learned from


def contents_of(space: Space, taught: Taught) -> list[Content]:
    """The contents of the rows of `taught`: of items, and of queries. Raises EncoderUnavailable for an encoder that was not given."""
    if space.encoder is None:
        raise EncoderUnavailable("the collection was made with an encoder object: open it with db.collection(name, encoder=…)")
    items = space.items
    assert isinstance(items, ItemStore)
    stored = items.get([name for name, is_item in zip(taught.rows, taught.is_item.tolist(), strict=True) if is_item])
    asked = space.log.asked() if not taught.is_item.all() else {}
    found: list[Content] = []
    for place, name in enumerate(taught.rows):
        if taught.is_item[place]:
            found.append(cast(Content, stored[name].content) if name in stored else "-")  # deleted a moment ago
        else:
            found.append(content_of(asked[taught.queries[place]]))
    return found


def examples_of(space: Space, taught: Taught, y: NDArray[np.float32], more: Examples | None = None) -> Examples:
    """What judgements y (N, C) of `taught` say, as examples; and further labelled items of the same classes."""
    contents = contents_of(space, taught)
    members = [np.flatnonzero(column > 0) for column in y.T]
    against = [np.flatnonzero(column < 0) for column in y.T]
    asks = np.where((taught.asked >= 0) & (y.max(0, initial=0) > 0), taught.asked, -1)
    if more is not None:  # of the same classes; what is held out whole stays so
        held_out = {name for name, rows in zip(taught.columns, members, strict=True) if not len(rows)}
        shift = len(contents)
        by_name = dict(zip(more.classes, more.members, strict=True))
        members = [
            np.concatenate((rows, by_name.get(name, np.empty(0, np.int64)) + shift)) if name not in held_out else rows
            for name, rows in zip(taught.columns, members, strict=True)
        ]
        contents = [*contents, *more.contents]
    used = [place for place, rows in enumerate(members) if len(rows)]
    about = {"collection": space.contents.name, "classes_held_out": len(members) - len(used)}
    return Examples(
        tuple(contents), tuple(taught.columns[c] for c in used), tuple(members[c] for c in used), tuple(against[c] for c in used),
        asks[used], about,
    )  # fmt: skip


def source_examples(space: Space, field: str | None) -> Examples:
    """All labelled items of another collection, by a metadata field or by its judgements. Raises InvalidConfig."""
    name = space.contents.name
    assert isinstance(space.items, ItemStore)
    if field is not None:
        _, found = field_examples(space.items, field)
        return replace(found, about={"collection": name, "field": field})
    taught = resolve(space.items, space.log)
    if not taught.columns:
        raise InvalidConfig(
            f"the collection {name!r} has no judgements to learn from; give source='{name}:FIELD' for a metadata field"
        )
    return checked(examples_of(space, taught, taught.y))


def without(examples: Examples, contents: set[Content]) -> Examples:
    """The examples but for those of some contents; `about` counts them as "held_out". Raises InvalidConfig when nothing is left."""
    keep = np.array([content not in contents for content in examples.contents], bool)
    if keep.all():
        return examples
    left = examples.part(keep)
    used = [place for place, rows in enumerate(left.members) if len(rows)]
    members, against = (tuple(listed[place] for place in used) for listed in (left.members, left.against))
    about = {**left.about, "held_out": int((~keep).sum())}
    return checked(replace(left, classes=tuple(left.classes[c] for c in used), members=members, against=against, asks=left.asks[used],
                           about=about))  # fmt: skip


def field_examples(items: ItemStore, field: str) -> tuple[list[str], Examples]:
    """All items with a metadata field, whose values are the classes: their ids, and examples.

    A list puts an item into several classes; items without the field, or with null or "", are unlabelled.

    Raises:
        InvalidConfig: no item has the field, or only one class has items.
    """
    ids, contents, values = list[str](), list[Content](), list[Any]()
    keys: set[str] = set()
    for item in _all(items):
        keys.update(item.metadata)
        value = item.metadata.get(field)
        if value not in (None, "", []) and item.content is not None:
            ids.append(item.id)
            contents.append(item.content)
            values.append(value)
    if not ids:
        raise InvalidConfig(f"no item has a metadata field {field!r}; fields: {', '.join(sorted(keys)[:20]) or 'none'}")
    return ids, labelled(contents, values)


def field_taught(items: ItemStore, field: str, seed: int) -> tuple[Taught, Examples | None]:
    """The values of a metadata field as though they had been judged, of EXAMINED items at most; the other labelled items as examples.

    Raises as `field_examples`.
    """
    ids, found = field_examples(items, field)
    contents = found.contents
    order = np.random.default_rng(seed).permutation(len(ids))
    part = np.sort(order[:EXAMINED])
    names = [ids[row] for row in part]
    vectors = items.base_vectors(names)
    columns = tuple(name for name in found.classes)
    y = found.y(part)
    taught = Taught(
        np.stack([vectors[name] for name in names]), y, tuple(names), np.ones(len(names), bool), columns,
        np.full(len(columns), -1, np.int64), (-1,) * len(names),
    )  # fmt: skip
    rest = np.sort(order[EXAMINED:])
    if not len(rest):
        return taught, None
    place = np.full(len(ids), -1)
    place[rest] = np.arange(len(rest))
    members = tuple(place[rows][place[rows] >= 0] for rows in found.members)
    more = Examples(
        tuple(contents[row] for row in rest), columns, members, found.against, found.asks, {"ids": [ids[row] for row in rest]}
    )
    return taught, more


def _all(items: ItemStore) -> Iterator[Item]:
    after = None
    while page := items.page(None, after, PAGE):
        yield from page
        after = page[-1].id
