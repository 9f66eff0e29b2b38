"""The flags that choose the data, the same for every verb; those of single data sets follow from SOURCES."""

from dataclasses import dataclass, make_dataclass

from cli.flags import Resolved, flag, flag_name, flag_of_run
from data.interactions import Dataset
from data.load import NAMES, OWN_DATA, SOURCES, as_flag, is_own_folder, load_dataset, settled_options
from data.titles import noun_problem
from errors import notice
from machine import ranks
from machine.bar import at_work
from model.demo import is_demo

DATA_HELP = (
    f"{', '.join(NAMES)}, demo, or a folder (your own CSV files, TALLRec's JSON, or prepared; see docs/own-data.md)"
)
REAL_DATA_HELP = "refuse the simulated viewers that stand in when MovieLens cannot be downloaded"
OPTIONS = [(source, option) for source in SOURCES.values() for option in source.options]


@dataclass(frozen=True)
class _WhichData:
    """Data."""

    data: str = flag("movie", DATA_HELP)
    data_dir: str = flag(
        None,
        "where raw or prepared files are, or are downloaded to; default $LCFT_DATA, then data/cache",
        metavar="DIR",
    )
    real_data: bool = flag(False, REAL_DATA_HELP)


@dataclass(frozen=True)
class _WhichDataOfRun:
    """Data."""

    data: str = flag_of_run(_WhichData, "data")
    data_dir: str = flag(
        None, "where raw or prepared files are; default: the run's, then $LCFT_DATA, then data/cache", metavar="DIR"
    )
    real_data: bool = flag(False, REAL_DATA_HELP)


DataFlags = make_dataclass(  # of a verb that takes a data set
    "DataFlags",
    [(o.name, o.type, flag(o.default, o.help, choices=o.choices)) for _, o in OPTIONS],
    bases=(_WhichData,),
    namespace={"__doc__": "Options of single data sets."},
    frozen=True,
)
DataOfRunFlags = make_dataclass(  # of a verb that takes a run; None: the run's value
    "DataOfRunFlags",
    [(o.name, o.type, flag(None, f"{o.help}; default: the run's", choices=o.choices)) for _, o in OPTIONS],
    bases=(_WhichDataOfRun,),
    namespace={"__doc__": "Options of single data sets."},
    frozen=True,
)


def data_problems(data: str | None, resolved: Resolved) -> list[str]:
    """A line for every flag about the data that has no effect with `--data data`; none if data is None (the run's)."""
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    if data is None:
        return []
    problems = []
    if "data_dir" in given and data not in NAMES:
        problems.append(f"--data-dir: has no effect with --data {data}; leave it out")
    for source, option in OPTIONS:
        own = source is OWN_DATA
        aliases = [other.name for other in SOURCES.values() if any(o.alias == option.name for o in other.options)]
        fits = (data not in (*NAMES, "demo") if own else data == source.name) or data in aliases
        if option.name in given and not fits:
            wanted = " and ".join(
                [
                    "a folder of your own data" if own else f"--data {source.name}",
                    *(f"--data {name}" for name in aliases),
                ]
            )
            problems.append(
                f"{flag_name(option.name)}: has no effect with --data {data}, it is for {wanted}; "
                + (f"for the folder {data} write --data ./{data}" if own and is_own_folder(data) else "leave it out")
            )
    problems = problems or _settled_problems(data, resolved, given)
    problems += value_problems(resolved)
    if data == "demo" and "real_data" in given:
        problems.append("--real-data: contradicts --data demo, which is simulated")
    return problems


def _settled_problems(data: str, resolved: Resolved, given: set[str]) -> list[str]:
    """A line for every option that was given and differs from what the data were prepared with."""
    options = {name for _, option in OPTIONS for name in (option.name, option.alias) if name in given}
    settled = settled_options(data, resolved.values["data_dir"]) if options else None
    if settled is None:
        return []
    what, values = settled
    of_alias = {option.alias: option.name for source, option in OPTIONS if option.alias and source.name == data}
    problems = []
    for name in sorted(options):
        there = values.get(of_alias.get(name, name))
        if resolved.values[name] != there:
            has = f" with {as_flag(of_alias.get(name, name), there)}" if values else ""
            problems.append(f"{flag_name(name)}: has no effect on {what}{has}; leave it out, or give the raw files")
    return problems


def value_problems(resolved: Resolved) -> list[str]:
    """A line for a noun that prompts cannot have, and for every option that was given another value by its alias."""
    noun = resolved.values["noun"]
    problem = noun_problem(noun) if resolved.sources["noun"] == "flag" else None
    return [f"--noun {noun!r}: {problem}"] * bool(problem) + [
        f"{flag_name(option.alias)}: contradicts {flag_name(option.name)}; leave one of them out"
        for _, option in OPTIONS
        if option.alias and {resolved.sources[name] for name in (option.name, option.alias)} == {"flag"}
        if resolved.values[option.name] != resolved.values[option.alias]
    ]


def load_data(settings: dict) -> Dataset:
    """The data set that the flags name; a real checkpoint is never trained or scored on stand-in data.

    settings: values of the flags by name, data, data_dir, real_data, model and all options among them.
    """
    real_data = settings["real_data"] or not is_demo(settings["model"])
    with at_work("loading the data"):
        return ranks.first_rank_first(load_dataset, settings["data"], settings["data_dir"], real_data, notice, settings)
