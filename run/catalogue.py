"""The items that a run showed in its prompts: written into its folder, and read again for titles of one's own."""

import json
from collections.abc import Callable
from pathlib import Path

from cli.train import TrainFlags
from data.interactions import Dataset, Item
from data.load import load_dataset
from data.prompts import as_shown
from data.sources.stand_in import STAND_IN, stand_in
from data.users import Known, typed
from errors import DataError, RunError, quoted
from files import read_whole, write_text
from machine import ranks
from run.folder import RunFolder
from run.vectors import has_vectors

CATALOGUE = "catalogue.jsonl"


@ranks.first_only
def write_catalogue(run: RunFolder, data: Dataset) -> None:
    """A line per item: its id, its title, and its author if it has one."""
    lines = []
    for number, item in data.catalogue.items():
        author = {} if item.author is None else {"author": item.author}
        lines.append(json.dumps({"item": number, "title": item.title, **author}, ensure_ascii=False))
    with run.writing():
        write_text(run.path / CATALOGUE, "".join(line + "\n" for line in lines))


def history_lengths(data: Dataset) -> tuple[int, int]:
    """Items in the shortest and in the longest history that training's prompts show."""
    lengths = [len(as_shown(row, data.wording).history) for row in data.train]
    return min(lengths), max(lengths)


def known_of_run(
    folder: Path, config: dict, settings: TrainFlags, notice: Callable[[str], None]
) -> tuple[Known | None, str]:
    """(what the run showed, "") or, if that cannot be known, (None, why).

    A run of an earlier version has no catalogue.jsonl: its data are loaded again if they are there. config, settings:
    of resolve_settings. Raises RunError if the file is damaged.
    """
    path = folder / CATALOGUE
    if path.exists():
        return Known(frozenset(_read(path)), _lengths(config.get("history"), folder / "config.json")), ""
    if "data" not in config["flags"]:
        return None, f"it has no {CATALOGUE}, and config.json does not name its data"
    try:
        if config.get("data_source") == STAND_IN:
            data = stand_in()
        else:
            data = load_dataset(settings.data, settings.data_dir, True, notice, vars(settings))
    except (DataError, OSError) as error:
        return None, f"it has no {CATALOGUE}, and its data are not here ({str(error).splitlines()[0][:200]})"
    if data.source != config.get("data_source"):
        return None, f"it has no {CATALOGUE}, and --data {settings.data} is another data set now"
    return Known(frozenset(data.catalogue.values()), history_lengths(data)), ""


def ids_of_titles(folder: Path) -> dict[str, int | str]:
    """{title as it is typed: its id in the run's data}; of several items with one title the first.

    Raises RunError if the file is missing or damaged: the vectors of items are looked up by it.
    """
    if not (folder / CATALOGUE).is_file():
        raise RunError(f"{folder / CATALOGUE}: missing; titles get their vectors by it, so fetch it too")
    found: dict[str, int | str] = {}
    for number, item in _read_numbered(folder / CATALOGUE):
        found.setdefault(typed(item), number)
    return found


def _read(path: Path) -> list[Item]:
    return [item for _, item in _read_numbered(path)]


def _read_numbered(path: Path) -> list[tuple[int | str, Item]]:
    items = []
    for number, line in enumerate(read_whole(path).split(b"\n")[:-1], start=1):
        try:
            content = json.loads(line)
            title, author, identity = content["title"], content.get("author"), content["item"]
            if not isinstance(title, str) or not isinstance(author, str | None) or type(identity) not in (int, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            what_to_do = "fetch it again" if has_vectors(path.parent) else "delete it, and the run's data are loaded"
            raise RunError(
                f"{path} line {number}: not an item, found {quoted(line)}; was the file changed? If so, {what_to_do}"
            ) from None
        items.append((identity, Item(title, author)))
    return items


def _lengths(value: object, path: Path) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(number) is int for number in value)
        or not 0 <= value[0] <= value[1]
    ):
        raise RunError(f"{path}: history is {quoted(value)}, expected two numbers; was the file changed?")
    return value[0], value[1]
