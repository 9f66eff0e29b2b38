"""What eval.py, predict.py and audit.py work on: a base alone, a base with an adapter, or a finished run."""

from dataclasses import dataclass
from pathlib import Path

from data.prepare import CHOICES, HELP, Options
from runtime import setup
from runtime.data_flags import DATA_HELP
from runtime.flags import Resolved, flag
from runtime.recorded import recorded_flags
from runtime.run_folder import read_config
from runtime.train_flags import TrainFlags

# Where neither a flag nor a run says.
FALLBACKS = {
    "model": "demo",
    "data": "movie",
    "data_dir": None,
    "real_data": False,
    **vars(Options()),
    "template": "paper",
    "max_len": 512,
    "precision": None,
    "base_dtype": "same",
}


@dataclass(frozen=True)
class SubjectFlags:
    """The flags that these verbs share."""

    run: str = flag(None, "folder that train.py wrote; its base, data and template are used unless a flag says otherwise")
    model: str = flag(None, "checkpoint folder, or demo; default: the run's")
    adapter: str = flag(None, "folder with an adapter in PEFT's layout, for --model without --run")
    template: str = flag(None, "wording of the prompts; default: the run's, or paper", choices=("paper", "released"))
    max_len: int = flag(None, "tokens; default: the run's, or 512", low=8)
    precision: str = flag(None, "of the base; default: the run's, or bf16", choices=tuple(setup.DTYPES))
    base_dtype: str = flag(None, "of the base's matrices, as for train.py; default: the run's, or same", choices=setup.BASE_DTYPES)
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    json: bool = flag(False, "print the results as one JSON line on standard output")


@dataclass(frozen=True)
class DataFlags(SubjectFlags):
    """And of those that look at rows of a data set."""

    data: str = flag(None, f"{DATA_HELP}; default: the run's")
    data_dir: str = flag(None, "where raw or prepared files are; default: the run's, then $LCFT_DATA, then data/cache")
    real_data: bool = flag(False, "refuse the simulated viewers that stand in when MovieLens cannot be had")
    book_zeros: str = flag(None, HELP["book_zeros"], choices=CHOICES["book_zeros"])
    amazon_liked: int = flag(None, HELP["amazon_liked"], choices=CHOICES["amazon_liked"])
    like_threshold: float = flag(None, HELP["like_threshold"])
    noun: str = flag(None, HELP["noun"])
    split_by: str = flag(None, HELP["split_by"], choices=CHOICES["split_by"])


def subject_problems(flags: SubjectFlags) -> list[str]:
    """A line for every one of the shared flags that is missing or contradicts another."""
    problems = []
    if not flags.run and not flags.model:
        problems.append("--run: say which run with --run DIR, or which base with --model DIR (or --model demo)")
    return problems + subject_contradictions(flags)


def subject_contradictions(flags: SubjectFlags) -> list[str]:
    """A line for every one of the shared flags that contradicts another."""
    if flags.run and flags.adapter:
        return ["--adapter: --run brings an adapter of its own; leave one of them out"]
    return []


def settings_of(flags: SubjectFlags, resolved: Resolved) -> tuple[dict, dict]:
    """(the value of every name in FALLBACKS, the run's config.json): flags first, then the run's own flags."""
    config = read_config(Path(flags.run)) if flags.run else {"flags": {}}
    trained = recorded_flags(TrainFlags, config, Path(flags.run or "") / "config.json")
    settings = {
        name: resolved.values[name] if resolved.sources.get(name) == "flag" else trained.get(name, fallback)
        for name, fallback in FALLBACKS.items()
    }
    if settings["precision"] is None:
        settings["precision"] = setup.demo_precision(flags.device) if setup.is_demo(settings["model"]) else "bf16"
    return settings, config


def load_subject(flags: SubjectFlags, settings: dict):
    """(model in evaluation mode, tokenizer), with the adapter of --run or --adapter if there is one."""
    model, tokenizer = setup.load_base(settings["model"], settings["precision"], setup.pick_device(flags.device), settings["base_dtype"])
    folder = flags.run or flags.adapter
    if folder:
        setup.put_adapter(model, Path(folder), setup.base_identity(settings["model"]))
    return model.eval(), tokenizer
