"""Run the checks of a session and print which hold and which do not yet."""

from collections.abc import Callable
from typing import NoReturn


class ToDo(Exception):
    """The reader has not written this function yet."""


def to_do() -> NoReturn:
    """A placeholder for the lines of the reader."""
    raise ToDo


def report(*checks: Callable[[], None]) -> None:
    """Run every check and print its verdict; raises SystemExit(1) if one does not hold, SystemExit(0) otherwise.

    The docstring of a check says what holds when it passes. A check raises AssertionError, or ToDo while its
    exercise is unsolved.
    """
    failed = 0
    for check in checks:
        try:
            check()
        except ToDo:
            verdict = "to do"
        except AssertionError as error:
            verdict = f"not yet: {(str(error).strip().splitlines() or ['the values differ'])[0]}"
        else:
            verdict = "holds"
        failed += verdict != "holds"
        print(f"{check.__doc__}\n    {verdict}")
    raise SystemExit(failed > 0)
