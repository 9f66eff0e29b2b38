"""Which damage bench/fuzz.py does to which file, and what it puts in the place of a file.

Every mutation is a function (random.Random, content) -> content. Some draw bytes at random; others keep the
structure of a format and change what it contains.
"""

import gzip
import os
import random
import zlib
from pathlib import Path

from bench.fuzz_binary import gguf_file, pickled, protobuf, safetensors_file
from bench.fuzz_text import json_document, json_lines, table
from bench.fuzz_values import Mutation, bytes_at_random


def gzipped(inner: Mutation) -> Mutation:
    """Damages the content of a gzip file, or the gzip file itself."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        kind = rng.randrange(12)
        if kind == 0:  # 1.5 GB without a line break, compressed to 1.5 MB
            return gzip.compress(b"0" * 10_000_000, 9) * 150
        if len(content) > 500_000:  # the file has been replaced by that already
            return bytes_at_random(rng, content)
        try:
            if kind < 10:
                return gzip.compress(inner(rng, gzip.decompress(content)), 1)
            return bytes_at_random(rng, content)
        except (OSError, EOFError, ValueError, zlib.error):
            return bytes_at_random(rng, content)

    mutate.__name__ = f"gzipped {inner.__name__}"
    return mutate


def tokenizer_model(rng: random.Random, content: bytes) -> bytes:
    """Damages a SentencePiece model, or a tiktoken vocabulary, which is lines of two words."""
    if not content.isascii():
        return protobuf(rng, content)
    return table(rng, content.replace(b" ", b"\t")).replace(b"\t", b" ")


FORMS: dict[str, Mutation] = {
    ".safetensors": safetensors_file,
    ".json": json_document,
    ".jsonl": json_lines,
    ".model": tokenizer_model,
    ".gguf": gguf_file,
    ".bin": pickled,
    ".pth": pickled,
    ".npz": bytes_at_random,
    ".csv": table,
    ".data": table,
    ".item": table,
    ".dat": table,
    ".txt": table,
    ".csv.gz": gzipped(table),
    ".dat.gz": gzipped(table),
    ".json.gz": gzipped(json_lines),
}


def form_of(path: Path) -> Mutation:
    """The mutation for the format that the name of the file stands for."""
    suffixes = path.suffixes
    return FORMS.get("".join(suffixes[-2:]), FORMS.get(suffixes[-1] if suffixes else "", bytes_at_random))


# ---- instead of a file --------------------------------------------------------------------------


REPLACEMENTS = (
    "nothing",
    "folder",
    "FIFO",
    "loop",
    "dangling link",
    "/dev/zero",
    "link to itself elsewhere",
    "link to another file",
    "3 GiB of nothing",
)


def in_its_place(rng: random.Random, path: Path) -> str:
    """Puts something other than a plain file under this name; returns what."""
    kind = rng.choice(REPLACEMENTS)
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling link":
        path.symlink_to("../nowhere")
    elif kind == "/dev/zero":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself elsewhere":  # as in the cache of Hugging Face
        (path.parent / f"blob.{path.name}").write_bytes(content)
        path.symlink_to(f"blob.{path.name}")
    elif kind == "link to another file":
        others = [other for other in path.parent.iterdir() if other.is_file()]
        path.symlink_to(rng.choice(others).name if others else os.environ["FUZZ_SENTINEL"] + "/file")
    elif kind == "3 GiB of nothing":
        path.write_bytes(content)
        # Files of .json.gz are streamed, in time proportional to their size; all others are read whole.
        os.truncate(path, 2**24 if path.name.endswith(".json.gz") else 3 * 2**30)
    return kind
