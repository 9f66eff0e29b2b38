"""reproduce.py: what is run, resumed and kept, with a stand-in for train.py; the tables against brute force."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import reproduce
from data.interactions import Interaction
from errors import DataError, RunError, UserError
from metrics import Scored
from resampling import user_resamples
from studies import calls, runs
from studies.bench import Bench
from studies.declared import STUDIES
from studies.results import BASE, Line, read_lines, write_lines
from studies.runs import make_runs, wanted_runs
from studies.study import BASELINE, TRAIN, Setting, Study
from studies.tables import as_csv, differences, markdown, measured_rows, rows_without_learning, terminal

ROOT = Path(__file__).parent.parent
STUB = '''
"""What train.py leaves, without any training: a folder of a run that "ends" or "fails" or "stops" as fate.json says."""
import hashlib, json, os, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import save
words = sys.argv[1:]
if "--plan" in words:
    print(json.dumps({"run_s": 120}))
    raise SystemExit(0)
value = lambda name: words[words.index(name) + 1]
out, shared = Path(value("--out")), Path(value("--base-scores"))
fates = json.loads((out.parent / "fate.json").read_text())
with open(out.parent / "calls.jsonl", "a") as file:
    file.write(json.dumps({"run": out.name, "words": words, "threads": os.environ["OMP_NUM_THREADS"],
                           "base": sorted(path.name for path in shared.glob("*"))}) + "\\n")
out.mkdir(exist_ok=True)
columns = ("log_yes_pos", "log_no_pos", "log_yes_neg", "log_no_neg", "kl", "js")
seed = int(hashlib.sha256(out.name.encode()).hexdigest()[:6], 16)
flags = {"seed": {"value": seed}, "out": {"value": str(out)}, "lr": {"value": 0.1}}
(out / "config.json").write_text(json.dumps({"flags": flags, "versions": {"torch": "x"}}))
if not (shared / "test-0.scores").exists():
    time.sleep(0.3)
    shared.mkdir(exist_ok=True)
    content = save({name: np.full(6, -1.0 - i) for i, name in enumerate(columns)})
    (shared / "test-0.scores").write_bytes(hashlib.sha256(content).digest() + content)
fate = fates.get(out.name)
if fate == "fails":
    print("train.py: error: --lr 0.1: is wrong today", file=sys.stderr)
    raise SystemExit(2)
if fate == "waits" and "--resume" not in words:
    import signal
    heard = []
    def listen(*_):
        heard.append(1)
        if len(heard) > 1:
            (out.parent / "twice").touch()
            sys.exit(1)
    signal.signal(signal.SIGTERM, listen)
    (out.parent / f"listens-{out.name}").touch()
    while not heard:
        time.sleep(0.05)
    time.sleep(1.0)  # it saves
    (out.parent / f"saved-{out.name}").touch()
    sys.exit(75)
z = np.random.default_rng(seed).normal(size=(6, 2))
lines = ["user,item,label,p_yes_positive,p_yes_negative,contradiction,row,timestamp,"
         "log_yes_positive,log_no_positive,log_yes_negative,log_no_negative,kl,js"]
sigmoid = lambda z: 1 / (1 + np.exp(-z))
for i, (a, b) in enumerate(z):
    p, q = sigmoid(a), sigmoid(b)
    logs = [np.log(p), np.log(1 - p), np.log(q), np.log(1 - q), 0.1, 0.1]
    lines.append(",".join(map(str, [i // 2, i, i % 2, p, q, int((p > .5) == (q > .5)), i, 0, *logs])))
(out / "predictions.csv").write_text("\\n".join(lines) + "\\n")
values = {"auc": 0.5, "contradiction_rate": 0.25, "group_accuracy": 0.5, "interval_95": {}, "counts": {}}
before = values | {"contradiction_rate": 1.0, "group_accuracy": 0.0}  # of the base's answers: Yes to everything
results = {"test": {"before": before, "after": values}, "steps": 3, "best_step": 2, "best_valid_auc": 0.6,
           "stopped": "steps done"}
(out / "results.json").write_text(json.dumps(results))
'''
STUDY = Study(
    "two settings", (Setting("control", "64", 2, {"kl-weight": "0"}), Setting("LCFT", "64", 2, {"kl-weight": "1"}))
)
NAMES = [f"shots=64-kl-weight={weight}-seed={seed}" for seed in (0, 1) for weight in (0, 1)]
COMMON = {"data": "d", "base": "b", "train_flags": ""}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A Bench whose train.py is the stub; bench.fate(run=...) decides how runs end."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(calls, "VERBS", dict.fromkeys(calls.VERBS, stub))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fate.json").write_text("{}")
    return Bench(
        tmp_path / "out", tmp_path / "results.jsonl", COMMON, {TRAIN: ("--model", "m"), BASELINE: ("--data", "d")}, 2, 3
    )


def fate(bench, **fates):
    (bench.out / "fate.json").write_text(json.dumps({NAMES[int(name[1:])]: value for name, value in fates.items()}))


def made_calls(bench):
    path = bench.out / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---- what is run --------------------------------------------------------------------------------


def test_every_run_is_made_once_with_its_flags_and_its_share_of_the_cores(bench):
    lines = make_runs(STUDY, bench)
    assert list(wanted_runs(STUDY, bench)) == NAMES and set(lines) == {BASE, *NAMES}
    made = {call["run"]: call for call in made_calls(bench)}
    assert sorted(made) == sorted(NAMES) and len(made_calls(bench)) == 4
    words = made[NAMES[3]]["words"]
    folder = bench.out / NAMES[3]
    given = ["--out", str(folder), "--base-scores", str(bench.out / "base"), "--model", "m"]
    assert words == [*given, "--shots", "64", "--seed", "1", "--kl-weight", "1"] and made[NAMES[3]]["threads"] == "3"
    assert make_runs(STUDY, bench).keys() == lines.keys() and len(made_calls(bench)) == 4  # nothing is run twice


def test_the_base_is_scored_once_before_others_start(bench):
    make_runs(STUDY, bench)
    assert [call["base"] for call in made_calls(bench)] == [[], *[["test-0.scores"]] * 3]
    line = read_lines(bench.results)[BASE]
    assert np.allclose(line.z_pos, 1.0) and np.allclose(line.z_neg, 1.0)  # -1 - -2, -3 - -4


def test_a_failed_run_is_named_with_its_reason_and_the_others_are_made(bench):
    fate(bench, n1="fails")
    with pytest.raises(
        RunError, match=rf"{NAMES[1]}: train.py: error: --lr 0.1: is wrong today \(all of it: .*\.log\)"
    ):
        make_runs(STUDY, bench)
    assert set(read_lines(bench.results)) == {BASE, *NAMES} - {NAMES[1]}
    fate(bench)
    assert set(make_runs(STUDY, bench)) == {BASE, *NAMES} and made_calls(bench)[-1]["words"][-1] == "--resume"


def test_a_finished_run_without_its_line_is_read_and_not_run_again(bench):
    make_runs(STUDY, bench)
    before = bench.results.read_text()
    bench.results.write_text("".join(line for line in before.splitlines(True) if NAMES[2] not in line))
    make_runs(STUDY, bench)
    after = read_lines(bench.results)
    assert len(made_calls(bench)) == 4 and after[NAMES[2]].about["seconds"] is None  # its time is not known any more
    assert np.array_equal(after[NAMES[2]].z_pos, np.round(after[NAMES[2]].z_pos, 4))


def test_a_signal_stops_the_runs_and_the_same_command_resumes_them(bench):
    fate(bench, n0="waits", n1="waits")
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from studies import calls, runs
from studies.bench import Bench
from studies.runs import make_runs
from tests.test_studies import COMMON, STUDY
from machine.signals import Stopped
calls.VERBS = {{"train.py": Path({str(calls.VERBS[TRAIN])!r})}}
try:
    words = {{"train.py": ()}}
    make_runs(STUDY, Bench(Path({str(bench.out)!r}), Path({str(bench.results)!r}), COMMON, words, 2, 1))
except Stopped as stopped:
    print(stopped)
    raise SystemExit(75)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(bench.out.glob("listens-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "the same command resumes the study" in output
    assert len(made_calls(bench)) == 2 and not bench.results.exists() and not (bench.out / "twice").exists()
    assert set(make_runs(STUDY, bench)) == {BASE, *NAMES}
    assert ["--resume" in call["words"] for call in made_calls(bench)[2:]] == [True, True, False, False]


def test_an_error_leaves_no_process_behind(bench, monkeypatch):
    fate(bench, n1="waits")

    def full(*line):
        if list(bench.out.glob("listens-*")):
            raise OSError("No space left on device")
        return written(*line)

    written = runs.write_line
    monkeypatch.setattr(runs, "write_line", full)
    with pytest.raises(OSError, match="No space left"):
        make_runs(STUDY, bench)
    assert [path.name for path in bench.out.glob("saved-*")] == [f"saved-{NAMES[1]}"]


@pytest.mark.parametrize("name", ["data", "base", "train_flags"])
def test_lines_of_other_data_another_base_or_other_flags_are_refused(bench, name):
    make_runs(STUDY, bench)
    other = Bench(bench.out, bench.results, COMMON | {name: "other"}, bench.words, 1, 1)
    with pytest.raises(RunError, match=f"was made with {name} .* give another --results and --out"):
        make_runs(STUDY, other)


def test_equal_runs_of_two_studies_are_one_run():
    of = {name: set(study.runs()) for name, study in STUDIES.items()}
    assert of["figure3"] & of["laptop"] == {
        *(f"shots=64-kl-weight={weight}-seed={seed}" for weight in ("0", "1e-4") for seed in range(3))
    }
    assert len(of["laptop"]) == 20 + 3 + 18 and len(of["figure3"]) == 21 and len(of["few-shot"]) == 45
    assert of["few-shot"] < of["table1"] and len(of["table1"]) == 45 + 3 * 7 * 5


def test_kl_weights_replace_those_of_plain_lcft_alone():
    study = STUDIES["few-shot"].with_kl_weights(["0.01", "0.5"])
    weights = [setting.flags.get("kl-weight") for setting in study.settings if setting.shots == "16"]
    assert weights == [None, "0", "0.01", "0.5"]
    assert [s.flags["kl-weight"] for s in STUDIES["figure3"].with_kl_weights(["0", "2"]).settings] == ["0", "2"]


# ---- lines --------------------------------------------------------------------------------------


def test_lines_come_back_with_four_digits_and_malformed_ones_are_named(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_lines(path) == {}
    write_lines(path, {"b": Line("b", {"x": 1}, np.array([0.12345678]), np.array([-1.0]))})
    line = read_lines(path)["b"]
    assert (line.run, line.about, line.z_pos.tolist(), line.z_neg.tolist()) == ("b", {"x": 1}, [0.1235], [-1.0])
    for broken in ("nonsense", "[1]", '{"run": "a", "z_pos": [1], "z_neg": [1, 2]}', '{"run": "a", "z_pos": ["x"]}'):
        path.write_text(path.read_text().splitlines()[0] + "\n" + broken + "\n")
        with pytest.raises(DataError, match="results.jsonl line 2: not a result of reproduce.py"):
            read_lines(path)


def test_a_line_holds_no_user_item_or_label(bench):
    make_runs(STUDY, bench)
    record = json.loads(bench.results.read_text().splitlines()[1])
    known = {"run", "data", "base", "train_flags", "versions", "threads", "steps", "best_step", "best_valid_auc"}
    assert set(record) == known | {"stopped", "seconds", "flags", "test", "z_pos", "z_neg"}


# ---- tables -------------------------------------------------------------------------------------


def rows_of_test(count=40, users=7, seed=0):
    draw = np.random.default_rng(seed)
    return [Interaction(int(draw.integers(users)), (), i, bool(draw.integers(2)), i) for i in range(count)]


class _Data:
    name, source = "movie", "files"

    def __init__(self, rows):
        self.test, self.train = rows, rows


def lines_for(study, rows, seed=1):
    draw = np.random.default_rng(seed)
    return {
        name: Line(name, {}, np.round(draw.normal(size=len(rows)), 4), np.round(draw.normal(size=len(rows)), 4))
        for name in [BASE, *study.runs()]
    }


def brute_auc(labels, scores):
    pairs = [(a > b) + 0.5 * (a == b) for a, y in zip(scores, labels) if y for b, n in zip(scores, labels) if not n]
    return np.mean(pairs)


def test_means_deviations_and_intervals_equal_a_brute_force():
    rows = rows_of_test()
    lines, labels = lines_for(STUDY, rows), np.array([row.label for row in rows])
    control = next(
        row for row in measured_rows(STUDY, lines, _Data(rows)) if row.label == "control, lambda 0, 64 shots"
    )
    runs_of = [lines[name] for name in (NAMES[0], NAMES[2])]
    assert np.allclose(control.values["auc"], [brute_auc(labels, line.z_pos) for line in runs_of])
    same = [np.mean((line.z_pos > 0) == (line.z_neg > 0)) for line in runs_of]
    assert np.allclose(control.values["contradiction_rate"], same)
    weights, _ = user_resamples([row.user for row in rows], 0)
    for draw in range(5):  # the same users in both runs, their rows as often as they were drawn
        chosen = np.repeat(np.arange(len(rows)), weights[draw].astype(int))
        by_hand = np.mean([brute_auc(labels[chosen], line.z_pos[chosen]) for line in runs_of])
        assert np.isclose(control.draws["auc"][draw], by_hand)
    text = list(csv.DictReader(io.StringIO(as_csv([control]))))
    auc = next(line for line in text if line["metric"] == "auc")
    a, b = control.values["auc"]
    assert np.isclose(float(auc["standard_deviation"]), abs(a - b) / np.sqrt(2))  # n - 1
    assert np.allclose([float(auc["low_95"]), float(auc["high_95"])], np.percentile(control.draws["auc"], (2.5, 97.5)))


def test_differences_are_paired_by_seed_and_by_users():
    rows = rows_of_test()
    lines = lines_for(STUDY, rows)
    (change,) = differences(STUDY, lines, _Data(rows))
    _, control, lcft = measured_rows(STUDY, lines, _Data(rows))
    assert change.label == "LCFT, lambda 1, 64 shots, minus the control"
    assert np.allclose(change.values["auc"], lcft.values["auc"] - control.values["auc"])
    assert np.allclose(change.draws["auc"], lcft.draws["auc"] - control.draws["auc"])
    del lines[NAMES[2]]  # the control of seed 1
    (change,) = differences(STUDY, lines, _Data(rows))
    assert change.runs == 1 and "| 1 of 2 |" in markdown([change], [], "+")


def test_what_was_not_run_says_so_in_every_table():
    rows = rows_of_test()
    lines = {name: line for name, line in lines_for(STUDY, rows).items() if "kl-weight=1" not in name}
    measured = measured_rows(STUDY, lines, _Data(rows))
    assert "| LCFT, lambda 1, 64 shots | not run |" in markdown(measured, []) and "0 of 2" in markdown(measured, [])
    assert terminal(measured, []).splitlines()[-1].split()[-2:] == ["not", "run"]
    without_base = measured_rows(STUDY, {name: line for name, line in lines.items() if name != BASE}, _Data(rows))
    assert "| untuned base | not run |" in markdown(without_base, [])


def test_the_constant_and_the_rules_stand_in_every_table_of_80_columns():
    rows = rows_of_test()
    unlearned = rows_without_learning(rows, rows)
    share = np.mean([row.label for row in rows])
    of = {rule["label"]: (rule["contradiction_rate"], rule["group_accuracy"]) for rule in unlearned[-3:]}
    assert list(of.values()) == [(0, share), (0, pytest.approx(1 - share)), (1, 0)]
    shown = terminal(measured_rows(STUDY, lines_for(STUDY, rows), _Data(rows)), unlearned)
    assert (
        max(map(len, shown.splitlines())) <= 80
        and 'always Yes to "like", No to "dislike"' in shown
        and "item mean" in shown
    )


def test_a_part_of_the_rows_is_scored_on_these_rows():
    rows = rows_of_test()
    z = np.arange(3.0)
    scored = Line("r", {"rows": [5, 7, 9]}, z, z).scored(rows)
    assert isinstance(scored, Scored) and scored.users == [rows[i].user for i in (5, 7, 9)]
    assert np.allclose(scored.z_pos, z) and np.allclose(scored.z_neg, z)
    with pytest.raises(DataError, match="r: has answers to 3 rows, the data set has 2"):
        Line("r", {}, z, z).scored(rows[:2])
    with pytest.raises(DataError, match="r: has answers to 3 rows, the data set has 8"):
        Line("r", {"rows": [5, 7, 9]}, z, z).scored(rows[:8])


# ---- the verb -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "say which study"),
        (["table9"], "no such study; choose one of few-shot"),
        (["few-shot", "--data", "demo", "--shots", "16,17"], "--shots 16,17: this study has 16, 64, 256, and not 17"),
        (["figure3", "--data", "demo", "--", "--kl-weight", "3"], "--kl-weight: is set by the study"),
        (["few-shot", "--data", "demo", "--", "--out", "x"], "--out: is set by the study"),
        (["few-shot", "--data", "demo", "--plan", "--table"], "--plan: contradicts --table"),
        (["few-shot", "--base", "nowhere", "--data", "demo"], "nowhere: no such"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_line(words, message):
    with pytest.raises(UserError, match=message):
        reproduce.main(words)


def test_a_study_runs_from_the_command_line_to_its_tables(tmp_path):
    """A run of the demo model, two steps, on parts of the splits."""
    rest = ["--", "--max-steps", "2", "--valid-rows", "20", "--test-rows", "30"]
    argv = [
        *["--data", "demo", "--kl-weights", "1", "--seeds", "1", "--out", str(tmp_path / "out")],
        *rest,
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "reproduce.py"), "figure3", *argv], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "built-in demo model" in done.stdout and "LCFT, lambda 1, 64 shots" in done.stdout
    assert "runs of the study: 1; 1 to make" in done.stderr and max(map(len, done.stdout.splitlines())) <= 80
    written = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"figure3.md", "figure3.csv", "figure3.png", "results.jsonl"} <= written
    # The tables alone, from the lines, elsewhere: no run folder is needed.
    lines = ["--results", str(tmp_path / "out" / "results.jsonl"), "--out", str(tmp_path / "new"), "--table"]
    reproduce.main(["figure3", "--data", "demo", "--kl-weights", "1", "--seeds", "1", *lines, *rest])
    assert (tmp_path / "new" / "figure3.md").read_text() == (tmp_path / "out" / "figure3.md").read_text()
