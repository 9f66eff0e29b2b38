"""`--data NAME` to a Dataset: prepared or raw files first, then a download, then (movie only) the stand-in."""

from collections.abc import Callable
from pathlib import Path

from data.cache import MANIFEST, Options, cache_folder, prepared, read_prepared
from data.download import BY_HAND, NoNetwork, fetch
from data.interactions import Dataset
from data.leaks import leaks
from data.sources import amazon_book, book, custom, ml_1m, movie, tallrec
from demo.world import stand_in
from errors import DataError

RULES = {rule.NAME: rule for rule in (movie, book, ml_1m, amazon_book, custom)}
NAMES = tuple(name for name in RULES if name != custom.NAME)

STAND_IN_NOTICE = (
    "STAND-IN DATA: MovieLens-100K is not here and could not be downloaded, so the built-in simulated viewers "
    "stand in for it. Figures below say nothing about MovieLens. For the real data put u.data and u.item into {folder}"
)


def load_dataset(
    name: str, data_dir: str | None, real_data: bool, notice: Callable[[str], None], options: Options = Options()
) -> Dataset:
    """The data set called `name` on the command line: one of NAMES, demo, or a folder.

    data_dir: where raw or prepared files are, or are downloaded to; default $LCFT_DATA, then
    data/cache. real_data: refuse the stand-in. notice is told in a line what was found or done.
    Raises DataError if there is nothing to load, or something is malformed.
    """
    if name == "demo":
        if real_data:
            raise DataError(
                "--data demo: is simulated, which --real-data or a real --model refuses; choose --data movie"
            )
        return stand_in()
    if name not in NAMES:
        return _load_folder(name, notice, options)
    rule, root = RULES[name], Path(data_dir) if data_dir is not None else cache_folder()
    if data_dir is not None and not root.is_dir():
        raise DataError(f"--data-dir {root}: no such folder")
    for folder in (root, *(root / sub for sub in rule.FOLDERS)):
        if data := _found(rule, folder, notice, options):
            return data
    return _download(rule, root, real_data or data_dir is not None, notice, options)


def _found(rule, folder: Path, notice: Callable[[str], None], options: Options) -> Dataset | None:
    """What the folder has of this data set: prepared, else raw, else in its published form."""
    if (folder / MANIFEST).is_file():
        data = read_prepared(folder)
        if data.name != rule.NAME:
            raise DataError(f"{folder}: holds the prepared data set {data.name}, not {rule.NAME}")
        return data
    if files := rule.raw_files(folder):
        return prepared(rule, files, options, notice)
    return rule.read_published(folder)


def _download(rule, root: Path, real_data: bool, notice: Callable[[str], None], options: Options) -> Dataset:
    if rule.ARCHIVE is None:
        raise DataError(f"--data {rule.NAME}: not in {root}. " + BY_HAND[rule.NAME].format(folder=root))
    folder = root / rule.FOLDERS[0]
    notice(f"{rule.ARCHIVE.title} is not in {root}; downloading it from GroupLens (research use only, see README)")
    names = " and ".join(sorted(set(rule.ARCHIVE.members.values()) - {"README"}, reverse=True))
    try:
        fetch(rule.ARCHIVE, folder)
    except NoNetwork as error:
        if rule is not movie or real_data:
            raise DataError(
                f"no {rule.ARCHIVE.title} in {root}, and no download ({error}); put {names} there"
            ) from None
        notice(STAND_IN_NOTICE.format(folder=folder))
        return stand_in()
    return prepared(rule, rule.raw_files(folder), options, notice)


def _load_folder(name: str, notice: Callable[[str], None], options: Options) -> Dataset:
    """A folder of the user's: prepared by this project, with two CSV files, or in TALLRec's JSON form."""
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"--data {name}: neither {', '.join(NAMES)} nor demo, and no folder of that name")
    if (folder / MANIFEST).is_file():
        data = read_prepared(folder)
    elif files := custom.raw_files(folder):
        data = custom.build(files, notice, **options.of(custom))
    else:
        data = tallrec.read_folder(folder, folder.name)
    for line in leaks(data):
        notice(f"LEAK: {line}")
    return data
