"""A small valid BERT folder for bench/fuzz.py, and how the program reads one. Nothing in it is real."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from baselines.title_vectors import open_bert, title_vectors
from bench.fuzz_made import World
from model.bert import Bert, BertConfig

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "toy", "st", "##ory", "##a", "a", "(", ")", "é", "東"]
SIZES = {
    "vocab_size": len(PIECES),
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
TITLES = ("", "The Toy Story (1995)", "Ünïcödé ▁ \u3000 [CLS] ##a 東京\x00", "a" * 101)


def make_bert(folder: Path) -> None:
    """Weights, configuration, and the tokenizer in both of its forms."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = Bert(BertConfig(**SIZES, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu"))
    save_file({f"bert.{name}": tensor for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "gelu", **SIZES}))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "cls_token": "[CLS]"}))
    fast = {
        "model": {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(PIECES)}},
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(fast))


def make_fast_bert(folder: Path) -> None:
    """The same with tokenizer.json alone."""
    make_bert(folder)
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()


def read_bert(folder: Path, out: Path) -> None:
    """The vectors of some titles, without what this process remembers."""
    open_bert.cache_clear()
    title_vectors.cache_clear()
    title_vectors(TITLES, folder)


def gru_bert_command(folder: Path, out: Path) -> list:
    """A short training with this BERT."""
    run = ["--method", "gru-bert", "--data", World.folder / "rows", "--shots", "4", "--epochs", "1", "--device", "cpu"]
    return ["baseline.py", *run, "--bert", folder, "--out", out / "run"]
