"""Put LoRA layers into a model from outside: the code of the model does not know of them."""

from collections.abc import Iterator

import torch
from torch import nn

from lora.layer import LoRALinear
from lora.select import Selection, as_selection


def add_lora(
    model: nn.Module,
    targets: tuple[str, ...] | Selection = ("q_proj", "v_proj"),
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.05,
    rslora: bool = False,
) -> int:
    """Freeze the model and wrap every nn.Linear that `targets` name; lm_head stays as it is.

    A target is a leaf name (q_proj) or the end of a path (self_attn.q_proj, layers.0.mlp.up_proj); a Selection can say
    more, and r and alpha of single layers. Draws the A matrices from torch's global generator, in module order.
    Returns the number of trainable parameters. Raises AdapterError if any target matches no linear layer.
    """
    model.requires_grad_(False)
    refuse_unknown_targets(model, targets, "LoRA's targets")
    modules = dict(_linear_layers(model))
    for name, (rank, its_alpha) in as_selection(targets).choose(list(modules), r, alpha).items():
        parent_name, _, leaf = name.rpartition(".")
        layer = LoRALinear(modules[name], rank, its_alpha, dropout, rslora).train(model.training)
        setattr(model.get_submodule(parent_name), leaf, layer)
    return sum(parameter.numel() for parameter in lora_parameters(model))


def refuse_unknown_targets(model: nn.Module, targets: tuple[str, ...] | Selection, where: str) -> None:
    """Raises AdapterError, starting with `where`, if any target matches no linear layer, or one not wrapped here."""
    as_selection(targets).refuse_unknown([name for name, _ in _linear_layers(model)], where)


def _linear_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """(name, module) of every linear layer that LoRA may wrap."""
    modules = model.named_modules()
    return [(name, module) for name, module in modules if isinstance(module, nn.Linear) and name != "lm_head"]


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """(module name, layer) of every LoRA layer, in module order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """A and B of every layer, in module order: exactly what is trained."""
    return [parameter for _, layer in lora_layers(model) for parameter in (layer.lora_A, layer.lora_B)]


def lora_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names, detached but not copied."""
    return {
        peft_name(f"{name}.{which}"): getattr(layer, which).detach()
        for name, layer in lora_layers(model)
        for which in ("lora_A", "lora_B")
    }


def peft_name(name: str) -> str:
    """PEFT's name of a LoRA parameter that is called `name` in our model."""
    return f"base_model.model.{name}.weight"


def own_name(name: str) -> str:
    """The name in our model of a LoRA parameter that PEFT calls `name`."""
    return name.removeprefix("base_model.model.").removesuffix(".weight")
