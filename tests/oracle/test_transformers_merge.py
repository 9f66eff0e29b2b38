"""A checkpoint that `--merge-out` wrote: transformers and ours compute the same, and PEFT's own merge too."""

import pytest
import torch

from lora.adapter import save_adapter
from lora.inject import add_lora
from model.weights import load_llama
from run.merge import write_merged
from tensors import trainable_parameters

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = torch.tensor([[1, 5, 22, 0, 13, 7], [9, 9, 2, 4, 11, 3]])
TARGETS = ("q_proj", "v_proj", "gate_proj")


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2, "tie_word_embeddings": True, "shards": 2}])
@pytest.mark.parametrize("rslora", [False, True])
def test_merged_checkpoint_loads_in_transformers_with_equal_logits(make_checkpoint, tmp_path, changes, rslora):
    base, adapter, out = make_checkpoint(**changes), tmp_path / "adapter", tmp_path / "merged"
    (base / "tokenizer.model").write_bytes(b"")
    model = load_llama(base, torch.float32)
    add_lora(model, TARGETS, r=4, alpha=6, dropout=0.0, rslora=rslora)
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    adapter.mkdir()
    settings = {
        "r": 4,
        "alpha": 6,
        "dropout": 0.0,
        "rslora": rslora,
        "targets": TARGETS,
        "base": str(base),
        "base_fingerprint": "0",
    }
    save_adapter(model, adapter, settings)
    write_merged(base, model, adapter, out)

    def theirs(folder):
        return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    merged_by_peft = peft.PeftModel.from_pretrained(theirs(base), adapter).merge_and_unload()
    with torch.no_grad():
        ours = load_llama(out, torch.float32)(IDS)
        torch.testing.assert_close(theirs(out)(IDS).logits, ours, rtol=0, atol=1e-5)
        torch.testing.assert_close(merged_by_peft(IDS).logits, ours, rtol=0, atol=2e-5)
