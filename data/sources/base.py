"""The contract of a data source: what every other file of this folder declares at its end as SOURCE.

A new source needs its own file with a SOURCE, a line in data.load.SOURCES, a test and a place in docs/data.md.
The flags of its options, its part of `prepare.py` and its cache follow from the declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.download import Archive
from data.interactions import Dataset


@dataclass(frozen=True)
class Option:
    """Something that the user decides about one data set; every verb has a flag --NAME for it.

    type: str, int, float or bool; choices: the values that are allowed, as they are typed; () for any
    alias: the name of another source's option that gives this value, too, if the user sets it
    """

    name: str
    help: str
    default: str | int | float | bool | None = None
    type: type = str
    choices: tuple[str, ...] = ()
    alias: str | None = None


@dataclass(frozen=True)
class Source:
    """One data set and how it is made.

    raw_files(folder): the raw files if the folder has them, else []
    build(files, notice, **options): the Dataset of these files; raises DataError naming file and line
    version: of the rules in build; a change makes every prepared copy out of date
    resumable: build also takes `work`, a folder in which an interrupted preparation leaves what it has read
    read_published(folder), write_published(data, folder): the form in which the paper's authors publish the splits
    stand_in(): data to use where the archive cannot be downloaded and nobody asked for real data
    """

    name: str
    summary: str  # one line for --help
    raw_names: str  # the raw files in words, for --help and messages
    folders: tuple[str, ...]  # sub-folders of --data-dir in which files are looked for; the first takes a download
    raw_files: Callable[[Path], list[Path]]
    build: Callable[..., Dataset]
    version: int = 1
    options: tuple[Option, ...] = ()
    resumable: bool = False
    archive: Archive | None = None  # None: not downloaded
    by_hand: str | None = None  # how to get the raw files where there is no archive; {folder} is --data-dir
    read_published: Callable[[Path], Dataset | None] | None = None
    write_published: Callable[[Dataset, Path], None] | None = None
    stand_in: Callable[[], Dataset] | None = None

    def options_from(self, values: Mapping) -> dict:
        """The value of each of this source's options, by name; the default where `values` has none."""
        found = {option.name: values.get(option.name, option.default) for option in self.options}
        aliases = {option.name: values.get(option.alias) for option in self.options if option.alias}
        return found | {name: value for name, value in aliases.items() if value is not None}
