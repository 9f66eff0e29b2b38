"""TALLRec's published file form: a JSON list of {"instruction", "input", "output"} per split."""

import json
from pathlib import Path

from data.interactions import Dataset, Interaction, Item
from data.prompts import parse_tallrec_row, tallrec_row
from errors import DataError
from files import read_whole, refuse_unencodable

SPLITS = ("train", "valid", "test")
FIELDS = ["instruction", "input", "output"]


def write_split(path: Path, rows: list[Interaction], data: Dataset) -> None:
    """Write one split as the published files are: indent 4, ASCII escapes, no newline at the end."""
    text = json.dumps([tallrec_row(row, data.catalogue, data.noun) for row in rows], indent=4)
    path.write_bytes(text.encode("ascii"))


def write_folder(data: Dataset, folder: Path) -> None:
    """train.json, valid.json and test.json."""
    for split in SPLITS:
        write_split(folder / f"{split}.json", getattr(data, split), data)


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
        row, noun, items = parse_tallrec_row(fields, where)
        rows.append(row)
        nouns.add(noun)
        catalogue |= items
    if len(nouns) > 1:
        raise DataError(f"{path}: rows speak of different things ({', '.join(sorted(nouns))}); one data set, one noun")
    return rows, catalogue, nouns.pop()


def read_folder(folder: Path, name: str) -> Dataset:
    """train.json, valid.json and test.json of a folder as a Dataset."""
    splits, catalogue, nouns = {}, {}, set()
    for split in SPLITS:
        path = folder / f"{split}.json"
        if not path.is_file():
            raise DataError(f"{path}: missing; a TALLRec folder has train.json, valid.json and test.json")
        splits[split], items, noun = read_split(path)
        catalogue |= items
        nouns.add(noun)
    if len(nouns) > 1:
        raise DataError(f"{folder}: its splits speak of different things ({', '.join(sorted(nouns))})")
    return Dataset(name, "tallrec-json", nouns.pop(), catalogue, **splits)
