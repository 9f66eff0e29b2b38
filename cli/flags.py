"""Command lines: one dataclass per verb becomes its flags; whatever is wrong is said all at once.

Order of precedence, each value's source recorded: default < preset < flag.
"""

import argparse
import difflib
import math
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from errors import FlagError

LARGEST_INT = 2**53  # beyond it a float cannot hold every whole number


@dataclass(frozen=True)
class Resolved:
    """The value of every flag by name, and where it came from: "default", "preset ..." or "flag"."""

    values: dict
    sources: dict[str, str]


def flag(default, help: str, *, choices: tuple = (), low: float | None = None, high: float | None = None):
    """A dataclass field that is a command-line flag; one of type tuple may be given many times and keeps
    every value in order. low, high: inclusive bounds of a number.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high})


def parse_flags(
    verb: type,
    argv: list[str],
    description: str,
    presets: Callable[[dict], dict] = lambda values: {},
    check: Callable = lambda flags, resolved: None,
    command: str = "",
):
    """The verb's dataclass filled from argv, and a Resolved.

    presets: called with the values so far, returns {name: (value, source)} for names that no flag
    sets. check: called with both results, raises FlagError for what does not fit together.
    command: the word between the program's name and its flags, if there is one; the help shows it.
    Raises FlagError listing everything that is unknown, malformed or does not fit.
    """
    known = {_name(f.name): f for f in fields(verb)}
    program = f"{Path(sys.argv[0]).name} {command}".strip()
    parser = _Parser(prog=program, description=description, allow_abbrev=False, formatter_class=_Help)
    for name, f in known.items():
        if f.type is bool:
            parser.add_argument(name, action="store_true", default=None, help=f.metadata["help"])
        else:
            shown = "" if f.default in (None, (), MISSING) else f" (default {f.default})"
            metavar = "{" + ",".join(f.metadata["choices"]) + "}" if f.metadata["choices"] else _metavar(f)
            shown = (f.metadata["help"] + shown).replace("%", "%%")
            action = "append" if f.type is tuple else "store"
            parser.add_argument(name, action=action, nargs="?", const=_NO_VALUE, metavar=metavar, help=shown)
    namespace, unknown = parser.parse_known_args(argv)
    problems = [_unknown(word, known) for word in unknown if word.startswith("-")]
    values_of_unknown = {value for word, value in zip(argv, argv[1:]) if word in unknown and word.startswith("-")}
    problems += [
        f"{word}: not expected here; every value follows its flag"
        for word in unknown
        if not word.startswith("-") and word not in values_of_unknown
    ]
    given = {}
    for name, f in known.items():
        text = getattr(namespace, f.name)
        if text is not None:
            try:
                given[f.name] = parse_value(name, f, text)
            except FlagError as error:
                problems.append(str(error))
    values = {f.name: f.default for f in known.values()} | given
    sources = {name: "flag" if name in given else "default" for name in values}
    for name, (value, source) in presets(values).items():
        if name not in given:
            values[name], sources[name] = value, source
    flags, resolved = verb(**values), Resolved(values, sources)
    try:
        check(flags, resolved)
    except FlagError as error:
        problems += str(error).splitlines()
    if problems:
        raise FlagError("\n".join(problems))
    return flags, resolved


_NO_VALUE = object()  # what a flag has that stands without its value


def _name(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def _metavar(f) -> str:
    return {int: "N", float: "X"}.get(f.type, "WORD")


def _unknown(word: str, known: dict) -> str:
    # Without the dashes, which all flags share and would make any two look alike.
    close = difflib.get_close_matches(word.split("=")[0].strip("-"), [name.strip("-") for name in known], n=1)
    return f"{word}: unknown flag" + (f"; did you mean --{close[0]}?" if close else "; --help lists them")


def parse_value(name: str, f, text):
    """The text of a flag (a list of them, of one that may be given many times) as its value. f: the dataclass field.

    Raises FlagError if it is of another type, or beyond what the flag allows.
    """
    if isinstance(text, list):  # of a flag that may be given many times
        return tuple(parse_value(name, f, one) for one in text)
    choices, low, high = (f.metadata[key] for key in ("choices", "low", "high"))
    if text is _NO_VALUE:
        raise FlagError(f"{name}: expects a value")
    if choices and text not in choices:
        raise FlagError(f"{name} {text}: choose one of {', '.join(choices)}")
    if f.type not in (int, float):
        return text
    try:
        value = f.type(text)
    except ValueError:
        raise FlagError(f"{name} {text}: expected {'a whole number' if f.type is int else 'a number'}") from None
    if f.type is int and abs(value) > LARGEST_INT:
        raise FlagError(f"{name} {text[:40]}: expected a whole number up to {LARGEST_INT}")
    if not math.isfinite(value):
        raise FlagError(f"{name} {text}: expected a finite number")
    if not (low if low is not None else -math.inf) <= value <= (high if high is not None else math.inf):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise FlagError(f"{name} {text}: must be {bounds}")
    return value


class _Help(argparse.RawDescriptionHelpFormatter):
    def _format_args(self, action, default_metavar):
        return (
            action.metavar
        )  # nargs="?" would show every value as optional; it is one so that all missing ones are listed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise FlagError(message.removeprefix("argument "))
