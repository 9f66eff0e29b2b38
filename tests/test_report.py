"""Tables and pictures: the right number in the right column, and never without saying where it was measured."""

import json
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cli.flags import parse_flags
from cli.train import ObjectiveFlags, TrainFlags, check_flags, presets
from data.interactions import Dataset, Interaction, Item
from data.prompts import WORDINGS
from machine.device import pick_device
from metrics import Scored, constants, evaluate, paired_change, ranking_metrics
from objectives.by_name import make_objective
from report.curves import draw_curves
from report.plan import step_plan
from report.tables import next_commands, provenance, result_table, score_table, tuning, wording_table
from run.config import results_heading, run_config
from run.folder import RunFolder

ROOT = Path(__file__).parent.parent


def flags(*argv):
    return parse_flags(TrainFlags, list(argv), "", presets)[0]


def scored(shift):
    rng = np.random.default_rng(1)
    labels = np.tile([True, False], 20)
    z = rng.normal(size=40) + shift * labels
    nothing = np.full(40, -1.0)
    return Scored(
        np.repeat(np.arange(8), 5).tolist(), labels, z, nothing, -z, nothing, np.full(40, 0.25), np.full(40, 0.05)
    )


@pytest.fixture
def results():
    before, after = scored(0.0), scored(2.0)
    rules = {"history share": ranking_metrics(before.labels, before.z_pos, before.users)}
    split = {
        "before": evaluate(before),
        "after": evaluate(after),
        "change": paired_change(before, after),
        "rules": rules,
        "constants": constants(before.labels, before.users),
    }
    heading = {
        "data": "movie",
        "data_source": "stand-in",
        "model": "demo",
        "demo_model": True,
        "objective": "paper",
        "kl_weight": 1e-4,
        "shots": "64",
        "seed": 3,
    }
    return {
        **heading,
        "steps": 4,
        "best_step": 2,
        "best_valid_auc": 0.75,
        "stopped": "steps done",
        "valid": split,
        "test": split,
    }


def line_of(table, label):
    """The cells of the one row with this label, below the sentence."""
    (line,) = [line for line in table.split("\n\n", 1)[1].splitlines() if line.startswith(label)]
    return line.removeprefix(label).split("]")[:-1]


def cell(values, name, sign=""):
    low, high = values["interval_95"][name]
    return f"{values[name]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}"


def test_a_result_table_shows_before_after_and_change_in_this_order(results):
    table = result_table(results, "test")
    test = results["test"]
    for label, name in (
        ("AUC, positive prompt", "auc"),
        ("UAUC, positive prompt", "uauc"),
        ("calibration error (ECE)", "ece"),
    ):
        before_and_after, change = (part.strip() for part in line_of(table, label))
        before = f"{test['before'][name]:.3f}"
        assert before_and_after.split(maxsplit=1) == [before, cell(test["after"], name)]
        assert change == cell(test["change"], name, "+")
    assert table.index("before") < table.index("after") < table.index("change")
    assert "test split: 40 rows, 8 users, 8 of them in UAUC; 95 % intervals in [ ], from" in table


def test_a_result_table_shows_the_rules_beside_the_learned_rows(results):
    table = result_table(results, "test")
    rule = results["test"]["rules"]["history share"]
    assert [part.strip() for part in line_of(table, "history share")] == [cell(rule, "auc"), cell(rule, "uauc")]


def test_contradictions_stand_beside_what_is_right_and_beside_the_constants(results):
    """20 of the 40 rows are liked; in the eval table the same rows, and none where only one question was asked."""
    one = {**results, "run": None, "adapter": None, "split": "test", **results["test"]["after"]}
    one |= {name: results["test"][name] for name in ("rules", "constants")}
    for table in (result_table(results, "test"), score_table(one)):
        head, rows = table.split("whoever is asked")[0], table.split("whoever is asked")[1].splitlines()
        assert "both answers right" in head and "contradiction rate    both answers right" in rows[0]
        assert rows[1].startswith('Yes to "like", No to "dislike"') and " 0.000 " in rows[1] and " 0.500 [" in rows[1]
        assert rows[3].startswith("the same answer to both") and rows[3].split()[-2:] == ["1.000", "0.000"]
        assert "a constant: 50.0%" in " ".join(table.split())
    of_both = ("contradiction_rate", "group_accuracy", "informative_consistency")
    alone = {name: value for name, value in one.items() if name not in of_both}
    assert "whoever" not in score_table(alone) and "constant" not in score_table(alone)


def test_simulated_data_are_named_above_and_below_and_real_ones_are_not_called_simulated(results):
    table = result_table(results, "test")
    one_line = table.replace("\n", " ")
    assert (
        "movie (SIMULATED stand-in data), built-in demo model; objective paper with lambda 0.0001, 64 shots, seed 3"
        in one_line
    )
    assert one_line.endswith(
        "Simulated viewers: these figures show how the method works, and say nothing about MovieLens."
    )
    real = result_table({**results, "data_source": "movielens-100k", "model": "llama-7b", "demo_model": False}, "test")
    assert "movie (movielens-100k), llama-7b; " in real
    assert "imulated" not in real and "SIMULATED" not in real


def test_what_does_not_exist_is_a_dash_and_unknown_users_are_told(results):
    unknown = scored(2.0)
    unknown = Scored([None] * 40, *(getattr(unknown, n) for n in list(Scored.__dataclass_fields__)[1:]))
    one = {
        **results,
        "run": None,
        "adapter": None,
        "split": "test",
        "rules": {"rule": ranking_metrics(unknown.labels, unknown.z_pos, unknown.users)},
        "constants": constants(unknown.labels, unknown.users),
    }
    table = score_table({**one, **evaluate(unknown)})
    assert (
        "users unknown; 95 % intervals in [ ], from resampling rows" in table.replace("\n", " ")
        and "no adapter" in table
    )
    assert "UAUC, positive prompt" not in table
    assert table.split("without any learning")[1].splitlines()[1].endswith(" -")


def test_no_zero_has_a_minus_sign(results):
    results["test"]["change"]["auc"] = -0.0001
    results["test"]["change"]["interval_95"]["auc"] = [-0.004, 0.001]
    assert line_of(result_table(results, "test"), "AUC, positive prompt")[1].strip() == "+0.000 [-0.004, +0.001"


def test_a_result_table_fits_80_columns_and_says_first_what_was_reached(results):
    results["test"]["after"]["kl"], results["test"]["after"]["interval_95"]["kl"] = 123.456, [99.9876, 150.0]
    table = result_table(
        {**results, "model": "checkpoints/a rather long name of a folder", "demo_model": False}, "test"
    )
    assert max(map(len, table.splitlines())) <= 80 and "123.5 [100.0, 150.0]" in table
    before, after = (results["test"][name] for name in ("before", "after"))
    first = " ".join(table.split("\n\n")[0].split())
    rule = results["test"]["rules"]["history share"]
    assert first.startswith(
        f"Fine-tuning raised the AUC from {before['auc']:.3f} to {after['auc']:.3f} "
        f"(the best rule without learning, history share: {rule['auc']:.3f}). The model "
    )
    assert f"on {after['contradiction_rate']:.1%} of the rows (before: {before['contradiction_rate']:.1%})" in first
    assert f"both questions right on {after['group_accuracy']:.1%}" in first


def test_a_run_that_beat_nothing_says_so_first(results):
    table = result_table({**results, "best_step": 0, "best_valid_auc": 0.6543}, "test")
    first = " ".join(table.split("\n\n")[0].split())
    assert first == "No validation beat the untuned base (0.654): the adapter of this run is the one it started from."


def test_an_interval_that_cannot_be_is_a_dash_with_a_reason(results):
    two = Scored([1, 2], np.array([True, False]), np.array([-0.5, -1.5]), np.array([-1.0, -0.5]))
    found = {**evaluate(two), "rules": {"rule": ranking_metrics(two.labels, np.array([1.0, 0.0]), two.users)}}
    table = score_table({**results, "run": None, "adapter": None, "split": "test", **found})
    assert "1.000 [-]" in table and "[1.0" not in table
    assert "[-]: no interval, since fewer than two users differ here" in table


@pytest.mark.parametrize("wording", WORDINGS)
def test_the_table_of_wordings_fits_80_columns(wording):
    words = WORDINGS[wording]
    rates = {"inconsistent_rate": 0.5, "auc": 0.25, "interval_95": dict.fromkeys(("inconsistent_rate", "auc"), [0, 1])}
    asked = [(words.dislike, False, True), *((q, same, False) for q, same in words.held_out.items())]
    rows = [{"asks": q, "same_answer_is_right": same, "trained_on": on, **rates} for q, same, on in asked]
    lines = wording_table(rows).splitlines()
    assert max(map(len, lines)) <= 80 and f"{words.dislike} *" in lines[2] and lines[2].count(" [0.000, 1.000]") == 2


def test_tuning_names_lambda_only_where_there_is_one(results):
    assert tuning(results) == "objective paper with lambda 0.0001, 64 shots, seed 3"
    assert tuning({**results, "objective": "tallrec"}) == "objective tallrec, 64 shots, seed 3"
    assert provenance(results) == "movie (SIMULATED stand-in data), built-in demo model"


# ---- what a run says of itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, pairs, expected",
    [
        (
            "--batch-size 64 --micro-batch-size 8",
            64,
            "64 pairs, 64 a step in micro-batches of 8 (16 rows); 1 steps an epoch",
        ),
        (
            "--batch-size 64 --micro-batch-size 8",
            16,
            "16 pairs, 16 a step in micro-batches of 8 (16 rows); 1 steps an epoch",
        ),
        (
            "--batch-size 64 --micro-batch-size 64",
            16,
            "16 pairs, 16 a step in micro-batches of 16 (32 rows); 1 steps an epoch",
        ),
        ("--batch-size 64 --micro-batch-size 8 --kl-forcing shared", 64, "micro-batches of 8 (24 rows)"),
        ("--batch-size 64 --micro-batch-size 8 --objective tallrec", 64, "micro-batches of 8 (8 rows)"),
        ("--batch-size 24 --micro-batch-size 8", 64, "3 steps an epoch, the last of 16 pairs"),
    ],
)
def test_the_plan_of_a_step_counts_pairs_and_rows(argv, pairs, expected):
    given = flags("--model", "DIR", *argv.split())
    assert expected in step_plan(pairs, 50, make_objective(vars(given)), given)


def test_the_next_commands_are_ones_that_train_py_accepts(tmp_path):
    given = flags("--model", "DIR", "--data-dir", "D", "--shots", "16")
    commands = [shlex.split(line) for line in next_commands(tmp_path, given).splitlines() if "train.py" in line]
    assert len(commands) == 3
    again = [flags(*words[2:]) for words in commands]
    assert {(f.model, f.data_dir, f.shots, f.data) for f in again} == {("DIR", "D", "16", "movie")}
    assert [(f.objective, f.kl_weight) for f in again] == [("paper", 0.0), ("released", 1e-4), ("tallrec", 0.0)]


RUNS = {
    "all that is typed": "--data demo --seed 3 --lr 0.01 --max-steps 7 --template released --precision fp32 --lora-r 4 "
    "--lora-dropout 0 --kl-forcing shared --batch-size 8 --micro-batch-size 2 --device cpu --out X --merge-out Y",
    "preset of a book": "--data book --model 'a folder' --data-dir 'it''s here' --book-zeros drop",
    "from an adapter": "--init-adapter 'old run' --weight-decay 0",
    "the baseline": "--objective tallrec --train-on-prompt --micro-batch-size 4",
    "published": "--objective released --kl-weight 0.5 --data movie --real-data",
}


@pytest.mark.parametrize("argv", RUNS.values(), ids=RUNS)
def test_a_suggested_run_differs_from_this_one_in_lambda_or_objective_alone(argv, tmp_path):
    given = flags(*shlex.split(argv))
    commands = [shlex.split(line) for line in next_commands(tmp_path, given).splitlines() if "train.py" in line]
    for words in commands:
        other = parse_flags(TrainFlags, words[2:], "", presets, check_flags)[0]
        different = {name for name in vars(given) if getattr(given, name) != getattr(other, name)}
        of_the_objective = {field.name for field in fields(ObjectiveFlags)}
        allowed = of_the_objective if other.objective != given.objective else {"kl_weight"}
        assert different and different - {"out", "merge_out"} <= allowed
        assert other.objective in ("tallrec", given.objective) or other.kl_weight > 0


def test_a_suggested_command_begins_as_the_one_that_was_typed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "../lcft from scratch/train.py"])
    monkeypatch.setattr(sys, "argv", ["../lcft from scratch/train.py"])
    assert next_commands(tmp_path / "my run", flags()).count(".venv/bin/python train.py ") == 3  # no such folder here
    monkeypatch.setattr(sys, "argv", [os.path.relpath(ROOT / "train.py")])
    text = next_commands(tmp_path / "my run", flags())
    assert f".venv/bin/python {os.path.relpath(ROOT)}/eval.py".replace("./", "") in text.replace("./", "")
    assert f"--run '{tmp_path}/my run' --split valid" in text


ROWS = [Interaction(1, ((1, True),), 2, True), Interaction(1, (), 2, False)]
DATA = Dataset("movie", "stand-in", "movie", {1: Item("A (1990)"), 2: Item("B (1991)")}, ROWS, ROWS[:1], ROWS)


def test_the_config_of_a_run_has_every_flag_with_its_source_and_the_data_it_saw(tmp_path):
    given, resolved = parse_flags(TrainFlags, ["--lr", "0.5"], "", presets)
    run = RunFolder(tmp_path / "run", resume=False)
    run.write_config(run_config(resolved, DATA, pick_device("cpu"), {"data": "0"}))
    config = json.loads((run.path / "config.json").read_text())
    assert set(config["flags"]) == set(TrainFlags.__dataclass_fields__)
    assert config["flags"]["lr"] == {"value": 0.5, "source": "flag"}
    assert config["flags"]["seed"] == {"value": 0, "source": "default"}
    assert config["flags"]["batch_size"]["source"] == "preset demo"
    assert config["data_source"] == "stand-in" and config["rows"] == {"train": 2, "valid": 1, "selection": 1, "test": 2}
    assert {"python", "torch", "numpy"} < set(config["versions"]) and config["fingerprints"] == {"data": "0"}


def test_the_heading_of_results_names_data_model_and_what_happened():
    heading = results_heading(flags("--seed", "5"), DATA, {"steps": 7, "stopped": "patience"})
    assert heading == {
        "data": "movie",
        "data_source": "stand-in",
        "model": "demo",
        "demo_model": True,
        "objective": "paper",
        "kl_weight": 1e-4,
        "template": "tallrec",
        "probability": "softmax",
        "shots": "64",
        "seed": 5,
        "steps": 7,
        "stopped": "patience",
    }


# ---- curves.png ---------------------------------------------------------------------------------


@pytest.mark.parametrize("with_negatives", [True, False])
def test_the_curves_show_the_history_and_name_data_and_model(tmp_path, results, monkeypatch, with_negatives):
    import report.curves as curves

    figures = []
    monkeypatch.setattr(
        curves, "Figure", lambda make=curves.Figure, **options: figures.append(make(**options)) or figures[0]
    )
    history = [{"step": i, "ce_pos": 2.0 / i, "ce_neg": 1.0 * with_negatives, "kl": 0.5 * i} for i in (1, 2, 3, 4)]
    history[1]["valid_auc"], history[3]["valid_auc"] = 0.75, 0.5
    draw_curves(tmp_path / "curves.png", history, results)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    loss, kl, auc = figures[0].axes
    shown = [list(line.get_ydata()) for line in loss.lines]
    assert shown == [[2.0, 1.0, 2 / 3, 0.5], [1.0] * 4][: 1 + with_negatives]
    assert list(kl.lines[0].get_ydata()) == [0.5, 1.0, 1.5, 2.0]
    assert [list(line.get_xdata()) for line in auc.lines[:3]] == [[0], [2, 4], [2]]
    assert "SIMULATED stand-in data" in figures[0].get_suptitle()
