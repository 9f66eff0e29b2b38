"""`--data NAME` to a Dataset: prepared or raw files first, then a download, then (movie only) the stand-in data."""

from collections.abc import Callable, Mapping
from pathlib import Path

from data.cache import MANIFEST, cache_folder, prepared, prepared_with, read_prepared, refuse_changed
from data.download import NoNetwork, fetch
from data.interactions import SPLITS, Dataset
from data.leaks import leaks
from data.sources import amazon_book, book, custom, ml_1m, movie, tallrec
from data.sources.base import Source
from data.sources.own_files import LAYOUTS
from data.sources.stand_in import stand_in
from errors import DataError, quoted
from files import missing_advice

SOURCES = {module.SOURCE.name: module.SOURCE for module in (movie, book, ml_1m, amazon_book, custom)}
OWN_DATA = custom.SOURCE  # named by its folder instead
NAMES = tuple(name for name in SOURCES if name != OWN_DATA.name)  # what --data takes, beside demo and a folder
TALLREC_FILES = tuple(f"{split}.json" for split in SPLITS)
LISTED = 6  # files of a folder in a message
EXAMPLE = "--data demo/games --like-threshold 4 --noun game --shots all"  # works in the repository's folder

STAND_IN_NOTICE = (
    "STAND-IN DATA: {title} is not here and could not be downloaded, so the built-in simulated viewers "
    "stand in for it. Figures below say nothing about MovieLens. For the real data put {files} into {folder}"
)


def default_options() -> dict:
    """The default of every option of every source, by name."""
    return {option.name: option.default for source in SOURCES.values() for option in source.options}


def load_dataset(
    name: str, data_dir: str | None, real_data: bool, notice: Callable[[str], None], options: Mapping | None = None
) -> Dataset:
    """The data set called `name` on the command line: one of NAMES, demo, or a folder.

    data_dir: where raw or prepared files are, or are downloaded to; default $LCFT_DATA, then
    data/cache. real_data: refuse the stand-in data. notice: gets a line about what was downloaded or is wrong
    with the data. options: values by name, see default_options. Raises DataError if there is nothing to load, or
    something is malformed.
    """
    options = options or {}
    if data_dir is None and name in (*NAMES, "demo") and is_own_folder(name):
        notice(
            f"--data {name}: the built-in data set, not the folder {name} here; for the folder write --data ./{name}"
        )
    if name == "demo":
        if real_data:
            raise DataError(
                "--data demo: is simulated, which --real-data or a real --model refuses; choose --data movie"
            )
        return stand_in()
    if name not in NAMES:
        return _load_folder(name, notice, options)
    source, root = SOURCES[name], Path(data_dir) if data_dir is not None else cache_folder()
    if data_dir is not None and not root.is_dir():
        raise DataError(f"--data-dir {root}: no such folder{missing_advice(root, is_data=True)}")
    for folder in _places(source, root):
        if data := _load_from(source, folder, notice, options):
            return data
    if source.archive is None:
        raise DataError(f"--data {name}: not in {root}. " + source.by_hand.format(folder=root))
    if not _download(source, root, real_data or data_dir is not None, notice):
        return source.stand_in()
    return prepared(source, source.raw_files(root / source.folders[0]), options, notice)


def settled_options(name: str, data_dir: str | None) -> tuple[str, dict] | None:
    """(what is read, {option: its value there}) of a data set that needs no option any more; None if options count.

    That is a prepared folder, or one with TALLRec's JSON, in which nothing is left to decide. Arguments as in
    load_dataset.
    """
    if name == "demo":
        return None
    own = name not in NAMES
    places = [Path(name)] if own else _places(SOURCES[name], Path(data_dir) if data_dir else cache_folder())
    for folder in places:
        if (folder / MANIFEST).is_file():
            return f"{folder}, which was prepared", prepared_with(folder)
        if (OWN_DATA if own else SOURCES[name]).raw_files(folder):
            return None
        if (folder / TALLREC_FILES[0]).is_file():
            return f"TALLRec's files in {folder}", {}
    return None


def as_flag(name: str, value: object) -> str:
    """An option as it is typed."""
    flag = "--" + name.replace("_", "-")
    value = f"{value:g}" if isinstance(value, float) else value
    return f"no {flag}" if value is None or value is False else flag if value is True else f"{flag} {value}"


def _places(source: Source, root: Path) -> list[Path]:
    """The folders in which files of a data set are looked for, one after the other."""
    return [root, *(root / sub for sub in source.folders)]


def _read_prepared(source: Source, folder: Path, notice: Callable[[str], None], options: Mapping) -> Dataset:
    """A prepared folder of this source. Other options than its own are not used: a notice says which it has."""
    data = read_prepared(folder, notice)
    refuse_changed(folder, source.raw_files(folder))
    wanted = {name: value for one in SOURCES.values() for name, value in one.options_from(options).items()}
    if other := [as_flag(name, value) for name, value in prepared_with(folder).items() if wanted.get(name) != value]:
        notice(f"{folder}: was prepared with {', '.join(other)}")
    return data


def _load_from(source: Source, folder: Path, notice: Callable[[str], None], options: Mapping) -> Dataset | None:
    """What the folder has of this data set: prepared, else raw, else in its published form, else None."""
    if (folder / MANIFEST).is_file():
        data = _read_prepared(source, folder, notice, options)
        if data.name != source.name:
            raise DataError(f"{folder}: holds the prepared data set {data.name}, not {source.name}")
        return data
    if files := source.raw_files(folder):
        return prepared(source, files, options, notice)
    return source.read_published(folder) if source.read_published else None


def _download(source: Source, root: Path, real_data: bool, notice: Callable[[str], None]) -> bool:
    """Download the source's archive; False if there is no network and stand-in data may be used instead."""
    title, folder = source.archive.title, root / source.folders[0]
    notice(f"{title} is not in {root}; downloading it from GroupLens (research use only, see docs/data.md)")
    try:
        fetch(source.archive, folder)
    except NoNetwork as error:
        if real_data or not source.stand_in:
            raise DataError(
                f"no {title} in {root}, and no download ({error}); put {source.raw_names} there, "
                f"from a machine with a network; or try now how it works on ratings of your own: {EXAMPLE}"
            ) from None
        notice(STAND_IN_NOTICE.format(title=title, files=source.raw_names, folder=folder))
        return False
    return True


def is_own_folder(name: str) -> bool:
    """Whether there is a folder of this name that has data in one of the forms of own data."""
    names = (MANIFEST, *TALLREC_FILES, *(f"{file}{gz}" for file, _ in LAYOUTS for gz in ("", ".gz")))
    return any((Path(name) / file).is_file() for file in names)


def _load_folder(name: str, notice: Callable[[str], None], options: Mapping) -> Dataset:
    """A folder of the user's: prepared by this project, with two files of own data, or in TALLRec's JSON form."""
    folder = Path(name)
    if not folder.is_dir():
        kind = "it is a file; give the folder that it is in" if folder.exists() else "no folder of that name is here"
        advice = missing_advice(name, is_data=True)
        raise DataError(f"--data {name}: neither {', '.join(NAMES)} nor demo, and {kind}{advice}")
    published = [file for file in TALLREC_FILES if (folder / file).is_file()]
    if (folder / MANIFEST).is_file():
        data = _read_prepared(OWN_DATA, folder, notice, options)
    elif files := OWN_DATA.raw_files(folder):
        if published:
            raise DataError(f"{folder}: has {files[0].name} and {published[0]}, two forms of data; keep one of them")
        data = OWN_DATA.build(files, notice, **OWN_DATA.options_from(options))
    elif published:
        data = tallrec.read_folder(folder, folder.name)
    else:
        raise DataError(_no_form(name, folder))
    for line in leaks(data):
        notice(f"LEAK: {line}")
    return data


def _no_form(name: str, folder: Path) -> str:
    """The message about a folder that has none of the three forms: what is there, and what is read."""
    there = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(quoted(entry, 40)[1:-1] for entry in there[:LISTED]) + f" and {len(there) - LISTED} more" * (
        len(there) > LISTED
    )
    message = f"--data {name}: the folder has {shown or 'no files'}. "
    inside = [entry for entry in there if entry.endswith("/") and is_own_folder(str(folder / entry))]
    if inside:
        return message + f"The data are in a folder within it: write --data {folder / inside[0]}"
    for source in SOURCES.values():
        if source is not OWN_DATA and source.raw_files(folder):
            return message + f"These are the files of {source.name}: write --data {source.name} --data-dir {name}"
    own = " or ".join(f"{first} and {second}" for first, second in LAYOUTS)
    return message + (
        f"Three forms are read: (1) {own}, gzipped or not; (2) TALLRec's {', '.join(TALLREC_FILES)}; "
        f"(3) a folder that prepare.py wrote, with {MANIFEST}. See docs/own-data.md"
    )
