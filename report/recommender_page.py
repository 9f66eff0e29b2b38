"""report.html of baseline.py: what a recommender reached, as one self-contained page."""

from html import escape

from data.sources.stand_in import STAND_IN
from report.cells import interval_cell, no_interval, number
from report.charts import Area, chart, curve, dots, figure, level, span, thinned
from report.html import page, paragraph, table
from report.recommender import LEFT_OUT, NAMES, subject
from report.tables import CAUTION, best_rule


def recommender_page(results: dict, history: list[dict], command: str, facts: dict[str, str]) -> str:
    """The page. history: of metrics.jsonl, a record for each epoch; [] of what learns in no epochs.

    command: that makes the run again; facts: hashes and settings, by name.
    """
    test = results["test"]
    counts = test["after"]["counts"]
    unit = "users" if counts["users"] else "rows"
    figures = {f"{results['method']}, {split}": results[split]["after"] for split in ("test", "valid")}
    rows = [[name, *(interval_cell(of, key) for key in NAMES)] for name, of in (figures | test["rules"]).items()]
    title = subject(results)
    reached = test["after"].get("auc")
    lead = (
        "" if reached is None else f"It ranks the test rows with an AUC of {number(reached)}{best_rule(test['rules'])}."
    )
    parts = [
        paragraph(lead, "lead") if lead else "",
        paragraph(f"{results['about']}. Trained on {results['train_rows']:,} rows."),
        paragraph(CAUTION, "caution") if results["data_source"] == STAND_IN else "",
        "<h2>How well it ranks</h2>",
        paragraph(f"Test split: {counts['rows']:,} rows. In [ ]: 95 % intervals, from resampling {unit}.", "note"),
        table(["", "AUC", "UAUC"], rows),
        *(paragraph(line, "note") for line in no_interval([cell for row in rows for cell in row], unit) if line),
        paragraph(LEFT_OUT, "note"),
        *(_training(results, history) if history else []),
        "<h2>How these figures were made</h2>",
        f"<pre>{escape(command)}</pre>",
        table(["", ""], [[name, text] for name, text in (_settings(results) | facts).items()], "words"),
    ]
    return page(title, f"<h1>{escape(title)}</h1>", parts)


def _settings(results: dict) -> dict[str, str]:
    said = {"setting": str(results["setting"])}
    said |= {name: str(value) for name, value in results["settings"].items()}
    return said | {name: f"{results[name]:,}" for name in ("parameters",) if name in results}


def _training(results: dict, history: list[dict]) -> list[str]:
    """Loss and validation AUC over the epochs."""
    last = max(record["step"] for record in history)
    losses = thinned([(record["step"], record["loss"]) for record in history])
    area = Area((0, last), span([y for _, y in losses], 0))
    image = chart(area, [curve(area, losses, "blue")], "Training loss over the epochs", "epoch", "mean per row")
    drawn = [figure("Training loss", {}, image)]
    aucs = [(record["step"], record["valid_auc"]) for record in history]
    best = (results["best_step"], results["best_valid_auc"])
    area = Area((0, last), span([0.5, best[1], *(y for _, y in aucs)]))
    marks = [level(area, 0.5), curve(area, thinned(aucs), "blue"), dots(area, [best], "orange", 9)]
    keys = {"blue": "AUC", "orange": f"best {best[1]:.3f}, epoch {best[0]:,}", "grey": "chance"}
    drawn.append(figure("Validation AUC", keys, chart(area, marks, "Validation AUC over the epochs", "epoch")))
    return ["<h2>Training</h2>", f'<div class="figures">{"".join(drawn)}</div>']
