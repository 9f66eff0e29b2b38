"""The loss against numbers worked by hand, plain-Python loops in float64, closed-form gradients, and extremes."""

import math

import pytest
import torch
from torch import nn

from data.pairs import aligned_positions, next_tokens, pad_right
from loss import (
    PairTerms,
    answer_terms,
    log_probabilities,
    paper_loss,
    position_terms,
    released_loss,
    sequence_terms,
    token_cross_entropy,
    token_kl,
)

INF = math.inf


def ragged_case(seed=0, vocabulary=7):
    """(logits, targets, lists): three pairs whose answers have 3/3, 2/2 and 3/2 tokens, in blocks and as lists.

    Each block is (3, 3, V) float64 with arbitrary logits and target -1 beyond the end of an answer.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = {
        name: 3 * torch.randn(3, 3, vocabulary, generator=generator).double() for name in ("pos", "neg", "shared")
    }
    targets = {"pos": [[0, 4, 6], [1, 6, -1], [2, 5, 6]], "neg": [[1, 4, 6], [0, 6, -1], [3, 6, -1]]}
    return logits, {name: torch.tensor(rows) for name, rows in targets.items()}, targets


def terms_of(pos, neg, targets_pos, targets_neg, logits_shared=None, **options):
    """answer_terms of sides that are given one by one, (P, A, V) and (P, A) each, stacked in blocks."""
    shared = [] if logits_shared is None else [(logits_shared, targets_pos)]
    logits, targets = zip((pos, targets_pos), (neg, targets_neg), *shared)
    return answer_terms(torch.cat(logits), torch.cat(targets), len(pos), **options)


# ---- Eq. 1-3 in plain Python --------------------------------------------------------------------


def log_softmax(row):
    top = max(row)
    total = math.log(sum(math.exp(z - top) for z in row))
    return [z - top - total for z in row]


def kl_divergence(p_logits, q_logits):
    pairs = zip(log_softmax(p_logits), log_softmax(q_logits))
    return sum(math.exp(a) * (a - b) for a, b in pairs if math.exp(a) > 0)


def answer_cross_entropy(rows, answer):
    return -sum(log_softmax(rows[t])[token] for t, token in enumerate(answer) if token >= 0)


def brute_force(logits, targets, weight, forcing, kl_tokens):
    """Eq. 3 over all pairs, and each pair's (CE+, CE-, KL)."""
    total, terms = 0.0, []
    for i in range(len(targets["pos"])):
        pos, neg = logits["pos"][i].tolist(), logits["neg"][i].tolist()
        other = logits["shared"][i].tolist() if forcing == "shared" else neg
        length = sum(token >= 0 for token in targets["pos"][i])
        if forcing == "own":
            length = min(length, sum(token >= 0 for token in targets["neg"][i]))
        length = 1 if kl_tokens == "first" else length
        ce_pos, ce_neg = answer_cross_entropy(pos, targets["pos"][i]), answer_cross_entropy(neg, targets["neg"][i])
        kl = sum(kl_divergence(pos[t], other[t]) for t in range(length))
        terms.append((ce_pos, ce_neg, kl))
        total += ce_pos + ce_neg - weight * kl
    return total / len(targets["pos"]), terms


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("kl_tokens", ["all", "first"])
@pytest.mark.parametrize("forcing", ["own", "shared"])
def test_paper_loss_equals_plain_loops(forcing, kl_tokens, cap):
    logits, targets, lists = ragged_case()
    shared = logits["shared"] if forcing == "shared" else None
    terms = terms_of(
        logits["pos"],
        logits["neg"],
        targets["pos"],
        targets["neg"],
        logits_shared=shared,
        kl_tokens=kl_tokens,
        kl_cap=cap,
    )
    expected, expected_terms = brute_force(logits, lists, 0.3, forcing, kl_tokens)
    sums = torch.stack([term.sum(-1) for term in terms], dim=-1)
    torch.testing.assert_close(sums, torch.tensor(expected_terms, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert paper_loss(terms, 0.3, 3).item() == pytest.approx(expected, rel=1e-12)
    kls = [kl for _, _, kl in expected_terms]
    assert cap is None or kl_tokens == "first" or min(kls) < cap < max(kls)


def test_three_word_vocabulary_by_hand():
    # Words: Yes, No, EOS. The answers are (Yes, EOS) and (No, EOS).
    # t = 1: p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4).  CE+ = -log 1/2 = log 2;  CE- = -log 1/2 = log 2.
    #   KL = 1/2 log(1/2 : 1/4) + 1/4 log(1/4 : 1/2) + 1/4 log 1 = 1/2 log 2 - 1/4 log 2 = 1/4 log 2.
    # t = 2: p = (1/4, 1/4, 1/2), q = (1/8, 1/8, 3/4).  CE+ = log 2;  CE- = log 4/3.
    #   KL = 1/4 log 2 + 1/4 log 2 + 1/2 log 2/3 = log 2 - 1/2 log 3.
    p = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]]])
    q = torch.tensor([[[1 / 4, 1 / 2, 1 / 4], [1 / 8, 1 / 8, 3 / 4]]])
    yes, no = torch.tensor([[0, 2]]), torch.tensor([[1, 2]])
    terms = terms_of(p.log() + 5, q.log() - 3, yes, no)  # a shift of the logits changes nothing
    log2, log3 = math.log(2), math.log(3)
    torch.testing.assert_close(terms.ce_pos, torch.tensor([[log2, log2]]))
    torch.testing.assert_close(terms.ce_neg, torch.tensor([[log2, 2 * log2 - log3]]))
    torch.testing.assert_close(terms.kl, torch.tensor([[log2 / 4, log2 - log3 / 2]]))
    # L = CE+ + CE- - lambda KL = 5 log 2 - log 3 - lambda (5/4 log 2 - 1/2 log 3), one pair of a step of four.
    expected = (5 * log2 - log3 - 0.1 * (5 / 4 * log2 - log3 / 2)) / 4
    assert paper_loss(terms, 0.1, 4).item() == pytest.approx(expected, rel=1e-6)


def test_tallrec_is_the_positive_cross_entropy_alone():
    logits, targets, lists = ragged_case()
    ce_pos = token_cross_entropy(log_probabilities(logits["pos"]), targets["pos"])
    terms = PairTerms(ce_pos, torch.zeros_like(ce_pos), torch.zeros_like(ce_pos))
    expected = sum(answer_cross_entropy(rows.tolist(), answer) for rows, answer in zip(logits["pos"], lists["pos"])) / 3
    assert paper_loss(terms, 0.0, 3).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("micro, accumulation", [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_every_way_of_cutting_a_step_gives_the_same_gradient(micro, accumulation):
    cases = [ragged_case(seed) for seed in range(3)]
    logits = {name: torch.cat([case[0][name] for case in cases])[:8].requires_grad_() for name in ("pos", "neg")}
    targets = {name: torch.cat([case[1][name] for case in cases])[:8] for name in ("pos", "neg")}
    for start in range(0, micro * accumulation, micro):
        cut = slice(start, start + micro)
        terms = terms_of(logits["pos"][cut], logits["neg"][cut], targets["pos"][cut], targets["neg"][cut])
        paper_loss(terms, 0.3, 8).backward()
    for name in logits:
        expected = torch.cat([single_pair_gradient(logits, targets, i, name) for i in range(8)]) / 8
        torch.testing.assert_close(logits[name].grad, expected, rtol=0, atol=1e-14)


def single_pair_gradient(logits, targets, i, name):
    sides = {side: logits[side][i : i + 1].detach().clone().requires_grad_() for side in logits}
    terms = terms_of(sides["pos"], sides["neg"], targets["pos"][i : i + 1], targets["neg"][i : i + 1])
    (terms.ce_pos.sum() + terms.ce_neg.sum() - 0.3 * terms.kl.sum()).backward()
    return sides[name].grad


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"kl_tokens": "first"}, {"kl_cap": 100.0}, {"shared": True}])
def test_gradients_equal_finite_differences(options):
    logits, targets, _ = ragged_case()
    options = dict(options)
    inputs = [logits[name].requires_grad_() for name in ("pos", "neg", "shared")][
        : 3 if options.pop("shared", False) else 2
    ]

    def loss(pos, neg, shared=None):
        terms = terms_of(pos, neg, targets["pos"], targets["neg"], logits_shared=shared, **options)
        return paper_loss(terms, 0.3, 5)

    assert torch.autograd.gradcheck(loss, inputs)


def test_gradients_equal_the_closed_forms():
    logits, _, _ = ragged_case()
    z_pos, z_neg = logits["pos"].requires_grad_(), logits["neg"].requires_grad_()
    kl = token_kl(log_probabilities(z_pos), log_probabilities(z_neg))
    kl.sum().backward()
    p, q = z_pos.detach().softmax(-1), z_neg.detach().softmax(-1)
    torch.testing.assert_close(z_pos.grad, p * (p.log() - q.log() - kl.detach()[..., None]), rtol=0, atol=1e-14)
    torch.testing.assert_close(z_neg.grad, q - p, rtol=0, atol=1e-14)
    z = logits["shared"].requires_grad_()
    targets = torch.tensor([[0, 4, 6], [1, 6, -1], [2, -1, -1]])
    token_cross_entropy(log_probabilities(z), targets).sum().backward()
    onehot = torch.nn.functional.one_hot(targets.clamp(min=0), 7)
    expected = (z.detach().softmax(-1) - onehot) * (targets >= 0)[..., None]
    torch.testing.assert_close(z.grad, expected, rtol=0, atol=1e-14)


# ---- extremes -----------------------------------------------------------------------------------


def test_kl_is_zero_for_equal_prompts():
    logits, targets, _ = ragged_case()
    terms = terms_of(logits["pos"], logits["pos"] + 2.5, targets["pos"], targets["neg"])
    torch.testing.assert_close(terms.kl, torch.zeros(3, 3).double(), rtol=0, atol=1e-14)
    assert not terms_of(logits["pos"], logits["pos"], targets["pos"], targets["neg"]).kl.any()


def test_kl_is_not_negative():
    torch.manual_seed(0)
    log_p, log_q = (log_probabilities(torch.randn(1000, 11).double() * scale) for scale in (0.01, 0.02))
    assert (token_kl(log_p, log_q) >= 0).all() and token_kl(log_p, log_q).max() < 0.01


@pytest.mark.parametrize(
    "p, q",
    [
        ([200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]),
        ([-200.0, 200.0, 199.0], [-200.0, -200.0, 200.0]),
        ([200.0, 0.0, 0.0], [200.0, 0.0, 0.0]),
        ([0.0, -INF, 1.0], [1.0, -INF, 0.0]),  # the same word impossible on both sides
        ([0.0, -INF, 1.0], [1.0, 3.0, 0.0]),  # impossible under p alone: 0 log 0 = 0
        ([0.0, -300.0, 1.0], [1.0, -INF, 0.0]),  # p underflows to 0 in float32
        ([-INF, -INF, 1.0], [-INF, 5.0, 0.0]),
    ],
)
def test_kl_of_extreme_logits_is_right_and_its_gradients_are_finite(p, q):
    z_pos, z_neg = torch.tensor(p, requires_grad=True), torch.tensor(q, requires_grad=True)
    kl = token_kl(log_probabilities(z_pos), log_probabilities(z_neg))
    log_p, log_q = log_softmax(p), log_softmax(q)
    expected = sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q) if math.exp(a) > 1e-100)
    assert kl.item() == pytest.approx(expected, rel=1e-5, abs=1e-30)
    kl.backward()
    slope = [math.exp(a) * (a - b - expected) if math.exp(a) > 1e-100 else 0.0 for a, b in zip(log_p, log_q)]
    torch.testing.assert_close(z_pos.grad, torch.tensor(slope), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z_neg.grad, torch.tensor([math.exp(b) - math.exp(a) for a, b in zip(log_p, log_q)]))


def test_word_impossible_under_q_alone_makes_the_kl_infinite():
    kl = token_kl(log_probabilities(torch.tensor([0.0, 1.0])), log_probabilities(torch.tensor([0.0, -INF])))
    assert kl.item() == INF


def infinite_at_the_second_token():
    """Two pairs of two tokens; the first pair's KL is finite at its first token and infinite at its second."""
    logits_pos, logits_neg = ragged_case()[0]["pos"][:2, :2].float(), ragged_case()[0]["neg"][:2, :2].float()
    logits_neg[0, 1, 3] = -INF
    return logits_pos.requires_grad_(), logits_neg.requires_grad_()


@pytest.mark.parametrize("cap", [None, 100.0])
@pytest.mark.parametrize("why", ["first", "shorter answer"])
def test_infinite_kl_at_a_token_left_out_harms_no_gradient(why, cap):
    targets = torch.tensor([[0, 6], [1, 6]]), torch.tensor([[1, -1 if why == "shorter answer" else 6], [0, 6]])

    def gradients(logits_pos, logits_neg):
        kl_tokens = "first" if why == "first" else "all"
        terms = terms_of(logits_pos, logits_neg, *targets, kl_tokens=kl_tokens, kl_cap=cap)
        assert terms.kl[0, 1] == 0 and terms.kl[0, 0] > 0
        return torch.autograd.grad(paper_loss(terms, 0.3, 2), (logits_pos, logits_neg))

    logits_pos, logits_neg = infinite_at_the_second_token()
    finite_neg = logits_neg.detach().masked_fill(logits_neg == -INF, 0.0).requires_grad_()
    (pos, neg), (pos_finite, neg_finite) = gradients(logits_pos, logits_neg), gradients(logits_pos, finite_neg)
    torch.testing.assert_close(pos, pos_finite)
    torch.testing.assert_close(neg[:, 0], neg_finite[:, 0])
    assert torch.isfinite(neg).all()


def test_cap_stops_the_kl_gradient_of_an_infinite_pair_and_of_no_other():
    logits_pos, logits_neg = infinite_at_the_second_token()
    targets = torch.tensor([[0, 6], [1, 6]]), torch.tensor([[1, 6], [0, 6]])
    terms = terms_of(logits_pos, logits_neg, *targets, kl_cap=100.0)
    assert terms.kl[0, 1] == INF and terms.kl[1].sum() < 100
    paper_loss(terms, 0.3, 2).backward()
    for z, answers in ((logits_pos, targets[0]), (logits_neg, targets[1])):
        ce_gradient = (z.detach().softmax(-1) - torch.nn.functional.one_hot(answers, 7)) / 2
        torch.testing.assert_close(z.grad[0], ce_gradient[0])
        assert (z.grad[1] - ce_gradient[1]).abs().max() > 0.01


# ---- --objective released -----------------------------------------------------------------------

ROWS_POS = [[1, 5, 3, 7, 2], [1, 9, 9, 4, 8, 6, 2], [1, 3, 2]]
ROWS_NEG = [[1, 5, 10, 3, 8, 2], [1, 9, 4, 7, 2], [1, 4, 2]]


def released_brute_force(model, weight, accumulation_steps):
    """Row by row without padding; a pair is compared from its end backwards. (loss, CE, KL of the pairs)"""
    ce, kl = [], []
    for pos, neg in zip(ROWS_POS, ROWS_NEG):
        z_pos, z_neg = (model(torch.tensor([ids]))[0].tolist() for ids in (pos, neg))
        ce += [-log_softmax(z_pos[t])[pos[t + 1]] for t in range(len(pos) - 1)]
        kl.append(sum(kl_divergence(z_neg[-k], z_pos[-k]) for k in range(1, min(len(pos), len(neg)) + 1)))
    return (sum(ce) / len(ce) - weight * min(sum(kl) / len(kl), 10_000)) / accumulation_steps, sum(ce), kl


def released_terms(model, chunk):
    """The path of train.py: padded blocks, right-aligned positions, chunks."""
    lengths_pos, lengths_neg = (torch.tensor([len(ids) for ids in rows]) for rows in (ROWS_POS, ROWS_NEG))
    input_ids = pad_right(ROWS_POS + ROWS_NEG)
    row, column, column_neg, has_partner = aligned_positions(lengths_pos, lengths_neg)
    targets = next_tokens(input_ids[:3], lengths_pos)[row, column]
    hidden = model.model(input_ids)
    ce, kl = sequence_terms(model.lm_head, hidden[:3][row, column], hidden[3:][row, column_neg], targets, chunk)
    return ce, kl.masked_fill(~has_partner, 0.0), targets, row


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_released_loss_equals_plain_loops_over_a_llama(tiny_llama, chunk):
    model = tiny_llama().double()
    expected, expected_ce, expected_kl = released_brute_force(model, 0.03, 5)
    ce, kl, targets, row = released_terms(model, chunk)
    assert ce.sum().item() == pytest.approx(expected_ce, rel=1e-10)
    per_pair = torch.zeros(3).double().index_add(0, row, kl)
    torch.testing.assert_close(per_pair, torch.tensor(expected_kl, dtype=torch.float64), rtol=1e-10, atol=0)
    assert released_loss(ce, kl, targets, 0.03, 3, 5).item() == pytest.approx(expected, rel=1e-10)


def test_chunk_size_changes_no_gradient_and_bounds_what_lm_head_sees():
    torch.manual_seed(0)
    seen, gradients = [], []
    lm_head = nn.Linear(5, 11).double()
    lm_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    pos, neg = torch.randn(10, 5).double(), torch.randn(10, 5).double()
    targets = torch.tensor([3, 0, -1, 10, 5, 5, -1, 1, 2, 9])
    for chunk in (10, 1, 3, 256):
        z_pos, z_neg = pos.clone().requires_grad_(), neg.clone().requires_grad_()
        lm_head.zero_grad()
        seen.clear()
        ce, kl = sequence_terms(lm_head, z_pos, z_neg, targets, chunk)
        (ce.square().sum() - 0.3 * kl.square().sum()).backward()
        assert max(seen) == min(chunk, 10) and z_neg.grad is None
        gradients.append([ce.detach(), kl.detach(), z_pos.grad, lm_head.weight.grad.clone()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-12, atol=1e-12)


def test_released_kl_is_neg_to_pos_and_moves_the_positive_side_alone():
    torch.manual_seed(0)
    z_pos, z_neg = (torch.randn(6, 9).double().requires_grad_() for _ in range(2))
    targets = torch.tensor([0, 3, -1, 8, 8, 1])
    ce, kl = position_terms(z_pos, z_neg, targets)
    expected = [kl_divergence(n, p) for p, n in zip(z_pos.tolist(), z_neg.tolist())]
    torch.testing.assert_close(kl, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    kl.sum().backward()
    torch.testing.assert_close(z_pos.grad, (z_pos.softmax(-1) - z_neg.softmax(-1)).detach(), rtol=0, atol=1e-14)
    assert z_neg.grad is None
    ce_alone, no_kl = position_terms(z_pos, None, targets)
    assert torch.equal(ce_alone, ce) and not no_kl.any() and no_kl.shape == kl.shape


def test_released_weights_count_micro_batches_and_not_tokens():
    # Two micro-batches of a full step of four: tokens 3 and 1, pairs 2 and 1. By hand:
    # (1/4) [(1 + 2 + 3)/3 - 0.5 (4 + 6)/2] = (2 - 2.5)/4 and (1/4) [7/1 - 0.5 * 2/1] = 6/4.
    first = released_loss(
        torch.tensor([1.0, 2, 3, 0]), torch.tensor([4.0, 0, 6, 0]), torch.tensor([5, 5, 5, -1]), 0.5, 2, 4
    )
    second = released_loss(torch.tensor([7.0, 0]), torch.tensor([2.0, 0]), torch.tensor([5, -1]), 0.5, 1, 4)
    assert (first.item(), second.item()) == (-0.125, 1.5)


def test_released_kl_is_bounded_with_no_gradient_above():
    ce, targets = torch.zeros(2), torch.tensor([1, 1])
    for total, expected, slope in ((19_000.0, -9500.0, -0.5), (21_000.0, -10_000.0, 0.0)):
        kl = torch.tensor([total - 1, 1.0], requires_grad=True)
        loss = released_loss(ce, kl, targets, 1.0, 2, 1)
        loss.backward()
        assert loss.item() == expected and kl.grad.tolist() == [slope, slope]
