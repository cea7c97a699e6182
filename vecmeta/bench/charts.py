"""The benchmark's figures as pictures: quality against shots, and harm against gain."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import vecmeta as vm

# Colours that colour-blind readers can tell apart (Okabe and Ito 2008), and a marker each for print in grey.
STYLES = {
    "maml": ("#0072B2", "o"),
    "fomaml": ("#56B4E9", "v"),
    "anil": ("#009E73", "s"),
    "reptile": ("#8C8C8C", "^"),
    "protonet": ("#E69F00", "D"),
    "ridge": ("#D55E00", "P"),
    "logistic": ("#CC79A7", "X"),
    "cnp": ("#000000", "*"),
    "metric": ("#A0522D", "<"),
    "linear": ("#B0A000", ">"),
    "rocchio": ("#7B68EE", "h"),
    "centred": ("#BBBBBB", "."),
}


def available() -> None:
    """Raises InvalidConfig that says how to get what draws."""
    if importlib.util.find_spec("matplotlib") is None:
        raise vm.InvalidConfig("charts need matplotlib: pip install 'vecmeta[bench]'")


def saved(figure: Any, path: Path) -> Path:
    """Write a figure, its folder made if it is not there, and let go of it; returns the path. Raises InvalidConfig."""
    import matplotlib.pyplot as plt

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise vm.InvalidConfig(f"charts cannot be written to {path.parent}: {error.strerror}") from error
    finally:
        plt.close(figure)
    return path


def draw(facts: dict[str, Any], folder: Path) -> list[Path]:
    """Writes quality.png and harm.png (and gate.png when there were trials); returns their paths. Raises InvalidConfig."""
    available()
    import matplotlib as mpl

    mpl.use("Agg")
    drawn = [_quality(facts, folder / "quality.png"), _harm(facts, folder / "harm.png")]
    if facts.get("trials"):
        drawn.append(_gate(facts, folder / "gate.png"))
    return drawn


def _quality(facts: dict[str, Any], path: Path) -> Path:
    """Change of MAP@R against shots, one panel per part, one line per method with its 95 % interval."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", sharey=False)
    for panel, part in zip(panels, ("fed", "mixed", "unfed"), strict=True):
        for method in dict.fromkeys(m["method"] for m in facts["means"]):
            colour, marker = STYLES[method]
            line = [m for m in facts["means"] if m["method"] == method]
            panel.errorbar(
                [m["shots"] for m in line],
                [m[f"{part}_gain"] for m in line],
                yerr=[m[f"{part}_half"] for m in line],
                label=method,
                color=colour,
                marker=marker,
                linewidth=2.4 if method == "maml" else 1.2,
                markersize=6,
                capsize=2,
                zorder=3 if method == "maml" else 2,
            )
        panel.axhline(0, color="black", linewidth=0.8)
        shots = facts["settings"]["shots"]
        panel.set_xscale("log")
        panel.set_xticks(shots, [str(s) for s in shots])
        panel.minorticks_off()
        panel.set_xlabel("judged items per concept")
        panel.set_title(f"{part} queries")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("change of MAP@R against the untouched encoder")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(f"Means over {len(facts['split'])} notions that no start was trained on")
    return saved(figure, path)


def _harm(facts: dict[str, Any], path: Path) -> Path:
    """Share of untaught queries made worse by more than .02 against the taught queries' gain, one line per method through its shots."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
    for method in dict.fromkeys(m["method"] for m in facts["means"]):
        colour, marker = STYLES[method]
        line = [m for m in facts["means"] if m["method"] == method]
        gains, harms = [m["fed_gain"] for m in line], [100 * m["unfed_worse_02"] for m in line]
        panel.plot(gains, harms, color=colour, marker=marker, label=method, linewidth=2.4 if method == "maml" else 1.0)
        panel.annotate(str(line[-1]["shots"]), (gains[-1], harms[-1]), textcoords="offset points", xytext=(5, 4), fontsize=8)
    panel.set_xlabel("gain of taught queries, MAP@R")
    panel.set_ylabel("untaught queries worse by more than .02, %")
    panel.set_title(f"Harm against gain; each line runs from {facts['settings']['shots'][0]} to the number at its end (shots)")
    panel.grid(alpha=0.3)
    panel.legend(ncols=2, frameon=False, fontsize=8)
    return saved(figure, path)


def _gate(facts: dict[str, Any], path: Path) -> Path:
    """What the trial saw against what was true, for every candidate that was measured."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
    for decision, colour in (("promoted", "#0072B2"), ("kept", "#D55E00")):
        rows = [t for t in facts["trials"] if t["decision"] == decision]
        panel.scatter(
            [t["fed_gain_low"] for t in rows], [t["mixed_gain"] for t in rows], s=12, alpha=0.6, color=colour, label=decision
        )
    panel.axhline(0, color="black", linewidth=0.8)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_xlabel("lower end of the measured gain (halvings of the rank)")
    panel.set_ylabel("true change of mixed MAP@R")
    panel.legend(frameon=False)
    panel.grid(alpha=0.3)
    return saved(figure, path)
