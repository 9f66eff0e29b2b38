"""The flags that say which data: shared by train.py, eval.py, audit.py and data/show.py."""

from dataclasses import dataclass

from cli.flags import Resolved, flag
from data.cache import CHOICES, HELP, Options
from data.interactions import Dataset
from data.load import NAMES, load_dataset
from errors import notice
from machine import ranks
from model.demo import is_demo

DATA_HELP = (
    f"{', '.join(NAMES)}, demo, or a folder (your own CSV files, TALLRec's JSON, or prepared; see docs/own-data.md)"
)
OPTION_OF = {"book_zeros": "book", "amazon_liked": "amazon-book"}  # the others are for own data
OPTIONS = tuple(Options.__dataclass_fields__)


@dataclass(frozen=True)
class DataFlags:
    """Which data, and what is made of them; data.cache.Options has the last five."""

    data: str = flag("movie", DATA_HELP)
    data_dir: str = flag(
        None, "where raw or prepared files are, or are downloaded to; default $LCFT_DATA, then data/cache"
    )
    real_data: bool = flag(False, "refuse the simulated viewers that stand in when MovieLens cannot be had")
    book_zeros: str = flag("dislike", HELP["book_zeros"], choices=CHOICES["book_zeros"])
    amazon_liked: int = flag(5, HELP["amazon_liked"], choices=CHOICES["amazon_liked"])
    like_threshold: float = flag(None, HELP["like_threshold"])
    noun: str = flag(None, HELP["noun"])
    split_by: str = flag("time", HELP["split_by"], choices=CHOICES["split_by"])


def data_problems(data: str | None, resolved: Resolved) -> list[str]:
    """A line for every flag about the data that has no effect with `--data data`; None: not said, so not known here."""
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    if data is None:
        return []
    problems = []
    if "data_dir" in given and data not in NAMES:
        problems.append(f"--data-dir: has no effect with --data {data}; leave it out")
    for name in OPTIONS:
        fits = data == OPTION_OF[name] if name in OPTION_OF else data not in (*NAMES, "demo")
        if name in given and not fits:
            wanted = f"--data {OPTION_OF[name]}" if name in OPTION_OF else "a folder of your own data"
            problems.append(
                f"--{name.replace('_', '-')}: has no effect with --data {data}, it is for {wanted}; leave it out"
            )
    if data == "demo" and "real_data" in given:
        problems.append("--real-data: contradicts --data demo, which is simulated")
    return problems


def data_options(values: dict) -> Options:
    """Those of the flags' values that decide what a data set is made of."""
    return Options(**{name: values[name] for name in OPTIONS})


def load_data(settings: dict) -> Dataset:
    """The data set that the values of the flags name; a real checkpoint is never trained or scored on the stand-in."""
    real_data = settings["real_data"] or not is_demo(settings["model"])
    return ranks.first_rank_first(
        lambda: load_dataset(settings["data"], settings["data_dir"], real_data, notice, data_options(settings))
    )
