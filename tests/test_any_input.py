"""Any input is read or refused: properties tested by Hypothesis, and bench/fuzz.py itself in a few cases."""

import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import fuzz
from data import cache as prepare
from data.sources import amazon_book, book, collm, ml_1m, movie, movielens, own_files, tallrec
from data.sources.bad_lines import BadLines
from data.user_files import read_users
from errors import AdapterError, CheckpointError, DataError, RunError
from lora.adapter import read_adapter_config, read_tensors
from model.weights import read_llama_config
from objectives.base import TERMS
from run.folder import read_run_config as read_run
from run.validate import step_lines

ROOT = Path(__file__).parent.parent

# ---- any content --------------------------------------------------------------------------------

some = settings(max_examples=60, derandomize=True, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


@some
@given(
    content=st.dictionaries(
        st.sampled_from(
            [
                "model_type",
                "vocab_size",
                "hidden_size",
                "num_attention_heads",
                "num_hidden_layers",
                "rope_scaling",
                "rms_norm_eps",
                "x",
            ]
        ),
        JSON,
    )
)
def test_any_config_of_a_model_is_read_or_refused(place, content):
    (place / "config.json").write_text(json.dumps(content))
    try:
        read_llama_config(place)
    except CheckpointError as error:
        assert str(error).isprintable()


@some
@given(content=JSON)
def test_any_json_is_read_or_refused_by_every_reader_of_json(place, content):
    text = json.dumps(content)
    for name in ("config.json", "adapter_config.json", "train.json", "prepared.json", "step.json"):
        (place / name).write_text(text)
    (place / "metrics.jsonl").write_text(text + "\n")
    for call, error in (
        (lambda: read_run(place, "--run"), RunError),
        (lambda: read_adapter_config(place), AdapterError),
        (lambda: tallrec.read_split(place / "train.json"), DataError),
        (lambda: prepare.read_prepared(place), DataError),
        (lambda: step_lines(place / "metrics.jsonl", TERMS), RunError),
    ):
        try:
            call()
        except error as refusal:
            assert str(refusal).isprintable()


def read_items(path):
    bad = BadLines(skip=False)
    own_files.read_items(path, bad, lambda line: None)
    bad.settle(print)


def read_interactions(path):
    bad = BadLines(skip=False)
    own_files.read_interactions(path, {}, path, bad, lambda line: None)
    bad.settle(print)


def refuse_bad(found):
    if found.bad:
        raise DataError("\n".join(line for row in found.bad for line in row.problems))


@some
@given(content=st.binary(max_size=200) | st.text(string.digits + "\t:|,\n", max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused_by_the_readers_of_lines(place, content):
    for name in (
        "items.csv",
        "interactions.csv",
        "users.csv",
        "users.jsonl",
        "Books.csv",
        "rows.csv",
        "x.json",
        "x.model",
    ):
        (place / name).write_bytes(content)
    path = place / "x"
    for name in ("ratings.dat", "movies.dat"):
        (place / name).write_bytes(content)
    for call in (
        lambda: read_items(place / "items.csv"),
        lambda: read_interactions(place / "interactions.csv"),
        lambda: read_items(place / "movies.dat"),
        lambda: read_interactions(place / "ratings.dat"),
        lambda: refuse_bad(read_users(place / "users.csv")),
        lambda: refuse_bad(read_users(place / "users.jsonl")),
        lambda: book.read_books(place / "Books.csv", lambda line: None),
        lambda: collm._read_split(place / "rows.csv", {}),
        lambda: movie.parse_items(content, path),
        lambda: ml_1m.parse_movies(content, path),
        lambda: list(movielens.parse_ratings(content, path, "::", {1}, "movies.dat")),
        lambda: amazon_book.read_year(place / "x.json"),
    ):
        try:
            call()
        except DataError as refusal:
            assert all(line.isprintable() for line in str(refusal).split("\n"))


@some
@given(
    header=st.binary(max_size=80) | JSON.map(lambda content: json.dumps(content).encode()),
    lie=st.none() | st.integers(0, 2**64 - 1),
    body=st.binary(max_size=40),
)
def test_any_safetensors_file_is_read_or_refused(place, header, lie, body):
    (place / "adapter_model.safetensors").write_bytes(
        (len(header) if lie is None else lie).to_bytes(8, "little") + header + body
    )
    try:
        read_tensors(place)
    except AdapterError as error:
        assert str(error).isprintable()


# ---- the fuzzer itself --------------------------------------------------------------------------


def test_the_fuzzer_finds_no_crash_in_a_few_cases_and_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "bench.fuzz", "--cases", "112", "--seed", "5", "--command-share", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    works, refusals, crashes = map(int, done.stdout.split("\nall")[1].split()[:3])
    assert works > 5 and refusals > 50 and crashes == 0 and works + refusals == 112


def _kind(read):
    return fuzz.Kind(lambda folder: None, "*", read, lambda folder, out: [])


def test_the_fuzzer_calls_a_crash_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)

    def fails(folder, out):
        raise KeyError("x")

    def hangs(folder, out):
        while True:
            pass

    def says_two_lines(folder, out):
        raise DataError("a\nb")

    def clears_the_screen(folder, out):
        raise DataError("\x1b[2J")

    for read in (fails, hangs, says_two_lines, clears_the_screen):
        with pytest.raises(fuzz.Outcome):
            fuzz.run_inside(_kind(read), tmp_path, tmp_path)

    def refuses(folder, out):
        raise DataError("x: no")

    assert fuzz.run_inside(_kind(refuses), tmp_path, tmp_path) == "x: no"
    assert fuzz.run_inside(_kind(lambda folder, out: None), tmp_path, tmp_path) is None
    before = fuzz.snapshot(tmp_path)
    (tmp_path / "written").write_text("x")
    assert fuzz.snapshot(tmp_path) != before == fuzz.snapshot(tmp_path, but=(tmp_path / "written",))
