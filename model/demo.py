"""The built-in demo model: its folder, and how to recognise it and checkpoints made from it."""

from pathlib import Path

from errors import CheckpointError
from model.weights import read_json

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "model"
DEMO_NAME = "demo"
DEMO_MARK = "built_in_demo"  # true in config.json of the demo, and so of every checkpoint merged or converted from it


def model_folder(model: str) -> Path:
    """The checkpoint folder that this value of `--model` names."""
    return DEMO_FOLDER if model == DEMO_NAME else Path(model)


def is_demo(model: str) -> bool:
    """Whether this value of `--model` names the built-in demo or a checkpoint made from it.

    Its results are labelled as those of the demo, and it may be trained on simulated data.
    """
    try:
        return read_json(model_folder(model) / "config.json").get(DEMO_MARK) is True
    except (CheckpointError, OSError):
        return False  # load_llama will report what is wrong
