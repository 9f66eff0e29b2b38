"""The plan of a run in words: how a step is made up, memory by part, and time."""

import math

from cli.train import OptimisationFlags
from objectives.base import Objective
from report.wrap import wrapped

PLAN_PARTS = {
    "weights": "the base's weights",
    "adapter": "adapter, float32",
    "gradients": "its gradients",
    "optimizer": "AdamW's two moments",
    "program": "Python, torch and the data, or a GPU's libraries",
    "boundaries": "inputs of the recomputed layers",
    "kept_layers": "what the other layers keep for the backward pass",
    "logits": "logits and loss, or:",
    "working_layer": "  a layer at work",
    "allocator": "holes between tensors in the heap",
}


def step_plan(pairs: int, total_steps: int, objective: Objective, flags: OptimisationFlags) -> str:
    """How a step is made up: batch arithmetic is where reproductions go wrong."""
    batch, micro = min(flags.batch_size, pairs), min(flags.micro_batch_size, flags.batch_size, pairs)
    text = (
        f"{pairs:,} pairs, {batch} a step in micro-batches of {micro} ({objective.rows_per_pair * micro} rows); "
        f"{math.ceil(pairs / flags.batch_size)} steps an epoch"
    )
    last = pairs % flags.batch_size
    if last and pairs > flags.batch_size:
        text += f", the last of {last} pairs"
    return text + f"; at most {total_steps:,} steps, validated every {flags.eval_every}"


def plan_line(plan: dict, seconds: float) -> str:
    """Memory and time of a run in one line. seconds: of the whole run, validations and scoring included."""
    warning = "" if plan["fits"] else "; THIS DOES NOT FIT, or only just: see --plan"
    return (
        f"Planned for training and scoring: at most {plan['peak'] / 1e6:,.0f} MB of {plan['room'] / 1e6:,.0f} MB, "
        f"about {_in_minutes(seconds)}{warning}"
    )


def _in_minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60)):,} min"


def plan_table(plan: dict, most_steps: int, seconds: float) -> str:
    """run.plan.Plan.as_dict(): memory by part in MB, and time. seconds: of the whole run."""

    def line(label: str, size: int) -> str:
        return f"  {label:52}{size / 1e6:>12,.1f}"

    lines = [
        *wrapped(
            f"Plan for this {plan['device']}: {plan['pairs']} pairs a micro-batch, "
            f"the longest of {plan['tokens']:,} distinct tokens; "
            f"{plan['checkpointed']} of {plan['layers']} layers recomputed in the backward pass"
        ),
        "  memory, MB",
        *(line(label, plan[name]) for name, label in PLAN_PARTS.items()),
        line("at most while training", plan["training"]),
        line("at most at any time, scoring and saving included", plan["peak"]),
        line("available", plan["room"]),
        *wrapped(
            f"  time, from that of one layer: {plan['step_s']:,.1f} s a step, {plan['validation_s']:,.1f} s a "
            f"validation; {most_steps:,} steps at most, about {_in_minutes(seconds)} with all that is scored"
        ),
    ]
    if not plan["fits"]:
        lines += wrapped(
            "  THIS DOES NOT FIT, or only just: lower --micro-batch-size or --max-len, "
            "or set --checkpointing on or --base-dtype int8"
        )
    return "\n".join(lines)
