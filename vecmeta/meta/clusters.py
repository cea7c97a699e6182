"""Notions of similarity without labels: an unlabelled set is clustered in several ways, and each way is a notion to practise on.

CACTUs (Hsu, Levine and Finn 2019): what one partition tells apart another lumps together, because each looks at the dimensions with
weights of its own, so that no single metric solves all of them and a start has to learn to be taught.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from vecmeta.errors import InvalidConfig
from vecmeta.meta.tasks import LEAST_MEMBERS, Notion
from vecmeta.types import Vectors

PARTITIONS = 8  # notions per set
LEAST_CLUSTERS = 8  # of a partition: fewer tell too little apart
ROWS_PER_CLUSTER = 30  # at least so many rows per cluster, on average, so that few clusters are too small to practise on


def notions_from_clusters(name: str, x: Vectors, *, partitions: int = PARTITIONS, seed: int = 0) -> list[Notion]:
    """Several partitions of unlabelled rows x (n, dim), float32 unit rows, each a notion; the same arguments give the same ones.

    A partition is k-means of the centred rows after a random scaling of the dimensions, with a random number of clusters, few as likely
    as many. Clusters of fewer than LEAST_MEMBERS rows or of more than half of all rows are dropped, and so is a partition that is left
    with fewer than half of LEAST_CLUSTERS.

    Raises InvalidConfig when nothing is left: too few rows, or rows that are too much alike.
    """
    rng = np.random.default_rng(seed)
    most = len(x) // ROWS_PER_CLUSTER
    notions = []
    if most >= LEAST_CLUSTERS:
        centred = x - x.mean(0)
        for number in range(partitions):
            count = int(np.exp(rng.uniform(np.log(LEAST_CLUSTERS), np.log(most + 1))))
            scales = np.asarray(rng.uniform(size=x.shape[1]), np.float32)
            nearest = _kmeans(centred * scales, count, int(rng.integers(2**31)))
            members = [np.flatnonzero(nearest == cluster) for cluster in range(count)]
            classes = tuple(rows for rows in members if LEAST_MEMBERS <= len(rows) <= len(x) // 2)
            if len(classes) >= LEAST_CLUSTERS // 2:
                notions.append(Notion(f"{name}:partition {number + 1}", x, classes))
    if not notions:
        raise InvalidConfig(
            f"the {len(x)} rows of {name} fall into no clusters of {LEAST_MEMBERS} to practise on; at least "
            f"{LEAST_CLUSTERS * ROWS_PER_CLUSTER} different rows are needed"
        )
    return notions


def _kmeans(x: Vectors, count: int, seed: int) -> NDArray[np.int64]:
    """(n, dim) -> (n,), the cluster of each row."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # scikit-learn needs it too

    with warnings.catch_warnings(), threadpool_limits(1):  # several threads add in another order every time
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: what is empty is dropped
        found = MiniBatchKMeans(count, random_state=seed, batch_size=1024, max_iter=30, n_init=1).fit_predict(x)
    return np.asarray(found, np.int64)
