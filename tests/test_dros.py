"""DROS' robust term against a loop over items in float64, and DROS beside the encoder that it is put on."""

import math

import numpy as np
import pytest
import torch

from baselines import dros
from tests.sequence_rows import ITEMS, built, random_rows


def robust_by_hand(logits, target, label, counts, beta):
    """In float64 as the equation is written, with the largest exponent taken out."""
    total = sum(n + 1 for n in counts)
    exponents = []
    for j, s in enumerate(logits):
        residual = s - label if j == target else s
        exponents.append(((counts[j] + 1) / total) ** 0.05 * residual**2 / beta)
    top = max(exponents)
    return top + math.log(sum(math.exp(exponent - top) for exponent in exponents))


@pytest.mark.parametrize("scale", [0, 0.1, 3, 30, 1e4])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_robust_term_equals_a_loop_over_items(scale, beta):
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 40, 50)
    logits = draw.normal(0, scale, (6, 50)).astype(np.float32)
    targets, labels = draw.integers(0, 50, 6), np.array([1, 0, 1, 1, 0, 0], dtype=np.float32)
    rho = dros.propensities(torch.from_numpy(counts))
    found = dros.robust_term(*map(torch.from_numpy, (logits, targets, labels)), rho, beta)
    assert found.dtype == torch.float32
    for i in range(6):
        wanted = robust_by_hand(logits[i].astype(float), targets[i], labels[i], counts, beta)
        assert found[i].item() == pytest.approx(wanted, rel=3e-6)


def test_the_robust_term_of_a_large_target_keeps_what_a_difference_of_exponentials_loses():
    logits = torch.tensor([[9.0, 0.0, 0.0]])
    rho = torch.ones(3)
    term = dros.robust_term(logits, torch.tensor([0]), torch.ones(1), rho, 1.0)
    assert term.item() == pytest.approx(math.log(math.exp(64) + 2))
    powers = logits.square().exp()
    published = (powers.sum() - powers[0, 0] + (logits[0, 0] - 1).square().exp()).log()
    assert published.item() == pytest.approx(term.item(), rel=1e-3)  # still alike here
    far = torch.tensor([[10.0, 0.0, 0.0]])
    assert far.square().exp().isinf().any()  # exp(100) is no float32
    assert dros.robust_term(far, torch.tensor([0]), torch.ones(1), rho, 1.0).item() == pytest.approx(81, rel=1e-6)


def test_the_robust_term_of_zero_logits():
    counts = torch.tensor([5, 0, 2, 9])
    rho = dros.propensities(counts)
    found = dros.robust_term(torch.zeros(4, 4), torch.arange(4), torch.ones(4), rho, 2.0)
    for t in range(4):
        wanted = math.log(3 + math.exp(((counts[t].item() + 1) / 20) ** 0.05 / 2))
        assert found[t].item() == pytest.approx(wanted, rel=1e-6)
    assert dros.robust_term(torch.zeros(1, 4), torch.tensor([1]), torch.zeros(1), rho, 2.0).item() == pytest.approx(
        math.log(4)
    )


@pytest.mark.parametrize("encoder", list(dros.ENCODERS))
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_dros_without_its_term_is_the_encoder_alone(encoder, loss):
    rows = random_rows(20)
    plain = built(encoder, rows, loss=loss)
    robust = built("dros", rows, encoder=encoder, loss=loss, alpha=0.0)
    robust.load_state_dict(plain.state_dict())
    assert torch.equal(robust.loss(rows), plain.loss(rows)) and torch.equal(robust(rows), plain(rows))
    with_term = built("dros", rows, encoder=encoder, loss=loss, alpha=0.5, beta=2.0)
    with_term.load_state_dict(plain.state_dict())
    counts = np.bincount(rows.items.numpy() - 1, minlength=ITEMS)
    logits = plain.all_logits(rows).detach().double().numpy()
    terms = [robust_by_hand(s, t - 1, y, counts, 2.0) for s, t, y in zip(logits, rows.items, rows.labels.numpy())]
    wanted = plain.loss(rows).item() + 0.5 * np.mean(terms)
    assert with_term.loss(rows).item() == pytest.approx(wanted, rel=1e-6)
