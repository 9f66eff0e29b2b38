"""The end of a model as a float64 copy, for gradients that central differences can check."""

import copy

import torch
from torch import Tensor

from model.llama import Llama, rope_tables
from tensors import trainable_parameters


class Tail:
    """The last decoder layer that has trainable tensors and everything after it, as a separate float64 copy.

    In the precision of the base, rounding errors would dominate a difference quotient, and a float64 copy
    of a whole 7B model takes 54 GB. One layer, the norm and lm_head are small, and they contain the last
    trainable tensors. Shape letters: B rows, T tokens, D hidden size, V vocabulary.
    """

    def __init__(self, model: Llama, input_ids: Tensor):
        """input_ids: (B, T), on the device of the model."""
        layers = model.model.layers
        start = max(index for index, layer in enumerate(layers) if trainable_parameters(layer))
        inputs_of_layer = []
        hook = layers[start].register_forward_pre_hook(lambda layer, inputs: inputs_of_layer.append(inputs[0]))
        with torch.no_grad():
            model(input_ids, torch.zeros(len(input_ids), 1, dtype=torch.int64, device=input_ids.device))
        hook.remove()
        self.hidden_states = inputs_of_layer[0].double()  # (B, T, D)
        self.rotary = rope_tables(model.config, input_ids.shape[1], like=self.hidden_states)
        self.layers = copy.deepcopy(layers[start:]).double()
        self.norm, self.lm_head = (copy.deepcopy(part).double() for part in (model.model.norm, model.lm_head))
        self.parameters = {
            f"model.layers.{start}.{name}": parameter
            for name, parameter in trainable_parameters(self.layers[0]).items()
        }

    def logits(self) -> Tensor:
        """Logits of all positions, (B, T, V) float64, with their graph."""
        hidden_states = self.hidden_states
        for layer in self.layers:
            hidden_states = layer(hidden_states, *self.rotary)
        return self.lm_head(self.norm(hidden_states))

    def nudged(self, name: str, index: int, by: float) -> Tensor:
        """logits() after adding `by` to one entry of a parameter (index: in flat order), without a graph."""
        entries = self.parameters[name].detach().view(-1)  # shares the parameter's memory
        before = entries[index].item()
        entries[index] = before + by
        with torch.no_grad():
            logits = self.logits()
        entries[index] = before
        return logits


class Whole(Tail):
    """A float64 copy of the whole model, for the gradients of the vectors in its prompts; same members as Tail."""

    def __init__(self, model: Llama, input_ids: Tensor):
        """input_ids: (B, T), on the device of the model."""
        self.model, self.input_ids = copy.deepcopy(model).double(), input_ids
        self.parameters = {
            name: parameter for name, parameter in trainable_parameters(self.model).items() if ".vectors." in name
        }

    def logits(self) -> Tensor:
        """Logits of all positions, (B, T, V) float64, with their graph."""
        return self.model(self.input_ids)
