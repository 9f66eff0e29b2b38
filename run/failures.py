"""What stops a run: named by what was being done, and by the pair and the term at fault."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from data.pairs import EncodedPair
from errors import RunError
from machine.memory import IN_TRAINING, memory_line

ADVICE = "Lower --lr or --kl-weight, or set --kl-cap, in another run; it may start from this one's best adapter with --init-adapter"


@contextmanager
def error_context(doing: str, planned: str = "") -> Iterator[None]:
    """Begin a RunError from within with what was being done ("step 12"); a lack of memory becomes one, with the memory
    that was planned below it.
    """
    try:
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
    norm: torch.Tensor, parameters: list, batch: list[EncodedPair], share_of_loss: Callable
) -> None:
    """Stop before an update that would destroy the adapter. norm: of the step's gradient.

    share_of_loss: ([pair]) -> (loss, {term: (1,)}, ...). Each pair is computed alone to find the one
    at fault, with other draws of the dropout than in the step, so that it may not be found.
    """
    if torch.isfinite(norm):
        return
    for pair in batch:
        loss, terms, *_ = share_of_loss([pair])
        for name, value in {**terms, "the loss": loss}.items():
            if value.requires_grad:
                found = torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True)
                if not all_finite([gradient for gradient in found if gradient is not None]):
                    _refuse(f"the gradient of {name} of {pair.name} is not finite", "before the update")
    _refuse(
        f"the gradient is not finite (its norm is {float(norm)}), though that of no pair alone is not",
        "before the update",
    )


def refuse_non_finite_weights(named: dict[str, torch.Tensor]) -> None:
    """Stop before an adapter that the update destroyed is saved."""
    if not all_finite(list(named.values())):
        culprit = next(name for name, tensor in named.items() if not torch.isfinite(tensor).all())
        _refuse(
            f"the update made {culprit} NaN or infinite, with a finite gradient of all pairs",
            "before anything was saved",
        )


def all_finite(tensors: list[torch.Tensor]) -> bool:
    """Whether all values are; one wait for the device, not one a tensor."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def _refuse(what: str, when: str) -> None:
    raise RunError(f"{what}; stopped {when}, the last state and the best adapter so far are kept. {ADVICE}")
