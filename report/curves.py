"""curves.png: how the terms of the loss and the validation AUC went over the steps."""

from pathlib import Path

from matplotlib.figure import Figure

from files import write_file
from report.tables import provenance, tuning


def draw_curves(path: Path, history: list[dict], results: dict) -> None:
    """history: the records of metrics.jsonl, one a step. Writes a PNG."""
    steps = [record["step"] for record in history]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)

    for name, label, color in (
        ("ce_pos", "CE+, positive prompt", "tab:blue"),
        ("ce_neg", "CE-, negative prompt", "tab:orange"),
    ):
        if any(record[name] for record in history):
            left.plot(steps, [record[name] for record in history], label=label, color=color, linewidth=1)
    left.set(title="Cross-entropy of the answer", xlabel="optimizer step", ylabel="nats per pair", ylim=(0, None))
    left.legend(frameon=False)

    middle.plot(steps, [record["kl"] for record in history], color="tab:green", linewidth=1)
    middle.set(
        title="KL between the two prompts' answers", xlabel="optimizer step", ylabel="nats per pair", ylim=(0, None)
    )

    validated = [record for record in history if "valid_auc" in record]
    before = results["valid"]["before"]["auc"]
    right.plot([0], [before], "o", color="tab:grey", clip_on=False, label=f"base {before:.3f}")
    right.plot(
        [r["step"] for r in validated], [r["valid_auc"] for r in validated], "o-", color="tab:purple", markersize=4
    )
    best = results["best_step"]
    right.plot(
        [best],
        [results["best_valid_auc"]],
        "*",
        color="tab:red",
        markersize=12,
        label=f"best {results['best_valid_auc']:.3f}, step {best}",
    )
    right.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
    right.set(title="Validation AUC", xlabel="optimizer step", xlim=(0, None))
    right.legend(frameon=False, loc="lower right")

    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{provenance(results)}; {tuning(results)}", fontsize=9)
    write_file(path, lambda aside: figure.savefig(aside, format="png", dpi=130))
