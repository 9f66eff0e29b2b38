"""Tokenizers: how a folder's is chosen and read, which files belong to it, and what is refused."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece

from errors import CheckpointError
from model import tokenizer as tokenizers
from model.sentencepiece import SentencePieceTokenizer
from model.tokenizer import has_tokenizer, kept_files, load_tokenizer, tokenizer_files
from tests.test_weights import POINTER, refusal


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("tokenizer"), random.Random(0)
    words = ["".join(draw.choices("abcdefg", k=draw.randint(2, 5))) for _ in range(300)]
    lines = iter([" ".join(draw.choices(words, k=8)) for _ in range(100)])
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=lines, model_prefix=str(folder / "tokenizer"), vocab_size=60, model_type="bpe", minloglevel=2
    )
    return folder / "tokenizer.model"


def test_text_begins_with_bos_and_control_symbols_in_it_stay_text(tokenizer_file):
    tokenizer = load_tokenizer(tokenizer_file.parent, 60)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("") == [1]
    assert tokenizer.encode("abc bad")[0] == 1 and tokenizer.decode(tokenizer.encode("abc bad")[1:]) == "abc bad"
    assert not {1, 2} & set(tokenizer.encode("<s> abc </s>")[1:])


@pytest.mark.parametrize("vocab_size", [59, 60 + 65, 32000])
def test_tokenizer_of_another_size_is_refused(tokenizer_file, vocab_size):
    refusal(lambda: load_tokenizer(tokenizer_file.parent, vocab_size), "tokenizer.model", "60", str(vocab_size))
    assert load_tokenizer(tokenizer_file.parent, 60 + 64).piece(60 + 63) == "<123>"


def beside(tokenizer_file, folder, **files) -> Path:
    """The folder with the tokenizer and these JSON files; tokenizer_config={...} is tokenizer_config.json."""
    (folder / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("vocab_size", [128, 256])
def test_a_vocabulary_padded_to_128_or_256_is_taken_and_said(tokenizer_file, tmp_path, vocab_size):
    tokenizer = load_tokenizer(beside(tokenizer_file, tmp_path), vocab_size)
    said = [line for line in tokenizer.assumed if "padding" in line]
    assert len(said) == (vocab_size - 60 > 64) and all("60 pieces" in line for line in said)
    refusal(lambda: load_tokenizer(tmp_path, 384), "tokenizer.model", "60", "384")


@pytest.mark.parametrize("settings, bos", [({"add_bos_token": False}, []), ({"add_bos_token": None}, [1]), ({}, [1])])
def test_no_bos_begins_a_text_if_the_folder_says_so(tokenizer_file, tmp_path, settings, bos):
    tokenizer, plain = load_tokenizer(beside(tokenizer_file, tmp_path, tokenizer_config=settings), 60), "abc"
    pieces = load_tokenizer(tokenizer_file.parent, 60).encode(plain)[1:]
    assert tokenizer.encode(plain) == tokenizer.encode_all([plain])[0] == [*bos, *pieces]
    assert tokenizer.bos_id == (bos[0] if bos else None) and len(tokenizer.assumed) == 1 - len(bos)


def test_a_setting_that_is_no_truth_value_is_refused(tokenizer_file, tmp_path):
    folder = beside(tokenizer_file, tmp_path, tokenizer_config={"add_bos_token": "no"})
    refusal(lambda: load_tokenizer(folder, 60), "tokenizer_config.json", "add_bos_token")


def test_the_tokenizers_own_ids_are_used_and_what_says_otherwise_is_named(tokenizer_file, tmp_path):
    settings = {"bos_token": "", "eos_token": {"content": "<end>"}, "tokenizer_class": "LLaMATokenizer"}
    folder = beside(tokenizer_file, tmp_path, config={"bos_token_id": 0, "eos_token_id": 1}, tokenizer_config=settings)
    tokenizer = load_tokenizer(folder, 60)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    parts = ("bos_token_id is 0", "bos_token is ''", "eos_token_id is 1", "eos_token is '<end>'")
    assert all(part in line and "is used" in line for part, line in zip(parts, tokenizer.assumed, strict=True))
    agreeing = {"bos_token_id": 1, "eos_token_id": [2, 5]}
    folder = beside(tokenizer_file, tmp_path, config=agreeing, tokenizer_config={"bos_token": "<s>"})
    assert load_tokenizer(folder, 60).assumed == []


def test_added_tokens_name_the_rows_beyond_the_pieces_and_count_as_pieces(tokenizer_file, tmp_path):
    added = {f"<item {i}>": 60 + i for i in range(500)}
    tokenizer = load_tokenizer(beside(tokenizer_file, tmp_path, added_tokens=added), 560)
    assert [tokenizer.piece(i) for i in (60, 559, 560)] == ["<item 0>", "<item 499>", "<560>"]
    assert not set(added.values()) & set(tokenizer.encode("abc <item 3> <item 499>"))
    refusal(lambda: load_tokenizer(tmp_path, 560 + 65), "tokenizer.model", "560", "625")
    without_a_row = beside(tokenizer_file, tmp_path, added_tokens={"<s>": 1, "[PAD]": 60})
    assert load_tokenizer(without_a_row, 60).assumed == []


@pytest.mark.parametrize("added", [{"a": "60"}, {"a": -1}, {"a": True}, {"\x1b[2J": 60}, {"a": 2**40}, ["a"]])
def test_added_tokens_that_are_none_are_refused(tokenizer_file, tmp_path, added):
    beside(tokenizer_file, tmp_path, added_tokens=added)
    refusal(lambda: load_tokenizer(tmp_path, 61), "added_tokens.json")


def test_the_files_that_are_kept(tokenizer_file, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    beside(tokenizer_file, tmp_path, tokenizer_config={}, special_tokens_map={}, params={}, config={})
    (weights / "generation_config.json").write_text("{}")
    names = {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in kept_files(tmp_path)} == names
    both = kept_files(weights, tmp_path)
    assert {path.name for path in both} == names | {"generation_config.json"} and all(path.exists() for path in both)
    (weights / "added_tokens.json").write_bytes(POINTER)
    refusal(lambda: kept_files(weights, tmp_path), "added_tokens.json", "Git LFS")


@pytest.mark.parametrize("content", [b"", b"no model " * 30, bytes(200), POINTER])
def test_tokenizer_garbage_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    refusal(lambda: load_tokenizer(tmp_path, 60), "tokenizer.model")


def test_missing_or_truncated_tokenizer_is_refused(tokenizer_file, tmp_path):
    refusal(lambda: load_tokenizer(tmp_path, 60), "tokenizer.model", "missing")
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file.read_bytes()[:300])
    refusal(lambda: load_tokenizer(tmp_path, 60), "tokenizer.model")


def test_pieces_are_visible_and_only_a_line_break_ends_a_line(tokenizer_bytes, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    tokenizer = load_tokenizer(tmp_path, None)
    ids = tokenizer.encode("user\nYes")
    assert [tokenizer.piece(token_id) for token_id in ids if tokenizer.ends_line(token_id)] == ["<0x0A>"]
    assert tokenizer.decode(ids) == "user\nYes" and all(tokenizer.piece(token_id).strip() for token_id in ids)
    assert tokenizer.encode_all(["user", ""]) == [tokenizer.encode("user"), tokenizer.encode("")]


# ---- which class reads a folder -----------------------------------------------------------------


class Letters:
    """Another kind of tokenizer: one token a character, no BOS."""

    FILES = ("letters.txt", "letters.json")
    bos_id, eos_id = None, 2

    def __init__(self, folder: Path, vocab_size: int | None):
        self.known = (folder / "letters.txt").read_text()

    @staticmethod
    def reads(folder: Path) -> bool:
        return (folder / "letters.txt").exists()


@pytest.fixture
def two_kinds(monkeypatch):
    monkeypatch.setattr(tokenizers, "KINDS", (SentencePieceTokenizer, Letters))


def test_the_files_of_a_folder_decide_which_class_reads_it(two_kinds, tokenizer_file, tmp_path):
    (tmp_path / "letters.txt").write_text("abc")
    assert load_tokenizer(tmp_path, 3).known == "abc"
    assert tokenizer_files(tmp_path) == [tmp_path / "letters.txt"]
    (tmp_path / "letters.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    assert tokenizer_files(tmp_path) == [tmp_path / "letters.txt", tmp_path / "letters.json"]
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    assert isinstance(load_tokenizer(tmp_path, 60), SentencePieceTokenizer)
    assert tokenizer_files(tmp_path) == [tmp_path / "tokenizer.model"]


def test_a_folder_without_any_is_refused_naming_every_file_that_would_do(two_kinds, tmp_path):
    assert not has_tokenizer(tmp_path)
    for action in (lambda: load_tokenizer(tmp_path, None), lambda: tokenizer_files(tmp_path)):
        refusal(action, str(tmp_path / "tokenizer.model"), str(tmp_path / "letters.txt"), "missing")


def test_a_pointer_is_not_listed_as_a_tokenizers_file(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="tokenizer.model: a Git LFS pointer"):
        tokenizer_files(tmp_path)


def test_only_the_classes_know_how_pieces_are_written_and_what_the_file_is_called():
    """demo/pretrain.py writes such a file; everything else asks model.tokenizer."""
    root = Path(__file__).parent.parent
    rooms = ("model", "lora", "data", "baselines", "machine", "cli", "scoring", "report", "run", "auditing")
    paths = [*root.glob("*.py"), *(path for room in rooms for path in (root / room).rglob("*.py"))]

    def naming(*marks: str) -> set[str]:
        found = {path.relative_to(root).as_posix() for path in paths if any(mark in path.read_text() for mark in marks)}
        return {name.removeprefix("model/").removesuffix(".py") for name in found}

    page = "report/audit_page"  # shows pieces as words, with what was written for a space as a gap
    assert naming("\u2581", "<0x0A>") == {"sentencepiece", "sentencepiece_proto", page}
    audit = "auditing/figures"  # tells these marks from the letters of Maltese and Irish that they also are
    assert naming("\u0120", "\u010a") == {"byte_bpe", "words", audit, page}
    files = {"sentencepiece", "tiktoken", "gguf_tokenizer"}
    assert naming('"tokenizer.model"', "tokenizer.model,", "tokenizer.model)") == files
