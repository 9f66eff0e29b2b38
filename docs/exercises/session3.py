"""Session 3, LoRA. Fill in the three functions, then: python -m docs.exercises.session3"""

import torch

from docs.exercises.checking import report, to_do


def lora_forward(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """W x + (alpha / r) B A x without dropout. x: (..., in), weight: (out, in), a: (r, in), b: (out, r)."""
    return to_do()


def trainable_parameters(layers: int, hidden_size: int, r: int) -> int:
    """How many numbers LoRA on q_proj and v_proj trains, where both are hidden_size x hidden_size."""
    return to_do()


def merged_weight(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """One (out, in) matrix that does the same as lora_forward, summed in float32, returned in the dtype of weight."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def _layer():
    from lora.layer import LoRALinear

    layer = LoRALinear(torch.nn.Linear(12, 10, bias=False), r=3, alpha=7.0, dropout=0.0)
    torch.nn.init.normal_(layer.lora_B)
    return layer


def check_lora_forward() -> None:
    """3.1 lora_forward equals lora.layer.LoRALinear"""
    layer, x = _layer(), torch.randn(4, 5, 12)
    torch.testing.assert_close(lora_forward(x, layer.base.weight, layer.lora_A, layer.lora_B, 7.0), layer(x))


def check_trainable_parameters() -> None:
    """3.2 trainable_parameters counts what lora.inject.add_lora returns for the demo, and 4,194,304 for LLaMA-7B"""
    from lora.inject import add_lora
    from run.base import load_base

    model, _ = load_base("demo", "fp32", torch.device("cpu"))
    assert trainable_parameters(4, 256, 8) == add_lora(model, r=8)
    assert trainable_parameters(32, 4096, 8) == 4_194_304


def check_merged_weight() -> None:
    """3.3 merged_weight equals what `--merge-out` writes, and rounds once"""
    layer = _layer()
    for dtype in (torch.float32, torch.bfloat16):
        weight = layer.base.weight.detach().to(dtype)
        merged = merged_weight(weight, layer.lora_A.detach(), layer.lora_B.detach(), 7.0)
        assert merged.dtype == dtype, f"dtype is {merged.dtype}, wanted {dtype}"
        torch.testing.assert_close(merged, layer.merged(weight), rtol=0, atol=1e-6)


if __name__ == "__main__":
    torch.manual_seed(0)
    report(check_lora_forward, check_trainable_parameters, check_merged_weight)
