"""docs/explorer.html: its JavaScript computes what loss.py does, and the page is the one that the script makes."""

import json
import re

import numpy as np
import pytest
import torch

from docs.make_explorer import PAGE, PAIRS, PARTS, explorer_page
from loss import PairTerms, answer_terms, paper_loss, token_kl

quickjs = pytest.importorskip("quickjs", reason="no JavaScript engine; requirements-dev.txt has quickjs")
WEIGHT = 0.3
POINTS = (-40.0, -9.0, -2.5, -0.7, 0.0, 0.3, 1.9, 8.0, 40.0)


@pytest.fixture(scope="module")
def engine():
    context = quickjs.Context()
    context.eval((PARTS / "maths.js").read_text(encoding="utf-8"))
    return context


def by_page(engine, zp, zn, liked, cap):
    return json.loads(
        engine.eval(f"JSON.stringify(terms({zp}, {zn}, {json.dumps(liked)}, {WEIGHT}, {json.dumps(cap)}))")
    )


def by_loss(zp, zn, liked, cap):
    """{name: (value, gradient)} by loss.py and autograd in float64; JS and arbitrage from their definitions."""
    z = torch.tensor([zp, zn], dtype=torch.float64, requires_grad=True)
    logits = torch.stack([z, torch.zeros_like(z)], -1).unsqueeze(1)  # (2, 1, 2)
    terms = answer_terms(logits, torch.tensor([[0], [1]] if liked else [[1], [0]]), 1, kl_cap=cap)
    uncapped = answer_terms(logits, torch.tensor([[0], [1]]), 1)
    log_p, log_q = torch.log_softmax(logits, -1)[:, 0]
    log_m = torch.logaddexp(log_p, log_q) - np.log(2)
    b = log_q.flip(0)  # 1 - p(Yes), p(Yes)
    values = {
        "ce": (terms.ce_pos + terms.ce_neg).sum(),
        "kl": uncapped.kl.sum(),
        "js": (token_kl(log_p, log_m) + token_kl(log_q, log_m)) / 2,
        "arbitrage": -2 * torch.logsumexp((log_p + b) / 2, -1),
        "loss": paper_loss(PairTerms(*terms), WEIGHT, 1),
    }
    found = {}
    for name, value in values.items():
        (gradient,) = torch.autograd.grad(value, z, retain_graph=True, allow_unused=True)
        found[name] = (value.item(), gradient.tolist())
    return found


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("liked", [True, False])
def test_values_and_gradients_are_those_of_loss_py(engine, liked, cap):
    for zp in POINTS:
        for zn in POINTS:
            page, own = by_page(engine, zp, zn, liked, cap), by_loss(zp, zn, liked, cap)
            for name, (value, gradient) in own.items():
                where = f"{name} at {zp}, {zn}"
                assert page[name]["value"] == pytest.approx(value, rel=1e-9, abs=1e-9), where
                assert page[name]["gradient"] == pytest.approx(gradient, rel=1e-7, abs=1e-9), where


def test_it_says_where_the_kl_pulls_more_than_the_answer(engine):
    """With lambda 0.3: q (1 - 0.3) < 0.3 (p - q) is solved by hand, for p near 1, at q = 0.3 / 1.3."""
    border = float(np.log(0.3 / 1.3 / (1 - 0.3 / 1.3)))
    assert not by_page(engine, 30.0, border + 0.01, True, None)["klPulls"]
    assert by_page(engine, 30.0, border - 0.01, True, None)["klPulls"]
    assert by_page(engine, 30.0, -35.0, True, None)["loss"]["gradient"][1] == pytest.approx(0.3)  # without end
    assert by_page(engine, 30.0, -35.0, True, 2.0)["loss"]["gradient"][1] == pytest.approx(0.0, abs=1e-12)


def test_the_page_is_what_the_script_makes_of_the_files():
    assert PAGE.read_text(encoding="utf-8") == explorer_page(json.loads(PAIRS.read_text(encoding="utf-8")))


def test_the_page_needs_nothing_from_outside_and_names_simulated_pairs():
    page = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"https?:|<link|<img|@import|url\(|src=|import\(|fetch|XMLHttp", page)
    assert "simulated viewers" in page and len(page) < 100_000
