"""What a user can mend, as exceptions, and the two ways to tell a user something: notices and answers.

Importable from everywhere. cli/verb.py turns each of these into one line per problem and exit status 2.
"""

import sys


class UserError(ValueError):
    """Something that a user can mend; the message names the file or flag, what is wrong and what to do."""


class FlagError(UserError):
    """One or more flags are unusable; one line each."""


class DataError(UserError):
    """A file, or a flag about data, is unusable."""


class CheckpointError(UserError):
    """A checkpoint is unusable."""


class AdapterError(UserError):
    """An adapter, or a request for one, does not fit the model."""


class RunError(UserError):
    """A run folder cannot be used, or a run cannot continue."""


def notice(line: str) -> None:
    """One line for the person at the terminal; standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)


def answer(text: str, aside: bool = False) -> None:
    """What a verb was asked for, on standard output. aside: on standard error, since the former is kept for JSON."""
    print(text, file=sys.stderr if aside else sys.stdout, flush=True)


def quoted(value: object, limit: int = 60) -> str:
    """A value from outside as it may stand in a message: as Python writes it, at most `limit` characters.

    What is longer ends after a word, if there is one, and with "...".
    """
    text = repr(value)
    if len(text) <= limit:
        return text
    cut = text[: limit - 3]
    if text[limit - 3] != " " and " " in cut.rstrip():
        cut = cut.rstrip()[: cut.rstrip().rindex(" ")]
    return cut.rstrip() + "..."
