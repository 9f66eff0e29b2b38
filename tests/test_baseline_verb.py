"""baseline.py: what a run leaves, resuming bit for bit, the search, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import baseline
import compare
import run.recommender
import run.search
import train as train_verb
from cli.verb import run_verb
from errors import FlagError, RunError, UserError
from machine.signals import Stopped
from metrics import auc
from run.predictions import OF_SCORES, read_predictions
from run.search import read_trials, trials_of
from tests.planted import ITEMS, planted

ROOT = Path(__file__).parent.parent
SHORT = ("--epochs", "6", "--dim", "4", "--batch-size", "64", "--lr", "0.05")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data in which a user's group decides, as a user would have them."""
    path = tmp_path_factory.mktemp("data") / "planted"
    path.mkdir()
    lines = [f"{r.user},{r.target},{int(r.label)},{i}" for i, r in enumerate(planted("group", 400, 0))]
    (path / "interactions.csv").write_text("user,item,liked,timestamp\n" + "\n".join(dict.fromkeys(lines)) + "\n")
    (path / "items.csv").write_text("item,title\n" + "".join(f"{i},Film {i}\n" for i in range(1, ITEMS + 1)))
    return str(path)


@pytest.fixture
def quick(monkeypatch):
    """Without the rules and the picture, which take most of the time of a tiny run."""
    monkeypatch.setattr(baseline, "without_learning", lambda train, rows: {"rules": {}})
    monkeypatch.setattr(baseline, "draw_recommender_curves", lambda path, history, results: None)


def call(folder, out, *argv):
    baseline.main(["--data", folder, "--out", str(out), *argv])
    return json.loads((out / "results.json").read_text())


def files_of(out, *names):
    return [(out / name).read_bytes() for name in names or ("predictions.csv", "metrics.jsonl", "best.safetensors")]


# ---- what a run leaves ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mf", "lightgcn", "logreg", "item-mean+user-mean"])
def test_a_run_leaves_scores_results_and_curves(folder, tmp_path, capsys, method):
    learned = method in ("mf", "lightgcn")
    results = call(folder, tmp_path / "run", "--method", method, "--json", *(SHORT if learned else ()))
    shown = capsys.readouterr()
    assert json.loads(shown.out) == results and method in shown.err
    assert (tmp_path / "run" / "curves.png").exists() == learned
    found = read_predictions(tmp_path / "run" / "predictions.csv")
    assert (tmp_path / "run" / "predictions.csv").read_text().startswith(",".join(OF_SCORES))
    assert auc(found.scored.labels, found.scored.score) == results["test"]["after"]["auc"]
    assert set(results["test"]["after"]) == {"auc", "uauc", "uauc_weighted", "interval_95", "counts"}
    assert "item mean + user mean" in results["test"]["rules"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"AUC of {results['test']['after']['auc']:.3f}" in page and page.count("<svg") == 2 * learned
    assert f"--method {method}" in page and str(tmp_path) not in re.sub(r"--data \S+", "", page)
    assert not re.search(r"https?://|<script", page)


def test_the_restored_best_state_has_the_logged_validation_auc_exactly(quick, folder, tmp_path):
    results = call(folder, tmp_path / "run", *SHORT)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max(logged, key=lambda record: record["valid_auc"])
    assert results["valid"]["after"]["auc"] == results["best_valid_auc"] == best["valid_auc"]
    assert results["best_step"] == best["step"] and results["steps"] == len(logged) == 6


def test_rules_as_methods_have_the_figures_that_every_table_shows(folder, tmp_path):
    results = call(folder, tmp_path / "run", "--method", "item-mean")
    (rule,) = (v for name, v in results["test"]["rules"].items() if name.startswith("item mean of"))
    assert results["test"]["after"]["auc"] == rule["auc"]


def test_the_shots_are_those_of_train_py(quick, folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run.recommender, "select_shots", lambda *args: seen.append(args) or args[0][: args[1]])
    results = call(folder, tmp_path / "run", "--shots", "16", "--seed", "3", "--epochs", "1")
    assert [args[1:] for args in seen] == [(16, 3)] and results["train_rows"] == 16


def test_config_takes_the_flags_of_another_run_and_a_given_flag_comes_first(quick, folder, tmp_path):
    call(folder, tmp_path / "first", "--bias", *SHORT)
    baseline.main(["--config", str(tmp_path / "first"), "--out", str(tmp_path / "again")])
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")
    baseline.main(
        ["--config", str(tmp_path / "first" / "config.json"), "--seed", "1", "--out", str(tmp_path / "other")]
    )
    assert files_of(tmp_path / "other", "predictions.csv") != files_of(tmp_path / "first", "predictions.csv")
    recorded = json.loads((tmp_path / "other" / "config.json").read_text())["flags"]
    assert (recorded["seed"]["value"], recorded["seed"]["source"]) == (1, "flag")
    assert recorded["bias"] == {"value": True, "source": f"config {tmp_path / 'first' / 'config.json'}"}
    with pytest.raises(RunError, match=r"is of a run of 'baseline\.py', not of train\.py"):
        train_verb.main(["--config", str(tmp_path / "first")])
    with pytest.raises(FlagError, match="--config: a resumed run takes its flags from its own"):
        baseline.main(["--resume", "--out", str(tmp_path / "first"), "--config", str(tmp_path / "first")])


def test_compare_takes_two_recommenders(quick, folder, tmp_path, capsys):
    for name in ("mf", "logreg"):
        call(folder, tmp_path / name, "--method", name, *(SHORT if name == "mf" else ()))
    capsys.readouterr()
    compare.main([str(tmp_path / "mf"), str(tmp_path / "logreg"), "--json"])
    found = json.loads(capsys.readouterr().out)
    for name, one in zip(("mf", "logreg"), found["runs"]):
        assert one["auc"] == json.loads((tmp_path / name / "results.json").read_text())["test"]["after"]["auc"]
    assert found["differences"][0]["mcnemar"] == {} and found["differences"][0]["rows"] == []
    assert set(found["differences"][0]) >= {"auc", "uauc"}


# ---- resuming ------------------------------------------------------------------------------------


def stop_after(monkeypatch, epochs):
    """A signal comes when so many epochs of this process are done."""
    whole = run.recommender.fit

    def fit(*args):
        for number, outcome in enumerate(whole(*args), start=1):
            if number == epochs:
                os.kill(os.getpid(), signal.SIGTERM)
            yield outcome

    monkeypatch.setattr(run.recommender, "fit", fit)


@pytest.mark.parametrize(
    "method, epochs",
    [
        *(("mf", 1), ("lightgcn", 4), ("mf", 6)),
        *((method, 2) for method in ("gru4rec", "caser", "sasrec", "dros", "sasrec-full")),
    ],
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    quick, folder, tmp_path, monkeypatch, method, epochs
):
    more = {"mf": ("--bias",), "lightgcn": ("--loss", "bpr")}.get(method, ())  # BPR draws items at random, too
    call(folder, tmp_path / "whole", "--method", method, *more, *SHORT)
    with monkeypatch.context() as patch:
        stop_after(patch, epochs)
        with pytest.raises(
            Stopped, match=rf"SIGTERM: saved after epoch {epochs}; resume with: .*baseline.py .*--resume"
        ):
            call(folder, tmp_path / "parts", "--method", method, *more, *SHORT)
    assert not (tmp_path / "parts" / "results.json").exists()
    baseline.main(["--out", str(tmp_path / "parts"), "--resume"])
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert files_of(tmp_path / "parts", "results.json") == files_of(tmp_path / "whole", "results.json")


def test_a_finished_run_can_be_resumed_and_stays_the_same(quick, folder, tmp_path):
    call(folder, tmp_path / "run", *SHORT)
    before = files_of(tmp_path / "run")
    baseline.main(["--out", str(tmp_path / "run"), "--resume"])
    assert files_of(tmp_path / "run") == before


def test_a_resumed_run_keeps_its_settings(quick, folder, tmp_path):
    call(folder, tmp_path / "run", *SHORT)
    with pytest.raises(FlagError, match="--epochs 9: the run in .* was started with 6; leave it out"):
        baseline.main(["--out", str(tmp_path / "run"), "--resume", "--epochs", "9"])
    with pytest.raises(FlagError, match="--optimizer adamw: the run in .* was started without it"):
        baseline.main(["--out", str(tmp_path / "run"), "--resume", "--optimizer", "adamw"])


def test_each_verb_refuses_the_runs_of_the_other(quick, folder, tmp_path):
    call(folder, tmp_path / "run", "--method", "item-mean")
    with pytest.raises(RunError, match="is of a run of 'baseline.py', not of train.py"):
        train_verb.main(["--out", str(tmp_path / "run"), "--resume"])


# ---- search --------------------------------------------------------------------------------------


def test_the_grid_is_whole_within_the_budget_and_else_a_seeded_part_of_it():
    grid = {"lr": (1, 2), "l2": (3, 4, 5)}
    whole = trials_of(grid, 6)
    assert len(whole) == 6 and whole[0] == {"lr": 1, "l2": 3} and whole[-1] == {"lr": 2, "l2": 5}
    part = trials_of(grid, 4)
    assert part == [trial for trial in whole if trial in part] and len(part) == 4 and part == trials_of(grid, 4)


SEARCH = ("--search", "--trials", "5", "--epochs", "2", "--dim", "4", "--batch-size", "64")


def test_a_search_logs_every_trial_and_trains_with_the_best(quick, folder, tmp_path):
    results = call(folder, tmp_path / "run", *SEARCH)
    trials = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert [trial["trial"] for trial in trials] == [0, 1, 2, 3, 4]
    best = max(trials, key=lambda trial: trial["valid_auc"])
    chosen = json.loads((tmp_path / "run" / "setting.json").read_text())
    assert chosen["settings"] == results["settings"] and best["setting"].items() <= results["settings"].items()
    assert results["best_valid_auc"] == best["valid_auc"]  # the run with the best setting is the trial again
    again = call(folder, tmp_path / "again", "--setting", str(tmp_path / "run" / "setting.json"))
    assert again["test"] == results["test"] and again["settings"] == results["settings"]


def test_a_resumed_search_does_what_is_left_and_processes_change_nothing(quick, folder, tmp_path, monkeypatch):
    call(folder, tmp_path / "whole", *SEARCH)
    with monkeypatch.context() as patch:
        whole, tried = run.search.try_setting, []

        def try_setting(task, stopped):
            tried.append(task.settings)
            if len(tried) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return whole(task, stopped)

        patch.setattr(run.search, "try_setting", try_setting)
        with pytest.raises(Stopped, match="SIGTERM: 2 of 5 trials are done; resume with"):
            call(folder, tmp_path / "parts", *SEARCH)
    with open(tmp_path / "parts" / "trials.jsonl", "ab") as file:
        file.write(b'{"trial": 2, "sett')  # cut off by a crash
    command = [sys.executable, "baseline.py", "--out", str(tmp_path / "parts"), "--resume", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "parts", "setting.json", "predictions.csv") == files_of(
        tmp_path / "whole", "setting.json", "predictions.csv"
    )
    assert sorted(read_trials(tmp_path / "parts" / "trials.jsonl", trials_of(GRID, 5))) == [0, 1, 2, 3, 4]


GRID = baseline.load_task.__globals__["METHODS"]["mf"].grid


def test_a_trial_that_cannot_be_trained_is_logged_and_passed_over(quick, folder, tmp_path, monkeypatch):
    whole = run.search.fit

    def fit(module, optimizer, *args):
        if optimizer.param_groups[0]["lr"] == 0.1:
            raise RunError("epoch 1: loss or weights are no longer finite")
        return whole(module, optimizer, *args)

    monkeypatch.setattr(run.search, "fit", fit)
    results = call(folder, tmp_path / "run", *SEARCH)
    trials = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert any(trial["valid_auc"] is None and "finite" in trial["problem"] for trial in trials)
    assert results["settings"]["lr"] != 0.1


@pytest.mark.parametrize(
    "line", [b"[]", b"x", b'{"trial": 0, "setting": {}, "valid_auc": 0.5}', b'{"trial": 99}', b'{"trial": -1}']
)
def test_a_trial_of_another_search_is_refused_by_its_line(tmp_path, line):
    (tmp_path / "trials.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RunError, match="trials.jsonl line 1: not a trial of this search"):
        read_trials(tmp_path / "trials.jsonl", trials_of(GRID, 5))


# ---- flags of another run ------------------------------------------------------------------------


def test_what_another_method_cannot_have_is_not_taken_from_its_run(quick, folder, tmp_path):
    call(folder, tmp_path / "a", "--method", "gru4rec", "--history", "signed", "--loss", "mse", *SHORT)
    before = ["--config", str(tmp_path / "a"), "--out", str(tmp_path / "b"), "--method"]
    for method, lines in {
        "lightgcn": ["--history (of config {a}): has no", "--loss mse (of config {a}): with --method lightgcn choose"],
        "mf": ["--history (of config {a}): has no", "--loss (of config {a}): has no effect with --method mf"],
    }.items():
        with pytest.raises(FlagError) as refusal:
            baseline.main([*before, method])
        found = str(refusal.value).split("\n")
        wanted = [line.format(a=tmp_path / "a" / "config.json") for line in lines]
        assert any(line.endswith("give the flags that you want instead of --config") for line in found)
        assert len(found) == 2 and all(one.startswith(line) for one, line in zip(sorted(found), wanted))
    assert not (tmp_path / "b").exists()
    baseline.main([*before, "caser", "--length", "2", "--epochs", "1"])
    settings = json.loads((tmp_path / "b" / "results.json").read_text())["settings"]
    assert (settings["history"], settings["loss"], settings["dim"]) == ("signed", "mse", 4)


# ---- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, message",
    [
        (("--method", "mf", "--layers", "2"), "--layers: has no effect with --method mf; leave it out"),
        (("--method", "logreg", "--lr", "1"), "--lr: has no effect with --method logreg; leave it out"),
        (("--method", "item-mean", "--search"), "--search: --method item-mean has nothing to search; leave it out"),
        (("--search", "--l2", "1"), "--l2: is what --search tries; leave one of them out"),
        (("--search", "--setting", "x"), "--setting: is what --search chooses; leave one of them out"),
        (("--jobs", "2"), "--jobs: has no effect without --search"),
        (("--shots", "few"), "--shots few: expected a whole number from 1, or all"),
        (("--setting", "nowhere"), "no such file; name a setting.json"),
        (("--method", "best"), "--method best: choose one of"),
        (("--shots", "100000"), "--shots 100000: the training split has"),
        (("--method", "logreg", "--shots", "1"), "--shots: all training rows that were drawn have one label"),
    ],
)
def test_what_it_refuses(folder, tmp_path, argv, message):
    with pytest.raises(UserError) as error:
        call(folder, tmp_path / "run", *argv)
    assert message in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["mf", "lightgcn", "logreg", "user-mean"])
def test_data_without_users_are_refused_by_name(tmp_path, method):
    text = {"input": 'User Preference: "A"\nUser Unpreference: \nWhether the user will like the target movie "B"?'}
    asked = "Given the user's preference and unpreference, identify whether the user will like the target movie by "
    text |= {"instruction": asked + 'answering "Yes." or "No.".', "output": "Yes."}
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps([text, text | {"output": "No."}]))
    with pytest.raises(UserError, match=f"--method {method}: learns about single users, and --data .*TALLRec's JSON"):
        call(str(tmp_path), tmp_path / "run", "--method", method)


SETTINGS = {"lr": 1.0, "l2": 0.1, "optimizer": "adam", "batch_size": 64, "epochs": 5, "patience": 5}
SETTINGS |= {"dim": 4, "init_std": 1.0, "bias": False}


def settings_with(**changes):
    return json.dumps({"method": "mf", "settings": SETTINGS | changes})


@pytest.mark.parametrize(
    "content, message",
    [
        ("{}", "not the setting.json of a search"),
        ("x", "not the setting.json of a search"),
        ('{"method": "lightgcn", "settings": {}}', "is of another method than mf"),
        ('{"method": "mf", "settings": {"lr": 1.0}}', "has other settings than mf of this version"),
        (settings_with(lr="fast"), "lr is 'fast'; expected a value like 0.001"),
        (settings_with(lr=None), "lr is None; expected a value like 0.001"),
        (settings_with(lr=float("nan")), "lr is nan; expected a finite number"),
        (settings_with(lr=-1), "lr is -1; must be at least 0"),
        (settings_with(dim=1.5), "dim is 1.5; expected a value like 64"),
        (settings_with(optimizer="sgd"), "optimizer is 'sgd'; choose one of adam, adamw"),
    ],
)
def test_a_file_that_is_no_setting_is_refused(folder, tmp_path, content, message):
    (tmp_path / "setting.json").write_text(content)
    with pytest.raises(RunError, match=f"setting.json: {message}"):
        call(folder, tmp_path / "run", "--setting", str(tmp_path / "setting.json"))
    assert not (tmp_path / "run").exists()


def test_weights_that_leave_the_finite_numbers_stop_the_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run.recommender, "settings_of", lambda *_: {**SETTINGS, "lr": 1e38})
    monkeypatch.setattr("sys.argv", ["baseline.py", "--data", folder, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        run_verb(baseline.main)
    assert ended.value.code == 2 and "no longer finite; try a lower --lr" in capsys.readouterr().err


def test_scores_are_written_with_all_their_digits(quick, folder, tmp_path):
    call(folder, tmp_path / "run", *SHORT)
    text = (tmp_path / "run" / "predictions.csv").read_text().splitlines()[1:]
    scores = read_predictions(tmp_path / "run" / "predictions.csv").scored.score
    assert [float(line.split(",")[3]) for line in text] == scores.tolist()
    assert np.array_equal(scores.astype(np.float32), scores)  # float32 computes them
