"""What a base model is called: the built-in demo and checkpoints made from it, and the label of a converted one."""

from pathlib import Path

from errors import CheckpointError
from model.weights import read_json

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "model"
DEMO_NAME = "demo"
LABEL, LONGEST_LABEL = "converted_from", 160  # in config.json of what was converted from one file; characters
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


def base_in_results(model: str) -> dict[str, str | bool]:
    """What a result records about its base: the value of `--model`, whether it is the demo, and its label, if any.

    A label says which model a folder holds, whatever the folder is called: "SmolLM2-135M-Instruct, Q4_1".
    """
    found = {"model": model, "demo_model": is_demo(model)}
    try:
        label = read_json(model_folder(model) / "config.json").get(LABEL)
    except (CheckpointError, OSError):
        return found
    if isinstance(label, str) and label.isprintable() and 0 < len(label) <= LONGEST_LABEL:
        found["model_label"] = label
    return found
