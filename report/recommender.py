"""What baseline.py shows: a table of the results, and the curves of the training."""

from pathlib import Path

from matplotlib.figure import Figure

from data.sources.stand_in import STAND_IN
from files import write_file
from report.cells import interval_cell, no_interval
from report.tables import caution
from report.wrap import wrapped

LEFT_OUT = "Answers, contradictions and calibration are left out: a recommender gives one score per row, and no answer."


def subject(results: dict) -> str:
    """Data, method, shots and seed in a few words; simulated data are always named."""
    data = "SIMULATED stand-in data" if results["data_source"] == STAND_IN else results["data_source"]
    return f"{results['data']} ({data}); {results['method']}, {results['shots']} shots, seed {results['seed']}"


def recommender_table(results: dict) -> str:
    """AUC and UAUC of both splits with 95 % intervals over users; below, the rows without learning."""
    counts = results["test"]["after"]["counts"]
    users = (
        f"{counts['users']} users, {counts['users_in_uauc']} of them in UAUC" if counts["users"] else "unknown users"
    )
    unit = "users" if counts["users"] else "rows"
    lines = ["", *wrapped(f"{subject(results)}: {results['about']}"), *_settings(results), ""]
    lines += wrapped(f"test split: {counts['rows']:,} rows, {users}; 95 % intervals in [ ], from resampling {unit}")
    rows = {f"{results['method']}, {split}": results[split]["after"] for split in ("test", "valid")}
    lines += _block("", rows) + _block("without any learning, test", results["test"]["rules"])
    shown = [
        interval_cell(values, name) for values in (*rows.values(), *results["test"]["rules"].values()) for name in NAMES
    ]
    return "\n".join([*lines, *no_interval(shown, unit), "", *wrapped(LEFT_OUT), *caution(results)])


NAMES = ("auc", "uauc")


def _block(title: str, rows: dict[str, dict]) -> list[str]:
    lines = ["", f"{title:36}{'AUC':>22}{'UAUC':>22}"]
    return lines + [
        f"{label:36}" + "".join(f"{interval_cell(values, n):>22}" for n in NAMES) for label, values in rows.items()
    ]


def _settings(results: dict) -> list[str]:
    if not results["settings"]:
        return []
    shown = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    titles = f"; titles read by a {results['bert']}" if "bert" in results else ""
    ending = f"best epoch {results['best_step']} of {results['steps']}, {results['parameters']:,} parameters"
    return wrapped(f"setting {results['setting']}: {shown}; {ending}{titles}")


def draw_recommender_curves(path: Path, history: list[dict], results: dict) -> None:
    """Loss and validation AUC over the epochs, as a PNG. history: the records of metrics.jsonl, one per epoch."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    loss, ranking = figure.subplots(1, 2)
    epochs = [record["step"] for record in history]
    loss.plot(epochs, [record["loss"] for record in history], color="tab:blue", linewidth=1)
    loss.set(title="Training loss", xlabel="epoch", ylabel="mean per row", ylim=(0, None))
    ranking.plot(epochs, [record["valid_auc"] for record in history], color="tab:purple", linewidth=1)
    best, best_step = results["best_valid_auc"], results["best_step"]
    ranking.plot([best_step], [best], "*", color="tab:red", markersize=12, label=f"best {best:.3f}, epoch {best_step}")
    ranking.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
    ranking.set(title="Validation AUC", xlabel="epoch", xlim=(0, None))
    ranking.legend(frameon=False, loc="lower right")
    for panel in (loss, ranking):
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(subject(results), fontsize=9)
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
