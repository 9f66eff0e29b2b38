"""Raw files to prepared ones: a command, and the same as a cache behind `--data NAME`.

A prepared folder holds everything that a Dataset does, in two JSON Lines files and a manifest that is
written last:
  items.jsonl     [item, title, author] per line
  rows.jsonl      [split, user, [history items], "10..." (liked or not), target, label, timestamp] per line
  prepared.json   rule, version, options, fingerprints of the raw files; source, noun, ...; checksums

In the cache such a folder is named by what it was made from. Raw files, rule version or options that
differ give another name, so nothing stale is ever read; it is made aside and renamed, so of two
processes that prepare the same thing one wins and both find it whole.

    python -m data.movie --raw DIR --out DIR        and likewise data.book, data.ml_1m, data.amazon_book, data.custom
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from data.interactions import Dataset, Interaction, Item
from data.prompts import WORDINGS
from errors import DataError
from files import new_folder, read_whole, refuse_unencodable, write_file, write_json

FORMAT = 1
MANIFEST = "prepared.json"
FULLY_HASHED = 2**28  # bytes; of a larger file size, time and both ends stand for the content


@dataclass(frozen=True)
class Options:
    """What a user decides about a data set; each belongs to one of them (OPTIONS in its module)."""

    book_zeros: str = "dislike"
    amazon_liked: int = 5
    like_threshold: float | None = None
    noun: str | None = None
    split_by: str = "time"

    def of(self, rule) -> dict:
        """Those that the rule knows, by name."""
        return {name: getattr(self, name) for name in rule.OPTIONS}


CHOICES = {"book_zeros": ("dislike", "drop"), "amazon_liked": ("5", "4"), "split_by": ("time", "user")}
HELP = {
    "book_zeros": "a book rated 0 was not rated; TALLRec counts it as disliked",
    "amazon_liked": "stars from which a book is liked; the published data say 5, the paper 4",
    "like_threshold": "own data: rating from which an item is liked",
    "noun": "own data: what an item is called in the prompts (default item)",
    "split_by": "own data: what keeps train, valid and test apart",
}


# ---- the cache ----------------------------------------------------------------------------------


def cache_folder() -> Path:
    """$LCFT_DATA, else data/cache beside the code."""
    return Path(os.environ.get("LCFT_DATA") or Path(__file__).parent / "cache")


def prepared(rule, files: list[Path], options: Options, notice: Callable[[str], None]) -> Dataset:
    """The data set that `rule` (a module such as data.movie) makes of its raw files, from the cache if it is there.

    Raises DataError as the rule does. A cache that cannot be written is said, and done without.
    """
    key = key_of(rule, files, options)
    name = f"{rule.NAME}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}"
    folder = cache_folder() / "prepared" / name
    if (folder / MANIFEST).is_file():
        try:
            return read_prepared(folder)
        except DataError as error:
            notice(f"{error}; preparing it again")
            shutil.rmtree(folder, ignore_errors=True)
    data = build(rule, files, options, notice)
    try:
        with new_folder(folder) as temporary:
            write_prepared(data, temporary, key)
    except OSError as error:
        if (folder / MANIFEST).is_file():  # another process was first
            return data
        notice(
            f"{folder}: the prepared data cannot be kept there ({error.strerror}), so they are prepared anew each time"
        )
    return data


def build(rule, files: list[Path], options: Options, notice: Callable[[str], None]) -> Dataset:
    """Apply the rule; one that takes long gets a folder to go on from after a break."""
    work = {"work": cache_folder() / "unfinished"} if getattr(rule, "RESUMABLE", False) else {}
    return rule.build(files, notice, **options.of(rule), **work)


def key_of(rule, files: list[Path], options: Options) -> dict:
    """All that decides what the prepared files contain."""
    return {
        "format": FORMAT,
        "rule": rule.NAME,
        "version": rule.VERSION,
        "options": options.of(rule),
        "raw": {path.name: fingerprint(path) for path in files},
    }


def fingerprint(path: Path) -> str:
    """sha256 of the content; of a file above FULLY_HASHED, of its size, time of change, first and last MiB."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        if size <= FULLY_HASHED:
            while block := file.read(2**20):
                digest.update(block)
            return digest.hexdigest()
        digest.update(f"{size} {path.stat().st_mtime_ns}".encode())
        digest.update(file.read(2**20))
        file.seek(-(2**20), os.SEEK_END)
        digest.update(file.read())
    return "ends-" + digest.hexdigest()


# ---- a prepared folder --------------------------------------------------------------------------


def write_prepared(data: Dataset, folder: Path, key: dict) -> None:
    """items.jsonl, rows.jsonl and, last, prepared.json; each renamed into place when it is whole."""
    chosen = set(map(id, data.selection)) if data.selection is not None else None
    numbers = {id(row): number for number, row in enumerate(data.valid)}
    items = ([item, entry.title, entry.author] for item, entry in data.catalogue.items())
    rows = (
        [
            split,
            row.user,
            [item for item, _ in row.history],
            "".join("01"[liked] for _, liked in row.history),
            row.target,
            int(row.label),
            row.timestamp,
        ]
        for split in ("train", "valid", "test")
        for row in getattr(data, split)
    )
    manifest = key | {
        "name": data.name,
        "source": data.source,
        "noun": data.noun,
        "wording": data.wording,
        "rows": {split: len(getattr(data, split)) for split in ("train", "valid", "test")},
        "selection": [numbers[id(row)] for row in data.selection] if chosen is not None else None,
        "sha256": {
            "items.jsonl": _write_lines(folder / "items.jsonl", items),
            "rows.jsonl": _write_lines(folder / "rows.jsonl", rows),
        },
    }
    write_json(folder / MANIFEST, manifest)


def _write_lines(path: Path, rows: Iterable[list]) -> str:
    """Write a JSON line per row; returns the sha256 of the file."""
    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for row in rows:
                line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                digest.update(line)
                file.write(line)

    write_file(path, write)
    return digest.hexdigest()


def read_prepared(folder: Path) -> Dataset:
    """The Dataset in a prepared folder. Raises DataError naming the file that is damaged."""
    try:
        manifest = json.loads(read_whole(folder / MANIFEST))
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{folder / MANIFEST}: written by another version of this project; prepare the raw files again"
            )
        catalogue = {item: Item(title, author) for item, title, author in _read_lines(folder / "items.jsonl", manifest)}
        splits: dict[str, list[Interaction]] = {"train": [], "valid": [], "test": []}
        entries = {
            (item, liked): (item, liked) for item in catalogue for liked in (False, True)
        }  # one each, for all histories
        for split, user, history, liked, target, label, timestamp in _read_lines(folder / "rows.jsonl", manifest):
            entries_of_row = tuple(entries[item, flag == "1"] for item, flag in zip(history, liked))
            splits[split].append(Interaction(user, entries_of_row, target, label == 1, timestamp))
        chosen = manifest["selection"]
        selection = None if chosen is None else [splits["valid"][i] for i in chosen]
        texts = [manifest[name] for name in ("name", "source", "noun")]
        data = Dataset(*texts, catalogue, **splits, wording=manifest["wording"], selection=selection)
        _refuse_unusable(data, folder)
        return data
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, FileNotFoundError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{folder}: the prepared files are damaged ({type(error).__name__}); delete the folder and prepare it again"
        ) from None


def _refuse_unusable(data: Dataset, folder: Path) -> None:
    """Raises TypeError, KeyError or DataError for what a Dataset cannot hold, or no text."""
    rows = [*data.train, *data.valid, *data.test]
    ids = {row.user for row in rows} | set(data.catalogue)
    if not set(map(type, ids)) <= {int, str, type(None)} or not {type(row.timestamp) for row in rows} <= {
        int,
        type(None),
    }:
        raise TypeError
    if not (data.train and data.valid and data.test and data.selection_rows()) or not all(
        row.target in data.catalogue for row in rows
    ):
        raise KeyError
    if data.wording not in WORDINGS:
        raise KeyError
    items = data.catalogue.values()
    shown = [*(item.title for item in items), *(item.author for item in items if item.author is not None)]
    if not all(isinstance(text, str) for text in shown):
        raise TypeError
    if not (data.name + data.source + data.noun).isprintable():
        raise ValueError
    for text in (data.name, data.source, data.noun, *shown, *(name for name in ids if isinstance(name, str))):
        refuse_unencodable(text, str(folder))


def _read_lines(path: Path, manifest: dict):
    content = read_whole(path)
    if hashlib.sha256(content).hexdigest() != manifest["sha256"][path.name]:
        raise DataError(f"{path}: is not as it was written (checksum differs); delete the folder and prepare it again")
    return map(json.loads, content.splitlines())


# ---- the command --------------------------------------------------------------------------------


def command(name: str) -> None:
    """`python -m data.NAME`: what a user can mend becomes one line and exit status 2."""
    from data.load import RULES  # imports the rules, which import nothing from here but this, when they are run

    rule = RULES[name]
    parser = argparse.ArgumentParser(
        prog=f"data.{name.replace('-', '_')}",
        description=f"Prepare the {name} data set from its raw files.",
        allow_abbrev=False,
    )
    parser.add_argument("--raw", required=True, type=Path, metavar="DIR", help="folder with the raw files")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for the prepared files; then usable as --data DIR",
    )
    if hasattr(rule, "write_published"):
        parser.add_argument(
            "--published", action="store_true", help="also write the splits in the form in which they are published"
        )
    for option in rule.OPTIONS:
        default = {f.name: f.default for f in fields(Options)}[option]
        kind = float if option == "like_threshold" else str
        parser.add_argument(
            f"--{option.replace('_', '-')}", type=kind, choices=CHOICES.get(option), default=default, help=HELP[option]
        )
    args = vars(parser.parse_args())
    options = Options(
        **{option: int(args[option]) if option == "amazon_liked" else args[option] for option in rule.OPTIONS}
    )
    try:
        prepare(
            rule,
            args["raw"],
            args["out"],
            options,
            args.get("published", False),
            lambda line: print(line, file=sys.stderr),
        )
    except (DataError, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"{parser.prog}: error: {text}", file=sys.stderr)
        raise SystemExit(2) from None


def prepare(rule, raw: Path, out: Path, options: Options, published: bool, notice: Callable[[str], None]) -> None:
    """Write the prepared files of `raw` into `out`, and on request the published form beside them."""
    if not raw.is_dir():
        raise DataError(f"--raw {raw}: no such folder")
    files = rule.raw_files(raw)
    if not files:
        raise DataError(
            f"--raw {raw}: has no raw files of {rule.NAME}; see python -m data.{rule.NAME.replace('-', '_')} --help"
        )
    data = build(rule, files, options, notice)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # while its files change, the folder is not a prepared one
    write_prepared(data, out, key_of(rule, files, options))
    if published:
        rule.write_published(data, out)
    counts = ", ".join(f"{split} {len(getattr(data, split)):,}" for split in ("train", "valid", "test"))
    notice(f"{out}: {data.name} from {data.source}: {counts} rows")
