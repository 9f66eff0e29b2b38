"""Run a declared study, and make its tables.

    python reproduce.py few-shot --base demo --data demo             16, 64 and 256 shots: TALLRec, control, LCFT
    python reproduce.py laptop --base models/smollm2 --jobs 2        what a small real base shows, in a night or two
    python reproduce.py figure3 --base DIR --seeds 1 -- --lr 3e-4    the flags after -- go to every train.py
    python reproduce.py table1 --base DIR --data movie --bert DIR    Table 1 of the paper: recommenders, TALLRec, LCFT
    python reproduce.py laptop --base DIR --table                    the tables of the runs that are there

It says what it will run and how long that should take, runs what is missing, and keeps every run folder in --out. Stop
it at any time: the same command goes on. Markdown, CSV and, for figure3, a picture are written to --out.
"""

import installed  # noqa: F401

import os
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path

from baselines.title_vectors import describe_bert
from cli.data import DataFlags, data_problems, load_data
from cli.flags import Resolved, fit, flag, flag_name, parse_flags
from cli.verb import run_verb
from data.interactions import Dataset
from errors import FlagError, notice
from files import refuse_unwritable, write_text
from model.demo import base_in_results
from report.tables import provenance
from report.wrap import wrapped
from run.base import base_identity, existing_folder
from studies.declared import BASELINE, STUDIES, TRAIN, Study
from studies.picture import draw_sweep
from studies.results import Line
from studies.runs import Bench, expected, known_lines, make_runs, wanted_runs
from studies.tables import as_csv, differences, markdown, measured_rows, rows_scored, rows_without_learning, terminal

HELP = ("-h", "--help")


@dataclass(frozen=True)
class ReproduceFlags(DataFlags):
    """Study."""

    base: str = flag("demo", "checkpoint folder of the base, or demo", metavar="DIR")
    shots: str = flag(None, "only the settings with these numbers of shots, such as 16,64")
    kl_weights: str = flag(None, "the lambdas of LCFT, such as 0,1e-4,1e-2; default: as the study declares")
    seeds: int = flag(None, "seeds of each setting, from 0; default: as the study declares", low=1, high=1000)
    bert: str = flag(None, "folder of a BERT, for the recommenders that read titles with one", metavar="DIR")
    jobs: int = flag(1, "runs at a time; the cores are divided among them", low=1, high=1024)
    out: str = flag(None, "folder for the run folders and tables; default runs/STUDY", metavar="DIR")
    results: str = flag(None, "file with a JSON line for each run; default results.jsonl in --out", metavar="FILE")
    table: bool = flag(False, "make the tables of the runs that are there, and run nothing")
    plan: bool = flag(False, "list the runs, say how long they should take, and stop")


def main(argv: list[str]) -> None:
    """The first word says which study."""
    names = ", ".join(STUDIES)
    if not argv:
        raise FlagError(f"reproduce.py: say which study: {names}; --help explains")
    name, *rest = argv
    if name in HELP:
        print(overview())
        return
    if name not in STUDIES:
        raise FlagError(f"reproduce.py {name}: no such study; choose one of {names}")
    own, train_flags = (rest[: rest.index("--")], rest[rest.index("--") + 1 :]) if "--" in rest else (rest, [])
    flags, resolved = parse_flags(ReproduceFlags, own, STUDIES[name].about, check=check_flags, command=name)
    study = part_of(STUDIES[name], flags)
    refuse_declared(study, train_flags)
    existing_folder(flags.base)
    data = load_data(vars(flags) | {"model": flags.base})
    bench = make_bench(name, flags, train_flags, data_words(flags, resolved), data)
    if flags.plan:
        lines = known_lines(bench)
        missing = {run: one for run, one in wanted_runs(study, bench).items() if run not in lines}
        print("\n".join([*missing, expected(list(missing.values()), lines, bench.jobs)]))
        return
    lines = known_lines(bench) if flags.table else make_runs(study, bench)
    write_tables(name, study, bench.out, lines, data, flags)


def overview() -> str:
    """What --help prints."""
    width = max(map(len, STUDIES))
    lines = [f"    {name:{width}}  {study.about}" for name, study in STUDIES.items()]
    return fit("\n".join([__doc__, *lines, "", "python reproduce.py STUDY --help lists the flags."]))


def check_flags(flags: ReproduceFlags, resolved: Resolved) -> None:
    """Raises FlagError for flags that have no effect, or contradict each other."""
    problems = data_problems(flags.data, resolved)
    if flags.table and flags.plan:
        problems.append("--plan: contradicts --table; leave one of them out")
    if problems:
        raise FlagError("\n".join(problems))


def part_of(study: Study, flags: ReproduceFlags) -> Study:
    """The settings that --shots, --kl-weights and --seeds ask for."""
    if flags.kl_weights:
        study = study.with_kl_weights(flags.kl_weights.split(","))
    wanted = flags.shots.split(",") if flags.shots else [setting.shots for setting in study.settings]
    settings = tuple(setting for setting in study.settings if setting.shots in wanted)
    if unknown := set(wanted) - {setting.shots for setting in settings}:
        there = ", ".join(dict.fromkeys(setting.shots for setting in study.settings))
        raise FlagError(f"--shots {flags.shots}: this study has {there}, and not {', '.join(sorted(unknown))}")
    if flags.seeds:
        settings = tuple(replace(setting, seeds=flags.seeds) for setting in settings)
    return replace(study, settings=settings)


def refuse_declared(study: Study, train_flags: list[str]) -> None:
    """Raises FlagError if a flag for train.py is one that the study sets itself."""
    own = {"--out", "--seed", "--shots", "--model", "--data", "--data-dir", "--base-scores", "--resume", "--plan"}
    own |= {f"--{name}" for setting in study.settings for name in setting.flags}
    if taken := next((word for word in train_flags if word.split("=")[0] in own), None):
        raise FlagError(f"{taken}: is set by the study; leave it out after --")


def data_words(flags: ReproduceFlags, resolved: Resolved) -> list[str]:
    """The flags of the data that were given, for every verb."""
    words = []
    for name in (f.name for f in fields(DataFlags)):
        if resolved.sources[name] == "flag":
            value = getattr(flags, name)
            words += [flag_name(name)] if value is True else [flag_name(name), str(value)]
    return words


def make_bench(name: str, flags: ReproduceFlags, train_flags: list[str], data_words: list[str], data: Dataset) -> Bench:
    """Where and how; what is missing and files that cannot be written are refused now, and not after hours."""
    out = Path(flags.out or f"runs/{name}")
    results = Path(flags.results) if flags.results else out / "results.jsonl"
    refuse_unwritable(out, "--out", FlagError)
    refuse_unwritable(results.parent, "--results", FlagError)
    if flags.bert:
        describe_bert(Path(flags.bert))
    common = {
        "data": data.fingerprint(),
        "base": base_identity(flags.base)["base_fingerprint"],
        "train_flags": shlex.join(train_flags),
    }
    words = {TRAIN: (*train_flags, *data_words, "--model", flags.base), BASELINE: tuple(data_words)}
    threads = max(1, (os.cpu_count() or 1) // flags.jobs)
    return Bench(out, results, common, words, flags.jobs, threads, flags.bert)


def write_tables(
    name: str, study: Study, out: Path, lines: dict[str, Line], data: Dataset, flags: ReproduceFlags
) -> None:
    """Print the table; write Markdown, CSV and the picture."""
    heading = provenance({"data": data.name, "data_source": data.source, **base_in_results(flags.base)})
    scored = rows_scored(lines, data)
    rows, unlearned = measured_rows(study, lines, data), rows_without_learning(data.train, scored)
    split = "test split" if len(scored) == len(data.test) else f"{len(scored):,} of {len(data.test):,} test rows"
    changes = differences(study, lines, data)
    note = (
        "Mean over the runs ± standard deviation (n - 1) [95 % interval of the mean, from resampling the users]. "
        "Not run: no run of this row is there."
    )
    berts = sorted({line.about["bert"] for line in lines.values() if line.about.get("bert")})
    note += "".join(f" Titles were read by a {bert}." for bert in berts)
    if any(row.published for row in rows):
        note += " Published figures are one run each; those of language models are of a base with 7B parameters."
    parts = [f"{heading}; {split}\n", markdown(rows, unlearned), f"\n{note}\n", markdown(changes, [], "+"), ""]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{name}.md", "\n".join(parts))
    write_text(out / f"{name}.csv", as_csv([*rows, *changes]))
    if study.over_lambda:
        constant = max(rule.get("group_accuracy", 0.0) for rule in unlearned)
        draw_sweep(out / f"{name}.png", study, rows, constant, f"{heading}; 64 shots")
    print("\n".join([*wrapped(f"{heading}; {split}; mean ± standard deviation over the runs"), ""]))
    print(terminal(rows, unlearned))
    notice(f"\nWritten to {out}: {name}.md, {name}.csv" + (f", {name}.png" if study.over_lambda else ""))


if __name__ == "__main__":
    run_verb(main)
