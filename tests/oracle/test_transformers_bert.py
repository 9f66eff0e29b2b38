"""BERTs that transformers itself made and saved: our hidden states equal its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.bert import Bert
from model.bert_weights import load_bert
from model.wordpiece import WordPieceTokenizer

transformers = pytest.importorskip("transformers")

VARIANTS = {
    "gelu": {},
    "gelu_new": {"hidden_act": "gelu_new"},
    "gelu_pytorch_tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "eps": {"layer_norm_eps": 0.1},
    "one head": {"num_attention_heads": 1},
    "many heads": {"num_attention_heads": 16},
    "narrow feed-forward": {"intermediate_size": 5},
    "one segment": {"type_vocab_size": 1},
    "deep": {"num_hidden_layers": 7},
}
ROWS = [[2, 5, 1, 9, 22, 4, 7, 3], [2, 3], [2, 8, 8, 3], [2, 11, 0, 6, 17, 2, 3]]


def published(folder: Path, kind: str = "BertModel", max_shard_size: str = "5GB", **changes):
    """A random BERT of transformers, every parameter randomised, saved into `folder`."""
    config = transformers.BertConfig(
        **{
            "vocab_size": 23,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 16,
            **changes,
        }
    )
    model = getattr(transformers, kind)(config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.3 * noise if "LayerNorm.weight" in name else noise * 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows]), torch.tensor([len(row) for row in rows])


@torch.no_grad()
def largest_difference(theirs, ours: Bert, rows: list[list[int]] = ROWS) -> float:
    """Over the hidden states of all real tokens."""
    input_ids, lengths = padded(rows)
    mask = torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1)
    expected = theirs(input_ids, attention_mask=mask.long()).last_hidden_state
    hidden_states = ours(input_ids, lengths)
    assert expected.std() > 0.1 and hidden_states.shape == expected.shape
    return float((hidden_states - expected)[mask].abs().max())


@pytest.mark.parametrize("name", VARIANTS)
def test_hidden_states_equal_those_of_transformers(tmp_path, name):
    theirs = published(tmp_path, **VARIANTS[name])
    ours, _ = load_bert(tmp_path)
    assert largest_difference(theirs, ours) <= 1e-5


def test_the_names_are_those_of_transformers(tmp_path):
    """Parameters, shapes and order of a BertModel without its pooler."""
    theirs = published(tmp_path)
    expected = {name: p.shape for name, p in theirs.named_parameters() if not name.startswith("pooler")}
    assert {name: p.shape for name, p in load_bert(tmp_path)[0].named_parameters()} == expected


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_names_with_bert_in_front_and_heads_that_are_left_out(tmp_path, kind):
    theirs = published(tmp_path, kind)
    assert all(name.startswith(("bert.", "cls.")) for name in load_file(tmp_path / "model.safetensors"))
    ours, said = load_bert(tmp_path)
    assert largest_difference(theirs.bert, ours) <= 1e-5
    assert len(said) == 1 and "cls" in said[0] and ("pooler" in said[0]) == (kind == "BertForPreTraining")


def test_gamma_and_beta_of_older_files(tmp_path):
    theirs = published(tmp_path, "BertForPreTraining")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(tmp_path / "model.safetensors")
    for new, before in old.items():
        tensors = {name.replace(new, before): tensor for name, tensor in tensors.items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(16).unsqueeze(0)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert largest_difference(theirs.bert, load_bert(tmp_path)[0]) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_in_another_dtype(tmp_path, dtype):
    """What is stored in 16 bits is computed in float32."""
    published(tmp_path).to(dtype).save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "model.safetensors").unlink()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    theirs = transformers.BertModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert largest_difference(theirs, load_bert(tmp_path)[0]) <= 1e-5


TITLES = ["Toy Story (1995)", "Star Wars: Episode IV - A New Hope (1977)", "Amélie", "東京物語 (1953)", "M", ""]


def test_a_real_one(real_bert):
    """[CLS] of titles, each in a batch with the others, equals transformers' with its own tokenizer."""
    ours, _ = load_bert(real_bert)
    tokenizer = WordPieceTokenizer(real_bert, ours.config.vocab_size, ours.config.max_position_embeddings)
    theirs = transformers.BertModel.from_pretrained(real_bert).eval()
    rows = [tokenizer.encode(title) for title in TITLES]
    assert rows == transformers.BertTokenizer.from_pretrained(real_bert)(TITLES, padding=False).input_ids
    assert largest_difference(theirs, ours, rows) <= 1e-5
    alone = torch.cat([ours(*padded([row]))[:, 0] for row in rows])
    torch.testing.assert_close(ours(*padded(rows))[:, 0], alone, rtol=0, atol=1e-5)
