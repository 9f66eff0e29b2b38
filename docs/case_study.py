"""The two users of the paper's case study, looked up in MovieLens-100K, and what a model answers about them.

    python -m docs.case_study --data-dir FOLDER --model DIR       FOLDER has u.data and u.item
    python -m docs.case_study --data-dir FOLDER --run runs/NAME   the same with the adapter of a run
    python -m docs.case_study --data-dir FOLDER --model demo --liked "A (1990)|B" --disliked "C" --target "D"

The second form of looking up takes titles, as the paper prints them, and names every row of the test split that has
them. docs/case-study.md says what follows.
"""

import installed  # noqa: F401

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cli.flags import Resolved, flag, parse_flags
from cli.model import ModelFlags, model_problems
from cli.verb import run_verb
from data.interactions import Dataset, Interaction
from data.sources import movie
from data.sources.movielens import parse_ratings
from data.splits import encode_split
from errors import DataError, FlagError, notice
from files import read_whole
from model.demo import base_in_results
from report.tables import adapter_in_words, model_in_words
from run.restore import resolve_settings, restore_model
from scoring.splits import score_split

PAPER_ROWS = (144, 739)  # of the movie test split
LISTED = ("liked", "disliked")


@dataclass(frozen=True)
class CaseFlags(ModelFlags):
    """Whom to look up."""

    data_dir: str = flag(None, "folder with MovieLens-100K's u.data and u.item", metavar="DIR")
    abridged: int = flag(2, "also ask with only so many liked and disliked films, the latest", low=1, high=10)
    liked: str = flag(None, 'titles that the user liked, separated by "|"; default: the rows of the paper')
    disliked: str = flag(None, 'titles that the user did not like, separated by "|"')
    target: str = flag(None, "title of the film in question")


def check_flags(flags: CaseFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for everything that is missing."""
    problems = model_problems(flags)
    if flags.data_dir is None:
        problems.append("--data-dir: say which folder has MovieLens-100K's u.data and u.item")
    given = [name for name in (*LISTED, "target") if getattr(flags, name)]
    if given and len(given) < 3:
        problems.append("--liked, --disliked, --target: belong together; give all three")
    if problems:
        raise FlagError("\n".join(problems))


def main(argv: list[str]) -> None:
    """Look the users up, ask the model, and print both."""
    flags, resolved = parse_flags(CaseFlags, argv, __doc__, check=check_flags)
    settings, _ = resolve_settings(flags, resolved)
    root = Path(flags.data_dir)
    places = (root, *(root / folder for folder in movie.SOURCE.folders))
    files = next((found for folder in places if (found := movie.raw_files(folder))), None)
    if not files:
        raise DataError(f"--data-dir {flags.data_dir}: has no u.data; docs/data.md says where it comes from")
    data = movie.build(files, notice)
    stars = {
        (user, item): rating
        for user, item, rating, _ in parse_ratings(read_whole(files[0]), files[0], "\t", data.catalogue, "u.item")
    }
    numbers = rows_with(data, flags) if flags.target else PAPER_ROWS
    if not numbers:
        raise DataError("--liked, --disliked, --target: no row of the movie test split has these films and answers")
    for number in numbers:
        print("\n".join(looked_up(number, data.test[number], stars)))
    model, tokenizer = restore_model(flags, settings)
    asked = [(number, kind, row) for number in numbers for kind, row in histories(data.test[number], flags.abridged)]
    split = encode_split([row for _, _, row in asked], data, tokenizer, settings.template, settings.max_len)
    scored = score_split(model, split)
    known = {**base_in_results(settings.model), "run": flags.run, "adapter": flags.adapter}
    print(f"\n{model_in_words(known)}; {adapter_in_words(known)}\n")
    print(f"{'row':>5} {'user':>5}  {'history':16}{'P(Yes), like':>13}{'P(Yes), dislike':>17}  the answers are")
    for (number, kind, row), like, dislike in zip(asked, scored.p_pos.tolist(), scored.p_neg.tolist()):
        what = verdict(like, dislike, row.label)
        print(f"{number:5} {row.user:5}  {kind:16}{like:13.3f}{dislike:17.3f}  {what}")


def rows_with(data: Dataset, flags: CaseFlags) -> list[int]:
    """Numbers of the test rows whose history has the titles, liked or not as said, and whose target is the title."""
    wanted = {(title.strip(), kind == "liked") for kind in LISTED for title in getattr(flags, kind).split("|")}
    found = []
    for number, row in enumerate(data.test):
        shown = {(data.catalogue[item].title, liked) for item, liked in row.history}
        if wanted <= shown and data.catalogue[row.target].title == flags.target:
            found.append(number)
    return found


def looked_up(number: int, row: Interaction, stars: dict[tuple[int, int], int]) -> list[str]:
    """How the target was rated, and how many users these ratings fit. stars: {(user, item): 1 to 5}, all of u.data."""
    users = sorted({user for user, _ in stars})
    fits = [user for user in users if (user, row.target) in stars and _agrees(user, row, stars)]
    rating = stars[row.user, row.target]
    liked = "liked" if rating > movie.LIKED_ABOVE else "did not like"
    right = "Yes to like, No to dislike" if rating > movie.LIKED_ABOVE else "No to like, Yes to dislike"
    return [
        f"row {number} of the movie test split: user {row.user} rated the target {rating} of 5, so {liked} it;",
        f"  right is {right}; users with these {len(row.history)} likes and dislikes who rated the target: "
        f"{len(fits)} of {len(users)}",
    ]


def _agrees(user: int, row: Interaction, stars: dict[tuple[int, int], int]) -> bool:
    """Whether the user rated the whole history, each film on the same side."""
    rated = [(stars.get((user, item)), liked) for item, liked in row.history]
    return all(rating is not None and (rating > movie.LIKED_ABOVE) == liked for rating, liked in rated)


def histories(row: Interaction, latest: int) -> Iterator[tuple[str, Interaction]]:
    """(what it is called, the row) with the whole history, and with its latest likes and dislikes alone."""
    yield "whole", row
    kept = {entry for side in (True, False) for entry in [e for e in row.history if e[1] == side][-latest:]}
    yield f"latest {latest} of each", replace(row, history=tuple(entry for entry in row.history if entry in kept))


def verdict(like: float, dislike: float, liked: bool) -> str:
    """What two probabilities of Yes, to "will like?" and "will dislike?", amount to for a user who liked it or not."""
    if (like > 0.5) == (dislike > 0.5):
        return "contradictory"
    return "both right" if (like > 0.5) == liked else "consistent, wrong"


if __name__ == "__main__":
    run_verb(main)
