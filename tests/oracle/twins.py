"""The same tiny model twice, ours and that of transformers + peft, with one random adapter in both.

What imports this skips where transformers or peft is missing.
"""

import random

import pytest
import torch
from torch import nn

from data.pairs import EncodedPair, Row
from lora.inject import add_lora
from model.llama import Llama
from model.weights import load_llama

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load_theirs(folder, dtype=torch.float32):
    """The checkpoint as transformers reads it, computing in `dtype` throughout."""
    # Eager attention has products and softmax written out, where ours calls a fused kernel; but it
    # takes the softmax in float32, so float64 needs the kernel.
    attention = "sdpa" if dtype == torch.float64 else "eager"
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
    if dtype == torch.float64:
        _norms_in_float64(model)
    return model


def twins(folder, targets, r=4, alpha=6, rslora=False, dtype=torch.float32):
    """(ours, theirs): the checkpoint with LoRA on `targets`, no dropout, every A and B random and the same.

    At any r and alpha the elements of the update s B A are of the order of 0.03, those of the weights of 0.3.
    With an update as large as the weights the logits would be ill-conditioned, and rounding all one sees.
    """
    size = (0.03 / (alpha / (r**0.5 if rslora else r)) / r**0.5) ** 0.5
    ours = load_llama(folder, dtype)
    add_lora(ours, targets, r=r, alpha=alpha, dropout=0.0, rslora=rslora)
    if dtype == torch.float64:
        ours.to(dtype)  # A and B are float32 whatever the base is
    config = peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.0, use_rslora=rslora, target_modules=list(targets))
    theirs = peft.get_peft_model(load_theirs(folder, dtype), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for a, b in trained(ours, theirs).values():
            noise = torch.randn(a.shape, generator=generator) * size
            a.copy_(noise)
            b.copy_(noise)
    return ours, theirs


def trained(ours: Llama, theirs) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """(ours, theirs) of every trainable parameter, by our name; both must train the same ones."""
    mine = {name: parameter for name, parameter in ours.named_parameters() if parameter.requires_grad}
    peers = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    assert mine.keys() == peers.keys() and mine
    for name, parameter in mine.items():
        assert parameter.shape == peers[name].shape and parameter.dtype == peers[name].dtype, name
    return {name: (mine[name], peers[name]) for name in mine}


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors over the largest element of the second."""
    assert found.shape == expected.shape and expected.abs().max() > 0
    return float((found - expected).abs().max() / expected.abs().max())


def _norms_in_float64(model) -> None:
    """Transformers rounds to float32 inside every norm; torch's own RMSNorm does not."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = nn.RMSNorm(len(module.weight), eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, norm)


# ---- pairs to train on --------------------------------------------------------------------------


def random_pairs(count: int, vocabulary: int = 23, seed: int = 7) -> list[EncodedPair]:
    """Prompts of many lengths, the negative one longer, as long or shorter, and answers of two or three tokens."""
    draw = random.Random(seed)

    def words(low: int, high: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(draw.randint(low, high))]

    pairs = []
    for i in range(count):
        before, after = words(2, 6), words(1, 5)
        positive = Row([*before, 3, *after], words(2, 3))
        asked = ([*before, 4, 5, *after], [*before, 4, *after], [*before[1:], *after])[i % 3]
        pairs.append(EncodedPair(positive, Row(asked, words(2, 3)), f"pair {i}"))
    return pairs


def adapter_record(targets, r=4, alpha=6, rslora=False) -> dict:
    """What train.py has a saved adapter say about itself."""
    return {
        "r": r,
        "alpha": alpha,
        "dropout": 0.0,
        "rslora": rslora,
        "targets": tuple(targets),
        "base": "tiny",
        "base_fingerprint": "0",
    }
