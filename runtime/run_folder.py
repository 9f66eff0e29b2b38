"""The folder of one run: what was asked for, what happened, what came out."""

import csv
import json
import os
import tempfile
from pathlib import Path

from data.files import read_whole
from lora.adapter import CONFIG, WEIGHTS, save_adapter
from metrics import Scored
from runtime.files import write_aside, write_json
from runtime.flags import RunError
from runtime.recorded import refuse_config, step_records

PREDICTION_COLUMNS = ["user", "item", "label", "p_yes_positive", "p_yes_negative", "contradiction"]


def refuse_unusable(path: Path, resume: bool) -> None:
    """Raises RunError if a run cannot be started, or resumed, in this folder. Changes nothing."""
    if resume and not (path / "config.json").is_file():
        raise RunError(f"--resume --out {path}: no run there (config.json is missing); start without --resume")
    if not resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"--out {path}: is there already; choose another folder, or continue that run with --resume")
    above = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RunError(f"--out {path}: cannot be written ({above} is {'not writable' if above.is_dir() else 'not a folder'})")


class RunFolder:
    """runs/NAME, created on construction. Raises RunError if it holds another run or cannot be written."""

    def __init__(self, path: Path, resume: bool):
        self.path = path
        refuse_unusable(path, resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise RunError(f"--out {path}: cannot be written ({error.strerror})") from None

    def config(self) -> dict:
        return read_config(self.path)

    def write_config(self, config: dict) -> None:
        write_json(self.path / "config.json", config)

    def log(self, record: dict) -> None:
        """Add a line to metrics.jsonl; a whole line at once, so that a reader never sees half of one."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def history(self) -> list[dict]:
        """The lines of metrics.jsonl so far; a line cut off by a crash is left out."""
        return step_records(self.path / "metrics.jsonl")

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        kept = [json.dumps(record) + "\n" for record in self.history() if record["step"] <= step]
        write_aside(self.path / "metrics.jsonl", lambda aside: aside.write_text("".join(kept), encoding="utf-8"))

    def save_best(self, model, settings: dict) -> None:
        """Make the model's adapter the run's result: both files whole, the weights last."""
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".best-") as aside:
            save_adapter(model, Path(aside), settings)
            for name in (CONFIG, WEIGHTS):
                os.replace(Path(aside) / name, self.path / name)


def fresh_name(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, ... if that is taken."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def read_config(folder: Path) -> dict:
    """config.json of a run. Raises RunError if the folder is not a run."""
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder}: no run there (config.json is missing); give the folder that train.py wrote")
    try:
        config = json.loads(read_whole(path))
    except (ValueError, RecursionError):
        config = None
    refuse_config(config, path)
    return config


def write_predictions(path: Path, items: list, scored: Scored) -> None:
    """predictions.csv: one line per row of the split, in its order."""
    said_yes, said_yes_neg = scored.p_pos > 0.5, scored.p_neg > 0.5

    def write(aside: Path) -> None:
        with open(aside, "w", newline="", encoding="utf-8") as file:
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

    write_aside(path, write)
