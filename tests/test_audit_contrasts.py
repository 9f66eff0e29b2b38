"""The audit of runs that were trained with a term in the place of the KL."""

# ruff: noqa: F401, F811 (imported fixtures)

import json
import re
from dataclasses import replace

import pytest

import audit
import auditing.naive_contrasts
from auditing.terms import Contrast, MainLoss
from cli.train import TrainFlags
from loss import CONTRASTS, FirstToken
from objectives.by_name import make_objective
from report.audit_page import audit_page
from report.audit_text import audit_text
from tensors import trainable_parameters
from tests.test_audit import HEADING, KL_WEIGHT, Pieces, model, pair

OWN = 'the column "paper, own"; '
MARGIN = 3.0  # above the KL of this pair, or there would be no gradient to check


@pytest.mark.parametrize("name", sorted(CONTRASTS))
def test_every_value_and_gradient_agrees_with_the_second_computation_and_with_training(model, pair, name):
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32", Contrast(name, MARGIN))
    assert figures["ok"] and json.loads(json.dumps(figures)) == figures
    whats = {check["what"] for check in figures["value_checks"] + figures["gradient_checks"]}
    assert {f"CE, {name}", f"term of {name}", f"L, {name}"} <= whats
    gradients = [check for check in figures["gradient_checks"] if check["what"] == f"term of {name}"]
    assert len(gradients) == 4 and all(abs(check["autograd"]) > 1e-7 for check in gradients)
    cap = {"kl_cap": MARGIN} if name == "margin" else {}
    value, terms, _ = make_objective(vars(TrainFlags(objective=name, kl_weight=KL_WEIGHT, **cap))).loss(
        model, [pair], 1
    )
    reading = figures["readings"][name]
    assert reading["loss"] == pytest.approx(float(value.detach()), rel=1e-6)
    assert reading["kl"] == pytest.approx(float(terms["contrast"].detach()), rel=1e-5, abs=1e-7)
    value.backward()
    norm = sum(float(p.grad.square().sum()) for p in trainable_parameters(model).values()) ** 0.5
    ce, term = reading["grad_ce"], reading["grad_weighted_kl"]
    # |a + b|^2 = |a|^2 + |b|^2 + 2 |a| |b| cos
    assert (ce**2 + term**2 + 2 * ce * term * reading["cosine"]) ** 0.5 == pytest.approx(norm, rel=1e-4)


MAIN = [("collm", "bce-yes", 1), ("lcft-colmf", "bce-yes", 2), ("lcft-colmf", "ce", 2)]


@pytest.mark.parametrize("liked", [True, False])
@pytest.mark.parametrize("name, kind, sides", MAIN)
def test_the_loss_of_collm_agrees_with_the_second_computation_and_with_training(model, pair, name, kind, sides, liked):
    pair = replace(pair, liked=liked)
    settings = TrainFlags(objective=name, kl_weight=KL_WEIGHT if sides == 2 else 0.0, main_loss=kind, stage=2)
    main = audit.main_loss(settings, pair)
    assert main == MainLoss(name, kind, sides, liked)
    figures = audit.audit_pair(model, Pieces(), pair, settings.kl_weight, "fp32", main)
    assert figures["ok"] and json.loads(json.dumps(figures)) == figures
    whats = {check["what"] for check in figures["value_checks"]}
    assert {f"{part}, {name}" for part in ("CE", "KL", "L")} <= whats
    value, _, _ = make_objective(vars(settings)).loss(model, [pair], 1)
    reading = figures["readings"][name]
    assert reading["loss"] == pytest.approx(float(value.detach()), rel=1e-6)
    value.backward()
    norm = sum(float(p.grad.square().sum()) for p in trainable_parameters(model).values()) ** 0.5
    ce, kl = reading["grad_ce"], reading["grad_weighted_kl"]
    assert (ce**2 + kl**2 - 2 * ce * kl * reading["cosine"]) ** 0.5 == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("name", sorted(CONTRASTS))
def test_a_wrong_term_is_noticed(model, pair, name, monkeypatch):
    real = CONTRASTS[name]
    monkeypatch.setitem(CONTRASTS, name, lambda at: real(at) * 1.001)
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32", Contrast(name, MARGIN))
    failed = {check["what"] for check in figures["value_checks"] + figures["gradient_checks"] if not check["ok"]}
    assert {f"term of {name}", f"L, {name}"} == failed


def test_the_text_and_the_page_show_the_trained_term(model, pair):
    report = {**HEADING, **audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32", Contrast("margin", MARGIN))}
    text, page = audit_text(report, colour=False), audit_page(report)
    assert "Trained with --objective margin with a margin of 3: L = CE+ + CE- + lambda" in " ".join(text.split())
    assert "Trained with --objective margin" in page and "<th>margin</th>" in page
    assert all(len(line) <= 80 for line in text.splitlines())
    (columns,) = [line.split() for line in text.splitlines() if line.strip().startswith("paper, own ")]
    assert columns[-1] == "margin" and "shared" not in columns


def test_the_term_of_a_run_is_taken_from_its_config():
    def config(**flags):
        return {"flags": {name: {"value": value, "source": "flag"} for name, value in flags.items()}}

    assert audit.trained_contrast(config(objective="margin", kl_cap=0.5)) == Contrast("margin", 0.5)
    assert audit.trained_contrast(config(objective="js", kl_cap=None)) == Contrast("js", 0.0)
    assert audit.trained_contrast(config(objective="paper", kl_cap=2.0)) is None
    assert audit.trained_contrast({"flags": {}}) is None


@pytest.mark.parametrize(
    "flags, said",
    [
        ({"objective": "paper", "kl_forcing": "shared", "kl_tokens": "all"}, 'the column "paper, shared"'),
        ({"objective": "paper", "kl_forcing": "own", "kl_tokens": "first"}, 'the column "paper, first"'),
        (
            {"objective": "paper", "kl_forcing": "own", "kl_tokens": "all", "kl_cap": 0.0},
            OWN + "its KL is above --kl-cap 0: in training",
        ),
        (
            {"objective": "paper", "kl_forcing": "own", "kl_tokens": "all", "kl_cap": 9.0},
            OWN + "its KL is not above --kl-cap 9",
        ),
        ({"objective": "released"}, 'the column "released"'),
    ],
)
def test_the_text_says_which_column_was_trained(model, pair, flags, said):
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")
    text = " ".join(audit_text({**HEADING, **figures, "trained": flags}, colour=False).split())
    assert f"Trained with --objective {flags['objective']}: {said}" in text


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_the_text_has_the_loss_of_tallrec(model, pair, train_on_prompt):
    flags = vars(TrainFlags(objective="tallrec", train_on_prompt=train_on_prompt, batch_size=1, micro_batch_size=1))
    trained = make_objective(flags).loss(model, [pair], pairs_in_step=1).loss.item()
    figures = audit.audit_pair(model, Pieces(), pair, KL_WEIGHT, "fp32")
    text = " ".join(audit_text({**HEADING, **figures, "trained": flags}, colour=False).split())
    (shown,) = re.findall(r"Trained with --objective tallrec: L = .*?, (\d+\.\d+)", text)
    assert float(shown) == pytest.approx(trained, abs=2e-6)


def test_the_flags_of_a_run_say_how_it_was_trained():
    config = {"flags": {name: {"value": value} for name, value in (("objective", "paper"), ("kl_cap", 2.0), ("lr", 1))}}
    assert audit.trained_flags(config) == {"objective": "paper", "kl_cap": 2.0}
    assert audit.trained_flags({"flags": {}}) is None
