"""The audit agrees with the training loop, detects a wrong loss, and shows every figure."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

import audit
import auditing.checks
import auditing.figures
import auditing.naive
import auditing.terms
import loss
from auditing.tail import Tail
from auditing.terms import READINGS, gradients, rows_of, terms_of
from cli.train import TrainFlags
from cli.verb import run_verb
from data.pairs import EncodedPair, Row
from errors import RunError
from lora.inject import add_lora, lora_layers
from objectives.by_name import make_objective
from report.audit_page import PAGE_HEADING, audit_page
from report.audit_text import RED, audit_text, prompts
from tensors import trainable_parameters

KL_WEIGHT = 0.3


class Pieces:
    """A stub for the tokenizer: a name for every id."""

    def piece(self, token_id):
        return f"<w{token_id}>"

    def ends_line(self, token_id):
        return False


@pytest.fixture
def model(tiny_llama):
    """Two layers with LoRA on q_proj and v_proj, every B random."""
    torch.manual_seed(3)
    model = tiny_llama(num_key_value_heads=2)
    add_lora(model, r=2, dropout=0.5)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model.eval()


@pytest.fixture
def pair():
    """The negative prompt is one token longer; the answers have three tokens each and differ in the first."""
    return EncodedPair(Row([1, 5, 6, 7, 8, 9], [10, 12, 2]), Row([1, 5, 6, 17, 18, 8, 9], [11, 12, 2]), "the pair")


@pytest.fixture
def figures(model, pair):
    return audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")


HEADING = {
    "run": None,
    "model": "demo",
    "demo_model": True,
    "adapter": "runs/a",
    "data": "movie",
    "data_source": "stand-in",
    "template": "tallrec",
    "precision": "fp32",
    "base_dtype": "same",
    "split": "test",
    "sample": 3,
    "user": 7,
    "target": 'A <b>bold</b> & "quoted" film',
    "label": True,
    "kl_weight": KL_WEIGHT,
    "trained": None,
    "vectors": [],
}


@pytest.fixture
def report(figures):
    return {**HEADING, **figures}


# ---- the figures equal those of the training loop -----------------------------------------------


def test_every_check_agrees_and_there_are_as_many_as_expected(figures):
    assert figures["ok"] and all(check["ok"] for check in figures["value_checks"] + figures["gradient_checks"])
    # Four terms of three tokens; CE, KL and L of four readings; for each token four log-probabilities and two checks of
    # three lists of words; four parts of the row and its worst position.
    assert len(figures["value_checks"]) == 4 * 3 + 4 * 3 + 3 * (4 + 2 * 3) + 5
    assert len({check["entry"] for check in figures["gradient_checks"]}) == 4
    assert all(abs(check["autograd"]) > 1e-6 for check in figures["gradient_checks"] if check["what"] != "KL, first")


@pytest.mark.parametrize(
    "reading, flags",
    [
        ("own", {}),
        ("shared", {"kl_forcing": "shared"}),
        ("first", {"kl_tokens": "first"}),
        ("released", {"objective": "released", "batch_size": 1, "micro_batch_size": 1}),
    ],
)
def test_the_loss_and_its_gradient_equal_those_of_training(model, pair, figures, reading, flags):
    objective = make_objective(vars(TrainFlags(kl_weight=KL_WEIGHT, **flags)))
    value, _, _ = objective.loss(model, [pair], 1)
    assert figures["readings"][reading]["loss"] == pytest.approx(float(value.detach()), rel=1e-6)
    value.backward()
    norm = sum(float(p.grad.square().sum()) for p in trainable_parameters(model).values()) ** 0.5
    of_reading = figures["readings"][reading]
    ce, kl = of_reading["grad_ce"], of_reading["grad_weighted_kl"]
    # |a - b|^2 = |a|^2 + |b|^2 - 2 |a| |b| cos
    assert (ce**2 + kl**2 - 2 * ce * kl * of_reading["cosine"]) ** 0.5 == pytest.approx(norm, rel=1e-4)


def test_answer_tokens_against_softmax_by_hand(model, pair, figures):
    def last_probabilities(ids):
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([ids]))[0, -1].double(), -1)

    for t, row in enumerate(figures["answer_tokens"]):
        p = last_probabilities(pair.positive.prompt + pair.positive.answer[:t])
        own = last_probabilities(pair.negative.prompt + pair.negative.answer[:t])
        shared = last_probabilities(pair.negative.prompt + pair.positive.answer[:t])
        assert row["ce_pos"] == pytest.approx(-float(p[pair.positive.answer[t]].log()), abs=1e-5)
        assert row["log_q_pos_shared"] == pytest.approx(float(shared[pair.positive.answer[t]].log()), abs=1e-5)
        assert row["ce_neg"] == pytest.approx(-float(own[pair.negative.answer[t]].log()), abs=1e-5)
        for name, a, b in (("own", p, own), ("shared", p, shared), ("released", own, p)):
            parts = a * (a / b).log()
            assert row[f"kl_{name}"] == pytest.approx(float(parts.sum()), abs=1e-5)
            order = parts.abs().argsort(descending=True)[:10].tolist()
            assert [entry["id"] for entry in row["top"][name]] == order
            assert [entry["nats"] for entry in row["top"][name]] == pytest.approx(parts[order].tolist(), abs=1e-5)


def test_tokens_that_differ_are_marked_and_the_parts_add_up(pair, figures):
    rows = figures["rows"]
    assert [i for i, token in enumerate(rows["positive"]) if token["changed"]] == [3, 6]
    assert [i for i, token in enumerate(rows["negative"]) if token["changed"]] == [3, 4, 7]
    assert [i for i, token in enumerate(rows["positive"]) if token["answer"]] == [6, 7, 8]
    parts = figures["released"]["parts"]
    assert [part["positions"] for part in parts] == [3, 2, 3, 1]
    assert sum(part["kl"] for part in parts) == pytest.approx(figures["readings"]["released"]["kl"], rel=1e-6)


def test_a_negative_prompt_that_is_shorter(model):
    pair = EncodedPair(Row([1, 5, 6, 17, 18, 8], [10, 12, 2]), Row([1, 5, 6, 7], [11, 2]))
    assert audit.audit_pair(model, Pieces(), pair, 0.1, "fp32")["ok"]


def test_the_float64_tail_continues_the_model(model, pair):
    batch = rows_of(pair)
    tail = Tail(model, batch.input_ids)
    assert tail.logits().dtype == torch.float64
    torch.testing.assert_close(tail.logits().float(), model(batch.input_ids), atol=1e-5, rtol=0)
    exact = gradients(terms_of(tail.logits(), batch), tail.parameters)["shared"]["KL"]
    whole = gradients(terms_of(model(batch.input_ids), batch), trainable_parameters(model))["shared"]["KL"]
    assert len(exact) == 4 and set(exact) < set(whole)
    for name in exact:
        torch.testing.assert_close(exact[name].float(), whole[name], atol=1e-5, rtol=1e-4)


def test_a_nudge_is_undone(model, pair):
    tail = Tail(model, rows_of(pair).input_ids)
    before = tail.logits().detach().clone()
    assert not torch.equal(tail.nudged(next(iter(tail.parameters)), 0, 0.1), before)
    assert torch.equal(tail.logits(), before)


# ---- a wrong loss is detected -------------------------------------------------------------------


def failing(figures):
    return {
        kind: {c["what"].split(",")[0] for c in figures[f"{kind}_checks"] if not c["ok"]}
        for kind in ("value", "gradient")
    }


def test_swapped_sides_of_the_kl_are_detected(model, pair, monkeypatch):
    right = loss.token_kl
    monkeypatch.setattr(loss, "token_kl", lambda log_p, log_q: right(log_q, log_p))
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")
    assert not figures["ok"] and {"kl_own", "kl_shared", "KL", "L", "released"} == failing(figures)["value"]
    assert failing(figures)["gradient"] == {"KL"}


def test_a_detached_side_is_detected_although_every_value_is_right(model, pair, monkeypatch):
    right = loss.token_kl
    monkeypatch.setattr(loss, "token_kl", lambda log_p, log_q: right(log_p, log_q.detach()))
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")
    assert not figures["ok"] and failing(figures) == {"value": set(), "gradient": {"KL"}}


def test_wrong_vocabulary_entries_are_detected(model, pair, monkeypatch):
    right = auditing.figures.top_contributions
    for wrong in (lambda tokenizer, a, b: right(tokenizer, b, a), lambda *args: right(*args)[1:]):
        monkeypatch.setattr(auditing.figures, "top_contributions", wrong)
        failed = failing(audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32"))
        assert failed == {"value": {"words of own", "words of shared", "words of released"}, "gradient": set()}


def test_a_position_off_by_one_is_detected(model, pair, monkeypatch):
    right = auditing.terms.collate

    def wrong(*args, **kwargs):
        batch = right(*args, **kwargs)
        return type(batch)(batch.input_ids, batch.lengths, batch.positions - 1, batch.targets, batch.pairs)

    monkeypatch.setattr(auditing.terms, "collate", wrong)
    assert {"ce_pos", "ce_neg", "CE"} <= failing(audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32"))["value"]


def test_a_cross_entropy_off_by_a_millionth_is_detected(model, pair, monkeypatch):
    right = loss.token_cross_entropy
    monkeypatch.setattr(loss, "token_cross_entropy", lambda *args: right(*args) * (1 + 1e-6))
    failed = failing(audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32"))
    assert {"ce_pos", "ce_neg", "CE", "L"} <= failed["value"]


def test_a_disagreement_such_as_nan_is_red_in_the_text_and_on_the_page(report, model, pair, monkeypatch):
    assert RED not in audit_text(report, colour=True) and "DISAGREE" not in audit_text(report, colour=False)
    assert '<tr class="bad">' not in audit_page(report)
    monkeypatch.setattr(
        loss, "token_kl", lambda log_p, log_q: torch.full(log_p.shape[:-1], torch.nan) + 0 * (log_p + log_q).sum(-1)
    )
    bad = {**HEADING, **audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")}
    assert not bad["ok"]
    assert RED in audit_text(bad, colour=True) and "DISAGREES" in audit_text(bad, colour=False)
    assert '<tr class="bad">' in audit_page(bad) and "DISAGREE with their second" in audit_page(bad)


def test_a_wrong_gradient_of_training_fails_in_float32_and_is_only_shown_in_bf16(model, pair):
    exact = gradients(terms_of(model(rows_of(pair).input_ids), rows_of(pair)), trainable_parameters(model))
    wrong = {
        reading: {term: {name: grad * 1.01 for name, grad in grads.items()} for term, grads in terms.items()}
        for reading, terms in exact.items()
    }
    for precision, grads, ok in (("fp32", exact, True), ("fp32", wrong, False), ("bf16", wrong, True)):
        assert all(check["ok"] for check in auditing.checks.gradient_checks(model, pair, grads, precision)) == ok


# ---- text and page ------------------------------------------------------------------------------


def test_the_text_has_every_number_and_names_simulated_data(report):
    text = audit_text(report, colour=False)
    assert "\x1b" not in text and "SIMULATED stand-in data" in text and "demo model" in text
    assert "base in fp32, dropout" in text and "base in fp32 and int8, dropout" in audit_text(
        report | {"base_dtype": "int8"}, colour=False
    )
    for reading in READINGS:
        assert f"{report['readings'][reading]['loss']:.6f}" in text
    for check in report["gradient_checks"]:
        assert f"{check['central_difference']:.8e}" in text
    assert "[<w7>]" in text and "==> [<w10>]" in text and "<w10> = 10" in text


def test_the_page_is_self_contained_and_escapes_all_text(report):
    page = audit_page(report)
    assert not re.search(r"https?:|<script|<link|@import|url\(|src=", page)
    assert "<b>bold" not in page and "A &lt;b&gt;bold&lt;/b&gt; &amp; " in page
    assert "prefers-color-scheme: dark" in page and "Simulated viewers" in page
    assert page.count("<w") == 0 and page.count("&lt;w10&gt;") >= 2
    for reading in READINGS:
        assert f"{report['readings'][reading]['loss']:.6f}" in page


# ---- the command --------------------------------------------------------------------------------


def command(*argv):
    return subprocess.run(
        [sys.executable, "audit.py", *map(str, argv)],
        cwd=audit.Path(audit.__file__).parent,
        capture_output=True,
        text=True,
    )


def test_the_demo_model_with_a_fresh_adapter_end_to_end(tmp_path):
    page = tmp_path / "audit.html"
    done = command(
        "--model", "demo", "--data", "demo", "--precision", "fp32", "--sample", "5", "--html", page, "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and report["sample"] == 5 and report["kl_weight"] == 1e-4 and len(done.stdout.splitlines()) == 1
    said = " ".join(done.stderr.split())
    assert "no adapter given: a fresh one" in said and "all 59 agree" in said
    of_a = [check["autograd"] for check in report["gradient_checks"] if "lora_A" in check["entry"]]
    assert of_a and not any(of_a)  # B is zero
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_page_replaces_a_page_and_nothing_else(tmp_path):
    page, config = tmp_path / "audit.html", tmp_path / "config.json"
    page.write_text(f"<style>{'x' * 5000}</style>{PAGE_HEADING}", encoding="utf-8")
    config.write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    found = {path.name: audit.is_replaceable(path) for path in (*tmp_path.iterdir(), tmp_path / "new.html")}
    assert found == {"audit.html": True, "config.json": False, "link": False, "new.html": True}


def test_a_disagreement_ends_with_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["audit.py", "--model", "demo", "--data", "demo", "--precision", "fp32"])
    monkeypatch.setattr(auditing.naive, "naive_released", lambda pair, *args: (0.0, [0.0] * len(pair.positive.ids)))
    with pytest.raises(SystemExit) as end:
        run_verb(audit.main)
    assert end.value.code == 1 and "DISAGREES" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, line",
    [
        ((), "--run: say which run"),
        (
            ("--model", "demo", "--data", "demo", "--sample", "600"),
            "--sample 600: the test split has 600 rows; choose 0 to 599",
        ),
        (("--model", "demo", "--data", "demo", "--html", "."), "--html .: must name a file"),
        (
            ("--model", "demo", "--data", "demo", "--html", "nowhere/a.html"),
            "--html nowhere/a.html: must name a file in a folder that exists",
        ),
        (
            ("--model", "demo", "--data", "demo", "--html", "README.md"),
            "--html README.md: is there and is no page of audit.py; choose another name",
        ),
        (("--model", "demo", "--data", "demo", "--html", os.devnull), f"--html {os.devnull}: is there and is no page"),
        (("--model", "demo", "--sample", "-1"), "--sample -1: must be at least 0"),
    ],
)
def test_bad_input_is_one_line(argv, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["audit.py", *argv])
    with pytest.raises(SystemExit) as end:
        run_verb(audit.main)
    shown = capsys.readouterr()
    assert end.value.code == 2 and shown.out == ""
    errors = [text for text in shown.err.splitlines() if "error:" in text]
    assert len(errors) == 1 and line in errors[0]


def test_logits_that_are_not_finite_are_refused(model, pair):
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(RunError, match="logits of the pair are not finite"):
        audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")


def test_a_piece_that_contains_the_separator_is_shown_whole():
    """As control tokens of a byte-level BPE do."""
    texts = {"positive": ["a", "Ċ", "Ġlike", "Yes", "<|end|>"], "negative": ["a", "Ċ", "Ġdislike", "No", "<|end|>"]}
    rows = {
        side: [
            {"id": i, "piece": piece, "answer": i > 2, "changed": i == 2, "ends_line": piece == "Ċ"}
            for i, piece in enumerate(pieces)
        ]
        for side, pieces in texts.items()
    }
    lines = prompts({"rows": rows}, colour=False)
    assert lines[1:3] == ["  a| Ċ|", "  [Ġlike]==> Yes| <|end|>|"]
