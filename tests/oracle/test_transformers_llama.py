"""Checkpoints that transformers itself made and saved: our logits equal its own."""

import pytest
import torch

from model.llama import Llama
from model.weights import load_llama

transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
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
            "vocab_size": 23,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 64,
            **changes,
        }
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


DEFAULT = {"rope_type": "default", "rope_theta": 100.0}
LINEAR = {"rope_type": "linear", "factor": 4.0}
OLD_ROPE = {
    "theta alone": {"rope_theta": 500.0},
    "linear": {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_theta": 500.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 7},
    "llama3": {"rope_theta": 500.0, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}},
    # Both forms in one file: transformers takes rope_scaling, and nothing of rope_parameters, theta included.
    "scaling beside default": {"rope_scaling": LINEAR, "rope_parameters": DEFAULT},
    "scaling beside default, theta absent": {
        "rope_theta": "absent",
        "rope_scaling": LINEAR,
        "rope_parameters": DEFAULT,
    },
    "default beside linear": {"rope_scaling": DEFAULT, "rope_parameters": LINEAR},
    "theta in scaling": {"rope_scaling": {**LINEAR, "rope_theta": 7000.0}, "rope_parameters": DEFAULT},
    "empty scaling": {"rope_scaling": {}, "rope_parameters": {**LINEAR, "rope_theta": 7000.0}},
    "null scaling": {"rope_scaling": None, "rope_parameters": {**LINEAR, "rope_theta": 7000.0}},
}


@pytest.mark.parametrize("name", OLD_ROPE)
def test_rope_written_as_in_configs_before_transformers_5(make_checkpoint, name):
    """`rope_theta` beside `rope_scaling`, as every LLaMA that was published before has it."""
    folder = make_checkpoint(**OLD_ROPE[name])
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert largest_difference(theirs, load_llama(folder, torch.float32)) <= 1e-5


@pytest.mark.parametrize("length", [5, 7, 8, 14, 40])
def test_dynamic_scaling_at_lengths_around_the_trained_one(tmp_path, length):
    theirs, input_ids = published(tmp_path, **VARIANTS["dynamic"]), torch.arange(length).remainder(23).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(
            load_llama(tmp_path, torch.float32)(input_ids), theirs(input_ids).logits, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_everything_at_once_stored_in_any_dtype(tmp_path, dtype):
    """Grouped-query attention, tied embeddings, llama3 scaling, shards: computed in float32 from what is stored."""
    changes = VARIANTS["gqa"] | VARIANTS["tied"] | VARIANTS["llama3"]
    published(tmp_path, **changes).to(dtype).save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "model.safetensors").unlink(missing_ok=True)  # of `published`, in float32
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert largest_difference(theirs, load_llama(tmp_path, torch.float32)) <= 1e-5


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_padded_on_the_right_equal_masked_rows_padded_on_either_side(tmp_path, side):
    """Ours sees no attention mask; transformers needs one, and on the left the positions too."""
    theirs, ours = published(tmp_path, **VARIANTS["gqa"]), load_llama(tmp_path, torch.float32)
    rows = [[5, 1, 9, 22, 4, 7, 3], [8, 8, 2], [11, 0, 6, 17, 2]]
    T = max(map(len, rows))
    right = torch.tensor([row + [0] * (T - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (T - len(row)) for row in rows])
    shift = {
        "right": lambda x: x,
        "left": lambda x: torch.stack([line.roll(T - len(row)) for line, row in zip(x, rows)]),
    }[side]
    shifted = shift(mask)
    with torch.no_grad():
        expected = theirs(
            shift(right), attention_mask=shifted, position_ids=(shifted.cumsum(-1) - 1).clamp(min=0)
        ).logits
        logits = ours(right)
    torch.testing.assert_close(logits[mask.bool()], expected[shifted.bool()], rtol=0, atol=1e-5)
