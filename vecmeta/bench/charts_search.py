"""Searches as a picture: latency of one query and the rate of batches, by filter and engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vecmeta.bench.charts import available, saved

# Okabe and Ito 2008; ours are the blues.
COLOURS = {
    "vecmeta": "#0072B2",
    "adapted": "#56B4E9",
    "faiss": "#009E73",
    "numpy": "#999999",
    "chroma": "#E69F00",
    "lancedb": "#D55E00",
    "qdrant": "#CC79A7",
}
NAMES = {
    "adapted": "vecmeta, adapted",
    "faiss": "FAISS alone (ids only)",
    "numpy": "numpy, by hand (ids only)",
    "chroma": "Chroma",
    "lancedb": "LanceDB",
    "qdrant": "qdrant-client, local",
}


def draw(facts: dict[str, Any], folder: Path) -> Path:
    """Writes search.png; returns its path. Raises InvalidConfig."""
    available()
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    settings = list(dict.fromkeys(row["setting"] for row in facts["rows"]))
    engines = list(dict.fromkeys(row["engine"] for row in facts["rows"]))
    rows = {(row["setting"], row["engine"]): row for row in facts["rows"]}
    width = 0.84 / len(engines)
    figure, panels = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for place, engine in enumerate(engines):
        found = [rows[setting, engine] for setting in settings]
        at = [number + (place - (len(engines) - 1) / 2) * width for number in range(len(settings))]
        look = {"color": COLOURS[engine], "label": NAMES.get(engine, engine)}
        p50, p99 = [row["p50_ms"] for row in found], [row["p99_ms"] for row in found]
        above = [max(0.0, high - middle) for middle, high in zip(p50, p99, strict=True)]
        panels[0].bar(at, p50, width, yerr=[[0] * len(at), above], error_kw={"linewidth": 0.8}, capsize=2, **look)
        panels[1].bar(at, [row["per_second"] for row in found], width, **look)
    for panel, label in zip(panels, ("one query, ms: p50, the line to p99", "batches of 100, queries a second"), strict=True):
        panel.set_yscale("log")
        panel.set_xticks(range(len(settings)), [s if s == "no filter" else f"{s} match" for s in settings])
        panel.set_ylabel(label)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(engines), frameon=False)
    asked = facts["settings"]
    figure.suptitle(
        f"{asked['count']:,} vectors, dim {asked['dim']}, peers tuned to recall@10 of {asked['recall']:g} or vecmeta's own where that is "
        f"less; {facts['processor']}, {facts['cores']} cores"
    )
    return saved(figure, folder / "search.png")
