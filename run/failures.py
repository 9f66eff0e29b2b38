"""What stops a run: the message names what was being done, and the pair and the term at fault."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data.pairs import EncodedPair
from errors import RunError
from machine.bar import at_work
from machine.memory import IN_TRAINING, memory_line
from model.llama import Llama
from objectives import Objective
from tensors import all_finite, trainable_parameters

ADVICE = (
    "Lower --lr or --kl-weight, or set --kl-cap, in another run; "
    "it may start from this one's best adapter with --init-adapter"
)


@contextmanager
def error_context(doing: str, planned: str = "") -> Iterator[None]:
    """Put what was being done ("step 12") in front of a RunError from within; a log hears of it every minute.

    A lack of memory becomes a RunError too, with the memory that was planned below it.
    """
    try:
        with at_work(doing):
            yield
    except RunError as error:
        raise RunError(f"{doing}: {error}") from None
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if (line := memory_line(error)) is None:
            raise
        raise RunError(f"{doing}: {line}. {IN_TRAINING}\n{planned}".rstrip()) from None


def refuse_non_finite_loss(loss: torch.Tensor, terms: dict[str, torch.Tensor], pairs: list[EncodedPair]) -> None:
    """Stop before a backward pass that would destroy the adapter, naming the first pair and term at fault.

    terms: (P,) each.
    """
    if torch.isfinite(loss):
        return
    culprits = [
        f"{name} of {pairs[i].name} is {float(values[i].detach())}"
        for name, values in terms.items()
        for i in (~torch.isfinite(values)).nonzero().flatten().tolist()
    ]
    _refuse((culprits or [f"the loss is {float(loss.detach())}"])[0], "before the update")


def refuse_non_finite_gradient(
    norm: torch.Tensor, model: Llama, objective: Objective, batch: list[EncodedPair]
) -> None:
    """Stop before an update that would destroy the adapter. norm: of the step's gradient.

    Each pair of the step is computed by itself to find the one at fault. It may not be found, since dropout draws other
    masks than in the step.
    """
    if torch.isfinite(norm):
        return
    parameters = list(trainable_parameters(model).values())
    for pair in batch:
        loss, terms, _ = objective.loss(model, [pair], len(batch))
        for name, value in {**terms, "the loss": loss}.items():
            if value.requires_grad:
                gradients = torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True)
                if not all_finite([gradient for gradient in gradients if gradient is not None]):
                    _refuse(f"the gradient of {name} of {pair.name} is not finite", "before the update")
    _refuse(
        f"the gradient is not finite (its norm is {float(norm)}), though the gradient of every single pair is",
        "before the update",
    )


def refuse_non_finite_weights(trained: dict[str, torch.Tensor]) -> None:
    """Stop before an adapter that the update destroyed is saved."""
    if not all_finite(list(trained.values())):
        culprit = next(name for name, tensor in trained.items() if not torch.isfinite(tensor).all())
        _refuse(
            f"the update made {culprit} NaN or infinite, although the gradient was finite", "before anything was saved"
        )


def _refuse(what: str, when: str) -> None:
    raise RunError(f"{what}; stopped {when}, the last state and the best adapter so far are kept. {ADVICE}")
