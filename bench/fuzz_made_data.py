"""Small valid data files for bench/fuzz.py, in every form that the program reads.

Nothing here is real data: titles and users are invented.
"""

import csv
import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

from data.cache import write_prepared
from data.interactions import Dataset, Interaction, Item
from data.sources import amazon_book, collm, tallrec
from errors import notice

ASKED = (("like", "same"), ("dislike", "opposite"), ("not like", "opposite"), ("enjoy", "same"))


def invented(users: int = 12, rows: int = 6) -> Dataset:
    rng = random.Random(0)
    catalogue = {i: Item(f"Invented {i} ({1900 + i})", f"Author {i}" if i % 3 == 0 else None) for i in range(1, 20)}
    splits: dict[str, list] = {"train": [], "valid": [], "test": []}
    for user in range(1, users + 1):
        for i in range(rows):
            history = tuple((item, rng.random() < 0.6) for item in rng.sample(range(1, 20), 4))
            splits[("train", "train", "train", "train", "valid", "test")[i]].append(
                Interaction(user, history, rng.randint(1, 19), rng.random() < 0.5, 10**9 + i)
            )
    return Dataset("movie", "invented", "movie", catalogue, **splits, selection=splits["valid"][:5])


def make_wordings(folder: Path) -> None:
    folder.mkdir()
    content = {
        "prompt": "Liked: {liked}. Does this reader {question} {target}?\nAnswer:\n",
        "answers": {"yes": "Yes.", "no": "No."},
        "positives": {"love": "paraphrase", "adore": "paraphrase"},
        "negatives": {"loathe": "antonym", "not love": "negated verb"},
        "held_out": {"not loathe": "double negation"},
    }
    (folder / "wordings.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def make_prepared(folder: Path) -> None:
    folder.mkdir()
    write_prepared(invented(), folder, {"format": 1, "rule": "movie", "version": 1, "options": {}, "raw": {}})


def make_tallrec(folder: Path) -> None:
    folder.mkdir()
    tallrec.write_folder(invented(), folder)


def make_answers(folder: Path) -> None:
    """A consistency.json of four questions, with probabilities, rules and a comment."""
    folder.mkdir()
    rng = random.Random(0)
    questions = [{"words": f"will {words}", "right": right} for words, right in ASKED]
    rows = [
        {"user": f"u{i % 4}", "item": i, "label": i % 2, "p_yes": [round(rng.random(), 3) for _ in ASKED]}
        for i in range(12)
    ]
    content = {"format": "consistency", "version": 1, "model": "invented", "comment": "made for the fuzzer"}
    content |= {"data": {"name": "invented", "split": "test"}, "questions": questions, "rows": rows}
    (folder / "consistency.json").write_text(json.dumps(content | {"rules": {"a rule": [i / 3 for i in range(12)]}}))


def make_collm(folder: Path) -> None:
    folder.mkdir()
    data = invented()
    liked = {
        split: [replace(row, history=tuple((item, True) for item, _ in row.history)) for row in getattr(data, split)]
        for split in ("train", "valid", "test")
    }
    collm.write_published(
        replace(data, catalogue={i: Item(item.title) for i, item in data.catalogue.items()}, selection=None, **liked),
        folder,
    )
    for split in ("train", "valid"):  # one stays gzipped
        (folder / f"{split}.csv").write_bytes(gzip.decompress((folder / f"{split}.csv.gz").read_bytes()))
        (folder / f"{split}.csv.gz").unlink()


def _write_csv(path: Path, rows: list, **dialect) -> None:
    with path.open("w", newline="", encoding=dialect.pop("encoding", "utf-8")) as file:
        csv.writer(file, **dialect).writerows(rows)


def make_custom(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(1)
    _write_csv(
        folder / "items.csv",
        [["item", "title", "author"], *([f"i{i}", f"Thing, no. {i}", "A. Hand" if i % 2 else ""] for i in range(9))],
    )
    days = [f"2024-03-{day:02d}" for day in range(1, 29)]
    rows = [[f"u{u}", f"i{i}", rng.randint(1, 5), rng.choice(days)] for u in range(6) for i in rng.sample(range(9), 6)]
    _write_csv(folder / "interactions.csv", [["user", "item", "rating", "timestamp"], *rows])


def make_book(folder: Path, semicolons: bool = True) -> None:
    folder.mkdir()
    rng = random.Random(2)
    dialect = {"delimiter": ";", "quoting": csv.QUOTE_ALL, "encoding": "latin-1"} if semicolons else {}
    names = ("BX-Books.csv", "BX-Book-Ratings.csv") if semicolons else ("Books.csv", "Ratings.csv")
    _write_csv(
        folder / names[0],
        [
            ["ISBN", "Book-Title", "Book-Author", "Year"],
            *([f"{i:010d}", f"B\u00fcch {i}", f"Author {i}", 1990] for i in range(12)),
        ],
        **dialect,
    )
    ratings = [[u, f"{i:010d}", rng.randint(0, 10)] for u in range(14) for i in rng.sample(range(12), 5)]
    _write_csv(folder / names[1], [["User-ID", "ISBN", "Book-Rating"], *ratings], **dialect)


def _ratings(rng: random.Random, each: int, times: range) -> list[tuple[int, int, int, int]]:
    """(user, item, rating, time) of eight users and thirty items."""
    return [(u, i, rng.randint(1, 5), rng.choice(times)) for u in range(1, 9) for i in rng.sample(range(1, 31), each)]


def make_movie(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(3)
    (folder / "u.item").write_text(
        "".join(f"{i}|Invent\u00e9 {i} (1990)|01-Jan-1990||\n" for i in range(1, 31)), encoding="iso-8859-1"
    )
    rows = _ratings(rng, 25, range(10**9, 10**9 + 1000))
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def make_ml_1m(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(4)
    (folder / "movies.dat").write_text(
        "".join(f"{i}::Invent\u00e9 {i} (1990)::Drama\n" for i in range(1, 31)), encoding="iso-8859-1"
    )
    rows = _ratings(rng, 15, range(991353600, 1044057600))
    content = "".join("::".join(map(str, row)) + "\n" for row in rows).encode()
    (folder / "ratings.dat.gz").write_bytes(gzip.compress(content))


def make_amazon(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(5)
    reviews = [
        {
            "overall": float(rng.randint(1, 5)),
            "reviewerID": f"U{u}",
            "asin": f"B{i:03d}",
            "reviewText": "good",
            "unixReviewTime": rng.randrange(1483228800, 1514764800),
        }
        for u in range(12)
        for i in rng.sample(range(12), 8)
    ]
    items = [{"asin": f"B{i:03d}", "title": f"Invented volume {i}"} for i in range(12)]
    for name, entries in (("Books_5.json.gz", reviews), ("meta_Books.json.gz", items)):
        (folder / name).write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in entries).encode(), 1))


def make_amazon_pass(folder: Path) -> None:
    make_amazon(folder)
    reviews = amazon_book.read_year(folder / "Books_5.json.gz")
    amazon_book._save_pass(folder / "pass.npz", reviews, notice)


def make_users(folder: Path) -> None:
    folder.mkdir()
    cells = [
        ["user", "liked", "disliked", "target"],
        *([f"u{i}", "Alien (1979)|Heat (1995)", "Emma (1996)", f'Film "{i}"|Other, {i}'] for i in range(5)),
    ]
    _write_csv(folder / "users.csv", cells)
