"""eval.py beyond a run's own figures: other wordings, adapters from elsewhere, merged checkpoints."""

import csv
import json
import sys

import numpy as np
import pytest
import torch

import audit
import eval as eval_verb
import train
from cli.verb import run_verb
from data.prompts import TALLREC, prompt_pair
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from errors import DataError
from lora.adapter import load_adapter, read_adapter_config
from lora.inject import add_lora
from metrics import Scored, agreement, auc
from report.tables import wording_table
from run import outcome
from run.base import load_base

WORDS = list(TALLREC.held_out)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A TALLRec folder of 16 rows a split."""
    path = tmp_path_factory.mktemp("rows")
    data = stand_in()
    for split in ("train", "valid", "test"):
        write_split(path / f"{split}.json", getattr(data, split)[:16], data)
    return path


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    """(run folder, merged folder) of eight fp32 steps."""
    parent = tmp_path_factory.mktemp("run")
    argv = [
        "--data",
        rows,
        "--shots",
        16,
        "--max-steps",
        8,
        "--eval-every",
        8,
        "--lr",
        3e-3,
        "--warmup-steps",
        1,
        "--precision",
        "fp32",
    ]
    argv += ["--device", "cpu", "--out", parent / "run", "--merge-out", parent / "merged"]
    with pytest.MonkeyPatch.context() as patch:  # on so few rows nothing beats the base, which would be kept
        patch.setattr(outcome, "metric_values", lambda scored: {"auc": float("nan")})
        train.main([*map(str, argv)])
    return parent / "run", parent / "merged"


def evaluated(capsys, *argv):
    """results.json as eval.py prints it."""
    eval_verb.main([*map(str, argv), "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out)


def predictions(folder):
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return [[float(row[name]) for name in ("p_yes_positive", "p_yes_negative")] for row in csv.DictReader(file)]


# ---- other wordings -----------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["tallrec", "released"])
@pytest.mark.parametrize("asks", WORDS)
def test_a_held_out_wording_stands_in_both_places_and_nothing_else_changes(asks, template):
    data = stand_in()
    for row in data.test[:4]:
        pair = prompt_pair(row, data, template, asks)
        assert pair.negative.count(asks) == 2 and pair.negative.replace(asks, "will like") == pair.positive
        assert pair.positive == prompt_pair(row, data, template).positive
        assert (pair.answer_positive == pair.answer_negative) == TALLREC.held_out[asks]


def test_held_out_wordings_are_four_negations_and_two_paraphrases():
    assert {asks for asks, same in TALLREC.held_out.items() if same} == {"will enjoy", "is going to like"}
    assert {asks for asks, same in TALLREC.held_out.items() if not same} == {
        "will not like",
        "will not enjoy",
        "will hate",
        "will be unlikely to like",
    }


def test_agreement_by_hand():
    z_pos, z_other = np.array([1.0, -1.0, 2.0, -0.5, 3.0]), np.array([2.0, 1.0, -1.0, -2.0, 0.5])
    labels = np.array([True, False, True, True, False])
    scored = Scored([1, 1, 2, 2, 3], labels, z_pos, np.zeros(5))
    same, opposite = agreement(scored, z_other, same_wanted=True), agreement(scored, z_other, same_wanted=False)
    assert same["same_answer_rate"] == opposite["same_answer_rate"] == pytest.approx(3 / 5)
    assert same["inconsistent_rate"] == pytest.approx(2 / 5) and opposite["inconsistent_rate"] == pytest.approx(3 / 5)
    assert same["auc"] == pytest.approx(auc(labels, z_other)) and opposite["auc"] == pytest.approx(1 - same["auc"])
    low, high = same["interval_95"]["inconsistent_rate"]
    assert low <= 2 / 5 <= high


def test_negations_are_those_of_the_model_asked_by_hand(run, rows, capsys):
    out, _ = run
    found = evaluated(capsys, "--run", out, "--negations")["negations"]
    assert [row["asks"] for row in found] == ["will dislike", *WORDS]

    model, tokenizer = load_base("demo", "fp32", torch.device("cpu"))
    add_lora(model, **read_adapter_config(out))
    load_adapter(model, out)
    model.eval().double()
    texts = json.loads((rows / "test.json").read_text())
    yes, no = (tokenizer.encode(f"### Response:\n{answer}")[-2] for answer in ("Yes.", "No."))

    def says_yes(fields, asks):
        header = "Below is an instruction that describes a task, paired with an input that provides further context. "
        header += "Write a response that appropriately completes the request."
        body = f"### Instruction:\n{fields['instruction']}\n\n### Input:\n{fields['input']}".replace("will like", asks)
        ids = tokenizer.encode(f"{header}\n\n{body}\n\n### Response:\n")
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        return bool(logits[yes] > logits[no])

    liked = [says_yes(fields, "will like") for fields in texts]
    for row in found:
        same = np.mean([answer == says_yes(fields, row["asks"]) for answer, fields in zip(liked, texts)])
        wanted = row["asks"] in ("will enjoy", "is going to like")
        assert row["same_answer_is_right"] == wanted
        assert row["same_answer_rate"] == pytest.approx(same)
        assert row["inconsistent_rate"] == pytest.approx(1 - same if wanted else same)


def test_the_wording_of_training_has_the_contradiction_rate(run, capsys):
    results = evaluated(capsys, "--run", run[0], "--negations")
    first = results["negations"][0]
    assert first["trained_on"] and not any(row["trained_on"] for row in results["negations"][1:])
    assert first["inconsistent_rate"] == pytest.approx(results["contradiction_rate"])
    assert first["auc"] == pytest.approx(results["auc_negative"])


def test_the_wording_table_says_what_would_be_right(run, capsys):
    rows = evaluated(capsys, "--run", run[0], "--negations")["negations"]
    lines = {line.split("  ")[0]: line for line in wording_table(rows).splitlines()}
    assert "opposite" in lines["will hate"] and "the same" in lines["will enjoy"] and "will dislike *" in lines
    assert f"{rows[1]['inconsistent_rate']:.3f} [" in lines["will not like"]


# ---- adapters and merged checkpoints ------------------------------------------------------------


def test_an_adapter_by_its_folder_scores_as_its_run_does(run, rows, tmp_path, capsys):
    out, _ = run
    own = evaluated(capsys, "--run", out, "--out", tmp_path / "own")
    other = evaluated(
        capsys, "--model", "demo", "--adapter", out, "--data", rows, "--precision", "fp32", "--out", tmp_path / "other"
    )
    assert predictions(tmp_path / "own") == predictions(tmp_path / "other") and own["auc"] == other["auc"]
    assert other["adapter"] == str(out) and other["run"] is None


def test_a_merged_checkpoint_scores_as_base_and_adapter_to_the_rounding_of_its_dtype(run, rows, tmp_path, capsys):
    """The demo's weights are stored in bf16, and so are the merged ones."""
    out, merged = run
    evaluated(capsys, "--run", out, "--out", tmp_path / "own")
    evaluated(capsys, "--model", merged, "--data", rows, "--precision", "fp32", "--out", tmp_path / "merged")
    evaluated(capsys, "--model", "demo", "--data", rows, "--precision", "fp32", "--out", tmp_path / "base")
    own, by_merged, base = (np.array(predictions(tmp_path / name)) for name in ("own", "merged", "base"))
    assert np.abs(own - by_merged).max() < 0.02 < np.abs(own - base).max()


def test_eval_merges_as_train_does(run, tmp_path, capsys):
    out, merged = run
    evaluated(capsys, "--run", out, "--merge-out", tmp_path / "again")
    for path in merged.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_what_is_merged_into_the_demo_is_still_the_demo(run, capsys):
    """It may be scored on simulated viewers, which a real checkpoint refuses, and its figures are labelled."""
    eval_verb.main(["--model", str(run[1]), "--data", "demo", "--device", "cpu", "--split", "valid", "--json"])
    shown = capsys.readouterr()
    said = " ".join(shown.err.split())
    assert json.loads(shown.out)["demo_model"] and "made from the built-in demo model" in said
    assert "Simulated viewers" in said


@pytest.mark.parametrize(
    "argv, line",
    [
        (
            ("--model", "demo", "--merge-out", "m"),
            "--merge-out: there is no adapter to merge; say which with --run or --adapter",
        ),
        (("--run", "{run}", "--merge-out", "{run}"), "--merge-out {run}: already exists; choose another folder"),
        (
            ("--run", "{run}", "--model", "{merged}", "--merge-out", "{merged}-2"),
            "is merged into {merged} already; merging it again",
        ),
        (("--run", "{run}", "--adapter", "{run}"), "--adapter: --run brings an adapter of its own"),
        (("--model", "demo", "--adapter", "nowhere"), "nowhere/adapter_config.json: missing"),
        (
            ("--model", "demo", "--adapter", "{head}"),
            "{head}/adapter_config.json: target_modules q_proj,lm_head: LoRA on lm_head",
        ),
    ],
)
def test_bad_requests_are_one_line(run, rows, argv, line, tmp_path, monkeypatch, capsys):
    names = {"run": run[0], "merged": run[1], "head": tmp_path}
    config = json.loads((run[0] / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj", "lm_head"]}))
    data = () if "--run" in argv else ("--data", str(rows))
    monkeypatch.setattr(sys, "argv", ["eval.py", *(word.format(**names) for word in argv), *data])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_verb(eval_verb.main)
    shown = capsys.readouterr()
    errors = [text for text in shown.err.splitlines() if "error:" in text]
    assert end.value.code == 2 and shown.out == "" and len(errors) == 1 and line.format(**names) in errors[0]


def test_data_that_changed_since_the_run_are_refused_unless_they_are_asked_for(run, rows, tmp_path, capsys):
    kept = (rows / "test.json").read_text()
    try:
        changed = json.loads(kept)[:-2]
        (rows / "test.json").write_text(json.dumps(changed))
        for verb in (eval_verb, audit):
            with pytest.raises(DataError, match="--run .*: its data are not those that it was trained on"):
                verb.main(["--run", str(run[0])])
        named = evaluated(capsys, "--run", run[0], "--data", rows, "--out", tmp_path / "named")
        assert named["counts"]["rows"] == len(changed)
    finally:
        (rows / "test.json").write_text(kept)


def test_results_that_are_replaced_are_named(run, tmp_path, capsys):
    for told in (False, True):
        eval_verb.main(["--run", str(run[0]), "--rows", "4", "--out", str(tmp_path / "e")])
        assert (f"{tmp_path / 'e'}: the results that were there are replaced" in capsys.readouterr().err) == told
