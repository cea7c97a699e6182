"""Growth as a picture: time and memory against the number of items, all axes logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vecmeta.bench.charts import available, saved
from vecmeta.bench.growth import SPACES, TIMES

COLOURS = ("#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#E69F00", "#D55E00")  # Okabe and Ito 2008
MARKERS = "osxD^v"


def draw(facts: dict[str, Any], folder: Path) -> Path:
    """Writes growth.png; returns its path. Raises InvalidConfig."""
    available()
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sizes = [int(size) for size in facts["by_size"]]
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for panel, names, unit in ((panels[0], TIMES, 1.0), (panels[1], SPACES, 1e6)):
        for (name, words), colour, marker in zip(names.items(), COLOURS, MARKERS, strict=False):
            if name not in facts["slopes"]:  # measured without adaptations
                continue
            slope = facts["slopes"][name]["all"]
            label = words if slope is None else f"{words}: slope {slope:.2f}"
            values = [one[name] / unit for one in facts["by_size"].values()]
            panel.loglog(sizes, values, color=colour, marker=marker, label=label)
        bottom, top = panel.get_ylim()
        steep = np.array(sizes) * np.log(sizes)
        panel.loglog(sizes, steep / steep[-1] * top / 2, color="grey", linestyle=":", label="n log n")
        panel.set_ylim(bottom, top)
        panel.set_xlabel("items")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=9)
    panels[0].set_ylabel("seconds")
    panels[1].set_ylabel("megabytes")
    figure.suptitle(f"Growth, dim {facts['settings']['dim']}, {facts['processor']}, {facts['cores']} cores")
    return saved(figure, folder / "growth.png")
