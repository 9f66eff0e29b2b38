"""TensorBoard events of a run on request: the scalars of metrics.jsonl, and the validation figures of its end.

The package tensorboard is optional: it is looked for when --tensorboard asks for it, and nothing else needs it.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from errors import RunError
from files import optional_module, refuse_unwritable

NO_SCALARS = ("step", "epoch")
EVENTS = "events.out.tfevents.*"


def tensorboard_module(folder: str | None) -> ModuleType | None:
    """torch.utils.tensorboard if --tensorboard names a folder. Raises RunError if that cannot be written to.

    Known before any work: the package may be missing.
    """
    if folder is None:
        return None
    refuse_unwritable(Path(folder), "--tensorboard", RunError)
    module = optional_module("torch.utils.tensorboard")
    if module is None:
        raise RunError(
            f"--tensorboard {folder}: needs the package tensorboard, which is not installed; "
            "install it (python -m pip install tensorboard), or leave the flag out"
        )
    return module


class Events:
    """The event files of one run in DIR/NAME, so that `tensorboard --logdir DIR` shows several runs side by side.

    The first record of a process hides what the folder has of that step and later ones: a resumed run does them again.
    If the folder has no events, as when the flag is new on --resume, the steps before are written first.
    """

    def __init__(self, module: ModuleType, folder: Path):
        self.module, self.folder, self.writer = module, folder, None

    def log(self, record: dict, history: Callable[[], list[dict]]) -> None:
        """Write a line of metrics.jsonl. history: gives all lines so far, this one included."""
        records = [record]
        if self.writer is None:
            records = [record] if any(self.folder.glob(EVENTS)) else history()
            self.writer = self.module.SummaryWriter(str(self.folder), purge_step=records[0]["step"])
        for each in records:
            for name, value in each.items():
                if name not in NO_SCALARS:
                    of_validation = name.startswith("valid_")
                    tag = f"valid/{name.removeprefix('valid_')}" if of_validation else f"train/{name}"
                    self.writer.add_scalar(tag, value, each["step"])

    def end(self, results: dict) -> None:
        """Write the base's validation figures of results.json, which stand at step 0."""
        if self.writer is None:  # a finished run that is scored again
            return
        for name, value in results["valid"]["before"].items():
            if type(value) is float:
                self.writer.add_scalar(f"valid/{name}", value, 0)
        self.writer.close()

    def flush(self) -> None:
        """Wait until all is in the files."""
        if self.writer is not None:
            self.writer.flush()
