"""curves.png: the terms of the loss and the validation AUC over the steps of a run."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from files import write_file
from objectives.by_name import own_terms
from report.tables import provenance, tuning


def draw_curves(path: Path, history: list[dict], results: dict) -> None:
    """Write the picture as a PNG. history: the records of metrics.jsonl, one per step."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    draw_cross_entropy(axes[0], history)
    draw_terms(axes[1], history, own_terms(results["objective"]))
    _draw_auc(axes[2], history, results)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{provenance(results)}; {tuning(results)}", fontsize=9)
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def draw_cross_entropy(axes: Axes, history: list[dict]) -> None:
    """Those of the two cross-entropies that are not 0 everywhere; without any, the loss."""
    steps = [record["step"] for record in history]
    terms = (("ce_pos", "CE+, positive prompt", "tab:blue"), ("ce_neg", "CE-, negative prompt", "tab:orange"))
    shown = [term for term in terms if any(record[term[0]] for record in history)]
    for name, label, color in shown or [("loss", "the loss", "tab:blue")]:
        axes.plot(steps, [record[name] for record in history], label=label, color=color, linewidth=1)
    axes.set(title="Cross-entropy of the answer", xlabel="optimizer step", ylabel="nats per pair", ylim=(0, None))
    axes.legend(frameon=False)


def draw_terms(axes: Axes, history: list[dict], names: tuple[str, ...]) -> None:
    """The KL, or the terms that this objective alone has, which may be below 0."""
    steps, other = [record["step"] for record in history], names != ("kl",)
    for name, color in zip(names, ("tab:green", "tab:red", "tab:olive", "tab:cyan")):
        axes.plot(steps, [record[name] for record in history], color=color, linewidth=1, label=name)
    title = "The term of this objective, as minimised" if other else "KL between the two prompts' answers"
    axes.set(title=title, xlabel="optimizer step", ylabel="per pair" if other else "nats per pair")
    axes.set(ylim=None if other else (0, None))
    if len(names) > 1:
        axes.legend(frameon=False)


def _draw_auc(axes: Axes, history: list[dict], results: dict) -> None:
    """The validation AUC of the base, of every validated step, and of the best step."""
    validated = [record for record in history if "valid_auc" in record]
    steps, values = [r["step"] for r in validated], [r["valid_auc"] for r in validated]
    before, best, best_step = results["valid"]["before"]["auc"], results["best_valid_auc"], results["best_step"]
    axes.plot([0], [before], "o", color="tab:grey", clip_on=False, label=f"base {before:.3f}")
    axes.plot(steps, values, "o-", color="tab:purple", markersize=4)
    label = f"best {best:.3f}, step {best_step}"
    axes.plot([best_step], [best], "*", color="tab:red", markersize=12, label=label)
    axes.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
    axes.set(title="Validation AUC", xlabel="optimizer step", xlim=(0, None))
    axes.legend(frameon=False, loc="lower right")
