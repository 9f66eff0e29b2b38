"""LoRA's forward and backward pass: logits and the gradient of every A and B equal those of peft."""

import pytest
import torch

from tests.oracle.twins import ALL_LINEAR, relative_difference, trained, twins

IDS = torch.tensor([[1, 5, 22, 0, 13, 7, 2, 19], [9, 9, 2, 4, 11, 3, 21, 8]])
# Both sides round differently; products of 40 numbers in float32 through two layers stay well below 1e-5.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("r, alpha", [(1, 3), (4, 6), (8, 16), (16, 2.5)])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL_LINEAR], ids=["qv", "all"])
def test_logits_and_gradients_equal_those_of_peft(make_checkpoint, targets, r, alpha, rslora, dtype):
    folder = make_checkpoint(num_key_value_heads=2)
    ours, theirs = twins(folder, targets, r, alpha, rslora, dtype)
    logits, expected = ours.train()(IDS), theirs.train()(IDS).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE[dtype])
    with torch.no_grad(), theirs.disable_adapter():
        assert (theirs(IDS).logits - expected).abs().max() > 0.1  # the adapter matters

    # No particular loss: a random direction in the space of all logits.
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6)).to(dtype)
    (logits * direction).sum().backward()
    (expected * direction).sum().backward()
    pairs = trained(ours, theirs)
    assert len(pairs) == 2 * 2 * len(targets)  # A and B, two layers
    for name, (mine, other) in pairs.items():
        assert relative_difference(mine.grad, other.grad) <= TOLERANCE[dtype], name
