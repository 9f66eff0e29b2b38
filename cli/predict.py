"""The flags of predict.py, and what does not fit together among them."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cli.flags import Resolved, flag, flag_name
from cli.model import ModelFlags, model_contradictions
from data.titles import noun_problem
from data.users import TITLES, User, conflicts, items_of_flags
from errors import FlagError
from files import missing_advice

THE_RUNS = "run"  # --catalogue run
NOT_ASKED = ("target", "liked", "disliked", "catalogue", "input", "output", "show_prompt", "json")  # by --interactive
TOP = 10  # of a catalogue, if --top does not say


@dataclass(frozen=True)
class PredictFlags(ModelFlags):
    """Titles and output."""

    user: str = flag(None, "who asks, for a run that has vectors of users in its prompts; of --input: its column user")
    liked: tuple = flag((), "a title that the user liked, TITLE or TITLE::AUTHOR; once for each, oldest first")
    disliked: tuple = flag((), "a title that the user disliked; once for each, oldest first")
    target: tuple = flag((), "a title to score; once for each")
    catalogue: str = flag(
        None,
        "rank all items of a CSV file (item,title[,author]), or of the run with the word run; see --top",
        metavar="FILE",
    )
    top: int = flag(None, f"how many of --catalogue to show for each user; default: {TOP}", low=1)
    input: str = flag(
        None, "file of many users, CSV or .jsonl, in the place of --liked, --disliked and --target", metavar="FILE"
    )
    output: str = flag(None, "CSV file to write the scores of --input to; replaced if it is there", metavar="FILE")
    skip_bad: bool = flag(False, "leave out the rows of --input that cannot be scored, and list them beside --output")
    history: int = flag(
        None, "latest titles of a history to show; default: as many as the run showed, all without a run", low=0
    )
    show_prompt: bool = flag(False, "show both prompts of the first target, and score nothing")
    interactive: bool = flag(
        False, "type titles of the run at the terminal, and see both answers before and after tuning"
    )
    noun: str = flag(None, "what the prompts call a title; default: the run's, or movie")


def skipped_file(output: str) -> Path:
    """Where --skip-bad lists what it left out: scores.skipped.csv beside scores.csv."""
    path = Path(os.path.realpath(output))
    return path.with_name(f"{path.stem}.skipped.csv")


def check_flags(flags: PredictFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is missing, unused or would overwrite the input."""
    problems = model_contradictions(flags)
    if flags.adapter and not flags.run and not flags.model:
        problems.append("--adapter: say which base it belongs to with --model DIR (or --model demo)")
    if flags.noun is not None and (problem := noun_problem(flags.noun)):
        problems.append(f"--noun {flags.noun!r}: {problem}")
    problems += _catalogue_problems(flags) + _missing_files(flags)
    if flags.interactive:
        problems += _interactive_problems(flags)
    elif flags.input is not None:
        given = [f"--{name}" for name in (*TITLES, "user") if getattr(flags, name)]
        problems += [f"{name}: contradicts --input, whose columns say it; leave one of them out" for name in given]
        problems += [] if flags.show_prompt and not flags.output else _output_problems(flags)
    elif flags.output is not None:
        problems.append(
            "--output: is for the scores of --input; name that file too, or leave it out (--json prints the scores)"
        )
    elif not flags.target and flags.catalogue is None:
        problems.append(
            "--target: say which title to score with --target TITLE, or name a file with --input FILE --output FILE, "
            "or rank a whole --catalogue"
        )
    if flags.skip_bad and flags.input is None:
        problems.append("--skip-bad: is for the rows of --input; leave it out")
    problems += user_of_flags(flags)[1]
    if problems:
        raise FlagError("\n".join(problems))


def _interactive_problems(flags: PredictFlags) -> list[str]:
    problems = [] if flags.run else ["--interactive: say which run with --run DIR; it has both answers, and the titles"]
    given = [name for name in NOT_ASKED if getattr(flags, name)]
    problems += [f"{flag_name(name)}: contradicts --interactive, which asks; leave one of them out" for name in given]
    if sys.stdin is None or not sys.stdin.isatty():
        problems.append("--interactive: standard input is no terminal; give --liked and --target, or --input, instead")
    return problems


def user_of_flags(flags: PredictFlags) -> tuple[User, list[str]]:
    """(the user of --liked, --disliked and --target, what is wrong with the titles)."""
    items, problems = items_of_flags({name: getattr(flags, name) for name in TITLES})
    user = User(flags.user, **items)
    return user, problems or conflicts(user)


def _catalogue_problems(flags: PredictFlags) -> list[str]:
    if flags.catalogue is None:
        return [] if flags.top is None else ["--top: is for --catalogue; leave it out, or name a catalogue"]
    problems = []
    if flags.target:
        problems.append("--target: contradicts --catalogue, all of which is ranked; leave one of them out")
    if flags.catalogue == THE_RUNS and not flags.run:
        problems.append("--catalogue run: say which run with --run DIR, or name a CSV file (./run for one called run)")
    return problems


def _missing_files(flags: PredictFlags) -> list[str]:
    files = {"--input": flags.input, "--catalogue": None if flags.catalogue == THE_RUNS else flags.catalogue}
    missing = {name: file for name, file in files.items() if file is not None and not Path(file).exists()}
    return [f"{name} {file}: no such file{missing_advice(file, is_data=True)}" for name, file in missing.items()]


def _output_problems(flags: PredictFlags) -> list[str]:
    output, source = flags.output, flags.input
    if not output:
        return [f"--input {source}: say where its scores go with --output FILE"]
    path = Path(os.path.realpath(output))
    if path.exists() and not path.is_file():
        return [f"--output {output}: is there and is not a plain file; name the CSV file to write"]
    written = {output: path} | ({skipped_file(output).name: skipped_file(output)} if flags.skip_bad else {})
    read = {"--input": source} | ({} if flags.catalogue in (None, THE_RUNS) else {"--catalogue": flags.catalogue})
    for name, file in read.items():
        for shown, target in written.items():
            if target.exists() and Path(file).exists() and target.samefile(file):
                return (
                    [f"--output {output}: is the {name} itself; name another file"]
                    if shown == output
                    else [f"--output {output}: {shown} beside it is the {name} itself; name another file"]
                )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "not writable" if path.parent.is_dir() else "not a folder"
        return [f"--output {output}: cannot be written ({path.parent} is {why})"]
    return []
