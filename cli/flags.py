"""Command lines: one dataclass per verb becomes its flags; all problems are reported at once.

Order of precedence, each value's source recorded: default < preset < flag.
"""

import argparse
import difflib
import math
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from errors import FlagError, notice
from files import plain_number

WIDTH = 80  # columns of a terminal
LARGEST_INT = 2**53  # beyond it a float cannot hold every whole number


@dataclass(frozen=True)
class Resolved:
    """The value of every flag by name, and where it came from: "default", "preset ..." or "flag"."""

    values: dict
    sources: dict[str, str]


def flag(
    default: object,
    help: str,
    *,
    choices: tuple = (),
    low: float | None = None,
    high: float | None = None,
    **more: Any,
) -> Any:
    """A dataclass field that is a command-line flag.

    A field of type tuple may be given many times and keeps every value in order. low, high: inclusive bounds of a
    number. more: metavar, what --help writes for the value, such as DIR; renamed, {old value: its name of today}.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "metavar": None, "renamed": {}}
    return field(default=default, metadata=metadata | more)


def flag_of_run(verb: type, name: str) -> Any:
    """The verb's flag of this name for another verb, which takes the value of a run if the flag is not given."""
    original = next(f for f in fields(verb) if f.name == name)
    default = "" if original.default is None else f", or {original.default}"
    text = f"{original.metadata['help']}; default: the run's{default}"
    return field(default=None, metadata={**original.metadata, "help": text})


def parse_flags(
    verb: type,
    argv: list[str],
    description: str,
    presets: Callable[[dict], dict] = lambda values: {},
    check: Callable[[Any, Resolved], None] = lambda flags, resolved: None,
    command: str = "",
) -> tuple[Any, Resolved]:
    """The verb's dataclass filled from argv, and a Resolved.

    presets: called with the values so far, returns {name: (value, source)} for names that no flag
    sets. check: called with both results, raises FlagError for what does not fit together.
    command: the word between the program's name and its flags, if there is one; the help shows it.
    Raises FlagError listing everything that is unknown, malformed or does not fit.
    """
    known = {flag_name(f.name): f for f in fields(verb)}
    namespace, unknown = _parser(verb, description, command).parse_known_args(argv)
    problems = _unknown_words(argv, unknown, known)
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


def flag_name(field_name: str) -> str:
    """--kl-weight of kl_weight."""
    return "--" + field_name.replace("_", "-")


def _parser(verb: type, description: str, command: str) -> argparse.ArgumentParser:
    """A parser of all flags; --help groups them by the class in which each is defined, under its docstring."""
    program = f"{Path(sys.argv[0]).name} {command}".strip()
    parser = _Parser(prog=program, description=fit(description), allow_abbrev=False, formatter_class=_Help)
    for part in reversed(verb.__mro__):
        own = (
            [f for f in fields(part) if f.name in part.__dict__.get("__annotations__", {})]
            if is_dataclass(part)
            else []
        )
        group = parser.add_argument_group((part.__doc__ or "").splitlines()[0].rstrip(".").lower()) if own else parser
        for f in own:
            _add_argument(group, f)
    return parser


def fit(text: str, width: int = WIDTH) -> str:
    """A verb's description for a terminal: paragraphs wrapped anew; the comment of a long example on its own line."""
    lines: list[str] = []
    for block in text.strip("\n").split("\n\n"):
        if not block.startswith(" "):
            lines += textwrap.wrap(" ".join(block.split()), width, break_on_hyphens=False)
        for line in block.splitlines() if block.startswith(" ") else []:
            command, gap, comment = re.fullmatch(r"( *\S.*?)(?:( {2,})(\S.*))?", line).groups()
            lines += [line] if len(line) <= width else [*_cut(command, width), *_indented(comment or "", width)]
        lines.append("")
    return "\n".join(lines[:-1])


def _cut(command: str, width: int) -> list[str]:
    """A long command in lines that a shell reads as one."""
    parts = textwrap.wrap(command, width - 2, subsequent_indent=" " * 8, break_on_hyphens=False)
    return [f"{part} \\" for part in parts[:-1]] + parts[-1:]


def _indented(comment: str, width: int) -> list[str]:
    indent = " " * 8
    return textwrap.wrap(comment, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _add_argument(group: argparse._ArgumentGroup, f: Field) -> None:
    help_text = f.metadata["help"].replace("%", "%%")
    if f.type is bool:
        group.add_argument(flag_name(f.name), action="store_true", default=None, help=help_text)
        return
    if f.default not in (None, (), MISSING):
        help_text += f" (default {f.default})"
    choices = "{" + ",".join(map(str, f.metadata["choices"])) + "}" if f.metadata["choices"] else None
    metavar = f.metadata["metavar"] or choices or {int: "N", float: "X"}.get(f.type, "WORD")
    action = "append" if f.type is tuple else "store"
    group.add_argument(flag_name(f.name), action=action, nargs="?", const=_NO_VALUE, metavar=metavar, help=help_text)


def _unknown_words(argv: list[str], unknown: list[str], known: dict[str, Field]) -> list[str]:
    """A line for every word that is no flag and no flag's value."""
    problems = [_unknown(word, known) for word in unknown if word.startswith("-")]
    values_of_unknown = {value for word, value in zip(argv, argv[1:]) if word in unknown and word.startswith("-")}
    return problems + [
        f"{word}: not expected here; every value follows its flag"
        for word in unknown
        if not word.startswith("-") and word not in values_of_unknown
    ]


_NO_VALUE = object()  # stands for the value of a flag that was given without one


def _unknown(word: str, known: dict) -> str:
    # Without the dashes, which all flags share and would make any two look alike.
    close = difflib.get_close_matches(word.split("=")[0].strip("-"), [name.strip("-") for name in known], n=1)
    return f"{word}: unknown flag" + (f"; did you mean --{close[0]}?" if close else "; --help lists them")


def of_today(where: str, f: Field, value: Any) -> Any:
    """A flag's value, or its name of today if that has another one. Says so; where: the flag or file it is from."""
    renamed = f.metadata["renamed"]
    if not isinstance(value, str) or value not in renamed:
        return value
    notice(f"{where}: {value} is now called {renamed[value]}; nothing else has changed")
    return renamed[value]


def parse_value(name: str, f: Field, text: Any) -> Any:
    """The value of a flag's text, or of a list of texts if the flag may be given many times. f: the dataclass field.

    Raises FlagError if it is of another type, or outside what the flag allows.
    """
    if isinstance(text, list):
        return tuple(one and parse_value(name, f, one) for one in text)  # an empty one is the verb's to judge
    text = of_today(name, f, text)
    choices, low, high = (f.metadata[key] for key in ("choices", "low", "high"))
    if text is _NO_VALUE or text == "":  # also of a variable of the shell that is not set
        raise FlagError(f"{name}: expects a value")
    if choices and text not in choices:
        raise FlagError(f"{name} {text}: choose one of {', '.join(choices)}")
    if f.type not in (int, float):
        return text
    try:
        value = f.type(plain_number(text) if isinstance(text, str) else text)
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
    def __init__(self, prog: str):
        super().__init__(prog, width=WIDTH)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        # nargs="?" lets all missing values be listed at once, but argparse would show every value as optional.
        return action.metavar


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagError(message.removeprefix("argument "))
