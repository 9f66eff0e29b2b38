"""Seconds from raw files to batches: `python -m bench.data_time --movie DIR --ml-1m DIR --model DIR`.

Reads the raw files, makes both prompts of every row of all three splits, encodes them, and collates
them into batches of 8 pairs; the last figure is the same with the prepared files of the first run. The
time to import modules is in none of the figures. If only a part of MovieLens-1M's ratings is there, it is
repeated under other user numbers until it has as many lines as the whole file, and the table says so.
Prints a Markdown table.
"""

import argparse
import gzip
import os
import tempfile
import time
from pathlib import Path

from data.load import load_dataset
from data.pairs import collate, encode_pairs
from data.sources import ml_1m
from run.base import base_tokenizer

PAIRS = 8
LINES = 1_000_209  # of the whole ratings.dat


def seconds(name: str, folder: str, tokenizer) -> tuple[float, float, int, int]:
    """(seconds until the rows are loaded, seconds until all are batches, rows, tokens)."""
    started = time.perf_counter()
    data = load_dataset(name, folder, True, lambda line: None)
    loaded = time.perf_counter() - started
    rows = tokens = 0
    for split in (data.train, data.valid, data.test):
        pairs, _ = encode_pairs(split, data, tokenizer, "tallrec", 512)
        pairs.sort(key=lambda pair: pair.length)
        for start in range(0, len(pairs), PAIRS):
            batch = collate(pairs[start : start + PAIRS])
            rows, tokens = rows + batch.pairs, tokens + int(batch.lengths.sum())
    return loaded, time.perf_counter() - started, rows, tokens


def full_size(folder: Path, scratch: Path) -> tuple[str, Path]:
    """(label, folder): the folder itself, or a copy of its part of ratings.dat repeated to full size."""
    if not (files := ml_1m.raw_files(folder)):
        return "ml-1m, CoLLM's rows", folder
    lines = (gzip.open(files[0]) if files[0].suffix == ".gz" else files[0].open("rb")).read().splitlines()
    if len(lines) >= LINES:
        return "ml-1m", folder
    (scratch / "movies.dat").write_bytes(files[1].read_bytes())
    with (scratch / "ratings.dat").open("wb") as file:
        for i in range(LINES):
            repeat, line = divmod(i, len(lines))
            user, _, rest = lines[line].partition(b"::")
            file.write(b"%d::%s\n" % (int(user) + 10_000 * repeat, rest))
    return f"ml-1m, part of {len(lines):,} ratings repeated to {LINES:,}", scratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--movie", metavar="DIR", help="folder with u.data and u.item")
    parser.add_argument("--ml-1m", metavar="DIR", help="folder with ratings.dat and movies.dat, or CoLLM's rows as CSV")
    parser.add_argument("--model", default="demo", help="whose tokenizer is used: a folder with a tokenizer, or demo")
    args = parser.parse_args()
    tokenizer = base_tokenizer(args.model)
    print("| data | raw to rows, s | raw to batches, s | the same from the cache, s | pairs | tokens |")
    print("|---|---|---|---|---|---|")
    for name, folder in (("movie", args.movie), ("ml-1m", args.ml_1m)):
        if folder is None:
            continue
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as scratch:
            os.environ["LCFT_DATA"] = cache
            label, folder = full_size(Path(folder), Path(scratch)) if name == "ml-1m" else (name, Path(folder))
            loaded, first, rows, tokens = seconds(name, str(folder.resolve()), tokenizer)
            second = seconds(name, str(folder.resolve()), tokenizer)[1]
        print(f"| {label} | {loaded:.2f} | {first:.2f} | {second:.2f} | {rows:,} | {tokens:,} |", flush=True)


if __name__ == "__main__":
    main()
