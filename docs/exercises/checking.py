"""Run the checks of a session and print which hold and which do not yet."""

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch


class ToDo(Exception):
    """The reader has not written this function yet."""


def to_do() -> NoReturn:
    """A placeholder for the lines of the reader."""
    raise ToDo


def same(found: object, wanted: float | Sequence[int] | torch.Tensor, where: str = "", rtol: float = 1e-5) -> None:
    """Raises AssertionError that shows what was found unless it is what was wanted.

    A number may be of any numeric type and is compared to rtol; whole numbers in a list must be equal; a tensor must
    have the same shape and dtype too. where: the case, for the message.
    """
    place = f"{where}: " if where else ""
    if found is None:
        raise AssertionError(f"{place}found None; is a return missing?")
    if not _fits(found, wanted, rtol):
        raise AssertionError(f"{place}found {_shown(found)}, wanted {_shown(wanted)}")


def report(*checks: Callable[[], None]) -> None:
    """Run every check and print its verdict; raises SystemExit(1) if one does not hold, SystemExit(0) otherwise.

    The docstring of a check says what holds when it passes. A check raises AssertionError, or ToDo while its
    exercise is unsolved. Whatever else a reader's function raises is part of the verdict: the next check still runs.
    """
    failed = 0
    for check in checks:
        try:
            check()
        except ToDo:
            verdict = "to do"
        except Exception as error:
            lines = str(error).strip().splitlines() or ["no message"]
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            verdict = f"not yet: {kind}{lines[0]}"
        else:
            verdict = "holds"
        failed += verdict != "holds"
        print(f"{check.__doc__}\n    {verdict}")
    raise SystemExit(failed > 0)


def _fits(found: object, wanted: object, rtol: float) -> bool:
    if isinstance(wanted, torch.Tensor):
        return (
            isinstance(found, torch.Tensor)
            and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            and torch.allclose(found.double(), wanted.double(), rtol=rtol, atol=1e-6)
        )
    if isinstance(wanted, Sequence):
        return isinstance(found, Sequence) and list(found) == list(wanted)
    try:
        return abs(float(found) - wanted) <= rtol * abs(wanted)
    except (TypeError, ValueError):
        return False


def _shown(value: object) -> str:
    """A value in one line; of a tensor its shape, its dtype and its first numbers."""
    if isinstance(value, torch.Tensor):
        numbers = ", ".join(f"{number:.6g}" for number in value.detach().flatten()[:4].tolist())
        more = ", ..." if value.numel() > 4 else ""
        return f"{numbers}{more} (shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')})"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
