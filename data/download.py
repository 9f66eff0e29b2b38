"""Fetch an archive of raw data, going on where an earlier attempt broke off, and keep it only if it is the published one."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from errors import DataError

TIMEOUT = 10  # seconds without an answer
ATTEMPTS = 3  # connections; each goes on where the last was cut
LARGEST_ARCHIVE = 20 * 2**20  # bytes; MovieLens-1M has 5.9 MB
LARGEST_MEMBER = 40 * 2**20  # bytes; ratings.dat has 24.6 MB


class NoNetwork(OSError):
    """The server could not be reached, or does not deliver."""


@dataclass(frozen=True)
class Source:
    """md5: of the archive, as its publisher states it; members: {path in the archive: file name}, that
    one last whose presence means that all are there.
    """

    title: str
    url: str
    md5: str
    members: dict[str, str]


# The checksums are GroupLens' own, from the .md5 files beside the archives.
MOVIELENS_100K = Source(
    "MovieLens-100K",
    "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    "0e33842e24a9c977be4e0107933c0723",
    {"ml-100k/README": "README", "ml-100k/u.item": "u.item", "ml-100k/u.data": "u.data"},
)
MOVIELENS_1M = Source(
    "MovieLens-1M",
    "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    "c4d9eecfca2ab87c1945afe126590906",
    {"ml-1m/README": "README", "ml-1m/movies.dat": "movies.dat", "ml-1m/ratings.dat": "ratings.dat"},
)
BY_HAND = {  # where there is no lawful source that can be checked
    "book": (
        "Book-Crossing is not downloaded: its site is gone and states no licence. (1) Get BX-Books.csv and BX-Book-Ratings.csv "
        "(or Books.csv and Ratings.csv) from a copy that you may use, or TALLRec's data/book/train.json, valid.json and test.json; "
        "(2) put them into {folder}/book; (3) run this command again"
    ),
    "amazon-book": (
        "The Amazon reviews are not downloaded: some 10 GB, without a published checksum. (1) Get Books_5.json.gz and meta_Books.json.gz "
        "from https://nijianmo.github.io/amazon/index.html (2018; 5-core reviews and metadata of Books); "
        "(2) put them into {folder}/amazon-book; (3) run this command again"
    ),
}


def fetch(source: Source, folder: Path) -> None:
    """Put the members of the archive into `folder`, all or none.

    What was received is kept beside the folder until it is whole, and the next call goes on from there.
    Of two processes the second waits for the first. Raises NoNetwork if the server cannot be reached
    or stops delivering, DataError if what it sends is not the published archive.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    last = folder / list(source.members.values())[-1]
    with _locked(folder.parent / f".{folder.name}.zip.part") as part:
        if last.exists():  # another process was first
            part.unlink()
            return
        resumed = _receive(source, part)
        if _md5(part) != source.md5 and resumed:
            part.write_bytes(b"")  # begun with another archive; once more from the start
            _receive(source, part)
        try:
            if (found := _md5(part)) != source.md5:
                raise DataError(
                    f"{source.url}: not the {source.title} archive (md5 {found}, published {source.md5}); fetch it by hand"
                )
            _unpack(source, part, folder)
        finally:
            part.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """The file, made if need be, for this process alone; removed if it is left empty."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held it before may have removed it: then this lock is on a file that nobody else will find.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue
            try:
                yield path
            finally:
                if path.exists() and path.stat().st_size == 0:
                    path.unlink()
            return


def _receive(source: Source, part: Path) -> bool:
    """Append to `part` until the server has sent all; whether it went on from an earlier call."""
    resumed = part.stat().st_size > 0
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size
        try:
            return _receive_once(source, part) and resumed
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # nothing is left to send
                return resumed
            received = part.stat().st_size
            if received == before or attempt == ATTEMPTS:
                so_far = f"; {received:,} bytes are kept, and the next attempt goes on from there" if received else ""
                raise NoNetwork(f"{source.url}: {getattr(error, 'reason', error)}{so_far}") from None
    raise AssertionError("unreachable")


def _receive_once(source: Source, part: Path) -> bool:
    """One connection. Returns whether what was there before was kept; raises OSError if it is cut."""
    start = part.stat().st_size
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if start and response.status != 206:  # a server that knows no ranges sends all of it
            start = 0
        with (
            part.open("r+b") as file,
            tqdm(
                total=start + response.length if response.length else None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=source.title,
                disable=None,
            ) as bar,
        ):
            file.truncate(start)
            file.seek(start)
            expected = response.length  # bytes; None if the server does not say
            received = 0
            while block := response.read(2**16):
                received += len(block)
                if start + received > LARGEST_ARCHIVE:
                    file.truncate(0)
                    raise DataError(
                        f"{source.url}: sends more than {LARGEST_ARCHIVE:,} bytes; not the {source.title} archive"
                    )
                bar.update(file.write(block))
            if expected is not None and received != expected:
                raise ConnectionError(f"connection cut after {start + received:,} of {start + expected:,} bytes")
    return start > 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "md5").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.md5(file.read()).hexdigest()
        )


def _unpack(source: Source, archive: Path, folder: Path) -> None:
    """Read by exact name and bounded: nothing of the archive's own paths reaches the disk."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        try:
            with zipfile.ZipFile(archive) as file:
                for member, name in source.members.items():
                    content = file.open(member).read(LARGEST_MEMBER + 1)  # whatever size the archive says it has
                    if len(content) > LARGEST_MEMBER:
                        raise ValueError(f"{member} has more than {LARGEST_MEMBER:,} bytes")
                    (Path(aside) / name).write_bytes(content)
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{source.url}: its archive cannot be unpacked ({str(error)[:60]}); fetch it by hand"
            ) from None
        folder.mkdir(exist_ok=True)
        for name in source.members.values():
            os.replace(Path(aside) / name, folder / name)
