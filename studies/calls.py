"""The calls of the verbs that make the runs of a study: program, flags, environment."""

import os
import sys
from pathlib import Path

from baselines.base import Method
from baselines.methods import METHODS
from studies.bench import TRAINED, Bench
from studies.lines import ANSWERS
from studies.results import BASE
from studies.study import BASELINE, EVAL, TRAIN, Run

VERBS = {name: Path(__file__).parent.parent / name for name in (TRAIN, BASELINE, EVAL)}
OTHER_BASES = "other-bases"  # folder of the answers before training that are not those of the table's untuned base


def call_of(name: str, run: Run, bench: Bench, resumed: bool = False) -> list[str]:
    """The command that makes a run, or goes on with it."""
    words = _words_to_ask(name, run, bench) if run.asks else _words_to_make(name, run, bench, resumed)
    return [sys.executable, str(VERBS[run.verb]), *words]


def environment(bench: Bench) -> dict[str, str]:
    """Of every call: each has its share of the cores."""
    return os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(bench.threads))


def _words_to_make(name: str, run: Run, bench: Bench, resumed: bool) -> list[str]:
    """The flags of a run that has a row of its own, or that one needs."""
    setting, words, seed = run.setting, ["--out", str(bench.out / name)], str(run.seed)
    if run.verb == TRAIN:
        words += ["--base-scores", str(bench.out / (BASE if setting.plain else OTHER_BASES))]
    if resumed:
        return [*words, "--resume"]
    words += bench.words[run.verb]
    if run.verb == BASELINE and isinstance(METHODS[setting.flags["method"]], Method):
        words += bench.words.get(TRAINED, ())
    words += ["--examples-seed", seed] if run.verb == EVAL else ["--shots", setting.shots, "--seed", seed]
    words += [word for flag, value in setting.flags.items() for word in (f"--{flag}", value) if word]
    for flag, need in setting.needs.items():
        words += [f"--{flag}", need.form.format(bench.out / need.setting.run_name(run.seed))]
    words += ["--bert", bench.bert] if setting.needs_bert else []
    if setting.trials and run.seed:
        return [*words, "--setting", str(bench.out / setting.run_name(0))]
    return words + (["--search", "--trials", str(setting.trials)] if setting.trials else [])


def _words_to_ask(name: str, run: Run, bench: Bench) -> list[str]:
    """Of eval.py --wordings."""
    folder = bench.out / name
    asked = [word for other in run.after for word in ("--run", str(bench.out / other))]
    return [
        *(*asked, *bench.words[EVAL], "--wordings"),
        *("--out", str(folder), "--predictions-out", str(folder / ANSWERS)),
    ]
