"""Adapters go both ways between this project and peft."""

import pytest
import torch
from safetensors.torch import load_file

from errors import AdapterError
from lora.adapter import load_adapter, read_adapter_config, save_adapter
from lora.inject import add_lora
from model.weights import load_llama
from tensors import trainable_parameters
from tests.oracle.twins import ALL_LINEAR, adapter_record, load_theirs, peft, twins

IDS = torch.tensor([[1, 5, 22, 0, 13, 7], [9, 9, 2, 4, 11, 3]])
# (targets, r, alpha, rslora); the last two name whole paths, as peft allows.
ADAPTERS = {
    "qv": (("q_proj", "v_proj"), 8, 16, False),
    "one": (("o_proj",), 1, 3, False),
    "qv and down": (("q_proj", "v_proj", "down_proj"), 4, 6, False),
    "rslora": (("q_proj", "v_proj"), 8, 16, True),
    "all": (ALL_LINEAR, 4, 6, False),
    "all, rslora": (ALL_LINEAR, 16, 2.5, True),
    "paths": (("self_attn.k_proj", "layers.1.mlp.up_proj"), 3, 1, False),
    "whole path": (("model.layers.0.self_attn.q_proj",), 5, 9, True),
}


def check(logits, expected, before):
    assert (expected - before).abs().max() > 0.05
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def load_in_ours(folder, adapter):
    """As run.base.put_adapter does, without its warnings."""
    ours = load_llama(folder, torch.float32)
    add_lora(ours, **read_adapter_config(adapter))
    load_adapter(ours, adapter)
    return ours.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ADAPTERS)
def test_our_adapter_loads_in_peft(make_checkpoint, tmp_path, name):
    targets, r, alpha, rslora = ADAPTERS[name]
    folder = make_checkpoint(num_key_value_heads=2)
    ours, _ = twins(folder, targets, r, alpha, rslora)
    save_adapter(ours, tmp_path, adapter_record(targets, r, alpha, rslora))
    base = load_theirs(folder)
    before = base(IDS).logits
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    check(ours(IDS), theirs(IDS).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_adapter_loads_in_ours(make_checkpoint, tmp_path, name, form):
    targets, r, alpha, rslora = ADAPTERS[name]
    folder = make_checkpoint(num_key_value_heads=2)
    _, theirs = twins(folder, targets, r, alpha, rslora)
    theirs.save_pretrained(tmp_path, safe_serialization=form == "safetensors")
    assert [path.suffix for path in tmp_path.glob("adapter_model.*")] == [f".{form}"]  # "bin" as of alpaca-lora
    read = read_adapter_config(tmp_path)
    assert set(read.pop("targets")) == set(targets)
    assert read == {"r": r, "alpha": alpha, "dropout": 0.0, "rslora": rslora}
    ours = load_in_ours(folder, tmp_path)
    with theirs.disable_adapter():
        before = theirs(IDS).logits
    check(ours(IDS), theirs(IDS).logits, before)


def test_the_same_adapter_saved_by_both_has_the_same_tensors(make_checkpoint, tmp_path):
    """Names, shapes, dtypes and every bit; ours holds one field more, in the file's header."""
    ours, theirs = twins(make_checkpoint(), ALL_LINEAR)
    (tmp_path / "ours").mkdir()
    save_adapter(ours, tmp_path / "ours", adapter_record(ALL_LINEAR))
    theirs.save_pretrained(tmp_path / "theirs")
    mine, other = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("ours", "theirs"))
    assert mine.keys() == other.keys() and len(mine) == 2 * len(ALL_LINEAR) * 2 == len(trainable_parameters(ours))
    for name in mine:
        assert mine[name].dtype == other[name].dtype and torch.equal(mine[name], other[name]), name


# ---- what else peft can write: computed alike, or refused ---------------------------------------

SAME = {
    "all-linear": {"target_modules": "all-linear"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "not initialised": {"init_lora_weights": False},
    "dropout": {"lora_dropout": 0.3},
    "nothing saved": {"modules_to_save": []},
    "nothing excluded": {"exclude_modules": ["lm_head", "no_such_layer"]},
    "all layers": {"layers_to_transform": [0, 1]},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "one layer": {"layers_to_transform": 0},
    "exclusion": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "exclusion by regex": {"target_modules": "all-linear", "exclude_modules": r".*mlp\.(up|down)_proj"},
    "regex": {"target_modules": r".*self_attn\.(q_proj|v_proj)"},
    "regex of one": {"target_modules": r"model\.layers\.1\..*o_proj"},
    "unsloth's regex": {
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)"
        r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|o_proj|up_proj)))"
    },
    "rank_pattern": {"rank_pattern": {"v_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"layers.1.self_attn.v_proj": 20.5}},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {r".*mlp.*": 3, r"^model.layers.0.self_attn.q_proj": 1, "q_proj": 7},
        "alpha_pattern": {r"layers\.[01]\..*": 9, "up_proj": 2},
        "use_rslora": True,
    },
}
REFUSED = {  # what peft is asked for: what the message must name
    "use_dora": ({"use_dora": True}, "use_dora"),
    "more layers": ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
    "bias": ({"bias": "all"}, "bias is 'all'"),
    "bias of B": ({"lora_bias": True}, "lora_bias"),
    "saved module": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "trained tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "lm_head": ({"target_modules": ["q_proj", "lm_head"]}, "LoRA on lm_head is not computed"),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, "LoRA on embed_tokens is not computed"),
    "lm_head by regex": ({"target_modules": r".*(q_proj|lm_head)"}, "LoRA on lm_head is not computed"),
    "target_parameters": ({"target_parameters": ["self_attn.k_proj.weight"]}, "target_parameters"),
    "activated": ({"alora_invocation_tokens": [5, 22], "task_type": "CAUSAL_LM"}, "alora_invocation_tokens"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
}


def written_by_peft(folder, adapter, changes):
    """Save a random adapter with these options; returns the model."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    theirs = peft.get_peft_model(load_theirs(folder), peft.LoraConfig(**options | changes))
    torch.manual_seed(8)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    theirs.save_pretrained(adapter)
    return theirs.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", SAME)
def test_options_of_peft_that_change_no_product(make_checkpoint, tmp_path, name):
    folder = make_checkpoint()
    theirs = written_by_peft(folder, tmp_path, SAME[name])
    with theirs.disable_adapter():
        before = theirs(IDS).logits
    check(load_in_ours(folder, tmp_path)(IDS), theirs(IDS).logits, before)


@pytest.mark.filterwarnings("ignore")  # peft's, about what it is asked for here
@pytest.mark.parametrize("name", REFUSED)
def test_adapters_of_another_kind_are_refused_not_computed_wrongly(make_checkpoint, tmp_path, name):
    folder, (changes, message) = make_checkpoint(), REFUSED[name]
    written_by_peft(folder, tmp_path, changes)
    with pytest.raises(AdapterError, match=message):
        load_in_ours(folder, tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("name", ["patterns", "some layers", "exclusion by regex", "regex"])
def test_what_chooses_layers_is_saved_as_peft_reads_it(make_checkpoint, tmp_path, name):
    """A run that starts with such an adapter saves one that PEFT loads to the same logits."""
    folder, (given, saved) = make_checkpoint(), (tmp_path / "given", tmp_path / "saved")
    theirs = written_by_peft(folder, given, SAME[name])
    saved.mkdir()
    settings = read_adapter_config(given) | {"base": "tiny", "base_fingerprint": "0"}
    save_adapter(load_in_ours(folder, given), saved, settings)
    again = peft.PeftModel.from_pretrained(load_theirs(folder), saved).eval()
    torch.testing.assert_close(again(IDS).logits, theirs(IDS).logits, rtol=0, atol=1e-5)
