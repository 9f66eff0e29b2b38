"""predict.py against a float64 model that scores one prompt at a time, with the wording written out here."""

import json

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

import predict
from data.users import user_rows
from lora.adapter import save_adapter
from lora.inject import add_lora
from metrics import Scored
from model.demo import DEMO_FOLDER
from model.weights import load_llama
from report.predictions import prediction_table
from tensors import trainable_parameters

PROMPT = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.{lint}

### Instruction:
Given the user's preference and unpreference, identify whether the user will {question} \
the target {noun} by answering "Yes." or "No.".

### Input:
User Preference: {liked}
User Unpreference: {disliked}
Whether the user will {asks_again} the target {noun} "{target}"?

### Response:
"""
TARGETS = ["Lantern, The (1971)", 'The "Quoted" Man (1984)', "Nîmes (1966)", "Wires (1993)", "A", "B"]


def with_a_tokenizer(make_checkpoint, tokenizer_bytes):
    """A folder with a tiny random LLaMA and a tokenizer in which Yes and No are one token each."""
    size = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes).GetPieceSize()
    folder = make_checkpoint(vocab_size=size, max_position_embeddings=2048)
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes)
    return folder


def predict_json(capsys, *argv):
    """(the JSON line, all that a terminal shows without --json) of predict.py under these flags."""
    argv = [*map(str, argv), "--device", "cpu", "--precision", "fp32"]
    predict.main(argv)
    text = capsys.readouterr()
    predict.main([*argv, "--json"])
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1  # the table goes where the JSON goes
    assert [line.split(" in ")[0] for line in shown.err.split("\n")] == [
        line.split(" in ")[0] for line in text.err.split("\n")
    ]
    if "--show-prompt" not in argv:
        assert all(len(line) <= 80 for line in text.out.splitlines() if "/" not in line)  # but for names of files
    return json.loads(shown.out), text.err + text.out


@pytest.fixture
def checkpoint(make_checkpoint, tokenizer_bytes):
    return with_a_tokenizer(make_checkpoint, tokenizer_bytes)


@pytest.fixture
def by_hand(checkpoint, tokenizer_bytes):
    """by_hand(model, liked, disliked, target, ...): (P(Yes) / (P(Yes) + P(No)) of both prompts, z+ - z-)."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    yes, no = pieces.PieceToId("Yes"), pieces.PieceToId("No")

    def log_odds(model, prompt):
        with torch.no_grad():
            logits = model(torch.tensor([[1, *pieces.EncodeAsIds(prompt)]]))[0, -1]
        return float(logits[yes] - logits[no])

    def compute(model, liked, disliked, target, noun="movie", released=False):
        shared = {
            "liked": liked,
            "disliked": disliked,
            "target": target,
            "noun": noun,
            "lint": "  # noqa: E501" if released else "",
        }
        z_pos = log_odds(model, PROMPT.format(question="like", asks_again="like", **shared))
        z_neg = log_odds(
            model, PROMPT.format(question="dislike", asks_again="like" if released else "dislike", **shared)
        )
        return 1 / (1 + np.exp(-z_pos)), 1 / (1 + np.exp(-z_neg)), z_pos - z_neg

    return compute


@pytest.fixture
def call(capsys):
    return lambda *argv: predict_json(capsys, *argv)


def contradiction(p_pos, p_neg):
    return {(True, True): "Yes/Yes", (False, False): "No/No"}.get((p_pos > 0.5, p_neg > 0.5))


def flags_for(**titles):
    return [word for name, found in titles.items() for title in found for word in (f"--{name}", title)]


# ---- one user -----------------------------------------------------------------------------------


def test_probabilities_score_rank_and_contradiction_equal_those_by_hand(call, by_hand, checkpoint):
    model = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    argv = flags_for(liked=["Heat, The (1995)", 'Say "No"'], disliked=["Alien (1979)"], target=TARGETS)
    results, shown = call("--model", checkpoint, *argv)
    found = results["predictions"]
    assert sorted(row["target"] for row in found) == sorted(TARGETS)
    for row in found:
        p_pos, p_neg, score = by_hand(model, '"Heat, The (1995)", "Say "No""', '"Alien (1979)"', row["target"])
        assert row["p_yes_positive"] == pytest.approx(p_pos, abs=1e-4) and row["p_yes_negative"] == pytest.approx(
            p_neg, abs=1e-4
        )
        assert row["score"] == pytest.approx(score, abs=1e-3) and row["contradiction"] == contradiction(p_pos, p_neg)
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert all(above["score"] >= below["score"] for above, below in zip(found, found[1:]))
    lines = [line for line in shown.splitlines() if any(row["target"] in line for row in found)]
    for row, line in zip(found, lines, strict=True):  # the table has the same, best first
        numbers = [
            f"{row['p_yes_positive']:.3f}",
            f"{row['p_yes_negative']:.3f}",
            f"{row['score']:+.3f}",
            row["contradiction"] or "-",
        ]
        assert line.split() == [str(row["rank"]), *row["target"].split(), *numbers]


def test_a_real_model_is_not_called_a_stand_in(call, checkpoint):
    results, shown = call("--model", checkpoint, "--target", "A")
    assert results["stand_in"] is False and "stand-in" not in shown.lower() and "DEMO" not in shown
    assert f"{checkpoint}; no adapter" in shown and "P(Yes) / (P(Yes) + P(No))" in shown


def test_the_prompt_of_a_user_without_history_has_two_empty_lists(call, by_hand, checkpoint):
    model = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    (row,) = call("--model", checkpoint, "--target", "A", "--noun", "board game")[0]["predictions"]
    p_pos, p_neg, _ = by_hand(model, "", "", "A", noun="board game")
    assert (row["p_yes_positive"], row["p_yes_negative"]) == pytest.approx((p_pos, p_neg), abs=1e-4)


@pytest.fixture
def run_folder(checkpoint, tmp_path):
    """A run's config.json and adapter, and the base in float64 with that adapter added to its weights by hand."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = load_llama(checkpoint, torch.float32, torch.device("cpu"))
    settings = {"r": 2, "alpha": 6.0, "dropout": 0.0, "rslora": False, "targets": ("q_proj", "v_proj")}
    add_lora(model, **settings)
    torch.manual_seed(5)
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(model, folder, {**settings, "base": str(checkpoint), "base_fingerprint": ""})
    values = {"model": str(checkpoint), "template": "released", "max_len": 600}
    entries = {name: {"value": value, "source": "flag"} for name, value in values.items()}
    (folder / "config.json").write_text(json.dumps({"flags": entries, "noun": "book", "data_source": "given"}))
    merged = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for name in [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]:
            change = tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double() * 6.0 / 2
            merged.get_submodule(name.removeprefix("base_model.model.")).weight.add_(change)
    return folder, merged


def test_a_run_supplies_its_base_adapter_template_and_noun_which_flags_replace(call, by_hand, run_folder):
    folder, merged = run_folder
    results, shown = call("--run", folder, "--liked", "Heat", "--target", "A", "--target", "B")
    assert (results["noun"], results["template"], results["stand_in"]) == ("book", "released", False)
    assert f"adapter of {folder}" in shown
    for row in results["predictions"]:
        expected = by_hand(merged, '"Heat"', "", row["target"], noun="book", released=True)
        assert (row["p_yes_positive"], row["p_yes_negative"], row["score"]) == pytest.approx(expected, abs=1e-3)
    (row,) = call("--run", folder, "--target", "A", "--template", "paper", "--noun", "film")[0]["predictions"]
    expected = by_hand(merged, "", "", "A", noun="film")
    assert (row["p_yes_positive"], row["p_yes_negative"], row["score"]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("source, expected", [("stand-in", True), ("MovieLens-100K", False)])
def test_a_run_tuned_on_simulated_viewers_is_marked_as_a_stand_in(call, run_folder, source, expected):
    folder, _ = run_folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "data_source": source}))
    results, shown = call("--run", folder, "--target", "A")
    assert results["stand_in"] is expected and ("STAND-IN" in shown) is expected


def test_without_run_or_model_the_demo_model_answers_and_is_named_everywhere(call):
    results, shown = call("--liked", "Alien (1979)", "--target", "Aliens (1986)")
    assert results["stand_in"] is True and results["model"] == "demo"
    assert (
        shown.startswith("DEMO MODEL: ")
        and "untuned" in shown
        and "simulated viewers" in shown
        and "--run runs/NAME" in shown
    )
    assert "STAND-IN (simulated viewers): built-in demo model; no adapter" in shown
    results, shown = call("--model", DEMO_FOLDER / ".." / "model", "--target", "A")  # the same by another name
    assert results["stand_in"] is True and "STAND-IN" in shown and "DEMO MODEL" not in shown


def test_a_prompt_that_lost_history_is_reported(call, checkpoint, by_hand, tokenizer_bytes):
    model = load_llama(checkpoint, torch.float32, torch.device("cpu")).double().eval()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    shared = {
        "question": "dislike",
        "asks_again": "dislike",
        "noun": "movie",
        "lint": "",
        "disliked": '"bad"',
        "target": "A",
    }
    whole = PROMPT.format(liked='"old", "mid", "new"', **shared)
    length = len(pieces.EncodeAsIds(whole + "Yes.")) + 2  # BOS, and EOS after the answer
    argv = ("--model", checkpoint, *flags_for(liked=["old", "mid", "new"], disliked=["bad"], target="A"))
    assert "--max-len" not in call(*argv, "--max-len", length)[1]
    results, shown = call(*argv, "--max-len", length - 1)
    assert f"--max-len {length - 1}: 1 of 1 prompts lost their oldest history items" in shown
    assert results["predictions"][0]["score"] == pytest.approx(
        by_hand(model, '"mid", "new"', '"bad"', "A")[2], abs=1e-3
    )


# ---- histories and ranks ------------------------------------------------------------------------


def test_the_longer_list_loses_its_oldest_item_first_and_each_list_keeps_its_order():
    (row,) = user_rows("u", ("1", "2", "3"), ("x", "y"), ("T",))
    assert row.history == (("1", True), ("2", True), ("x", False), ("3", True), ("y", False))
    assert (row.user, row.target) == ("u", "T")


def scored(z_pos, z_neg, users):
    z_pos, z_neg = np.array(z_pos, dtype=float), np.array(z_neg, dtype=float)
    nothing = np.full(len(users), -20.0)
    return Scored(users, np.zeros(len(users), bool), z_pos - 20, nothing, z_neg - 20, nothing, nothing * 0, nothing * 0)


def test_ranks_are_per_user_in_any_row_order_and_equal_scores_keep_their_order():
    users = ["a", "b", "a", "a", "b", "a"]
    rows = [row for i, user in enumerate(users) for row in user_rows(user, (), (), (f"T{i}",))]
    found = predict.predictions(rows, scored([1, 3, 2, -1, 1, 3], [1, -1, 0, 1, -3, 1], users))
    assert [row["score"] for row in found] == [0, 4, 2, -2, 4, 2]
    assert [row["rank"] for row in found] == [3, 1, 1, 4, 2, 2]
    assert [row["contradiction"] for row in found] == ["Yes/Yes", None, None, None, None, "Yes/Yes"]
    assert [row["target"] for row in found] == ["T0", "T1", "T2", "T3", "T4", "T5"]
    assert found[0]["p_yes_positive"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_the_table_names_both_kinds_of_contradiction():
    rows = [row for name in ("A", "B", "C") for row in user_rows(None, (), (), (name,))]
    found = predict.predictions(rows, scored([2, -2, 1], [1, -1, -1], [None] * 3))
    table = prediction_table(
        {"run": None, "adapter": None, "model": "DIR", "demo_model": False, "stand_in": False, "predictions": found}
    )
    cells = [line.split() for line in table.splitlines() if line[:4].strip().isdigit()]
    assert [(row[1], row[-1]) for row in cells] == [("A", "Yes/Yes"), ("B", "No/No"), ("C", "-")]
