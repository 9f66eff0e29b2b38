"""Files that somebody made to do harm, or that are badly damaged: refused in a line, and nothing is run, waited for or written.

Most of these were found by bench/fuzz.py, and stand here so that they stay mended.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import data.download as download
import files
from bench import fuzz_mutations
from cli.flags import parse_flags
from cli.train import TrainFlags
from data import cache as prepare
from data.interactions import Dataset, Interaction, Item
from data.pairs import encode_pairs
from data.sources import amazon_book, book, collm, custom, ml_1m, movie, tallrec
from errors import AdapterError, CheckpointError, DataError, FlagError, RunError
from lora.adapter import put_lora_state, read_adapter_config, read_tensors
from lora.inject import add_lora, lora_parameters
from model.convert import convert_checkpoint
from model.tokenizer import Tokenizer
from model.weights import load_llama, read_json
from predict import read_users
from run.checkpoint import load_state, save_state
from run.folder import read_run_config as read_run
from run.merge import refuse_merging_twice
from run.validate import TERMS, recorded_flags, step_lines


def refused(error, call, *args):
    """The message, which must be one line that a terminal can show."""
    with pytest.raises(error) as refusal:
        call(*args)
    message = str(refusal.value)
    assert message.isprintable() and len(message) < 1500
    return message


# ---- what is no plain file, or holds more than it seems -----------------------------------------


def test_a_fifo_a_device_and_a_folder_are_refused_and_not_waited_for(tmp_path):
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


def test_a_file_of_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "u.item"
    path.write_bytes(b"")
    os.truncate(path, 3 * 2**30)  # sparse: it takes no room
    assert "has 3,221,225,472 bytes" in refused(DataError, files.read_whole, path)
    assert "not valid JSON" in refused(CheckpointError, read_json, path)
    (tmp_path / "tokenizer.model").symlink_to(path)
    assert "more than 67,108,864 bytes" in refused(CheckpointError, Tokenizer, tmp_path, None)


def test_gzip_that_unpacks_to_far_more_is_stopped(tmp_path, monkeypatch):
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
    content[10] = 0xFF  # the header of the first block: a type that there is not
    path.write_bytes(content)
    refused(DataError, read, path)


# ---- names --------------------------------------------------------------------------------------

NAMES = ["a\nb", "\x1b[2J", "\ufeff", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_no_message_could_name_is_refused(make_checkpoint, tiny_llama, tmp_path, name):
    folder = make_checkpoint()
    save_file({name: torch.zeros(1)}, folder / "model.safetensors")
    assert "has a tensor called" in refused(CheckpointError, load_llama, folder, torch.float32)
    model = tiny_llama()
    add_lora(model)
    refused(AdapterError, put_lora_state, model, {name: torch.zeros(1)}, "here")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 1, "target_modules": [name]}))
    assert "which no layer is called" in refused(AdapterError, read_adapter_config, tmp_path)


@pytest.mark.parametrize(
    "shard", ["../out.safetensors", "/etc/x.safetensors", "a\nb.safetensors", "..", "a\x00.safetensors"]
)
def test_a_shard_elsewhere_is_refused(make_checkpoint, shard):
    folder = make_checkpoint(shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a safetensors file of this folder" in refused(CheckpointError, load_llama, folder, torch.float32)


def test_an_index_with_names_that_no_message_could_show_is_refused(make_checkpoint):
    folder = make_checkpoint(shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["\ufeff"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(CheckpointError, load_llama, folder, torch.float32)


def test_a_header_with_control_characters_is_shown_as_python_writes_it(tmp_path):
    for name, read in (("items.csv", custom.read_items), ("Books.csv", lambda path: book.read_books(path, print))):
        (tmp_path / name).write_bytes(b"item\x00,ti\x1btle\n1,2\n")
        assert "\\x00" in refused(DataError, read, tmp_path / name)


# ---- code in pickles ----------------------------------------------------------------------------


def test_the_pickles_used_here_do_run_code_where_nothing_forbids_it(tmp_path):
    """A check of the check: the same bytes, loaded by Python's own unpickler, make the marker."""
    bombs, made = fuzz_mutations.bombs(str(tmp_path)), 0
    for bomb in bombs:
        subprocess.run(
            [sys.executable, "-c", "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"],
            input=bomb,
            capture_output=True,
        )
        made += (tmp_path / fuzz_mutations.MARKER).exists()
        (tmp_path / fuzz_mutations.MARKER).unlink(missing_ok=True)
    assert made >= 3


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("packed", [False, True], ids=["bare", "in an archive"])
def test_a_pickle_with_code_is_refused_and_not_run(make_checkpoint, tmp_path, number, packed):
    bomb = fuzz_mutations.bombs(str(tmp_path))[number]
    if packed:
        archive = io.BytesIO()
        torch.save({"a": torch.zeros(2)}, archive)
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed := io.BytesIO(), "w") as new:
            for name in old.namelist():
                new.writestr(name, bomb if name.endswith("data.pkl") else old.read(name))
        bomb = changed.getvalue()
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.model").write_bytes(b"any")
    (folder / "pytorch_model.bin").write_bytes(bomb)
    refused(CheckpointError, convert_checkpoint, folder, tmp_path / "out")
    (tmp_path / "adapter_model.bin").write_bytes(bomb)
    refused(AdapterError, read_tensors, tmp_path)
    assert not (tmp_path / fuzz_mutations.MARKER).exists() and not (tmp_path / "out").exists()


def test_what_torch_says_of_a_damaged_file_is_shown_in_one_line(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02\x8c\x04\x1b[2Jq\x00.")
    refused(AdapterError, read_tensors, tmp_path)


# ---- checkpoints --------------------------------------------------------------------------------


def test_a_tokenizer_with_pieces_that_are_no_text_is_refused(tokenizer_bytes, tmp_path):
    for change in (lambda b: b.replace(b"<0x41>", b"<0x\xff1>"), lambda b: b.replace(b"the", b"t\xffe")):
        assert change(tokenizer_bytes) != tokenizer_bytes
        (tmp_path / "tokenizer.model").write_bytes(change(tokenizer_bytes))
        assert "not a SentencePiece model" in refused(CheckpointError, Tokenizer, tmp_path, None)


def test_a_mark_of_merging_that_is_no_list_is_refused(make_checkpoint, tmp_path):
    folder = make_checkpoint(merged_adapters=3)
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert "merged_adapters is no list" in refused(CheckpointError, refuse_merging_twice, folder, tmp_path)


def test_params_that_are_text_are_shown_as_python_writes_them(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    names = ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight")
    torch.save({name: torch.zeros(4, 4) for name in names}, folder / "consolidated.00.pth")
    (folder / "tokenizer.model").write_bytes(b"any")
    (folder / "params.json").write_text(json.dumps({"dim": 4, "n_heads": 2, "n_layers": 1, "norm_eps": "\x00"}))
    assert "norm_eps is '\\x00'" in refused(CheckpointError, convert_checkpoint, folder, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn, torch.bool])
def test_an_adapter_of_another_kind_of_numbers_is_refused(tmp_path, dtype):
    torch.save({"a": torch.zeros(2).to(dtype)}, tmp_path / "adapter_model.bin")
    refused(AdapterError, read_tensors, tmp_path)


# ---- data ---------------------------------------------------------------------------------------

HALF = "\ud800"


def test_half_a_character_in_a_title_is_refused(tmp_path):
    row = {
        "instruction": "x",
        "input": f'User Preference: "A{HALF}"\nUser Unpreference: \nWhether the user will like the target movie "B"?',
        "output": "Yes.",
    }
    (tmp_path / "train.json").write_text(json.dumps([row]))
    assert "row 0: " in refused(DataError, tallrec.read_split, tmp_path / "train.json")
    (tmp_path / "meta.json").write_text(json.dumps({"asin": "a", "title": HALF}) + "\n")
    assert "line 1: " in refused(DataError, amazon_book.read_titles, tmp_path / "meta.json", {"a"})


@pytest.mark.parametrize("stars", ["NaN", "1e999", "1" + "0" * 400])
def test_stars_that_are_no_number_are_refused(tmp_path, stars):
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
def test_a_saved_pass_that_does_not_fit_together_is_refused(tmp_path, change):
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
        {"source": HALF},
        {"selection": []},
        {"selection": [9**9]},
        {"name": 3},
        {"rows": {"test": []}},
        {"items": [["a", None, None]]},
        {"items": [["a", "A", 3]]},
    ],
    ids=str,
)
def test_a_prepared_folder_that_says_what_cannot_be_is_refused(tmp_path, change):
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
    for name, found in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in found))
        manifest["sha256"][name] = prepare.fingerprint(tmp_path / name)
    (tmp_path / "prepared.json").write_text(json.dumps(manifest))
    refused(DataError, prepare.read_prepared, tmp_path)
    if change:
        (tmp_path / "prepared.json").write_text(
            json.dumps(manifest | {"name": "x", "source": "x", "noun": "film", "wording": "tallrec", "selection": None})
        )
        assert len(prepare.read_prepared(tmp_path).test) == 1


def test_a_title_of_many_lines_length_is_shown_by_its_beginning(tmp_path):
    class Letters:
        eos_id = 0

        def encode(self, text):
            return list(text.encode())

        def encode_all(self, texts):
            return [self.encode(text) for text in texts]

    row = Interaction("u", (), "t", True)
    data = Dataset("x", "x", "film", {"t": Item("T" * 200_000)}, [row], [row], [row])
    assert "target 'TTT" in refused(DataError, encode_pairs, [row], data, Letters(), "paper", 512)
    (tmp_path / "users.csv").write_text("user,liked,disliked,target\n" + ",".join(["u", *["y" * 100_000] * 3]) + "\n")
    with pytest.raises(DataError) as refusal:
        read_users(tmp_path / "users.csv")
    assert all(line.isprintable() and len(line) < 500 for line in str(refusal.value).split("\n"))


# ---- what a run wrote down ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        "[]",
        "{}",
        '{"step": "1"}',
        '{"step": 1}',
        '{"step": NaN, "ce_pos": 1, "ce_neg": 1, "kl": 1}',
        "[" * 100_000,
        '{"step": 1, "ce_pos": 1e999, "ce_neg": 1, "kl": 1}',
        '{"step": 1, "ce_pos": 1' + "0" * 400 + ', "ce_neg": 1, "kl": 1}',
        "\x1b",
    ],
)
def test_a_line_of_metrics_that_is_no_record_is_named(tmp_path, line):
    good = '{"step": 1, "ce_pos": 1, "ce_neg": 1, "kl": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(good + line + "\n")
    assert "metrics.jsonl line 2: not the record of a step" in refused(
        RunError, step_lines, tmp_path / "metrics.jsonl", TERMS
    )
    (tmp_path / "metrics.jsonl").write_bytes(good.encode() + b"\xff\n")
    assert "line 2" in refused(RunError, step_lines, tmp_path / "metrics.jsonl", TERMS)


@pytest.mark.parametrize(
    "name, value",
    [
        ("lr", "fast"),
        ("lr", 1e9),
        ("epochs", 2.5),
        ("epochs", True),
        ("epochs", 10**400),
        ("objective", "none"),
        ("model", 3),
        ("model", ""),
        ("model", "a\0b"),
        ("precision", None),
        ("resume", "yes"),
        ("max_len", {}),
        ("noun", ["film"]),
    ],
)
def test_a_recorded_flag_that_cannot_be_is_named(name, value):
    config = {"flags": {name: {"value": value, "source": "flag"}}}
    assert f"run/config.json: {name} is " in refused(
        RunError, recorded_flags, TrainFlags, config, Path("run/config.json")
    )


def test_every_default_flag_is_one_that_can_be_recorded():
    flags = {name: {"value": value, "source": "default"} for name, value in vars(TrainFlags()).items()}
    assert recorded_flags(TrainFlags, {"flags": json.loads(json.dumps(flags))}, Path("x")) == vars(TrainFlags())


@pytest.mark.parametrize(
    "change", [{"wording": "x"}, {"wording": 3}, {"noun": None}, {"noun": "\x1b"}, {"data_source": []}, {"flags": []}]
)
def test_a_run_that_speaks_of_unknown_wording_or_no_text_is_refused(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {}, "noun": "film", "wording": "tallrec", **change}))
    assert "not the config.json of a run" in refused(RunError, read_run, tmp_path)


def test_a_whole_number_beyond_all_bounds_is_refused():
    assert "expected a whole number up to" in refused(
        FlagError, parse_flags, TrainFlags, ["--max-len", "1" + "0" * 400], ""
    )


@pytest.fixture
def state(tiny_llama, tmp_path):
    """A saved state after one step; load(): puts it into a fresh model."""
    model = tiny_llama()
    add_lora(model, r=2)
    optimizer = torch.optim.AdamW(lora_parameters(model), lr=1e-3)
    model(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    save_state(tmp_path / "last", model, optimizer, {"step": 1, "best_auc": 0.5, "best_step": 1, "since_best": 0})
    return next((tmp_path / "last").glob("step-*")), lambda: load_state(tmp_path / "last", model, optimizer)


STATES = {
    "no object": ("step.json", b"3"),
    "deep": ("step.json", b"[" * 100_000),
    "text for a number": ("step.json", b'{"step": "1", "best_auc": 0.5, "best_step": 1, "since_best": 0}'),
    "a step below zero": ("step.json", b'{"step": -1, "best_auc": 0.5, "best_step": 1, "since_best": 0}'),
    "an AUC that is none": ("step.json", b'{"step": 1, "best_auc": NaN, "best_step": 1, "since_best": 0}'),
    "moments of no parameter": ("optimizer.safetensors", save({"cpu": torch.zeros(2)})),
    "moments of another shape": (
        "optimizer.safetensors",
        save({f"{i}.{name}": torch.zeros(1) for i in range(8) for name in ("step", "exp_avg", "exp_avg_sq")}),
    ),
    "no random state": ("rng.safetensors", save({"gpu": torch.zeros(2)})),
    "a random state too short": ("rng.safetensors", save({"cpu": torch.zeros(9, dtype=torch.uint8)})),
    "a random state of other numbers": ("rng.safetensors", save({"cpu": torch.zeros(5056)})),
}


@pytest.mark.parametrize("name, content", STATES.values(), ids=STATES)
def test_a_state_with_other_content_is_refused(state, name, content):
    folder, load = state
    assert load()["step"] == 1
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "has not the" not in refused(RunError, load)  # the manifest fits


# ---- downloads ----------------------------------------------------------------------------------


def archive_of(folder, members):
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members:
            file.writestr(member, content)
    return folder / "x.zip"


def test_a_member_that_unpacks_to_far_more_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
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


def test_members_outside_and_links_reach_no_place_on_the_disk(tmp_path):
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
