"""Where and how the runs of a study are made, and which of its lines are there."""

from dataclasses import dataclass
from pathlib import Path

from errors import RunError, quoted
from studies.parts import Part, read_all_lines
from studies.results import Line
from studies.study import BASELINE, MARK

TRAINED = "baseline.py, if it trains"  # a rule and a direct method have no flags of training


@dataclass(frozen=True)
class Bench:
    """Where and how the runs of a study are made.

    out: the folder of their run folders; results: the file of their lines; common: what all lines have in common;
    words: {verb: flags for every run of it}, and of TRAINED further ones; threads: of each process; bert: the folder of
    a BERT, None for none; part: which part of the runs is made, None for all.
    """

    out: Path
    results: Path
    common: dict
    words: dict[str, tuple[str, ...]]
    jobs: int
    threads: int
    bert: str | None = None
    part: Part | None = None

    def is_finished(self, name: str) -> bool:
        """Whether the folder of a run is there and whole. Every verb writes its results.json last."""
        return (self.out / name / "results.json").exists()


def known_lines(bench: Bench) -> dict[str, Line]:
    """The lines of the results file, and of all parts. Raises RunError if one is of another base, data or flags.

    A recommender's run reads neither the base nor the flags of train.py: its line may stand beside those of any base.
    """
    lines = read_all_lines(bench.results)
    for line in lines.values():
        alone = is_recommender(line)
        for name, value in bench.common.items():
            found = line.about.get(name)
            if alone and name == "train_flags":
                found, value = flags_passed(line), _of_baseline(value)
            if found != value and not (alone and name in ("base", "wording")):
                raise RunError(
                    f"{bench.results} (or a file of its parts): {line.run} was made with {name} {quoted(found)}, "
                    f"and this command says {quoted(value)}; give another --results and --out"
                )
    return lines


def is_recommender(line: Line) -> bool:
    """Whether baseline.py made the run."""
    return line.about.get("verb") == BASELINE


def flags_passed(line: Line) -> str:
    """The flags of --preset and after -- that the run had; "" for none."""
    words = line.about.get("train_flags") or ""
    return _of_baseline(words) if is_recommender(line) else words


def _of_baseline(words: str) -> str:
    """Those for baseline.py, which stand after the second --."""
    return words.partition(f" {MARK} ")[2]
