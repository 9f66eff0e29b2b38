"""Data files that are damaged or made to do harm: refused in one line, and nothing is run, waited for or written.

Most of these were found by bench/fuzz.py.
"""

import gzip
import json
import os
import zipfile

import numpy as np
import pytest

import data.download as download
import files
from data import cache as prepare
from data.interactions import Dataset, Interaction, Item
from data.pairs import encode_pairs
from data.sources import amazon_book, book, collm, custom, ml_1m, movie, own_files, tallrec
from data.sources.bad_lines import BadLines
from data.user_files import read_users
from errors import CheckpointError, DataError
from model.tokenizer import load_tokenizer
from model.weights import read_json


def refused(error, call, *args):
    """The message, which must be one line that a terminal can show."""
    with pytest.raises(error) as refusal:
        call(*args)
    message = str(refusal.value)
    assert message.isprintable() and len(message) < 1500
    return message


# ---- irregular files and files that expand ------------------------------------------------------


def test_a_fifo_a_device_and_a_folder_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, what in (("fifo", "no plain file"), ("zero", "no plain file"), ("", "a folder")):
        for read in (files.read_whole, read_users, tallrec.read_split, lambda path: files.read_gzip(path, 9)):
            assert what in refused(DataError, read, tmp_path / name)
    for name in ("fifo", "zero"):
        assert "missing" in refused(CheckpointError, read_json, tmp_path / name)


@pytest.mark.parametrize(
    "rule, names",
    [
        (movie, ("u.data", "u.item")),
        (ml_1m, ("ratings.dat", "movies.dat")),
        (custom, custom.FILES),
        (book, ("Books.csv", "Ratings.csv")),
    ],
)
def test_a_fifo_is_not_taken_for_raw_data(rule, names, tmp_path):
    for name in names:
        os.mkfifo(tmp_path / name)
    assert rule.raw_files(tmp_path) == []


def test_a_link_to_a_plain_file_is_followed(tmp_path):
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "config.json").symlink_to("blob")
    assert files.read_whole(tmp_path / "config.json") == b"{}" and read_json(tmp_path / "config.json") == {}


def test_a_file_of_gigabytes_is_refused_without_being_read(tmp_path):
    path = tmp_path / "u.item"
    path.write_bytes(b"")
    os.truncate(path, 3 * 2**30)  # sparse: it occupies no space
    assert "has 3,221,225,472 bytes" in refused(DataError, files.read_whole, path)
    assert "not valid JSON" in refused(CheckpointError, read_json, path)
    (tmp_path / "tokenizer.model").symlink_to(path)
    assert "more than 67,108,864 bytes" in refused(CheckpointError, load_tokenizer, tmp_path, None)


def test_gzip_that_expands_beyond_its_limit_is_stopped(tmp_path, monkeypatch):
    path = tmp_path / "ratings.dat.gz"
    path.write_bytes(gzip.compress(b"0" * 3_000_000))
    assert "more than 1,000,000 bytes when unpacked" in refused(DataError, files.read_gzip, path, 1_000_000)
    monkeypatch.setattr(files, "LONGEST_LINE", 1_000_000)
    assert "line 1: has more than 1,000,000 bytes" in refused(DataError, amazon_book.read_year, path)


@pytest.mark.parametrize(
    "read", [amazon_book.read_year, lambda path: files.read_gzip(path, 10**6), lambda path: collm._read_split(path, {})]
)
def test_gzip_whose_blocks_are_damaged_is_refused(tmp_path, read):
    path = tmp_path / "x.csv.gz"
    content = bytearray(gzip.compress(os.urandom(2000)))
    content[10] = 0xFF  # the header of the first block: an unknown block type
    path.write_bytes(content)
    refused(DataError, read, path)


def test_control_characters_in_a_header_are_shown_escaped(tmp_path):
    for name, read in (
        ("items.csv", lambda path: own_files.read_items(path, BadLines(False), print)),
        ("Books.csv", lambda path: book.read_books(path, print)),
    ):
        (tmp_path / name).write_bytes(b"item\x00,ti\x1btle\n1,2\n")
        assert "\\x00" in refused(DataError, read, tmp_path / name)


# ---- data ---------------------------------------------------------------------------------------

UNPAIRED = "\ud800"  # a surrogate without its other half: not text


def test_an_unpaired_surrogate_in_a_title_is_refused(tmp_path):
    history = f'User Preference: "A{UNPAIRED}"\nUser Unpreference: \n'
    row = {
        "instruction": "x",
        "input": history + 'Whether the user will like the target movie "B"?',
        "output": "Yes.",
    }
    (tmp_path / "train.json").write_text(json.dumps([row]))
    assert "row 0: " in refused(DataError, tallrec.read_split, tmp_path / "train.json")
    (tmp_path / "meta.json").write_text(json.dumps({"asin": "a", "title": UNPAIRED}) + "\n")
    assert "line 1: " in refused(DataError, amazon_book.read_titles, tmp_path / "meta.json", {"a"})


@pytest.mark.parametrize("stars", ["NaN", "1e999", "1" + "0" * 400])
def test_stars_that_are_not_a_number_are_refused(tmp_path, stars):
    (tmp_path / "x.json").write_text(
        f'{{"unixReviewTime": 1490000000, "reviewerID": "u", "asin": "a", "overall": {stars}}}\n'
    )
    assert "line 1: expected a review" in refused(DataError, amazon_book.read_year, tmp_path / "x.json")


@pytest.mark.parametrize(
    "change",
    [
        {"user": np.array([9])},
        {"item": np.array([-1])},
        {"stars": np.array([1.0, 2.0])},
        {"users": np.array([1])},
        {"time": np.array([[1]])},
    ],
)
def test_a_saved_pass_with_inconsistent_arrays_is_refused(tmp_path, change):
    whole = {
        "user": np.array([0]),
        "item": np.array([0]),
        "stars": np.array([1.0]),
        "time": np.array([1]),
        "users": np.array(["u"]),
        "items": np.array(["i"]),
    }
    np.savez(tmp_path / "whole.npz", **whole)
    assert amazon_book._load_pass(tmp_path / "whole.npz")["items"] == ["i"]
    np.savez(tmp_path / "pass.npz", **whole | change)
    assert "delete it and run again" in refused(DataError, amazon_book._load_pass, tmp_path / "pass.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"wording": "x"},
        {"wording": -1e308},
        {"noun": None},
        {"noun": "a\nb"},
        {"source": UNPAIRED},
        {"selection": []},
        {"selection": [9**9]},
        {"name": 3},
        {"rows": {"test": []}},
        {"items": [["a", None, None]]},
        {"items": [["a", "A", 3]]},
    ],
    ids=str,
)
def test_a_prepared_folder_with_impossible_content_is_refused(tmp_path, change):
    change = dict(change)
    rows, items = change.pop("rows", {}), change.pop("items", [["a", "A", None]])
    lines = {
        "items.jsonl": items,
        "rows.jsonl": [
            r for split in ("train", "valid", "test") for r in rows.get(split, [[split, 1, [], "", "a", 1, 5]])
        ],
    }
    manifest = {
        "format": 1,
        "name": "x",
        "source": "x",
        "noun": "film",
        "wording": "tallrec",
        "selection": None,
        "sha256": {},
        **change,
    }
    for name, records in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in records))
        manifest["sha256"][name] = prepare.fingerprint(tmp_path / name)
    (tmp_path / "prepared.json").write_text(json.dumps(manifest))
    refused(DataError, prepare.read_prepared, tmp_path)
    if change:
        (tmp_path / "prepared.json").write_text(
            json.dumps(manifest | {"name": "x", "source": "x", "noun": "film", "wording": "tallrec", "selection": None})
        )
        assert len(prepare.read_prepared(tmp_path).test) == 1


def test_only_the_beginning_of_a_very_long_title_is_shown(tmp_path):
    class Letters:
        eos_id, longest_row = 0, None

        def encode(self, text):
            return list(text.encode())

        def encode_all(self, texts):
            return [self.encode(text) for text in texts]

    row = Interaction("u", (), "t", True)
    data = Dataset("x", "x", "film", {"t": Item("T" * 200_000)}, [row], [row], [row])
    assert "target 'TTT" in refused(DataError, encode_pairs, [row], data, Letters(), "tallrec", 512)
    (tmp_path / "users.csv").write_text("user,liked,disliked,target\n" + ",".join(["u", *["y" * 100_000] * 3]) + "\n")
    (bad,) = read_users(tmp_path / "users.csv").bad
    assert bad.problems and all(line.isprintable() and len(line) < 500 for line in bad.problems)


# ---- downloads ----------------------------------------------------------------------------------


def archive_of(folder, members):
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members:
            file.writestr(member, content)
    return folder / "x.zip"


def test_an_archive_member_that_expands_beyond_the_limit_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_MEMBER", 1_000_000)
    source = download.Archive("Invented", "https://invented", "", {"a/README": "README", "a/u.data": "u.data"})
    path = archive_of(tmp_path, [("a/README", b"none"), ("a/u.data", b"0" * 1_000_001)])
    assert "a/u.data has more than 1,000,000 bytes" in refused(
        DataError, download._unpack, source, path, tmp_path / "out"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    download._unpack(
        source, archive_of(tmp_path, [("a/README", b"none"), ("a/u.data", b"0" * 1_000_000)]), tmp_path / "out"
    )
    assert (tmp_path / "out" / "u.data").stat().st_size == 1_000_000


def test_archive_members_outside_the_folder_and_links_write_nowhere_else(tmp_path):
    link = zipfile.ZipInfo("a/u.data")
    link.external_attr = 0o120777 << 16  # a symbolic link, as Info-ZIP stores it
    source = download.Archive("Invented", "https://invented", "", {"a/README": "README", "a/u.data": "u.data"})
    (tmp_path / "in").mkdir()
    path = archive_of(
        tmp_path / "in", [("../../escaped", b"x"), ("/absolute", b"x"), ("a/README", b"none"), (link, b"/etc/hostname")]
    )
    download._unpack(source, path, tmp_path / "in" / "out")
    assert (tmp_path / "in" / "out" / "u.data").read_bytes() == b"/etc/hostname" and not (
        tmp_path / "in" / "out" / "u.data"
    ).is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README", "in", "out", "u.data", "x.zip"]
