"""Prepared folders: they hold all of a data set, are made once, and nothing stale or damaged is read."""

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cli.model import RunDataFlags
from cli.train import TrainFlags
from data import cache as prepare
from data.cache import prepared, read_prepared, write_prepared
from data.interactions import Dataset, Interaction, Item
from data.load import NAMES, SOURCES, default_options, load_dataset
from data.sources import book, custom, movie
from errors import DataError
from tests.test_book import random_ratings
from tests.test_book import write as write_book
from tests.test_custom import as_csv, invented
from tests.test_custom import write as write_own

ROOT = Path(__file__).parent.parent
BOOK = book.SOURCE
CHOICES = "movie, book, ml-1m, amazon-book, custom, or show"
ROWS = [
    Interaction(7, ((1, True), ("two", False)), 3, True, 100),
    Interaction("anna", (), 1, False, None),
    Interaction("anna", ((3, True),) * 12, "two", True, 5),
]
DATA = Dataset(
    "invented",
    "made up",
    "tea",
    {1: Item('A "q", \u2028 x'), "two": Item("B", "Fay"), 3: Item("Nîmes")},
    ROWS[:1],
    ROWS,
    ROWS[1:],
    wording="collm",
    selection=[ROWS[2], ROWS[0]],
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return write_book(folder, rows=random_ratings(80))


# ---- a folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, Dataset(**vars(DATA) | {"selection": None})], ids=["selection", "none"])
def test_what_is_written_is_read_back_in_full(tmp_path, data):
    write_prepared(data, tmp_path, {"format": prepare.FORMAT})
    assert read_prepared(tmp_path) == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.jsonl", "prepared.json", "rows.jsonl"]


def test_what_was_said_of_the_raw_files_is_said_again_of_what_was_prepared_from_them(tmp_path, cache, raw):
    """From the cache, and from a folder that prepare.py wrote, wherever the raw files have gone."""
    first, second, third, folder_of_raw = [], [], [], raw[0].parent
    for said in (first, second):
        prepared(BOOK, raw, {}, said.append)
    about = [line.replace(f"{folder_of_raw}/", "") for line in first]
    assert len(about) >= 1 and any("ratings are 0" in line for line in about)
    (folder,) = cache.iterdir()
    assert second == [f"when {folder.name} was prepared: {line}" for line in about]
    prepare.prepare(BOOK, folder_of_raw, tmp_path / "out", default_options(), False, lambda line: None)
    folder_of_raw.rename(tmp_path / "gone")
    load_dataset(str(tmp_path / "out"), None, False, third.append)
    assert [line for line in third if "LEAK" not in line] == [f"when out was prepared: {line}" for line in about]
    assert str(tmp_path) not in (tmp_path / "out" / "prepared.json").read_text()


def test_a_prepared_folder_of_an_earlier_version_says_nothing_and_one_that_was_changed_is_refused(tmp_path):
    write_prepared(DATA, tmp_path, {"format": prepare.FORMAT}, ["u.item: read as UTF-8"])
    manifest = json.loads((tmp_path / "prepared.json").read_text())
    said = []
    (tmp_path / "prepared.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "notices"}))
    assert read_prepared(tmp_path, said.append) == DATA and said == []
    for notices in ("text", [3], ["two\nlines"], ["\x1b[2J"]):
        (tmp_path / "prepared.json").write_text(json.dumps(manifest | {"notices": notices}))
        with pytest.raises(DataError, match="the prepared files are damaged"):
            read_prepared(tmp_path)


@pytest.mark.parametrize("name", ["items.jsonl", "rows.jsonl"])
def test_a_changed_byte_is_noticed(tmp_path, name):
    write_prepared(DATA, tmp_path, {"format": prepare.FORMAT})
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: is not as it was written"):
        read_prepared(tmp_path)


@pytest.mark.parametrize(
    "change", [{"sha256": {}}, {"selection": [99]}, {"noun": None, "rows": 5, "sha256": None}, {"format": "x"}]
)
def test_a_damaged_manifest_is_refused_by_folder(tmp_path, change):
    write_prepared(DATA, tmp_path, {"format": prepare.FORMAT})
    path = tmp_path / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=str(tmp_path)):
        read_prepared(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', "[" * 100_000])
def test_what_is_no_manifest_is_refused_by_folder(tmp_path, content):
    (tmp_path / "prepared.json").write_text(content)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_prepared(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"noun": "x"},
        {"wording": "tallrec"},
        {"catalogue": DATA.catalogue | {"two": Item("B", "Another")}},
        {"test": ROWS[:2]},
    ],
    ids=lambda c: next(iter(c)),
)
def test_data_with_other_prompts_has_another_fingerprint(change):
    assert Dataset(**vars(DATA) | change).fingerprint() != DATA.fingerprint() == Dataset(**vars(DATA)).fingerprint()


# ---- the cache ----------------------------------------------------------------------------------


def test_the_second_time_the_raw_files_are_not_parsed(cache, raw):
    first = prepared(BOOK, raw, {}, print)
    assert prepared(replace(BOOK, build=None), raw, {}, print) == first  # build must not be called again
    assert len(list(cache.iterdir())) == 1


def test_changed_files_options_or_versions_are_prepared_again(cache, raw):
    first = prepared(BOOK, raw, {}, print)
    dropped = prepared(BOOK, raw, {"book_zeros": "drop"}, print)
    assert dropped != first and len(list(cache.iterdir())) == 2
    stat = raw[0].stat()
    raw[0].write_bytes(raw[0].read_bytes().replace(b'Plain"', b'Plane"'))  # as long as before
    os.utime(raw[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and as old
    changed = prepared(BOOK, raw, {}, print)
    assert changed.catalogue["1"].title == "Plane" and len(list(cache.iterdir())) == 3
    prepared(replace(BOOK, version=99), raw, {}, print)
    assert len(list(cache.iterdir())) == 4


def test_options_of_other_data_sets_change_nothing(cache, raw):
    prepared(BOOK, raw, {}, print)
    prepared(BOOK, raw, {"amazon_liked": 4, "noun": "x", "split_by": "user"}, print)
    assert len(list(cache.iterdir())) == 1


def test_of_a_large_file_size_time_and_both_ends_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "FULLY_HASHED", 2**20)
    path = tmp_path / "large"
    path.write_bytes(b"a" * (3 * 2**20))
    os.utime(path, (5, 5))
    first = prepare.fingerprint(path)
    assert first.startswith("ends-") and prepare.fingerprint(path) == first
    for place in (0, 3 * 2**20 - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"b")
        os.utime(path, (5, 5))
        assert prepare.fingerprint(path) != first
        first = prepare.fingerprint(path)
    os.utime(path, (6, 6))
    assert prepare.fingerprint(path) != first


def test_a_damaged_cache_is_made_again_with_a_notice(cache, raw):
    first, notices = prepared(BOOK, raw, {}, print), []
    (rows,) = cache.glob("*/rows.jsonl")
    rows.write_bytes(rows.read_bytes()[:-5])
    assert prepared(BOOK, raw, {}, notices.append) == first
    assert len(notices) == 3 and "is not as it was written" in notices[0] and "preparing it again" in notices[0]
    assert prepared(BOOK, raw, {}, notices.append) == first
    assert all(line.startswith("when book-") for line in notices[3:])


def test_without_a_writable_cache_the_data_are_built_with_a_notice(tmp_path, raw, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "file"))
    notices = []
    assert prepared(BOOK, raw, {}, notices.append).train
    assert "cannot be written" in notices[-1]


def test_a_failed_preparation_leaves_nothing(cache, raw):
    raw[1].write_text("nonsense")
    with pytest.raises(DataError):
        prepared(BOOK, raw, {}, print)
    assert not cache.exists()


def _prepare_in_process(raw, start, results):
    start.wait()
    results.put(prepared(BOOK, raw, {}, lambda line: None).fingerprint())


def test_processes_that_prepare_at_once_all_find_it_whole(cache, raw):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_prepare_in_process, args=(raw, start, results)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    fingerprints = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(fingerprints) == 1 and [process.exitcode for process in processes] == [0] * 6
    assert [len(list(folder.iterdir())) for folder in cache.iterdir()] == [3]  # one folder, and none aside


# ---- the command --------------------------------------------------------------------------------


def run(*argv):
    return subprocess.run([sys.executable, "prepare.py", *map(str, argv)], cwd=ROOT, capture_output=True, text=True)


def test_the_command_prepares_a_folder_that_data_takes(tmp_path, raw, cache):
    done = run("book", "--raw", raw[0].parent, "--out", tmp_path / "out", "--book-zeros", "drop", "--published")
    assert done.returncode == 0, done.stderr
    assert "zeros dropped" in done.stderr.splitlines()[-1]
    expected = book.build(raw, lambda line: None, "drop")
    for name, data_dir in (("book", tmp_path / "out"), (str(tmp_path / "out"), None)):
        data = load_dataset(name, data_dir and str(data_dir), True, lambda line: None)
        assert (data.train, data.valid, data.test, data.source) == (
            expected.train,
            expected.valid,
            expected.test,
            expected.source,
        )
    assert not cache.exists()  # what --out holds is not kept a second time


@pytest.mark.parametrize(
    "argv, lines",
    [
        (["book", "--raw", "absent", "--out", "x"], [f"--raw absent: no such folder; it was looked for in {ROOT}"]),
        (
            ["book", "--raw", "docs", "--out", "x"],
            ["--raw docs: has no raw files of book; put BX-Books.csv and BX-Book-Ratings.csv there"],
        ),
        (
            ["movie", "--noun", "tea", "--outt", "x"],
            [
                "--outt: unknown flag; did you mean --out?",
                "--raw: say which folder has u.data and u.item",
                "--out: say into which folder to write the prepared files",
                "--noun: has no effect on movie, it is for custom; leave it out",
            ],
        ),
        (
            ["custom", "--raw", "docs", "--out", "x", "--published", "--amazon-liked", "4"],
            [
                "--published: custom has no published form; leave it out",
                "--amazon-liked: has no effect on custom, it is for amazon-book; leave it out",
            ],
        ),
        (
            ["book", "--raw", "docs", "--out", "x", "--book-zeros", "keep"],
            ["--book-zeros keep: choose one of dislike, drop"],
        ),
        (["films"], [f"films: no such data set; choose one of {CHOICES}"]),
        (
            ["--raw", "docs"],
            [f"--raw: the first word must say which data set: {CHOICES}"],
        ),
        (
            [],
            [f"say which data set to prepare: {CHOICES} to look at one; --help explains"],
        ),
    ],
)
def test_each_problem_is_one_line_and_the_status_is_2(argv, lines):
    failed = run(*argv)
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.splitlines() == [f"prepare.py: error: {line}" for line in lines]
    assert not (ROOT / "x").exists()


def test_help_names_every_data_set_and_that_of_one_has_its_own_options_alone():
    overview = run("--help")
    assert overview.returncode == 0 and all(re.search(rf"^    {name}( |$)", overview.stdout, re.M) for name in SOURCES)
    done = run("amazon-book", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: prepare.py amazon-book ")
    assert "--amazon-liked {5,4}" in done.stdout and "--book-zeros" not in done.stdout


def test_own_data_are_prepared_with_their_options(tmp_path):
    write_own(tmp_path, as_csv(invented(40)))
    done = run("custom", "--raw", tmp_path, "--out", tmp_path / "out", "--like-threshold", "3", "--split-by", "user")
    assert done.returncode == 0, done.stderr
    options = {"like_threshold": 3.0, "noun": None, "split_by": "user"}
    recorded = options | {"zeros": None, "skip_bad": False}
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["options"] == recorded
    assert read_prepared(tmp_path / "out") == custom.build(custom.raw_files(tmp_path), print, **options)


def test_what_the_version_before_prepared_is_read(real_file):
    """The key and the format must not change without VERSION or FORMAT: copies would be prepared again or misread."""
    files = movie.raw_files(real_file("ml-100k/u.data").parent)
    digest = hashlib.sha256(json.dumps(prepare.key_of(movie.SOURCE, files, {}), sort_keys=True).encode()).hexdigest()
    assert digest.startswith("e3ccbebee02332c3")


# ---- the declarations ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_is_downloaded_or_says_how_to_get_it(name):
    assert (SOURCES[name].archive is None) != (SOURCES[name].by_hand is None)


def test_every_option_is_declared_once_and_is_a_flag_of_every_verb_that_takes_data():
    declared = [option for source in SOURCES.values() for option in source.options]
    names = [option.name for option in declared]
    assert names == ["book_zeros", "amazon_liked", "like_threshold", "noun", "split_by", "zeros", "skip_bad"]
    assert default_options() == dict(zip(names, ("dislike", 5, None, None, "time", None, False)))
    for verb, defaults in ((TrainFlags, default_options()), (RunDataFlags, dict.fromkeys(names))):
        flags = {f.name: (f.type, f.default, f.metadata["choices"]) for f in fields(verb)}
        for option in declared:
            assert flags[option.name] == (option.type, defaults[option.name], option.choices)


# ---- what --data finds --------------------------------------------------------------------------


def test_a_prepared_folder_of_another_data_set_is_refused(tmp_path, raw):
    prepare.prepare(BOOK, raw[0].parent, tmp_path / "out", {}, False, lambda line: None)
    with pytest.raises(DataError, match="holds the prepared data set book, not movie"):
        load_dataset("movie", str(tmp_path / "out"), True, print)


@pytest.mark.parametrize("name, words", [("book", "BX-Books.csv"), ("amazon-book", "Books_5.json.gz")])
def test_without_a_lawful_source_the_manual_steps_are_printed(tmp_path, name, words):
    with pytest.raises(DataError) as refusal:
        load_dataset(name, str(tmp_path), False, print)
    assert words in str(refusal.value) and str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_ml_1m_without_network_is_refused_and_has_no_stand_in(tmp_path, monkeypatch):
    import data.load as load

    def fail(source, folder):
        raise load.NoNetwork("unreachable")

    monkeypatch.setattr(load, "fetch", fail)
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no MovieLens-1M in .*unreachable.*put ratings.dat and movies.dat there"):
        load_dataset("ml-1m", None, False, lambda line: None)


def test_movie_goes_through_the_cache(real_file, cache):
    folder = real_file("ml-100k/u.data").parent
    first = load_dataset("movie", str(folder), True, print)
    assert len(list(cache.iterdir())) == 1
    assert load_dataset("movie", str(folder), True, print) == Dataset(**vars(first) | {"catalogue": first.catalogue})
    assert movie.build(movie.raw_files(folder), print) == first
