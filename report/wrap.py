"""Text for a terminal of 80 columns."""

import textwrap

WIDTH = 80


def wrapped(text: str) -> list[str]:
    """Lines of at most WIDTH characters, with the indentation of the text; a word that is longer stays whole."""
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text.strip(),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
