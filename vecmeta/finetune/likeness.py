"""Which source examples look like the target: importance weights by a classifier that tells the two apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecmeta.types import Vectors

MOST = 20.0  # times the mean weight that one example may have: a few would be all there is otherwise


def importance(source: Vectors, target: Vectors, seed: int = 0) -> NDArray[np.float64]:
    """p(target | x) / p(source | x), corrected for how many there are of each, for every source row (Bickel et al. 2007, eq. 4).

    Logistic regression on vectors (n, dim) of the untouched encoder, with as much regularisation as cross-validation likes; (n,) >= 0 with
    mean 1, cut at MOST.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = np.concatenate((source, target)).astype(np.float64)
    y = np.repeat([0, 1], [len(source), len(target)])
    if min(len(source), len(target)) < 4:  # too few for a classifier that means anything
        centre = target.mean(0) / max(float(np.linalg.norm(target.mean(0))), 1e-12)
        closeness = np.exp(5 * (source @ centre).astype(np.float64))
        return np.asarray(closeness / closeness.mean())
    # Cross-fitted: a classifier that has seen an example says too surely where it is from.
    folds = StratifiedKFold(min(5, len(source), len(target)), shuffle=True, random_state=seed)
    model = LogisticRegression(C=10.0, max_iter=500)
    p = cross_val_predict(model, x, y, cv=folds, method="predict_proba")[: len(source), 1].clip(1e-4, 1 - 1e-4)
    weights = p / (1 - p) * len(source) / len(target)
    weights = weights / weights.mean()
    weights = weights.clip(max=MOST)
    return np.asarray(weights / weights.mean())
