"""Session 3, LoRA. Fill in the three functions, then: python -m docs.exercises.session3"""

import torch

from docs.exercises.checking import report, same, to_do


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


def _layers():
    """[(layer, its alpha)], of different ranks."""
    from lora.layer import LoRALinear

    layers = []
    for r, alpha in ((3, 7.0), (2, 5.0)):
        layer = LoRALinear(torch.nn.Linear(12, 10, bias=False), r=r, alpha=alpha, dropout=0.0)
        torch.nn.init.normal_(layer.lora_B)
        layers.append((layer.requires_grad_(False), alpha))
    return layers


def check_lora_forward() -> None:
    """3.1 lora_forward equals lora.layer.LoRALinear"""
    for layer, alpha in _layers():
        x = torch.randn(4, 5, 12)
        found = lora_forward(x, layer.base.weight, layer.lora_A, layer.lora_B, alpha)
        same(found, layer(x), f"r = {len(layer.lora_A)}, alpha = {alpha}")


def check_trainable_parameters() -> None:
    """3.2 trainable_parameters counts what lora.inject.add_lora returns, and 4,194,304 for LLaMA-7B with r = 8"""
    from lora.inject import add_lora
    from model.llama import Llama, LlamaConfig

    for layers, hidden, r in ((1, 16, 2), (3, 16, 2), (3, 32, 2), (3, 32, 5)):
        shape = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": hidden // 4}
        sizes = {"vocab_size": 11, "intermediate_size": 24, "max_position_embeddings": 64, "tie_word_embeddings": False}
        model = Llama(
            LlamaConfig(
                hidden_size=hidden, num_hidden_layers=layers, rms_norm_eps=1e-5, rope_theta=1e4, **shape, **sizes
            )
        )
        where = f"{layers} layers of {hidden}, r = {r}"
        same(trainable_parameters(layers, hidden, r), add_lora(model, r=r), where, rtol=0)
    same(trainable_parameters(32, 4096, 8), 4_194_304, "LLaMA-7B", rtol=0)


def check_merged_weight() -> None:
    """3.3 merged_weight equals what `--merge-out` writes, and rounds once"""
    for layer, alpha in _layers():
        for dtype in (torch.float32, torch.bfloat16):
            weight = layer.base.weight.to(dtype)
            found = merged_weight(weight, layer.lora_A, layer.lora_B, alpha)
            same(found, layer.merged(weight), f"r = {len(layer.lora_A)}, {dtype}")


if __name__ == "__main__":
    torch.manual_seed(0)
    report(check_lora_forward, check_trainable_parameters, check_merged_weight)
