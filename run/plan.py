"""What a run will need: memory by part, and time, before it needs it.

Weights, adapter and optimizer follow from their sizes. What a decoder layer keeps for its backward pass, and what it
needs while it runs, is measured: one layer runs forward and backward once on the longest micro-batch. So the plan holds
for any device, precision, objective and set of LoRA targets.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Protocol

import torch

from data.pairs import EncodedPair
from loss import CHUNK
from machine import ranks
from machine.gpu import bytes_of_libraries
from machine.layer_cost import LayerCost, layer_cost
from machine.memory import bytes_of, free_memory, mapped_memory, resident_memory
from model.llama import Llama
from model.prefix_tree import prefix_tree
from objectives.base import Objective, rows_in_blocks
from scoring.forward import TOKENS_PER_BATCH, distinct_tokens, pairs_per_batch
from tensors import trainable_parameters

ROOM = 0.92  # share of the free memory that a plan may fill: allocators waste some, libraries have buffers of their own
LOSS_BYTES_PER_LOGIT = 28  # besides the logit: float32 log-probabilities, probabilities, ratios, their gradients
# On a CPU, what no count of tensors shows: bytes that libraries take when they are first used, and holes in the C
# library's heap, as parts of what a layer needs while it runs and of what all layers keep. Measured, see
# docs/performance.md.
LIBRARIES, HOLES_OF_WORKING, HOLES_OF_KEPT = 50_000_000, 3.5, 0.05


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
    program: int  # resident in this process besides the weights; on a GPU, what libraries take
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
        """What is there throughout the run."""
        return self.program + self.weights + self.adapter + self.gradients + self.optimizer

    @property
    def training(self) -> int:
        """At most during a step, all in all."""
        return self.always + self.activations + self.allocator

    @property
    def activations(self) -> int:
        """At most during a step, besides what is always there."""
        return self.boundaries + self.kept_layers + max(self.logits, self.working_layer)

    @property
    def peak(self) -> int:
        """At most during a run."""
        return max(self.training, self.always + max(self.evaluation, self.saving))

    @property
    def fits(self) -> bool:
        """Whether the peak leaves enough room."""
        return self.peak <= ROOM * self.room

    def as_dict(self) -> dict:
        """All figures, ready for JSON."""
        return {**asdict(self), "training": self.training, "peak": self.peak, "fits": self.fits}


class StepFlags(Protocol):
    """The flags that decide how a step is cut, and which layers are recomputed."""

    batch_size: int
    micro_batch_size: int
    checkpointing: str


class _Circumstances(NamedTuple):
    """What is the same for every size of a micro-batch. Bytes; validated: distinct tokens of a validation."""

    resident: int
    room: int
    validated: int


def make_plan(
    model: Llama, objective: Objective, pairs: list[EncodedPair], valid: list[EncodedPair], flags: StepFlags
) -> Plan:
    """The plan of a run that trains on `pairs` and is validated on `valid`.

    --checkpointing auto: only as many layers are recomputed as memory requires. --micro-batch-size 0: of 1, 2, 4, ...
    pairs the number whose pairs cost least, with as many layers recomputed as it needs. If nothing fits, the plan that
    needs least memory.
    """
    most = min(math.ceil(flags.batch_size / ranks.count()), len(pairs))
    sizes = [flags.micro_batch_size] if flags.micro_batch_size else [2**i for i in range(most.bit_length())]
    device = model.lm_head.weight.device
    # Before layers are measured: some of what they need stays resident.
    resident = resident_memory() if device.type == "cpu" else bytes_of(model)
    sides = [pair.positive for pair in valid], [pair.negative for pair in valid]  # scored one after the other
    validated = sum(distinct_tokens([row.prompt for row in side]) for side in sides)
    counted_twice = min(resident, mapped_memory()) if device.type == "cpu" else 0
    circumstances = _Circumstances(resident, free_memory(device) + resident - counted_twice, validated)
    plans = [_plan_of(model, objective, pairs, size, flags, circumstances) for size in sizes]
    return min(plans, key=lambda plan: (not plan.fits, _work(plan) if plan.fits else plan.peak))


def longest_pairs(pairs: list[EncodedPair], size: int) -> list[EncodedPair]:
    """A micro-batch that needs as much memory as any."""
    return sorted(pairs, key=lambda pair: pair.length)[-size:]


def _work(plan: Plan) -> float:
    """What a pair costs, in forward passes of a token through all layers.

    Not in seconds, which differ each time they are measured.
    """
    return plan.tokens / plan.pairs * (2 + plan.checkpointed / plan.layers)


def _plan_of(
    model: Llama,
    objective: Objective,
    pairs: list[EncodedPair],
    size: int,
    flags: StepFlags,
    circumstances: _Circumstances,
) -> Plan:
    """The plan with micro-batches of `size` pairs."""
    batch = rows_in_blocks(longest_pairs(pairs, size), objective.rows_with_gradient)
    positions = None if objective.whole_rows else batch.positions
    tree = prefix_tree(model, batch.input_ids, batch.lengths, positions)
    weight, layers = model.lm_head.weight, len(model.model.layers)
    cost = layer_cost(model, tree, tree.all_tokens)
    last = layer_cost(model, tree, tree.selected_tokens) if tree.selected_tokens else cost  # of few tokens
    adapter = sum(parameter.nbytes for parameter in trainable_parameters(model).values())
    weights = bytes_of(model) - adapter
    vocabulary, dim = weight.shape
    logits = min(CHUNK, int(batch.lengths.sum())) * 2 if objective.whole_rows else batch.positions.numel()
    scoring_head = vocabulary * (dim * 4 + 2 * pairs_per_batch(vocabulary) * 4 * 5)
    plan = Plan(
        device=weight.device.type,
        layers=layers,
        checkpointed=0,
        pairs=size,
        tokens=len(tree),
        weights=weights,
        adapter=adapter,
        gradients=adapter,
        optimizer=2 * adapter,
        program=_program(weight.device, circumstances.resident - weights - adapter),
        boundaries=0,
        kept_layers=0,
        working_layer=0,
        logits=logits * vocabulary * (weight.element_size() + LOSS_BYTES_PER_LOGIT),
        allocator=0,
        evaluation=int(max(cost.scoring * TOKENS_PER_BATCH / len(tree), scoring_head)),
        saving=3 * adapter if weight.device.type == "cpu" else 0,
        step_s=0.0,
        validation_s=layers * cost.scoring_s * circumstances.validated / len(tree) / ranks.count(),
        room=circumstances.room,
    )
    passes = math.ceil(flags.batch_size / ranks.count() / size)
    boundary = len(tree) * dim * weight.element_size()
    counts = {"on": [layers], "off": [0], "auto": range(layers + 1)}[flags.checkpointing]
    possible = [_recomputing(plan, count, cost, last, boundary, passes) for count in counts]
    return next((plan for plan in possible if plan.fits), possible[-1])


def _program(device: torch.device, resident: int) -> int:
    """Plan.program. resident: what a CPU's process has besides the weights."""
    return bytes_of_libraries(ranks.count()) if device.type == "cuda" else max(0, resident)


def _recomputing(plan: Plan, count: int, cost: LayerCost, last: LayerCost, boundary: int, passes: int) -> Plan:
    """The plan with `count` layers recomputed.

    cost: of a layer; last: of the last one; boundary: bytes of a layer's input; passes: micro-batches of a step.
    """
    others = plan.layers - 1
    seconds = others * (cost.forward_s + cost.backward_s) + count * cost.forward_s + last.forward_s + last.backward_s
    kept_layers = (others - count) * cost.kept + last.kept if count < plan.layers else 0
    unseen = LIBRARIES + HOLES_OF_WORKING * max(cost.forward, cost.backward) + HOLES_OF_KEPT * kept_layers
    return replace(
        plan,
        checkpointed=count,
        boundaries=count * boundary,
        kept_layers=kept_layers,
        # A layer that is recomputed keeps what it needs during its backward pass.
        working_layer=max(cost.forward, cost.backward) if count else cost.backward - cost.kept,
        allocator=int(unseen) if plan.device == "cpu" else 0,
        step_s=seconds * passes,
    )
