"""audit.py and predict.py --interactive on runs with vectors in their prompts."""

# ruff: noqa: F401, F811 (imported fixtures)

import csv
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import audit
import auditing.checks
import auditing.terms
import eval as eval_verb
import predict
from cli.data import load_data
from cli.flags import parse_flags
from cli.model import RunDataFlags
from data.splits import Wanted, encode_wanted
from errors import AdapterError, RunError
from run.checkpoint import _put_best
from run.collaborative import load_recommender, place
from run.restore import resolve_settings, restore_model
from run.vectors import restore_vectors
from tests.test_collaborative import data_at, folder, published, quick, recommenders, second, stage_1, stage_2, start


@pytest.fixture(scope="module")
def runs(second, stage_2, published, tmp_path_factory):
    """{what stands in the prompt and was trained: the folder of the run}."""
    parent = tmp_path_factory.mktemp("runs")
    return {
        "collm": stage_2,
        "lcft-colmf": second(parent / "lcft", "--objective", "lcft-colmf", "--kl-weight", "0.3"),
        "lcft-colmf ce": second(parent / "ce", "--objective", "lcft-colmf", "--main-loss", "ce"),
        "sasrec": second(parent / "sasrec", method="sasrec-full"),
        "prompt4nr": start("ml-1m", parent / "soft", "--data-dir", published, "--soft-prompt", "normal"),
    }


@pytest.fixture(autouse=True)
def one_tensor(monkeypatch):
    """Central differences for one tensor of LoRA and one of the vectors: each takes a second."""
    monkeypatch.setattr(auditing.checks, "CHECKED_TENSORS", 1)


# ---- audit.py -----------------------------------------------------------------------------------


def audited(run, capsys, *flags):
    capsys.readouterr()
    audit.main(["--run", str(run), "--sample", "1", "--device", "cpu", "--json", *flags])
    output = capsys.readouterr()
    return json.loads(output.out), output.err


@pytest.mark.parametrize("name, split", [("lcft-colmf", "test"), ("sasrec", "train"), ("prompt4nr", "test")])
def test_every_value_agrees_with_a_second_computation_the_vectors_among_them(runs, capsys, name, split, tmp_path):
    report, text = audited(runs[name], capsys, "--split", split, "--html", str(tmp_path / "a.html"))
    assert report["ok"] and "equal those of a second computation" in text
    places = ["<UserID>", "<TargetItemID>"] if name != "prompt4nr" else report["vectors"]
    assert report["vectors"] == places and len(places) in (2, 6)
    rows = {side: [token["piece"] for token in row] for side, row in report["rows"].items()}
    assert all(sorted(piece for piece in row if piece in places) == sorted(places) for row in rows.values())
    whats = [check["what"] for check in report["value_checks"]]
    objective = name if name == "lcft-colmf" else "collm"
    assert {f"CE, {objective}", f"KL, {objective}", f"L, {objective}"} <= set(whats)
    assert {f"vector of {place}, the worst number" for place in places} <= set(whats)
    of_vectors = [check for check in report["gradient_checks"] if ".vectors." in check["entry"]]
    assert all(check["autograd"] for check in of_vectors if check["what"] == f"CE, {objective}")
    assert any(abs(check["autograd"]) > 1e-4 for check in of_vectors if check["what"] == "CE, own")
    assert f"Trained with --objective {objective}" in " ".join(text.split())
    assert all(place.strip("<>") in (tmp_path / "a.html").read_text() for place in places)


def test_a_wrong_vector_and_a_wrong_loss_are_noticed(runs, capsys, monkeypatch):
    real = auditing.terms.yes_logit_loss
    monkeypatch.setattr(auditing.terms, "yes_logit_loss", lambda *args: real(*args) * 1.001)
    monkeypatch.setattr("run.vectors.place", _one_too_low)
    with pytest.raises(SystemExit) as end:
        audited(runs["lcft-colmf"], capsys)
    assert end.value.code == 1
    failed = {check["what"] for check in json.loads(capsys.readouterr().out)["value_checks"] if not check["ok"]}
    vectors = {what for what in failed if what.startswith("vector of")}
    assert {what.split(",")[0] for what in vectors} == {"vector of <UserID>", "vector of <TargetItemID>"}
    assert failed - vectors == {"CE, lcft-colmf", "L, lcft-colmf"}


def _one_too_low(recommender, rows):
    """place, with the vectors of every user and item taken one row too low in the table."""
    placed = place(recommender, rows)
    return replace(placed, numbers=lambda row: tuple(number - 1 for number in placed.numbers(row)))


# ---- predict.py --interactive -------------------------------------------------------------------


def conversation(run, monkeypatch, capsys, *flags, kind="Film"):
    """(what it answers, what it says) about one title, after one that is liked."""
    lines = iter([f"{kind} 1", "1", "", *([""] if kind == "Film" else []), f"{kind} 3", "1"])

    def ask(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(predict, "ask_at_terminal", ask)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    capsys.readouterr()
    predict.main(["--run", str(run), "--device", "cpu", "--interactive", *flags])
    output = capsys.readouterr()
    return output.out, output.err


def of_predict(capsys, *flags):
    capsys.readouterr()
    predict.main([*flags, "--liked", "Film 1", "--target", "Film 3", "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out)["predictions"][0]


@pytest.mark.parametrize("name", ["collm", "sasrec"])
def test_the_answers_are_those_of_predict_for_this_user_and_of_the_base_in_text(runs, name, monkeypatch, capsys):
    shown, said = conversation(runs[name], monkeypatch, capsys, "--user", "u1")
    after = of_predict(capsys, "--run", str(runs[name]), "--user", "u1")
    before = of_predict(capsys, "--model", "demo", "--noun", "item")
    for word, found in (("before", before), ("after", after)):
        (line,) = [line for line in shown.splitlines() if line.strip().startswith(f"{word} tuning")]
        assert f"{found['p_yes_positive']:.3f}" in line and f"{found['p_yes_negative']:.3f}" in line
    assert "after, it is the sigmoid of the logit of Yes" in shown and "no vector is in the prompts" in shown
    assert "vector of the unknown" not in said


def test_a_conversation_without_a_user_says_once_whose_vector_stands_there(stage_2, stage_1, monkeypatch, capsys):
    _, said = conversation(stage_2, monkeypatch, capsys)
    assert said.count("1 of 1 users are not among the training users") == 1
    shown, said = conversation(stage_1, monkeypatch, capsys, "--user", "u1")
    assert "--user: has no effect" in said and "after, it is the sigmoid" in shown


def test_a_conversation_with_a_soft_prompt(runs, monkeypatch, capsys):
    shown, said = conversation(runs["prompt4nr"], monkeypatch, capsys, kind="film")
    assert "after tuning" in shown and "unknown" not in said


# ---- which probability --------------------------------------------------------------------------


def read_by_hand(run):
    """{reading: (P(yes) to X+, to X-) of each test row} from the logits of whole rows, without scoring/."""
    flags, resolved = parse_flags(RunDataFlags, ["--run", str(run), "--device", "cpu"], "")
    settings, config = resolve_settings(flags, resolved)
    data = load_data(vars(settings))
    model, tokenizer = restore_model(flags, settings)
    data = restore_vectors(model, data, data.test, run)
    wanted = Wanted("test", settings.template, settings.max_len, count=6)
    found = {"sigmoid": [], "softmax": []}
    for pair in encode_wanted(data.test, data, tokenizer, wanted).pairs:
        yes, no = (pair.positive.answer[0], pair.negative.answer[0])[:: 1 if pair.liked else -1]
        with torch.no_grad():
            rows = [model(torch.tensor([side.prompt]))[0, -1].double() for side in (pair.positive, pair.negative)]
        found["sigmoid"].append([float(row[yes].sigmoid()) for row in rows])
        found["softmax"].append([float((row[yes] - row[no]).sigmoid()) for row in rows])
    return found


@pytest.mark.parametrize(
    "name, flags, reading",
    [
        ("collm", (), "sigmoid"),
        ("lcft-colmf", (), "sigmoid"),
        ("lcft-colmf ce", (), "softmax"),
        ("prompt4nr", (), "sigmoid"),
        ("collm", ("--probability", "softmax"), "softmax"),
    ],
)
def test_auc_calibration_and_contradictions_are_of_the_probability_that_is_named(runs, name, flags, reading, tmp_path):
    run, out = runs[name], tmp_path / "scored"
    eval_verb.main(["--run", str(run), "--rows", "6", "--device", "cpu", "--out", str(out), *flags])
    results = json.loads((out / "results.json").read_text())
    assert results["probability"] == reading
    with open(out / "predictions.csv") as file:
        lines = list(csv.DictReader(file))
    labels = np.array([int(line["label"]) for line in lines])
    p = np.array([[float(line[f"p_yes_{side}"]) for side in ("positive", "negative")] for line in lines])
    np.testing.assert_allclose(p, read_by_hand(run)[reading], atol=0.02)  # bf16, and in the tree another order
    assert results["brier"] == pytest.approx(((p[:, 0] - labels) ** 2).mean(), abs=1e-6)
    assert results["contradiction_rate"] == pytest.approx(((p[:, 0] > 0.5) == (p[:, 1] > 0.5)).mean())
    wins = [(a > b) + (a == b) / 2 for a in p[labels == 1, 0] for b in p[labels == 0, 0]]
    assert results["auc"] == pytest.approx(np.mean(wins), abs=1e-9)


def test_examples_in_the_prompt_are_read_by_softmax(folder, tmp_path):
    asked = ["--model", "demo", "--data", folder, "--rows", "6", "--examples", "2", "--max-len", "2048"]
    eval_verb.main([*asked, "--device", "cpu", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text())["probability"] == "softmax"


# ---- damaged run folders ------------------------------------------------------------------------


def changed(run, tmp_path, **changes):
    copy = shutil.copytree(run, tmp_path / "copy")
    record = json.loads((copy / "vectors.json").read_text()) | changes
    (copy / "vectors.json").write_text(json.dumps(record))
    return copy


def test_ids_that_are_no_list_are_refused_by_every_verb(stage_2, tmp_path):
    asked = ["--run", str(changed(stage_2, tmp_path, users=3)), "--device", "cpu"]
    for verb, more in ((predict, ["--liked", "Film 1", "--target", "Film 3"]), (audit, []), (eval_verb, [])):
        with pytest.raises(RunError, match="vectors.json: users is no list of ids"):
            verb.main([*asked, *more])


@pytest.mark.parametrize(
    "name, size, file",
    [
        ("collm", {"dim": 4096}, "vectors"),
        ("sasrec", {"dim": 4096, "blocks": 100}, "vectors"),
        ("sasrec", {"length": 1000, "blocks": 100}, "recommender"),
    ],
)
def test_sizes_that_the_files_do_not_have_are_refused_before_memory_is_taken(
    runs, name, size, file, tmp_path, monkeypatch
):
    settings = json.loads((runs[name] / "vectors.json").read_text())["settings"]
    copy = changed(runs[name], tmp_path, settings=settings | size)
    monkeypatch.setattr("torch.nn.init.uniform_", _refuse_to_fill(torch.nn.init.uniform_))
    with pytest.raises(AdapterError, match=f"{file}.safetensors: its tensors do not fit the model"):
        eval_verb.main(["--run", str(copy), "--device", "cpu"])


def test_a_recommender_whose_settings_ask_for_other_sizes_is_refused_before_memory_is_taken(
    recommenders, folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(recommenders["sasrec-full"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["settings"] |= {"dim": 4096, "blocks": 100}  # 40 GB
    (copy / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("torch.nn.init.uniform_", _refuse_to_fill(torch.nn.init.uniform_))
    with pytest.raises(AdapterError, match="best.safetensors: its tensors do not fit the model"):
        load_recommender(f"sasrec-full:{copy}", data_at(folder))


def _refuse_to_fill(fill):
    def small(tensor, *args, **kwargs):
        assert tensor.is_meta or tensor.numel() < 10**7, "memory was taken"
        return fill(tensor, *args, **kwargs)

    return small


@pytest.mark.parametrize(
    "name, file, message",
    [
        ("sasrec", "recommender.safetensors", "recommender.safetensors: missing; it belongs to vectors.json"),
        ("collm", "catalogue.jsonl", "catalogue.jsonl: missing; titles get their vectors by it, so fetch it too"),
    ],
)
def test_a_file_that_is_missing_is_named(runs, name, file, message, tmp_path):
    copy = shutil.copytree(runs[name], tmp_path / "copy")
    (copy / file).unlink()
    with pytest.raises(RunError, match=message):
        predict.main(["--run", str(copy), "--liked", "Film 1", "--target", "Film 3", "--device", "cpu"])


def test_a_best_state_that_is_gigabytes_or_no_file_is_replaced_without_being_read(stage_2, tmp_path):
    copy, name = shutil.copytree(stage_2, tmp_path / "copy"), "vectors.safetensors"
    os.truncate(copy / name, 3 * 2**30)  # sparse
    _put_best(copy / name, b"whole")
    assert (copy / name).read_bytes() == b"whole"
    (copy / name).unlink()
    os.mkfifo(copy / name)
    _put_best(copy / name, b"whole")
    assert (copy / name).read_bytes() == b"whole"
