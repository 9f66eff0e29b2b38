"""Run a declared study, and make its tables.

    python reproduce.py few-shot --base demo --data demo             16, 64 and 256 shots: TALLRec, control, LCFT
    python reproduce.py laptop --base models/smollm2 --jobs 2        what a small real base shows, in a night or two
    python reproduce.py figure3 --base DIR --seeds 1 -- --lr 3e-4    the flags after -- go to every train.py
    python reproduce.py table1 --base DIR --data movie --bert DIR    Table 1 of the paper: recommenders, TALLRec, LCFT
    python reproduce.py laptop --base DIR --table                    the tables of the runs that are there
    python reproduce.py archive --out runs/laptop --to DIR           a finished study as one folder to pass on
    python reproduce.py verify --archive DIR --data-dir DIR          check every file and every figure of an archive

It says what it will run and how long that should take, runs what is missing, and keeps every run folder in --out. Stop
it at any time: the same command goes on. Markdown, CSV, LaTeX and, for figure3, a picture are written to --out.
"""

import installed  # noqa: F401

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from baselines.title_vectors import describe_bert
from cli.data import DataFlags, data_problems, load_data
from cli.flags import Resolved, fit, flag, flag_name, parse_flags
from cli.model import RunDataFlags
from cli.train import TrainFlags
from cli.verb import run_verb
from data.interactions import Dataset
from errors import FlagError, RunError, notice, quoted
from files import refuse_unwritable, write_json, write_text
from model.demo import base_in_results
from report.tables import provenance
from report.wrap import wrapped
from run.base import base_identity, existing_folder
from studies.archive import (
    LINES,
    STUDY,
    check_files,
    check_lines,
    check_tables,
    make_archive,
    read_archive,
    read_study,
)
from studies.declared import BASELINE, EVAL, STUDIES, TRAIN, Study
from studies.picture import draw_sweep
from studies.results import Line, read_lines
from studies.runs import Bench, expected, known_lines, make_runs, missing_runs, wanted_runs
from studies.tables import (
    as_csv,
    as_latex,
    differences,
    markdown,
    measured_rows,
    rows_scored,
    rows_without_learning,
    terminal,
)
from studies.wordings import wording_texts

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
    else:
        raise FlagError(f"reproduce.py {name}: no such study; choose one of {names}")


def read_words(name: str, words: list[str]) -> tuple[ReproduceFlags, Resolved, Study, list[str]]:
    """(flags, resolved, the study or its part, the flags after -- for train.py) of a command."""
    own, train_flags = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    flags, resolved = parse_flags(ReproduceFlags, own, STUDIES[name].about, check=check_flags, command=name)
    study = part_of(STUDIES[name], flags)
    refuse_declared(study, train_flags)
    return flags, resolved, study, train_flags


def run_study(name: str, words: list[str]) -> None:
    """Run what is missing of a study, and make its tables."""
    flags, resolved, study, train_flags = read_words(name, words)
    existing_folder(flags.base)
    data = load_data(vars(flags) | {"model": flags.base})
    bench = make_bench(name, flags, train_flags, data_words(flags, resolved), data)
    if flags.plan:
        lines = known_lines(bench)
        missing = missing_runs(wanted_runs(study, bench), lines, bench)
        print("\n".join([*missing, expected(list(missing.values()), lines, bench.jobs)]))
        return
    base = base_in_results(flags.base)
    bench.out.mkdir(parents=True, exist_ok=True)
    called = {"study": name, "argv": words, "base": base, "results": str(bench.results.absolute())}
    write_json(bench.out / STUDY, called)
    lines = known_lines(bench) if flags.table else make_runs(study, bench)
    texts, shown = texts_of(name, study, lines, data, base)
    for file, text in texts.items():
        write_text(bench.out / file, text)
    pictures = [f"{name}.png"] * study.over_lambda
    if pictures:
        rows, unlearned = measured_rows(study, lines, data), rows_without_learning(data.train, rows_scored(lines, data))
        constant = max(rule.get("group_accuracy", 0.0) for rule in unlearned)
        draw_sweep(bench.out / pictures[0], study, rows, constant, f"{heading_of(data, base)}; 64 shots")
    print(shown)
    notice(f"\nWritten to {bench.out}: {', '.join([*texts, *pictures])}")


def archive_study(words: list[str]) -> None:
    """Make one folder of a study and what it depends on."""
    flags, _ = parse_flags(
        ArchiveFlags, words, make_archive.__doc__, check=refuse_absent("out", "to"), command="archive"
    )
    refuse_unwritable(Path(flags.to), "--to", FlagError)
    study = read_study(Path(flags.out), "--out")
    lines = read_lines(Path(study["results"]))
    missing = make_archive(Path(flags.out), Path(flags.to), lines)
    if missing:
        notice(f"{len(missing)} runs have a line and no folder in {flags.out}: only the line is in the archive")
    notice(f"{flags.to}: {len(lines)} lines, {len(lines) - len(missing)} run folders; without any user, item or label")


def verify_archive(words: list[str]) -> None:
    """Check the files of an archive, each run's figures against its answers, and that the tables come out again."""
    about = verify_archive.__doc__
    flags, _ = parse_flags(VerifyFlags, words, about, check=refuse_absent("archive"), command="verify")
    folder = Path(flags.archive)
    archive = read_archive(folder)
    name = archive["study"]
    if name not in STUDIES:
        raise RunError(f"{folder}: is of the study {quoted(name)}, which this version does not have")
    of_study, _, study, _ = read_words(name, archive["argv"])
    data = load_data(
        vars(of_study) | {"model": of_study.base} | ({"data_dir": flags.data_dir} if flags.data_dir else {})
    )
    checks = check_files(folder, archive) + check_lines(folder, data)
    if not any(check.problem for check in checks):
        texts, _ = texts_of(name, study, read_lines(folder / LINES), data, archive["base"])
        checks += check_tables(folder, texts)
    wrong = [check for check in checks if check.problem]
    print("\n".join(f"{check.what}: {check.problem}" if check.problem else check.what for check in wrong or checks))
    if wrong:
        raise RunError(f"{folder}: {len(wrong)} of {len(checks)} checks failed")
    notice(f"{folder}: all {len(checks)} checks passed")


MORE = {"archive": archive_study, "verify": verify_archive}


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
        "train_flags": shlex.join(without_device(train_flags)),
    }
    of_language_model = (*data_words, "--model", flags.base)
    words = {
        TRAIN: (*train_flags, *of_language_model),
        BASELINE: tuple(data_words),
        EVAL: (*of_language_model, *words_for_eval(train_flags)),
    }
    threads = max(1, (os.cpu_count() or 1) // flags.jobs)
    return Bench(out, results, common, words, flags.jobs, threads, flags.bert)


def without_device(train_flags: list[str]) -> list[str]:
    """The flags without --device: runs on other devices belong to the same study."""
    before = ["", *train_flags]
    return [
        word
        for previous, word in zip(before, train_flags)
        if previous != "--device" and word.split("=")[0] != "--device"
    ]


def words_for_eval(train_flags: list[str]) -> list[str]:
    """Those of the flags for train.py that say how and on which rows a model is asked, as eval.py calls them."""
    _, resolved = parse_flags(TrainFlags, train_flags, "")
    shared, words = {field.name for field in fields(RunDataFlags)} - {"json"} | {"drop_long", "test_rows"}, []
    for name in (name for name, source in resolved.sources.items() if source == "flag" and name in shared):
        value, word = resolved.values[name], "--rows" if name == "test_rows" else flag_name(name)
        words += [word] if value is True else [word, str(value)]
    return words


def heading_of(data: Dataset, base: dict) -> str:
    """Which data and which base, in words. base: what base_in_results gave."""
    return provenance({"data": data.name, "data_source": data.source, **base})


def texts_of(name: str, study: Study, lines: dict[str, Line], data: Dataset, base: dict) -> tuple[dict[str, str], str]:
    """({file: content} of the tables, the table for a terminal). base: what base_in_results gave."""
    heading, scored = heading_of(data, base), rows_scored(lines, data)
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
    texts = {
        f"{name}.md": "\n".join(parts),
        f"{name}.csv": as_csv([*rows, *changes]),
        f"{name}.tex": f"% {heading}; {split}\n{as_latex(rows, unlearned)}",
    }
    shown = [*wrapped(f"{heading}; {split}; mean ± standard deviation over the runs"), "", terminal(rows, unlearned)]
    if study.wordings:
        more, table = wording_texts(name, study, lines, data, f"{heading}; {split}")
        texts, shown = texts | more, [*shown, "", table]
    return texts, "\n".join(shown)


if __name__ == "__main__":
    run_verb(main)
