"""Put LoRA layers into a model from outside: the model's own code does not know of them."""

from collections.abc import Iterator

import torch
from torch import nn

from errors import AdapterError
from lora.layer import LoRALinear


def add_lora(
    model: nn.Module,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.05,
    rslora: bool = False,
    where: str = "--lora-targets",
) -> int:
    """Freeze the model and wrap every nn.Linear that `targets` name; lm_head stays as it is.

    A target is a leaf name (q_proj) or the end of a path (self_attn.q_proj, layers.0.mlp.up_proj).
    Draws the A matrices from torch's global generator, in module order. Returns the number of
    trainable parameters. Raises AdapterError, starting with `where`, if any target matches no linear layer.
    """
    model.requires_grad_(False)
    linears = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"
    ]
    leaf_names = {name.rpartition(".")[2] for name, _ in linears}
    unknown = [target for target in targets if not any(_is_named(name, target) for name, _ in linears)]
    if unknown or not targets:
        raise AdapterError(
            f"{where} {','.join(targets)}: no linear layer is called {', '.join(unknown) or '(nothing)'}; "
            f"there are {', '.join(sorted(leaf_names))}"
        )
    for name, module in linears:
        parent_name, _, leaf = name.rpartition(".")
        if any(_is_named(name, target) for target in targets):
            layer = LoRALinear(module, r, alpha, dropout, rslora).train(module.training)
            setattr(model.get_submodule(parent_name), leaf, layer)
    return sum(parameter.numel() for parameter in lora_parameters(model))


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """(module name, layer) of every LoRA layer, in module order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """A and B of every layer, in module order: exactly what is trained."""
    return [parameter for _, layer in lora_layers(model) for parameter in (layer.lora_A, layer.lora_B)]


def lora_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names, detached but not copied."""
    state = {}
    for name, layer in lora_layers(model):
        state[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach()
        state[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach()
    return state


def merge_lora(model: nn.Module) -> None:
    """Fold every layer's update into its weight, in float32 arithmetic.

    Raises AdapterError if that has been done, or if a weight is quantised: its steps are larger than the update.
    """
    layers = _layers_or_refuse(model, "merge")
    if any(not layer.base.weight.is_floating_point() for layer in layers):
        raise AdapterError("the base is quantised, so nothing can be merged into it; load it without --base-dtype int8")
    if any(layer.unmerged is not None for layer in layers):
        raise AdapterError("the adapter is merged already; merging it again would count it twice")
    for layer in layers:
        layer.merge()


def unmerge_lora(model: nn.Module) -> None:
    """Put every weight back as it was, bitwise. Raises AdapterError if nothing is merged."""
    layers = _layers_or_refuse(model, "unmerge")
    if any(layer.unmerged is None for layer in layers):
        raise AdapterError("the adapter is not merged, so there is nothing to undo")
    for layer in layers:
        layer.unmerge()


def _layers_or_refuse(model: nn.Module, verb: str) -> list[LoRALinear]:
    layers = [layer for _, layer in lora_layers(model)]
    if not layers:
        raise AdapterError(f"the model has no LoRA layer, so there is nothing to {verb}")
    return layers
