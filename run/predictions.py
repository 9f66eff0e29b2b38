"""predictions.csv: the answers to every row of a split."""

import csv
from pathlib import Path

from files import write_file
from metrics import Scored

PREDICTION_COLUMNS = ["user", "item", "label", "p_yes_positive", "p_yes_negative", "contradiction"]


def write_predictions(path: Path, items: list, scored: Scored) -> None:
    """predictions.csv: one line per row of the split, in its order."""
    said_yes, said_yes_neg = scored.p_pos > 0.5, scored.p_neg > 0.5

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(PREDICTION_COLUMNS)
            for i, (user, item) in enumerate(zip(scored.users, items)):
                writer.writerow(
                    [
                        "" if user is None else user,
                        item,
                        int(scored.labels[i]),
                        f"{scored.p_pos[i]:.6f}",
                        f"{scored.p_neg[i]:.6f}",
                        int(said_yes[i] == said_yes_neg[i]),
                    ]
                )

    write_file(path, write)
