"""Checkpoints that transformers itself made and saved: our logits equal its own."""

import pytest
import torch

from model.llama import Llama
from model.weights import load_llama

transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
VARIANTS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 10},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}},
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0},
        "max_position_embeddings": 7,
    },
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 100.0}},
    "another theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 0.1},
}


def published(folder, max_shard_size="5GB", **changes):
    """A random LlamaForCausalLM of transformers, every parameter randomised, saved into `folder`."""
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 23, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64, **changes,
        }  # fmt: skip
    )
    model = transformers.LlamaForCausalLM(config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else noise * 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def largest_difference(theirs, ours: Llama) -> float:
    input_ids = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected, logits = theirs(input_ids).logits, ours(input_ids)
    assert expected.std() > 0.3 and logits.shape == expected.shape
    return float((logits - expected).abs().max())


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_those_of_transformers(tmp_path, name):
    theirs = published(tmp_path, **VARIANTS[name])
    assert largest_difference(theirs, load_llama(tmp_path, torch.float32)) <= 1e-5


def test_shards_written_by_transformers_load(tmp_path):
    theirs = published(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert largest_difference(theirs, load_llama(tmp_path, torch.float32)) <= 1e-5
