"""`--merge-out`: base and adapter as one plain checkpoint, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import AdapterError, FlagError
from lora.adapter import save_adapter
from lora.inject import add_lora
from model.weights import fingerprint, load_llama
from run.merge import MERGED, refuse_merging_twice, refuse_unusable_output, write_merged
from tensors import trainable_parameters

IDS = torch.tensor([[1, 5, 22, 0, 13, 7], [9, 9, 2, 4, 11, 3]])
TARGETS = ("q_proj", "v_proj", "down_proj")
SETTINGS = {
    "r": 4,
    "alpha": 6,
    "dropout": 0.0,
    "rslora": False,
    "targets": TARGETS,
    "base": "b",
    "base_fingerprint": "0",
}


KEPT = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


@pytest.fixture
def merge(make_checkpoint, tmp_path):
    """merge(scale, **checkpoint): (base folder, adapter folder, merged folder, model with the adapter)."""

    def build(scale=0.3, **checkpoint):
        base, adapter, out = make_checkpoint(**checkpoint), tmp_path / "adapter", tmp_path / "merged"
        for name in KEPT:
            (base / name).write_bytes(b"pieces")
        model = load_llama(base, torch.float32)
        add_lora(model, TARGETS, r=4, alpha=6, dropout=0.0)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in trainable_parameters(model).values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        adapter.mkdir()
        save_adapter(model, adapter, SETTINGS)
        write_merged(base, model, adapter, out)
        return base, adapter, out, model

    return build


@pytest.mark.parametrize("checkpoint", [{}, {"num_key_value_heads": 2, "tie_word_embeddings": True, "shards": 3}])
def test_merged_checkpoint_gives_the_logits_of_base_and_adapter(merge, checkpoint):
    base, _, out, model = merge(**checkpoint)
    merged = load_llama(out, torch.float32)
    assert (load_llama(base, torch.float32)(IDS) - model(IDS)).abs().max() > 0.1
    torch.testing.assert_close(merged(IDS), model(IDS), rtol=0, atol=2e-5)
    assert all((out / name).read_bytes() == b"pieces" for name in KEPT)


def test_weights_are_the_stored_ones_plus_the_update_rounded_once(merge):
    """In float64 from the files, without any code of the project; everything else is untouched."""
    base, adapter, out, _ = merge(dtype=torch.bfloat16)
    stored, tensors = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    merged = {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert merged.keys() == stored.keys()
    changed = set()
    for name, weight in stored.items():
        key = "base_model.model." + name.removesuffix("weight")
        if f"{key}lora_A.weight" not in tensors:
            assert torch.equal(merged[name], weight)
            continue
        changed.add(name)
        exact = (
            weight.double() + 6 / 4 * tensors[f"{key}lora_B.weight"].double() @ tensors[f"{key}lora_A.weight"].double()
        )
        assert merged[name].dtype == torch.bfloat16
        assert (
            (merged[name].double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6
        ).all()  # half a unit in the last place, and float32
    assert len(changed) == 2 * len(TARGETS)


def test_merging_the_same_adapter_twice_is_refused(merge):
    base, adapter, out, _ = merge()
    refuse_merging_twice(base, adapter)
    assert len(json.loads((out / "config.json").read_text())[MERGED]) == 1
    with pytest.raises(AdapterError, match="already.*twice"):
        refuse_merging_twice(out, adapter)
    assert fingerprint(out) != fingerprint(base)


def test_a_merge_that_overflows_leaves_nothing(merge, tmp_path):
    with pytest.raises(AdapterError, match=r"weight has NaN or infinite values in torch.float16"):
        merge(scale=300.0, dtype=torch.float16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "checkpoint"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    for name, word in (("full", "already"), ("full/a", "already"), ("full/a/b", "not a folder")):
        with pytest.raises(FlagError, match=word):
            refuse_unusable_output(tmp_path / name, "--merge-out")
    refuse_unusable_output(tmp_path / "new" / "deep", "--merge-out")
    refuse_unusable_output(tmp_path / "new" / "deep", "--merge-out", tmp_path / "new")
    for out in ("new", "new/deep"):  # what --out will hold is no place for a checkpoint, nor what will hold --out
        with pytest.raises(FlagError, match="--merge-out .*: is where --out .* writes, or above it"):
            refuse_unusable_output(tmp_path / "new", "--merge-out", tmp_path / out)


def test_fingerprint_survives_a_lossless_dtype_and_sharding_and_nothing_else(make_checkpoint):
    one = make_checkpoint("one", dtype=torch.bfloat16)
    same = make_checkpoint("same", dtype=torch.bfloat16, shards=2)
    wider = make_checkpoint("wider", dtype=torch.bfloat16)
    save_file(
        {name: tensor.float() for name, tensor in load_file(wider / "model.safetensors").items()},
        wider / "model.safetensors",
    )
    rounded = make_checkpoint("rounded", dtype=torch.float32)
    assert fingerprint(one) == fingerprint(same) == fingerprint(wider) != fingerprint(rounded)
    tensors = load_file(wider / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, wider / "model.safetensors")
    assert fingerprint(one) != fingerprint(wider)
