"""Text for a terminal of 80 columns."""

import textwrap

WIDTH = 80
TOGETHER = "\0"  # in the place of a space at which no line may end


def wrapped(text: str, hanging: str = "") -> list[str]:
    """Lines of at most WIDTH characters, with the indentation of the text; a word that is longer stays whole.

    hanging: what the lines after the first begin with, after that. A number and its % stay together, as does "[ ]".
    """
    indent = " " * (len(text) - len(text.lstrip()))
    lines = textwrap.wrap(
        text.strip().replace(" %", f"{TOGETHER}%").replace("[ ]", f"[{TOGETHER}]"),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(TOGETHER, " ") for line in lines]
