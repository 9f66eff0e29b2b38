"""Looking at data: the figures against counting by hand, the samples against the prompts, the picture by its axes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import image

import prepare
from data.prompts import prompt_pair
from data.sources.stand_in import stand_in
from data.statistics import describe, describe_split
from errors import FlagError
from model.demo import DEMO_FOLDER
from report.data_table import statistics_table
from run.base import base_tokenizer
from tests.test_prepare import DATA

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tokenizer():
    return base_tokenizer("demo")


def run(*argv):
    return subprocess.run(
        [sys.executable, "prepare.py", "show", *map(str, argv)], cwd=ROOT, capture_output=True, text=True
    )


def test_figures_are_those_counted_by_hand(tokenizer):
    figures = describe_split(DATA, "valid", tokenizer, "tallrec", 8, 100)
    assert (figures["rows"], figures["positive"], figures["users"], figures["items"], figures["no_history"]) == (
        3,
        2,
        2,
        3,
        1,
    )
    assert figures["cold"] == 2  # only user 7 and item 3 are in train
    assert figures["history_lengths"] == {0: 1, 2: 1, 12: 1}
    assert figures["history"] == {"0": 0, "50": 2, "95": 2, "100": 12}
    assert figures["rows_per_user"] == {"0": 1, "50": 1, "95": 1, "100": 2}
    assert (figures["longer_than_max_len"], figures["tokens_counted_on"]) == (3, 3)


@pytest.mark.parametrize("template", ["tallrec", "released"])
def test_token_lengths_are_those_of_the_longer_row_and_of_all_history(tokenizer, template):
    data = stand_in()
    figures = describe_split(data, "valid", tokenizer, template, 150, 10**6)
    lengths = []
    for row in data.valid:
        pair = prompt_pair(row, data, template)
        sides = ((pair.positive, pair.answer_positive), (pair.negative, pair.answer_negative))
        lengths.append(max(len(tokenizer.encode(prompt + answer)) + 1 for prompt, answer in sides))
    assert sum(figures["token_lengths"].values()) == len(lengths)
    assert sorted(length for length, n in figures["token_lengths"].items() for _ in range(n)) == sorted(lengths)
    assert figures["longer_than_max_len"] == sum(length > 150 for length in lengths) > 0
    assert (figures["tokens"]["0"], figures["tokens"]["100"]) == (min(lengths), max(lengths))


def test_of_many_rows_every_nth_is_counted(tokenizer):
    figures = describe_split(stand_in(), "train", tokenizer, "tallrec", 512, 100)
    assert (figures["rows"], figures["tokens_counted_on"]) == (8000, 100)


def test_the_command_shows_samples_and_every_split_and_draws(tmp_path):
    done = run("--data", "demo", "--sample", 2, "--split", "test", "--plot", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    assert "SIMULATED stand-in data" in done.stdout and "no leaks: " in done.stdout
    assert "==== test sample 1 of 2: user " in done.stdout and "==== test sample 2 of 2" in done.stdout
    assert done.stdout.count("---- positive: ") == done.stdout.count("---- negative: ") == 2
    assert done.stdout.count("will dislike the target movie") == 4
    assert all(f"{name:>16}" in done.stdout for name in ("train", "valid", "test"))
    pixels = image.imread(tmp_path / "x.png")
    assert pixels.shape[0] > 300 and pixels[..., :3].std() > 0.05


def test_json_is_one_line_on_standard_output_and_nothing_else():
    done = run("--data", "demo", "--sample", 3, "--json", "--rows", 50)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert {split: figures["splits"][split]["rows"] for split in ("train", "valid", "test")} == {
        "train": 8000,
        "valid": 400,
        "test": 600,
    }


def test_a_folder_with_nothing_but_a_tokenizer_will_do(tmp_path, tokenizer):
    (tmp_path / "tokenizer.model").write_bytes((DEMO_FOLDER / "tokenizer.model").read_bytes())
    assert base_tokenizer(str(tmp_path)).encode("x y") == tokenizer.encode("x y")


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--plot", "x.gif"], "--plot x.gif: choose a name that ends in"),
        (
            ["--data", "movie", "--book-zeros", "drop"],
            "--book-zeros: has no effect with --data movie, it is for --data book",
        ),
        (
            ["--data", "book", "--noun", "x"],
            "--noun: has no effect with --data book, it is for a folder of your own data",
        ),
        (["--data", "demo", "--data-dir", "x"], "--data-dir: has no effect with --data demo"),
        (["--sampel", "3"], "--sampel: unknown flag; did you mean --sample"),
    ],
)
def test_what_does_not_fit_is_refused_by_flag(argv, message):
    with pytest.raises(FlagError, match=message):
        prepare.main(["show", *argv])


def test_leaks_of_any_data_set_are_shown():
    figures = describe(DATA, base_tokenizer("demo"), "tallrec", 512, 9) | {"tokenizer": "z"}
    assert (
        "LEAK: 1 rows of valid are also asked in train, first user 7, 'Nîmes'" in statistics_table(figures).splitlines()
    )


def test_more_samples_than_rows_are_refused_by_the_flag_and_the_split_that_were_named():
    done = run("--data", "demo", "--sample", 9999, "--split", "test")
    assert done.returncode == 2 and "--sample 9999: the test split has 600 rows; choose 0 to 600" in done.stderr
