"""What one decoder layer costs: not modelled but measured, with every tensor counted that is made and freed."""

import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from machine.device import forked_rng, wait_for
from model.llama import Llama, rope_tables
from model.prefix_tree import PrefixTree, Queries

TIMED = 3  # the best of so many: others are longer because of what else the machine does


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active: `now`, and the most so far, `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen: WeakKeyDictionary = WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and id(storage) not in given and storage not in self._seen:
                self._seen[storage] = None
                self._add(storage.nbytes())
                finalize(storage, self._add, -storage.nbytes())
        return made

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class LayerCost:
    """One decoder layer on one micro-batch, in bytes and seconds.

    kept: for the backward pass; forward, backward: at most while the layer runs, with what is kept; scoring, scoring_s:
    without gradients.
    """

    kept: int
    forward: int
    backward: int
    scoring: int
    forward_s: float
    backward_s: float
    scoring_s: float


def layer_cost(model: Llama, tree: PrefixTree, queries: Queries) -> LayerCost:
    """Run the first layer on random hidden states for the tokens of `tree`; `queries` says which tokens come out.

    Random generators stay as they are.
    """
    layer, weight = model.model.layers[0], model.lm_head.weight
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    with forked_rng(weight.device):
        layer.train()
        leaf = torch.randn(
            len(tree), model.config.hidden_size, dtype=weight.dtype, device=weight.device, requires_grad=True
        )
        tables = rope_tables(model.config, tree.index.shape[1], like=leaf)
        rotary = tuple(table[tree.depth] for table in tables)

        def run(counted: LiveTensors | None = None) -> tuple[float, float, int, int, int]:
            started = time.perf_counter()
            y = layer(leaf.clone(), *rotary, queries)
            wait_for(weight.device)
            between, kept, forward = time.perf_counter(), 0, 0
            if counted:
                kept, forward, counted.peak = counted.now - y.nbytes, counted.peak, counted.now
            torch.autograd.grad(y, [leaf, *parameters], torch.ones_like(y))
            wait_for(weight.device)
            return between - started, time.perf_counter() - between, kept, forward, y.nbytes

        def score() -> float:
            started = time.perf_counter()
            layer(leaf.detach().clone(), *rotary, queries)
            wait_for(weight.device)
            return time.perf_counter() - started

        run()  # libraries prepare themselves in the first one
        forward_s, backward_s = (min(seconds) for seconds in zip(*(run()[:2] for _ in range(TIMED))))
        with LiveTensors() as counted:
            _, _, kept, forward, output_bytes = run(counted)
        # The layer's own output, which the next one takes over, was alive throughout.
        backward = counted.peak - output_bytes
        layer.eval()
        with torch.no_grad():
            scoring_s = min(score() for _ in range(TIMED))
            with LiveTensors() as counted:
                score()
        layer.train()
    return LayerCost(kept, forward, backward, counted.peak, forward_s, backward_s, scoring_s)
