"""Prepared data sets: a folder that `prepare.py` writes, and the same as a cache behind `--data NAME`.

A prepared folder holds everything that a Dataset does, in two JSON Lines files and a manifest that is
written last:
  items.jsonl     [item, title, author] per line
  rows.jsonl      [split, user, [history items], "10..." (liked or not), target, label, timestamp] per line
  prepared.json   name of the data source ("rule"), its version and options, fingerprints of the raw files;
                  source, noun, wording, ...; checksums; what was said of the raw files, which is said again

In the cache such a folder is named after what it was made from. Other raw files, another version or
other options give another name, so nothing outdated is ever read. A folder is made under a temporary name
and then renamed: if two processes prepare the same data set, one wins and both find a complete folder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from data.interactions import SPLITS, Dataset, Interaction, Item
from data.prompts import WORDINGS
from data.sources.base import Source
from data.titles import UNPRINTABLE
from errors import DataError
from files import missing_advice, new_folder, read_whole, refuse_unencodable, write_file, write_json

FORMAT = 1
MANIFEST = "prepared.json"
FULLY_HASHED = 2**28  # bytes; of a larger file size, time and both ends are hashed

# ---- the cache ----------------------------------------------------------------------------------


def cache_folder() -> Path:
    """$LCFT_DATA, else data/cache beside the code."""
    return Path(os.environ.get("LCFT_DATA") or Path(__file__).parent / "cache")


def prepared(source: Source, files: list[Path], options: Mapping, notice: Callable[[str], None]) -> Dataset:
    """The data set of `source` from its raw files; taken from the cache if it is there, else built and kept there.

    options: values by name; those of other sources are ignored. Raises DataError as source.build does. If the
    cache cannot be written, a notice says so, and the data set is built each time.
    """
    key = key_of(source, files, options)
    name = f"{source.name}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}"
    folder = cache_folder() / "prepared" / name
    if (folder / MANIFEST).is_file():
        try:
            return read_prepared(folder, notice)
        except DataError as error:
            notice(f"{error}; preparing it again")
            shutil.rmtree(folder, ignore_errors=True)
    said: list[str] = []
    data = build(source, files, options, keeping(said, files, notice))
    try:
        with new_folder(folder) as temporary:
            write_prepared(data, temporary, key, said)
    except OSError as error:
        if not (folder / MANIFEST).is_file():  # if it is there now, another process was first
            notice(f"{folder}: cannot be written ({error.strerror}), so the data set is prepared again each time")
    return data


def prepare(
    source: Source, raw: Path, out: Path, options: Mapping, published: bool, notice: Callable[[str], None]
) -> None:
    """Write the prepared files of the raw files in `raw` into `out`; published: also the published form.

    Raises DataError if there are no raw files, and as source.build does.
    """
    if not raw.is_dir():
        raise DataError(f"--raw {raw}: no such folder{missing_advice(raw, is_data=True)}")
    files = source.raw_files(raw)
    if not files:
        raise DataError(f"--raw {raw}: has no raw files of {source.name}; put {source.raw_names} there")
    said: list[str] = []
    data = build(source, files, options, keeping(said, files, notice))
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # while its files change, the folder is not a prepared one
    write_prepared(data, out, key_of(source, files, options), said)
    if published:
        source.write_published(data, out)
    counts = ", ".join(f"{split} {len(getattr(data, split)):,}" for split in SPLITS)
    notice(f"{out}: {data.name} from {data.source}: {counts} rows")


def keeping(said: list[str], files: list[Path], notice: Callable[[str], None]) -> Callable[[str], None]:
    """A notice that also goes into `said` if it is about the data: what is prepared is read without the raw files.

    There a raw file has its name without the folder in which it was, which the reader may not have.
    """

    def tell(line: str) -> None:
        notice(line)
        if str(unfinished()) not in line:  # that is about this preparation alone
            for path in files:
                line = line.replace(str(path), path.name)
            said.append(line)

    return tell


def unfinished() -> Path:
    """Where a preparation that takes long leaves what it has read."""
    return cache_folder() / "unfinished"


def build(source: Source, files: list[Path], options: Mapping, notice: Callable[[str], None]) -> Dataset:
    """Build the data set; a source that takes long gets a folder in which to leave what it has read."""
    work = {"work": unfinished()} if source.resumable else {}
    return source.build(files, notice, **source.options_from(options), **work)


def key_of(source: Source, files: list[Path], options: Mapping) -> dict:
    """Everything that decides what the prepared files contain."""
    return {
        "format": FORMAT,
        "rule": source.name,
        "version": source.version,
        "options": source.options_from(options),
        "raw": {path.name: fingerprint(path) for path in files},
    }


def fingerprint(path: Path) -> str:
    """sha256 of the content; of a file larger than FULLY_HASHED, of its size, time of change, first and last MiB."""
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


def write_prepared(data: Dataset, folder: Path, key: dict, said: Sequence[str] = ()) -> None:
    """Write items.jsonl, rows.jsonl and, last, prepared.json; each is renamed into place when it is complete.

    said: the notices of the preparation.
    """
    selection = None
    if data.selection is not None:
        numbers = {id(row): number for number, row in enumerate(data.valid)}
        selection = [numbers[id(row)] for row in data.selection]
    items = ([item, entry.title, entry.author] for item, entry in data.catalogue.items())
    rows = (_as_list(split, row) for split in SPLITS for row in getattr(data, split))
    manifest = key | {
        "name": data.name,
        "source": data.source,
        "noun": data.noun,
        "wording": data.wording,
        "rows": {split: len(getattr(data, split)) for split in SPLITS},
        "selection": selection,
        "notices": list(said),
        "sha256": {
            "items.jsonl": _write_lines(folder / "items.jsonl", items),
            "rows.jsonl": _write_lines(folder / "rows.jsonl", rows),
        },
    }
    write_json(folder / MANIFEST, manifest)


def _as_list(split: str, row: Interaction) -> list:
    """A line of rows.jsonl."""
    items = [item for item, _ in row.history]
    liked = "".join("01"[liked] for _, liked in row.history)
    return [split, row.user, items, liked, row.target, int(row.label), row.timestamp]


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


def read_prepared(folder: Path, notice: Callable[[str], None] | None = None) -> Dataset:
    """The Dataset in a prepared folder. notice: gets what was said when it was prepared.

    Raises DataError naming the file that is damaged.
    """
    try:
        manifest = json.loads(read_whole(folder / MANIFEST))
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{folder / MANIFEST}: written by another version of this project; prepare the raw files again"
            )
        catalogue = {item: Item(title, author) for item, title, author in _read_lines(folder / "items.jsonl", manifest)}
        splits = _read_rows(folder / "rows.jsonl", manifest, catalogue)
        chosen = manifest["selection"]
        selection = None if chosen is None else [splits["valid"][i] for i in chosen]
        texts = [manifest[name] for name in ("name", "source", "noun")]
        data = Dataset(*texts, catalogue, **splits, wording=manifest["wording"], selection=selection)
        _refuse_unusable(data, folder)
        for line in _notices(manifest):
            if notice:
                notice(f"when {folder.name} was prepared: {line}")
        return data
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, FileNotFoundError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{folder}: the prepared files are damaged ({type(error).__name__}); delete the folder and prepare it again"
        ) from None


def prepared_with(folder: Path) -> dict:
    """{option: its value} with which a folder was prepared. Raises DataError if its manifest is damaged."""
    try:
        options = json.loads(read_whole(folder / MANIFEST))["options"]
        if not all(f"{name}{value}".isprintable() for name, value in options.items()):
            raise ValueError("an option cannot be shown")
        return options
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{folder / MANIFEST}: is damaged; delete the folder and prepare it again") from None


def refuse_changed(folder: Path, files: list[Path]) -> None:
    """Raises DataError if raw files lie in a prepared folder and are not those that it was prepared from.

    Of a file that is too large to be hashed whole nothing is said: its time changes with every copy.
    """
    small = {path.name: fingerprint(path) for path in files if path.stat().st_size <= FULLY_HASHED}
    raw = json.loads(read_whole(folder / MANIFEST)).get("raw")
    if changed := [name for name in small if isinstance(raw, dict) and raw.get(name) != small[name]]:
        raise DataError(
            f"{folder}: {' and '.join(changed)} changed after the folder was prepared, and {MANIFEST} would be read; "
            f"prepare it again, or delete {MANIFEST}"
        )


def _notices(manifest: dict) -> list[str]:
    """What was said of the raw files; a folder of an earlier version does not have it. Raises ValueError."""
    lines = manifest.get("notices", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) and line.isprintable() for line in lines):
        raise ValueError("a notice is no text of one line")
    return lines


def _read_rows(path: Path, manifest: dict, catalogue: dict[int | str, Item]) -> dict[str, list[Interaction]]:
    """The rows of every split. Raises KeyError, TypeError or ValueError for what write_prepared does not write."""
    splits: dict[str, list[Interaction]] = {split: [] for split in SPLITS}
    entries = {(item, liked): (item, liked) for item in catalogue for liked in (False, True)}  # shared by all histories
    for split, user, history, liked, target, label, timestamp in _read_lines(path, manifest):
        entries_of_row = tuple(entries[item, mark == "1"] for item, mark in zip(history, liked))
        splits[split].append(Interaction(user, entries_of_row, target, label == 1, timestamp))
    return splits


def _refuse_unusable(data: Dataset, folder: Path) -> None:
    """Raises an error that read_prepared reports as damage for anything that a Dataset or a text cannot hold."""
    rows = [*data.train, *data.valid, *data.test]
    ids = {row.user for row in rows} | set(data.catalogue)
    if not {type(name) for name in ids} <= {int, str, type(None)}:
        raise TypeError("an id is neither a number nor a text")
    if any(isinstance(name, str) and UNPRINTABLE.search(name) for name in ids):
        raise ValueError("an id has a control character")
    if not {type(row.timestamp) for row in rows} <= {int, type(None)}:
        raise TypeError("a timestamp is no whole number")
    if not (data.train and data.valid and data.test and data.selection_rows()):
        raise ValueError("a split is empty")
    if not all(row.target in data.catalogue for row in rows) or data.wording not in WORDINGS:
        raise KeyError("a target or the wording is unknown")
    items = data.catalogue.values()
    shown = [*(item.title for item in items), *(item.author for item in items if item.author is not None)]
    if not all(isinstance(text, str) for text in shown):
        raise TypeError("a title or an author is no text")
    if not (data.name + data.source + data.noun).isprintable():
        raise ValueError("a name cannot be printed")
    for text in (data.name, data.source, data.noun, *shown, *(name for name in ids if isinstance(name, str))):
        refuse_unencodable(text, str(folder))


def _read_lines(path: Path, manifest: dict) -> Iterator[list]:
    """The JSON lists of a file, one a line. Raises DataError if the checksum in the manifest is another."""
    content = read_whole(path)
    if hashlib.sha256(content).hexdigest() != manifest["sha256"][path.name]:
        raise DataError(f"{path}: is not as it was written (checksum differs); delete the folder and prepare it again")
    return map(json.loads, content.splitlines())
