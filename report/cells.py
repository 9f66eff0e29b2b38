"""Cells of result tables: a value with its interval, written alike wherever it is shown; and the constants' rows."""

ANSWERS = ("contradiction_rate", "group_accuracy")  # never shown without each other, nor without the constants


def interval_cell(values: dict, name: str, sign: str = "") -> str:
    """A value with its interval, of the same precision and sign; "-" for either where there is none.

    What is known without counting rows, as a constant's contradictions, has no interval and needs none.
    """
    if values.get(name) is None:
        return "-"
    value = values[name]
    if name not in values["interval_95"]:
        return number(value, sign)
    low, high = values["interval_95"][name]
    # Where every draw gives the same, resampling says nothing of other users.
    interval = "-" if low == high else f"{number(low, sign, value)}, {number(high, sign, value)}"
    return f"{number(value, sign)} [{interval}]"


def column_cell(values: dict, name: str, column: str) -> str:
    """A value with its interval; that of the base, which is not in question, without."""
    if column == "before" and values.get(name) is not None:
        return number(values[name])
    return interval_cell(values, name, "+" if column == "change" else "")


def number(value: float, sign: str = "", as_precise_as: float | None = None) -> str:
    """Three decimals, fewer from 10 on; never "-0.000"."""
    size = abs(value if as_precise_as is None else as_precise_as)
    decimals = 3 if size < 10 else 2 if size < 100 else 1
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def no_interval(cells: list[str], unit: str = "users") -> list[str]:
    """The line that says what [-] means, if it is shown."""
    reason = f"[-]: no interval, since fewer than two {unit} differ here"
    return ["", reason] if any("[-]" in cell for cell in cells) else []


def constant_rows(constants: dict[str, dict]) -> list[tuple[str, str, str]]:
    """(label, contradiction rate, both right) of each of metrics.constants."""
    return [(label, *(interval_cell(values, name) for name in ANSWERS)) for label, values in constants.items()]


def best_constant(constants: dict[str, dict]) -> float:
    """The largest share of rows that a constant has both right: what a model must exceed."""
    return max(values["group_accuracy"] for values in constants.values())
