"""The picture of a study over lambda, as Figure 3 of the paper has it: with contradiction beside AUC."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from files import write_file
from studies.study import Study
from studies.tables import Measured, intervals

PANELS = (("auc", "AUC"), ("contradiction_rate", "contradiction rate"), ("group_accuracy", "both answers right"))


def draw_sweep(path: Path, study: Study, rows: list[Measured], constant: float, title: str) -> None:
    """A PNG of three panels: mean over the runs against lambda, each run as a dot, intervals over users as bars.

    rows: of the study's settings and the base; constant: share of pairs that a constant answers right.
    """
    x_of = {setting.label: setting.flags["kl-weight"] for setting in study.settings}
    there = [row for row in rows if row.label in x_of and row.runs]
    base = next((row for row in rows if row.label not in x_of and row.runs), None)
    places = {label: i for i, label in enumerate(x_of)}  # evenly spaced: lambda 0 has no logarithm
    figure = Figure(figsize=(11, 4.1), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS):
        for row in there:
            at, mean = places[row.label], row.values[name].mean()
            low, high = intervals(row)[name]
            axes.errorbar(
                at, mean, [[max(0, mean - low)], [max(0, high - mean)]], color="tab:blue", marker="o", capsize=3
            )
            axes.plot(np.full(row.runs, at), row.values[name], ".", color="black", markersize=4)
        if base:
            axes.axhline(base.values[name].mean(), color="tab:grey", linestyle="--", label="untuned base")
        if name != "auc":
            height = constant if name == "group_accuracy" else 0.0
            axes.axhline(height, color="tab:orange", linestyle=":", label="constant: Yes to like, No to dislike")
        axes.set(title=label, xlabel="lambda", xticks=list(places.values()), xticklabels=list(x_of.values()))
        axes.spines[["top", "right"]].set_visible(False)
    # Below the panels: within them it would hide runs. The last panel has every line.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=9)
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
