"""What the six sessions' checks have in common: run them, say what holds, and what does not yet."""

from collections.abc import Callable


def report(*checks: Callable[[], None]) -> None:
    """Run every check; a line each. Exit status 1 if one does not hold.

    A check is a function whose docstring says what holds when it passes; it raises AssertionError,
    or NotImplementedError while the exercise has not been done.
    """
    failed = 0
    for check in checks:
        try:
            check()
        except NotImplementedError:
            verdict = "to do"
        except AssertionError as error:
            verdict = f"not yet: {(str(error).strip().splitlines() or ['the values differ'])[0]}"
        else:
            verdict = "holds"
        failed += verdict != "holds"
        print(f"{check.__doc__}\n    {verdict}")
    raise SystemExit(failed > 0)
