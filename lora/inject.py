"""Put LoRA layers into a model from outside: the code of the model does not know of them."""

from collections.abc import Iterator

import torch
from torch import nn

from errors import AdapterError
from lora.layer import LoRALinear
from lora.select import Selection, as_selection, ends_with_any


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
    """Raises AdapterError, starting with `where`, if any target matches no layer, or one that LoRA does not wrap here.

    Those are the embeddings and lm_head.
    """
    selection, names = as_selection(targets), [name for name, _ in _linear_layers(model)]
    shown = selection.names if isinstance(selection.names, str) else ",".join(selection.names)
    leaf_names = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
    unwrapped = selection.choose(["lm_head", "model.embed_tokens"], 1, 1) if not selection.names_all() else {}
    if unwrapped:
        which = " and ".join(name.removeprefix("model.") for name in unwrapped)
        raise AdapterError(
            f"{where} {shown}: LoRA on {which} is not computed here; only on the linear layers of the decoder: "
            f"{leaf_names}"
        )
    if isinstance(selection.names, str) and not selection.choose(names, 1, 1):
        raise AdapterError(
            f"{where} {shown}: this regular expression matches no linear layer; it must match a whole name, such as "
            f"{names[0]}"
        )
    listed = () if isinstance(selection.names, str) else selection.names
    unknown = [target for target in listed if not any(ends_with_any(name, (target,)) for name in names)]
    if unknown or not selection.choose(names, 1, 1):
        raise AdapterError(
            f"{where} {shown}: no linear layer is called {', '.join(unknown) or '(nothing)'}; there are {leaf_names}"
        )


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
