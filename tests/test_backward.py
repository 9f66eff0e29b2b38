"""Backward passes by hand against autograd of the plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.backward import recomputed, rms_norm, swiglu, take
from model.llama import rotate

EPS = 0.01


def plain_norm(x, weight):
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


def plain_rotation(x, cos, sin):
    """Of tables whose halves are equal."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def signed(sin):
    first, second = sin.chunk(2, dim=-1)
    return torch.cat((-first, second), dim=-1)


STEPS = {  # (by hand, plain, shapes of what has a gradient)
    "norm": (lambda x, weight: rms_norm(x, weight, EPS), plain_norm, [(2, 5, 24), (24,)]),
    "norm of a token": (lambda x, weight: rms_norm(x, weight, EPS), plain_norm, [(24,), (24,)]),
    "swiglu": (swiglu, lambda gate, up: F.silu(gate) * up, [(7, 10), (7, 10)]),
}


def tensors(shapes, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def results(function, given):
    y = function(*given)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype)
    return [y, *torch.autograd.grad(y, given, weights)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", STEPS)
def test_values_and_gradients_are_the_bytes_of_autograd(name, dtype):
    by_hand, plain, shapes = STEPS[name]
    given = tensors(shapes, dtype)
    for ours, theirs in zip(results(by_hand, given), results(plain, given), strict=True):
        assert ours.dtype == dtype and torch.equal(ours, theirs) and ours.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_by_swapped_halves_is_the_one_by_parts(dtype):
    (x,) = tensors([(6, 3, 8)], dtype)
    half = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(1))
    cos, sin = (torch.cat((part, part), dim=-1).to(dtype) for part in (half.cos(), half.sin()))
    ours = results(lambda x: rotate(x, cos, signed(sin)), [x])
    for a, b in zip(ours, results(lambda x: plain_rotation(x, cos, sin), [x]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", STEPS)
def test_gradients_are_the_slopes(name):
    by_hand, _, shapes = STEPS[name]
    assert torch.autograd.gradcheck(by_hand, tensors(shapes, torch.float64))


def test_gradients_of_shared_tokens_and_of_a_rotation_are_the_slopes():
    index = torch.tensor([[0, 1, 2], [0, 1, 1]])
    assert torch.autograd.gradcheck(lambda tokens: take(tokens, index), tensors([(4, 3)], torch.float64))
    cos, sin = torch.randn(2, 5, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, signed(sin)), tensors([(5, 2, 6)], torch.float64))


def kept_by(function, *given):
    """Shapes of what autograd keeps of this call, each storage once."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
    ):
        result = function(*given)
    assert result.requires_grad
    return [tuple(tensor.shape) for tensor in kept.values()]


def test_only_the_inputs_are_kept_and_a_number_for_each_token():
    x, weight = tensors([(7, 24), (24,)], torch.bfloat16)
    frozen = weight.detach()
    assert kept_by(lambda x: rms_norm(x, frozen, EPS), x) == [(7, 24), (24,), (7, 1)]
    gate, up = tensors([(7, 10), (7, 10)], torch.bfloat16)
    assert kept_by(swiglu, gate, up) == [(7, 10), (7, 10)]
    cos, sin = torch.randn(7, 1, 8).bfloat16(), torch.randn(7, 1, 8).bfloat16()
    (heads,) = tensors([(7, 3, 8)], torch.bfloat16)
    assert kept_by(lambda x: rotate(x, cos, sin), heads) == [(7, 1, 8), (7, 1, 8)]


class Calls(TorchDispatchMode):
    """Names of the operations that run while it is active."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_recomputation_stops_before_the_last_product():
    a, b, c = tensors([(3, 4), (4, 5), (5, 6)], torch.float32)
    y = recomputed(lambda a, b, c: torch.softmax(a @ b, dim=-1) @ c, a, b, c)
    with Calls() as calls:
        y.sum().backward()
    assert calls.names.count("mm") == 1 + 4 and calls.names.count("_softmax") == 1


def test_elsewhere_than_on_a_cpu_the_norm_is_pytorchs(monkeypatch):
    asked = []
    monkeypatch.setattr(F, "rms_norm", lambda *args: asked.append(args) or args[0])
    x, weight = torch.empty(7, 24, device="meta"), torch.ones(24, device="meta")
    rms_norm(x, weight, EPS)
    rms_norm(torch.ones(7, 24), torch.ones(24), EPS)
    assert len(asked) == 1 and asked[0][0] is x and asked[0][1:] == ((24,), weight, EPS)


def test_pytorchs_norm_and_ours_agree():
    x, weight = tensors([(7, 24), (24,)], torch.float64)
    for a, b in zip(
        results(STEPS["norm"][0], [x, weight]), results(lambda x, w: F.rms_norm(x, (24,), w, EPS), [x, weight])
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
