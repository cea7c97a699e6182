"""Fine-tuning beside adapting as a picture: gain against seconds, one panel per set and number of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vecmeta.bench.charts import available, saved

STYLES = {  # as in `vecmeta.bench.charts`
    "adapt": ("#0072B2", "o"),
    "features": ("#009E73", "s"),
    "lora": ("#CC79A7", "X"),
    "full": ("#D55E00", "P"),
    "full + L2-SP": ("#E69F00", "D"),
    "full + relations": ("#000000", "*"),
}


def draw(facts: dict[str, Any], path: Path) -> Path:
    """Write the chart: filled marks are fed queries, empty ones unfed; returns its path. Raises InvalidConfig."""
    available()
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["set"] for row in facts["rows"]))
    shots = list(dict.fromkeys(row["shots"] for row in facts["rows"]))
    figure, panels = plt.subplots(
        len(names), len(shots), figsize=(4.2 * len(shots), 3.1 * len(names)), layout="constrained", sharex=True, squeeze=False
    )
    for panel_row, name in zip(panels, names, strict=True):
        for panel, few in zip(panel_row, shots, strict=True):
            for row in facts["rows"]:
                if (row["set"], row["shots"]) != (name, few):
                    continue
                colour, marker = STYLES[row["method"]]
                panel.plot(row["seconds"], row["fed_gain"], marker, color=colour, label=row["method"], markersize=8)
                panel.plot(row["seconds"], row["unfed_gain"], marker, color=colour, markersize=8, fillstyle="none")
            panel.axhline(0, color="black", linewidth=0.8)
            panel.set_xscale("log")
            panel.grid(alpha=0.3)
            panel.set_title(f"{name}, {few or 'all'} per class", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    for panel in panels[:, 0]:
        panel.set_ylabel("change of MAP@R")
    marks = {label: mark for panel in panels.flat for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle("Held-out items of labelled classes (filled) and classes held out whole (empty)", fontsize=10)
    return saved(figure, path)
