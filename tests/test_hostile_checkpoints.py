"""Checkpoints, adapters and run folders that are damaged or made to do harm: refused in one line, and no code is run.

Most of these were found by bench/fuzz.py.
"""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from bench import fuzz_binary
from cli.flags import parse_flags
from cli.train import TrainFlags
from errors import AdapterError, CheckpointError, FlagError, RunError
from lora.adapter import read_adapter_config, read_tensors
from lora.inject import add_lora, lora_state
from model.convert import convert_checkpoint
from model.tokenizer import load_tokenizer
from model.weights import load_llama
from objectives.base import TERMS
from run.checkpoint import load_state, save_state
from run.folder import read_run_config as read_run
from run.merge import refuse_merging_twice
from run.progress import Progress
from run.validate import recorded_flags, step_lines
from tensors import put_tensors, trainable_parameters
from tests.test_hostile_files import refused

# ---- names --------------------------------------------------------------------------------------

NAMES = ["a\nb", "\x1b[2J", "\ufeff", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_with_an_unprintable_name_is_refused(make_checkpoint, tiny_llama, tmp_path, name):
    folder = make_checkpoint()
    save_file({name: torch.zeros(1)}, folder / "model.safetensors")
    assert "has a tensor called" in refused(CheckpointError, load_llama, folder, torch.float32)
    model = tiny_llama()
    add_lora(model)
    refused(AdapterError, put_tensors, lora_state(model), {name: torch.zeros(1)}, "here")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 1, "target_modules": [name]}))
    assert "which no layer is called" in refused(AdapterError, read_adapter_config, tmp_path)


@pytest.mark.parametrize(
    "shard", ["../out.safetensors", "/etc/x.safetensors", "a\nb.safetensors", "..", "a\x00.safetensors"]
)
def test_a_shard_outside_the_folder_is_refused(make_checkpoint, shard):
    folder = make_checkpoint(shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a safetensors file of this folder" in refused(CheckpointError, load_llama, folder, torch.float32)


def test_an_index_with_unprintable_names_is_refused(make_checkpoint):
    folder = make_checkpoint(shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["\ufeff"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(CheckpointError, load_llama, folder, torch.float32)


# ---- code in pickles ----------------------------------------------------------------------------


def test_the_pickles_used_here_run_code_when_nothing_prevents_it(tmp_path):
    """Check the check: the same bytes create the marker file when Python's own unpickler loads them."""
    bombs, made = fuzz_binary.bombs(str(tmp_path)), 0
    for bomb in bombs:
        subprocess.run(
            [sys.executable, "-c", "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"],
            input=bomb,
            capture_output=True,
        )
        made += (tmp_path / fuzz_binary.MARKER).exists()
        (tmp_path / fuzz_binary.MARKER).unlink(missing_ok=True)
    assert made >= 3


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("packed", [False, True], ids=["bare", "in an archive"])
def test_a_pickle_with_code_is_refused_and_its_code_is_not_run(make_checkpoint, tmp_path, number, packed):
    bomb = fuzz_binary.bombs(str(tmp_path))[number]
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
    assert not (tmp_path / fuzz_binary.MARKER).exists() and not (tmp_path / "out").exists()


def test_the_message_of_torch_about_a_damaged_file_is_shown_in_one_line(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02\x8c\x04\x1b[2Jq\x00.")
    refused(AdapterError, read_tensors, tmp_path)


# ---- checkpoints --------------------------------------------------------------------------------


def test_a_tokenizer_with_pieces_that_are_not_text_is_refused(tokenizer_bytes, tmp_path):
    for change in (lambda b: b.replace(b"<0x41>", b"<0x\xff1>"), lambda b: b.replace(b"the", b"t\xffe")):
        assert change(tokenizer_bytes) != tokenizer_bytes
        (tmp_path / "tokenizer.model").write_bytes(change(tokenizer_bytes))
        assert "not a SentencePiece model" in refused(CheckpointError, load_tokenizer, tmp_path, None)


def test_a_record_of_merged_adapters_that_is_not_a_list_is_refused(make_checkpoint, tmp_path):
    folder = make_checkpoint(merged_adapters=3)
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert "merged_adapters is not a list" in refused(CheckpointError, refuse_merging_twice, folder, tmp_path)


def test_text_in_params_json_is_shown_escaped(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    names = ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight")
    torch.save({name: torch.zeros(4, 4) for name in names}, folder / "consolidated.00.pth")
    (folder / "tokenizer.model").write_bytes(b"any")
    (folder / "params.json").write_text(json.dumps({"dim": 4, "n_heads": 2, "n_layers": 1, "norm_eps": "\x00"}))
    assert "norm_eps is '\\x00'" in refused(CheckpointError, convert_checkpoint, folder, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn, torch.bool])
def test_an_adapter_of_another_dtype_is_refused(tmp_path, dtype):
    torch.save({"a": torch.zeros(2).to(dtype)}, tmp_path / "adapter_model.bin")
    refused(AdapterError, read_tensors, tmp_path)


# ---- files of a run -----------------------------------------------------------------------------


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
def test_a_line_of_metrics_that_is_not_a_record_is_reported(tmp_path, line):
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
def test_an_impossible_recorded_flag_is_reported(name, value):
    config = {"flags": {name: {"value": value, "source": "flag"}}}
    assert f"run/config.json: {name} is " in refused(
        RunError, recorded_flags, TrainFlags, config, Path("run/config.json")
    )


def test_every_default_can_be_recorded():
    flags = {name: {"value": value, "source": "default"} for name, value in vars(TrainFlags()).items()}
    assert recorded_flags(TrainFlags, {"flags": json.loads(json.dumps(flags))}, Path("x")) == vars(TrainFlags())


@pytest.mark.parametrize(
    "change", [{"wording": "x"}, {"wording": 3}, {"noun": None}, {"noun": "\x1b"}, {"data_source": []}, {"flags": []}]
)
def test_a_run_with_unknown_wording_or_a_value_that_is_not_text_is_refused(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {}, "noun": "film", "wording": "tallrec", **change}))
    assert "not the config.json of a run" in refused(RunError, read_run, tmp_path, "--run")


def test_a_whole_number_beyond_every_bound_is_refused():
    assert "expected a whole number up to" in refused(
        FlagError, parse_flags, TrainFlags, ["--max-len", "1" + "0" * 400], ""
    )


@pytest.fixture
def state(tiny_llama, tmp_path):
    """A saved state after one step; load(): puts it into a fresh model."""
    model = tiny_llama()
    add_lora(model, r=2)
    optimizer = torch.optim.AdamW(list(trainable_parameters(model).values()), lr=1e-3)
    model(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    save_state(tmp_path / "last", model, optimizer, Progress(step=1, best_value=0.5, best_step=1))
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
    assert load().step == 1
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "has not the" not in refused(RunError, load)  # the manifest fits
