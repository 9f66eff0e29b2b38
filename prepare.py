"""Prepare a data set from its raw files, or look at one before spending time on it.

    python prepare.py movie --raw DIR --out DIR                  raw files to a folder that every --data takes
    python prepare.py book --raw DIR --out DIR --book-zeros drop --published
    python prepare.py custom --raw DIR --out DIR --like-threshold 4 --noun game
    python prepare.py show --data book --sample 3                three samples, then every split in figures
    python prepare.py show --data ml-1m --model DIR --max-len 300
    python prepare.py show --data path/to/mine --like-threshold 4 --plot mine.png

Data sets are also prepared when they are first used; what prepare.py writes can be kept and copied.
"""

import installed  # noqa: F401

import json
from dataclasses import dataclass, make_dataclass
from pathlib import Path

from cli.data import OPTIONS, DataFlags, data_problems, load_data, value_problems
from cli.flags import Resolved, fit, flag, parse_flags
from cli.verb import run_verb
from data.cache import prepare
from data.interactions import SPLITS, select_shots
from data.load import SOURCES
from data.prompts import RENAMED, TEMPLATES
from data.sources.base import Option, Source
from data.statistics import describe
from errors import FlagError, notice
from files import refuse_unwritable
from machine.bar import at_work
from report.data_table import draw_histograms, sample_text, statistics_table
from report.wrap import wrapped
from run.base import base_tokenizer

HELP = ("-h", "--help")


def main(argv: list[str]) -> None:
    """The first word says what to do: the name of a data set, or show."""
    choices = f"{', '.join(SOURCES)}, or show"
    if not argv:
        raise FlagError(f"say which data set to prepare: {choices} to look at one; --help explains")
    command, *rest = argv
    if command in HELP:
        print(overview())
    elif command == "show":
        show(rest)
    elif command in SOURCES:
        prepare_source(SOURCES[command], rest)
    elif command.startswith("-"):
        raise FlagError(f"{command}: the first word must say which data set: {choices}")
    else:
        raise FlagError(f"{command}: no such data set; choose one of {choices}")


def overview() -> str:
    """What --help prints."""
    about = {source.name: f"{source.summary}, from {source.raw_names}" for source in SOURCES.values()}
    about["show"] = "samples and figures of any data set; nothing is written but --plot"
    lines = [line for name, text in about.items() for line in (f"    {name}", *wrapped(f"        {text}"))]
    return "\n".join([fit(__doc__), "", *lines, "", "python prepare.py NAME --help lists the flags of each."])


# ---- preparing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrepareFlags:
    """Files."""

    raw: str = flag(None, "folder with the raw files", metavar="DIR")
    out: str = flag(None, "folder for the prepared files; then usable as --data DIR, or with --data-dir", metavar="DIR")
    published: bool = flag(False, "also write the splits in the form in which they are published")


def prepare_source(source: Source, argv: list[str]) -> None:
    """`prepare.py NAME`: write the prepared files of one data set."""
    # Help lists the options of this data set. Otherwise all are parsed, so that one of another is refused by name.
    asks_for_help = any(word in HELP for word in argv)
    options = source.options if asks_for_help else [option for _, option in OPTIONS]

    def check(flags: PrepareFlags, resolved: Resolved) -> None:
        problems = prepare_problems(source, flags, resolved)
        if problems:
            raise FlagError("\n".join(problems))
        refuse_unwritable(Path(flags.out), "--out", FlagError)

    description = f"Prepare {source.name}: {source.summary}, from {source.raw_names}."
    flags, resolved = parse_flags(flags_with(options), argv, description, check=check, command=source.name)
    with at_work(f"preparing {source.name}"):
        prepare(source, Path(flags.raw), Path(flags.out), resolved.values, flags.published, notice)


def flags_with(options: list[Option]) -> type:
    """PrepareFlags with a flag for each option."""
    extra = [(o.name, o.type, flag(o.default, o.help, choices=o.choices)) for o in options]
    about = {"__doc__": "Options of this data set."}
    return make_dataclass("PrepareSourceFlags", extra, bases=(PrepareFlags,), namespace=about, frozen=True)


def prepare_problems(source: Source, flags: PrepareFlags, resolved: Resolved) -> list[str]:
    """A line for every flag that is missing or has no effect on this data set."""
    problems = []
    if flags.raw is None:
        problems.append(f"--raw: say which folder has {source.raw_names}")
    if flags.out is None:
        problems.append("--out: say into which folder to write the prepared files")
    if flags.published and source.write_published is None:
        problems.append(f"--published: {source.name} has no published form; leave it out")
    for owner, option in OPTIONS:
        is_alias = any(option.name == own.alias for own in source.options)
        if owner is not source and not is_alias and resolved.sources[option.name] == "flag":
            name = option.name.replace("_", "-")
            problems.append(f"--{name}: has no effect on {source.name}, it is for {owner.name}; leave it out")
    return problems + value_problems(resolved)


# ---- looking ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShowFlags(DataFlags):
    """The flags of `prepare.py show`."""

    split: str = flag("train", "where the samples are from", choices=SPLITS)
    sample: int = flag(1, "samples to print", low=0)
    seed: int = flag(0, "draws the samples", low=0, high=2**32 - 1)
    template: str = flag(
        "tallrec",
        f"wording of the prompts: {', '.join(TEMPLATES)}",
        choices=TEMPLATES,
        renamed=RENAMED,
        metavar="NAME",
    )
    model: str = flag("demo", "whose tokenizer counts: a folder with a tokenizer, or demo", metavar="DIR")
    max_len: int = flag(512, "tokens; how many prompts are longer is counted", low=8)
    rows: int = flag(20_000, "rows of a split whose tokens are counted, at most", low=1)
    plot: str = flag(None, "picture file for the histograms: .png, .pdf or .svg", metavar="FILE")
    json: bool = flag(False, "print the figures as one JSON line on standard output, and nothing else there")


def check_show_flags(flags: ShowFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that has no effect or an impossible value."""
    problems = data_problems(flags.data, resolved)
    if flags.plot and not flags.plot.endswith((".png", ".pdf", ".svg")):
        problems.append(f"--plot {flags.plot}: choose a name that ends in .png, .pdf or .svg")
    if problems:
        raise FlagError("\n".join(problems))


def show(argv: list[str]) -> None:
    """`prepare.py show`: print samples and figures of a data set."""
    description = "Look at a data set: samples with both prompts, figures of every split, leaks."
    flags, _ = parse_flags(ShowFlags, argv, description, check=check_show_flags, command="show")
    tokenizer = base_tokenizer(flags.model)
    data = load_data(vars(flags))
    if flags.sample > (there := len(getattr(data, flags.split))):
        raise FlagError(f"--sample {flags.sample}: the {flags.split} split has {there:,} rows; choose 0 to {there}")
    rows = select_shots(getattr(data, flags.split), flags.sample, flags.seed) if flags.sample else []
    samples = sample_text(rows, data, tokenizer, flags.template, flags.split)
    figures = describe(data, tokenizer, flags.template, flags.max_len, flags.rows) | {"tokenizer": flags.model}
    if flags.json:
        print(json.dumps(figures))
    else:
        print(samples, statistics_table(figures), sep="\n\n")
    if flags.plot:
        draw_histograms(flags.plot, figures)
        notice(f"Histograms written to {flags.plot}")


if __name__ == "__main__":
    run_verb(main)
