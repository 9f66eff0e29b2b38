"""`--data NAME` to a Dataset: prepared files first, then a download, then (movie only) the stand-in."""

import os
from collections.abc import Callable
from pathlib import Path

from data import tallrec
from data.download import NoNetwork, fetch_movielens_100k
from data.interactions import DataError, Dataset
from data.movie import read_movielens_100k
from demo.world import stand_in

STAND_IN_NOTICE = (
    "STAND-IN DATA: MovieLens-100K is not here and could not be downloaded, so the built-in simulated viewers "
    "stand in for it. Figures below say nothing about MovieLens. For the real data put u.data and u.item into {folder}"
)


def load_dataset(name: str, data_dir: str | None, real_data: bool, notice: Callable[[str], None]) -> Dataset:
    """The data set called `name` on the command line: movie, demo, or a folder.

    data_dir: where raw or prepared files are, or are downloaded to; default $LCFT_DATA, then
    data/cache. real_data: refuse the stand-in. notice is told in a line what was found or done.
    Raises DataError if there is nothing to load, or something is malformed.
    """
    if name == "demo":
        if real_data:
            raise DataError("--data demo: is simulated, which --real-data or a real --model refuses; choose --data movie")
        return stand_in()
    if name == "movie":
        return _load_movie(data_dir, real_data, notice)
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"--data {name}: neither movie nor demo, and no folder of that name")
    return tallrec.read_folder(folder, folder.name)


def _load_movie(data_dir: str | None, real_data: bool, notice: Callable[[str], None]) -> Dataset:
    root = Path(data_dir or os.environ.get("LCFT_DATA") or Path(__file__).parent / "cache")
    if data_dir is not None and not root.is_dir():
        raise DataError(f"--data-dir {root}: no such folder")
    for folder in (root, root / "ml-100k"):
        if (folder / "u.data").exists():
            return read_movielens_100k(folder)
    for folder in (root, root / "movie"):
        if (folder / "train.json").exists():
            return tallrec.read_folder(folder, "movie")
    folder = root / "ml-100k"
    notice(f"MovieLens-100K is not in {root}; downloading it from GroupLens (research use only, see README)")
    try:
        fetch_movielens_100k(folder)
    except NoNetwork as error:
        if real_data or data_dir is not None:
            raise DataError(f"no MovieLens-100K in {root}, and no download ({error}); put u.data and u.item there") from None
        notice(STAND_IN_NOTICE.format(folder=folder))
        return stand_in()
    return read_movielens_100k(folder)
