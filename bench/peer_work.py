"""What a child process of bench/peer.py does: load one form, then take one step whenever it is asked.

The code of this project that is measured is called only in `ours_load`, `ours_gradients` and `ours_evaluate`.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

import train
from bench.measure import PeakMemory, Products, seconds_of
from cli.train import TrainFlags
from data.interactions import Interaction
from data.pairs import EncodedPair
from data.splits import Split
from lora.inject import add_lora, lora_state
from machine.device import DTYPES, pick_device
from machine.memory import HUGE_PAGES, keep_freed_memory
from metrics import auc
from model.llama import Llama
from model.weights import load_llama
from objectives.by_name import make_objective
from scoring.forward import score
from tensors import put_tensors, trainable_parameters

OURS, PRODUCTS = "ours", "matrix products"
FORMS = {  # by case
    "own": (OURS, "expert"),
    "shared": (OURS, "expert"),
    "released": (OURS, "expert", "published"),
    "eval": (OURS, "expert, prefix by hand", "expert", "published"),
}
TARGETS, RANK, ALPHA = ("q_proj", "v_proj"), 8, 16
KL_WEIGHT, CLIP, LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1.0, 1e-4, 1e-3


@dataclass(frozen=True)
class Task:
    """One form of one case.

    batches: the pairs of each step. prompts, labels: the positive prompts to evaluate. peers_merged: the peers add
    their adapter to the weights before they evaluate. keeps_freed_memory: see machine/memory.py.
    """

    case: str
    form: str
    checkpointing: bool
    folder: Path
    precision: str
    device: str
    threads: int
    dropout: float
    batches: list[list[EncodedPair]]
    prompts: list[EncodedPair]
    labels: list[bool]
    answers: dict[bool, list[int]]
    peers_merged: bool = False
    keeps_freed_memory: bool = True


@dataclass(frozen=True)
class Form:
    """A loaded model and its two functions.

    parameters: those that are trained. gradients: takes the pairs of a step, leaves the gradients and returns the
    loss. evaluate: returns the log-odds of Yes, (N,).
    """

    model: torch.nn.Module
    parameters: list[torch.nn.Parameter]
    gradients: Callable[[list[EncodedPair]], float]
    evaluate: Callable[[], np.ndarray]


def work(task: Task, parent: Connection) -> None:
    """Load, take a first step and send its figures; then do the same with every step n received, until None."""
    if task.keeps_freed_memory:
        keep_freed_memory()
    else:
        os.environ.pop(HUGE_PAGES, None)  # inherited from the parent
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    device, dtype = pick_device(task.device), DTYPES[task.precision]
    if task.form == PRODUCTS:
        products = Products(device, dtype)
        parent.send(products.rates())

        def answer(number: int) -> dict:
            return products.rates()

    else:
        form = (ours_load if task.form == OURS else peer_load)(task, device, dtype)
        touch(form.model)
        memory = PeakMemory(device)
        step = steps_of(form, task)
        parent.send(step(-1))  # the longest batch; it also creates the moments of AdamW
        memory.restart()

        def answer(number: int) -> dict:
            seconds, figures = seconds_of(lambda: step(number), device)
            return {"seconds": seconds, "peak_bytes": memory.above(), **figures}

    while (number := parent.recv()) is not None:
        parent.send(answer(number))


def touch(model: torch.nn.Module) -> None:
    """Read every weight, so that those of a mapped file are resident before memory is measured."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sum()


def steps_of(form: Form, task: Task) -> Callable[[int], dict]:
    """A function that evaluates all prompts, or that takes an optimizer step on batch n as train.py does."""
    if task.case == "eval":

        def evaluation(number: int) -> dict:
            scores = form.evaluate()
            return {"auc": auc(np.array(task.labels), scores), "scores": scores.tolist()}

        return evaluation
    optimizer = torch.optim.AdamW(form.parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step(number: int) -> dict:
        loss = form.gradients(task.batches[number])
        norm = torch.nn.utils.clip_grad_norm_(form.parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "grad_norm": float(norm)}

    return step


# ---- ours ---------------------------------------------------------------------------------------


def ours_load(task: Task, device: torch.device, dtype: torch.dtype) -> Form:
    model = load_llama(task.folder, dtype, device)
    add_lora(model, TARGETS, RANK, ALPHA, task.dropout)
    shapes = {name: tensor.shape for name, tensor in lora_state(model).items()}
    put_tensors(lora_state(model), random_adapter(shapes), "the adapter of the benchmark")
    model.model.checkpointed_layers = len(model.model.layers) if task.checkpointing else 0
    return Form(
        model,
        list(trainable_parameters(model).values()),
        lambda pairs: ours_gradients(model, pairs, task.case),
        lambda: ours_evaluate(model, task),
    )


def ours_gradients(model: Llama, pairs: list[EncodedPair], case: str) -> float:
    objective = {"objective": "released"} if case == "released" else {"objective": "paper", "kl_forcing": case}
    flags = TrainFlags(**objective, kl_weight=KL_WEIGHT, batch_size=len(pairs), micro_batch_size=len(pairs))
    return train.accumulate_gradients(model.train(), pairs, make_objective(vars(flags)), len(pairs)).read()["loss"]


def ours_evaluate(model: Llama, task: Task) -> np.ndarray:
    """Scores the prompts as validation does."""
    rows = [Interaction(None, (), 0, label) for label in task.labels]
    return score(model, Split(rows, task.prompts, 0, task.answers), negatives=False).z_pos


# ---- the peers ----------------------------------------------------------------------------------


def peer_load(task: Task, device: torch.device, dtype: torch.dtype) -> Form:
    warnings.simplefilter("ignore", FutureWarning)  # from calls of transformers inside peft
    # Imported here, so that the process of ours does not import it: it takes seconds.
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    from bench import peer_forms

    model = peer_forms.load_peer(task.folder, dtype, device, (TARGETS, RANK, ALPHA, task.dropout), task.checkpointing)
    shapes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(model, random_adapter(shapes))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if task.peers_merged:
        model.merge_adapter()

    def gradients(pairs: list[EncodedPair]) -> float:
        loss = peer_forms.LOSSES[task.form](model.train(), pairs, task.case, KL_WEIGHT)
        loss.backward()
        return float(loss.detach())

    def evaluate() -> np.ndarray:
        prompts = [pair.positive.prompt for pair in task.prompts]
        return peer_forms.SCORES[task.form](model.eval(), prompts, task.answers[True][0], task.answers[False][0])

    return Form(model, parameters, gradients, evaluate)


def random_adapter(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """A and B by the names of PEFT, float32. The same names give the same values, so all forms have one adapter."""
    generator = torch.Generator().manual_seed(0)
    return {name: 0.02 * torch.randn(shapes[name], generator=generator) for name in sorted(shapes)}
