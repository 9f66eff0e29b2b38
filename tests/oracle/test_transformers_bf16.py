"""bfloat16: ours is as near to the exact result as transformers and peft are, and near it in absolute terms."""

import pytest
import torch

from model.weights import load_llama
from tests.oracle.test_transformers_llama import VARIANTS, published
from tests.oracle.twins import ALL_LINEAR, load_theirs, trained, transformers, twins

IDS = torch.randint(0, 23, (4, 60), generator=torch.Generator().manual_seed(4))

# bfloat16 rounds to one part in 2^9. Two layers are some 32 roundings in line; as a random walk, and through
# weights as large as these, they come to a dozen units: measured, 0.019 to 0.024 of the logits' standard
# deviation. 16 units, 2^-5, is the bound. The largest of 5,520 errors is some ten times their root mean
# square (measured: 0.11 to 0.21 of the standard deviation), where terms nearly cancel before a norm.
RMS_BOUND, LARGEST_BOUND = 2**-5, 0.3
# How much further from the exact result than the other library, root mean squares compared. The fused
# kernel does the same operations in the same order (measured: equal to the last bit); eager attention and
# peft's float32 products do not (measured: ours 0.85 to 1.02 times theirs).
SAME_KERNEL, OTHER_KERNEL = 1.05, 1.2


def errors(logits: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """(root mean square, largest) over all logits, in standard deviations of the exact ones."""
    difference = (logits.double() - exact) / exact.std()
    return float(difference.square().mean().sqrt()), float(difference.abs().max())


def check(logits: torch.Tensor, exact: torch.Tensor, others: list[tuple[torch.Tensor, float]]) -> None:
    """others: (logits, how many times as far from `exact` as these ours may be)."""
    rms, largest = errors(logits, exact)
    assert 0 < rms <= RMS_BOUND and largest <= LARGEST_BOUND
    for other, factor in others:
        their_rms, their_largest = errors(other, exact)
        # The largest error is that of a single logit: from kernel to kernel it varies twofold.
        assert rms <= factor * their_rms and largest <= 2 * their_largest


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_in_bf16_are_as_exact_as_those_of_transformers(tmp_path, name):
    published(tmp_path, **VARIANTS[name]).to(torch.bfloat16).save_pretrained(tmp_path)
    exact = load_theirs(tmp_path, torch.float64)(IDS).logits
    ours = load_llama(tmp_path, torch.bfloat16)(IDS)
    fused = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert ours.dtype == torch.bfloat16
    eager = load_theirs(tmp_path, torch.bfloat16)
    check(ours, exact, [(fused(IDS).logits, SAME_KERNEL), (eager(IDS).logits, OTHER_KERNEL)])


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_an_adapter_on_bf16_is_as_exact_as_with_peft(make_checkpoint, key_value_heads):
    """A and B are float32 on both sides; peft multiplies them in float32, ours in bfloat16 as it says."""
    folder = make_checkpoint(dtype=torch.bfloat16, num_key_value_heads=key_value_heads)
    exact_ours, exact = twins(folder, ALL_LINEAR, dtype=torch.float64)
    ours, theirs = twins(folder, ALL_LINEAR, dtype=torch.bfloat16)
    outputs = exact(IDS).logits, ours(IDS), theirs(IDS).logits
    check(outputs[1].detach(), outputs[0].detach(), [(outputs[2].detach(), OTHER_KERNEL)])

    direction = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(6))
    for output in outputs:
        (output * direction).sum().backward()
    gradients = [
        torch.cat([pair[side].grad.double().flatten() for pair in both.values()])
        for both, side in (
            (trained(exact_ours, exact), 1),
            (trained(ours, theirs), 0),
            (trained(ours, theirs), 1),
        )
    ]
    mine, their = ((gradient - gradients[0]).norm() / gradients[0].norm() for gradient in gradients[1:])
    assert 0 < mine <= OTHER_KERNEL * their and mine <= 0.1  # measured: 0.04 to 0.05 on both sides
