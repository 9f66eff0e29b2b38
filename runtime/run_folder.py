"""The folder of one run: what was asked for, what happened, what came out."""

import csv
import json
import os
import tempfile
from pathlib import Path

from lora.adapter import CONFIG, WEIGHTS, load_adapter, save_adapter
from lora.inject import lora_parameters
from metrics import Scored
from runtime import ranks
from runtime.files import write_aside, write_json
from runtime.flags import RunError

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
    """runs/NAME, created on construction. Raises RunError if it holds another run or cannot be written.

    Of several ranks the first one alone writes.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        if not ranks.is_first():
            return
        refuse_unusable(path, resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise RunError(f"--out {path}: cannot be written ({error.strerror})") from None

    def config(self) -> dict:
        return read_config(self.path)

    @ranks.first_only
    def write_config(self, config: dict) -> None:
        write_json(self.path / "config.json", config)

    @ranks.first_only
    def log(self, record: dict) -> None:
        """Add a line to metrics.jsonl; a whole line at once, so that a reader never sees half of one."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def history(self) -> list[dict]:
        """The lines of metrics.jsonl so far; a line cut off by a crash is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @ranks.first_only
    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        kept = [json.dumps(record) + "\n" for record in self.history() if record["step"] <= step]
        write_aside(self.path / "metrics.jsonl", lambda aside: aside.write_text("".join(kept), encoding="utf-8"))

    @ranks.first_only
    def save_best(self, model, settings: dict) -> None:
        """Make the model's adapter the run's result: both files whole, the weights last."""
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".best-") as aside:
            save_adapter(model, Path(aside), settings)
            for name in (CONFIG, WEIGHTS):
                os.replace(Path(aside) / name, self.path / name)

    def load_best(self, model) -> None:
        """Put that adapter into the model."""
        if ranks.is_first():
            load_adapter(model, self.path)
        ranks.copy_from_first(lora_parameters(model))  # another node's view of the file may be old


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
        config = json.loads(path.read_bytes())
        for entry in config["flags"].values():
            entry["value"], entry["source"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunError(f"{path}: not the config.json of a run; give the folder that train.py wrote") from None
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
