"""LoRA's dropout: what is drawn, its gradients by hand, and what it keeps."""

import pytest
import torch
from torch import nn

from lora.layer import LoRALinear
from machine.layer_cost import LiveTensors
from tensors import bernoulli


@pytest.mark.parametrize("probability", [0.0, 0.02, 0.5, 0.95, 1 - 1e-6, 1.0])
def test_each_is_kept_with_the_probability_asked_for_whatever_its_neighbours_are(probability):
    torch.manual_seed(0)
    kept = bernoulli(torch.empty(1001, 1003), probability).double()
    assert kept.shape == (1001, 1003)
    error = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(kept.mean() - probability) <= 5 * error + 2**-14
    for distance in range(1, 9):  # four come out of one number
        together = (kept[:, distance:] * kept[:, :-distance]).mean()
        assert abs(together - probability**2) <= 5 * error + 2**-14


def test_gradients_with_dropout_are_those_of_a_product_with_the_mask_in_float64():
    torch.manual_seed(0)
    layer, x = (
        LoRALinear(nn.Linear(9, 5, bias=False), r=3, alpha=2, dropout=0.4).double(),
        torch.randn(4, 6, 9).double().requires_grad_(),
    )
    nn.init.normal_(layer.lora_B)
    torch.manual_seed(7)
    kept = bernoulli(x, 0.6).double() / 0.6
    y = x @ layer.base.weight.T + 2 / 3 * (x * kept) @ layer.lora_A.T @ layer.lora_B.T
    wanted = torch.autograd.grad(y.square().sum(), (x, layer.lora_A, layer.lora_B))
    torch.manual_seed(7)
    found = torch.autograd.grad(layer(x).square().sum(), (x, layer.lora_A, layer.lora_B))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_kept_for_the_backward_pass_is_a_byte_an_element_for_every_target():
    """Besides x, which the layer's targets share."""
    x = torch.randn(50, 64, requires_grad=True) * 1
    layers = [
        LoRALinear(nn.Linear(64, 8, bias=False).requires_grad_(False), r=2, alpha=2, dropout=0.1) for _ in range(3)
    ]
    with LiveTensors() as alive:
        outputs = [layer(x) for layer in layers]
    of_rows = 50 * (8 + 2 + 2) * 4  # the output, A's product and that times s / (1 - p)
    assert alive.now <= len(outputs) * (x.numel() + of_rows + 8 * 64 * 4)
