"""What predict.py is asked: users, their titles and a catalogue, in prompts as the run's training showed them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.predict import THE_RUNS, PredictFlags, user_of_flags
from cli.train import TrainFlags
from data.interactions import DEFAULT_WORDING, Dataset, Interaction, Item
from data.own_wording import parse_own_wording, read_own_wording
from data.sources.own_files import read_catalogue
from data.user_files import UserFile, read_users
from data.users import BadRow, Known, User, conflicts, rows_of_user, typed, with_authors, without_doubles
from errors import DataError, notice, quoted
from run.catalogue import known_of_run


@dataclass(frozen=True)
class Asked:
    """users, in the order of their file; bad: rows that were left out; catalogue: what is ranked for each user, or
    None if each names targets; longest: titles of a history to show, None for all; data: all titles, noun and wording.
    """

    users: list[User]
    bad: list[BadRow]
    catalogue: list[Item] | None
    longest: int | None
    data: Dataset

    def groups(self) -> Iterator[list[Interaction]]:
        """Rows that are scored together: all, or those of one user after the other if a catalogue is ranked."""
        if self.catalogue is None:
            yield [row for user in self.users for row in self._rows(user, user.target)]
            return
        for user in self.users:
            yield self._rows(user, without_doubles(self.catalogue, user))

    def _rows(self, user: User, targets: list[Item] | tuple[Item, ...]) -> list[Interaction]:
        return rows_of_user(user, targets, self.data.wording, self.longest)


def what_is_asked(flags: PredictFlags, settings: TrainFlags, config: dict) -> Asked:
    """Raises DataError with a line for everything that is wrong in any row. Says what differs from the run's prompts.

    settings, config: of resolve_settings.
    """
    found = _users(flags)
    known = _known(flags, settings, config) if flags.run else None
    catalogue = _catalogue(flags, known)
    if known:
        named = [*(item for user in found.users for item in (*user.history, *user.target)), *(catalogue or [])]
        found, catalogue = _fill(found, known), _fill_catalogue(catalogue, known)
        filled = [*(item for user in found.users for item in (*user.history, *user.target)), *(catalogue or [])]
        _tell_likeness(named, filled, known)
    _refuse_bad(flags, found)
    longest = known.history[1] if known and flags.history is None else flags.history
    noun, wording = _noun(flags, config), config.get("wording", DEFAULT_WORDING)
    if settings.wordings_file:
        wording = read_own_wording(Path(settings.wordings_file))
        noun = flags.noun or parse_own_wording(wording).noun or noun
    items = {typed(item): item for user in found.users for item in (*user.history, *user.target)}
    items |= {typed(item): item for item in catalogue or []}
    data = Dataset("titles", "given by the user", noun, items, [], [], [], wording)
    asked = Asked(found.users, found.bad, catalogue, longest, data)
    first = next((rows for rows in asked.groups() if rows), None)
    if first is None:
        raise DataError(f"--catalogue {flags.catalogue}: has no item outside the history; nothing is left to rank")
    data.test.append(first[0])  # in its prompt the tokens of both answers are looked up
    _tell_history(found.users, longest, known, wording)
    return asked


# ---- reading ------------------------------------------------------------------------------------


def _users(flags: PredictFlags) -> UserFile:
    if flags.input is None:
        return UserFile([user_of_flags(flags)[0]])
    found = read_users(Path(flags.input), with_targets=flags.catalogue is None)
    for note in found.notes:
        notice(note)
    return found


def _known(flags: PredictFlags, settings: TrainFlags, config: dict) -> Known | None:
    known, why = known_of_run(Path(flags.run), config, settings, notice)
    if known is None and flags.catalogue == THE_RUNS:
        raise DataError(f"--catalogue run: {why}; name a file of items instead")
    if known is None:
        notice(
            f"--run {flags.run}: {why}. So a title has an author only if you write TITLE::AUTHOR, and a history is "
            "shown whole unless you give --history N"
        )
    return known


def _catalogue(flags: PredictFlags, known: Known | None) -> list[Item] | None:
    if flags.catalogue is None:
        return None
    if flags.catalogue != THE_RUNS:
        return read_catalogue(Path(flags.catalogue), notice)
    return sorted((item for item in known.items if item.title), key=typed)


def _refuse_bad(flags: PredictFlags, found: UserFile) -> None:
    """Raises DataError with a line for every problem, unless --skip-bad leaves something to score."""
    if not found.bad or (flags.skip_bad and found.users):
        return
    lines = [line for row in found.bad for line in row.problems]
    if found.users and flags.input is not None:
        rows = len(found.bad) + len(found.users)
        lines.append(
            f"{flags.input}: {len(found.bad):,} of {rows:,} rows cannot be scored; --skip-bad scores the others"
        )
    raise DataError("\n".join(lines))


# ---- as the run showed it -----------------------------------------------------------------------


def _fill(found: UserFile, known: Known) -> UserFile:
    """The users with the authors that the run showed; rows for which that fails are bad."""
    filled = UserFile(bad=list(found.bad))
    for user in found.users:
        user, problems = with_authors(user, known)
        problems += conflicts(user)
        if problems:
            filled.bad.append(BadRow(user.line, tuple(problems), user.text))
        else:
            filled.users.append(user)
    filled.bad.sort(key=lambda row: row.line)
    return filled


def _fill_catalogue(catalogue: list[Item] | None, known: Known) -> list[Item] | None:
    if catalogue is None or known.items.issuperset(catalogue):
        return catalogue
    filled, problems = with_authors(User(None, (), (), tuple(catalogue), "--catalogue, "), known)
    if problems:
        raise DataError("\n".join(problems))
    return list(dict.fromkeys(filled.target))


def _tell_likeness(named: list[Item], filled: list[Item], known: Known) -> None:
    """Say how the titles differ from the run's. named: as they were given; filled: with the run's authors."""
    before, after = dict.fromkeys(named), dict.fromkeys(filled)
    if new := [item for item in after if item.author and item not in before]:
        notice(f"{_titles(new)} got the author from the run's data, such as {_examples(new)}")
    if known.authors and (bare := [item for item in after if not item.author and item not in known.items]):
        notice(
            f"the run was trained on titles with authors; {_titles(bare)} without one, such as {_examples(bare)}: "
            "write TITLE::AUTHOR"
        )
    if not known.authors and (surplus := [item for item in after if item.author]):
        notice(
            f"the run was trained on titles without authors; {_titles(surplus)} with one, such as {_examples(surplus)}"
        )
    if strange := [item for item in after if item not in known.items]:
        notice(f"not in the run's data: {_titles(strange)} of {len(after):,}, such as {_examples(strange)}")


def _titles(items: list[Item]) -> str:
    return "1 title" if len(items) == 1 else f"{len(items):,} titles"


def _examples(items: list[Item]) -> str:
    return ", ".join(quoted(typed(item)) for item in items[:2])


def _noun(flags: PredictFlags, config: dict) -> str:
    """What the prompts call a title. Says so if the run's template or noun is another, or is not known."""
    for name, ran in (("noun", config.get("noun")), ("template", config["flags"].get("template", {}).get("value"))):
        given = getattr(flags, name)
        if given is not None and ran is not None and given != ran:
            notice(f"--{name} {given}: the run was trained with {ran}, so its prompts were different")
    if flags.run and not flags.noun and not config.get("noun"):
        notice(f"--run {flags.run}: does not say what its prompts call a title; movie is used, --noun says another")
    return flags.noun or config.get("noun") or "movie"


def _tell_history(users: list[User], longest: int | None, known: Known | None, wording: str) -> None:
    """Say whose history is cut, or is of another length than in training."""
    lengths = {user: _shown(user, wording) for user in users}
    if wording == "collm" and any(user.disliked for user in users):
        notice("disliked titles have no place in the prompts that this run was trained on, and are left out")
    if wording == "collm" and any(item.author for user in users for item in (*user.history, *user.target)):
        notice("authors have no place in the prompts that this run was trained on, and are left out")
    if longest is not None and (cut := sum(length > longest for length in lengths.values())):
        of_run = known is not None and longest == known.history[1]
        why = f"the run showed at most {longest:,}; --history N shows N" if of_run else "as --history says"
        notice(
            f"{cut:,} of {len(users):,} histories have more than {longest:,} titles: the latest {longest:,} are shown "
            f"({why}). The last liked and the last disliked title count as equally late"
        )
    if known is None:
        return
    shortest, most = known.history
    if few := sum(min(length, longest) < shortest for length in lengths.values()):
        notice(f"{few:,} of {len(users):,} histories have fewer titles than any in training ({shortest:,})")
    if many := sum(min(length, longest) > most for length in lengths.values()):
        notice(f"{many:,} of {len(users):,} histories have more titles than any in training ({most:,})")


def _shown(user: User, wording: str) -> int:
    """Titles of the history that the wording has a place for."""
    return len(user.liked) if wording == "collm" else len(user.history)
