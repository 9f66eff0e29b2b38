"""A command of reproduce.py: its flags, which part of a study they ask for, and how the runs of it are made."""

import hashlib
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from baselines.title_vectors import describe_bert
from cli.baseline import BaselineFlags
from cli.data import DataFlags, data_problems
from cli.flags import Resolved, flag, flag_name, parse_flags
from cli.model import RunDataFlags
from cli.train import TrainFlags
from data.interactions import Dataset
from data.load import cache_folder
from data.own_wording import read_own_wording
from data.prompts import Wording, wording_of
from data.sources.movie import SOURCE as MOVIE
from errors import DataError, FlagError, quoted
from files import refuse_unwritable
from lora.adapter import WEIGHTS as WEIGHTS_OF_ADAPTER
from machine.device import threads_each
from run.base import base_identity
from run.wording import refuse_too_few
from studies.bench import TRAINED, Bench
from studies.declared import CONTRAST_WEIGHTS, KL_WEIGHTS, STUDIES
from studies.parts import read_part
from studies.presets import ALL, PRESETS
from studies.published import WEIGHTS
from studies.study import BASELINE, EVAL, MARK, TRAIN, Study

OF_THE_STUDY = (
    *("--out", "--seed", "--shots", "--model", "--data", "--data-dir", "--base-scores", "--resume", "--plan"),
    *("--setting", "--bert", "--search", "--trials", "--json"),
)
DEVICE, OUT_OF_ALL = "--device", "runs/all"


@dataclass(frozen=True)
class ReproduceFlags(DataFlags):
    """Study."""

    base: str = flag("demo", "checkpoint folder of the base, or demo", metavar="DIR")
    preset: str = flag(None, "; ".join(f"{name}: {one.about}" for name, one in PRESETS.items()), choices=tuple(PRESETS))
    shots: str = flag(None, "only the settings with these numbers of shots, such as 16,64")
    kl_weights: str = flag(None, "the lambdas of LCFT, such as 0,1e-4,1e-2; default: as the study declares")
    term_weights: str = flag(
        None, "lambdas of the terms in the place of the KL, such as js=0.1,margin=1; default: as the study declares"
    )
    seeds: int = flag(None, "seeds of each setting, from 0; default: as the study declares", low=1, high=1000)
    bert: str = flag(None, "folder of a BERT, for the recommenders that read titles with one", metavar="DIR")
    jobs: int = flag(1, "runs at a time; without OMP_NUM_THREADS each gets its share of the cores", low=1, high=1024)
    part: str = flag(
        None, "make only part I of N of the runs, with a file of results of its own; then --table", metavar="I/N"
    )
    out: str = flag(None, "folder for the run folders and tables; default runs/STUDY", metavar="DIR")
    results: str = flag(None, "file with a JSON line for each run; default results.jsonl in --out", metavar="FILE")
    table: bool = flag(False, "make the tables of the runs that are there, and run nothing")
    plan: bool = flag(False, "list the runs, say how long they should take, and stop")


@dataclass(frozen=True)
class Command:
    """What was asked for: the study or its part, and flags for single verbs, {verb: words}. words: as typed."""

    name: str
    words: tuple[str, ...]
    flags: ReproduceFlags
    resolved: Resolved
    study: Study
    passed: dict[str, list[str]]

    @property
    def passed_words(self) -> str:
        """The flags of --preset and after --, as one text: all runs of a results file have the same."""
        train, baseline = (shlex.join(without_device(self.passed[verb])) for verb in (TRAIN, BASELINE))
        return f"{train} {MARK} {baseline}" if baseline else train

    def data_words(self) -> list[str]:
        """The flags of the data that are not as by default, for every verb."""
        words = []
        for name in (f.name for f in fields(DataFlags)):
            if self.resolved.sources[name] != "default":
                value = getattr(self.flags, name)
                words += [flag_name(name)] if value is True else [flag_name(name), str(value)]
        return words

    def own_wording(self) -> str | None:
        """What --wordings-file of the flags for train.py holds. Raises DataError with a line for each of its faults."""
        flags, _ = parse_flags(TrainFlags, self.passed[TRAIN], "")
        return read_own_wording(Path(flags.wordings_file)) if flags.wordings_file else None

    def bench(self, data: Dataset) -> Bench:
        """Where and how; what is missing and files that cannot be written are refused now, and not after hours."""
        flags = self.flags
        out = Path(flags.out or f"runs/{self.name}")
        results = Path(flags.results) if flags.results else out / "results.jsonl"
        refuse_unwritable(out, "--out", FlagError)
        refuse_unwritable(results.parent, "--results", FlagError)
        if flags.bert:
            describe_bert(Path(flags.bert))
        common = {
            "data": data.fingerprint(),
            "base": base_identity(flags.base)["base_fingerprint"],
            "train_flags": self.passed_words,
        }
        of_data, base = tuple(self.data_words()), ("--model", flags.base)
        train, wording = self.passed[TRAIN], self.own_wording()
        refuse_too_few_questions(self.study, wording_of(wording or data.wording))
        common |= {"wording": hashlib.sha256(wording.encode()).hexdigest()} if wording else {}
        words = {
            TRAIN: (*train, *of_data, *base),
            EVAL: (*of_data, *base, *words_for_eval(train)),
            BASELINE: (*_chosen(train, DEVICE.__eq__), *of_data),
            TRAINED: tuple(self.passed[BASELINE]),
        }
        return Bench(
            out, results, common, words, flags.jobs, threads_each(flags.jobs), flags.bert, read_part(flags.part)
        )


def read_command(name: str, words: Sequence[str]) -> Command:
    """A command whose first word was `name`. Raises FlagError for what does not fit.

    After the first -- stand flags of train.py, after the second those of baseline.py.
    """
    study = STUDIES[name]
    marks = [place for place, word in enumerate(words) if word == MARK][:2]
    ends = [*marks, len(words), len(words)]
    own, train, baseline = words[: ends[0]], words[ends[0] + 1 : ends[1]], words[ends[1] + 1 :]

    def of_study(values: dict) -> dict:
        return {"data": (study.data[0], "study")} if study.data[0] != values["data"] else {}

    flags, resolved = parse_flags(ReproduceFlags, list(own), study.about, of_study, check_flags, name)
    study, given = part_of(study, flags), {TRAIN: list(train), BASELINE: list(baseline)}
    refuse_declared(study, given)
    parse_flags(BaselineFlags, list(baseline), "")  # an unknown flag is refused now, and not by the first run
    of_preset = PRESETS[flags.preset].passed.get(flags.data, {}) if flags.preset else {}
    passed = {verb: _merged(of_preset.get(verb, ()), words) for verb, words in given.items()}
    return Command(name, tuple(words), flags, resolved, study, passed)


def items_of_all(words: Sequence[str], about: str) -> tuple[ReproduceFlags, list[tuple[str, str, list[str]]]]:
    """(flags, [(item, data set, words of its command)]) of `reproduce.py all`, in the order of presets.ALL.

    Items of the same data share a file of results, so that a run that two of them have is made once. --data chooses the
    items of one data set; one that the paper does not have gets them all. Raises FlagError for what does not fit.
    """
    mark = words.index(MARK) if MARK in words else len(words)
    flags, resolved = parse_flags(ReproduceFlags, list(words[:mark]), about, check=check_flags, command="all")
    if flags.results:
        raise FlagError("--results: all has a file for each data set, in --out; leave it out")
    own = []
    for name, source in resolved.sources.items():
        if source == "flag" and name not in ("data", "out", "shots", "term_weights"):
            value = getattr(flags, name)
            own += [flag_name(name)] if value is True else [flag_name(name), str(value)]
    given = flags.data if resolved.sources["data"] == "flag" else None
    known = {name for study in STUDIES.values() for name in study.data}
    out, items = Path(flags.out or OUT_OF_ALL), []
    for item in ALL:
        of_item = STUDIES[item].data if item in STUDIES else (MOVIE.name,)
        for data in of_item if given is None else [given] if given in of_item or given not in known else []:
            places = ["--out", str(out / f"{item}-{data}"), "--results", str(out / f"{data}.jsonl")]
            of_study = [*_shots_of(item, flags.shots), *_term_weights_of(item, flags.term_weights)]
            items.append((item, data, ["--data", data, *places, *of_study, *own, *words[mark:]]))
    return flags, items


def _shots_of(item: str, shots: str | None) -> list[str]:
    """--shots for an item of `all`: those of the numbers that it has; all that were given if it has none of them."""
    there = {setting.shots for setting in STUDIES[item].settings} if item in STUDIES else set()
    wanted = [] if shots is None else shots.split(",")
    return ["--shots", ",".join([one for one in wanted if one in there] or wanted)] if wanted else []


def _term_weights_of(item: str, weights: str | None) -> list[str]:
    """--term-weights for an item of `all` that has such terms."""
    return ["--term-weights", weights] if weights is not None and item in STUDIES and _terms_of(STUDIES[item]) else []


def case_study_words(flags: ReproduceFlags) -> list[list[str]]:
    """The words of each call of docs/case_study.py: of the base, and of table1's runs with 64 shots and seed 0.

    Raises DataError if MovieLens-100K is not there.
    """
    root = Path(flags.data_dir) if flags.data_dir else cache_folder()
    folder = next((f for f in (root, *(root / sub for sub in MOVIE.folders)) if MOVIE.raw_files(f)), None)
    if folder is None:
        raise DataError(f"{root}: has no raw MovieLens-100K, whose ratings the case study looks up")
    runs = Path(flags.out or OUT_OF_ALL) / f"table1-{MOVIE.name}"
    trained = sorted(path.parent for path in runs.glob(f"shots=64-*-seed=0/{WEIGHTS_OF_ADAPTER}"))
    named = [["--model", flags.base], *(["--run", str(path)] for path in trained)]
    return [["--data-dir", str(folder), *words] for words in named]


def check_flags(flags: ReproduceFlags, resolved: Resolved) -> None:
    """Raises FlagError for flags that have no effect, or contradict each other."""
    problems = data_problems(flags.data, resolved)
    if flags.table and flags.plan:
        problems.append("--plan: contradicts --table; leave one of them out")
    if flags.part and flags.table:
        problems.append("--part: the tables are of all parts; leave it out with --table")
    if flags.preset and flags.data not in PRESETS[flags.preset].seeds:
        known = ", ".join(PRESETS[flags.preset].seeds)
        problems.append(f"--preset {flags.preset}: says nothing of --data {flags.data}, but of {known}; leave it out")
    if problems:
        raise FlagError("\n".join(problems))
    read_part(flags.part)


def part_of(study: Study, flags: ReproduceFlags) -> Study:
    """The settings that --preset, --shots, --kl-weights and --seeds ask for, with the flags of the data set.

    Raises FlagError for what the study does not have.
    """
    preset = PRESETS[flags.preset] if flags.preset else None
    if flags.kl_weights is not None:
        study = study.with_kl_weights(_kl_weights(flags.kl_weights, study))
    elif study.lambda_of_data and flags.data in WEIGHTS:
        study = study.with_kl_weights([WEIGHTS[flags.data]])
    study = study.with_term_weights(_term_weights(flags.term_weights, study))
    settings = study.for_data(flags.data).settings
    there = list(dict.fromkeys(setting.shots for setting in settings))
    wanted = there if flags.shots is None else flags.shots.split(",")
    if unknown := set(wanted) - set(there):
        names = ", ".join(there), ", ".join(one or "an empty one" for one in sorted(unknown))
        raise FlagError(f"--shots {flags.shots}: this study has {names[0]}, and not {names[1]}")
    if preset and not flags.shots:
        wanted = [shots for shots in there if shots in preset.shots] or there
    chosen = [setting for setting in settings if setting.shots in wanted]
    if flags.seeds:
        chosen = [replace(one, seeds=flags.seeds) if one.seeded else one for one in chosen]
    elif preset:
        chosen = [replace(one, seeds=min(one.seeds, preset.seeds[flags.data])) for one in chosen]
    return replace(study, settings=tuple(chosen))


def _kl_weights(text: str, study: Study) -> list[str]:
    """The lambdas of --kl-weights. Raises FlagError, also for a study without one."""
    if not any(setting.has_lambda for setting in study.settings):
        raise FlagError("--kl-weights: this study has no row of LCFT; leave it out")
    weights = [_as_declared(weight) for weight in text.split(",")]
    wrong = [word for word, weight in zip(text.split(","), weights) if weight is None]
    if wrong:
        raise FlagError(f"--kl-weights {text}: {quoted(wrong[0])} is not a number from 0; name some, such as 0,1e-4")
    if twice := next((weight for weight in weights if weights.count(weight) > 1), None):
        raise FlagError(f"--kl-weights {text}: names {twice} twice; keep one of them")
    return weights


def _term_weights(text: str | None, study: Study) -> dict[str, str]:
    """{objective: its weight} of --term-weights. Raises FlagError, also for one that the study does not have."""
    known = _terms_of(study)
    if text is not None and not known:
        raise FlagError("--term-weights: this study has no term in the place of the KL; leave it out")
    weights = {}
    for part in [] if text is None else text.split(","):
        name, _, word = part.partition("=")
        if name not in known or (weight := _as_declared(word)) is None:
            raise FlagError(f"--term-weights {part}: expected NAME=NUMBER, with a name of {', '.join(known)}")
        if name in weights:
            raise FlagError(f"--term-weights {text}: names {name} twice; keep one of them")
        weights[name] = weight
    return weights


def _terms_of(study: Study) -> list[str]:
    """The objectives of a study that have a term in the place of the KL."""
    found = (setting.flags.get("objective") for setting in study.settings)
    return list(dict.fromkeys(name for name in found if name in CONTRAST_WEIGHTS))


def _as_declared(word: str) -> str | None:
    """A weight as the studies write it, so that a run has one name; None if it is no number from 0."""
    try:
        value = float(word)
    except ValueError:
        return None
    known = [*KL_WEIGHTS, *(weight for tried in CONTRAST_WEIGHTS.values() for weight in tried)]
    same = (weight for weight in known if float(weight) == value)
    return next(same, f"{value:g}") if 0 <= value < math.inf else None


def refuse_declared(study: Study, passed: dict[str, list[str]]) -> None:
    """Raises FlagError if a flag after -- is one that the study sets itself. passed: {verb: words}."""
    for verb, words in passed.items():
        settings = [setting for setting in study.settings if setting.verb == verb]
        own = {*OF_THE_STUDY, *(f"--{name}" for one in settings for name in (*one.flags, *one.needs))}
        if taken := next((word for word in words if word.split("=")[0] in own), None):
            raise FlagError(f"{taken}: is set by the study; leave it out after --")


def refuse_too_few_questions(study: Study, wording: Wording) -> None:
    """Raises FlagError if a setting trains on more questions than the wording has: now, and not after other runs."""
    most = (
        max((int(setting.flags.get(f"train-{name}", 1)) for setting in study.settings), default=1)
        for name in ("paraphrases", "negatives")
    )
    advice = "name a file with more after --, such as --wordings-file docs/wordings-double-negation.json"
    refuse_too_few(wording.questions, *most, advice)


def _merged(of_preset: Sequence[str], given: Sequence[str]) -> list[str]:
    """The flags of a preset but for those that are given, then these."""
    names = {word.split("=")[0] for word in given if word.startswith("--")}
    return [*_chosen(of_preset, lambda name: name not in names), *given]


def without_table(words: Sequence[str]) -> list[str]:
    """The command that makes the runs of a table: --table left out, which makes none."""
    end = list(words).index(MARK) if MARK in words else len(words)
    return [word for word in words[:end] if word != "--table"] + list(words[end:])


def without_device(words: Sequence[str]) -> list[str]:
    """The flags without --device: runs on other devices belong to the same study."""
    return _chosen(words, DEVICE.__ne__)


def words_for_eval(train: Sequence[str]) -> list[str]:
    """Those of the flags for train.py that say how and on which rows a model is asked, as eval.py calls them."""
    _, resolved = parse_flags(TrainFlags, list(train), "")
    shared, words = {f.name for f in fields(RunDataFlags)} - {"json"} | {"drop_long", "test_rows"}, []
    for name in (name for name, source in resolved.sources.items() if source == "flag" and name in shared):
        value, word = resolved.values[name], "--rows" if name == "test_rows" else flag_name(name)
        words += [word] if value is True else [word, str(value)]
    return words


def _chosen(words: Sequence[str], wanted: Callable[[str], bool]) -> list[str]:
    """The flags whose name is wanted, each with its values."""
    chosen, taken = [], False
    for word in words:
        taken = wanted(word.split("=")[0]) if word.startswith(MARK) else taken
        chosen += [word] if taken else []
    return chosen
