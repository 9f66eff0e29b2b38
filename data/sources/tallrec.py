"""TALLRec's published file form: a JSON list of {"instruction", "input", "output"} per split."""

import json
import re
from pathlib import Path

from data.interactions import SPLITS, Dataset, Interaction, Item
from data.prompts import INSTRUCTION, TALLREC, WRITTEN_BY, released_input
from errors import DataError
from files import read_whole, refuse_unencodable

FIELDS = ("instruction", "input", "output")
INPUT = re.compile(
    r"User Preference: (?P<liked>.*)\nUser Unpreference: (?P<disliked>.*)\n"
    r"Whether the user will like the target (?P<noun>\w+) (?P<target>\".*\")\?"
)

# ---- folders and files --------------------------------------------------------------------------


def write_folder(data: Dataset, folder: Path) -> None:
    """Write train.json, valid.json and test.json."""
    for split in SPLITS:
        write_split(folder / f"{split}.json", getattr(data, split), data)


def write_split(path: Path, rows: list[Interaction], data: Dataset) -> None:
    """Write one split as the published files are: indent 4, ASCII escapes, no newline at the end."""
    text = json.dumps([published_row(row, data) for row in rows], indent=4)
    path.write_bytes(text.encode("ascii"))


def read_folder(folder: Path, name: str) -> Dataset:
    """train.json, valid.json and test.json of a folder as a Dataset. Raises DataError naming the file and the row."""
    splits, catalogue, nouns = {}, {}, set()
    for split in SPLITS:
        path = folder / f"{split}.json"
        if not path.is_file():
            raise DataError(f"{path}: missing; a TALLRec folder has train.json, valid.json and test.json")
        splits[split], items, noun = read_split(path)
        catalogue |= items
        nouns.add(noun)
    if len(nouns) > 1:
        raise DataError(f"{folder}: its splits have different nouns ({', '.join(sorted(nouns))}); a data set has one")
    return Dataset(name, "tallrec-json", nouns.pop(), catalogue, **splits)


def read_split(path: Path) -> tuple[list[Interaction], dict[str, Item], str]:
    """(rows, catalogue, noun) of one file; titles serve as item ids, users are unknown (None).

    Raises DataError naming the file and the row.
    """
    raw = read_whole(path)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({str(error)[:60]}); fetch or prepare it again") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: expected a non-empty JSON list of rows with the keys {', '.join(FIELDS)}")
    rows, catalogue, nouns = [], {}, set()
    for number, fields in enumerate(content):
        where = f"{path}: row {number}"
        if not isinstance(fields, dict) or sorted(fields) != sorted(FIELDS):
            raise DataError(f"{where}: expected an object with exactly the keys {', '.join(FIELDS)}")
        if not all(isinstance(value, str) for value in fields.values()):
            raise DataError(f"{where}: instruction, input and output must be strings")
        refuse_unencodable(fields["input"], where)
        row, noun, items = parse_row(fields, where)
        rows.append(row)
        nouns.add(noun)
        catalogue |= items
    if len(nouns) > 1:
        raise DataError(f"{path}: its rows have different nouns ({', '.join(sorted(nouns))}); a data set has one")
    return rows, catalogue, nouns.pop()


# ---- one row ------------------------------------------------------------------------------------


def published_row(row: Interaction, data: Dataset) -> dict[str, str]:
    """The interaction as TALLRec publishes it: instruction, input and output (positive polarity)."""
    return {
        "instruction": INSTRUCTION.format(question=TALLREC.like, noun=data.noun),
        "input": released_input(row, data, TALLREC.like),
        "output": TALLREC.answers[row.label],
    }


def parse_row(fields: dict[str, str], where: str) -> tuple[Interaction, str, dict[str, Item]]:
    """(interaction, noun, its items) of one published row; titles serve as item ids, the user is unknown.

    The published text lists likes before dislikes, so the order between the two is lost.
    Raises DataError, starting with `where`, if the row is not of TALLRec's form.
    """
    match = INPUT.fullmatch(fields["input"])
    if match is None:
        raise DataError(
            f"{where}: `input` is not of TALLRec's three-line form (User Preference, User Unpreference, Whether ...)"
        )
    target = match["target"]
    if target.startswith('""') and WRITTEN_BY in target:  # a book as target is quoted as a whole, a film is not
        target = target[1:-1]
    items = {"liked": _split_items(match["liked"], where), "disliked": _split_items(match["disliked"], where)}
    (target_item,) = _split_items(target, where)[:1] or [Item("")]
    if fields["output"] not in TALLREC.answers.values():
        raise DataError(f"{where}: `output` is {fields['output'][:20]!r}; expected 'Yes.' or 'No.'")
    history = tuple((_name(item), side == "liked") for side, of_side in items.items() for item in of_side)
    row = Interaction(None, history, _name(target_item), fields["output"] == TALLREC.answers[True])
    catalogue = {_name(item): item for item in (*items["liked"], *items["disliked"], target_item)}
    if published_row(row, Dataset("", "", match["noun"], catalogue, [], [], [])) != fields:
        raise DataError(f"{where}: the row does not have TALLRec's wording (first: {INSTRUCTION[:60]}...)")
    return row, match["noun"], catalogue


def _split_items(text: str, where: str) -> list[Item]:
    """The items of a list such as `"T1" written by A1, "T2", "T3" written by A3`."""
    if not text:
        return []
    if text[0] != '"' or len(text) < 2 or (f'"{WRITTEN_BY}' not in text and text[-1] != '"'):
        raise DataError(f'{where}: titles must stand in double quotes and be joined by ", ": {text[:60]}')
    # Cut at `" written by `, each part but the first begins with an author. After it, up to the next cut, come the
    # titles of items without an author, and last the title of the next item with one.
    items: list[Item] = []
    titles, *rest = (text + ', "').split(f'"{WRITTEN_BY}')
    titles = titles[1:]
    for part in rest:
        *without, title = titles.split('", "')
        author, _, titles = part.partition(', "')
        items += [Item(name) for name in without] + [Item(title, author)]
    return items + [Item(name) for name in titles.split('", "')[:-1]]


def _name(item: Item) -> str:
    """What serves as the item's id: its title, and its author if it has one."""
    return f"{item.title}{WRITTEN_BY}{item.author}" if item.author else item.title
