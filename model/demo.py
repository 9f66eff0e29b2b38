"""The built-in demo model: its folder, and how it and what is made from it are recognised."""

from pathlib import Path

from errors import CheckpointError
from model.weights import read_json

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "model"
DEMO_NAME = "demo"
DEMO_MARK = "built_in_demo"  # in config.json of the demo, and so of what is merged or converted from it


def model_folder(model: str) -> Path:
    """The checkpoint folder that `--model` means."""
    return DEMO_FOLDER if model == DEMO_NAME else Path(model)


def is_demo(model: str) -> bool:
    """Whether `--model` is the built-in demo or made from it: its figures are labelled so, and it may see simulated data."""
    try:
        return read_json(model_folder(model) / "config.json").get(DEMO_MARK) is True
    except (CheckpointError, OSError):
        return False  # loading it will say what is wrong
