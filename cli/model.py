"""What eval.py, predict.py and audit.py work on: a base alone, a base with an adapter, or a finished run."""

from dataclasses import dataclass

from cli.data import DataOfRunFlags
from cli.flags import flag, flag_of_run
from cli.train import TrainFlags


@dataclass(frozen=True)
class ModelFlags:
    """Model."""

    run: str = flag(
        None,
        "folder that train.py wrote; its base, data and template are used unless a flag says otherwise",
        metavar="DIR",
    )
    model: str = flag(None, "checkpoint folder, or demo; default: the run's", metavar="DIR")
    adapter: str = flag(None, "folder with an adapter in PEFT's layout, for --model without --run", metavar="DIR")
    template: str = flag_of_run(TrainFlags, "template")
    wordings_file: str = flag(
        None, "prompt, answers and questions of your own, JSON; default: the run's", metavar="FILE"
    )
    max_len: int = flag_of_run(TrainFlags, "max_len")
    precision: str = flag_of_run(TrainFlags, "precision")
    base_dtype: str = flag_of_run(TrainFlags, "base_dtype")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    json: bool = flag(False, "print the results as one JSON line on standard output")


@dataclass(frozen=True)
class RunDataFlags(DataOfRunFlags, ModelFlags):
    """The flags of a verb that scores rows of a data set."""


def model_problems(flags: ModelFlags) -> list[str]:
    """A line for every one of the shared flags that is missing or contradicts another."""
    problems = []
    if not flags.run and not flags.model:
        problems.append("--run: say which run with --run DIR, or which base with --model DIR (or --model demo)")
    return problems + model_contradictions(flags)


def model_contradictions(flags: ModelFlags) -> list[str]:
    """A line for every one of the shared flags that contradicts another."""
    if flags.run and flags.adapter:
        return ["--adapter: --run brings an adapter of its own; leave one of them out"]
    return []
