"""A data set in samples, figures and histograms: what `prepare.py show` prints and draws."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.interactions import Dataset, Interaction
from data.pairs import encode_pairs
from data.prompts import prompt_pair
from data.sources.stand_in import STAND_IN
from data.statistics import UNBOUNDED
from files import write_file
from protocols import Tokenizer
from report.wrap import wrapped

COLORS = {"train": "tab:blue", "valid": "tab:orange", "test": "tab:green"}


def sample_text(rows: list[Interaction], data: Dataset, tokenizer: Tokenizer, template: str, split: str) -> str:
    """Each row with what is known of it, both prompts and their tokens. split: where the rows are from."""
    pairs, _ = encode_pairs(rows, data, tokenizer, template, UNBOUNDED)
    text = []
    for number, (row, pair) in enumerate(zip(rows, pairs), start=1):
        words = prompt_pair(row, data, template)
        likes = sum(liked for _, liked in row.history)
        text.append(
            f"==== {split} sample {number} of {len(rows)}: user {row.user}, target {row.target}, "
            f"{'liked' if row.label else 'disliked'}; {likes} liked and {len(row.history) - likes} disliked before"
        )
        for side, prompt, answer, ids in (
            ("positive", words.positive, words.answer_positive, pair.positive),
            ("negative", words.negative, words.answer_negative, pair.negative),
        ):
            text.append(
                f"---- {side}: {len(ids.prompt)} tokens, answer {answer!r} as {list(ids.answer)} with EOS\n{prompt}"
            )
    return "\n".join(text)


def heading(figures: dict) -> str:
    """Which data, and where the rows come from; simulated ones are always named. figures: see statistics_table."""
    source = "SIMULATED stand-in data" if figures["data_source"] == STAND_IN else figures["data_source"]
    return (
        f"{figures['data']} ({source}); prompts of {figures['wording']}, template {figures['template']}; "
        f"tokens of {figures['tokenizer']}"
    )


def in_words(figures: dict) -> str:
    """How much there is to learn from, in one sentence."""
    rows = ", ".join(f"{of_split['rows']:,} rows for {split}" for split, of_split in figures["splits"].items())
    leaks = f"{len(figures['leaks'])} leaks, listed below" if figures["leaks"] else "no leaks"
    return f"{figures['data']} has {rows}, and {leaks}."


def statistics_table(figures: dict) -> str:
    """One column per split. figures: data.statistics.describe, and "tokenizer", whose tokens were counted."""
    splits = figures["splits"]
    lines = [*wrapped(in_words(figures)), "", *wrapped(heading(figures)), ""]
    lines.append(" " * 32 + "".join(f"{split:>16}" for split in splits))

    def line(label: str, cell: Callable[[dict], str]) -> None:
        lines.append(f"{label:32}" + "".join(f"{cell(of_split):>16}" for of_split in splits.values()))

    def share(name: str) -> Callable[[dict], str]:
        return lambda of_split: f"{of_split[name]:,} ({of_split[name] / of_split['rows']:.1%})"

    line("rows", lambda s: f"{s['rows']:,}")
    line("positive", share("positive"))
    line("users", lambda s: "unknown" if s["users"] is None else f"{s['users']:,}")
    line("target items", lambda s: f"{s['items']:,}")
    line("cold: user or item not in train", share("cold"))
    line("without history", share("no_history"))
    line("history, min/median/p95/max", lambda s: _percentiles(s["history"]))
    line("rows a user, min/median/p95/max", lambda s: _percentiles(s["rows_per_user"]))
    line("tokens, min/median/p95/max", lambda s: _percentiles(s["tokens"]))
    if any(s["tokens_counted_on"] < s["rows"] for s in splits.values()):
        line("  counted on rows", lambda s: f"{s['tokens_counted_on']:,}")
    limit = splits["train"]["max_len"]
    line(
        f"longer than --max-len {limit}",
        lambda s: f"{s['longer_than_max_len']:,} ({s['longer_than_max_len'] / s['tokens_counted_on']:.1%})",
    )
    if figures["selection"] < splits["valid"]["rows"]:
        lines += ["", f"{figures['selection']:,} of the validation rows choose the best state in training"]
    leaks = [f"LEAK: {leak}" for leak in figures["leaks"]]
    lines += ["", *(leaks or ["no leaks: no target in its own history, no row asked in two splits"])]
    return "\n".join(lines)


def _percentiles(values: dict[str, int] | None) -> str:
    return "-" if values is None else "/".join(f"{values[percent]:,}" for percent in ("0", "50", "95", "100"))


def draw_histograms(path: str, figures: dict) -> None:
    """History lengths, token lengths and the share of positives, by split. figures: see statistics_table."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 2, 1))
    splits = figures["splits"]
    _draw_lengths(left, {split: of_split["history_lengths"] for split, of_split in splits.items()})
    left.set(title="History", xlabel="items", ylabel="share of rows")
    left.legend(frameon=False)
    token_lengths = {split: of_split["token_lengths"] for split, of_split in splits.items()}
    _draw_lengths(middle, token_lengths)
    middle.set(title="Longer prompt with its answer", xlabel="tokens", ylabel="share of rows")
    limit = splits["train"]["max_len"]
    if limit <= max(int(length) for lengths in token_lengths.values() for length in lengths) * 1.5:
        middle.axvline(limit, color="black", linewidth=0.8, linestyle=":")
        style = {"xycoords": ("data", "axes fraction"), "fontsize": 8, "rotation": 90, "va": "top", "ha": "right"}
        middle.annotate(f"--max-len {limit}", (limit, 1), **style)
    positive = [of_split["positive"] / of_split["rows"] for of_split in splits.values()]
    bars = right.bar(list(splits), positive, color=list(COLORS.values()))
    right.bar_label(bars, [f"{value:.2f}" for value in positive])
    right.set(title="Positive", ylabel="share of rows", ylim=(0, 1))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(heading(figures), fontsize=9)
    write_file(Path(path), lambda temporary: figure.savefig(temporary, format=Path(path).suffix[1:], dpi=130))


def _draw_lengths(axes: Axes, counts_of: dict[str, dict]) -> None:
    """One outlined histogram per split. counts_of: {split: {length: rows}}."""
    everything = [int(length) for counts in counts_of.values() for length in counts]
    low, high = min(everything), max(everything)
    edges = np.arange(low, high + 2) - 0.5 if high - low < 60 else np.linspace(low, high + 1, 41)
    for split, counts in counts_of.items():
        lengths, rows = np.array([int(length) for length in counts]), np.array(list(counts.values()))
        shares = rows / rows.sum()
        axes.hist(lengths, edges, weights=shares, histtype="step", linewidth=1.4, color=COLORS[split], label=split)
