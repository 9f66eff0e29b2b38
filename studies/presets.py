"""What --preset means, and what reproduce.py all runs: data that other files read."""

from dataclasses import dataclass, field

from studies.study import TRAIN

ALL = ("table1", "table2", "table4", "figure3", "consistency", "case-study")  # in this order
CASE_STUDY = "case-study"


@dataclass(frozen=True)
class Preset:
    """How much of a study is run.

    about: one line for --help; seeds: by data set, of each setting; shots: of the settings that have one of these, ()
    for all; passed: {data set: {verb: the flags that stand after -- for it}}. What is not named is as declared.
    """

    about: str
    seeds: dict[str, int]
    shots: tuple[str, ...] = ()
    passed: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)


_FEW_ROWS = {TRAIN: ("--valid-rows", "250")}
# Recommenders are quick: they train and are scored on all rows, and the table measures them on the same 2,000.
_PART = {TRAIN: ("--valid-rows", "300", "--test-rows", "2000", "--max-steps", "200")}

PRESETS = {
    "laptop": Preset(
        "each item in a night on two cores with a base of 135 million parameters: fewer seeds, parts of the rows",
        {"movie": 3, "book": 3, "ml-1m": 1, "amazon-book": 1},
        ("64", "all"),
        {"movie": _FEW_ROWS, "book": _FEW_ROWS, "ml-1m": _PART, "amazon-book": _PART},
    ),
    "card24": Preset(
        "what the paper ran, on one card of 24 GB: all rows, every number of shots, one seed",
        {"movie": 1, "book": 1, "ml-1m": 1, "amazon-book": 1},
    ),
}
