"""The losses of CoLLM and LCFT-CoLMF against plain Python in float64, their gradients, and what is read as Yes."""

import math

import numpy as np
import pytest
import torch

from baselines.rows import number_ids
from baselines.vectors import user_and_item_vectors
from cli.flags import parse_flags
from cli.train import TrainFlags, check_flags, presets
from data.interactions import Interaction
from data.pairs import EncodedPair, Row
from data.splits import Split
from lora.inject import add_lora
from metrics import Scored, auc
from model.soft_tokens import MappedVectors, add_vectors
from objectives.collm import CoLLM, LCFTCoLMF, two_answer_cross_entropy, yes_logit_loss
from run.outcome import collapse_lines, new_prompt_lines
from scoring.splits import score_split, validation_measures
from tensors import trainable_parameters
from tests.planted import auc_of, data_of, learn, planted
from tests.test_flags import problems
from train import learning_rate

YES, NO, V = 8, 7, 23
LIKED = [True, False, False, True]
PAIRS = [
    EncodedPair(
        Row([1, 5, V + n, 6, 9][: 5 - n % 2], [YES if liked else NO, 2]),
        Row([1, 5, V + n, 10, 6, 9], [NO if liked else YES, 2]),
        f"row {n}",
        liked,
    )
    for n, liked in enumerate(LIKED)
]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def softmax(row):
    top = max(row)
    whole = [math.exp(z - top) for z in row]
    return [value / sum(whole) for value in whole]


@pytest.fixture
def model(tiny_llama):
    """In float64, LoRA and vectors both trained and nowhere zero."""
    model = tiny_llama()
    add_lora(model, ("q_proj", "v_proj"), r=2, dropout=0.0)
    add_vectors(model, MappedVectors(torch.randn(4, 3, generator=torch.Generator().manual_seed(5)), 32))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.double()


def first_logits(model, rows):
    """(V,) after the last token of each prompt, each row alone."""
    return [model(torch.tensor([list(row.prompt)]))[0, -1] for row in rows]


def expected(model, main, weight, sides):
    """(loss, terms of each pair), written out."""
    total, terms = 0.0, []
    for pair in PAIRS:
        rows = [row.tolist() for row in first_logits(model, (pair.positive, pair.negative))]
        of_pair = []
        for row, right in list(zip(rows, (pair.liked, not pair.liked)))[:sides]:
            p = sigmoid(row[YES]) if main == "bce-yes" else sigmoid(row[YES] - row[NO])
            of_pair.append(-math.log(p if right else 1 - p))
        if sides == 2:
            p, q = softmax(rows[0]), softmax(rows[1])
            of_pair.append(sum(a * math.log(a / b) for a, b in zip(p, q)))
        terms.append(of_pair)
        total += sum(of_pair[:2]) - (weight * of_pair[2] if sides == 2 else 0)
    return total / len(PAIRS), terms


CASES = {
    "collm": (CoLLM(), "bce-yes", 1),
    "colmf": (LCFTCoLMF(0.3, "bce-yes", "2", 2), "bce-yes", 2),
    "colmf in the other stage": (LCFTCoLMF(0.3, "bce-yes", "2", 1), "bce-yes", 1),
    "colmf in both": (LCFTCoLMF(0.3, "bce-yes", "both", 1), "bce-yes", 2),
    "colmf, two answers": (LCFTCoLMF(0.3, "ce", "2", 2), "ce", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_every_loss_is_the_equation_written_out(model, name):
    objective, main, sides = CASES[name]
    assert objective.rows_per_pair == sides
    loss, terms, tokens = objective.loss(model, PAIRS, len(PAIRS))
    value, by_pair = expected(model, main, 0.3, sides)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-12)
    for column, term in enumerate(("ce_pos", "ce_neg", "kl")[: 1 if sides == 1 else 3]):
        assert terms[term].tolist() == pytest.approx([row[column] for row in by_pair], rel=1e-9)
    assert tokens == sum(len(pair.positive) + (len(pair.negative) if sides == 2 else 0) for pair in PAIRS)


@pytest.mark.parametrize("name", CASES)
def test_every_gradient_is_that_of_central_differences_and_of_any_micro_batch(model, name):
    objective, main, sides = CASES[name]
    trained = trainable_parameters(model)
    objective.loss(model, PAIRS, len(PAIRS)).loss.backward()
    whole = {key: parameter.grad.clone() for key, parameter in trained.items()}
    model.zero_grad()
    for pair in PAIRS:
        objective.loss(model, [pair], len(PAIRS)).loss.backward()
    for key, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, whole[key], rtol=1e-9, atol=1e-12)
        place = int(whole[key].abs().argmax())
        flat, step = parameter.data.view(-1), 1e-5
        values = []
        for sign in (1, -1):
            flat[place] += sign * step
            values.append(expected(model, main, 0.3, sides)[0])
            flat[place] -= sign * step
        assert float(whole[key].view(-1)[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6), key


def test_the_yes_loss_has_no_gradient_for_any_other_token():
    logits = torch.randn(3, V, dtype=torch.float64, requires_grad=True)
    yes, right = torch.full((3,), YES), torch.tensor([True, False, True])
    yes_logit_loss(logits, yes, right).sum().backward()
    closed = torch.zeros_like(logits)
    closed[:, YES] = torch.sigmoid(logits.detach()[:, YES]) - right.double()
    torch.testing.assert_close(logits.grad, closed, rtol=1e-12, atol=0)


def test_both_losses_are_finite_where_a_logarithm_of_a_sigmoid_is_not():
    logits = torch.zeros(2, V)
    logits[:, YES] = torch.tensor([1000.0, -1000.0])
    ids, right = torch.full((2,), YES), torch.tensor([False, True])
    assert yes_logit_loss(logits, ids, right).tolist() == [1000, 1000]
    assert two_answer_cross_entropy(logits, ids, torch.full((2,), NO), right).tolist() == [1000, 1000]


def test_a_model_with_vectors_overfits_sixteen_rows(tiny_llama):
    torch.manual_seed(0)
    model = tiny_llama()
    add_lora(model, ("q_proj", "v_proj"), r=2, dropout=0.0)
    model.requires_grad_(False)
    add_vectors(model, MappedVectors(torch.randn(17, 8), 32))
    rows = [Interaction(n, (), 1, n % 3 == 0) for n in range(16)]
    pairs = [
        EncodedPair(Row([1, 5, V + n + 1, 6], [YES if r.label else NO, 2]), Row([1], [2]), liked=r.label)
        for n, r in enumerate(rows)
    ]
    # The answer of a negative row says which token yes is where the answer is no.
    pairs = [
        EncodedPair(p.positive, Row([1, 4], [NO if p.liked else YES, 2]), f"row {n}", p.liked)
        for n, p in enumerate(pairs)
    ]
    split = Split(rows, pairs, 0, {True: [YES], False: [NO]}, reading="sigmoid")
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=3e-3)
    for _ in range(40):
        CoLLM().loss(model, pairs, 16).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert validation_measures(model, split)["valid_auc"] == 1.0


def test_planted_interaction_is_learnt_from_the_vectors_and_not_from_the_text(tiny_llama):
    """The label is whether user and item are of one group. The text has the item's title, and nothing of the user."""
    train_rows, test_rows = planted("group", 1000, 0), planted("group", 200, 1)
    data = data_of(train_rows, test_rows, test_rows)
    mf, encode = learn("mf", data, 20, dim=8, lr=1e-2, l2=1e-5, batch_size=128)
    assert auc_of(mf, encode(test_rows)) > 0.99
    users, items = user_and_item_vectors(mf)
    ids = number_ids(data, train_rows)

    def pairs(rows, soft):
        for n, row in enumerate(rows):
            user = 50 + ids.users[row.user] if soft else 3
            item = 50 + len(users) + ids.items[row.target] if soft else 4
            prompt, answers = [1, 5, user, 9, 10 + row.target, item, 11], (8, 7) if row.label else (7, 8)
            yield EncodedPair(Row(prompt, [answers[0], 2]), Row(prompt, [answers[1], 2]), f"row {n}", row.label)

    found = {}
    for soft in (True, False):
        torch.manual_seed(0)
        model = tiny_llama(vocab_size=50)
        add_lora(model, ("q_proj", "v_proj"), r=4, dropout=0.0)
        if soft:
            model.requires_grad_(False)
            add_vectors(model, MappedVectors(torch.cat([torch.zeros(1, 8), users, items]), 32))
        optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=3e-3)
        rows, draw = list(pairs(train_rows, soft)), np.random.default_rng(0)
        for _ in range(50):
            batch = [rows[i] for i in draw.integers(0, len(rows), 64)]
            CoLLM().loss(model.train(), batch, 64).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        split = Split(test_rows, list(pairs(test_rows, soft)), 0, {True: [8], False: [7]}, reading="sigmoid")
        found[soft] = validation_measures(model, split)["valid_auc"]
    assert found[True] > 0.95 and abs(found[False] - 0.5) < 0.15, found


# ---- collapse -----------------------------------------------------------------------------------


def scored(order):
    z = np.array(order, dtype=float)
    return Scored([None] * 4, np.array([True, True, False, False]), z, -z)


def test_a_collapse_is_said_before_and_after_stage_2():
    good, bad = scored([4, 3, 2, 1]), scored([1, 2, 3, 4])
    assert auc(good.labels, good.z_pos) == 1
    assert len(new_prompt_lines(good, good)) == 1 and "AUC 1.0000" in new_prompt_lines(good, good)[0]
    assert new_prompt_lines(good, bad)[1].startswith("WARNING: the new prompts alone cost stage 1")
    results = {"stage_1_text": {"auc": 0.7}, "valid": {"after": {"auc": 0.66}}}
    assert collapse_lines(results) == []
    results["valid"]["after"]["auc"] = 0.6
    assert collapse_lines(results)[0].startswith("WARNING: stage 2 collapsed: validation AUC 0.6000, below the 0.7000")


# ---- which probability is read ------------------------------------------------------------------


def test_with_the_reading_sigmoid_the_log_odds_are_the_raw_logit_of_yes(model):
    rows = [Interaction(n, (), 1, liked) for n, liked in enumerate(LIKED)]
    splits = {
        reading: Split(rows, PAIRS, 0, {True: [YES], False: [NO]}, reading=reading)
        for reading in ("softmax", "sigmoid")
    }
    scored = {reading: score_split(model, split) for reading, split in splits.items()}
    for side, log_odds in (("positive", "z_pos"), ("negative", "z_neg")):
        logits = first_logits(model, [getattr(pair, side) for pair in PAIRS])
        raw = [float(row.detach()[YES]) for row in logits]
        np.testing.assert_allclose(getattr(scored["sigmoid"], log_odds), raw, atol=1e-5)
        difference = [float((row[YES] - row[NO]).detach()) for row in logits]
        np.testing.assert_allclose(getattr(scored["softmax"], log_odds), difference, atol=1e-5)
    assert np.array_equal(scored["sigmoid"].kl, scored["softmax"].kl)
    for reading, split in splits.items():
        from_both = validation_measures(model, split)["valid_auc"]
        order = np.argsort(scored[reading].z_pos)
        labels = np.array(LIKED)[order]
        wins = sum(labels[j] for i in range(4) for j in range(i + 1, 4) if not labels[i])
        assert from_both == wins / 4


# ---- flags --------------------------------------------------------------------------------------

CONTRADICTIONS = {
    "--collaborative mf": "--collaborative mf: expected METHOD:DIR",
    "--collaborative caser:x": "--collaborative caser:x: expected METHOD:DIR",
    "--collaborative mf:x": "--stage 2: say with --init-adapter",
    "--stage 2 --init-adapter x": "--stage 2: say with --collaborative",
    "--train-collaborative": "--train-collaborative: has no effect without --collaborative",
    "--tuning t2": "--tuning: has no effect without --collaborative",
    "--collaborative mf:x --stage 1": "--stage 1: trains LoRA by the text prompt",
    "--collaborative mf:x --init-adapter y --tuning t3 --stage 2": "--stage 2: --tuning t3 has one stage",
    "--collaborative mf:x --init-adapter y --soft-prompt normal": "--soft-prompt: contradicts --collaborative",
    "--collaborative sasrec-full:x --init-adapter y --tuning t2": "--collaborative sasrec-full:x: its users are hist",
    "--collaborative mf:x --init-adapter y --template tallrec": "--template tallrec: has no place for these vectors",
    "--collaborative mf:x --init-adapter y --objective released": "--objective released: asks for the next token",
    "--collaborative mf:x --init-adapter y --merge-out z": "--merge-out: a plain checkpoint has no place for vectors",
    "--template collm": "--template collm: needs --collaborative",
    "--template prompt4nr": "--template prompt4nr: needs --soft-prompt",
    "--end-lr 1e-5": "--end-lr: has no effect with --schedule linear",
    "--main-loss ce": "--main-loss: has no effect with --objective paper",
    "--objective collm --lcft-stage both": "--lcft-stage: has no effect with --objective collm",
}


def parsed(*argv):
    return parse_flags(TrainFlags, list(argv), "", presets)


@pytest.mark.parametrize("argv", CONTRADICTIONS)
def test_flags_that_do_not_fit_together_are_refused(argv):
    found = problems(lambda *words: check_flags(*parsed(*words)), *argv.split())
    assert any(line.startswith(CONTRADICTIONS[argv]) for line in found), found


def test_presets_give_the_published_settings_to_a_large_base_and_keep_those_of_a_small_one():
    large, _ = parsed("--objective", "collm", "--model", "/nowhere", "--data", "ml-1m")
    assert (large.lr, large.batch_size, large.warmup_steps, large.schedule, large.end_lr) == (
        1e-3,
        16,
        200,
        "cosine",
        8e-5,
    )
    assert (large.max_steps, large.eval_every, large.weight_decay, large.lora_dropout) == (10_000, 50, 1e-3, 0.05)
    small, _ = parsed("--objective", "collm")
    assert (small.lr, small.batch_size, small.max_steps, small.schedule) == (1.5e-3, 16, 60, "cosine")
    for data, weight in (("ml-1m", 1e-4), ("amazon-book", 1e-5)):
        assert parsed("--objective", "lcft-colmf", "--data", data)[0].kl_weight == weight
    stage_2, _ = parsed("--objective", "collm", "--collaborative", "mf:x")
    assert (stage_2.template, stage_2.stage) == ("collm", 2)
    assert parsed("--objective", "collm", "--collaborative", "mf:x", "--tuning", "t3")[0].stage == 1
    prompt4nr, _ = parsed("--objective", "collm", "--soft-prompt", "uniform", "--model", "/nowhere", "--data", "ml-1m")
    assert (prompt4nr.template, prompt4nr.lr) == ("prompt4nr", 1e-4)


def test_the_cosine_schedule_warms_up_and_ends_at_its_end():
    flags = TrainFlags(lr=1e-3, warmup_steps=4, schedule="cosine", end_lr=8e-5)
    rates = [learning_rate(step, 100, flags) for step in range(101)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    for step in (4, 50, 99, 100):
        assert rates[step] == pytest.approx(8e-5 + 9.2e-4 * (math.cos(math.pi * step / 100) + 1) / 2)
    assert rates[50] == pytest.approx((1e-3 + 8e-5) / 2) and rates[100] == pytest.approx(8e-5)
