"""Notions without labels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Clusters
from vecmeta.errors import InvalidConfig
from vecmeta.meta.clusters import LEAST_CLUSTERS, PARTITIONS, notions_from_clusters
from vecmeta.meta.tasks import LEAST_MEMBERS


def test_partitions_differ_and_repeat(clusters: Clusters) -> None:
    notions = notions_from_clusters("own", clusters.x, seed=3)
    again = notions_from_clusters("own", clusters.x, seed=3)
    assert [n.name for n in notions] == [f"own:partition {k + 1}" for k in range(PARTITIONS)]
    assert len({len(n.classes) for n in notions}) > 1
    for notion, same in zip(notions, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(notion.classes, same.classes, strict=True))
        assert all(LEAST_MEMBERS <= len(rows) <= 200 for rows in notion.classes)
        rows = np.concatenate(notion.classes)
        assert len(rows) == len(set(rows.tolist()))  # a partition: no row is in two
    first, other = notions_from_clusters("own", clusters.x, partitions=1, seed=4)[0], notions[0]
    assert not all(np.array_equal(a, b) for a, b in zip(first.classes, other.classes, strict=False))


def test_clusters_find_what_is_there(clusters: Clusters) -> None:
    """Two rows of one cluster share their label more often than two rows at all: one in twenty."""
    shares = []
    for notion in notions_from_clusters("own", clusters.x):
        for rows in notion.classes:
            labels = clusters.label[rows]
            shares.append(float(np.mean(labels[:, None] == labels[None])))
    assert np.mean(shares) > 0.1


def test_too_few_rows_and_rows_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(size=(LEAST_CLUSTERS * 30 - 1, 4)).astype(np.float32)
    with pytest.raises(InvalidConfig, match="239 rows of few fall into no clusters of 12"):
        notions_from_clusters("few", few)
    with pytest.raises(InvalidConfig, match="different rows"):
        notions_from_clusters("same", np.ones((500, 4), np.float32))
