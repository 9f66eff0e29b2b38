"""Checkpoint folders: what loads loads exactly, what does not is refused in one line that names the fault."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import AdapterError, CheckpointError
from lora.adapter import read_adapter_config
from model.convert import convert_checkpoint
from model.llama import RopeScaling
from model.tokenizer import load_tokenizer
from model.weights import config_notices, load_llama, longest_row, read_llama_config

VARIANTS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "head_dim": {"head_dim": 10},
    "tied": {"tie_word_embeddings": True},
}
IDS = torch.tensor([[1, 5, 22, 0, 13, 7]])


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


# ---- what loads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file_dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_the_file_s_own_in_the_dtype_asked_for(make_checkpoint, shards, dtype, file_dtype):
    folder = make_checkpoint(shards=shards, dtype=file_dtype, num_key_value_heads=2)
    expected = {name: tensor.to(dtype) for name, tensor in stored_tensors(folder).items()}
    model = load_llama(folder, dtype)
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_shards_and_a_single_file_give_the_same_logits(make_checkpoint, variant):
    single = make_checkpoint("single", **VARIANTS[variant])
    sharded = make_checkpoint("sharded", shards=4, **VARIANTS[variant])
    logits = load_llama(single, torch.float32)(IDS)
    assert torch.equal(load_llama(sharded, torch.float32)(IDS), logits) and logits.std() > 0.3


@pytest.mark.parametrize("store_lm_head", [True, False])
def test_tied_embeddings_are_one_tensor_whether_lm_head_is_stored_or_not(make_checkpoint, store_lm_head):
    folder = make_checkpoint(tie_word_embeddings=True, store_lm_head=store_lm_head, shards=2)
    assert ("lm_head.weight" in stored_tensors(folder)) == store_lm_head
    model = load_llama(folder, torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, stored_tensors(folder)["model.embed_tokens.weight"])


def test_loading_at_the_file_s_dtype_maps_the_file_instead_of_copying(make_checkpoint):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps on this system")
    folder = make_checkpoint()
    before = (folder / "model.safetensors").read_bytes()
    model = load_llama(folder, torch.float32)
    ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(folder) in line]
    for name, parameter in model.named_parameters():
        assert any(int(low, 16) <= parameter.data_ptr() < int(high, 16) for low, high in ranges), name
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_loading_to_a_gpu_gives_the_file_s_tensors(make_checkpoint):
    folder = make_checkpoint(dtype=torch.float16)
    model = load_llama(folder, torch.bfloat16, "cuda")
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    expected = {name: tensor.bfloat16() for name, tensor in stored_tensors(folder).items()}
    torch.testing.assert_close({name: t.cpu() for name, t in model.state_dict().items()}, expected, rtol=0, atol=0)


def test_stored_inv_freq_is_skipped(make_checkpoint):
    folder = make_checkpoint()
    tensors = stored_tensors(folder)
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.full((4,), 9.0) for i in range(2)}
    save_file(tensors | extra, folder / "model.safetensors")
    torch.testing.assert_close(dict(load_llama(folder, torch.float32).state_dict()), tensors, rtol=0, atol=0)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "fields, theta, scaling",
    [
        ({}, 100.0, None),
        ({"rope_theta": "absent"}, 10000.0, None),
        ({"rope_scaling": None}, 100.0, None),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, 100.0, RopeScaling("linear", 4)),
        ({"rope_scaling": {"rope_type": None, "type": "linear", "factor": 4}}, 100.0, RopeScaling("linear", 4)),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.5}}, 100.0, RopeScaling("dynamic", 2.5)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 100.0, RopeScaling("llama3", 8.0, 1.0, 4.0, 64)),
        ({"rope_theta": "absent", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None),
        (
            {"rope_theta": "absent", "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
            5e5,
            RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
        ),
    ],
)
def test_both_forms_of_rope_settings_are_read(make_checkpoint, fields, theta, scaling):
    config = read_llama_config(make_checkpoint(**fields))
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


def test_two_lengths_of_the_trained_context_are_refused(make_checkpoint):
    scaling = {"rope_scaling": {"rope_type": "llama3", **LLAMA3}}
    folder = make_checkpoint(**scaling, original_max_position_embeddings=64)
    assert read_llama_config(folder).rope_scaling.original_max_position_embeddings == 64
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"original_max_position_embeddings": 8}))
    with pytest.raises(CheckpointError, match="original_max_position_embeddings is 8 and, for rope, 64; keep one"):
        read_llama_config(folder)


def test_absent_fields_have_the_values_of_the_first_llama(make_checkpoint):
    names = ("max_position_embeddings", "rms_norm_eps", "rope_theta", "architectures")
    config = read_llama_config(make_checkpoint(num_key_value_heads=None, **dict.fromkeys(names, "absent")))
    assert (config.num_key_value_heads, config.head_dim, config.max_position_embeddings) == (4, 8, 2048)
    assert (config.rms_norm_eps, config.rope_theta, config.tie_word_embeddings) == (1e-6, 10000.0, False)


# ---- what is refused ----------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"
SHARD = "model-00002-of-00002.safetensors"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


NULLS = ("max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "architectures", "head_dim")
UNUSED = ("hidden_act", "attention_bias", "mlp_bias", "rope_scaling", "rope_parameters", "quantization_config")


def test_null_stands_for_the_default(make_checkpoint):
    absent = read_llama_config(make_checkpoint("a", num_key_value_heads=2, **dict.fromkeys(NULLS[:3], "absent")))
    folder, nulls = make_checkpoint("b"), dict.fromkeys((*NULLS, *UNUSED))
    config = json.loads((folder / "config.json").read_text()) | nulls | {"num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    assert read_llama_config(folder) == absent and config_notices(folder) == []


def test_the_architecture_may_be_written_as_in_the_first_uploads(make_checkpoint):
    old = {"architectures": ["LLaMAForCausalLM"], "max_position_embeddings": "absent", "max_sequence_length": 1024}
    folder = make_checkpoint(**old)
    assert read_llama_config(folder).max_position_embeddings == 1024
    (line,) = config_notices(folder)
    assert "LLaMAForCausalLM" in line and "read as ['LlamaForCausalLM']" in line


def test_two_rope_forms_are_said(make_checkpoint):
    linear = {"type": "linear", "factor": 4.0}
    folder = make_checkpoint(rope_scaling=linear, rope_parameters={"rope_type": "default", "rope_theta": 5.0})
    config = read_llama_config(folder)
    assert (config.rope_theta, config.rope_scaling) == (100.0, RopeScaling("linear", 4.0))
    assert "rope_scaling is used" in config_notices(folder)[0]


@pytest.mark.parametrize(
    "scaling, longest",
    [(None, 64), ({"type": "linear", "factor": 4.0}, 256), ({"type": "dynamic", "factor": 2.0}, 128)],
)
def test_the_longest_row_that_a_model_was_made_for(make_checkpoint, scaling, longest):
    assert longest_row(read_llama_config(make_checkpoint(rope_scaling=scaling))) == longest


def test_a_head_that_is_missing_untied_is_refused_with_the_cure(make_checkpoint):
    folder = make_checkpoint(store_lm_head=False)
    refusal(lambda: load_llama(folder, torch.float32), "missing lm_head.weight", '"tie_word_embeddings": true')


@pytest.mark.parametrize(
    "name, owner_and_name",
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("https://huggingface.co/huggyllama/llama-7b", "huggyllama/llama-7b"),
        ("https://huggingface.co/huggyllama/llama-7b/tree/main", "huggyllama/llama-7b"),
        ("absent/", None),
        ("../models/llama", None),
        ("/models/llama-7b", None),
        ("here/llama", None),
        ("a/b/c", None),
    ],
)
def test_names_of_the_hub_are_answered_with_how_to_download(tmp_path, monkeypatch, name, owner_and_name):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    advice = f"hf download {owner_and_name} --local-dir {str(owner_and_name).rpartition('/')[2]}"
    for action in (lambda: load_llama(name, torch.float32), lambda: convert_checkpoint(Path(name), Path("out"))):
        with pytest.raises(CheckpointError) as caught:
            action()
        assert ("hf download" in str(caught.value)) == (owner_and_name is not None), caught.value
        assert owner_and_name is None or advice in str(caught.value)
    with pytest.raises(AdapterError) as caught:
        read_adapter_config(name)
    assert owner_and_name is None or advice in str(caught.value)


def refusal(action, *words: str) -> None:
    """action() raises CheckpointError in one line that has all the words."""
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"attention_bias": True}, ("attention_bias", "True")),
        ({"mlp_bias": True}, ("mlp_bias",)),
        ({"model_type": "mistral"}, ("model_type", "mistral", "llama")),
        ({"architectures": ["GPT2LMHeadModel"]}, ("architectures", "GPT2LMHeadModel")),
        ({"hidden_act": "gelu"}, ("hidden_act", "gelu")),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ("quantization_config", "gptq")),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ("rope_scaling", "yarn")),
        ({"rope_scaling": {"type": "linear"}}, ("factor",)),
        ({"rope_scaling": "linear"}, ("rope_scaling", "linear")),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, ("high_freq_factor",)),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ("partial_rotary_factor", "0.5")),
        ({"hidden_size": "32"}, ("hidden_size", "'32'", "int")),
        ({"hidden_size": 2**40}, ("hidden_size",)),
        ({"num_hidden_layers": 2**20}, ("num_hidden_layers",)),
        ({"num_hidden_layers": True}, ("num_hidden_layers", "True")),
        ({"vocab_size": "absent"}, ("vocab_size", "None")),
        ({"num_key_value_heads": 3}, ("num_key_value_heads",)),
        ({"head_dim": 7}, ("head_dim",)),
        ({"rms_norm_eps": -1.0}, ("rms_norm_eps", "-1.0")),
        ({"rms_norm_eps": float("inf")}, ("rms_norm_eps", "inf")),
        ({"rope_theta": float("nan")}, ("rope_theta", "nan")),
        ({"rope_theta": [10000.0]}, ("rope_theta", "10000.0")),
        ({"tie_word_embeddings": "yes"}, ("tie_word_embeddings", "yes")),
    ],
)
def test_config_field_is_refused_by_name(make_checkpoint, changes, words):
    folder = make_checkpoint()
    fields = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if v != "absent"}))
    refusal(lambda: load_llama(folder, torch.float32), "config.json", *words)


@pytest.mark.parametrize(
    "content, word",
    [
        (None, ""),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"\xff\x00\xff", "JSON"),
        (b"[" * 10**5, "JSON"),
        (POINTER, "LFS"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_is_refused(make_checkpoint, name, content, word):
    folder = make_checkpoint(shards=2)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    refusal(lambda: load_llama(folder, torch.float32), name, word)


def test_absent_folder_is_refused(tmp_path):
    refusal(lambda: load_llama(tmp_path / "nowhere", torch.float32), "nowhere", "no such")


def test_pickled_weights_are_named(make_checkpoint):
    folder = make_checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refusal(lambda: load_llama(folder, torch.float32), "pickled", "convert")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_shard_is_refused(make_checkpoint, size):
    folder = make_checkpoint(shards=2)
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:size])
    refusal(lambda: load_llama(folder, torch.float32), SHARD, "truncated")


def test_missing_shard_is_refused(make_checkpoint):
    folder = make_checkpoint(shards=2)
    (folder / SHARD).unlink()
    refusal(lambda: load_llama(folder, torch.float32), "model.safetensors.index.json", SHARD, "missing")


def test_lfs_pointer_is_refused(make_checkpoint):
    folder = make_checkpoint(shards=2)
    (folder / SHARD).write_bytes(POINTER)
    refusal(lambda: load_llama(folder, torch.float32), SHARD, "Git LFS pointer")


@pytest.mark.parametrize("name", ["../other.safetensors", "..", "/etc/x.safetensors", "sub/x.safetensors", "model.bin"])
def test_shard_outside_the_folder_is_refused(make_checkpoint, name):
    folder = make_checkpoint(shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][Q_PROJ] = name
    path.write_text(json.dumps(index))
    refusal(lambda: load_llama(folder, torch.float32), "model.safetensors.index.json", name)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": None}])
def test_index_without_weight_map_is_refused(make_checkpoint, weight_map):
    folder = make_checkpoint(shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refusal(lambda: load_llama(folder, torch.float32), "model.safetensors.index.json", "weight_map")


def test_tensor_that_its_shard_lacks_is_refused(make_checkpoint):
    folder = make_checkpoint(shards=2)
    path = next(path for path in folder.glob("*.safetensors") if Q_PROJ in load_file(path))
    save_file({name: tensor for name, tensor in load_file(path).items() if name != Q_PROJ}, path)
    refusal(lambda: load_llama(folder, torch.float32), path.name, Q_PROJ)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop(Q_PROJ), ("missing", Q_PROJ)),
        (lambda w: w.pop("lm_head.weight"), ("missing", "lm_head.weight")),
        (lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}), ("unexpected", "q_proj.bias")),
        (lambda w: w.update({Q_PROJ: torch.ones(32, 16)}), (Q_PROJ, "[32, 16]", "[32, 32]")),
        (lambda w: w.update({Q_PROJ: torch.ones(32, 32, dtype=torch.int8)}), (Q_PROJ, "I8", "quantised")),
        (lambda w: w[Q_PROJ].__setitem__((3, 4), float("nan")), (Q_PROJ, "NaN")),
        (lambda w: w[Q_PROJ].__setitem__((3, 4), float("-inf")), (Q_PROJ, "infinite")),
        (lambda w: w.update({Q_PROJ: torch.full((32, 32), 1e300, dtype=torch.float64)}), (Q_PROJ, "infinite")),
    ],
)
def test_tensor_is_refused_by_name(make_checkpoint, change, words):
    folder = make_checkpoint()
    tensors = stored_tensors(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    refusal(lambda: load_llama(folder, torch.float32), str(folder), *words)


def test_tensor_in_two_shards_is_refused(make_checkpoint):
    folder = make_checkpoint(shards=2)
    first, second = sorted(folder.glob("*.safetensors"))
    shared = next(iter(load_file(first).items()))
    save_file(load_file(second) | dict([shared]), second)
    refusal(lambda: load_llama(folder, torch.float32), shared[0], first.name, second.name)


def test_stored_lm_head_that_contradicts_the_tie_is_refused(make_checkpoint):
    folder = make_checkpoint(tie_word_embeddings=True, store_lm_head=True)
    tensors = stored_tensors(folder)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    refusal(lambda: load_llama(folder, torch.float32), "lm_head.weight", "tie_word_embeddings")


# ---- a real checkpoint ----------------------------------------------------------------------------


def test_stories260k_continues_as_transformers_did(real_file):
    folder = real_file("stories260K/model.safetensors").parent
    tokenizer, model = load_tokenizer(folder, 512), load_llama(folder, torch.float32)
    cases = json.loads((folder / "expected.json").read_text())["cases"]
    assert len(cases) == 4
    for case in cases:
        prompt, ids = case["input_ids"], case["greedy_ids"]
        assert tokenizer.encode(case["prompt"]) == prompt == ids[: len(prompt)]
        logits = model(torch.tensor([ids]))[0]  # (T, V)
        # Each id is the most likely one after those before it: the same as generating them one by one.
        assert logits.argmax(-1)[len(prompt) - 1 : -1].tolist() == ids[len(prompt) :]
        expected = torch.tensor(case["last_logits_float64"])
        torch.testing.assert_close(logits[len(prompt) - 1], expected, rtol=0, atol=1e-4)
        assert tokenizer.decode(ids[1:]) == case["greedy_text"]
