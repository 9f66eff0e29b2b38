"""Amazon-Book: streamed building against nested loops over invented reviews, and resuming."""

import gzip
import json
import random
from collections import Counter
from datetime import datetime, timezone

import pytest

from data.sources import amazon_book
from errors import DataError


def at(*day):
    return int(datetime(*day, tzinfo=timezone.utc).timestamp())


def invented(users=30, items=30, seed=3):
    """(reviews, metadata), dense enough for more than 20 reviews each, with every trap of the real files."""
    rng = random.Random(seed)
    reviews = []
    for user in range(users):
        for item in rng.sample(range(items), rng.randint(15, items)):
            time = rng.choice(
                [
                    at(2017, 1, 1),
                    at(2017, 12, 1) - 1,
                    at(2017, 12, 1),
                    rng.randint(at(2017, 2, 1), at(2017, 12, 31)),
                    at(2017, 12, 31),
                ]
            )
            if rng.random() < 0.05:
                time = rng.choice([at(2017, 1, 1) - 1, at(2018, 1, 1), at(2009, 5, 1)])
            reviews.append(
                {
                    "overall": float(rng.randint(1, 5)),
                    "reviewerID": f"A{user:03d}",
                    "asin": f"{(item * 7) % items:010d}",
                    "reviewText": 'says "unixReviewTime": 5, and more',
                    "unixReviewTime": time,
                    "vote": "3",
                }
            )
    rng.shuffle(reviews)
    meta = [{"asin": f"{item:010d}", "title": f"Invented {item}"} for item in range(items)]
    meta[3]["title"] = "var aPageStart = (new Date()).getTime();"  # a broken entry
    meta[4]["title"] = ""
    del meta[6]  # an item without metadata
    meta += [
        {"asin": f"{7:010d}", "title": "The last entry counts"},
        {"asin": "unknown", "title": "x"},
        {"asin": f"{8:010d}"},
    ]
    return reviews, meta


def write(folder, reviews, meta, packed=True):
    for name, rows in (("Books_5.json", reviews), ("meta_Books.json", meta)):
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return amazon_book.raw_files(folder)


def brute_force(reviews, meta, liked_from):
    """{split: [(user, item, title, label, time, history titles)]}, by nested loops."""
    titles = {}
    for entry in meta:
        if "getTime" not in entry.get("title", ""):
            titles[entry["asin"]] = entry.get("title", "")
    rows = [
        r
        for r in reviews
        if r["asin"] in titles and datetime.fromtimestamp(r["unixReviewTime"], timezone.utc).year == 2017
    ]
    rows = [r for asin in sorted({r["asin"] for r in rows}) for r in rows if r["asin"] == asin]
    of_user, of_item = Counter(r["reviewerID"] for r in rows), Counter(r["asin"] for r in rows)
    rows = [r for r in rows if of_user[r["reviewerID"]] > 20 and of_item[r["asin"]] > 20]
    uid, iid = {}, {}
    for r in rows:
        uid.setdefault(r["reviewerID"], len(uid) + 1)
        iid.setdefault(r["asin"], len(iid) + 1)
    december = [r for r in rows if datetime.fromtimestamp(r["unixReviewTime"], timezone.utc).month == 12]
    train = [r for r in rows if datetime.fromtimestamp(r["unixReviewTime"], timezone.utc).month != 12]
    december = sorted(december, key=lambda r: r["unixReviewTime"])
    half = len(december) // 2
    together = (
        [("train", r) for r in train] + [("valid", r) for r in december[:half]] + [("test", r) for r in december[half:]]
    )
    together = sorted(together, key=lambda entry: (uid[entry[1]["reviewerID"]], entry[1]["unixReviewTime"]))
    splits = {"train": [], "valid": [], "test": []}
    for i, (split, r) in enumerate(together):
        before = [
            titles[b["asin"]]
            for _, b in together[:i]
            if b["reviewerID"] == r["reviewerID"] and b["overall"] >= liked_from
        ]
        splits[split].append(
            (
                uid[r["reviewerID"]],
                iid[r["asin"]],
                titles[r["asin"]],
                r["overall"] >= liked_from,
                r["unixReviewTime"],
                before,
            )
        )
    return splits


def shown(data):
    title = {item: entry.title for item, entry in data.catalogue.items()}
    return {
        split: [
            (
                row.user,
                row.target,
                title[row.target],
                row.label,
                row.timestamp,
                [title[item] for item, _ in row.history],
            )
            for row in getattr(data, split)
        ]
        for split in ("train", "valid", "test")
    }


@pytest.mark.parametrize("liked_from", [5, 4])
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_every_row_is_that_of_nested_loops(tmp_path, liked_from, packed):
    reviews, meta = invented()
    data = amazon_book.build(write(tmp_path, reviews, meta, packed), print, liked_from)
    expected = brute_force(reviews, meta, liked_from)
    assert min(map(len, expected.values())) > 20 and len(expected["train"]) > 100
    assert shown(data) == expected
    assert (data.noun, data.wording) == ("book", "collm")
    assert ("liked from 4" in data.source) == (liked_from == 4)


def test_counts_are_taken_once_before_anything_is_dropped(tmp_path):
    reviews, meta = invented()
    data = amazon_book.build(write(tmp_path, reviews, meta), print)
    left = Counter(row.user for row in (*data.train, *data.valid, *data.test))
    assert min(left.values()) <= 20  # with rare items gone, a user may keep fewer than the limit


BAD = {
    "not json": ("{", "expected a review as JSON"),
    "a list": ("[1]", "expected a review as JSON"),
    "no user": ('{"overall": 5.0, "asin": "x", "unixReviewTime": 1490000000}', "expected a review as JSON"),
    "no time": ('{"overall": 5.0, "asin": "x", "reviewerID": "A"}', "expected a review as JSON"),
    "text as stars": (
        '{"overall": "many", "asin": "x", "reviewerID": "A", "unixReviewTime": 1490000000}',
        "expected a review as JSON",
    ),
    "time as text": (
        '{"overall": 5.0, "asin": "x", "reviewerID": "A", "unixReviewTime": "1490000000"}',
        "expected a review as JSON",
    ),
}


@pytest.mark.parametrize("line, message", BAD.values(), ids=BAD)
def test_a_malformed_review_is_named_with_its_line(tmp_path, line, message):
    files = write(tmp_path, *invented(), packed=False)
    lines = files[0].read_text().splitlines()
    files[0].write_text("\n".join([*lines[:4], line, *lines[4:]]) + "\n")
    with pytest.raises(DataError, match=f"Books_5.json line 5: {message}"):
        amazon_book.build(files, print)


REVIEW = '{"overall": 5.0, "asin": "x", "reviewerID": "A", "unixReviewTime": %s}'


@pytest.mark.parametrize("time", ["1490000000000", "20170320", "149000000000000000000000"])
def test_a_time_of_another_form_is_refused_and_not_taken_for_another_year(tmp_path, time):
    files = write(tmp_path, *invented(), packed=False)
    lines = files[0].read_text().splitlines()
    files[0].write_text("\n".join([*lines[:4], REVIEW % time, *lines[4:]]) + "\n")
    with pytest.raises(DataError, match="Books_5.json"):
        amazon_book.build(files, print)
    files[0].write_text("\n".join([REVIEW % time] * 3))
    with pytest.raises(DataError, match=f"Books_5.json line 1: unixReviewTime {time} is .*; is it the file of another"):
        amazon_book.build(files, print)


def test_early_times_are_unix_seconds_too(tmp_path):
    files = write(tmp_path, *invented(), packed=False)
    expected = amazon_book.build(files, print)
    files[0].write_text("".join((REVIEW % time) + "\n" for time in ("0", "5", "-9")) + files[0].read_text())
    assert amazon_book.build(files, print).train == expected.train


@pytest.mark.parametrize("line", ["{", '{"title": "x"}', '{"asin": "x", "title": ["x"]}'])
def test_malformed_metadata_are_named_with_their_line(tmp_path, line):
    files = write(tmp_path, *invented(), packed=False)
    files[1].write_text(line + "\n" + files[1].read_text())
    with pytest.raises(DataError, match="meta_Books.json line 1: expected an item as JSON"):
        amazon_book.build(files, print)


def test_a_cut_gzip_is_refused_by_name(tmp_path):
    files = write(tmp_path, *invented())
    files[0].write_bytes(files[0].read_bytes()[:-20])
    with pytest.raises(DataError, match="Books_5.json.gz: not a whole gzip file"):
        amazon_book.build(files, print)


def test_too_few_reviews_are_refused(tmp_path):
    with pytest.raises(DataError, match="is it the whole file"):
        amazon_book.build(write(tmp_path, invented()[0][:50], invented()[1]), print)


def test_an_interrupted_preparation_resumes_after_the_reviews(tmp_path, monkeypatch):
    files, work, notices = write(tmp_path, *invented()), tmp_path / "work", []
    whole = amazon_book.build(files, notices.append, work=work)
    assert list(work.iterdir()) == [] and notices == []

    read_titles = amazon_book.read_titles
    monkeypatch.setattr(amazon_book, "read_titles", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        amazon_book.build(files, notices.append, work=work)
    assert len(list(work.iterdir())) == 1
    monkeypatch.setattr(amazon_book, "read_titles", read_titles)
    monkeypatch.setattr(amazon_book, "read_year", None)  # must not be called again
    assert amazon_book.build(files, notices.append, work=work) == whole
    assert list(work.iterdir()) == [] and "resumes after the reviews" in notices[0]


def test_a_changed_file_is_not_resumed_from_the_old_one(tmp_path, monkeypatch):
    reviews, meta = invented()
    files, work = write(tmp_path, reviews, meta), tmp_path / "work"
    amazon_book._save_pass(amazon_book._saved_pass(work, files[0]), amazon_book.read_year(files[0]), print)
    files = write(tmp_path, reviews[::-1], meta)
    assert shown(amazon_book.build(files, print, work=work)) == brute_force(reviews[::-1], meta, 5)


def test_a_damaged_save_is_refused_by_name(tmp_path):
    files, work = write(tmp_path, *invented()), tmp_path / "work"
    saved = amazon_book._saved_pass(work, files[0])
    work.mkdir()
    saved.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="delete it and run again"):
        amazon_book.build(files, print, work=work)


def test_if_nothing_can_be_saved_a_notice_says_so_and_the_data_are_the_same(tmp_path):
    reviews, meta = invented()
    files, notices = write(tmp_path, reviews, meta), []
    (tmp_path / "file").write_text("in the way")
    assert shown(amazon_book.build(files, notices.append, work=tmp_path / "file" / "work")) == brute_force(
        reviews, meta, 5
    )
    assert len(notices) == 1 and "cannot be written" in notices[0]
