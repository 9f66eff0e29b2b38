"""Ten steps of fine_tune against ten by hand on transformers + peft: the loss of each, and the adapter at the end."""

import pytest
import torch
from safetensors.torch import load_file

import train
from cli.train import TrainFlags
from data.splits import Split
from objectives.by_name import make_objective
from run.folder import RunFolder
from tests.oracle import lcft
from tests.oracle.twins import ALL_LINEAR, adapter_record, random_pairs, trained, twins

LR = 5e-3
# Three steps up to LR, then down to 0 at the end of the tenth.
RATES = [LR / 3, LR * 2 / 3, LR, LR, *(LR * left / 7 for left in (6, 5, 4, 3, 2, 1))]
# Five epochs of 7 pairs: a step of 4 pairs in micro-batches of 2 and 2, then a shorter one, 2 and 1.
SHAPE = {
    "batch_size": 4,
    "micro_batch_size": 2,
    "epochs": 5,
    "lr": LR,
    "warmup_steps": 3,
    "weight_decay": 0.5,
    "seed": 3,
}
# clip: between the gradient norms of the ten steps, so that some are clipped and some are not.
OBJECTIVES = {
    "own": {"objective": "paper", "kl_weight": 0.3, "clip": 14.0},
    "shared": {"objective": "paper", "kl_weight": 0.3, "kl_forcing": "shared", "clip": 20.0},
    "first": {"objective": "paper", "kl_weight": 0.3, "kl_tokens": "first", "clip": 14.0},
    "tallrec": {"objective": "tallrec", "kl_weight": 0.0, "clip": 6.0},
    "released": {"objective": "released", "kl_weight": 0.1, "clip": 2.1},
}
# AdamW divides by the root of the mean square of the gradient: an element whose gradient is all but zero
# moves by a rate that rounding decides. Whether there is one follows from the seeds, not from the machine:
# of 120 adapters tried in float32, 116 ended within 1e-6 or so and the worst one 2e-4 off; those used here
# end within 5e-7. In float64 the difference is some 1e-15, so that only another formula could reach 1e-11.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_ten_steps(make_checkpoint, tmp_path, monkeypatch, name, dtype):
    targets = ("q_proj", "v_proj") if name == "tallrec" else ALL_LINEAR
    ours, theirs = twins(make_checkpoint(num_key_value_heads=2), targets, rslora=name == "shared", dtype=dtype)
    before = {name: other.detach().clone() for name, (_, other) in trained(ours, theirs).items()}
    pairs, run = random_pairs(7), RunFolder(tmp_path / "run", False, adapter_record(targets))
    flags = TrainFlags(**SHAPE | OBJECTIVES[name])
    monkeypatch.setattr(train, "validation_measures", lambda model, split: {"valid_auc": 0.5})
    train.fine_tune(ours, pairs, Split([], [], 0, {}), make_objective(vars(flags)), run, flags)
    expected = lcft.train_by_hand(theirs, pairs, flags, RATES)

    logged = run.history()
    clipped = [step["grad_norm"] > flags.clip for step in expected]
    assert any(clipped) and not all(clipped)
    assert [step["lr"] for step in logged] == pytest.approx(RATES, rel=1e-12)
    for field, relative in (("loss", 0), ("grad_norm", TOLERANCE[dtype])):
        assert [step[field] for step in logged] == pytest.approx(
            [step[field] for step in expected], rel=relative, abs=TOLERANCE[dtype]
        )

    saved = load_file(run.path / "adapter_model.safetensors")  # validated once, after the last step
    for name, (mine, other) in trained(ours, theirs).items():
        assert (other - before[name]).abs().max() > 2 * LR
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE[dtype])
        assert torch.equal(saved[f"base_model.model.{name}.weight"], mine.detach())
