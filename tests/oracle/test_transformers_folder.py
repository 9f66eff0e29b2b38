"""Whole folders as transformers saves them, with tokenizer.json: the same ids, and the same logits to 1e-5."""

import itertools
import json
from pathlib import Path

import pytest
import torch

import train
from data.sources.tallrec import write_split
from model.words import BYTE_SYMBOLS
from run.base import load_base
from tests.oracle.test_tokenizers_bpe import trained
from tests.oracle.test_transformers_llama import LLAMA3, published
from tests.test_byte_bpe import INVENTED, bos_in_front, made_up, special, write

transformers = pytest.importorskip("transformers")

TEXTS = ["Yes, the user likes 1,000 movies.\n\n### Response:\nYes.", "", "  Amélie (2001) isn't <|end|> 映画\n"]
SHAPES = {
    "sharded": {},
    "tied": {"tie_word_embeddings": True},
    "GQA": {"num_key_value_heads": 2},
    "head_dim": {"head_dim": 10},
    "llama3 rope": {"rope_parameters": {**LLAMA3, "rope_theta": 100.0}},
    "all at once": {
        "tie_word_embeddings": True,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "rope_parameters": {**LLAMA3, "rope_theta": 5e5},
    },
}


def saved(folder: Path, cut: str, **changes):
    """(the model, the tokenizer) of transformers, as saved into the folder in shards."""
    content = trained(cut, every_byte=True)
    (folder / "made.json").write_text(json.dumps(content))
    tokens = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "made.json"), **tokens)
    tokenizer.save_pretrained(folder)
    size = len(content["model"]["vocab"])
    model = published(folder, max_shard_size="60KB", vocab_size=size, bos_token_id=0, eos_token_id=1, **changes)
    return model, tokenizer


@pytest.mark.parametrize("cut", ["smollm", "llama3"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ids_and_logits_of_a_saved_folder(tmp_path, shape, cut):
    theirs, _ = saved(tmp_path, cut, **SHAPES[shape])
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours, tokenizer = load_base(str(tmp_path), "fp32", torch.device("cpu"))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0 if cut == "llama3" else None, other.eos_token_id)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == other(text, split_special_tokens=True).input_ids
        if ids:
            with torch.no_grad():
                expected, logits = theirs(torch.tensor([ids])).logits, ours(torch.tensor([ids]))
            assert float((logits - expected).abs().max()) <= 1e-5 and expected.std() > 0.3


# config.json of Llama 3.2 1B Instruct. In the test hidden_size 2048, intermediate_size 8192, 16 layers and 32 and 8
# heads are reduced; all other fields are as published.
LLAMA32 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}


def llama32_tokenizer() -> dict:
    """tokenizer.json with Llama 3.2's 128,000 pieces and 256 control tokens in number, the pieces made up."""
    content, symbols = made_up("llama3"), list(BYTE_SYMBOLS.values())
    words = (a + b + c for c in ["", *symbols] for a, b in itertools.product(symbols, symbols))
    pieces = [*symbols, *itertools.islice(words, 128_000 - len(symbols))]
    content["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    content["model"]["merges"] = [[piece[:-1], piece[-1]] for piece in pieces[len(symbols) :]]
    content["model"]["ignore_merges"] = True
    names = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 8: "<|eom_id|>", 9: "<|eot_id|>"}
    control = [names.get(n, f"<|reserved_special_token_{n}|>") for n in range(256)]
    content["added_tokens"] = [special(text, 128_000 + n) for n, text in enumerate(control)]
    content["post_processor"] = bos_in_front("<|begin_of_text|>", 128_000)
    return content


def test_a_folder_with_llama_3_2_s_config_trains(tmp_path, make_checkpoint, capsys):
    folder = make_checkpoint(dtype=torch.bfloat16, **LLAMA32)
    settings = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write(folder, llama32_tokenizer(), None, tokenizer_config=settings)
    (tmp_path / "rows").mkdir()
    for name in ("train", "valid", "test"):
        write_split(tmp_path / "rows" / f"{name}.json", INVENTED.train, INVENTED)
    out = tmp_path / "run"
    argv = [
        "--data",
        tmp_path / "rows",
        "--model",
        folder,
        "--shots",
        6,
        "--max-steps",
        2,
        "--device",
        "cpu",
        "--out",
        out,
    ]
    train.main([str(word) for word in argv])
    assert "128009 ends an answer" in capsys.readouterr().err
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2] and all(step["grad_norm"] > 0 for step in steps)
    assert (out / "adapter_model.safetensors").exists()
