"""How fast Amazon-Book is prepared and how much memory that takes, on a generated file.

    python -m bench.amazon_book                      4 million reviews, all of 2017: as many as the real file has
    python -m bench.amazon_book --reviews 2000000 --in-year 0.15

The real file has 27 million reviews, 3.93 million of them of 2017, by 880,000 users. Only those are held
in memory, so a file of 4 million reviews, all of that year, takes as much memory as the real one. Text and
numbers are made up; users, items and rows kept are about as many as in the real file. Prints one JSON line.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
USERS, ITEMS = 880_000, 350_000
YEAR = 365 * 86_400
START_2017 = 1_483_228_800
REVIEW = (
    b'{"overall": %.1f, "verified": true, "reviewTime": "06 20, 2017", "reviewerID": "A%013d", "asin": "%010d", '
    b'"style": {"Format:": " Kindle Edition"}, "reviewerName": "Somebody", "reviewText": "%s", "summary": "Good", '
    b'"unixReviewTime": %d}\n'
)
METADATA = (
    b'{"category": ["Books"], "title": "Invented Book %d: A Novel", "also_buy": [%s], "brand": "Nobody", '
    b'"asin": "%010d"}\n'
)
LOAD = """
import resource, sys
from pathlib import Path
from data.cache import read_prepared
data = read_prepared(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def generate(folder: Path, reviews: int, in_year: float, text: int, seed: int = 0) -> None:
    """Write Books_5.json.gz and meta_Books.json.gz; few users and items have most reviews, as in the real file."""
    rng = np.random.default_rng(seed)
    filler = "It kept me reading and I would tell a friend about it. " * (text // 50 + 1)
    with gzip.open(folder / "Books_5.json.gz", "wb", compresslevel=1) as file:
        for start in range(0, reviews, 100_000):
            n = min(100_000, reviews - start)
            heavy = rng.random(n) < 0.5
            users = np.where(heavy, (24_000 * rng.random(n) ** 1.3).astype(int), rng.integers(24_000, USERS, n))
            items = (ITEMS * rng.random(n) ** 2.6).astype(int)
            years = np.where(rng.random(n) < in_year, 0, rng.integers(-12, 0, n))
            times = START_2017 + years * YEAR + (YEAR - 1) * rng.random(n)
            stars = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], n, p=[0.03, 0.03, 0.08, 0.22, 0.64])
            lengths = rng.exponential(text, n).astype(int)
            file.writelines(
                REVIEW % (star, user, item, filler[:length].encode(), int(when))
                for star, user, item, length, when in zip(stars, users, items, lengths, times)
            )
    with gzip.open(folder / "meta_Books.json.gz", "wb", compresslevel=1) as file:
        also_buy = b", ".join([b'"0001713353"'] * 20)
        file.writelines(METADATA % (i, also_buy, i) for i in rng.permutation(ITEMS))


def measure(raw: Path, out: Path, cache: Path) -> dict:
    """Prepare `raw` into `out` and read that again, each in a process of its own: seconds, bytes, rows."""
    started = time.perf_counter()
    command = [sys.executable, "prepare.py", "amazon-book", "--raw", str(raw), "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"LCFT_DATA": str(cache)})
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    loading = time.perf_counter()
    loaded = subprocess.run([sys.executable, "-c", LOAD, str(out)], check=True, cwd=ROOT, capture_output=True)
    return {
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
        "rows": json.loads((out / "prepared.json").read_text())["rows"],
        "prepared_bytes": sum(path.stat().st_size for path in out.iterdir()),
        "load_s": round(time.perf_counter() - loading, 1),
        "load_peak_bytes": int(loaded.stdout),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=4_000_000)
    parser.add_argument("--in-year", type=float, default=1.0, help="share of the reviews that are of 2017")
    parser.add_argument("--text", type=int, default=300, help="characters of a review, on average")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        raw.mkdir()
        generate(raw, args.reviews, args.in_year, args.text)
        size = (raw / "Books_5.json.gz").stat().st_size
        figures = measure(raw, out, Path(folder))
        speed = round(args.reviews / figures["seconds"])
        heading = {"reviews": args.reviews, "compressed_bytes": size, "reviews_per_s": speed}
        print(json.dumps(heading | figures))


if __name__ == "__main__":
    main()
