"""Scores of batches against one prompt at a time over the whole vocabulary in float64."""

import copy

import numpy as np
import pytest
import torch

import scoring.forward as scoring
from data.interactions import Interaction
from data.pairs import EncodedPair, Row
from data.splits import Split
from loss import jensen_shannon
from metrics import Scored
from run import base_scores
from run.folder import RunFolder
from scoring.forward import score
from tensors import trainable_parameters


@pytest.fixture
def model(tiny_llama):
    """Log-probabilities of a few nats, so that float32 rounds them by less than 1e-6."""
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.2)
    return model


ANSWERS = {True: [8, 3], False: [7, 3]}  # the first of each is looked at


@pytest.fixture
def pairs():
    """Twelve pairs of prompts of 3 to 20 tokens, in no order of length."""
    rng = np.random.default_rng(4)

    def row(length, first):
        return Row([1, *rng.integers(3, 23, length - 1).tolist()], [first, 3, 2])

    lengths = rng.permutation(np.arange(3, 21))[:12].tolist()
    return [EncodedPair(row(n, 8), row(n + i % 3 - 1, 7)) for i, n in enumerate(lengths)]


LABELS = [i % 3 == 0 for i in range(12)]
USERS = [i // 4 for i in range(12)]


def split_of(pairs):
    """The pairs in their order, with the first of LABELS and USERS."""
    rows = [Interaction(user, (), 1, label) for user, label in zip(USERS, LABELS)]
    return Split(rows, pairs, 0, ANSWERS)


def naive(model, prompt):
    """log-probabilities of the next token by a float64 model, one prompt without any padding."""
    with torch.no_grad():
        return torch.log(torch.softmax(model(torch.tensor([prompt]))[0, -1], dim=-1))


def test_scores_equal_one_prompt_at_a_time_in_float64(model, pairs):
    found = score(model, split_of(pairs))
    exact = copy.deepcopy(model).double()
    for i, pair in enumerate(pairs):
        p, q = naive(exact, pair.positive.prompt), naive(exact, pair.negative.prompt)
        m = (p.exp() + q.exp()) / 2
        expected = {
            "log_yes_pos": p[8],
            "log_no_pos": p[7],
            "log_yes_neg": q[8],
            "log_no_neg": q[7],
            "kl": (p.exp() * (p - q)).sum(),
            "js": 0.5 * (p.exp() * (p - m.log())).sum() + 0.5 * (q.exp() * (q - m.log())).sum(),
        }
        for name, value in expected.items():
            assert getattr(found, name)[i] == pytest.approx(float(value), abs=2e-5), name
    assert found.labels.dtype == bool and found.labels.tolist() == LABELS and found.users == USERS


def test_scores_do_not_depend_on_what_else_is_in_the_batch(model, pairs, monkeypatch):
    together = score(model, split_of(pairs))
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", 1)
    alone = score(model, split_of(pairs))
    backwards = score(model, split_of(pairs[::-1]))
    for name in ("log_yes_pos", "log_no_pos", "log_yes_neg", "log_no_neg", "kl", "js"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), rtol=0, atol=1e-6)
        np.testing.assert_allclose(getattr(backwards, name)[::-1], getattr(alone, name), rtol=0, atol=1e-6)


def test_without_negatives_the_log_odds_are_the_same(model, pairs):
    both, positive = (
        score(model, split_of(pairs)),
        score(model, split_of(pairs), negatives=False),
    )
    np.testing.assert_allclose(positive.z_pos, both.z_pos, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.exp(positive.log_yes_pos) + np.exp(positive.log_no_pos), 1.0, atol=1e-6)
    assert positive.log_yes_neg is positive.log_no_neg is positive.kl is positive.js is None


def test_the_answer_itself_is_never_shown_to_the_model(model, pairs):
    other = [EncodedPair(Row(p.positive.prompt, [5, 6, 2]), Row(p.negative.prompt, [9, 2])) for p in pairs]
    first, second = (score(model, split_of(rows)) for rows in (pairs, other))
    np.testing.assert_array_equal(first.z_pos, second.z_pos)
    np.testing.assert_array_equal(first.z_neg, second.z_neg)


def test_dropout_is_off_while_scoring(model, pairs):
    from lora.inject import add_lora

    torch.manual_seed(0)
    add_lora(model, r=2, alpha=4, dropout=0.5)
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter)
    model.train()
    first = score(model, split_of(pairs))
    np.testing.assert_array_equal(first.z_pos, score(model.train(), split_of(pairs)).z_pos)


def test_a_bf16_model_is_scored_with_a_float32_head(model, pairs):
    model = model.bfloat16()
    found = score(model, split_of(pairs))
    coarse = [torch.tensor(z, dtype=torch.float32).bfloat16().item() for z in found.log_yes_pos]
    assert np.abs(found.log_yes_pos - coarse).max() > 1e-4  # logits rounded to bf16 would lie on its grid
    with torch.no_grad():
        ids = torch.tensor([pairs[0].positive.prompt])
        logits = model.model(ids)[0, -1].double() @ model.lm_head.weight.double().T
    assert found.z_pos[0] == pytest.approx(float(logits[8] - logits[7]), abs=2e-2)


@pytest.mark.parametrize("limit", [1, 30, 60, 10**6])
def test_batches_hold_every_prompt_once_and_at_most_so_many_distinct_tokens(pairs, monkeypatch, limit):
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", limit)
    prompts = [
        prompt for pair in pairs for prompt in (pair.positive.prompt, pair.positive.prompt[:4] + pair.negative.prompt)
    ]
    batches = list(scoring._batches(prompts))
    assert sorted(i for batch in batches for i in batch) == list(range(len(prompts)))
    for batch in batches:
        assert (
            len(batch) == 1 or len({tuple(prompts[i][: n + 1]) for i in batch for n in range(len(prompts[i]))}) <= limit
        )
    assert (len(batches) == len(prompts)) == (limit == 1) and (len(batches) == 1) == (limit == 10**6)


def test_jensen_shannon_by_hand():
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.25, 0.5]])
    # m = (3/8, 3/8, 1/4)
    expected = 0.5 * (2 * 0.5 * np.log(4 / 3)) + 0.5 * (2 * 0.25 * np.log(2 / 3) + 0.5 * np.log(2))
    assert jensen_shannon(p.log(), q.log()).tolist() == pytest.approx([expected], abs=1e-6)
    assert jensen_shannon(q.log(), p.log()).tolist() == pytest.approx([expected], abs=1e-6)


def test_jensen_shannon_is_zero_for_equal_and_ln_2_for_disjoint_distributions():
    p, q = torch.tensor([[0.3, 0.7, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.6, 0.4]])
    assert jensen_shannon(p.log(), p.log()).item() == pytest.approx(0.0, abs=1e-7)
    assert jensen_shannon(p.log(), q.log()).item() == pytest.approx(np.log(2), abs=1e-6)


def test_the_base_is_scored_once_and_again_only_if_what_was_kept_is_damaged(tmp_path, monkeypatch):
    rows = [Interaction(user, (), 1, bool(user % 2)) for user in range(4)]
    split, calls = Split(rows, [None] * 4, 0, {}), []

    def scored(model, split, progress):
        calls.append(progress)
        return Scored([0, 1, 2, 3], np.array([False, True] * 2), *(np.arange(4) / (3 + i) for i in range(6)))

    monkeypatch.setattr(base_scores, "score_split", scored)
    run = RunFolder(tmp_path / "run", False)
    first, again = (base_scores.score_base(run, "valid", None, split) for _ in range(2))
    assert calls == ["base on valid"]
    for name in ("labels", *scoring.COLUMNS):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert again.users == [0, 1, 2, 3]
    (path,) = (run.path / "last").iterdir()
    content = path.read_bytes()
    for damaged in (b"", content[:20], content[:-1] + b"\x00", content[:-1] + bytes([content[-1] ^ 1])):
        calls.clear()
        path.write_bytes(damaged)
        base_scores.score_base(run, "valid", None, split)
        assert len(calls) == (damaged != content) and path.read_bytes() == content
    calls.clear()
    base_scores.score_base(run, "valid", None, Split(rows[:3], [None] * 3, 0, {}))
    assert calls
