"""Run a declared study, and make its tables and its page.

    python reproduce.py few-shot --base demo --data demo             16, 64 and 256 shots: TALLRec, control, LCFT
    python reproduce.py laptop --base models/smollm2 --jobs 2        what a small real base shows, in a night or two
    python reproduce.py figure3 --base DIR --seeds 1 -- --lr 3e-4    the flags after -- go to every train.py
    python reproduce.py table1 --base DIR --data movie --bert DIR    Table 1 of the paper: recommenders, TALLRec, LCFT
    python reproduce.py table2 --base DIR --preset laptop            Table 2, as much as a laptop runs in a night
    python reproduce.py table2 --base DIR --part 1/4                 a quarter of its runs, for one of four machines
    python reproduce.py laptop --base DIR --table                    the tables of the runs that are there
    python reproduce.py all --base DIR --data-dir DIR                every item of the paper for the data that are there
    python reproduce.py case-study --data-dir DIR --model DIR        the two users of Table 3, looked up and asked
    python reproduce.py archive --out runs/laptop --to DIR           a finished study as one folder to pass on
    python reproduce.py verify --archive DIR --data-dir DIR          check every file and every figure of an archive

It says what it will run and how long that should take, runs what is missing, and keeps every run folder in --out. Stop
it at any time: the same command goes on. Markdown, CSV, LaTeX, a page and, for figure3, a picture are written to --out.
After a second -- stand flags of training for every baseline.py.
"""

import installed  # noqa: F401

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.data import load_data
from cli.flags import Resolved, fit, flag, flag_name, parse_flags
from cli.verb import run_verb
from data.interactions import Dataset
from data.load import NAMES
from docs import case_study
from errors import DataError, FlagError, RunError, UserError, notice, quoted
from files import refuse_unwritable, write_json, write_text
from model.demo import base_in_results
from run.base import existing_folder
from studies.archive import (
    LINES,
    STUDY,
    check_files,
    check_lines,
    check_runs,
    check_tables,
    make_archive,
    read_archive,
    read_study,
)
from studies.bench import Bench, known_lines
from studies.command import Command, case_study_words, items_of_all, read_command, without_table
from studies.declared import STUDIES
from studies.expected import expected
from studies.page import study_page
from studies.picture import draw_sweep
from studies.presets import CASE_STUDY
from studies.results import BASE, Line, read_lines, write_lines
from studies.runs import make_runs, missing_runs, wanted_runs
from studies.texts import outcome_of, shown, texts_of

HELP = ("-h", "--help")


@dataclass(frozen=True)
class ArchiveFlags:
    """Archive."""

    out: str = flag(None, "folder of the study, the --out of its command", metavar="DIR")
    to: str = flag(None, "the folder to make", metavar="DIR")


@dataclass(frozen=True)
class VerifyFlags:
    """Verify."""

    archive: str = flag(None, "folder that reproduce.py archive made", metavar="DIR")
    data_dir: str = flag(None, "folder with the raw or prepared data; default: as the study was called", metavar="DIR")


def main(argv: list[str]) -> None:
    """The first word says which study, or what to do with one."""
    names = ", ".join((*STUDIES, *MORE))
    if not argv:
        raise FlagError(f"reproduce.py: say which study: {names}; --help explains")
    name, *rest = argv
    if name in HELP:
        print(overview())
    elif name in MORE:
        MORE[name](rest)
    elif name in STUDIES:
        run_study(name, rest)
    elif name == "figure4":
        raise RunError("figure4: no source of this project says what it shows; docs/reproducing.md has what can be run")
    else:
        raise FlagError(f"reproduce.py {name}: no such study; choose one of {names}")


def run_study(name: str, words: list[str]) -> None:
    """Run what is missing of a study, and make its tables."""
    command = read_command(name, words)
    existing_folder(command.flags.base)
    carry_out(command, load_data(vars(command.flags) | {"model": command.flags.base}))


def carry_out(command: Command, data: Dataset) -> None:
    """Run what is missing of what was asked for, and make its tables."""
    flags, bench = command.flags, command.bench(data)
    if flags.plan:
        lines = known_lines(bench)
        missing = missing_runs(wanted_runs(command.study, bench), lines, bench)
        print("\n".join([*missing, expected(missing, lines, bench, first=True)]))
        return
    base = base_in_results(flags.base)
    bench.out.mkdir(parents=True, exist_ok=True)
    if bench.part:
        make_runs(command.study, bench)
        notice(f"part {flags.part} is done; once all are, --table in the place of --part makes the tables")
        return
    lines = known_lines(bench)  # before anything is written: lines that do not fit are refused
    called = {"study": command.name, "argv": without_table(command.words), "base": base}
    write_json(bench.out / STUDY, called | {"results": str(bench.results.absolute())})
    if not flags.table:
        lines = make_runs(command.study, bench)
    if lines.keys() != read_lines(bench.results).keys():
        write_lines(bench.results, lines)  # of all parts: an archive is made of this file
    write_outcome(command, bench, lines, data)


def write_outcome(command: Command, bench: Bench, lines: dict[str, Line], data: Dataset) -> None:
    """Write the tables, the page and the picture of a study, and show its table."""
    name, study = command.name, command.study
    outcome = outcome_of(name, study, lines, data, base_in_results(command.flags.base))
    texts = texts_of(outcome) | {f"{name}.html": study_page(outcome, bench.out, lines, command.words)}
    for file, text in texts.items():
        write_text(bench.out / file, text)
    pictures = [f"{name}.png"] * study.over_lambda
    if pictures:
        draw_sweep(bench.out / pictures[0], study, outcome.rows, outcome.constant, f"{outcome.heading}; 64 shots")
    print(shown(outcome))
    notice(f"\nWritten to {bench.out}: {', '.join([*texts, *pictures])}")


def run_all(words: list[str]) -> None:
    """Every item of the paper for the data that are there, one after the other; says in a line what is left out."""
    flags, items = items_of_all(words, run_all.__doc__)
    existing_folder(flags.base)
    failed, left_out = [], 0
    for name, data, own in items:
        what = f"{name}, {data}"
        try:
            if name == CASE_STUDY:
                more = case_study_words(flags)
            else:
                command = read_command(name, own)
                rows = load_data(vars(command.flags) | {"model": flags.base, "real_data": data != "demo"})
        except (DataError, FlagError) as error:
            notice(f"\n{what}: left out: {str(error).splitlines()[0]}")
            left_out += 1
            continue
        notice(f"\n{what}")
        try:
            if name != CASE_STUDY:
                carry_out(command, rows)
            elif not (flags.plan or flags.part):
                for call in more:
                    case_study.main(call)
        except UserError as error:
            failed.append(f"{what}: {error}")
    if left_out == len(items):
        failed.append("all: nothing of it can be run here; the lines above say why")
    if failed:
        raise RunError("\n".join(failed))


def archive_study(words: list[str]) -> None:
    """Make one folder of a study: its lines, runs and tables, and what they depend on."""
    flags, _ = parse_flags(
        ArchiveFlags, words, archive_study.__doc__, check=refuse_absent("out", "to"), command="archive"
    )
    refuse_unwritable(Path(flags.to), "--to", FlagError)
    if Path(flags.to).exists():
        raise FlagError(f"--to {flags.to}: already exists; name a folder that is not there yet")
    study = read_study(Path(flags.out), "--out")
    lines = read_lines(Path(study["results"]))
    missing = make_archive(Path(flags.out), Path(flags.to), lines)
    if missing:
        notice(f"{len(missing)} runs have a line and no folder in {flags.out}: only the line is in the archive")
    folders = len(lines.keys() - {BASE, *missing})  # the base's answers stand in its line alone
    notice(f"{flags.to}: {len(lines)} lines, {folders} run folders; without any user, item or label")


def verify_archive(words: list[str]) -> None:
    """Check the files of an archive, each run's figures against its answers, and that the tables come out again."""
    about = verify_archive.__doc__
    flags, _ = parse_flags(VerifyFlags, words, about, check=refuse_absent("archive"), command="verify")
    folder = Path(flags.archive)
    archive = read_archive(folder)
    name = archive["study"]
    if name not in STUDIES:
        raise RunError(f"{folder}: is of the study {quoted(name)}, which this version does not have")
    command = read_command(name, archive["argv"])
    if flags.data_dir and command.flags.data not in NAMES:
        raise FlagError(f"--data-dir: has no effect, since the archive is of --data {command.flags.data}; leave it out")
    data = load_data(
        vars(command.flags) | {"model": command.flags.base} | ({"data_dir": flags.data_dir} if flags.data_dir else {})
    )
    checks = check_files(folder, archive) + check_lines(folder, data) + check_runs(folder)
    if not any(check.problem for check in checks):
        outcome = outcome_of(name, command.study, read_lines(folder / LINES), data, archive["base"])
        checks += check_tables(folder, texts_of(outcome))
    wrong = [check for check in checks if check.problem]
    print("\n".join(f"{check.what}: {check.problem}" if check.problem else check.what for check in wrong or checks))
    if wrong:
        raise RunError(f"{folder}: {len(wrong)} of {len(checks)} checks failed")
    notice(f"{folder}: all {len(checks)} checks passed")


MORE = {"all": run_all, CASE_STUDY: case_study.main, "archive": archive_study, "verify": verify_archive}


def refuse_absent(*names: str) -> Callable[[object, Resolved], None]:
    """A check that these flags are given."""

    def check(flags: object, resolved: Resolved) -> None:
        if absent := [flag_name(name) for name in names if not getattr(flags, name)]:
            raise FlagError("\n".join(f"{name}: is needed; name the folder" for name in absent))

    return check


def overview() -> str:
    """What --help prints."""
    width = max(map(len, STUDIES))
    lines = [f"    {name:{width}}  {study.about}" for name, study in STUDIES.items()]
    return fit("\n".join([__doc__, *lines, "", "python reproduce.py STUDY --help lists the flags."]))


if __name__ == "__main__":
    run_verb(main)
