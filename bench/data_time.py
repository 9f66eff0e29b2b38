"""Seconds from raw files to batches: `python -m bench.data_time --movie DIR --ml-1m DIR --model DIR`.

Reads the raw files, makes both prompts of every row of all three splits, encodes them, and collates
them all into batches of 8 pairs. The first figure is without any cache, the second with the prepared
files of the first; reading the modules is not in it. Where only a part of MovieLens-1M's ratings is
there, its rows are a part too, and the last column says how many. Prints a Markdown table.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from data.load import load_dataset
from data.pairs import collate, encode_pairs
from runtime import setup

PAIRS = 8


def seconds(name: str, folder: str, tokenizer) -> tuple[float, float, int, int]:
    """(until the rows are there, until all are batches, rows, tokens)."""
    started = time.perf_counter()
    data = load_dataset(name, folder, True, lambda line: None)
    loaded = time.perf_counter() - started
    rows = tokens = 0
    for split in (data.train, data.valid, data.test):
        pairs, _ = encode_pairs(split, data, tokenizer, "paper", 512)
        pairs.sort(key=lambda pair: pair.length)
        for start in range(0, len(pairs), PAIRS):
            batch = collate(pairs[start : start + PAIRS])
            rows, tokens = rows + batch.pairs, tokens + int(batch.lengths.sum())
    return loaded, time.perf_counter() - started, rows, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--movie", metavar="DIR", help="folder with u.data and u.item")
    parser.add_argument("--ml-1m", metavar="DIR", help="folder with ratings.dat and movies.dat, or CoLLM's rows as CSV")
    parser.add_argument("--model", default="demo", help="whose tokenizer is used: a folder with tokenizer.model, or demo")
    args = parser.parse_args()
    tokenizer = setup.load_tokenizer(args.model)
    print("| data | raw to rows, s | raw to batches, s | the same from the cache, s | pairs | tokens |\n|---|---|---|---|---|---|")
    for name, folder in (("movie", args.movie), ("ml-1m", args.ml_1m)):
        if folder is None:
            continue
        with tempfile.TemporaryDirectory() as cache:
            os.environ["LCFT_DATA"] = cache
            loaded, first, rows, tokens = seconds(name, str(Path(folder).resolve()), tokenizer)
            second = seconds(name, str(Path(folder).resolve()), tokenizer)[1]
        print(f"| {name} | {loaded:.2f} | {first:.2f} | {second:.2f} | {rows:,} | {tokens:,} |", flush=True)


if __name__ == "__main__":
    main()
