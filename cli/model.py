"""What eval.py, predict.py and audit.py work on: a base alone, a base with an adapter, or a finished run."""

from dataclasses import dataclass

from cli.data import DataOfRunFlags
from cli.flags import flag
from data.prompts import TEMPLATES
from machine.device import BASE_DTYPES, DTYPES


@dataclass(frozen=True)
class ModelFlags:
    """The flags that these verbs share."""

    run: str = flag(
        None, "folder that train.py wrote; its base, data and template are used unless a flag says otherwise"
    )
    model: str = flag(None, "checkpoint folder, or demo; default: the run's")
    adapter: str = flag(None, "folder with an adapter in PEFT's layout, for --model without --run")
    template: str = flag(None, "wording of the prompts; default: the run's, or paper", choices=TEMPLATES)
    max_len: int = flag(None, "tokens; default: the run's, or 512", low=8)
    precision: str = flag(None, "of the base; default: the run's, or bf16", choices=tuple(DTYPES))
    base_dtype: str = flag(
        None, "of the base's matrices, as for train.py; default: the run's, or same", choices=BASE_DTYPES
    )
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    json: bool = flag(False, "print the results as one JSON line on standard output")


@dataclass(frozen=True)
class RunDataFlags(DataOfRunFlags, ModelFlags):
    """And of those that look at rows of a data set."""


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
