"""Adapters go both ways between this project and peft."""

import pytest
import torch

from lora.adapter import load_adapter, read_adapter_config, save_adapter
from lora.inject import add_lora, lora_parameters
from model.weights import load_llama

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = torch.tensor([[1, 5, 22, 0, 13, 7], [9, 9, 2, 4, 11, 3]])
TARGETS = ["q_proj", "v_proj", "down_proj"]


def randomise(parameters):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def check(ours, theirs, before):
    with torch.no_grad():
        logits, expected = ours.eval()(IDS), theirs.eval()(IDS).logits
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_our_adapter_loads_in_peft(make_checkpoint, tmp_path):
    folder = make_checkpoint(num_key_value_heads=2)
    ours = load_llama(folder, torch.float32)
    before = ours(IDS)
    add_lora(ours, tuple(TARGETS), r=4, alpha=6, dropout=0.1)
    randomise(lora_parameters(ours))
    settings = {"r": 4, "alpha": 6, "dropout": 0.1, "rslora": False, "targets": TARGETS, "base": str(folder), "base_fingerprint": "0"}
    save_adapter(ours, tmp_path, settings)
    base = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    check(ours, peft.PeftModel.from_pretrained(base, tmp_path), before)


def test_peft_adapter_loads_in_ours(make_checkpoint, tmp_path):
    folder = make_checkpoint(num_key_value_heads=2)
    base = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = base(IDS).logits
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, target_modules=TARGETS))
    randomise(parameter for name, parameter in theirs.named_parameters() if "lora_" in name)
    theirs.save_pretrained(tmp_path / "adapter")
    read = read_adapter_config(tmp_path / "adapter")
    assert read == {"r": 4, "alpha": 6, "dropout": 0.1, "rslora": False, "targets": read["targets"]} and set(read["targets"]) == set(TARGETS)
    ours = load_llama(folder, torch.float32)
    add_lora(ours, read["targets"], read["r"], read["alpha"], read["dropout"])
    load_adapter(ours, tmp_path / "adapter")
    check(ours, theirs, before)
