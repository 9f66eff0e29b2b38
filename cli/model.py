"""What eval.py, predict.py and audit.py work on: a base alone, a base with an adapter, or a finished run."""

from dataclasses import dataclass

from cli.data import DATA_HELP
from cli.flags import flag, flag_of_run
from cli.train import TrainFlags
from data.cache import CHOICES, HELP


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
    max_len: int = flag_of_run(TrainFlags, "max_len")
    precision: str = flag_of_run(TrainFlags, "precision")
    base_dtype: str = flag_of_run(TrainFlags, "base_dtype")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    json: bool = flag(False, "print the results as one JSON line on standard output")


@dataclass(frozen=True)
class RunDataFlags(ModelFlags):
    """And of those that look at rows of a data set."""

    data: str = flag(None, f"{DATA_HELP}; default: the run's")
    data_dir: str = flag(None, "where raw or prepared files are; default: the run's, then $LCFT_DATA, then data/cache")
    real_data: bool = flag(False, "refuse the simulated viewers that stand in when MovieLens cannot be had")
    book_zeros: str = flag(None, HELP["book_zeros"], choices=CHOICES["book_zeros"])
    amazon_liked: int = flag(None, HELP["amazon_liked"], choices=CHOICES["amazon_liked"])
    like_threshold: float = flag(None, HELP["like_threshold"])
    noun: str = flag(None, HELP["noun"])
    split_by: str = flag(None, HELP["split_by"], choices=CHOICES["split_by"])


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
