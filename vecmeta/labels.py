"""Labels of stored items, and the contents behind them: from judgements or a metadata field to what an encoder can learn from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from vecmeta.catalogue.items import ItemStore
from vecmeta.errors import EncoderUnavailable, InvalidConfig
from vecmeta.finetune import Examples, labelled
from vecmeta.judged import Taught
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


def field_taught(items: ItemStore, field: str, seed: int) -> tuple[Taught, Examples | None]:
    """The values of a metadata field as though they had been judged, of EXAMINED items at most; the other labelled items as examples.

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
    found = labelled(contents, values)
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
