"""What a run will need: memory by part, and time, before it needs it.

Weights, adapter and optimizer follow from their sizes. What a decoder layer keeps for its backward pass, and what it needs while
it runs, is not modelled but seen: one layer runs forward and backward once on the longest micro-batch, with every
tensor counted that is made and let go. So the plan holds for any device, precision and set of LoRA targets.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.pairs import EncodedPair, collate
from lora.inject import lora_parameters
from machine import ranks
from model.llama import Llama, rope_tables
from model.prefix_tree import PrefixTree, Queries, prefix_tree
from scoring.forward import PAIRS_PER_BATCH, TOKENS_PER_BATCH, distinct_tokens

ROOM = 0.92  # share of the free memory that a plan may fill: allocators waste some, libraries have buffers of their own
LOSS_BYTES_PER_LOGIT = (
    28  # bytes per logit besides itself: float32 log-probabilities, probabilities, ratios, their gradients
)
# On a CPU, what no count of tensors shows: bytes that libraries take when they are first used, and holes in the C library's heap,
# in parts of what a layer needs while it runs and of what all layers keep. Measured, see docs/performance.md.
LIBRARIES, HOLES_OF_WORKING, HOLES_OF_KEPT = 50_000_000, 3.5, 0.05
CHUNK = 256  # positions of which loss.sequence_terms has logits at once


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active: `now`, and at most, `peak`."""

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
    """One decoder layer on one micro-batch. Bytes: kept for the backward pass; forward, backward: at most while it runs, with
    what is kept; scoring: at most without gradients. Seconds of both passes.
    """

    kept: int
    forward: int
    backward: int
    scoring: int
    forward_s: float
    backward_s: float


def layer_cost(model: Llama, tree: PrefixTree, queries: Queries) -> LayerCost:
    """Run the first layer on random hidden states for the tokens of `tree`, of which `queries` come out.

    Random generators stay as they are.
    """
    layer, weight = model.model.layers[0], model.lm_head.weight
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    with torch.random.fork_rng():
        layer.train()
        leaf = torch.randn(
            len(tree), model.config.hidden_size, dtype=weight.dtype, device=weight.device, requires_grad=True
        )
        rotary = (table[tree.depth] for table in rope_tables(model.config, tree.index.shape[1], like=leaf))
        rotary = tuple(rotary)

        def run(counted: LiveTensors | None = None) -> tuple[float, float, int, int, int]:
            started = time.perf_counter()
            y = layer(leaf.clone(), *rotary, queries)
            _wait(weight.device)
            between, kept, forward = time.perf_counter(), 0, 0
            if counted:
                kept, forward, counted.peak = counted.now - y.nbytes, counted.peak, counted.now
            torch.autograd.grad(y, [leaf, *parameters], torch.ones_like(y))
            _wait(weight.device)
            return between - started, time.perf_counter() - between, kept, forward, y.nbytes

        run()  # the first time, libraries prepare themselves
        forward_s, backward_s, *_ = run()
        with LiveTensors() as counted:
            _, _, kept, forward, output_bytes = run(counted)
        # The layer's own output, which the next one takes over, was alive throughout.
        backward = counted.peak - output_bytes
        with torch.no_grad(), LiveTensors() as counted:
            layer.eval()(leaf.detach().clone(), *rotary, queries)
        layer.train()
    return LayerCost(kept, forward, backward, counted.peak, forward_s, backward_s)


@dataclass(frozen=True)
class Plan:
    """Bytes and seconds. Parts that exist at the same time: see `training` and `peak`."""

    device: str
    layers: int
    checkpointed: int
    pairs: int  # of a micro-batch
    tokens: int  # distinct, of the longest micro-batch
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    program: int  # resident in this process besides the weights; 0 on a GPU
    boundaries: int
    kept_layers: int
    working_layer: int  # of a layer that runs: what it keeps, if it is computed again, and what it needs in passing
    logits: int
    allocator: int  # lost between tensors; 0 on a GPU, whose allocator is left ROOM
    evaluation: int
    saving: int
    step_s: float
    validation_s: float
    room: int  # all that this process can have

    @property
    def always(self) -> int:
        return self.program + self.weights + self.adapter + self.gradients + self.optimizer

    @property
    def training(self) -> int:
        """At most during a step, all in all."""
        return self.always + self.activations + self.allocator

    @property
    def activations(self) -> int:
        return self.boundaries + self.kept_layers + max(self.logits, self.working_layer)

    @property
    def peak(self) -> int:
        """At most during a run."""
        return max(self.training, self.always + max(self.evaluation, self.saving))

    @property
    def fits(self) -> bool:
        return self.peak <= ROOM * self.room

    def as_dict(self) -> dict:
        return {**asdict(self), "training": self.training, "peak": self.peak, "fits": self.fits}


def make_plan(model: Llama, pairs: list[EncodedPair], valid: list[EncodedPair], flags) -> Plan:
    """The plan of a run that trains on `pairs` and is validated on `valid`, with these TrainFlags.

    --checkpointing auto: as few layers as memory asks for. --micro-batch-size 0: of 1, 2, 4, ... pairs the number that costs least,
    with as many layers recomputed as it needs. If nothing fits, what needs least.
    """
    most = min(math.ceil(flags.batch_size / ranks.count()), len(pairs))
    sizes = [flags.micro_batch_size] if flags.micro_batch_size else [2**i for i in range(most.bit_length())]
    validated = distinct_tokens([pair.positive.prompt for pair in valid])
    device = model.lm_head.weight.device
    resident = (
        _resident() if device.type == "cpu" else bytes_of(model)
    )  # before layers are tried: what they need in passing stays
    room = free_memory(device) + resident
    plans = [_plan_of(model, longest_pairs(pairs, size), size, validated, resident, room, flags) for size in sizes]
    return min(plans, key=lambda plan: (not plan.fits, _work(plan) if plan.fits else plan.peak))


def longest_pairs(pairs: list[EncodedPair], size: int) -> list[EncodedPair]:
    """A micro-batch that needs as much memory as any."""
    return sorted(pairs, key=lambda pair: pair.length)[-size:]


def _work(plan: Plan) -> float:
    """What a pair costs, in forward passes of a token through all layers; not in seconds, which are never twice the same."""
    return plan.tokens / plan.pairs * (2 + plan.checkpointed / plan.layers)


def _plan_of(
    model: Llama, longest: list[EncodedPair], size: int, validated: int, resident: int, room: int, flags
) -> Plan:
    batch = collate(longest, flags.objective == "paper", flags.objective == "paper" and flags.kl_forcing == "shared")
    tree = prefix_tree(model, batch.input_ids, batch.lengths, None if flags.whole_sequence else batch.positions)
    weight, layers = model.lm_head.weight, len(model.model.layers)
    cost = layer_cost(model, tree, tree.all_tokens)
    last = layer_cost(model, tree, tree.selected_tokens) if tree.selected_tokens else cost  # of few tokens
    on_cpu = weight.device.type == "cpu"
    adapter = sum(parameter.nbytes for parameter in lora_parameters(model))
    weights = bytes_of(model) - adapter
    vocabulary, dim = weight.shape
    rows = min(CHUNK, int(batch.lengths.sum())) * 2 if flags.whole_sequence else batch.positions.numel()
    scoring_head = vocabulary * (dim * 4 + 2 * PAIRS_PER_BATCH * 4 * 5)

    def with_checkpoints(count: int) -> Plan:
        passes = (
            (layers - 1) * (cost.forward_s + cost.backward_s)
            + count * cost.forward_s
            + last.forward_s
            + last.backward_s
        )
        plan = Plan(
            device=weight.device.type,
            layers=layers,
            checkpointed=count,
            pairs=size,
            tokens=len(tree),
            weights=weights,
            adapter=adapter,
            gradients=adapter,
            optimizer=2 * adapter,
            program=max(0, resident - weights - adapter),
            boundaries=count * len(tree) * dim * weight.element_size(),
            kept_layers=(layers - 1 - count) * cost.kept + last.kept if count < layers else 0,
            # A layer that is computed again keeps what it needs while it goes backward.
            working_layer=max(cost.forward, cost.backward) if count else cost.backward - cost.kept,
            logits=rows * vocabulary * (weight.element_size() + LOSS_BYTES_PER_LOGIT),
            allocator=0,
            evaluation=int(max(cost.scoring * TOKENS_PER_BATCH / len(tree), scoring_head)),
            saving=3 * adapter if on_cpu else 0,
            step_s=passes * math.ceil(flags.batch_size / ranks.count() / size),
            validation_s=layers * cost.forward_s * validated / len(tree) / ranks.count(),
            room=room,
        )
        unseen = LIBRARIES + HOLES_OF_WORKING * max(cost.forward, cost.backward) + HOLES_OF_KEPT * plan.kept_layers
        return replace(plan, allocator=int(unseen)) if on_cpu else plan

    counts = {"on": [layers], "off": [0], "auto": range(layers + 1)}[flags.checkpointing]
    possible = [with_checkpoints(count) for count in counts]
    return next((plan for plan in possible if plan.fits), possible[-1])


def bytes_of(model: Llama) -> int:
    """All parameters and buffers, each once, and of those cut over ranks this rank's part."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum((tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes for tensor in tensors.values())


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _kilobytes("/proc/meminfo", "MemAvailable") // ranks.count_on_node()


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return _kilobytes("/proc/self/status", "VmRSS")


def _kilobytes(path: str, name: str) -> int:
    """A line of these files of Linux, in bytes; 0 where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
