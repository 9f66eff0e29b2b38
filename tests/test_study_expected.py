"""How long a study should take: from the runs that are there, and from the plan of the first."""

from pathlib import Path

import numpy as np
import pytest

from studies import calls
from studies.bench import Bench
from studies.expected import expected
from studies.results import Line
from studies.study import BASELINE, TRAIN, Run, Setting

CONTROL = Setting("control", "64", 2, {"kl-weight": "0"})
STUB = """
import json
from pathlib import Path
print(json.dumps({"run_s": 120}))
raise SystemExit("no plan" if (Path(__file__).parent / "no-plan").exists() else 0)
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A Bench with two processes, whose train.py says that a run takes 120 s."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setitem(calls.VERBS, TRAIN, stub)
    return Bench(tmp_path / "out", tmp_path / "results.jsonl", {}, {TRAIN: ("--model", "m")}, 2, 3)


def test_the_expected_time_is_the_median_of_the_runs_that_are_there(bench):
    lines = {str(i): Line(str(i), {"seconds": s}, np.zeros(1), np.zeros(1)) for i, s in enumerate([60, 90, 6000, None])}
    for name in (*lines, "mf"):
        (bench.out / name).mkdir(parents=True)
        (bench.out / name / "results.json").touch()
    lines["elsewhere"] = Line("elsewhere", {"seconds": 1}, np.zeros(1), np.zeros(1))  # of another machine
    two = {"control": Run(CONTROL, 0), "MF": Run(Setting("MF", "all", 1, {"method": "mf"}, BASELINE), 0)}
    four = {str(i): two["control"] for i in range(4)}
    assert expected(four, lines, bench) == "4 to make in about 03:00 (min:s), 2 at a time"  # 90 * 4 / 2 = 180 s
    many = {str(i): two["control"] for i in range(100)}
    assert expected(many, lines, bench).startswith("100 to make in about 1:15:00 (h:min:s)")  # 90 * 100 / 2
    assert expected({}, lines, bench, first=True) == "nothing is left to run"
    assert expected(four, {}, bench) == "4 to make; how long one takes is known after the first"
    text = expected(two, lines, bench)
    assert text == "2 to make in about 00:45 (min:s), 2 at a time; not counted: 1 of baseline.py, known after the first"
    lines["mf"] = Line("mf", {"seconds": 10, "verb": BASELINE}, np.zeros(1))
    assert expected(two, lines, bench) == "2 to make in about 00:50 (min:s), 2 at a time"


def test_a_search_counts_as_its_trials_and_the_seeds_that_take_its_setting_as_one(bench):
    searched = Setting("Caser", "16", 5, {"method": "caser"}, BASELINE, trials=12)
    seeds = {str(seed): Run(searched, seed) for seed in range(5)}
    others = {name: run for name, run in seeds.items() if name != "0"}
    lines = {"0": Line("0", {"seconds": 130, "verb": BASELINE, "setting": "searched"}, np.zeros(1))}
    (bench.out / "0").mkdir(parents=True)
    (bench.out / "0" / "results.json").touch()
    assert expected(others, lines, bench) == "4 to make in about 00:20 (min:s), 2 at a time"  # 130 / 13 * 4 / 2
    assert expected(seeds, lines, bench) == "5 to make in about 01:25 (min:s), 2 at a time"  # and 130 / 2
    lines["1"] = Line("1", {"seconds": 30, "verb": BASELINE, "setting": "out/0"}, np.zeros(1))
    (bench.out / "1").mkdir()
    (bench.out / "1" / "results.json").touch()
    assert expected(others, lines, bench) == "4 to make in about 01:00 (min:s), 2 at a time"


def test_before_the_first_run_its_plan_says_how_long_it_takes(bench):
    three = {"a": Run(CONTROL, 0, ("MF",)), "b": Run(CONTROL, 1), "asked": Run(CONTROL, 1, ("b",), asks=True)}
    said = expected(three, {}, bench, first=True)
    assert said.startswith("3 to make in about 02:00 (min:s), 2 at a time, by the plan of the first; not counted: 1")
    of_others = {"a": three["a"]}  # it cannot be planned before what it needs is there
    assert expected(of_others, {}, bench, first=True) == "1 to make; how long one takes is known after the first"
    (Path(calls.VERBS[TRAIN]).parent / "no-plan").touch()  # the run itself will say why
    assert expected(three, {}, bench, first=True) == "3 to make; how long one takes is known after the first"
    assert not bench.out.exists()
