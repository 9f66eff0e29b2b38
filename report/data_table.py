"""A data set in figures: the table and the histograms of data/show.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from files import write_file
from report.tables import STAND_IN

COLORS = {"train": "tab:blue", "valid": "tab:orange", "test": "tab:green"}


def heading(found: dict) -> str:
    """Which data, and where the rows come from; simulated ones are always named."""
    source = "SIMULATED stand-in data" if found["data_source"] == STAND_IN else found["data_source"]
    return f"{found['data']} ({source}); prompts of {found['wording']}, template {found['template']}; tokens of {found['tokenizer']}"


def statistics_table(found: dict) -> str:
    """One column per split."""
    splits = found["splits"]
    lines = [heading(found), "", f"{'':34}" + "".join(f"{split:>18}" for split in splits)]

    def line(label: str, cell) -> None:
        lines.append(f"{label:34}" + "".join(f"{cell(of_split):>18}" for of_split in splits.values()))

    def share(name: str):
        return lambda of_split: f"{of_split[name]:,} ({of_split[name] / of_split['rows']:.1%})"

    line("rows", lambda s: f"{s['rows']:,}")
    line("positive", share("positive"))
    line("users", lambda s: "not said" if s["users"] is None else f"{s['users']:,}")
    line("target items", lambda s: f"{s['items']:,}")
    line("cold: user or item not in train", share("cold"))
    line("without history", share("no_history"))
    shown = ("0", "50", "95", "100")
    line("history, min/median/p95/max", lambda s: "/".join(f"{s['history'][p]:,}" for p in shown))
    line(
        "rows a user, min/median/p95/max",
        lambda s: "-" if s["rows_per_user"] is None else "/".join(f"{s['rows_per_user'][p]:,}" for p in shown),
    )
    line("tokens, min/median/p95/max", lambda s: "/".join(f"{s['tokens'][p]:,}" for p in shown))
    if any(s["tokens_counted_on"] < s["rows"] for s in splits.values()):
        line("  counted on rows", lambda s: f"{s['tokens_counted_on']:,}")
    limit = next(iter(splits.values()))["max_len"]
    line(
        f"longer than --max-len {limit}",
        lambda s: f"{s['longer_than_max_len']:,} ({s['longer_than_max_len'] / s['tokens_counted_on']:.1%})",
    )
    if found["selection"] < splits["valid"]["rows"]:
        lines += ["", f"{found['selection']:,} of the validation rows choose the best state in training"]
    lines += [
        "",
        *(
            [f"LEAK: {leak}" for leak in found["leaks"]]
            or ["no leaks: no target in its own history, no row asked in two splits"]
        ),
    ]
    return "\n".join(lines)


def draw_histograms(path: str, found: dict) -> None:
    """History lengths, token lengths and the share of positives, by split."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 2, 1))
    for axes, name, title, unit in (
        (left, "history_lengths", "History", "items"),
        (middle, "token_lengths", "Longer prompt with its answer", "tokens"),
    ):
        everything = [int(value) for of_split in found["splits"].values() for value in of_split[name]]
        low, high = min(everything), max(everything)
        edges = np.arange(low, high + 2) - 0.5 if high - low < 60 else np.linspace(low, high + 1, 41)
        for split, of_split in found["splits"].items():
            lengths, counts = (
                np.array([int(value) for value in of_split[name]]),
                np.array(list(of_split[name].values())),
            )
            axes.hist(
                lengths,
                edges,
                weights=counts / counts.sum(),
                histtype="step",
                linewidth=1.4,
                color=COLORS[split],
                label=split,
            )
        axes.set(title=title, xlabel=unit, ylabel="share of rows")
    limit = found["splits"]["train"]["max_len"]
    if limit <= max(everything) * 1.5:
        middle.axvline(limit, color="black", linewidth=0.8, linestyle=":")
        middle.annotate(
            f"--max-len {limit}",
            (limit, 1),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            rotation=90,
            va="top",
            ha="right",
        )
    left.legend(frameon=False)
    positive = [of_split["positive"] / of_split["rows"] for of_split in found["splits"].values()]
    bars = right.bar(list(found["splits"]), positive, color=list(COLORS.values()))
    right.bar_label(bars, [f"{value:.2f}" for value in positive])
    right.set(title="Positive", ylabel="share of rows", ylim=(0, 1))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(heading(found), fontsize=9)
    write_file(Path(path), lambda aside: figure.savefig(aside, format=Path(path).suffix[1:], dpi=130))
