"""What several tests need: real files when they are there, and tiny LLaMAs with every parameter randomised."""

import io
import json
import os
from pathlib import Path

# Each worker of pytest-xdist, and all that it starts, has its share of the cores: more threads than cores wait for each
# other, and the suite takes three times as long. torch reads this when it is imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from model.llama import Llama, LlamaConfig

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 23,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def real_data():
    """The folder of real files; skips without it."""
    folder = os.environ.get("LCFT_TEST_DATA")
    if not folder:
        pytest.skip("LCFT_TEST_DATA is not set: the folder of real MovieLens, TALLRec, CoLLM and tiny-model files")
    return Path(folder)


@pytest.fixture
def real_file(real_data):
    """real_file("ml-100k/u.data"): its path; skips, naming it, if it is not there."""

    def find(name: str) -> Path:
        if not (real_data / name).exists():
            pytest.skip(f"LCFT_TEST_DATA={real_data} has no {name}")
        return real_data / name

    return find


@pytest.fixture(scope="session")
def real_bert(request):
    """The folder of a real uncased BERT: LCFT_TEST_BERT, or `bert` in the folder of real files; skips without it."""
    folder = os.environ.get("LCFT_TEST_BERT")
    folder = Path(folder) if folder else request.getfixturevalue("real_data") / "bert"
    if not folder.is_dir():
        pytest.skip(f"{folder}: no folder of a real BERT; LCFT_TEST_BERT names another")
    return folder


@pytest.fixture
def tiny_llama():
    """tiny_llama(num_key_value_heads=2, ...): a float32 Llama with no parameter at its initial value."""

    def build(**changes) -> Llama:
        fields = {name: value for name, value in TINY.items() if name not in ("architectures", "model_type")}
        model = Llama(LlamaConfig(**{"head_dim": 8, **fields, **changes}))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(_random(name, parameter.shape, generator))
        return model

    return build


@pytest.fixture
def make_checkpoint(tmp_path):
    """make_checkpoint(shards=2, dtype=torch.float16, num_key_value_heads=2, ...): a folder as a user has it."""

    def build(name="checkpoint", shards=1, dtype=torch.float32, store_lm_head=None, **changes) -> Path:
        fields = {key: value for key, value in {**TINY, **changes}.items() if value != "absent"}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(fields))
        tensors = _tensors(fields, dtype)
        if not (not fields["tie_word_embeddings"] if store_lm_head is None else store_lm_head):
            del tensors["lm_head.weight"]
        _write_shards(folder, tensors, shards)
        return folder

    return build


@pytest.fixture(scope="session")
def tokenizer_bytes():
    """A SentencePiece model of LLaMA's kind, small, in which Yes and No are one token each."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the user will like the target movie Yes. No. preference"] * 20),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["Yes", "No"],
        hard_vocab_limit=False,
        pad_id=-1,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()


def _random(name: str, shape: tuple, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1 + 0.3 * noise
    return noise * 1.5 / shape[-1] ** 0.5


def _tensors(fields: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every tensor of such a checkpoint under the names that published ones use."""
    D, M, V = fields["hidden_size"], fields["intermediate_size"], fields["vocab_size"]
    Dh = fields.get("head_dim") or D // fields["num_attention_heads"]
    query, value = fields["num_attention_heads"] * Dh, (fields.get("num_key_value_heads") or 4) * Dh
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for i in range(fields["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj": (query, D),
            "self_attn.k_proj": (value, D),
            "self_attn.v_proj": (value, D),
            "self_attn.o_proj": (D, query),
            "mlp.gate_proj": (M, D),
            "mlp.up_proj": (M, D),
            "mlp.down_proj": (D, M),
            "input_layernorm": (D,),
            "post_attention_layernorm": (D,),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    generator = torch.Generator().manual_seed(2)
    tensors = {name: _random(name, shape, generator).to(dtype) for name, shape in shapes.items()}
    if fields["tie_word_embeddings"]:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    return tensors


def _write_shards(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        path = folder / f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[i::shards])
        save_file(part, path, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, path.name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
