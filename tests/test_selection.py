"""--select: the state that is best by the measure that was asked for is the run's, and the others are told of."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from cli.flags import parse_flags
from cli.train import TrainFlags, check_flags
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from data.splits import encode_split
from errors import FlagError, UserError
from metrics import ALL_RIGHT, DEFAULT_SELECTION, SELECTABLE, Scored, metric_values
from report.selection import selection_table
from report.tables import tuning
from run.base import load_base
from run.inputs import asked_otherwise, other_questions
from run.progress import Progress
from run.selection import selection
from run.validate import read_progress
from scoring.splits import log_odds_of_question, score_split, validation_measures
from tests.kill_points import small_run

VALIDATIONS = [  # of three steps, each best by another measure
    {"valid_auc": 0.9, "valid_auc_combined": 0.1, "valid_informative_consistency": -0.5},
    {"valid_auc": 0.5, "valid_auc_combined": 0.8, "valid_informative_consistency": -0.6},
    {"valid_auc": 0.6, "valid_auc_combined": 0.7, "valid_informative_consistency": 0.1},
]


@pytest.mark.parametrize("measure, best", [("auc", 1), ("auc_combined", 2), ("informative_consistency", 3)])
def test_the_loop_keeps_the_state_that_is_best_by_the_measure(measure, best, tmp_path):
    values = iter(VALIDATIONS)
    progress = small_run(tmp_path / "chosen", lambda: next(values), select=measure)
    assert (progress.best_step, progress.best_value) == (best, VALIDATIONS[best - 1][f"valid_{measure}"])
    state = tmp_path / "chosen" / "last" / f"step-{best:08d}" / "trained.safetensors"  # the last two are kept
    if best > 1:
        kept, then = (load_file(file) for file in (tmp_path / "chosen" / "adapter_model.safetensors", state))
        assert sorted(tensor.sum().item() for tensor in kept.values()) == sorted(t.sum().item() for t in then.values())


def test_the_measure_also_decides_when_a_run_stops(tmp_path):
    falling = [{"valid_auc": 0.5 + step / 10, "valid_auc_combined": 0.5 - step / 10} for step in range(3)]
    by_auc, by_both = iter(falling), iter(falling)
    assert small_run(tmp_path / "a", lambda: next(by_auc), patience=1).step == 3
    stopped = small_run(tmp_path / "b", lambda: next(by_both), patience=1, select="auc_combined")
    assert (stopped.step, stopped.best_step) == (2, 1)


@pytest.mark.parametrize(
    "select, more",
    [("informative_consistency", []), (ALL_RIGHT, ["--train-negatives", 2, "--train-paraphrases", 2])],
)
def test_a_run_records_every_measure_and_what_the_others_would_have_chosen(select, more, tmp_path, capsys):
    """Sixteen rows a split, so that it is quick."""
    data = stand_in()
    (tmp_path / "rows").mkdir()
    for split in ("train", "valid", "test"):
        write_split(tmp_path / "rows" / f"{split}.json", getattr(data, split)[:16], data)
    argv = ["--data", tmp_path / "rows", "--shots", 4, "--max-steps", 2, "--eval-every", 1, "--precision", "fp32"]
    argv += ["--device", "cpu", "--lr", 0.01, "--select", select, "--out", tmp_path / "run", *more]
    train.main([*map(str, argv)])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    selectable = [name for name in SELECTABLE if more or name != ALL_RIGHT]
    measures = {f"valid_{name}" for name in (*selectable, "contradiction_rate", "group_accuracy", "arbitrage")}
    assert all(measures <= set(line) for line in lines)
    states = {0: results["valid"]["before"]} | {
        line["step"]: {name.removeprefix("valid_"): line[name] for name in measures} for line in lines
    }
    for measure in selectable:
        step = max(states, key=lambda step: states[step][measure])
        assert results["selection"][measure]["step"] == step
    best = results["selection"][select]
    assert results["select"] == select and results["best_step"] == best["step"]
    assert {name: results["valid"]["after"][name] for name in best["valid"]} == pytest.approx(best["valid"], abs=1e-4)
    shown = capsys.readouterr().out
    assert f"* chose this run's state (--select {select})" in shown and max(map(len, shown.splitlines())) <= 80
    with pytest.raises(UserError, match=f"--select auc: the run in .* was started with {select}"):
        train.main(["--resume", "--out", str(tmp_path / "run"), "--select", "auc"])
    train.main(["--resume", "--out", str(tmp_path / "run")])  # reads the base's answers, in other words too, again
    assert json.loads((tmp_path / "run" / "results.json").read_text())["valid"] == results["valid"]


def test_all_right_is_what_asking_each_question_by_itself_gives():
    model, tokenizer = load_base("demo", "fp32", torch.device("cpu"))
    data, rows, words = stand_in(), stand_in().valid[:12], ["is going to like", "will not like"]
    flags = TrainFlags(select=ALL_RIGHT, train_negatives=2, train_paraphrases=2)
    assert other_questions(data, flags) == tuple(words)
    assert other_questions(data, replace(flags, select="auc")) == ()
    split = encode_split(rows, data, tokenizer, "tallrec", 512)
    found = validation_measures(
        model, replace(split, others=asked_otherwise(rows, tuple(words), data, tokenizer, flags))
    )
    labels, asked = np.array([row.label for row in rows]), ["will like", "will dislike", *words]
    right = np.ones(12, dtype=bool)
    for question, same in zip(asked, (True, False, True, False)):
        pairs = encode_split(rows, data, tokenizer, "tallrec", 512, question=question)
        right &= (log_odds_of_question(model, pairs, question) > 0) == (labels == same)
    assert found[f"valid_{ALL_RIGHT}"] == pytest.approx(right.mean() - max(labels.mean(), 1 - labels.mean()))


def test_in_all_words_needs_several_of_them():
    with pytest.raises(FlagError, match=f"--select {ALL_RIGHT}: asks in all words of training; add --train-negatives"):
        parse_flags(TrainFlags, ["--select", ALL_RIGHT], "", check=check_flags)


def test_the_default_is_one_of_them_and_a_run_that_follows_another_says_so():
    assert DEFAULT_SELECTION in SELECTABLE
    told = {"objective": "tallrec", "shots": "4", "seed": 0}
    assert tuning(told) == tuning(told | {"select": "auc"}) == "objective tallrec, 4 shots, seed 0"
    assert tuning(told | {"select": "auc_combined"}).endswith("best state chosen by auc_combined")
    part = {"valid": {"chosen": {"rows": 5, "of": 9, "too_long": 0}}, "select": "auc_combined"}
    assert tuning(told | part).endswith("chosen on 5 of 9 validation rows (seeded subset), by auc_combined")


# ---- by hand ------------------------------------------------------------------------------------

LABELS = np.array([True, True, False, False])
BASE = Scored([1, 2, 3, 4], LABELS, odds=np.array([[0.1, 0.1], [0.2, 0.1], [0.3, 0.1], [0.4, 0.1]]))
FIGURES = ("auc", "auc_combined", "informative_consistency", "contradiction_rate", "group_accuracy", "arbitrage")


def line(step, *values):
    return {"step": step, **{f"valid_{name}": value for name, value in zip(FIGURES, values)}}


def test_each_measure_names_the_first_of_its_best_states():
    history = [line(1, 0.6, 0.5, -0.5, 1.0, 0.0, 0.1), {"step": 2, "loss": 1.0}, line(3, 0.6, 0.7, 0.1, 0.1, 0.6, 0.1)]
    history.append(line(4, 0.5, 0.7, 0.2, 0.0, 0.7, 0.1))
    found = selection(history, BASE, "auc", Progress(step=4, best_value=0.6, best_step=1))
    assert {name: state["step"] for name, state in found["selection"].items()} == {
        "auc": 1,
        "auc_combined": 3,
        "informative_consistency": 4,
    }
    assert found["best_valid_auc"] == 0.6 and found["selection"]["auc_combined"]["valid"]["group_accuracy"] == 0.6
    table = selection_table(found)
    assert [row.split()[:3] for row in table[2:5]] == [
        ["AUC", "*", "1"],
        ["AUC,", "both", "3"],
        ["informative", "4", "0.500"],
    ]
    assert max(map(len, table)) <= 80


def test_of_a_run_that_version_0_1_began_only_what_every_line_has_is_said():
    history = [{"step": 1, "valid_auc": 0.6}, line(2, 0.5, 0.7, 0.2, 0.0, 0.7, 0.1)]
    found = selection(history, BASE, "auc", Progress(step=2, best_value=0.6, best_step=1))
    assert found["selection"] == {"auc": {"step": 1, "valid": {"auc": 0.6, **dict.fromkeys(found_names(found), None)}}}
    assert " - " in selection_table(found)[2]
    assert selection_table({"best_step": 0}) == []


def found_names(found):
    return set(found["selection"]["auc"]["valid"]) - {"auc"}


def test_a_base_that_nothing_beats_is_step_0():
    found = selection([line(1, 0.0, 0.0, -0.5, 1.0, 0.0, 0.1)], BASE, "auc", Progress(step=1, best_value=0.0))
    assert found["best_valid_auc"] == 0.0 and found["selection"]["auc_combined"]["step"] == 0


def test_a_state_of_version_0_1_is_read_as_one_that_the_auc_chose():
    old = {"step": 3, "best_auc": 0.625, "best_step": 2, "since_best": 1}
    assert read_progress(old) == Progress(step=3, best_value=0.625, best_step=2, since_best=1)
    with pytest.raises(ValueError, match="how far"):
        read_progress(old | {"best_value": 0.5})


def test_a_validation_measures_what_scoring_with_the_whole_vocabulary_measures():
    """But for what needs the vocabulary; log-odds differ in rounding alone."""
    model, tokenizer = load_base("demo", "fp32", torch.device("cpu"))
    data = stand_in()
    split = encode_split(data.valid[:10], data, tokenizer, "tallrec", 512)
    found = validation_measures(model, split)
    full = metric_values(score_split(model, split))
    assert set(full) - {name.removeprefix("valid_") for name in found} == {
        "auc_published_score",
        "answer_mass",
        "kl",
        "js",
    } | {name for name in full if np.isnan(full[name])}
    for name, value in found.items():
        assert value == pytest.approx(full[name.removeprefix("valid_")], abs=1e-4), name
    other = replace(split, pairs=[replace(pair, negative=pair.positive) for pair in split.pairs])
    assert validation_measures(model, other)["valid_contradiction_rate"] == 1
