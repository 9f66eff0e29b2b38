"""--part I/N: which runs are of a part of a study, and the file of each part's lines, so that no two write to one.

Runs that need each other, such as a search and the seeds that take its setting, are of the same part.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from errors import FlagError
from studies.results import Line, read_lines
from studies.study import BASELINE, Run

OF_RECOMMENDER, OF_LANGUAGE_MODEL = 1, 10  # how much work a run is, roughly


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 1."""

    number: int
    of: int

    @property
    def ending(self) -> str:
        """What the name of its file of lines ends in."""
        return f"-part-{self.number}-of-{self.of}"


def read_part(text: str | None) -> Part | None:
    """I/N as a part; None of None. Raises FlagError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise FlagError(f"--part {text}: expected I/N, such as 1/4, with I from 1 to N")
    return Part(int(found[1]), int(found[2]))


def runs_of_part(runs: dict[str, Run], part: Part | None) -> dict[str, Run]:
    """The runs of a part, in their order; all of them without one. runs: all that are to be made, by name.

    Runs that need each other form a group. Each group goes to the part that has the least to do so far.
    """
    if part is None:
        return runs
    group = {name: name for name in runs}  # the first run of each run's group
    for name, run in runs.items():
        joined = {group[other] for other in (name, *run.after) if other in group}
        first = next(other for other in runs if other in joined)
        group = {other: first if of in joined else of for other, of in group.items()}
    work = dict.fromkeys(group.values(), 0)
    for name, run in runs.items():
        work[group[name]] += OF_RECOMMENDER if run.setting.verb == BASELINE else OF_LANGUAGE_MODEL
    load, mine = [0] * part.of, set()
    for first, amount in work.items():
        least = load.index(min(load))
        load[least] += amount
        mine |= {first} if least == part.number - 1 else set()
    return {name: run for name, run in runs.items() if group[name] in mine}


def own_file(results: Path, part: Part | None) -> Path:
    """Where a part writes its lines: beside the study's file, which is what a call without --part writes."""
    return results if part is None else results.with_name(f"{results.stem}{part.ending}{results.suffix}")


def read_all_lines(results: Path) -> dict[str, Line]:
    """The lines of the study's file and of every part's, by the run's name."""
    pattern = re.compile(rf"{re.escape(results.stem)}-part-\d+-of-\d+{re.escape(results.suffix)}")
    beside = sorted(results.parent.iterdir()) if results.parent.is_dir() else []
    lines: dict[str, Line] = {}
    for path in (*(path for path in beside if pattern.fullmatch(path.name)), results):
        lines |= read_lines(path)
    return lines
