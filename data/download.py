"""Fetch MovieLens-100K from GroupLens, and keep it only if it is the published one."""

import hashlib
import http.client
import io
import os
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from data.interactions import DataError
from data.movie import PUBLISHED_MD5

MOVIELENS_100K_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
TIMEOUT = 10  # seconds without an answer
LARGEST_ARCHIVE = 20 * 2**20  # bytes; the published one has 4.9 MB
LARGEST_MEMBER = 10 * 2**20  # bytes


class NoNetwork(OSError):
    """The server could not be reached."""


def fetch_movielens_100k(folder: Path, url: str = MOVIELENS_100K_URL) -> None:
    """Put u.data, u.item and README into `folder`, all or none.

    Raises NoNetwork if the server cannot be reached or stops answering, DataError if what it
    sends is not the published archive.
    """
    try:
        archive = _download(url)
    except (OSError, http.client.HTTPException) as error:
        raise NoNetwork(f"{url}: {getattr(error, 'reason', error)}") from None
    members = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            for name in (*PUBLISHED_MD5, "README"):
                # Read by exact name and bounded: nothing of the archive's own paths reaches the disk.
                members[name] = file.open(f"ml-100k/{name}").read(LARGEST_MEMBER)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{url}: not the MovieLens-100K archive ({str(error)[:60]}); fetch it by hand") from None
    for name, md5 in PUBLISHED_MD5.items():
        if hashlib.md5(members[name]).hexdigest() != md5:
            raise DataError(f"{url}: its {name} is not the published file (md5 differs); fetch it by hand")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        for name, content in members.items():
            (Path(aside) / name).write_bytes(content)
        folder.mkdir(exist_ok=True)
        for name in reversed(members):  # u.data last: where it is, the rest is there too
            os.replace(Path(aside) / name, folder / name)


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        total = response.length or 0  # bytes; 0 if the server does not say
        received = io.BytesIO()
        with tqdm(total=total or None, unit="B", unit_scale=True, desc="MovieLens-100K", disable=None) as bar:
            while block := response.read(2**16):
                bar.update(received.write(block))
                if received.tell() > LARGEST_ARCHIVE:
                    raise DataError(f"{url}: sends more than {LARGEST_ARCHIVE:,} bytes; not the MovieLens-100K archive")
        if total and received.tell() != total:
            raise ConnectionError(f"connection cut after {received.tell():,} of {total:,} bytes")
    return received.getvalue()
