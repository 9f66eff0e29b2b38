"""Adapter files: the names and fields that PEFT reads and writes, and what is refused."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.adapter import CONFIG, PICKLED, WEIGHTS, adapter_warnings, load_adapter, read_adapter_config, save_adapter
from lora.inject import add_lora, lora_state, refuse_unknown_targets
from lora.select import Selection, parse_targets
from tests.test_lora import IDS, LINEARS, SETTINGS, adapted, refusal


def test_saved_files_have_peft_s_names_and_fields(tiny_llama, tmp_path):
    model = adapted(tiny_llama(num_key_value_heads=2))
    save_adapter(model, tmp_path, SETTINGS)
    shapes = {"q_proj.lora_A": (4, 32), "q_proj.lora_B": (32, 4), "v_proj.lora_A": (4, 32), "v_proj.lora_B": (16, 4)}
    prefix = "base_model.model.model.layers."
    expected = {f"{prefix}{i}.self_attn.{name}.weight": shape for i in range(2) for name, shape in shapes.items()}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert torch.equal(
        tensors[f"{prefix}1.self_attn.v_proj.lora_B.weight"], model.model.layers[1].self_attn.v_proj.lora_B
    )
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "some/llama",
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "use_rslora": False,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), LINEARS])
def test_saved_adapter_loads_to_the_same_logits(tiny_llama, tmp_path, targets):
    saved = adapted(tiny_llama(), targets=targets)
    save_adapter(saved, tmp_path, {**SETTINGS, "targets": targets})
    read = read_adapter_config(tmp_path)
    assert read == {"r": 4, "alpha": 6, "dropout": 0.1, "rslora": False, "targets": tuple(sorted(targets))}
    model = tiny_llama()
    before = model(IDS)
    add_lora(model, read["targets"], read["r"], read["alpha"], read["dropout"])
    load_adapter(model, tmp_path)
    assert torch.equal(model.eval()(IDS), saved(IDS)) and not torch.allclose(saved(IDS), before, atol=0.01)


A_KEY = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop(A_KEY), ("missing", A_KEY)),
        (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}), ("unexpected", "lm_head")),
        (lambda t: t.update({A_KEY: torch.ones(8, 32)}), (A_KEY, "[8, 32]", "[4, 32]")),
        (lambda t: t[A_KEY].__setitem__((1, 2), float("nan")), (A_KEY, "NaN")),
        (lambda t: t[A_KEY].__setitem__((1, 2), float("inf")), (A_KEY, "infinite")),
        (lambda t: t.clear(), ("missing", "and 4 more")),
    ],
)
def test_adapter_that_does_not_fit_is_refused_and_changes_nothing(tiny_llama, tmp_path, change, words):
    model = adapted(tiny_llama())
    save_adapter(adapted(tiny_llama(), seed=1), tmp_path, SETTINGS)
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    before = model(IDS)
    refusal(lambda: load_adapter(model, tmp_path), WEIGHTS, *words)
    assert torch.equal(model(IDS), before)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"


@pytest.mark.parametrize(
    "content, word", [(None, "missing"), (b"", "truncated"), (b"x" * 99, "truncated"), (POINTER, "LFS")]
)
def test_damaged_adapter_file_is_refused(tiny_llama, tmp_path, content, word):
    if content is not None:
        (tmp_path / WEIGHTS).write_bytes(content)
    refusal(lambda: load_adapter(adapted(tiny_llama()), tmp_path), WEIGHTS, word)


def test_truncated_adapter_file_is_refused(tiny_llama, tmp_path):
    model = adapted(tiny_llama())
    save_adapter(model, tmp_path, SETTINGS)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1])
    refusal(lambda: load_adapter(model, tmp_path), WEIGHTS, "truncated")


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern"),
        ({"rank_pattern": {"(q": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform"),
        ({"layers_to_transform": [0], "layers_pattern": "lay(ers"}, "layers_pattern"),
        ({"exclude_modules": {"q_proj": 1}}, "exclude_modules"),
        ({"trainable_token_indices": [5, 6]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"target_modules": "q_proj)"}, "target_modules"),
        ({"target_modules": ""}, "target_modules"),
        ({"target_modules": [1]}, "target_modules"),
        ({"r": 0}, "r and lora_alpha"),
        ({"r": 4.0}, "r and lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
    ],
)
def test_adapter_config_of_another_variant_is_refused(tiny_llama, tmp_path, changes, word):
    save_adapter(adapted(tiny_llama()), tmp_path, SETTINGS)
    config = json.loads((tmp_path / CONFIG).read_text()) | changes
    (tmp_path / CONFIG).write_text(json.dumps(config))
    refusal(lambda: read_adapter_config(tmp_path), CONFIG, word)


@pytest.mark.parametrize("name", ["modules_to_save", "exclude_modules", "layers_to_transform", "rank_pattern"])
@pytest.mark.parametrize("empty", [None, []])
def test_a_field_that_is_empty_or_null_counts_as_absent(tiny_llama, tmp_path, name, empty):
    save_adapter(adapted(tiny_llama()), tmp_path, SETTINGS)
    expected = read_adapter_config(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text()) | {name: empty}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert read_adapter_config(tmp_path) == expected
    (tmp_path / CONFIG).write_text(json.dumps(config | {"lora_dropout": None}))
    assert read_adapter_config(tmp_path) == expected | {"dropout": 0.0}


def test_an_option_that_is_switched_on_and_not_known_is_said(tiny_llama, tmp_path, capsys):
    save_adapter(adapted(tiny_llama()), tmp_path, SETTINGS)
    expected = read_adapter_config(tmp_path)
    assert capsys.readouterr().err == ""
    changes = {"use_superlora": True, "frobnicate": None, "peft_version": "9"}
    (tmp_path / CONFIG).write_text(json.dumps(json.loads((tmp_path / CONFIG).read_text()) | changes))
    assert read_adapter_config(tmp_path) == expected
    assert "options that this program does not know, and leaves out: 'use_superlora'" in capsys.readouterr().err


def test_a_regular_expression_that_never_ends_is_stopped(tiny_llama, monkeypatch):
    monkeypatch.setattr("lora.select.SECONDS", 0.5)
    begun = time.monotonic()
    refusal(lambda: add_lora(tiny_llama(), Selection(r"(\w+\.?)+!")), CONFIG, "0.5 s", "list the names")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("text", ["q_proj,v_proj", " q_proj , v_proj", "q_proj,v_proj,q_proj,", "q_proj,,v_proj"])
def test_targets_are_read_without_spaces_and_doubles(text):
    assert parse_targets(text) == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "targets, words",
    [
        (("q_proj", "lm_head"), ["LoRA on lm_head is not computed", "q_proj"]),
        (("embed_tokens",), ["LoRA on embed_tokens is not computed"]),
        (Selection("q_proj"), ["must match a whole name", "model.layers.0.self_attn.q_proj"]),
        (("q_prj",), ["no linear layer is called q_prj"]),
        (Selection(("q_proj",), layers=(99,)), ["layers_to_transform leaves no layer of these"]),
        (Selection(("q_proj",), exclude=("q_proj",)), ["exclude_modules leaves no layer of these"]),
    ],
)
def test_targets_that_are_not_wrapped_are_named(tiny_llama, targets, words):
    refusal(lambda: refuse_unknown_targets(tiny_llama(), targets, "--lora-targets"), "--lora-targets", *words)


@pytest.mark.parametrize(
    "content, word", [(None, "missing"), (b"{", "JSON"), (b"[1]", "JSON"), (b"\xff", "JSON"), (POINTER, "JSON")]
)
def test_damaged_adapter_config_is_refused(tmp_path, content, word):
    if content is not None:
        (tmp_path / CONFIG).write_bytes(content)
    refusal(lambda: read_adapter_config(tmp_path), CONFIG, word)


def test_pickled_adapter_gives_the_same_logits(tiny_llama, tmp_path):
    saved = adapted(tiny_llama())
    save_adapter(saved, tmp_path, SETTINGS)
    torch.save({name: tensor.clone() for name, tensor in lora_state(saved).items()}, tmp_path / PICKLED)
    (tmp_path / WEIGHTS).unlink()
    model = adapted(tiny_llama(), seed=3)
    load_adapter(model, tmp_path)
    assert torch.equal(model(IDS), saved(IDS))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("content", [b"", b"x" * 99, b"PK\x03\x04" + b"0" * 40, "evil", ["a list"], {"name": 1}])
def test_a_bin_file_that_is_damaged_or_holds_more_than_tensors_is_refused(tiny_llama, tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / PICKLED).write_bytes(content)
    else:
        torch.save({"a": Evil(tmp_path / "opened")} if content == "evil" else content, tmp_path / PICKLED)
    refusal(lambda: load_adapter(adapted(tiny_llama()), tmp_path), PICKLED)
    assert not (tmp_path / "opened").exists()


# ---- guarantees of a save, warnings of a load ---------------------------------------------------


def test_a_save_that_reads_back_differently_is_an_error(tiny_llama, tmp_path, monkeypatch):
    def flip_a_bit(path, content):
        path.open("wb").write(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr("pathlib.Path.write_bytes", flip_a_bit)
    refusal(lambda: save_adapter(adapted(tiny_llama()), tmp_path, SETTINGS), WEIGHTS, "read back")


def test_the_same_adapter_gives_the_same_bytes(tiny_llama, tmp_path):
    contents = set()
    for _ in range(8):  # safetensors orders its metadata at random each time
        save_adapter(adapted(tiny_llama()), tmp_path, SETTINGS)
        contents.add((tmp_path / WEIGHTS).read_bytes())
    assert len(contents) == 1


def test_warnings_report_a_zero_adapter_and_a_different_base(tiny_llama, tmp_path):
    save_adapter(adapted(tiny_llama()), tmp_path, SETTINGS)
    assert adapter_warnings(tmp_path, "elsewhere/other-name", "ab" * 32) == []  # only the fingerprint counts
    (other,) = adapter_warnings(tmp_path, "some/llama", "cd" * 32)
    assert "some/llama" in other and "abababababab" in other and "cdcdcdcdcdcd" in other
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS)  # as PEFT writes it: no fingerprint
    assert adapter_warnings(tmp_path, "a/LLaMA", "cd" * 32) == []
    (name,) = adapter_warnings(tmp_path, "a/vicuna", "cd" * 32)
    assert "some/llama" in name and "a/vicuna" in name
    fresh = tiny_llama()
    add_lora(fresh, SETTINGS["targets"], r=4, alpha=6)
    save_adapter(fresh, tmp_path, SETTINGS)
    (zero,) = adapter_warnings(tmp_path, "some/llama", "ab" * 32)
    assert "every B is zero" in zero
