"""What a study writes and shows: its tables as Markdown, CSV, LaTeX and for a terminal, with what they are about."""

from dataclasses import dataclass

from data.interactions import Dataset, Interaction
from report.card import base_name
from report.tables import data_in_words, provenance
from report.wrap import wrapped
from studies.bench import flags_passed
from studies.results import Line
from studies.study import BASELINE, LCFT_COLMF, Study
from studies.tables import (
    Measured,
    as_csv,
    as_latex,
    differences,
    is_close,
    markdown,
    measured_rows,
    rows_scored,
    rows_without_learning,
    terminal,
)
from studies.wordings import wording_texts


@dataclass(frozen=True)
class Outcome:
    """A study in figures.

    heading: which data, base and rows, in words; rows: the base and the settings; unlearned: rules and constants;
    changes: settings minus the control; notes: what one has to know to read the tables; source: of the data;
    demo: whether the base is the demo model; more: further tables, {file: content}, and their form for a terminal.
    """

    name: str
    study: Study
    heading: str
    rows: list[Measured]
    unlearned: list[dict]
    changes: list[Measured]
    notes: list[str]
    source: str
    demo: bool
    more: tuple[dict[str, str], str]

    @property
    def constant(self) -> float:
        """The largest share of rows that a constant has both right."""
        return max(rule.get("group_accuracy", 0.0) for rule in self.unlearned)


def outcome_of(name: str, study: Study, lines: dict[str, Line], data: Dataset, base: dict) -> Outcome:
    """Measure the runs of a study. base: what base_in_results gave."""
    scored = rows_scored(lines, data)
    split = "test split" if len(scored) == len(data.test) else f"{len(scored):,} of {len(data.test):,} test rows"
    known = base | {"model": base_name(str(base["model"])), "data": data.name, "data_source": data.source}
    alone = all(setting.verb == BASELINE for setting in study.settings)  # recommenders have no base
    heading = f"{data_in_words(data.name, data.source) if alone else provenance(known)}; {split}"
    rows, changes = measured_rows(study, lines, data), differences(study, lines, data)
    notes = notes_of(rows, changes, {name: lines[name] for name in study.runs() if name in lines}, study, scored)
    unlearned = rows_without_learning(data.train, scored)
    more = wording_texts(name, study, lines, data, heading) if study.wordings else ({}, "")
    demo = bool(base["demo_model"]) and not alone
    return Outcome(name, study, heading, rows, unlearned, changes, notes, data.source, demo, more)


def notes_of(
    rows: list[Measured], changes: list[Measured], made: dict[str, Line], study: Study, scored: list[Interaction]
) -> list[str]:
    """What one has to know to read the tables. made: lines of the study's runs; scored: the test rows."""
    lines, runs = list(made.values()), [run for name, run in study.runs().items() if name in made]
    notes = [
        "Mean over the runs ± standard deviation (n - 1) [95 % interval of the mean, from resampling the users].",
        "Not run: no run of this row is there.",
    ]
    berts = sorted({line.about["bert"] for line in lines if line.about.get("bert")})
    notes += [f"Titles were read by a {bert}." for bert in berts]
    if any(not run.setting.plain for run in runs):
        notes.append("Rows of CoLLM, LCFT-CoLMF and Prompt4NR-V: P(Yes) is σ of the logit of Yes, elsewhere softmax.")
    if any(run.setting.method == LCFT_COLMF for run in runs):
        notes.append("LCFT-CoLMF is our design: no code of it is public.")
    if any(row.published for row in rows):
        notes.append("Published figures are one run each; those of language models are of a base with 7B parameters.")
    if any("informative_asked_once" in row.values for row in rows):
        notes.append("Asked once, without learning: an item is called liked where the rule's share is above a half.")
    if any(is_close(row) for row in rows):
        notes.append("As close as was set: whether our means lie in the range that was written down before the runs.")
    if any(row.runs for row in changes):
        notes.append(
            f"p: two-sided; the larger of that over users (paired bootstrap, {_resampled(scored)}) and that over seeds "
            "(paired t-test), so that a difference has to hold for both; with one run, over users alone. Not corrected "
            "for the number of comparisons."
        )
    passed = {flags_passed(line) for line in lines} - {""}
    return notes + [f"Flags of every run: {words}" for words in sorted(passed)]


def _resampled(scored: list[Interaction]) -> str:
    """What the bootstrap draws: users, and rows whose user is unknown."""
    users, rows = len({row.user for row in scored} - {None}), sum(row.user is None for row in scored)
    parts = [f"{users:,} user{'s' * (users != 1)}"] * bool(users)
    parts += [f"{rows:,} row{'s' * (rows != 1)} of unknown users"] * bool(rows)
    return " and ".join(parts)


def texts_of(outcome: Outcome) -> dict[str, str]:
    """{file: content} of the tables."""
    name, rows, unlearned, changes = outcome.name, outcome.rows, outcome.unlearned, outcome.changes
    parts = [f"{outcome.heading}\n", markdown(rows, unlearned), f"\n{' '.join(outcome.notes)}\n"]
    parts += [markdown(changes, [], "+"), ""] if changes else []
    return {
        f"{name}.md": "\n".join(parts),
        f"{name}.csv": as_csv([*rows, *changes]),
        f"{name}.tex": f"% {outcome.heading}\n{as_latex(rows, unlearned)}",
    } | outcome.more[0]


def shown(outcome: Outcome) -> str:
    """The table for a terminal."""
    lines = wrapped(f"{outcome.heading}; mean ± standard deviation over the runs")
    more = ["", outcome.more[1]] if outcome.more[1] else []
    return "\n".join([*lines, "", terminal(outcome.rows, outcome.unlearned), *more])
