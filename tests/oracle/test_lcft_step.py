"""One step of every objective against transformers + peft + autograd: gradients, loss, terms, A and B afterwards."""

import pytest
import torch

import train
from cli.train import TrainFlags
from data.splits import Split
from objectives.by_name import make_objective
from run.folder import RunFolder
from tests.oracle import lcft
from tests.oracle.twins import ALL_LINEAR, adapter_record, random_pairs, relative_difference, trained, twins
from train import accumulate_gradients

# The paper's lambda, 1e-4, alone would hide an error of the KL below the tolerance of float32.
PAPER = {"objective": "paper", "kl_weight": 0.7}
OBJECTIVES = {
    "own": PAPER | {"kl_forcing": "own"},
    "shared": PAPER | {"kl_forcing": "shared"},
    "first": PAPER | {"kl_tokens": "first"},
    "cap": PAPER | {"kl_cap": 2.0},
    "the paper's lambda": PAPER | {"kl_weight": 1e-4},
    "no kl": PAPER | {"kl_weight": 0.0},
    "tallrec": {"objective": "tallrec", "kl_weight": 0.0},
    "tallrec on prompt": {"objective": "tallrec", "kl_weight": 0.0, "train_on_prompt": True},
    "released": {"objective": "released", "kl_weight": 0.3},
}
# float32: the two sides round differently. float64: nothing but another formula would be larger.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
TARGETS = {"qv": ("q_proj", "v_proj"), "all": ALL_LINEAR}
PAIRS = random_pairs(5)
NOTHING = Split([], [], 0, {})  # to validate on


def flags_for(name: str, **changes) -> TrainFlags:
    """Three micro-batches of 2, 2 and 1 pairs, in a step that would have room for four."""
    options = {"batch_size": 8, "micro_batch_size": 2, "lr": 1e-3, "weight_decay": 1.0, "warmup_steps": 0, "epochs": 1}
    return TrainFlags(**options | OBJECTIVES[name] | changes)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_and_loss_of_a_step(make_checkpoint, name, targets, dtype):
    ours, theirs = twins(make_checkpoint(num_key_value_heads=2), TARGETS[targets], dtype=dtype)
    flags, tolerance = flags_for(name), TOLERANCE[dtype]
    loss, means = lcft.step_loss(theirs, PAIRS, flags)
    loss.backward()
    record = accumulate_gradients(ours.train(), PAIRS, make_objective(vars(flags)), flags.micro_batch_size).read()
    assert record["loss"] == pytest.approx(loss.item(), rel=0, abs=tolerance)
    for term, value in means.items():
        assert record[term] == pytest.approx(value.item(), rel=0, abs=tolerance), term
    for name, (mine, other) in trained(ours, theirs).items():
        assert relative_difference(mine.grad, other.grad) <= tolerance, name


def test_the_cap_holds_some_pairs_and_not_others(make_checkpoint):
    """Otherwise "cap" above would be "own" or "no kl" once more."""
    _, theirs = twins(make_checkpoint(num_key_value_heads=2), ALL_LINEAR)
    flags = flags_for("cap")
    above = [lcft.paper_terms(theirs, pair, flags)["kl"].item() > flags.kl_cap for pair in PAIRS]
    assert any(above) and not all(above)


def test_released_stops_at_the_published_bound(make_checkpoint):
    """Logits blown up so that some micro-batches have a KL above 10,000 nats per pair and some have not."""
    ours, theirs = twins(make_checkpoint(), ALL_LINEAR, dtype=torch.float64)
    flags = flags_for("released")
    with torch.no_grad():
        for head in (ours.lm_head, theirs.base_model.model.lm_head):
            head.weight.mul_(700)
    parts = [PAIRS[i : i + 2] for i in (0, 2, 4)]
    held = [lcft.released_kl(theirs, part).item() > 10_000 for part in parts]
    assert any(held) and not all(held)
    loss, _ = lcft.step_loss(theirs, PAIRS, flags)
    loss.backward()
    record = accumulate_gradients(ours.train(), PAIRS, make_objective(vars(flags)), flags.micro_batch_size).read()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-11)
    for name, (mine, other) in trained(ours, theirs).items():
        assert relative_difference(mine.grad, other.grad) <= 1e-11, name


@pytest.mark.parametrize("clip", [1.0, 1e6], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["own", "shared", "first", "released"])
def test_a_and_b_after_the_step(make_checkpoint, tmp_path, monkeypatch, name, dtype, clip):
    """Through fine_tune itself, told to take one step.

    AdamW's first step is lr g / (|g| + 1e-8), clipped or not: only where g, after clipping, is as small as
    float32 can tell it from zero do the two sides differ by more than rounding. Hence an lr that keeps those
    few elements within the tolerance, with a weight decay that stays visible.
    """
    ours, theirs = twins(make_checkpoint(tie_word_embeddings=True), ALL_LINEAR, dtype=dtype)
    before = {name: other.detach().clone() for name, (_, other) in trained(ours, theirs).items()}
    flags, run = flags_for(name, clip=clip), RunFolder(tmp_path / "run", False, adapter_record(ALL_LINEAR))
    monkeypatch.setattr(train, "validation_measures", lambda model, split: {"valid_auc": 0.5})
    train.fine_tune(ours, PAIRS, NOTHING, make_objective(vars(flags)), run, flags)
    (expected,) = lcft.train_by_hand(theirs, PAIRS, flags, [flags.lr])
    (logged,) = run.history()
    assert logged["loss"] == pytest.approx(expected["loss"], rel=0, abs=TOLERANCE[dtype])
    assert logged["grad_norm"] == pytest.approx(expected["grad_norm"], rel=TOLERANCE[dtype])
    assert (expected["grad_norm"] > clip) == (clip == 1.0)
    for name, (mine, other) in trained(ours, theirs).items():
        assert (other - before[name]).abs().max() > 0.9 * flags.lr  # Adam's first step moves by about lr
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE[dtype])
