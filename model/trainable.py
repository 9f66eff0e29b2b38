"""The tensors that training changes, by name."""

from torch import nn


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, whatever it is (A and B of LoRA today): every parameter that requires a gradient.

    Keys are the parameters' names in the model; the order is module order.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
