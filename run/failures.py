"""What stops a run: the message names what was being done, and the pair and the term at fault."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from data.pairs import EncodedPair
from errors import RunError
from machine import ranks
from machine.bar import at_work
from machine.memory import IN_TRAINING, memory_line
from model.llama import Llama
from objectives.base import Objective
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


class StepSums:
    """What the micro-batches of a step add up to. It stays on the device: to read a number, a GPU is waited for.

    totals: float64, one of each of `names`: the loss, its terms in nats per pair, and the tokens of all rows.
    """

    def __init__(self, pairs: int, terms: tuple[str, ...], device: torch.device):
        """pairs: of the step, over all micro-batches and ranks; terms: what the objective records."""
        self.pairs, self.terms, self.names = pairs, terms, ("loss", *terms, "tokens")
        self.totals = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self.parts: list[tuple[list[EncodedPair], dict[str, Tensor]]] = []  # to name who is at fault

    def add(self, pairs: list[EncodedPair], weight: float, loss: Tensor, terms: dict[str, Tensor], tokens: int) -> None:
        """Add a micro-batch, multiplied by `weight`. loss: a scalar; terms: (P,) each, by name."""
        terms = {name: values.detach() for name, values in terms.items()}
        self.parts.append((pairs, terms))
        means = {name: values.sum().double() / self.pairs for name, values in terms.items()}
        zero = self.totals.new_zeros(())
        numbers = [loss.detach().double(), *(means.get(name, zero) for name in self.terms), zero + tokens]
        self.totals += weight * torch.stack(numbers)

    def read(self, norm: Tensor | None = None, trained: dict[str, Tensor] | None = None) -> dict[str, float]:
        """{name: number}, with the gradient's norm as `grad_norm` if it is given; takes all ranks.

        Raises RunError, before an update that would destroy the adapter, naming the pair and the term that is not
        finite, or the tensor of `trained` that an earlier update made so.
        """
        numbers = self.totals if norm is None else torch.cat((self.totals, norm.detach().double().view(1)))
        record = dict(zip((*self.names, "grad_norm"), numbers.tolist()))
        if not all(math.isfinite(record[name]) for name in self.names):
            refuse_non_finite_weights(trained or {})
            culprit = ranks.first_word(next(self._culprits(), ""))
            _refuse(culprit or f"the loss is {record['loss']}", "before the update")
        return record

    def _culprits(self) -> Iterator[str]:
        for pairs, terms in self.parts:
            for name, values in terms.items():
                for pair, value in zip(pairs, values.tolist()):
                    if not math.isfinite(value):
                        yield f"{name} of {pair.name} is {value}"


def refuse_non_finite_gradient(norm: float, model: Llama, objective: Objective, batch: list[EncodedPair]) -> None:
    """Stop before an update that would destroy the adapter. norm: of the step's gradient.

    Each pair of the step is computed by itself to find the one at fault. It may not be found, since dropout draws other
    masks than in the step.
    """
    if math.isfinite(norm):
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
        f"the gradient is not finite (its norm is {norm}), though the gradient of every single pair is",
        "before the update",
    )


def refuse_non_finite_weights(trained: dict[str, Tensor]) -> None:
    """Stop before an adapter that an update destroyed is saved, or before its loss is blamed on a pair."""
    if trained and not all_finite(list(trained.values())):
        culprit = next(name for name, tensor in trained.items() if not torch.isfinite(tensor).all())
        _refuse(
            f"the update made {culprit} NaN or infinite, although the gradient was finite", "before anything was saved"
        )


def _refuse(what: str, when: str) -> None:
    raise RunError(f"{what}; stopped {when}, the last state and the best adapter so far are kept. {ADVICE}")
